"""What ``DATABASE_URL`` may say.

A bare path and ``sqlite:`` forms name a SQLite file; ``postgres:`` and
``postgresql[+driver]:`` forms a PostgreSQL database, always through psycopg 3.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import BadRequest

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@|(?<=password=)[^&\s]*")


@dataclass(frozen=True)
class SqliteUrl:
    """A database in a file of this machine."""

    path: Path


@dataclass(frozen=True)
class PostgresUrl:
    """A PostgreSQL database, as libpq reads it (``postgresql://...``)."""

    conninfo: str


def parse_url(text: str) -> SqliteUrl | PostgresUrl:
    """Read a database URL or path.

    Raises:
        BadRequest: the scheme is another database's, or no file is named.
    """
    match = _SCHEME.match(text)
    if match is None:
        return _sqlite(text.removeprefix("sqlite:"), text)
    dialect, _, _driver = match[1].lower().partition("+")
    rest = text[match.end() :]
    if dialect == "sqlite":
        return _sqlite(rest.partition("?")[0].removeprefix("/"), text)
    if dialect in ("postgres", "postgresql"):
        return PostgresUrl(f"postgresql://{rest}")
    raise BadRequest(
        f"database url {redacted(text)!r} has the scheme {match[1]!r}: use a path, sqlite:// or postgresql://"
    )


def redacted(text: str) -> str:
    """The URL without its password, for messages."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] else "***", text)


def _sqlite(path: str, text: str) -> SqliteUrl:
    if not path.strip():
        raise BadRequest(f"database url {text!r} names no file")
    if path == ":memory:":
        raise BadRequest(f"database url {text!r}: a database in memory is not durable; name a file")
    return SqliteUrl(Path(path).expanduser())
