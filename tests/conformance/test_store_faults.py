"""What breaks: disks, processes, connections. Nothing is half written, and the store recovers."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from sqlite3 import Connection

import psycopg
import pytest

from runtime.errors import OutcomeUnknown, Unavailable
from runtime.store import Outcome, Store, Turn
from runtime.store import postgres as postgres_module
from runtime.store.backoff import DELAY_MAX_S
from runtime.store.faulty import DuplicateCommitted, Fault, FaultyStore
from runtime.store.journal import GroupCommitJournal
from runtime.store.postgres import SETTINGS
from tests.conformance import store_writer
from tests.conformance.store_cases import (
    FAR,
    Database,
    InMemory,
    Postgres,
    Sql,
    Sqlite,
    events,
    executor,
    first_turn,
    next_turn,
    record,
    workflow,
)
from tests.fixtures.postgres import PostgresServer

# --- SQLite -----------------------------------------------------------------------------------------


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Sqlite]:
    made = Sqlite(tmp_path / "runtime.db")
    yield made
    await made.close()


async def _writing_connection(store: Store) -> Connection:
    """What the journal's thread writes with; to be touched only while nothing is being written."""
    assert isinstance(store.journal, GroupCommitJournal)
    connection: Connection = await store.journal.run(lambda session: session.connection)
    return connection


async def test_a_full_disk_refuses_and_recovers(sqlite: Sqlite) -> None:
    store = await sqlite.open()
    await store.journal.commit(first_turn("exec_1"))
    ((pages,),) = sqlite.execute("PRAGMA page_count")
    connection = await _writing_connection(store)
    connection.execute(f"PRAGMA max_page_count = {pages}")
    large = events(2, data="x" * 100_000)

    with pytest.raises(Unavailable, match="full"):
        await store.journal.commit(next_turn("exec_1", 1, events=large, idempotency=record()))
    stored = await store.system.stored_execution("exec_1")
    assert stored is not None
    assert (stored.row.sequence, stored.tail) == (1, events(1))
    assert await store.tenant("default").idempotency("key-1", "POST /executions") is None

    connection.execute("PRAGMA max_page_count = 1000000")
    turn = next_turn("exec_1", 1, events=large, idempotency=record())
    assert await store.journal.commit(turn) is Outcome.COMMITTED
    assert sqlite.execute("PRAGMA integrity_check") == [("ok",)]


async def test_a_file_that_turns_read_only_refuses_and_recovers(sqlite: Sqlite) -> None:
    store = await sqlite.open()
    await store.journal.commit(first_turn("exec_1"))
    connection = await _writing_connection(store)
    connection.execute("PRAGMA query_only = ON")

    outcomes = await asyncio.gather(
        *(store.journal.commit(first_turn(f"exec_{number}")) for number in range(2, 9)),
        store.ping(),
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable)
        assert not isinstance(outcome, OutcomeUnknown)
    assert (await store.tenant("default").executions())[1] == 1

    connection.execute("PRAGMA query_only = OFF")
    assert await store.journal.commit(first_turn("exec_2")) is Outcome.COMMITTED


async def test_a_writer_waits_for_another_process(sqlite: Sqlite) -> None:
    store = await sqlite.open()
    other = await sqlite.open()
    assert isinstance(other.journal, GroupCommitJournal)
    began, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(session: object) -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(end.wait(), loop).result()

    holding = asyncio.ensure_future(other.journal.run(hold))
    await began.wait()
    waiting = asyncio.ensure_future(store.journal.commit(first_turn("exec_1")))
    assert await store.system.fence("exec_1") is None, "readers do not wait"
    assert not waiting.done()

    end.set()
    await holding
    assert await waiting is Outcome.COMMITTED


