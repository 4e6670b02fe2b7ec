"""What a running ``jamjet dev`` leaves in its folder, so that the other commands find it."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from api.cli.dev_token import write_private

DEV_FILE = Path(".jamjet/dev.json")


@dataclass(frozen=True)
class DevServer:
    """A running ``jamjet dev``.

    Attributes:
        url: where its API answers, as seen from this machine.
        pid: of the command itself.
        logs: the folder of its processes' logs; gone when it has ended.
    """

    url: str
    pid: int
    logs: Path


def read_dev_server(path: Path = DEV_FILE) -> DevServer | None:
    """The ``jamjet dev`` that runs in this folder, if one does; what a killed one left does not count."""
    try:
        found = json.loads(path.read_text("utf-8"))
        server = DevServer(str(found["url"]), int(found["pid"]), Path(found["logs"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return server if _lives(server.pid) else None


def write_dev_server(server: DevServer, path: Path = DEV_FILE) -> None:
    """Say that it is ready.

    Raises:
        OSError: the file cannot be written.
    """
    found = {"url": server.url, "pid": server.pid, "logs": str(server.logs)}
    write_private(path, json.dumps(found, indent=2))


def forget_dev_server(pid: int, path: Path = DEV_FILE) -> None:
    """Take back what the command of this process said; what another one said since stays."""
    found = read_dev_server(path)
    if found is not None and found.pid == pid:
        with contextlib.suppress(OSError):
            path.unlink()


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
