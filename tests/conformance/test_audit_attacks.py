"""Somebody with the database in his hands changes the audit log: verification names what he touched.

He has dropped the triggers. What he does to an entry is found at that entry; what he makes
consistent again up to the end of a chain is found at the next head that was sealed. Only one
thing leaves no trace in the database: the end of the log deleted together with its seals.
That is what a seal kept elsewhere is for.
"""

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import msgspec
import pytest

from runtime.audit.check import Report, check_log
from runtime.audit.entries import ROW_FIELDS as COLUMNS
from runtime.audit.entries import AuditEntry, entry_id, row_hash
from runtime.audit.file import read_log, write_log
from runtime.audit.seals import SigningKey, seal_hash
from runtime.store import Store, open_store

ENTRIES = 10_000
CHAINS = 5
ROUNDS = 8
"""Each ends with a seal, so that every chain has so many sealed heads."""
KEY = SigningKey.generate()


async def build(path: Path) -> None:
    """A log of 10,000 entries in 5 chains under 8 seals, and another tenant's."""
    stores = [await open_store(str(path)) for _ in range(CHAINS)]
    await stores[0].system.create_tenant("acme", "Acme")
    each = ENTRIES // CHAINS // ROUNDS
    for turn in range(ROUNDS):
        for chain, store in enumerate(stores):
            numbers = range(turn * each, (turn + 1) * each)
            await store.tenant("default").record(*(entry(chain, number) for number in numbers))
        await stores[0].system.seal_audit(KEY)
    for store in stores:
        await store.close()


