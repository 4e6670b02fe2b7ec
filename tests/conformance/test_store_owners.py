"""Who owns what: executors, sweeps, inboxes, and what is forgotten."""

import pytest

from runtime.store import Fence, InboxMessage, Load, Outcome, Store, SweepRow, Turn
from runtime.store.limits import DEAD_KEPT_MS, DEAD_SHOWN_MS, MESSAGE_KEPT_MS, MESSAGE_LATE_MS, SILENT_KEPT_MS
from runtime.store.port import OWNER_GONE_MS
from tests.conformance.store_cases import FAR, Database, executor, first_turn, next_turn, record

# --- executors --------------------------------------------------------------------------------------


async def test_a_life_begins_by_the_databases_clock(store: Store) -> None:
    before = await store.system.now()
    now = await store.system.register_executor(executor("actor#1", capacity=7, live=3, isolation="dedicated"))
    after = await store.system.now()

    assert before <= now <= after
    (row,) = await store.system.executors()
    assert (row.incarnation, row.name, row.node, row.pid) == ("actor#1", "actor", "node-1", 4711)
    assert (row.capacity, row.live, row.isolation, row.state) == (7, 3, "dedicated", "active")
    assert before <= row.started_at == row.heartbeat_at <= after
    assert row.gone is False


async def test_a_heartbeat_tells_load_state_and_time(database: Database) -> None:
    store = await database.open()
    await store.system.register_executor(executor("actor#1"))
    await database.pass_time(OWNER_GONE_MS + 1)
    assert [row.gone for row in await store.system.executors()] == [True]

    now = await store.system.heartbeat("actor#1", live=5, state="draining")

    (row,) = await store.system.executors()
    assert row.heartbeat_at == now
    assert (row.live, row.state, row.gone) == (5, "draining", False)


async def test_an_executor_is_gone_after_a_silence(database: Database) -> None:
    store = await database.open()
    await store.system.register_executor(executor("actor#1"))
    await database.pass_time(OWNER_GONE_MS - 1_000)
    assert [row.gone for row in await store.system.executors()] == [False]

    await database.pass_time(1_001)

    assert [row.gone for row in await store.system.executors()] == [True]


async def test_a_dead_life_beats_no_more(store: Store) -> None:
    await store.system.register_executor(executor("a#1"))
    await store.system.register_executor(executor("b#1"))

    await store.system.mark_dead(("a#1", "unknown"))

    assert await store.system.heartbeat("a#1", live=1, state="active") is None
    assert await store.system.heartbeat("unknown", live=1, state="active") is None
    assert await store.system.heartbeat("b#1", live=1, state="active") is not None
    states = {row.incarnation: (row.state, row.gone) for row in await store.system.executors()}
    assert states == {"a#1": ("dead", True), "b#1": ("active", False)}


async def test_registering_again_does_not_raise_the_dead(store: Store) -> None:
    await store.system.register_executor(executor("a#1"))
    await store.system.register_executor(executor("a#1"))
    await store.system.mark_dead(("a#1",))

    await store.system.register_executor(executor("a#1"))

    assert await store.system.heartbeat("a#1", live=1, state="active") is None


async def test_a_last_heartbeat_may_say_that_it_is_dead(store: Store) -> None:
    await store.system.register_executor(executor("a#1"))

    assert await store.system.heartbeat("a#1", live=0, state="dead") is not None
    assert await store.system.heartbeat("a#1", live=0, state="active") is None


async def test_a_new_life_ends_earlier_ones_of_its_name(store: Store) -> None:
    await store.system.register_executor(executor("a#1"))
    await store.system.register_executor(executor("b#1"))

    await store.system.register_executor(executor("a#2"))

    states = {row.incarnation: row.state for row in await store.system.executors()}
    assert states == {"a#1": "dead", "a#2": "active", "b#1": "active"}


async def test_a_dead_life_is_shown_for_a_minute(database: Database) -> None:
    store = await database.open()
    await store.system.register_executor(executor("a#1"))
    await store.system.mark_dead(("a#1",))
    await database.pass_time(DEAD_SHOWN_MS - 1_000)
    assert len(await store.system.executors()) == 1

    await database.pass_time(1_001)

    assert await store.system.executors() == []


async def test_owned_by_lists_the_open_rows_of_one_life(store: Store) -> None:
    await store.journal.commit(first_turn("exec_1"))
    await store.journal.commit(first_turn("exec_2", tenant_id="other", owner_epoch=4, sequence=1))
    await store.journal.commit(first_turn("exec_3", owner="actor#2"))
    await store.journal.commit(first_turn("exec_4", owner=None))
    await store.journal.commit(first_turn("exec_5", status="completed", runnable=False))

    owned = await store.system.owned_by("actor#1")

    assert owned == {"exec_1": Fence("actor#1", 1, 1), "exec_2": Fence("actor#1", 4, 1)}
    assert await store.system.owned_by("actor#9") == {}


# --- sweep ------------------------------------------------------------------------------------------