async def test_a_lock_that_is_never_given_back_is_unavailable(
    sqlite: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.store.sqlite.LOCK_WAIT_MS", 20)
    store = await sqlite.open()
    other = await sqlite.open()
    assert isinstance(other.journal, GroupCommitJournal)
    began, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(session: object) -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(end.wait(), loop).result()

    holding = asyncio.ensure_future(other.journal.run(hold))
    await began.wait()
    with pytest.raises(Unavailable, match="locked by another process for 20 ms"):
        await store.journal.commit(first_turn("exec_1"))
    end.set()
    await holding
    assert await store.journal.commit(first_turn("exec_1")) is Outcome.COMMITTED


# --- processes --------------------------------------------------------------------------------------


async def test_what_was_acknowledged_survives_kill_9(sql_database: Sql) -> None:
    """G1, G2: acknowledged turns are there, and every log is whole."""
    acknowledged = await asyncio.to_thread(_write_until_killed, sql_database.url, 1_500)

    store = await sql_database.open()
    if isinstance(sql_database, Sqlite):
        assert sql_database.execute("PRAGMA integrity_check") == [("ok",)]
    assert len(acknowledged) == 16
    for execution_id, last in acknowledged.items():
        fence = await store.system.fence(execution_id)
        assert fence is not None
        found = await store.tenant("default").events(execution_id)
        assert [event.sequence for event in found] == list(range(1, fence.sequence + 1))
        assert fence.sequence >= last
        stored = await store.system.stored_execution(execution_id)
        assert stored is not None
        assert stored.snapshot_sequence == (fence.sequence - 1) // 5 * 5 + (1 if fence.sequence > 5 else 0)


def _write_until_killed(url: str, lines: int) -> dict[str, int]:
    """The last acknowledged sequence of each execution of a process that was killed in mid-run."""
    command = [sys.executable, store_writer.__file__, url, "16"]
    acknowledged: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for _ in range(lines):
                execution_id, sequence = process.stdout.readline().split()
                acknowledged[execution_id] = int(sequence)
        finally:
            process.kill()
    return acknowledged


# --- PostgreSQL -------------------------------------------------------------------------------------


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Postgres]:
    made = Postgres(postgres_url)
    yield made
    await made.close()


async def test_cut_connections_are_opened_again(postgres: Postgres, postgres_server: PostgresServer) -> None:
    store = await postgres.open()
    await store.journal.commit(first_turn("exec_1"))
    await store.system.fence("exec_1")

    for after in range(1, 6):
        assert postgres_server.terminate(postgres.url) >= 2
        fence = await store.system.fence("exec_1")
        assert fence is not None
        assert fence.sequence == after
        assert await store.journal.commit(next_turn("exec_1", after)) is Outcome.COMMITTED