def entry(chain: int, number: int) -> AuditEntry:
    return AuditEntry(
        execution_id=f"exec_{chain:02}{number:06}",
        event_type="node_completed",
        actor_id="agent:flow",
        actor_type="agent",
        created_at=1_700_000_000_000 + number,
        sequence=number + 1,
        event_digest=f"{number:064x}",
        node_id="one",
        tool_call_hash="ab" * 32,
        policy_decision="allow",
        request_id="r",
        http_method="POST",
        http_path="/executions",
        ip_address="192.0.2.1",
        details='{"a":1}',
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "runtime.db"
    asyncio.run(build(path))
    return path


class Attacker:
    """A copy of the database without its triggers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        for name in ("audit_no_update", "audit_no_delete", "audit_seals_no_update", "audit_seals_no_delete"):
            self.connection.execute(f"DROP TRIGGER {name}")

    def run(self, statement: str, *values: Any) -> list[Any]:
        return self.connection.execute(statement, values).fetchall()

    def some(self, where: str = "TRUE") -> tuple[str, int]:
        """The place of a random entry of the default tenant."""
        found = self.run(f"SELECT chain, position FROM audit WHERE tenant_id = 'default' AND {where}")
        place: tuple[str, int] = RANDOM.choice(found)
        return place

    def rehash(self, chain: str, first: int) -> None:
        """Make a chain consistent again from a position on."""
        asyncio.run(self._rehash(chain, first))

    async def _rehash(self, chain: str, first: int) -> None:
        store = await open_store(str(self.path))
        rows = await store.tenant("default").audit_rows(after=(chain, first - 2), limit=ENTRIES)
        await store.close()
        previous = rows[0].hash
        for row in rows[1:]:
            if row.chain != chain:
                break
            previous = row_hash(previous, row)
            self.run(
                "UPDATE audit SET hash = ? WHERE chain = ? AND position = ?", previous, chain, row.position
            )


RANDOM = random.Random(7)


@pytest.fixture
def attacker(built: Path, tmp_path: Path) -> Iterator[Attacker]:
    path = tmp_path / "runtime.db"
    copyfile(built, path)
    made = Attacker(path)
    yield made
    made.connection.close()


def verified(path: Path, tenant_id: str = "default", **options: Any) -> Report:
    async def read() -> Report:
        store = await open_store(str(path))
        try:
            return await verify(store, tenant_id, **options)
        finally:
            await store.close()

    return asyncio.run(read())


async def verify(store: Store, tenant_id: str, **options: Any) -> Report:
    tenant = store.tenant(tenant_id)
    seals, rows = await tenant.seals(limit=10_000), await tenant.audit_rows(limit=100_000)
    return check_log(tenant_id, seals, rows, **{"keys": [KEY.public], **options})


def assert_found(attacker: Attacker, *wheres: str, tenant_id: str = "default") -> None:
    """The problem that is named is about one of these."""
    problem = verified(attacker.path, tenant_id).problem
    assert problem is not None, "nobody noticed"
    assert problem.where in wheres, problem


def test_an_untouched_log_verifies(attacker: Attacker) -> None:
    report = verified(attacker.path)
    assert (report.problem, report.entries, report.chains, report.seals) == (None, ENTRIES, CHAINS, ROUNDS)
    assert (report.unsealed, report.unsigned) == (0, 0)


# --- entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("attempt", range(3))
def test_a_byte_of_any_column_cannot_be_changed(attacker: Attacker, column: str, attempt: int) -> None:
    chain, position = attacker.some()
    place = "WHERE tenant_id = 'default' AND chain = ? AND position = ?"
    ((value,),) = attacker.run(f"SELECT {column} FROM audit {place}", chain, position)
    changed = value + 1_000_000 if isinstance(value, int) else _flipped(value)
    attacker.run(f"UPDATE audit SET {column} = ? {place}", changed, chain, position)

    # An entry that was taken out of its place is missing there, and found where none can be.
    moved = entry_id(changed if column == "chain" else chain, position)
    first_of_new = entry_id(changed, 1) if column == "chain" else ""
    last = ENTRIES // CHAINS
    assert_found(attacker, entry_id(chain, position), moved, first_of_new, entry_id(chain, last + 1))


def _flipped(text: str) -> str:
    at = RANDOM.randrange(len(text))
    return text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]


def test_an_entry_cannot_be_taken_out(attacker: Attacker) -> None:
    for _ in range(5):
        chain, position = attacker.some(f"position < {ENTRIES // CHAINS}")
        attacker.run("DELETE FROM audit WHERE chain = ? AND position = ?", chain, position)
    problem = verified(attacker.path).problem
    assert problem is not None
    assert problem.what == "is missing"


def test_two_entries_cannot_be_swapped(attacker: Attacker) -> None:
    chain, first = attacker.some("position BETWEEN 2 AND 100")
    second = first + 17
    for source, target in ((first, -1), (second, first), (-1, second)):
        attacker.run("UPDATE audit SET position = ? WHERE chain = ? AND position = ?", target, chain, source)

    assert_found(attacker, entry_id(chain, first))


@pytest.mark.parametrize("count", [1, 300])
def test_a_sealed_tail_cannot_be_cut(attacker: Attacker, count: int) -> None:
    chain, _ = attacker.some()
    last = ENTRIES // CHAINS
    attacker.run("DELETE FROM audit WHERE chain = ? AND position > ?", chain, last - count)

    assert_found(attacker, entry_id(chain, last - count + 1))


def test_a_whole_chain_cannot_be_taken_out(attacker: Attacker) -> None:
    chain, _ = attacker.some()
    attacker.run("DELETE FROM audit WHERE chain = ?", chain)
    attacker.run("DELETE FROM audit_chains WHERE chain = ?", chain)

    assert_found(attacker, entry_id(chain, 1))


def test_a_chain_that_was_made_consistent_again_fails_at_the_next_sealed_head(attacker: Attacker) -> None:
    each = ENTRIES // CHAINS // ROUNDS
    chain, position = attacker.some(f"position BETWEEN 2 AND {each - 1}")
    attacker.run("UPDATE audit SET actor_id = 'agent:x' WHERE chain = ? AND position = ?", chain, position)
    attacker.rehash(chain, position)

    assert_found(attacker, entry_id(chain, each))


def test_an_entry_of_another_tenant_does_not_belong(attacker: Attacker) -> None:
    attacker.run("UPDATE audit SET tenant_id = 'acme' WHERE chain = ? AND position = ?", *attacker.some())

    problem = verified(attacker.path, "acme").problem
    assert problem is not None
    assert problem.where.startswith("audit_")


def test_an_entry_cannot_be_put_in(attacker: Attacker) -> None:
    chain, _ = attacker.some()
    columns = ", ".join(name for name in COLUMNS if name != "position")
    attacker.run(
        f"INSERT INTO audit ({columns}, position) SELECT {columns}, 2001 FROM audit"
        " WHERE tenant_id = 'default' AND chain = ? AND position = 2000",
        chain,
    )
    assert_found(attacker, entry_id(chain, 2001))


# --- seals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column", ["heads", "pruned", "kept_from", "kept_after", "created_at", "hash", "key_id", "signature"]
)
def test_a_seal_cannot_be_changed(attacker: Attacker, column: str) -> None:
    values = {
        "heads": '[["0000000000000000",5,"aa"]]',
        "pruned": '[["0000000000000000",5,"aa"]]',
        "kept_from": 3,
        "created_at": 5,
    }
    attacker.run(f"UPDATE audit_seals SET {column} = ? WHERE number = 4", values.get(column, "ab" * 32))

    problem = verified(attacker.path).problem
    assert problem is not None
    assert problem.where.startswith("seal ")


def test_a_seal_that_is_no_seal_is_named_too(attacker: Attacker) -> None:
    attacker.run("UPDATE audit_seals SET heads = 'x' WHERE number = 4")
    assert_found(attacker, "seal 4")


def test_a_seal_cannot_be_taken_out(attacker: Attacker) -> None:
    attacker.run("DELETE FROM audit_seals WHERE number = 4")
    assert_found(attacker, "seal 4")


@pytest.mark.parametrize("key", [None, SigningKey.generate()], ids=["unsigned", "another key"])
def test_a_seal_cannot_be_forged(attacker: Attacker, key: SigningKey | None) -> None:
    """Not even with all hashes after it made anew."""

    async def read() -> Any:
        store = await open_store(str(attacker.path))
        seals = await store.tenant("default").seals(limit=100)
        await store.close()
        return seals

    seals = asyncio.run(read())
    previous = seals[2].hash
    for seal in seals[3:]:
        forged = msgspec.structs.replace(
            seal, created_at=seal.created_at + 1, key_id=None if key is None else key.id
        )
        digest = seal_hash(previous, forged)
        signature = None if key is None else key.sign(bytes.fromhex(digest))
        attacker.run(
            "UPDATE audit_seals SET created_at = ?, hash = ?, key_id = ?, signature = ? WHERE number = ?"
            " AND tenant_id = 'default'",
            forged.created_at, digest, forged.key_id, signature, seal.number,
        )  # fmt: skip
        previous = digest

    assert_found(attacker, "seal 4")


def test_a_seal_of_another_tenant_is_none_of_this_one(attacker: Attacker) -> None:
    attacker.run("DELETE FROM audit_seals WHERE tenant_id = 'acme'")
    attacker.run("UPDATE audit_seals SET tenant_id = 'acme' WHERE number = 1 AND tenant_id = 'default'")

    assert_found(attacker, "seal 1")
    assert_found(attacker, "seal 1", tenant_id="acme")


def test_only_a_seal_that_was_kept_shows_that_the_end_was_cut_with_its_seals(attacker: Attacker) -> None:
    kept = verified(attacker.path).last_seal
    each = ENTRIES // CHAINS // ROUNDS
    attacker.run("DELETE FROM audit WHERE position > ? AND tenant_id = 'default'", 6 * each)
    attacker.run("DELETE FROM audit_seals WHERE number > 6")

    assert verified(attacker.path).problem is None
    problem = verified(attacker.path, anchor=kept).problem
    assert problem is not None
    assert problem.where == f"seal {ROUNDS}"


# --- an exported file -----------------------------------------------------------------------------


def exported(path: Path) -> list[bytes]:
    async def read() -> list[bytes]:
        store = await open_store(str(path))
        tenant = store.tenant("default")
        seals, rows = await tenant.seals(limit=10_000), await tenant.audit_rows(limit=100_000)
        await store.close()
        return list(write_log("default", seals, rows))

    return asyncio.run(read())


def test_an_exported_file_verifies_by_itself_and_shows_a_change(built: Path) -> None:
    lines = exported(built)
    tenant_id, seals, rows = read_log(lines)
    assert check_log(tenant_id, seals, rows, keys=[KEY.public]).problem is None

    at = RANDOM.randrange(ROUNDS + 1, len(lines))
    lines[at] = lines[at].replace(b"agent:flow", b"agent:flaw")
    tenant_id, seals, rows = read_log(lines)
    problem = check_log(tenant_id, seals, rows, keys=[KEY.public]).problem
    assert problem is not None

    del lines[at]
    tenant_id, seals, rows = read_log(lines)
    assert check_log(tenant_id, seals, rows, keys=[KEY.public]).problem is not None
