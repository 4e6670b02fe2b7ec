"""The audit log on every store: what is recorded, in the same transaction, in chains that verify."""

import asyncio
import sqlite3
from typing import Any

import msgspec
import psycopg
import pytest

from runtime.audit.check import Report, check_log
from runtime.audit.entries import IDLE_MS, AuditEntry, AuditRow, Origin
from runtime.audit.seals import Seal, SigningKey
from runtime.errors import Conflict, LimitReached, NotFound, OutcomeUnknown, Unavailable, ValueRejected
from runtime.store import Outcome, Store, TokenRow, Turn, open_store, sealing
from runtime.store.journal import GroupCommitJournal
from runtime.store.postgres import GROUP_AND_AUDIT, PostgresWriter
from tests.conformance.store_cases import (
    Database,
    Sql,
    Sqlite,
    first_turn,
    next_turn,
    record,
    workflow,
)

BY = Origin(
    actor_id="token:tok_1",
    actor_type="human",
    request_id="req-1",
    http_method="POST",
    http_path="/tokens",
    ip_address="192.0.2.7",
)
DAY_MS = 24 * 3_600 * 1_000


def entry(number: int = 1, **changes: Any) -> AuditEntry:
    made = BY.entry("node_completed", sequence=number, created_at=1_000 + number)
    return msgspec.structs.replace(made, **changes)


def audited(turn: Turn, *entries: AuditEntry) -> Turn:
    return msgspec.structs.replace(turn, audit=entries)


async def entries_of(store: Store, tenant_id: str = "default") -> list[AuditRow]:
    """Every entry, in the order of chains."""
    return await store.tenant(tenant_id).audit_rows(limit=100_000)


async def seals_of(store: Store, tenant_id: str = "default") -> list[Seal]:
    return await store.tenant(tenant_id).seals(limit=100_000)


async def report_of(store: Store, tenant_id: str = "default", key: SigningKey | None = None) -> Report:
    keys = [] if key is None else [key.public]
    return check_log(
        tenant_id, await seals_of(store, tenant_id), await entries_of(store, tenant_id), keys=keys
    )


async def assert_whole(store: Store, count: int, tenant_id: str = "default") -> Report:
    report = await report_of(store, tenant_id)
    assert report.problem is None, report.problem
    assert report.entries == count
    return report


# --- what is recorded -----------------------------------------------------------------------------


async def test_what_people_change_is_recorded_in_their_tenants_log(store: Store) -> None:
    await store.system.create_tenant("acme", "Acme", limits='{"max_workflows":1}', by=BY)
    await store.system.update_tenant("acme", name="ACME", by=BY)
    acme = store.tenant("acme", BY)
    await acme.register_workflow(workflow())
    token = TokenRow(id="tok_2", tenant_id="acme", name="ci", role="viewer", token_hash="h", created_at=1)
    await acme.create_token(token)
    await acme.revoke_token("ci")

    rows, total = await acme.audit()

    assert total == 5
    assert [row.event_type for row in reversed(rows)] == [
        "tenant_created", "tenant_updated", "workflow_registered", "token_created", "token_revoked"
    ]  # fmt: skip
    for row in rows:
        assert (row.actor_id, row.request_id, row.ip_address) == ("token:tok_1", "req-1", "192.0.2.7")
        assert row.created_at > 0
    assert '"limits":{"max_workflows":1}' in (rows[-1].details or "")
    assert (await store.tenant("default").audit())[1] == 0
    await assert_whole(store, 5, "acme")


