"""Every statement that is not part of a group commit, compiled for one dialect."""

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from runtime.ids import DEFAULT_TENANT
from runtime.store.admission import AdmissionQueries
from runtime.store.agent_queries import AgentQueries
from runtime.store.audit_queries import AuditQueries
from runtime.store.limits import (
    DEAD_KEPT_MS,
    DEAD_SHOWN_MS,
    MESSAGE_KEPT_MS,
    MESSAGE_LATE_MS,
    SILENT_KEPT_MS,
)
from runtime.store.port import (
    HELD_STATUSES,
    OPEN_STATUSES,
    OWNER_GONE_MS,
    EventRow,
    ExecutionRow,
    InboxMessage,
    TenantRow,
    TokenRow,
    WorkflowRow,
)
from runtime.store.sql import Statement, clock_ms, param
from runtime.store.tables import (
    DORMANT,
    ENDED,
    EXPOSED,
    HELD,
    OPEN,
    OWNED,
    RUNNABLE,
    UNREAD,
    WAKING,
    api_tokens,
    events,
    executions,
    executors,
    idempotency,
    inbox,
    installation_keys,
    snapshots,
    tenants,
    workflows,
)


class Queries:
    """The statements of one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._sqlite = dialect.name == "sqlite"
        self.audit = AuditQueries(dialect)
        self.admission = AdmissionQueries(dialect)
        self.agents = AgentQueries(dialect)
        self.now = self._make(sa.select(clock_ms()))
        self._make_workflows()
        self._make_executions()
        self._make_tokens()
        self._make_tenants()
        self._make_executors()
        self._make_sweep()
        self._make_load()
        self._make_prunes()
        self._make_retention()
        self.execution_page = lru_cache(maxsize=256)(self._execution_page)
        self.execution_count = lru_cache(maxsize=256)(self._execution_count)

    def _make(self, clause: Any) -> Statement:
        return Statement(clause, self._dialect)

    def _insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._sqlite else postgresql.insert(table)

    @property
    def _unlimited(self) -> Any:
        """LIMIT for a subquery whose order is to be kept: SQLite may drop the order of one without."""
        return sa.literal_column("-1") if self._sqlite else None

    # --- workflows --------------------------------------------------------------------------------

    def _make_workflows(self) -> None:
        table = workflows.c
        own = table.tenant_id == param("tenant_id")
        one = sa.and_(own, table.workflow_id == param("workflow_id"))
        columns = [table[name] for name in WorkflowRow.__struct_fields__]
        self.workflow = self._make(sa.select(*columns).where(one, table.version == param("version")))
        self.latest_workflow = self._make(
            sa.select(*columns).where(one).order_by(table.position.desc()).limit(sa.literal_column("1"))
        )
        self.register_workflow = self._make(
            self._insert(workflows).values(
                {column.name: param(column.name) for column in table if column.name != "position"}
                | {
                    "position": sa.select(sa.func.coalesce(sa.func.max(table.position), 0) + 1)
                    .where(own)
                    .scalar_subquery()
                }
            )
        )
        brief = [sa.literal_column("''") if c.name in ("ir", "graph") else c for c in columns]
        page = sa.select(*brief).order_by(table.position.desc()).limit(param("limit")).offset(param("offset"))
        count = sa.select(sa.func.count()).select_from(workflows)
        self.workflow_page = {False: self._make(page.where(own)), True: self._make(page.where(one))}
        self.workflow_count = {False: self._make(count.where(own)), True: self._make(count.where(one))}
        # Of each workflow the latest version counts, whichever was exposed before.
        later = workflows.alias("later")
        latest = ~sa.exists().where(
            later.c.tenant_id == table.tenant_id,
            later.c.workflow_id == table.workflow_id,
            later.c.position > table.position,
        )
        self.exposed_workflows = self._make(
            sa.select(*columns)
            .where(own, sa.text(f"workflows.{EXPOSED}"), latest)
            .order_by(table.position.desc())
        )
        self.workflow_ids = self._make(
            sa.select(sa.func.count(table.workflow_id.distinct())).select_from(workflows).where(own)
        )
        self.lock = (
            None
            if self._sqlite
            else self._make(
                sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(param("name"), 0)))
            )
        )
        """Excludes others that lock the same name until the transaction ends. SQLite's writer is alone."""

    # --- executions -------------------------------------------------------------------------------

    def _make_executions(self) -> None:
        table = executions.c
        self._columns = [table[name] for name in ExecutionRow.__struct_fields__]
        same = table.execution_id == param("execution_id")
        own = table.tenant_id == param("tenant_id")
        self.execution = self._make(sa.select(*self._columns).where(same, own))
        fence = (table.owner, table.owner_epoch, table.sequence)
        self.fence = self._make(sa.select(*fence).where(same))
        self.owned_by = self._make(
            sa.select(table.execution_id, *fence).where(table.owner == param("owner"), sa.text(OWNED))
        )
        stored = self._stored().where(same)
        self.stored_execution = {False: self._make(stored), True: self._make(stored.where(own))}
        event = events.c
        listed = (
            sa.select(*(event[name] for name in EventRow.__struct_fields__))
            .where(event.execution_id == param("execution_id"), event.tenant_id == param("tenant_id"))
            .where(event.sequence > param("after"))
            .order_by(event.sequence)
        )
        self.events = {False: self._make(listed), True: self._make(listed.limit(param("limit")))}
        record = idempotency.c
        self.idempotency = self._make(
            sa.select(
                record.key, record.route, record.fingerprint, record.status, record.body, record.expires_at
            )
            .where(record.tenant_id == param("tenant_id"), record.route == param("route"))
            .where(record.key == param("key"), record.expires_at > clock_ms())
        )
        self.send = self._make(
            self._insert(inbox)
            .values({name: param(name) for name in ("execution_id", "message_id", "tenant_id", "body")})
            .values(created_at=clock_ms(), ordinal=0)
            .on_conflict_do_nothing()
        )

    def _stored(self) -> Any:
        """The row, the snapshot, the lists as JSON texts: one statement sees one state of the database."""
        execution_id = param("execution_id")
        at = (
            sa.select(snapshots.c.sequence)
            .where(snapshots.c.execution_id == execution_id)
            .correlate(None)
            .scalar_subquery()
        )
        tenant = (
            sa.select(executions.c.tenant_id)
            .where(executions.c.execution_id == execution_id)
            .correlate(None)
            .scalar_subquery()
        )
        tail = (
            sa.select(*(events.c[name] for name in EventRow.__struct_fields__))
            .where(events.c.execution_id == execution_id, events.c.sequence > sa.func.coalesce(at, 0))
            .order_by(events.c.sequence)
        )
        unread = (
            sa.select(*(inbox.c[name] for name in InboxMessage.__struct_fields__))
            .where(inbox.c.execution_id == execution_id, inbox.c.tenant_id == tenant, sa.text(UNREAD))
            .order_by(inbox.c.created_at, inbox.c.ordinal, inbox.c.message_id)
        )
        return sa.select(
            *self._columns, snapshots.c.data, snapshots.c.sequence, self._array(tail), self._array(unread)
        ).select_from(executions.outerjoin(snapshots, snapshots.c.execution_id == executions.c.execution_id))

    def _array(self, select: Any) -> Any:
        """The rows of a query as one JSON array of objects, in its order."""
        rows = select.limit(self._unlimited).subquery()
        pairs: list[Any] = []
        for column in rows.c:
            pairs += [sa.literal_column(f"'{column.name}'"), column]
        array: Any
        if self._sqlite:
            array = sa.func.json_group_array(sa.func.json_object(*pairs))
        else:
            array = sa.cast(sa.func.json_agg(sa.func.json_build_object(*pairs)), sa.Text)
        return sa.select(sa.func.coalesce(array, sa.literal_column("'[]'"))).scalar_subquery()

    def _filters(self, statuses: int, by_workflow: bool) -> list[Any]:
        filters = [executions.c.tenant_id == param("tenant_id")]
        if statuses:
            filters.append(executions.c.status.in_([param(f"status_{number}") for number in range(statuses)]))
        if by_workflow:
            filters.append(executions.c.workflow_id == param("workflow_id"))
        return filters

    def _execution_page(self, statuses: int, by_workflow: bool) -> Statement:
        return self._make(
            sa.select(*self._columns)
            .where(*self._filters(statuses, by_workflow))
            .order_by(executions.c.created_at.desc(), executions.c.execution_id.desc())
            .limit(param("limit"))
            .offset(param("offset"))
        )

    def _execution_count(self, statuses: int, by_workflow: bool) -> Statement:
        return self._make(
            sa.select(sa.func.count()).select_from(executions).where(*self._filters(statuses, by_workflow))
        )

    # --- tokens -----------------------------------------------------------------------------------

    def _make_tokens(self) -> None:
        table = api_tokens.c
        columns = [table[name] for name in TokenRow.__struct_fields__]
        own = table.tenant_id == param("tenant_id")
        key = installation_keys.c
        self.insert_key = self._make(
            self._insert(installation_keys)
            .values(name=param("name"), tenant_id=DEFAULT_TENANT, pem=param("pem"), created_at=clock_ms())
            .on_conflict_do_nothing()
        )
        self.key = self._make(sa.select(key.pem).where(key.name == param("name")))
        self.create_token = self._make(self._insert(api_tokens).on_conflict_do_nothing())
        self.tokens = self._make(sa.select(*columns).where(own).order_by(table.created_at, table.id))
        self.credential = self._make(
            sa.select(*columns, *(tenants.c[name] for name in TenantRow.__struct_fields__))
            .join_from(api_tokens, tenants, tenants.c.tenant_id == table.tenant_id)
            .where(table.token_hash == param("token_hash"))
        )
        self.mark_token_used = self._make(
            sa.update(api_tokens).values(last_used_at=clock_ms()).where(table.id == param("id"))
        )
        self.revoke_token = self._make(
            sa.update(api_tokens)
            .values(revoked_at=clock_ms())
            .where(own, sa.or_(table.id == param("name"), table.name == param("name")))
            .where(table.revoked_at.is_(None))
        )

    # --- tenants ----------------------------------------------------------------------------------

    def _make_tenants(self) -> None:
        table = tenants.c
        columns = [table[name] for name in TenantRow.__struct_fields__]
        one = table.tenant_id == param("tenant_id")
        given = {name: param(name) for name in ("tenant_id", "name", "policy", "limits")}
        self.create_tenant = self._make(
            self._insert(tenants)
            .values(**given, status="active", created_at=clock_ms(), updated_at=clock_ms())
            .on_conflict_do_nothing()
            .returning(*columns)
        )
        self.tenant = self._make(sa.select(*columns).where(one))
        self.tenant_page = self._make(
            sa.select(*columns).order_by(table.tenant_id).limit(param("limit")).offset(param("offset"))
        )
        self.tenants_changed = self._make(
            sa.select(*columns).where(table.updated_at >= param("since")).order_by(table.updated_at)
        )
        self.tenant_count = self._make(sa.select(sa.func.count()).select_from(tenants))
        changed = {
            name: sa.func.coalesce(param(name, sa.Text()), table[name])
            for name in ("name", "status", "policy", "limits")
        }
        self.update_tenant = self._make(
            sa.update(tenants).values(**changed, updated_at=clock_ms()).where(one).returning(*columns)
        )

    # --- executors --------------------------------------------------------------------------------

    def _make_executors(self) -> None:
        table = executors.c
        dead = table.state == "dead"
        self.insert_executor = self._make(
            self._insert(executors)
            .values({column.name: param(column.name) for column in table if not column.name.endswith("_at")})
            .values(started_at=clock_ms(), heartbeat_at=clock_ms())
            .on_conflict_do_nothing()
        )
        bury = sa.update(executors).values(state="dead", dead_at=clock_ms()).where(~dead)
        self.bury_namesakes = self._make(
            bury.where(table.name == param("name"), table.incarnation != param("incarnation"))
        )
        self.mark_dead = self._make(bury.where(table.incarnation == param("incarnation")))
        self.heartbeat = self._make(
            sa.update(executors)
            .values(heartbeat_at=clock_ms(), live=param("live"), state=param("state"))
            .values(dead_at=sa.case((param("state", sa.Text()) == "dead", clock_ms())))
            .where(table.incarnation == param("incarnation"), ~dead)
            .returning(table.heartbeat_at)
        )
        self.executors = self._make(
            sa.select(
                table.incarnation, table.name, table.node, table.pid, table.isolation, table.capacity,
                table.live, table.state, table.started_at, table.heartbeat_at,
                sa.or_(dead, table.heartbeat_at < clock_ms() - OWNER_GONE_MS),
            )
            .where(sa.or_(~dead, table.dead_at >= clock_ms() - DEAD_SHOWN_MS))
            .order_by(table.started_at, table.incarnation)
        )  # fmt: skip

    # --- sweep and prune --------------------------------------------------------------------------

    def _make_sweep(self) -> None:
        table = executions.c
        oldest = (table.created_at, table.execution_id)
        living = sa.select(executors.c.incarnation).where(
            executors.c.state != "dead", executors.c.heartbeat_at >= clock_ms() - OWNER_GONE_MS
        )
        driven = table.owner.in_(living)
        due = sa.and_(table.wake_at.is_not(None), table.wake_at <= clock_ms())
        unread = sa.and_(
            inbox.c.execution_id == table.execution_id,
            inbox.c.tenant_id == table.tenant_id,
            sa.text(UNREAD),
        )
        late = inbox.c.created_at <= clock_ms() - MESSAGE_LATE_MS
        active = sa.select(tenants.c.tenant_id).where(tenants.c.status == sa.literal_column("'active'"))
        reasons = (
            self._swept("unowned").where(sa.text(RUNNABLE)).order_by(*oldest),
            self._swept("owner_gone").where(sa.text(OWNED), ~driven).order_by(*oldest),
            self._swept("timer_due")
            .where(sa.text(WAKING), table.wake_at <= clock_ms())
            .order_by(table.wake_at, *oldest),
            # The held are few, and the tenants of most of them are suspended still.
            self._swept("resumed")
            .where(sa.text(HELD), table.status == sa.literal_column("'suspended'"))
            .where(table.tenant_id.in_(active))
            .order_by(*oldest),
            self._swept("inbox")
            .join_from(executions, inbox, unread)
            .where(sa.text(OPEN), sa.or_(sa.and_(sa.text(DORMANT), sa.not_(due)), sa.and_(driven, late)))
            .distinct()
            .order_by(*oldest),
        )
        swept = sa.union_all(
            *(sa.select(reason.limit(param("limit")).subquery()) for reason in reasons)
        ).subquery()
        shown = [column for column in swept.c if column.name != "created_at"]
        self.sweep = self._make(
            sa.select(*shown).order_by(swept.c.created_at, swept.c.execution_id).limit(param("limit"))
        )
        queued = table.status == sa.literal_column("'queued'")
        self.tenants_queued = self._make(
            sa.select(tenants.c.tenant_id, tenants.c.status, tenants.c.limits)
            .where(tenants.c.tenant_id.in_(sa.select(table.tenant_id).where(sa.text(HELD), queued)))
            .order_by(tenants.c.tenant_id)
        )
        self.queued = self._make(
            self._swept("slot_free")
            .where(sa.text(HELD), queued, table.tenant_id == param("tenant_id"))
            .order_by(*oldest)
            .limit(param("limit"))
        )
        self.backlog = self._make(sa.select(sa.func.count()).select_from(executions).where(sa.text(RUNNABLE)))

    def _make_load(self) -> None:
        table = executions.c
        runnable = sa.select(table.updated_at).where(sa.text(RUNNABLE))
        first = runnable.order_by(table.created_at, table.execution_id).limit(sa.literal_column("100"))
        oldest = sa.select(sa.func.min(first.subquery().c.updated_at))
        backlog = sa.select(sa.func.count()).select_from(executions).where(sa.text(RUNNABLE))
        waking = sa.select(sa.func.min(table.wake_at)).where(sa.text(WAKING))
        self.load = self._make(
            sa.select(
                backlog.scalar_subquery(),
                clock_ms() - oldest.scalar_subquery(),
                clock_ms() - waking.scalar_subquery(),
            )
        )
        # From tenant to tenant along the index by status, so that what has ended is not looked at.
        tenants = sa.select(sa.func.min(table.tenant_id).label("id")).cte("tenants", recursive=True)
        onward = (
            sa.select(sa.func.min(table.tenant_id))
            .where(table.tenant_id > tenants.c.id)
            .correlate(tenants)
            .scalar_subquery()
        )
        tenants = tenants.union_all(sa.select(onward).where(tenants.c.id.is_not(None)))
        counts = [
            sa.select(
                sa.literal_column(f"'{status}'").label("status"),
                sa.select(sa.func.count())
                .where(table.tenant_id == tenants.c.id, table.status == sa.literal_column(f"'{status}'"))
                .correlate(tenants)
                .scalar_subquery()
                .label("count"),
            ).where(tenants.c.id.is_not(None))
            for status in (*OPEN_STATUSES, *HELD_STATUSES)
        ]
        each = sa.union_all(*counts).subquery()
        status, count = each.c
        self.open_counts = self._make(
            sa.select(status, sa.cast(sa.func.sum(count), sa.BigInteger)).group_by(status)
        )

    def _swept(self, reason: str) -> Any:
        table = executions.c
        return sa.select(
            table.tenant_id, table.execution_id, table.isolation, table.resources, table.owner,
            sa.literal_column(f"'{reason}'").label("reason"), table.created_at,
        )  # fmt: skip

    def _make_prunes(self) -> None:
        """By table: deletes at most ``limit`` rows, so that no transaction is long."""
        over = clock_ms() - MESSAGE_KEPT_MS
        ended = sa.exists().where(executions.c.execution_id == inbox.c.execution_id, sa.text(ENDED))
        forgotten = {
            idempotency: idempotency.c.expires_at <= clock_ms(),
            executors: sa.or_(
                executors.c.dead_at < clock_ms() - DEAD_KEPT_MS,
                executors.c.heartbeat_at < clock_ms() - SILENT_KEPT_MS,
            ),
            inbox: sa.or_(
                sa.and_(inbox.c.consumed_at.is_not(None), inbox.c.consumed_at < over),
                sa.and_(sa.text(UNREAD), inbox.c.created_at < over, ended),
            ),
        }
        self.prunes = {
            table.name: self._make(self._delete_some(table, condition))
            for table, condition in forgotten.items()
        }

    def _make_retention(self) -> None:
        """Executions that ended long ago: found by the tenant's index, deleted by their ids."""
        table = executions.c
        self.ended_before = self._make(
            sa.select(table.execution_id)
            .where(table.tenant_id == param("tenant_id"), sa.text(ENDED))
            .where(table.created_at < param("before"), table.completed_at < param("before"))
            .order_by(table.created_at)
            .limit(param("limit"))
        )
        self.delete_execution = [
            self._make(sa.delete(kept).where(kept.c.execution_id == param("execution_id")))
            for kept in (events, snapshots, inbox, executions)
        ]

    def _delete_some(self, table: sa.Table, condition: Any) -> Any:
        keys = list(table.primary_key.columns)
        key = keys[0] if len(keys) == 1 else sa.tuple_(*keys)
        return sa.delete(table).where(key.in_(sa.select(*keys).where(condition).limit(param("limit"))))