async def test_a_connection_that_is_cut_while_it_is_made_is_unavailable(
    postgres: Postgres, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await postgres.open()
    await store.journal.commit(first_turn("exec_1"))
    hang_up = "SELECT pg_terminate_backend(pg_backend_pid())"
    with monkeypatch.context() as broken:
        for prepared in ("READING", "WRITING"):
            broken.setattr(postgres_module, prepared, hang_up)
        # A server process that was told to end may answer once more.
        while postgres_server.terminate(postgres.url):
            pass
        for _ in range(3):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await store.journal.commit(next_turn("exec_1", 1))
            with pytest.raises(Unavailable, match="cannot be reached"):
                await store.system.heartbeat("a#1", live=0, state="active")
            with pytest.raises(Unavailable, match="cannot be reached"):
                await store.system.fence("exec_1")
            await asyncio.sleep(DELAY_MAX_S)
    assert await store.journal.commit(next_turn("exec_1", 1)) is Outcome.COMMITTED
    assert await store.system.fence("exec_1") is not None


async def test_connections_cut_under_load_lose_and_double_nothing(
    postgres: Postgres, postgres_server: PostgresServer
) -> None:
    store = await postgres.open()
    working = asyncio.gather(*(_drive(store, f"exec_{number}", turns=60) for number in range(16)))
    cuts = 0

    while not working.done():
        cuts += await asyncio.to_thread(postgres_server.terminate, postgres.url)
        await asyncio.wait({working}, timeout=0.03)
    await working

    assert cuts > 0
    await _assert_whole(store, 16, 60)


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_row_that_another_session_locks_holds_up_its_own_turn_only(
    postgres: Postgres, keyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "lock_timeout", "50ms")
    store = await postgres.open()
    for number in range(4):
        await store.journal.commit(first_turn(f"exec_{number}"))
    turns = [
        next_turn(f"exec_{number}", 1, idempotency=record(f"key-{number}") if keyed else None)
        for number in range(4)
    ]

    with psycopg.connect(postgres.url) as holder:
        holder.execute("SELECT 1 FROM executions WHERE execution_id = 'exec_2' FOR UPDATE")
        outcomes = await asyncio.gather(
            *(store.journal.commit(turn) for turn in turns), return_exceptions=True
        )
    held = outcomes.pop(2)
    assert isinstance(held, Unavailable)
    assert not isinstance(held, OutcomeUnknown)
    assert outcomes == [Outcome.COMMITTED] * 3
    assert await store.journal.commit(turns[2]) is Outcome.COMMITTED


async def test_a_start_that_loses_a_race_leaves_no_key(postgres: Postgres) -> None:
    """Its key is recorded, then the other writer's row appears: all of it is undone."""
    store = await postgres.open()
    await store.journal.commit(first_turn("exec_0"))
    columns = "tenant_id, workflow_id, workflow_version, status, isolation, owner, owner_epoch, sequence,"
    columns += "runnable, steps, created_at, updated_at"

    with psycopg.connect(postgres.url) as other:
        other.execute(
            f"INSERT INTO executions (execution_id, {columns})"
            f" SELECT 'exec_1', {columns} FROM executions WHERE execution_id = 'exec_0'".encode()
        )
        turns = [first_turn(name, idempotency=record(f"key of {name}")) for name in ("exec_1", "exec_2")]
        waiting = asyncio.gather(*(store.journal.commit(turn) for turn in turns))
        await _until_blocked(other)
        assert not waiting.done()
    assert await waiting == [Outcome.FENCED, Outcome.COMMITTED]
    assert await store.tenant("default").idempotency("key of exec_1", "POST /executions") is None
    assert await store.tenant("default").idempotency("key of exec_2", "POST /executions") is not None


async def test_of_two_turns_that_race_for_a_key_the_later_finds_it_taken(postgres: Postgres) -> None:
    store = await postgres.open()

    with psycopg.connect(postgres.url) as other:
        other.execute(
            "INSERT INTO idempotency (tenant_id, route, key, fingerprint, status, body, expires_at)"
            " VALUES ('default', 'POST /executions', 'key-1', 'f', 201, '', %s)",
            (FAR,),
        )
        waiting = asyncio.ensure_future(store.journal.commit(first_turn("exec_1", idempotency=record())))
        await _until_blocked(other)
        assert not waiting.done()
    assert await waiting is Outcome.KEY_TAKEN
    assert await store.system.fence("exec_1") is None


async def _until_blocked(holder: psycopg.Connection[tuple[object, ...]]) -> None:
    """Until another session waits for a lock of this one."""
    blocked = "SELECT 1 FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    for _ in range(1_000):
        if holder.execute(blocked).fetchone() is not None:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("nobody waits")


async def test_a_session_has_its_bounds(postgres: Postgres) -> None:
    store = await postgres.open()
    assert isinstance(store.journal, GroupCommitJournal)
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")

    found = await store.journal.run(
        lambda session: [session.connection.execute(f"SHOW {name}").fetchone()[0] for name in names]
    )

    assert found == ["2s", "10s", "5s", "on"]


# --- injected faults --------------------------------------------------------------------------------


async def test_callers_survive_every_injected_fault(database: Database) -> None:
    """A caller that reads the fence after OutcomeUnknown loses nothing and doubles nothing."""
    real = await database.open()
    store = FaultyStore(real, seed=11, rate=0.4, sleep=_at_once)

    await asyncio.gather(*(_drive(store, f"exec_{number}", turns=30) for number in range(8)))

    await _assert_whole(real, 8, 30)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_same_seed_makes_the_same_faults(seed: int) -> None:
    first, second, other = [await _history(number) for number in (seed, seed, seed + 100)]

    assert first == second != other
    assert set(first) == {"Outcome", "Unavailable", "OutcomeUnknown"}


async def _history(seed: int) -> list[str]:
    store = FaultyStore(await InMemory().open(), seed=seed, rate=0.5, sleep=_at_once)
    answers = [await _tolerate(store.journal.commit(first_turn(f"exec_{n}"))) for n in range(60)]
    return [type(answer).__name__ for answer in answers]


async def test_a_store_without_a_fence_is_found_out() -> None:
    class Forgetful:
        async def commit(self, turn: Turn) -> Outcome:
            return Outcome.COMMITTED

        async def close(self) -> None: ...

    real = await InMemory().open()
    real.journal = Forgetful()
    store = FaultyStore(real, seed=5, rate=1, sleep=_at_once)

    turns = [first_turn(f"exec_{number}") for number in range(100)]
    answers = await asyncio.gather(*(store.journal.commit(turn) for turn in turns), return_exceptions=True)

    assert any(isinstance(answer, DuplicateCommitted) for answer in answers)


async def test_every_call_of_a_faulty_store_fails_now_and_then(database: Database) -> None:
    store = FaultyStore(await database.open(), seed=3, rate=0.5, sleep=_at_once)
    tenant, system = store.tenant("default"), store.system
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "register_workflow": lambda: tenant.register_workflow(workflow()),
        "execution": lambda: tenant.execution("exec_1"),
        "executions": lambda: tenant.executions(limit=3),
        "now": lambda: system.now(),
        "register_executor": lambda: system.register_executor(executor("a#1")),
        "heartbeat": lambda: system.heartbeat("a#1", live=0, state="active"),
        "sweep": lambda: system.sweep(limit=5),
        "ping": lambda: store.ping(),
    }

    for name, call in calls.items():
        results = [await _tolerate(call()) for _ in range(30)]
        failed = sum(1 for result in results if isinstance(result, Unavailable))
        assert 0 < failed < 30, name
    assert tenant.tenant_id == "default"