async def test_what_changes_nothing_is_not_recorded(store: Store) -> None:
    await store.system.create_tenant("acme", "Acme", limits='{"max_workflows":1}', by=BY)
    acme = store.tenant("acme", BY)
    await acme.register_workflow(workflow())

    await acme.register_workflow(workflow())
    with pytest.raises(Conflict):
        await acme.register_workflow(workflow(digest="d2"))
    with pytest.raises(LimitReached):
        await acme.register_workflow(workflow("other"))
    with pytest.raises(Conflict):
        await store.system.create_tenant("acme", "Acme", by=BY)
    assert not await acme.revoke_token("nobody")
    assert await store.system.update_tenant("nobody", name="x", by=BY) is None
    missing = TokenRow(id="t", tenant_id="gone", name="t", role="viewer", token_hash="h", created_at=1)
    with pytest.raises(NotFound):
        await store.tenant("gone", BY).create_token(missing)

    await assert_whole(store, 2, "acme")
    assert (await store.tenant("gone").audit())[1] == 0


async def test_a_turns_entries_are_committed_with_it(store: Store) -> None:
    turn = audited(first_turn("exec_1"), entry(1, execution_id="exec_1"), entry(2))
    assert await store.journal.commit(turn) is Outcome.COMMITTED

    rows, total = await store.tenant("default").audit(execution_id="exec_1")
    assert (total, rows[0].sequence, rows[0].created_at) == (1, 1, 1_001)
    await assert_whole(store, 2)


async def test_a_turn_that_loses_leaves_no_entry_and_no_gap(store: Store) -> None:
    await store.journal.commit(audited(first_turn("exec_0", idempotency=record()), entry(1)))
    turns = [
        audited(first_turn("exec_1"), entry(2)),
        audited(next_turn("exec_0", 7), entry(3)),
        audited(first_turn("exec_2", idempotency=record()), entry(4)),
        audited(first_turn("exec_3"), entry(5)),
    ]

    outcomes = await asyncio.gather(*(store.journal.commit(turn) for turn in turns))

    assert outcomes == [Outcome.COMMITTED, Outcome.FENCED, Outcome.KEY_TAKEN, Outcome.COMMITTED]
    assert sorted(row.sequence or 0 for row in await entries_of(store)) == [1, 2, 5]
    await assert_whole(store, 3)


async def test_entries_that_were_rolled_back_leave_no_gap_whatever_is_committed_next(
    sql_database: Sql,
) -> None:
    store = await sql_database.open()
    await store.journal.commit(audited(first_turn("exec_0"), entry(1)))
    with pytest.raises(ValueRejected):
        await store.journal.commit(audited(first_turn("exec_1"), entry(2), entry(3, sequence=2**63)))

    await store.system.mark_dead(("nobody",))
    await store.journal.commit(audited(first_turn("exec_2"), entry(4)))

    await assert_whole(store, 2)


@pytest.mark.parametrize("text", ["\x00", "\ud800"])
async def test_an_entry_that_no_store_can_hold_is_its_turns_own_trouble(store: Store, text: str) -> None:
    bad = audited(first_turn("exec_1"), entry(2, http_path=text))
    turns = [audited(first_turn("exec_0"), entry(1)), bad, audited(first_turn("exec_2"), entry(3))]

    found = await asyncio.gather(*(store.journal.commit(turn) for turn in turns), return_exceptions=True)

    assert (found[0], found[2]) == (Outcome.COMMITTED, Outcome.COMMITTED)
    assert isinstance(found[1], ValueRejected)
    await assert_whole(store, 2)


