"""Statements compiled once, and sessions that run them on a raw DBAPI connection.

SQLAlchemy writes the SQL for each dialect; at run time only the driver is left
between a call and the database. A ``Session`` is one connection, used by one
thread at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from runtime.audit.entries import AuditEntry
from runtime.errors import Unavailable
from runtime.store.port import Outcome, Turn

T = TypeVar("T")


SQLITE_CLOCK = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
# The clock at the statement's start: unlike clock_timestamp() it may bound the scan of an index.
POSTGRES_CLOCK = "CAST(FLOOR(EXTRACT(EPOCH FROM statement_timestamp()) * 1000) AS BIGINT)"


class clock_ms(FunctionElement[int]):
    """The database's clock in milliseconds since the epoch."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(clock_ms, "sqlite")
def _sqlite_clock(element: Any, compiler: Any, **options: Any) -> str:
    return SQLITE_CLOCK


@compiles(clock_ms, "postgresql")
def _postgres_clock(element: Any, compiler: Any, **options: Any) -> str:
    return POSTGRES_CLOCK


class Statement:
    """One SQL text of a dialect, with positional parameters."""

    __slots__ = ("_constants", "names", "sql")

    def __init__(self, clause: ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        self.sql = str(compiled)
        names = tuple(compiled.positiontup or ())
        self.names = tuple(name.removeprefix(_PREFIX) for name in names)
        self._constants = {
            name: value for name, value in compiled.params.items() if not compiled.binds[name].required
        }

    def bind(self, values: dict[str, Any]) -> Sequence[Any]:
        """The parameters in the order of the text."""
        if self._constants:
            values = self._constants | values
        return [values[name] for name in self.names]


_PREFIX = "p_"


def param(name: str, type_: Any = None) -> sa.BindParameter[Any]:
    """A parameter that ``Session.execute`` takes under ``name``, which may be a column's."""
    return sa.bindparam(_PREFIX + name, type_=type_)


class Cursor(Protocol):
    """The part of a DBAPI cursor that is used."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Session:
    """One connection. ``execute`` runs a compiled statement with named values."""

    __slots__ = ("audited", "connection")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.audited: list[tuple[str, AuditEntry]] = []
        """What the writer appends to the audit log before it commits."""

    def record(self, tenant_id: str, entry: AuditEntry) -> None:
        """Audit what this transaction does, in the log of a tenant."""
        self.audited.append((tenant_id, entry))

    def execute(self, statement: Statement, **values: Any) -> Cursor:
        cursor: Cursor = self.connection.execute(statement.sql, statement.bind(values))
        return cursor

    def row(self, statement: Statement, **values: Any) -> Any | None:
        """The only row, or None."""
        rows = self.execute(statement, **values).fetchall()
        return rows[0] if rows else None

    def rows(self, statement: Statement, **values: Any) -> list[Any]:
        return self.execute(statement, **values).fetchall()

    def scalar(self, statement: Statement, **values: Any) -> Any:
        """The first column of the only row."""
        return self.execute(statement, **values).fetchall()[0][0]


Query = Callable[[Session], T]
"""What runs in one session: any reads, or the statements of one write transaction."""


class Contended(Unavailable):
    """One member's row was locked by another writer for too long; the group was rolled back."""


class Writer(Protocol):
    """The one writing connection of a process, used by the journal's thread alone.

    Both methods raise ``Unavailable`` (rolled back, or refused before anything was
    sent), ``OutcomeUnknown`` and ``ValueRejected`` (rolled back). After a ``Contended``
    or a ``ValueRejected`` the members of a group may fare better one by one.
    """

    def commit(self, turns: Sequence[Turn]) -> list[Outcome]:
        """One group in one transaction; the turns have distinct executions and keys."""

    def run(self, query: Query[T]) -> T:
        """One write transaction. A ``JamjetError`` that the query raises rolls it back."""

    def close(self) -> None: ...


class Database(Protocol):
    """Where sessions come from."""

    dialect: sa.Dialect
    probe: str
    """A statement that fails, in a write transaction, when the database cannot be written."""

    def reader(self) -> Session: ...

    def writer(self) -> Writer: ...

    def engine(self) -> sa.Engine:
        """For migrations: its transactions exclude one another."""

    def failure(self, error: Exception) -> Exception:
        """What a driver's error means to the caller, when nothing was written; any other is itself."""

    def is_lost(self, session: Session) -> bool:
        """True: the connection is of no more use."""


def describe(error: Exception) -> str:
    """A driver's error on one line, in lower case."""
    return " ".join(str(error).split()).lower() or type(error).__name__
