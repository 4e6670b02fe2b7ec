"""Opening the store that a database URL names."""

import asyncio
import os
from typing import TYPE_CHECKING

from runtime.errors import BadRequest
from runtime.store.port import Store

if TYPE_CHECKING:
    from runtime.store.journal import CommitObserver

FAULTS_VARIABLE = "JAMJET_STORE_FAULTS"
"""``seed`` or ``seed:rate``: every opened store fails now and then, the same way for the same seed."""

FAULTS_RATE = 0.05


async def open_store(url: str, *, migrate: bool = True, on_commit: "CommitObserver | None" = None) -> Store:
    """Open a database, and bring its schema up to date.

    Args:
        url: any form of ``DATABASE_URL`` (see ``runtime.store.url``).
        migrate: False refuses a database whose schema is not this release's.
        on_commit: told of each group of turns that the journal commits.

    Raises:
        BadRequest: the URL names no database that is supported.
        Unavailable: the database cannot be opened, read, written or migrated.
    """
    faults = _parse_faults(os.environ.get(FAULTS_VARIABLE, ""))
    store = await asyncio.to_thread(_open, url, migrate, on_commit)
    try:
        await store.ping()
    except BaseException:
        await store.close()
        raise
    if faults is None:
        return store
    from runtime.store.faulty import FaultyStore

    seed, rate = faults
    return FaultyStore(store, seed=seed, rate=rate)


def _open(url: str, migrate: bool, on_commit: "CommitObserver | None") -> Store:
    # The databases' libraries take half a second to import, and importers of the port need none of them.
    from runtime.store import migrations
    from runtime.store.repository import SqlStore
    from runtime.store.sql import Database
    from runtime.store.url import SqliteUrl, parse_url

    target = parse_url(url)
    database: Database
    if isinstance(target, SqliteUrl):
        from runtime.store.sqlite import SqliteDatabase

        database = SqliteDatabase(target.path)
    else:
        from runtime.store.postgres import PostgresDatabase

        database = PostgresDatabase(target.conninfo)
    if migrate:
        migrations.migrate(database)
    else:
        migrations.require_current(database)
    return SqlStore(database, on_commit)


def _parse_faults(setting: str) -> tuple[int, float] | None:
    """Seed and rate, or None for a store without faults."""
    if not setting:
        return None
    seed, _, rate = setting.partition(":")
    try:
        faults = int(seed), float(rate) if rate else FAULTS_RATE
    except ValueError as error:
        raise BadRequest(f"{FAULTS_VARIABLE} is {setting!r}: use 'seed' or 'seed:rate'") from error
    if not 0 <= faults[1] <= 1:
        raise BadRequest(f"{FAULTS_VARIABLE} is {setting!r}: the rate is not between 0 and 1")
    return faults
