"""The commands on the audit log. Listing asks the server; the others work on the database, or on a file."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import ApiClient
from api.cli.database import database_settings, opened_database
from api.cli.exits import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE, CliError
from api.cli.options import Database, Form, Token, Url
from api.cli.output import Output, note, print_json, print_line, print_rows, warn

if TYPE_CHECKING:
    from runtime.audit.check import Report
    from runtime.audit.entries import AuditRow
    from runtime.audit.seals import Seal, VerifyingKey
    from runtime.store.port import Store, TenantStore

PAGE = 2_000
COLUMNS = ("created_at", "event_type", "actor_id", "execution_id", "node_id", "ip_address", "id")
REPORT_COLUMNS = ("tenant_id", "entries", "chains", "seals", "unsealed", "result")

Run = Callable[[Any], Any]

app = typer.Typer(no_args_is_help=True, help="Read, verify and export the audit log.")

KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        help="Public keys (PEM) that may have signed the seals.",
        show_default="the installation's own key",
        dir_okay=False,
    ),
]


@app.command("list")
def list_entries(
    execution: Annotated[str | None, typer.Option(help="Of this execution only.", metavar="ID")] = None,
    actor: Annotated[str | None, typer.Option(help="Of this actor only, as in token:tok_...")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="As in node_completed.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=200)] = 50,
    offset: Annotated[int, typer.Option(help="How many to leave out first.", min=0)] = 0,
    url: Url = None,
    token: Token = None,
    output: Form = Output.TABLE,
) -> None:
    """List entries, the newest first."""
    filters = {"execution_id": execution, "actor_id": actor, "event_type": event_type}
    given: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    with ApiClient(url, token) as client:
        answer = client.get("/audit", limit=limit, offset=offset, **given)
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(answer["items"], COLUMNS)


@app.command("verify")
def verify(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.", show_default="all")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Verify an exported file, without the database.", dir_okay=False),
    ] = None,
    keys: KeysFile = None,
    seal: Annotated[
        str | None, typer.Option(help="A seal that was kept, as `verify` printed it.", metavar="N:HASH")
    ] = None,
    database: Database = None,
    output: Form = Output.TABLE,
) -> None:
    """Check every entry, chain and seal, and name the first that is wrong. Exit code 1: something is."""
    if seal is not None and tenant is None and file is None:
        raise CliError("--seal is about one tenant: give --tenant too", EXIT_USAGE)
    if file is not None:
        reports = [_check_file(file, _given_keys(keys, database), seal)]
    else:
        found_keys = _given_keys(keys, database)
        with opened_database(database, must_exist=True) as (store, run):
            tenants = run(store.system.audited_tenants()) if tenant is None else [_known(store, run, tenant)]
            reports = [_check_tenant(store, run, name, found_keys, seal) for name in tenants]
    _print_reports(reports, output)
    if any(report.problem for report in reports):
        raise typer.Exit(EXIT_FAILED)


@app.command("export")
def export(
    tenant: Annotated[str, typer.Option(help="Whose log.")] = "default",
    to: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="stdout", dir_okay=False)
    ] = None,
    database: Database = None,
) -> None:
    """Write a tenant's log as lines of JSON, which `verify --file` checks without the database."""
    from runtime.audit.file import write_log

    with opened_database(database, must_exist=True) as (store, run):
        log = store.tenant(_known(store, run, tenant))
        lines = write_log(tenant, _seals(log, run), _rows(log, run))
        if to is None:
            sys.stdout.buffer.writelines(lines)
            sys.stdout.flush()
            return
        try:
            with to.open("wb") as out:
                out.writelines(lines)
        except OSError as error:
            raise CliError(f"{to} cannot be written: {error.strerror}", EXIT_USAGE) from None
    note(f"wrote the audit log of tenant {tenant} to {to}")


@app.command("key")
def key(
    create: Annotated[bool, typer.Option("--create", help="Make the key if there is none.")] = False,
    database: Database = None,
) -> None:
    """Print the public key that verifies this installation's seals. Keep a copy elsewhere."""
    from actors.audit_key import create_key, key_path
    from runtime.audit.seals import SigningKey

    path = key_path(database_settings(database))
    if path is None:
        raise CliError("seals are not signed: name a key file in JAMJET_AUDIT_KEY", EXIT_USAGE)
    if not path.exists():
        if not create:
            raise CliError(f"there is no key {path} yet: make it with --create", EXIT_USAGE)
        create_key(path)
        note(f"made {path}")
    print_line(SigningKey.read(path).public.pem().decode().rstrip())


def _given_keys(path: Path | None, database: str | None) -> "list[VerifyingKey]":
    """The keys that are named, else the installation's own; none: signatures are not checked."""
    from actors.audit_key import key_path
    from runtime.audit.seals import VerifyingKey

    own = path or key_path(database_settings(database))
    if own is None or (path is None and not own.exists()):
        warn("no key is known, so signatures are not checked: give --keys")
        return []
    return VerifyingKey.read_all(own)


def _check_file(path: Path, keys: "list[VerifyingKey]", anchor: str | None) -> "Report":
    from runtime.audit.check import check_log
    from runtime.audit.file import read_log

    try:
        with path.open("rb") as lines:
            tenant_id, seals, rows = read_log(lines)
            return check_log(tenant_id, seals, rows, keys=keys, anchor=anchor)
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", EXIT_USAGE) from None


def _check_tenant(
    store: "Store", run: Run, tenant_id: str, keys: "list[VerifyingKey]", anchor: str | None
) -> "Report":
    from runtime.audit.check import check_log

    log = store.tenant(tenant_id)
    # Once more where something is wrong: it may have been pruned between the reading of seals and entries.
    for _ in range(2):
        report = check_log(tenant_id, _seals(log, run), _rows(log, run), keys=keys, anchor=anchor)
        if report.problem is None:
            break
    return report


def _known(store: "Store", run: Run, tenant_id: str) -> str:
    """A tenant that there is, or of which there is a log."""
    if tenant_id in run(store.system.audited_tenants()) or run(store.system.tenant_row(tenant_id)):
        return tenant_id
    raise CliError(f"there is no tenant {tenant_id!r}: see `jamjet tenants list`", EXIT_NOT_FOUND)


def _seals(log: "TenantStore", run: Run) -> "Iterator[Seal]":
    after = 0
    while page := run(log.seals(after=after, limit=PAGE)):
        yield from page
        after = page[-1].number


def _rows(log: "TenantStore", run: Run) -> "Iterator[AuditRow]":
    after: tuple[str, int] | None = None
    while page := run(log.audit_rows(after=after, limit=PAGE)):
        yield from page
        after = (page[-1].chain, page[-1].position)


def _print_reports(reports: "list[Report]", output: Output) -> None:
    from msgspec import to_builtins

    if output is Output.JSON:
        print_json({"logs": [to_builtins(report) for report in reports]})
        return
    shown = [
        {**to_builtins(report), "result": "ok" if report.problem is None else str(report.problem)}
        for report in reports
    ]
    print_rows(shown, REPORT_COLUMNS)
    for report in reports:
        if report.problem is None and report.last_seal is not None:
            note(f"last seal of {report.tenant_id}: {report.last_seal}")
        if report.problem is None and report.unsigned:
            warn(f"{report.unsigned} seals of {report.tenant_id} are not signed")
