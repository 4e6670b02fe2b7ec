"""Ports of Ray's processes on which other machines could call, as Linux shows them in ``/proc``."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTENS = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_OF_RAY = re.compile(r"(site|dist)-packages/ray/|^ray::|ray\.util\.client")
_DASHBOARD = "ray/dashboard/dashboard.py"
_TOKEN_MODE = b"RAY_AUTH_MODE=token"
_WORD_HEX = 8


@dataclass(frozen=True)
class OpenPort:
    """A port of a Ray process that is not bound to this machine alone."""

    port: int
    address: str
    pid: int
    is_dashboard: bool
    wants_token: bool
    """Whether the process was started with ``RAY_AUTH_MODE=token``."""


def can_see(proc: Path = PROC) -> bool:
    """Whether this system shows its sockets."""
    return (proc / "net" / "tcp").exists()


def ray_ports_open_to_others(proc: Path = PROC) -> list[OpenPort]:
    """Those of the processes that this user may look into, by port."""
    open_sockets = dict(_open_sockets(proc))
    found = []
    for folder in proc.glob("[0-9]*"):
        command = _command(folder)
        if _OF_RAY.search(command) is None:
            continue
        wants_token = _TOKEN_MODE in _bytes_of(folder / "environ").split(b"\0")
        for inode in _inodes(folder):
            if inode in open_sockets:
                address, port = open_sockets[inode]
                found.append(OpenPort(port, address, int(folder.name), _DASHBOARD in command, wants_token))
    return sorted(found, key=lambda one: (one.port, one.pid))


def _open_sockets(proc: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """Inodes of listening sockets that are not on a loopback address, with address and port."""
    for name in ("tcp", "tcp6"):
        for line in _bytes_of(proc / "net" / name).decode().splitlines()[1:]:
            row = line.split()
            if len(row) < 10 or row[3] != _LISTENS:
                continue
            host, _, port = row[1].partition(":")
            address = _address(host)
            if not _is_loopback(address):
                yield row[9], (str(address), int(port, 16))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as /proc/net shows it: 32-bit words in hexadecimal, in the byte order of the machine."""
    words = [text[at : at + _WORD_HEX] for at in range(0, len(text), _WORD_HEX)]
    return ipaddress.ip_address(b"".join(bytes.fromhex(word)[::-1] for word in words))


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def _command(folder: Path) -> str:
    return _bytes_of(folder / "cmdline").replace(b"\0", b" ").decode(errors="replace")


def _inodes(folder: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                if match := _SOCKET.fullmatch(os.readlink(link)):
                    found.add(match[1])
    return found


def _bytes_of(path: Path) -> bytes:
    """A file's content; empty where it is gone or not ours to read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