async def test_the_sweep_finds_what_nobody_drives(database: Database) -> None:
    store = await database.open()
    now = await store.system.now()
    await store.system.register_executor(executor("dead#1"))
    await store.system.register_executor(executor("alive#1"))
    await store.system.mark_dead(("dead#1",))
    turns = [
        waiting("unowned", 9, runnable=True),
        waiting("unowned_due", 8, runnable=True, wake_at=now - 1),
        waiting("owner_dead", 7, owner="dead#1", runnable=True),
        waiting("owner_unknown", 6, owner="unknown#1", wake_at=now - 1),
        waiting("due", 5, wake_at=now - 1, status="paused"),
        waiting("mail", 4, status="paused", wake_at=FAR),
        waiting("owned", 3, owner="alive#1", runnable=True, wake_at=now - 1),
        waiting("not_due", 2, wake_at=FAR),
        waiting("asleep", 1),
        waiting("ended", 0, status="completed", wake_at=now - 1, runnable=True),
    ]
    for turn in turns:
        await store.journal.commit(turn)
    for name in ("mail", "unowned", "ended", "owner_dead", "due"):
        await store.send("default", message(name))

    swept = await store.system.sweep(limit=100)

    assert [(row.execution_id, row.reason, row.owner) for row in swept] == [
        ("mail", "inbox", None),
        ("due", "timer_due", None),
        ("owner_unknown", "owner_gone", "unknown#1"),
        ("owner_dead", "owner_gone", "dead#1"),
        ("unowned_due", "unowned", None),
        ("unowned", "unowned", None),
    ]
    assert await store.system.sweep(limit=2) == swept[:2]
    assert await store.system.backlog() == 2


async def test_the_load_is_what_waits_whoever_it_belongs_to(store: Store) -> None:
    assert await store.system.load() == Load(
        backlog=0,
        waited_ms=0,
        overdue_ms=0,
        open=dict.fromkeys(("running", "paused", "queued", "suspended"), 0),
    )
    now = await store.system.now()
    free = {"owner": None, "owner_epoch": 0}
    for turn in (
        first_turn("waits", **free, created_at=now - 60_000),
        first_turn("waits-less", **free, created_at=now - 1_000, tenant_id="other"),
        first_turn("due", **free, runnable=False, wake_at=now - 5_000, status="paused", created_at=now),
        first_turn("later", **free, runnable=False, wake_at=FAR, status="paused", tenant_id="third"),
        first_turn("owned", created_at=now),
        first_turn("ended", **free, runnable=False, status="completed", tenant_id="fourth"),
    ):
        await store.journal.commit(turn)

    load = await store.system.load()

    assert (load.backlog, load.open) == (2, {"running": 3, "paused": 2, "queued": 0, "suspended": 0})
    assert 60_000 <= load.waited_ms < 90_000
    assert 5_000 <= load.overdue_ms < 35_000


async def test_a_swept_row_says_where_it_may_run(store: Store) -> None:
    await store.journal.commit(
        first_turn("exec_1", owner=None, tenant_id="other", resources='{"num_gpus":1}')
    )

    assert await store.system.sweep(limit=10) == [
        SweepRow(
            tenant_id="other",
            execution_id="exec_1",
            isolation="shared",
            resources='{"num_gpus":1}',
            owner=None,
            reason="unowned",
        )
    ]


async def test_starts_are_swept_in_their_order(store: Store) -> None:
    for number in (3, 1, 2, 0):
        await store.journal.commit(waiting(f"exec_{number}", number, runnable=True))

    swept = await store.system.sweep(limit=3)

    assert [row.execution_id for row in swept] == ["exec_0", "exec_1", "exec_2"]


async def test_a_silent_owner_is_swept_and_a_returning_one_is_not(database: Database) -> None:
    store = await database.open()
    await store.system.register_executor(executor("actor#1"))
    await store.journal.commit(first_turn("exec_1"))
    assert await store.system.sweep(limit=10) == []

    await database.pass_time(OWNER_GONE_MS + 1)
    assert [row.reason for row in await store.system.sweep(limit=10)] == ["owner_gone"]

    await store.system.heartbeat("actor#1", live=1, state="active")
    assert await store.system.sweep(limit=10) == []


async def test_a_timer_is_swept_when_it_is_due(database: Database) -> None:
    """G8: never early, by the database's clock."""
    store = await database.open()
    now = await store.system.now()
    await store.journal.commit(waiting("exec_1", 1, wake_at=now + 60_000))
    assert await store.system.sweep(limit=10) == []

    await database.pass_time(60_001)

    assert [row.reason for row in await store.system.sweep(limit=10)] == ["timer_due"]


# --- inbox ------------------------------------------------------------------------------------------


async def test_a_turn_sends_and_the_receivers_turn_consumes(store: Store) -> None:
    await store.journal.commit(waiting("child", 1))
    await store.journal.commit(waiting("parent", 2))
    sent = tuple(message("parent", name) for name in ("m2", "m1", "m3"))

    turn = next_turn("child", 1, inbox_sent=sent)
    assert await store.journal.commit(turn) is Outcome.COMMITTED

    stored = await store.system.stored_execution("parent")
    assert stored is not None
    assert stored.inbox == sent, "in the order in which they were sent"
    swept = {row.execution_id: row.reason for row in await store.system.sweep(limit=10)}
    assert swept["parent"] == "inbox"

    await store.journal.commit(
        next_turn("parent", 1, owner=None, runnable=False, inbox_consumed=("m2", "m3", "unknown"))
    )
    stored = await store.system.stored_execution("parent")
    assert stored is not None
    assert stored.inbox == (message("parent", "m1"),)