class LastWords:
    """A connection that is ended when it has committed a group: the server's last words are the answer."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._real = connection
        self.spoken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, query: Any, *args: Any, **given: Any) -> Any:
        result = self._real.execute(query, *args, **given)
        if query is GROUP_AND_AUDIT and not self.spoken:
            self.spoken = True
            raise psycopg.errors.AdminShutdown("terminating connection due to administrator command")
        return result


async def test_last_words_instead_of_an_answer_leave_the_outcome_unknown(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group may be committed, and its entries with it: none may be put in their places."""
    store = await open_store(postgres_url)
    try:
        await store.journal.commit(audited(first_turn("exec_1"), entry()))
        ready = PostgresWriter._ready
        ending: list[LastWords] = []

        def cut(self: PostgresWriter) -> Any:
            ending[:] = ending or [LastWords(ready(self))]
            return ending[0] if not ending[0].spoken else ready(self)

        monkeypatch.setattr(PostgresWriter, "_ready", cut)
        with pytest.raises(OutcomeUnknown):
            await store.journal.commit(audited(next_turn("exec_1", 1), entry(2)))
        for after in (2, 3):
            turn = audited(next_turn("exec_1", after), entry(after + 1))
            assert await store.journal.commit(turn) is Outcome.COMMITTED
        await assert_whole(store, 4)
    finally:
        await store.close()


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_chain_that_is_not_where_it_was_is_not_gone_on_with(postgres_url: str, keyed: bool) -> None:
    store = await open_store(postgres_url)
    try:
        await store.journal.commit(audited(first_turn("exec_1"), entry()))
        assert isinstance(store.journal, GroupCommitJournal)
        writer = store.journal._writer
        assert isinstance(writer, PostgresWriter)
        before = dict(writer._audit.chains._heads)
        await store.journal.commit(audited(next_turn("exec_1", 1), entry(2)))
        writer._audit.chains._heads = before

        turn = next_turn("exec_1", 2, idempotency=record("key") if keyed else None)
        if keyed:
            with pytest.raises(Unavailable):
                await store.journal.commit(audited(turn, entry(3)))
        assert await store.journal.commit(audited(turn, entry(3))) is Outcome.COMMITTED
        await assert_whole(store, 3)
    finally:
        await store.close()


async def test_many_turns_of_many_processes_make_whole_chains(database: Database) -> None:
    stores = [await database.open() for _ in range(3)]
    turns = [audited(first_turn(f"exec_{n}"), entry(1), entry(2)) for n in range(90)]
    await asyncio.gather(*(stores[n % 3].journal.commit(turn) for n, turn in enumerate(turns)))

    report = await assert_whole(stores[0], 180)
    assert report.chains == 3


async def test_a_chain_that_was_silent_for_long_is_not_continued(store: Store) -> None:
    tenant = store.tenant("default")
    await tenant.record(
        entry(1), entry(2, created_at=1_001 + IDLE_MS), entry(3, created_at=1_002 + 2 * IDLE_MS)
    )

    report = await assert_whole(store, 3)
    assert report.chains == 2


async def test_an_entry_that_the_store_cannot_hold_is_refused_whole(store: Store) -> None:
    with pytest.raises(ValueRejected):
        await store.tenant("default").record(entry(1), entry(2, details="\x00"))
    await assert_whole(store, 0)


# --- pages ----------------------------------------------------------------------------------------


