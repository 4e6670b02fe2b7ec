"""Ports: whether the one that was asked for is free, and a block of free ones for ourselves."""

import asyncio
import contextlib
import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable

from runtime.errors import BadRequest, Unavailable

_FIRST, _LAST = 12_000, 30_000
"""Below the ports that the kernel hands to outgoing connections, which would take ours at random."""
_TRIES = 50
_PAUSE_S = 0.1


def check_port(host: str, port: int) -> None:
    """Bind and let go, without SO_REUSEPORT: with it, two servers would share the port unseen.

    Raises:
        Unavailable: the port is taken.
        BadRequest: this address or port cannot be bound here.
    """
    try:
        _bind(host, port)
    except OverflowError:
        raise BadRequest(f"port {port} is not a port: use 1 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} on {host} is taken: end what uses it, or choose another with --port"
            ) from None
        raise BadRequest(f"{host}:{port} cannot be listened on: {error.strerror or error}") from None


async def wait_for_port(host: str, port: int, *, patience_s: float, say: Callable[[str], None]) -> None:
    """As ``check_port``, but a taken port is given some seconds: its last user may be ending.

    Raises:
        Unavailable, BadRequest: as ``check_port``.
    """
    deadline = asyncio.get_running_loop().time() + patience_s
    told = False
    while True:
        try:
            return check_port(host, port)
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
        if not told:
            say(f"port {port} on {host} is taken: waiting up to {patience_s:g} s for it")
            told = True
        await asyncio.sleep(_PAUSE_S)


def free_block(host: str, size: int) -> int:
    """The first of ``size`` ports in a row, all free just now on ``host``.

    Raises:
        Unavailable: none was found.
    """
    for _ in range(_TRIES):
        first = _FIRST + secrets.randbelow(_LAST - _FIRST - size)
        if all(_is_free(host, port) for port in range(first, first + size)):
            return first
    raise Unavailable(f"no {size} free ports in a row between {_FIRST} and {_LAST} on {host}")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def reachable_host(host: str) -> str:
    """The address under which this machine reaches what listens on ``host``."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return "127.0.0.1"
    return host


def bracketed(host: str) -> str:
    """A host as it stands before a colon and a port."""
    return f"[{host}]" if ":" in host else host


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of a server that ended are no reason to wait; one that listens still is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)


def _is_free(host: str, port: int) -> bool:
    try:
        _bind(host, port)
    except OSError:
        return False
    return True
