"""``jamjet dev``: a whole installation on this machine, for the workflows in the current folder."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.dev_token import DEV_TOKEN_FILE, ensure_dev_token
from api.cli.exits import EXIT_FAILED, EXIT_USAGE, CliError
from api.cli.output import note, print_line

if TYPE_CHECKING:
    from actors.settings import Settings
    from api.launch.launcher import Running


LOOPBACK = ("127.0.0.0/8", "::1")
"""What workflows may reach of this machine, unless JAMJET_HTTP_ALLOW says otherwise."""


def dev(
    port: Annotated[
        int | None, typer.Option(help="The HTTP port (JAMJET_PORT; 7700).", min=1, max=65535)
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--db",
            help="A SQLite file, or a PostgreSQL URL (DATABASE_URL; .jamjet/runtime.db).",
            metavar="PATH_OR_URL",
        ),
    ] = None,
    bind: Annotated[
        str | None, typer.Option(help="The address to listen on (JAMJET_BIND; 127.0.0.1).")
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option("--auth/--no-auth", help="Whether callers need a token; on, unless JAMJET_DEV_MODE=1."),
    ] = None,
) -> None:
    """Start a server here, for the workflows and Python functions of this folder.

    It runs a Ray of its own and ends with Ctrl-C; what was acknowledged is kept.
    """
    from actors.settings import load_settings

    dev_mode = None if auth is None else not auth
    settings = load_settings(port=port, database_url=database, bind=bind, dev_mode=dev_mode)
    run_installation(in_this_folder(settings))


def in_this_folder(settings: "Settings") -> "Settings":
    """The settings for the current folder's own functions, unless others are set."""
    from api.launch.modules import modules_of

    folder = Path.cwd()
    return replace(
        settings,
        python_path=settings.python_path or str(folder),
        python_modules=settings.python_modules or modules_of(folder),
        http_allow=settings.http_allow or LOOPBACK,
    )


def run_installation(settings: "Settings") -> None:
    """Run it in the foreground until a signal ends it.

    Raises:
        CliError: with the sentence that says why it cannot run.
    """
    from api.launch.launcher import LaunchFailed, launch, with_absolute_database
    from runtime.errors import JamjetError

    began = time.monotonic()

    async def on_ready(running: "Running") -> None:
        note(f"ready after {time.monotonic() - began:.1f} s; Ctrl-C ends it")
        print_line(f"API    {running.url}")
        print_line(f"docs   {running.url}/docs")
        print_line(f"logs   {running.logs}")
        if not settings.dev_mode:
            token = await ensure_dev_token(running.store)
            print_line(f"token  {token}   (operator; kept in {DEV_TOKEN_FILE})")

    require_safe_bind(settings)
    try:
        asyncio.run(launch(with_absolute_database(settings), say=note, show=note, on_ready=on_ready))
    except LaunchFailed as error:
        raise CliError(error.detail, EXIT_FAILED) from None
    except JamjetError as error:
        raise CliError(error.detail, EXIT_USAGE) from None


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
