"""The pages of the documentation, taken apart into their fenced blocks."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"^(?P<notes>(?:<!-- [^\n]* -->\n+)*)(?P<indent> *)```(?P<language>\w+)?\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- (\w+): (.*) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block, with the notes that stand as comments above it.

    ``run: {...}`` says with what a workflow is run and what comes of it, ``refused: text`` with what problem
    it is refused, ``file: name`` under which name a reader saves it.
    """

    page: str
    line: int
    language: str
    text: str
    notes: tuple[tuple[str, str], ...] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def note(self, name: str) -> str | None:
        return next((value for key, value in self.notes if key == name), None)

    def runs(self) -> list[dict[str, Any]]:
        return [json.loads(value) for key, value in self.notes if key == "run"]


@cache
def blocks() -> tuple[Block, ...]:
    """Every fenced block of every page, in order."""
    return tuple(block for page in PAGES for block in _of(page.name, page.read_text()))


def blocks_in(*languages: str) -> list[Block]:
    """The blocks in these languages."""
    return [block for block in blocks() if block.language in languages]


def _of(page: str, text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        yield Block(
            page=page,
            line=text.count("\n", 0, found.start("language")) + 1,
            language=found["language"] or "",
            text="".join(line[indent:] or "\n" for line in found["text"].splitlines(keepends=True)),
            notes=tuple(_NOTE.findall(found["notes"])),
        )


def files_of(page: str) -> dict[str, str]:
    """What a reader of this page has saved, by name."""
    return {name: block.text for block in blocks() if block.page == page and (name := block.note("file"))}
