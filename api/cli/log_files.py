"""The log files of an instance's processes, read as one log.

Each process has a file for its stdout and one for its stderr; they begin with the name of its actor.
Lines are our own (one JSON object each), Serve's (``INFO 2026-03-12 10:00:00,123 ...``) or of any other form.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_FILES = "worker-*.[oe][ur][tr]"
_ACTOR = ":actor_name:"
_NOTES = (":job_id:", ":task_name:", _ACTOR)
"""What Ray itself writes at the beginnings of these files."""
_SERVE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (.*)")
_LEVELS = ("debug", "info", "warning", "error", "critical")
_OWN_KEYS = ("timestamp", "level", "event", "process", "logger", "exception")
_READ_MAX_BYTES = 4 * 1024 * 1024
"""Of one file at once; of a longer one the beginning is left out."""


@dataclass(frozen=True)
class Record:
    """One line of a log.

    Attributes:
        time_s: since 1970; that of the line before where it says none.
        level: one of debug, info, warning, error, critical.
        source: the actor whose process wrote it.
        text: printable.
    """

    time_s: float
    level: str
    source: str
    text: str

    @property
    def clock(self) -> str:
        """The time of day here."""
        if not self.time_s:
            return "-" * 12
        return datetime.fromtimestamp(self.time_s).astimezone().strftime("%H:%M:%S.%f")[:12]

    def as_json(self) -> str:
        """The line as a JSON object."""
        when = datetime.fromtimestamp(self.time_s, UTC).isoformat(timespec="milliseconds")
        found = {"time": when if self.time_s else None, "level": self.level}
        return json.dumps({**found, "source": self.source, "text": self.text}, ensure_ascii=False)


class LogFolder:
    """The files of one folder, each read once from its beginning to its end, however it grows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, _LogFile] = {}

    def read(self) -> list[Record]:
        """What came since the last time, in the order of time."""
        records = [record for path in sorted(self._folder.glob(_FILES)) for record in self._file(path).read()]
        return sorted(records, key=lambda record: record.time_s)

    def _file(self, path: Path) -> "_LogFile":
        if path not in self._files:
            self._files[path] = _LogFile(path)
        return self._files[path]


class _LogFile:
    """One file, and how far it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._source = path.name.split("-")[0]
        self._time_s = 0.0
        self._level = "error" if path.suffix == ".err" else "info"

    def read(self) -> list[Record]:
        *lines, self._rest = (self._rest + self._new_bytes()).split(b"\n")
        decoded = (line.decode(errors="replace").rstrip() for line in lines)
        return [record for line in decoded if (record := self._record(line)) is not None]

    def _new_bytes(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(self._offset, size - _READ_MAX_BYTES))
                found = file.read()
                self._offset = file.tell()
        except OSError:
            return b""
        return found

    def _record(self, line: str) -> Record | None:
        if line.startswith(_NOTES):
            if line.startswith(_ACTOR):
                self._source = line.removeprefix(_ACTOR).split(":")[0]
            return None
        if not line.strip():
            return None
        text = self._of_ours(line) or self._of_serve(line) or line
        return Record(self._time_s, self._level, self._source, _printable(text))

    def _of_ours(self, line: str) -> str | None:
        """The text of a line of our own, after its time and level are noted."""
        if not line.startswith("{"):
            return None
        try:
            value = json.loads(line)
            self._time_s = datetime.fromisoformat(value["timestamp"]).timestamp()
            text = str(value["event"])
        except (ValueError, KeyError, TypeError):
            return None
        self._level = _level_of(str(value.get("level", "info")))
        more = " ".join(f"{name}={_said(said)}" for name, said in value.items() if name not in _OWN_KEYS)
        text = f"{text}  {more}" if more else text
        return f"{text}\n{value['exception']}" if "exception" in value else text

    def _of_serve(self, line: str) -> str | None:
        match = _SERVE.fullmatch(line)
        if match is None:
            return None
        local = datetime.strptime(match[2], "%Y-%m-%d %H:%M:%S,%f").astimezone()
        self._time_s, self._level = local.timestamp(), _level_of(match[1])
        return match[3]


def _level_of(text: str) -> str:
    level = text.lower()
    return level if level in _LEVELS else "info"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    """A text without what a terminal would obey; lines of a traceback that came as one stay apart."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)
