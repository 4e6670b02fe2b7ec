"""``jamjet doctor``: what is wrong with the installation here, and what to do about it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from api.cli import checks, cluster_checks
from api.cli.client import ApiClient
from api.cli.dev_file import read_dev_server
from api.cli.dev_token import read_dev_token
from api.cli.exits import EXIT_FAILED, EXIT_OK, CliError
from api.cli.findings import Finding, Status
from api.cli.options import Form, Token, Url
from api.cli.output import Output, note, paint, print_json, print_line

if TYPE_CHECKING:
    from actors.settings import Settings
    from api.cli.checks import DatabaseLook

_COLOURS = {Status.OK: "green", Status.NOTE: "yellow", Status.WRONG: "red"}


def doctor(url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Look at the installation of this folder and say what is wrong, with what to do.

    Exits with 0 when nothing is wrong, else with 1. Notes are not wrong.
    """
    findings = []
    for finding in _findings(url, token):
        findings.append(finding)
        if output is Output.TABLE:
            _print(finding)
    wrong = sum(finding.status is Status.WRONG for finding in findings)
    if output is Output.JSON:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        note("nothing is wrong" if not wrong else f"{wrong} wrong")
    raise typer.Exit(EXIT_FAILED if wrong else EXIT_OK)


def _findings(url: str | None, token: str | None) -> Iterator[Finding]:
    yield from checks.check_versions()
    yield from cluster_checks.check_ray_auth()
    yield from cluster_checks.check_node_environment()
    yield from checks.check_ports()
    settings, found = _settings()
    yield from found
    role = None
    if settings is not None:
        yield from checks.check_bind(settings)
        look = _look(settings, token or read_dev_token())
        yield from checks.check_database(settings.database_url, look)
        yield from cluster_checks.check_postgresql(_postgresql(settings))
        yield from checks.check_audit_key(settings)
        role = getattr(look, "role", None)
    yield from _server(url, token, role, settings)


def _settings() -> "tuple[Settings | None, list[Finding]]":
    """The settings, where they can be read, and what is to be said of them."""
    from actors.settings import load_settings
    from api.cli.config_file import read_config_file
    from runtime.errors import BadRequest

    try:
        file = read_config_file()
        settings = load_settings(below=file.settings)
    except BadRequest as error:
        return None, [Finding("settings", Status.WRONG, error.detail, "correct it: see `jamjet config show`")]
    said = "no jamjet.toml here" if file.path is None else f"from the environment and {file.path}"
    unknown = [Finding("settings", Status.NOTE, warning, "take it out") for warning in file.warnings]
    return settings, [Finding("settings", Status.OK, said), *unknown]


def _look(settings: "Settings", token: str | None) -> "DatabaseLook | Exception | None":
    """A look at the database: what it told, why it could not, or None where a file will be made."""
    import asyncio

    from runtime.errors import JamjetError, Unavailable
    from runtime.store.url import SqliteUrl, parse_url

    try:
        target = parse_url(settings.database_url)
        if isinstance(target, SqliteUrl):
            problem = checks.file_problem(target.path)
            if problem is not None:
                return Unavailable(problem)
            if not target.path.exists():
                return None
        return asyncio.run(checks.look_at_database(settings.database_url, token))
    except JamjetError as error:
        return error


def _postgresql(settings: "Settings") -> dict[str, str] | None:
    """What the PostgreSQL server is set to; None where there is none, or it cannot be asked."""
    from runtime.errors import JamjetError
    from runtime.store.url import PostgresUrl, parse_url

    try:
        target = parse_url(settings.database_url)
        if not isinstance(target, PostgresUrl):
            return None
        from runtime.store.postgres import server_settings

        return server_settings(target.conninfo)
    except JamjetError:
        return None  # A look at the database has said why.


def _server(
    url: str | None, token: str | None, role: str | None, settings: "Settings | None"
) -> Iterator[Finding]:
    is_named = url is not None or read_dev_server() is not None
    try:
        with ApiClient(url, token) as client:
            found = list(checks.check_server(client, is_named=is_named, role=role))
            yield from found
            if any(finding.check == "token" for finding in found):  # It answered.
                yield from cluster_checks.check_cluster(client, settings)
    except CliError as error:
        yield Finding("server", Status.WRONG, str(error), "correct --url or JAMJET_URL, and JAMJET_TOKEN")


def _print(finding: Finding) -> None:
    mark = paint(f"{finding.status:<6}", _COLOURS[finding.status])
    print_line(f"{mark} {finding.check:<10} {finding.said}")
    if finding.todo is not None:
        print_line(f"{'':<17} -> {finding.todo}")