async def test_filters_hold_together_and_the_order_is_stable(store: Store) -> None:
    tenant = store.tenant("default")
    for number in range(12):
        await tenant.record(
            entry(
                number,
                created_at=5_000 + number // 3,
                execution_id=f"exec_{number % 2}",
                actor_id="agent:a" if number % 3 else "agent:b",
            )
            if number % 4
            else BY.entry("workflow_started", sequence=number, created_at=5_000 + number // 3)
        )

    rows, total = await tenant.audit(limit=5)
    more, _ = await tenant.audit(limit=50, offset=5)
    assert (total, len(rows), len(more)) == (12, 5, 7)
    everything = [*rows, *more]
    assert everything == (await tenant.audit(limit=50))[0]
    assert [row.created_at for row in everything] == sorted((r.created_at for r in everything), reverse=True)
    assert len({row.id for row in everything}) == 12

    rows, total = await tenant.audit(execution_id="exec_1", actor_id="agent:a", event_type="node_completed")
    expected = [row for row in everything if (row.execution_id, row.actor_id) == ("exec_1", "agent:a")]
    assert (rows, total) == (expected, len(expected))
    assert expected
    assert await tenant.audit(execution_id="exec_1", event_type="workflow_started") == ([], 0)
    assert await tenant.audit(execution_id="\x00") == ([], 0)


# --- seals ----------------------------------------------------------------------------------------


async def test_what_has_moved_is_sealed_once(store: Store) -> None:
    key = SigningKey.generate()
    await store.system.create_tenant("acme", "Acme", by=BY)
    await store.tenant("default").record(entry(1), entry(2))

    assert await store.system.seal_audit(key) == 2
    assert await store.system.seal_audit(key) == 0
    await store.tenant("default").record(entry(3))
    assert (await report_of(store)).unsealed == 1
    assert await store.system.seal_audit(key) == 1

    report = await report_of(store, key=key)
    assert (report.problem, report.seals, report.unsealed, report.unsigned) == (None, 2, 0, 0)
    assert [seal.number for seal in await seals_of(store)] == [1, 2]
    assert await store.system.audited_tenants() == ["acme", "default"]
    other = await report_of(store, key=SigningKey.generate())
    assert other.problem is not None
    assert other.problem.where == "seal 1"


async def test_two_that_seal_at_once_do_no_harm(database: Database) -> None:
    stores = [await database.open() for _ in range(3)]
    key = SigningKey.generate()
    for number in range(15):
        await asyncio.gather(*(store.tenant("default").record(entry(number)) for store in stores))
        await asyncio.gather(*(store.system.seal_audit(key) for store in stores))

    report = await report_of(stores[0], key=key)
    assert (report.problem, report.entries, report.unsealed) == (None, 45, 0)
    assert report.seals >= 15


async def test_sealing_beside_writing_keeps_all_whole(database: Database) -> None:
    stores = [await database.open() for _ in range(2)]

    async def write(store: Store, first: int) -> None:
        for number in range(40):
            await store.journal.commit(audited(first_turn(f"exec_{first + number}"), entry(number + 1)))

    async def seal() -> None:
        for _ in range(20):
            await stores[1].system.seal_audit(None)

    await asyncio.gather(write(stores[0], 0), write(stores[1], 100), seal())
    await stores[0].system.seal_audit(None)

    report = await assert_whole(stores[0], 80)
    assert (report.unsealed, report.unsigned) == (0, report.seals)


# --- pruning --------------------------------------------------------------------------------------


async def sealed_days(store: Store, key: SigningKey | None, first: int, days: int) -> None:
    """Three entries a day, each day sealed."""
    for day in range(first, first + days):
        entries = [entry(3 * day + n, created_at=day * DAY_MS + 1 + n) for n in range(3)]
        await store.tenant("default").record(*entries)
        await store.system.seal_audit(key)


async def test_what_is_left_after_pruning_verifies(store: Store) -> None:
    key = SigningKey.generate()
    await sealed_days(store, key, 1, 6)

    assert await store.system.prune_audit("default", before=4 * DAY_MS, key=key) == 9
    report = await report_of(store, key=key)
    assert (report.problem, report.entries) == (None, 9)

    assert await store.system.prune_audit("default", before=4 * DAY_MS, key=key) == 0
    assert await store.system.prune_audit("default", before=5 * DAY_MS, key=key) == 3
    await sealed_days(store, key, 7, 2)
    assert await store.system.prune_audit("default", before=8 * DAY_MS, key=key) == 9
    report = await report_of(store, key=key)
    assert (report.problem, report.entries) == (None, 3)


async def test_a_log_that_was_pruned_whole_goes_on(store: Store) -> None:
    key = SigningKey.generate()
    await sealed_days(store, key, 1, 2)
    assert await store.system.prune_audit("default", before=9 * DAY_MS, key=key) == 6
    assert (await report_of(store, key=key)).problem is None

    await sealed_days(store, key, 9, 1)
    report = await report_of(store, key=key)
    assert (report.problem, report.entries) == (None, 3)
    assert await store.system.prune_audit("default", before=20 * DAY_MS, key=key) == 3
    assert (await report_of(store, key=key)).problem is None


async def test_what_is_not_sealed_is_not_pruned(store: Store) -> None:
    await store.tenant("default").record(entry(1), entry(2))
    assert await store.system.prune_audit("default", before=DAY_MS, key=None) == 0
    await store.system.seal_audit(None)
    await store.tenant("default").record(entry(3))
    assert await store.system.prune_audit("default", before=DAY_MS, key=None) == 2
    await assert_whole(store, 1)


async def test_old_seals_are_pruned_with_what_they_sealed(database: Database) -> None:
    store = await database.open()
    await sealed_days(store, None, 1, 3)
    if isinstance(database, Sql):
        database.execute(_without_guards(database))
        database.execute(f"UPDATE audit_seals SET created_at = created_at - {50 * DAY_MS}")
    await database.pass_time(50 * DAY_MS)
    before = await store.system.now() - 40 * DAY_MS

    assert await store.system.prune_audit("default", before=before, key=None) == 9

    numbers = [seal.number for seal in await seals_of(store)]
    assert numbers[-1] == 4
    assert len(numbers) < 4


async def test_pruning_in_many_steps_keeps_what_is_left_sealed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PRUNED_MAX", 4)
    monkeypatch.setattr(sealing, "SEALS_KEPT_MS", -DAY_MS)
    stores = [await database.open() for _ in range(3)]
    for store in stores:
        await store.tenant("default").record(*(entry(number) for number in range(7)))
        await store.system.seal_audit(None)

    steps = 0
    while await stores[0].system.prune_audit("default", before=2 * DAY_MS, key=None):
        steps += 1
        report = await report_of(stores[0])
        assert (report.problem, report.unsealed) == (None, 0), f"after {steps} steps"
    assert steps > 5
    assert await entries_of(stores[0]) == []


async def test_after_everything_is_pruned_its_writer_goes_on(database: Database) -> None:
    """Also where other chains were sealed later, so that nothing but the pruning seal knows the old one."""
    stores = [await database.open() for _ in range(2)]
    for number in range(3):
        for one in stores:
            await one.tenant("default").record(entry(number))
            await stores[0].system.seal_audit(None)
        while await stores[0].system.prune_audit("default", before=2 * DAY_MS, key=None):
            pass
        await assert_whole(stores[0], 0)
    for one in stores:
        await one.tenant("default").record(entry(9))

    assert {row.position for row in await entries_of(stores[0])} == {4}
    await assert_whole(stores[0], 2)


async def test_many_who_prune_and_seal_at_once_do_no_harm(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PRUNED_MAX", 3)
    monkeypatch.setattr(sealing, "SEALS_KEPT_MS", -DAY_MS)
    stores = [await database.open() for _ in range(3)]
    for number in range(20):
        await asyncio.gather(
            *(store.tenant("default").record(entry(number), entry(number)) for store in stores)
        )
        await asyncio.gather(
            *(store.system.seal_audit(None) for store in stores),
            *(
                store.system.prune_audit("default", before=1_000 + number - behind, key=None)
                for behind, store in enumerate(stores)
            ),
        )
        assert (await report_of(stores[0])).problem is None


def _without_guards(database: Sql) -> str:
    if isinstance(database, Sqlite):
        return "DROP TRIGGER audit_seals_no_update"
    return "DROP TRIGGER audit_seals_append_only ON audit_seals"


# --- what the database refuses --------------------------------------------------------------------

REFUSED = [
    "UPDATE audit SET actor_id = 'agent:x'",
    "UPDATE audit SET hash = hash",
    "DELETE FROM audit",
    "UPDATE audit_seals SET signature = NULL",
    "DELETE FROM audit_seals",
]


@pytest.mark.parametrize("statement", REFUSED)
async def test_the_database_refuses_to_change_the_log(sql_database: Sql, statement: str) -> None:
    store = await sql_database.open()
    await store.tenant("default").record(entry(1))
    await store.system.seal_audit(None)

    with pytest.raises((sqlite3.Error, psycopg.Error), match="append-only"):
        await asyncio.to_thread(sql_database.execute, statement)
    await assert_whole(store, 1)


@pytest.mark.parametrize("table", ["audit", "audit_seals"])
async def test_the_log_cannot_be_emptied(postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url) as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute(f"TRUNCATE {table}".encode())