async def test_a_store_at_rate_zero_is_the_real_one(database: Database) -> None:
    store = FaultyStore(await database.open(), seed=1, rate=0)

    assert await store.journal.commit(first_turn("exec_1")) is Outcome.COMMITTED
    assert await store.journal.commit(first_turn("exec_1")) is Outcome.FENCED
    assert {fault.value for fault in Fault} == {"refuse", "delay", "lose_answer", "lose_call", "duplicate"}


async def _tolerate(call: Awaitable[object]) -> object:
    try:
        return await call
    except Unavailable as error:
        return error


async def _at_once(seconds: float) -> None:
    await asyncio.sleep(0)


async def _drive(store: Store, execution_id: str, *, turns: int) -> None:
    """Commit exactly ``turns`` turns, whatever the store does, as an owner would."""
    done = 0
    while done < turns:
        turn = next_turn(execution_id, done) if done else first_turn(execution_id)
        try:
            assert await store.journal.commit(turn) is Outcome.COMMITTED
            done += 1
        except OutcomeUnknown:
            done = await _sequence(store, execution_id)
        except Unavailable:
            await asyncio.sleep(0.01)


async def _sequence(store: Store, execution_id: str) -> int:
    while True:
        try:
            fence = await store.system.fence(execution_id)
        except Unavailable:
            await asyncio.sleep(0.01)
            continue
        return 0 if fence is None else fence.sequence


async def _assert_whole(store: Store, executions: int, turns: int) -> None:
    for number in range(executions):
        found = await store.tenant("default").events(f"exec_{number}")
        assert [event.sequence for event in found] == list(range(1, turns + 1))
