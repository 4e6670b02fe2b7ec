"""Lines of the log are JSON, and say what they are about."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from actors import logs
from tests.unit.test_host import World


class Lines(io.StringIO):
    """What was logged."""

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The log of a process of its own, at ``info`` but for one logger."""
    logger = logging.getLogger(logs.ROOT)
    before = (logger.handlers[:], logger.propagate, logger.level)
    stream = Lines()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure_process("info,jamjet.chatty=debug", "a-test")
    logs.about()
    yield stream
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])
    logging.getLogger("jamjet.chatty").setLevel(logging.NOTSET)


def test_a_line_says_when_what_where_and_about_what(lines: Lines) -> None:
    logs.about(request_id="r-1", tenant_id="t")
    logs.also_about(execution_id="exec_1")
    logging.getLogger("jamjet.x").warning("%s of %d", "two", 2, extra={"status": 503})
    (line,) = lines.all
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "two of 2",
        "level": "warning",
        "logger": "jamjet.x",
        "process": "a-test",
        "request_id": "r-1",
        "tenant_id": "t",
        "execution_id": "exec_1",
        "status": 503,
    }


def test_an_exception_is_one_line_too(lines: Lines) -> None:
    try:
        raise ValueError("no\nluck")
    except ValueError:
        logging.getLogger("jamjet.x").exception("it broke")
    (line,) = lines.all
    assert "ValueError: no\nluck" in line["exception"]


def test_what_is_no_unicode_does_not_end_a_line(lines: Lines) -> None:
    # Straight to our handler: pytest keeps what a logger is told, and could not pass this on.
    [handler] = [one for one in logging.getLogger(logs.ROOT).handlers if one.stream is lines]
    odd = {"name": "jamjet.x", "levelno": logging.WARNING, "msg": "odd \ud800 %r", "args": (b"\xff",)}
    handler.handle(logging.makeLogRecord({**odd, "n": 2**80}))
    assert lines.all[0]["n"] == 2**80


def test_levels_are_the_settings(lines: Lines) -> None:
    logging.getLogger("jamjet.x").debug("no")
    logging.getLogger("jamjet.chatty").debug("yes")
    logging.getLogger("jamjet.x").info("yes")
    assert [line["event"] for line in lines.all] == ["yes", "yes"]


def test_configuring_again_makes_no_second_line(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", lines)
    logs.configure_process("info", "another-name")
    logging.getLogger("jamjet.x").info("once")
    assert [line["process"] for line in lines.all] == ["another-name"]


@pytest.mark.parametrize(
    ("setting", "levels"),
    [
        ("info", {}),
        ("info,jamjet.http=debug, jamjet.host=ERROR", {"jamjet.http": 10, "jamjet.host": 40}),
        ("info,other=debug,jamjet.http=loud,jamjet.http", {}),
    ],
)
def test_loggers_have_levels_of_their_own(setting: str, levels: dict[str, int]) -> None:
    assert logs.levels_of(setting) == levels


async def test_a_task_says_what_its_starter_is_about_and_keeps_its_own_to_itself(lines: Lines) -> None:
    log = logging.getLogger("jamjet.x")

    async def part() -> None:
        log.info("begins")
        logs.also_about(node_id="n")
        log.info("goes on")

    logs.about(execution_id="exec_1")
    await asyncio.create_task(part())
    log.info("after")
    ids = [(line.get("execution_id"), line.get("node_id")) for line in lines.all]
    assert ids == [("exec_1", None), ("exec_1", "n"), ("exec_1", None)]


async def test_what_goes_wrong_in_a_node_names_the_execution_and_the_node(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    await world.open()
    await world.paused()

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.host._runner, "run", broken)
    await world.approve("ann")
    async with asyncio.timeout(5):
        while not lines.getvalue():  # noqa: ASYNC110
            await asyncio.sleep(0)
    line = lines.all[0]
    assert (line["execution_id"], line["tenant_id"], line["level"]) == ("exec_1", "t", "error")
    assert line["node_id"] in line["event"]
    await world.host.close()
