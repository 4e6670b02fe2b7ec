"""Base URLs of providers."""

from urllib.parse import urlsplit


def with_root(base: str, root: str) -> str:
    """A base URL that names only a host, with the path that the API has on its maker's own."""
    return base if urlsplit(base).path.strip("/") else f"{base}{root}"
