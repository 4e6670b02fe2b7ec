"""What commands print: data on stdout, as JSON or as a table; everything else on stderr."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

HARMLESS = "\n\t\u200d"
"""Not printable by themselves, and no terminal obeys them."""


class Output(StrEnum):
    """The two forms of data on stdout."""

    TABLE = "table"
    JSON = "json"


def print_line(text: str) -> None:
    """One line of data."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    print_line(_json(value, indent=2))


def note(text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """One line on something that is not as it should be, and stops nothing."""
    note(f"warning: {text}")


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as a table: drawn by rich on a terminal that is wide enough, plain aligned columns elsewhere."""
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        _print_plain(columns, cells)
        return
    short = [[_short_time(text) for text in row] for row in cells]
    if not _print_drawn(columns, short):
        _print_plain(columns, short)


def cell(value: Any) -> str:
    """A value in one table cell; None is a dash. What a terminal would obey is quoted."""
    if value is None:
        return "-"
    if isinstance(value, str) and value.isprintable():
        return value
    return _json(value)


def _json(value: Any, indent: int | None = None) -> str:
    """A value as JSON, in which what a terminal would obey is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in HARMLESS else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return json.dumps(sign)[1:-1] if sign != "\x7f" else "\\u007f"


def _widths(columns: Sequence[str], cells: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(columns, *cells, strict=True)]


def _print_plain(columns: Sequence[str], cells: list[list[str]]) -> None:
    widths = _widths(columns, cells)
    for row in ([column.upper() for column in columns], *cells):
        print_line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _print_drawn(columns: Sequence[str], cells: list[list[str]]) -> bool:
    """Draw the table; False if the terminal is too narrow for it.

    A terminal breaks a line that is too long, and what is to be copied stays in one piece; rich would cut it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if sum(_widths(columns, cells)) + _BETWEEN_DRAWN * len(columns) > console.width:
        return False
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
    return True


def _short_time(text: str) -> str:
    """A time of the API as a person wants it in a narrow table: local, of today only the hour."""
    if not _TIME.fullmatch(text):
        return text
    then = datetime.fromisoformat(text).astimezone()
    is_today = then.date() == datetime.now(UTC).astimezone().date()
    return then.strftime("%H:%M:%S" if is_today else "%Y-%m-%d")


_BETWEEN_DRAWN = 3
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_COLOURS = {"dim": 2, "red": 31, "green": 32, "yellow": 33}


def paint(text: str, colour: str | None) -> str:
    """A text of stdout in a colour, where a terminal shows it and NO_COLOR does not forbid it."""
    if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
