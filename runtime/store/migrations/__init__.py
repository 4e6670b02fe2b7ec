"""The schema's history, applied when a database is opened.

Whoever opens first migrates, in one transaction that excludes the others; who
comes second finds the work done. A database that is up to date is recognised by
one SELECT, without Alembic being imported.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from runtime.errors import Unavailable
from runtime.store.sql import Database, describe

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0005"
"""The newest revision."""

KNOWN = ("0001", "0002", "0003", "0004", "0005")
"""Every revision that this release can start from."""

LOCK_NAME = "jamjet:migrations"
LOCK_WAIT = "60s"


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision.

    Raises:
        Unavailable: it cannot be read or changed, or belongs to a newer release.
    """
    if revision(database) == HEAD:
        return
    command = import_module("alembic.command")
    engine = database.engine()
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql(
                    f"SELECT pg_advisory_xact_lock(hashtextextended('{LOCK_NAME}', 0))"
                )
            if _revision(connection) != HEAD:
                configuration = config()
                configuration.attributes["connection"] = connection
                command.upgrade(configuration, HEAD)
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise Unavailable(f"the database cannot be migrated: {_reason(error)}") from error
    finally:
        engine.dispose()


def require_current(database: Database) -> None:
    """Refuse a database of another release.

    Raises:
        Unavailable: its schema is not at the newest revision.
    """
    found = revision(database)
    if found != HEAD:
        raise Unavailable(f"the database's schema is at revision {found!r}, this release needs {HEAD!r}")


def revision(database: Database) -> str | None:
    """The database's revision; None for one without tables of ours.

    Raises:
        Unavailable: it cannot be read, or was migrated by a newer release.
    """
    engine = database.engine()
    try:
        with engine.connect() as connection:
            return _revision(connection)
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise Unavailable(f"the database cannot be read: {_reason(error)}") from error
    finally:
        engine.dispose()


def config() -> "Config":
    """Alembic's configuration, without a file."""
    configuration: Config = import_module("alembic.config").Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    return configuration


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if found is not None and found not in KNOWN:
        raise Unavailable(f"the database's schema is at revision {found!r}, of a newer release than this one")
    return found


def _reason(error: Exception) -> str:
    origin = getattr(error, "orig", None)
    return describe(origin if isinstance(origin, Exception) else error)
