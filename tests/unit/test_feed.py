"""What an actor tells its followers, and what a client's listener makes of it."""

import asyncio

import pytest

from actors import feed as feed_module
from actors.feed import Feed, token_of
from actors.listener import Listener
from runtime.errors import Unavailable

KEY = "exec_1:say:1"


def test_moves_are_told_once_and_the_latest_of_each_only():
    feed = Feed()
    for sequence in (1, 2, 3):
        feed.moved("a", sequence, settled=sequence == 3)
    feed.moved("b", 1, settled=False)
    seen = feed.since("f", 0, live=2)
    assert sorted(seen.moves) == [("a", 3, True), ("b", 1, False)]
    assert (seen.cursor, seen.live, seen.reset) == (4, 2, False)
    assert feed.since("f", seen.cursor, live=2).moves == []


def test_a_follower_that_begins_or_was_away_too_long_is_told_to_look(monkeypatch):
    monkeypatch.setattr(feed_module, "MOVES_KEPT_MAX", 3)
    feed = Feed()
    assert feed.since("f", -1, live=0).reset
    for number in range(5):
        feed.moved(f"e{number}", 1, settled=False)
    seen = feed.since("f", 0, live=0)
    assert seen.reset
    assert len(seen.moves) == 3
    assert feed.since("f", 99, live=0).reset, "another life of the actor counted further"


def test_pieces_go_to_those_who_listen_to_that_execution():
    feed = Feed()
    feed.said(KEY, 1, "nobody listens")
    feed.listen("f", ["exec_1"])
    feed.listen("g", ["exec_2"])
    feed.said(KEY, 1, "one")
    feed.said(KEY, 2, "two")
    assert [(token.text, token.attempt) for token in feed.since("f", 0, live=0).tokens] == [
        ("one", 1),
        ("two", 2),
    ]
    assert feed.since("f", 0, live=0).tokens == []
    assert feed.since("g", 0, live=0).tokens == []
    feed.listen("f", [])
    feed.said(KEY, 1, "gone")
    assert feed.since("f", 0, live=0).tokens == []


def test_listening_to_more_loses_nothing():
    feed = Feed()
    feed.listen("f", ["exec_1"])
    feed.said(KEY, 1, "one")
    feed.listen("f", ["exec_1", "exec_2"])
    assert [token.text for token in feed.since("f", 0, live=0).tokens] == ["one"]


@pytest.mark.parametrize(
    ("key", "parts"),
    [("exec_1:say:2", ("exec_1", "say", 2)), ("exec_1:a:b:c:12", ("exec_1", "a:b:c", 12))],
)
def test_a_piece_is_of_its_calls_node_and_visit(key, parts):
    token = token_of(key, 3, "x")
    assert (token.execution_id, token.node_id, token.visit) == parts


async def test_a_follower_waits_for_news_of_its_own():
    feed = Feed()
    feed.listen("f", ["exec_1"])
    feed.listen("g", ["exec_2"])
    waiting = asyncio.create_task(feed.wait("g", 0, 60))
    feed.said(KEY, 1, "for f")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    feed.moved("a", 1, settled=False)
    await waiting
    await feed.wait("f", 1, 60)
    await feed.wait("nobody", 1, 0.001)


async def test_a_listener_wakes_on_moves_and_pieces():
    listener = Listener()
    assert not await listener.wait(0.001)
    listener.moved(5)
    assert await listener.wait(1)
    listener.moved(3)
    assert listener.sequence == 5
    listener.said(token_of(KEY, 1, "x"))
    assert await listener.wait(1)
    assert [token.text for token in listener.take()] == ["x"]
    assert listener.take() == []
    listener.look()
    assert listener.sequence == 6


async def test_when_it_is_closed_those_who_wait_are_answered_and_nobody_after_them():
    """Ray ends an actor only when no call is under way, and a follower's takes ten seconds."""
    feed = Feed()
    feed.since("f", -1, live=0)
    waiting = asyncio.create_task(feed.wait("f", 0, 60))
    await asyncio.sleep(0)
    feed.close()
    async with asyncio.timeout(1):
        await waiting
    with pytest.raises(Unavailable):
        await feed.wait("f", 0, 60)
