"""``jamjet logs``: what the processes of this folder's ``jamjet dev`` have logged."""

import time
from enum import StrEnum
from typing import Annotated

import typer

from api.cli.dev_file import DevServer, read_dev_server
from api.cli.exits import EXIT_DETACHED, EXIT_UNREACHABLE, CliError
from api.cli.log_files import LogFolder, Record
from api.cli.options import Form
from api.cli.output import Output, note, paint, print_line

_LOOK_EVERY_S = 0.3
_COLOURS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "red"}


class Level(StrEnum):
    """The levels of log lines, the least first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}


def logs(
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the server ends.")] = False,
    level: Annotated[Level, typer.Option(help="Only lines of this level and above.")] = Level.DEBUG,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the past at most.", min=0)] = 200,
    output: Form = Output.TABLE,
) -> None:
    """Show the logs of the `jamjet dev` that runs in this folder, oldest first.

    With --output json each line is a JSON object: time, level, source, text.
    """
    server = read_dev_server()
    if server is None:
        raise CliError(
            "no `jamjet dev` runs in this folder: start one, or go to the folder where it runs",
            EXIT_UNREACHABLE,
        )
    if not server.logs.is_dir():
        raise CliError(
            f"the logs of `jamjet dev` (process {server.pid}) are gone from {server.logs}: start it again",
            EXIT_UNREACHABLE,
        )
    folder = LogFolder(server.logs)
    past = _wanted(folder.read(), level)
    _print(past[max(0, len(past) - lines) :], output)
    if following:
        _follow(server, folder, level, output)


def _follow(server: DevServer, folder: LogFolder, level: Level, output: Output) -> None:
    try:
        while read_dev_server() == server:
            time.sleep(_LOOK_EVERY_S)
            _print(_wanted(folder.read(), level), output)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_DETACHED) from None
    note("`jamjet dev` has ended")


def _wanted(records: list[Record], level: Level) -> list[Record]:
    return [record for record in records if RANKS[record.level] >= RANKS[level]]


def _print(records: list[Record], output: Output) -> None:
    for record in records:
        print_line(record.as_json() if output is Output.JSON else _line(record))


def _line(record: Record) -> str:
    head = f"{record.clock} {record.level:<8} {record.source:<16}"
    return f"{paint(head, _COLOURS.get(record.level))} {record.text}"
