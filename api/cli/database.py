"""Commands that work on the database itself, and need no server."""

import getpass
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from api.cli.exits import EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_USAGE, CliError

if TYPE_CHECKING:
    from actors.settings import Settings
    from runtime.audit.entries import Origin
    from runtime.store.port import Store

T = TypeVar("T")


def database_settings(database: str | None) -> "Settings":
    """The settings, with the database that is named, else the project's."""
    from actors.settings import load_settings
    from api.cli.config_file import read_config_file

    file = read_config_file(needed=("database_url", "audit_key"))
    return load_settings(below=file.settings, database_url=database)


def on_database(database: str | None, work: "Callable[[Store], Awaitable[T]]") -> T:
    """Do something on the opened and migrated database."""
    with opened_database(database) as (store, run):
        return run(work(store))


@contextmanager
def opened_database(
    database: str | None, *, must_exist: bool = False
) -> "Iterator[tuple[Store, Callable[[Awaitable[T]], T]]]":
    """The opened and migrated database, and how to wait for what it is asked.

    Args:
        must_exist: whether a SQLite file that is missing is an error, rather than made.

    Raises:
        CliError: what a command says of the errors of a store.
    """
    import asyncio

    from runtime.errors import JamjetError, NotFound, Unavailable
    from runtime.store import open_store
    from runtime.store.url import SqliteUrl, parse_url

    async def waited(asked: Awaitable[T]) -> T:
        return await asked

    with asyncio.Runner() as runner:
        try:
            url = database_settings(database).database_url
            target = parse_url(url)
            if must_exist and isinstance(target, SqliteUrl) and not target.path.exists():
                raise CliError(f"there is no database {str(target.path)!r}: see --db", EXIT_NOT_FOUND)
            store = runner.run(open_store(url))
            try:
                yield store, lambda asked: runner.run(waited(asked))
            finally:
                runner.run(store.close())
        except Unavailable as error:
            raise CliError(f"the database cannot be used: {error}", EXIT_UNREACHABLE) from None
        except NotFound as error:
            raise CliError(f"there is no {error}: see `jamjet tenants list`", EXIT_NOT_FOUND) from None
        except JamjetError as error:
            raise CliError(str(error), EXIT_USAGE) from None


def command_line() -> "Origin":
    """Who changes the database from here, for the audit log."""
    from runtime.audit.entries import Origin

    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return Origin(actor_id=f"cli:{user}", actor_type="human")
