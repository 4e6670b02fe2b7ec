"""Where a request comes from, as far as that can be believed."""

import ipaddress
from functools import lru_cache

from fastapi import Request

HEADER = "x-jamjet-client-address"
"""Set by HAProxy on every request that passes it, over whatever the client sent (``api.launch.haproxy``)."""


def client_address(request: Request) -> str | None:
    """The client's IP address; None: there is none that is well formed.

    HAProxy tells it. Who reaches a replica's own port, which listens on the inside only, can
    claim any.
    """
    told = request.headers.get(HEADER)
    if told is None and request.client is not None:
        told = request.client.host
    return None if told is None else _normalised(told)


@lru_cache(maxsize=4_096)
def _normalised(text: str) -> str | None:
    try:
        return ipaddress.ip_address(text.strip()).compressed
    except ValueError:
        return None
