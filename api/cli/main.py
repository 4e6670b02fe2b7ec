"""The ``jamjet`` command. Client commands import neither Ray nor the server, so they start at once."""

import os
import sys
from typing import Annotated

import typer

from api.cli import (
    agents,
    audit,
    cluster,
    config,
    dev,
    doctor,
    executions,
    init,
    logs,
    tenants,
    tokens,
    workers,
    workflows,
)
from api.cli.exits import EXIT_DETACHED, EXIT_OK, EXIT_USAGE, CliError
from api.cli.output import note, print_line

app = typer.Typer(
    name="jamjet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Durable workflows for AI agents, on Ray.",
    epilog="Exit codes: 0 ok, 1 the run failed or was refused, 2 usage, 3 not found, 4 no access, "
    "5 unreachable, 124 --timeout passed, 130 detached.",
)
app.command()(init.init)
app.command()(dev.dev)
app.command()(cluster.up)
app.command()(cluster.down)
app.command()(cluster.status)
app.command()(logs.logs)
app.command()(doctor.doctor)
app.command()(workflows.validate)
app.command()(executions.run)
app.command()(executions.inspect)
app.command()(executions.events)
app.command()(executions.ls)
app.command()(executions.cancel)
app.command()(executions.approve)
app.command()(executions.resume)
app.command()(workflows.workflows)
app.command()(workers.workers)
app.add_typer(tokens.app, name="token")
app.add_typer(tenants.app, name="tenants")
app.add_typer(agents.app, name="agents")
app.add_typer(audit.app, name="audit")
app.add_typer(config.app, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from actors.settings import VERSION

        print_line(f"jamjet {VERSION}")
        raise typer.Exit(EXIT_OK)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; the sentence of an error goes to stderr."""
    from runtime.errors import BadRequest

    try:
        app(arguments)
    except CliError as error:
        note(f"error: {error}")
        return error.exit_code
    except BadRequest as error:
        note(f"error: {error.detail}")
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader has had enough (`| head`); Python must not complain about the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_DETACHED
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_OK
    return EXIT_OK


def run() -> None:
    """The entry point of the ``jamjet`` script."""
    sys.exit(main())
