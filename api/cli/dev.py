"""``jamjet dev``: a whole installation on this machine, for the workflows in the current folder."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.dev_file import DEV_FILE, DevServer, forget_dev_server, write_dev_server
from api.cli.dev_token import DEV_TOKEN_FILE, ensure_dev_token
from api.cli.exits import EXIT_FAILED, EXIT_USAGE, CliError
from api.cli.output import note, print_line, warn

if TYPE_CHECKING:
    from actors.settings import Settings
    from api.launch.launcher import Running

LOOPBACK = ("127.0.0.0/8", "::1")
"""What workflows and discovery may reach of this machine, unless JAMJET_HTTP_ALLOW or _DISCOVERY_ALLOW do."""


Port = Annotated[int | None, typer.Option(help="The HTTP port (JAMJET_PORT; 7700).", min=1, max=65535)]
ServerDatabase = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="A SQLite file, or a PostgreSQL URL (DATABASE_URL; .jamjet/runtime.db).",
        metavar="PATH_OR_URL",
    ),
]
Bind = Annotated[str | None, typer.Option(help="The address to listen on (JAMJET_BIND; 127.0.0.1).")]
Auth = Annotated[
    bool | None,
    typer.Option("--auth/--no-auth", help="Whether callers need a token; on, unless JAMJET_DEV_MODE=1."),
]


def dev(port: Port = None, database: ServerDatabase = None, bind: Bind = None, auth: Auth = None) -> None:
    """Start a server here, for the workflows and Python functions of this folder.

    It runs a Ray of its own and ends with Ctrl-C; what was acknowledged is kept. Settings come from
    these options, the environment and jamjet.toml, in this order: see `jamjet config show`.
    """
    from api.cli.config_file import load_project

    settings = load_project(warn, **settings_of_options(port, database, bind, auth))
    run_installation(in_this_folder(settings))


def settings_of_options(
    port: int | None, database: str | None, bind: str | None, auth: bool | None
) -> dict[str, Any]:
    """The settings that the command line gives, by name; None where it does not."""
    dev_mode = None if auth is None else not auth
    return {"port": port, "database_url": database, "bind": bind, "dev_mode": dev_mode}


def in_this_folder(settings: "Settings") -> "Settings":
    """The settings for the current folder's own functions, unless others are set."""
    from api.launch.modules import modules_of

    folder = Path.cwd()
    return replace(
        settings,
        python_path=settings.python_path or str(folder),
        python_modules=settings.python_modules or modules_of(folder),
        http_allow=settings.http_allow or LOOPBACK,
        discovery_allow=settings.discovery_allow or LOOPBACK,
    )


def run_installation(settings: "Settings") -> None:
    """Run it in the foreground until a signal ends it.

    Raises:
        CliError: with the sentence that says why it cannot run.
    """
    import asyncio

    from api.launch.launcher import LaunchFailed, launch, with_absolute_database
    from runtime.errors import JamjetError

    began = time.monotonic()

    async def on_ready(running: "Running") -> None:
        _announce(running)
        note(f"ready after {time.monotonic() - began:.1f} s; Ctrl-C ends it")
        print_line(f"API    {running.url}")
        print_line(f"docs   {running.url}/docs")
        print_line(f"logs   {running.logs}")
        if not settings.dev_mode:
            token = await ensure_dev_token(running.store)
            print_line(f"token  {token}   (operator; kept in {DEV_TOKEN_FILE})")

    require_safe_bind(settings)
    try:
        asyncio.run(launch(with_absolute_database(settings), say=note, show=_show, on_ready=on_ready))
    except LaunchFailed as error:
        raise CliError(error.detail, EXIT_FAILED) from None
    except JamjetError as error:
        raise CliError(error.detail, EXIT_USAGE) from None
    finally:
        forget_dev_server(os.getpid())


def _announce(running: "Running") -> None:
    """Let the other commands in this folder find the server."""
    try:
        write_dev_server(DevServer(running.url, os.getpid(), running.logs))
    except OSError as error:
        note(f"warning: other commands will need --url: {DEV_FILE} cannot be written ({error.strerror})")


def _show(line: str) -> None:
    """A line of the installation's processes, for the person at the terminal."""
    from api.launch.relay import record_of

    record = record_of(line)
    note(line if record is None else f"{record.get('process', '-')}: {record['event']}")


def require_safe_bind(settings: "Settings") -> None:
    """Without auth, only this machine may call.

    Raises:
        CliError: auth is off, and the address is open to others.
    """
    from api.launch.ports import is_loopback

    if settings.dev_mode and not is_loopback(settings.bind):
        raise CliError(
            f"auth is off (JAMJET_DEV_MODE), so the address to listen on must be a loopback one,"
            f" not {settings.bind!r}: unset JAMJET_DEV_MODE or JAMJET_BIND",
            EXIT_USAGE,
        )