async def test_messages_of_several_turns_are_read_oldest_first(store: Store) -> None:
    await store.journal.commit(waiting("a", 1))
    await store.journal.commit(waiting("b", 1))
    await store.journal.commit(waiting("parent", 1))
    await store.journal.commit(next_turn("a", 1, updated_at=20, inbox_sent=(message("parent", "late"),)))
    await store.journal.commit(next_turn("b", 1, updated_at=10, inbox_sent=(message("parent", "early"),)))

    stored = await store.system.stored_execution("parent")

    assert stored is not None
    assert [found.message_id for found in stored.inbox] == ["early", "late"]


async def test_a_message_is_delivered_once_by_its_id(store: Store) -> None:
    await store.journal.commit(waiting("exec_1", 1))
    await store.send("default", message("exec_1", "m1", body='"first"'))
    await store.send("default", message("exec_1", "m1", body='"again"'))

    stored = await store.system.stored_execution("exec_1")
    assert stored is not None
    assert [found.body for found in stored.inbox] == ['"first"']

    await store.journal.commit(next_turn("exec_1", 1, inbox_consumed=("m1",)))
    await store.send("default", message("exec_1", "m1"))
    stored = await store.system.stored_execution("exec_1")
    assert stored is not None
    assert stored.inbox == (), "consumed once, it does not come back"


async def test_a_living_owner_is_reminded_of_old_mail_only(database: Database) -> None:
    store = await database.open()
    await store.system.register_executor(executor("actor#1"))
    await store.journal.commit(first_turn("exec_1"))
    await store.send("default", message("exec_1"))
    assert await store.system.sweep(limit=10) == []

    await database.pass_time(MESSAGE_LATE_MS + 1)

    (row,) = await store.system.sweep(limit=10)
    assert (row.reason, row.owner) == ("inbox", "actor#1")


# --- prune ------------------------------------------------------------------------------------------


async def test_prune_forgets_what_has_served(database: Database) -> None:
    store = await database.open()
    now = await store.system.now()
    for number, expires_at in enumerate((now + 1_000, now + 1_000, FAR)):
        kept = record(f"key-{number}", expires_at=expires_at)
        await store.journal.commit(waiting(f"exec_{number}", number, idempotency=kept))
    await store.system.register_executor(executor("dead#1"))
    await store.system.mark_dead(("dead#1",))
    await store.system.register_executor(executor("silent#1"))
    assert await store.system.prune() == {"idempotency": 0, "executors": 0, "inbox": 0}

    await database.pass_time(DEAD_KEPT_MS + 1)
    await store.system.register_executor(executor("alive#1"))
    assert await store.system.prune() == {"idempotency": 2, "executors": 1, "inbox": 0}
    assert await store.tenant("default").idempotency("key-2", "POST /executions") is not None

    await database.pass_time(SILENT_KEPT_MS - DEAD_KEPT_MS)
    await store.system.heartbeat("alive#1", live=0, state="active")
    assert await store.system.prune() == {"idempotency": 0, "executors": 1, "inbox": 0}
    assert [row.incarnation for row in await store.system.executors()] == ["alive#1"]


@pytest.mark.parametrize("fate", ["consumed", "receiver_ended", "unread", "receiver_unknown"])
async def test_prune_forgets_messages_that_nobody_will_read(database: Database, fate: str) -> None:
    store = await database.open()
    now = await store.system.now()
    await store.journal.commit(waiting("exec_1", 1))
    if fate == "consumed":
        await store.send("default", message("exec_1"))
        await store.journal.commit(next_turn("exec_1", 1, inbox_consumed=("m1",), updated_at=now))
    elif fate == "receiver_unknown":
        await store.send("default", message("exec_later"))
    else:
        await store.send("default", message("exec_1"))
    if fate == "receiver_ended":
        await store.journal.commit(next_turn("exec_1", 1, status="completed", runnable=False))
    assert (await store.system.prune())["inbox"] == 0

    await database.pass_time(MESSAGE_KEPT_MS + 60_000)

    assert (await store.system.prune())["inbox"] == (1 if fate in ("consumed", "receiver_ended") else 0)


async def test_the_clock_does_not_stand_still(store: Store) -> None:
    first = await store.system.now()
    assert first > 1_600_000_000_000
    assert await store.system.now() >= first
    await store.ping()


def waiting(execution_id: str, created_at: int, **changes: object) -> Turn:
    """A start that leaves the execution to nobody, with nothing to do."""
    values: dict[str, object] = {"created_at": created_at, "owner": None, "runnable": False}
    return first_turn(execution_id, **(values | changes))


def message(execution_id: str, message_id: str = "m1", body: str = "{}") -> InboxMessage:
    return InboxMessage(execution_id=execution_id, message_id=message_id, body=body)
