"""The options that many commands share."""

from typing import Annotated

import typer

from api.cli.output import Output

Url = Annotated[
    str,
    typer.Option(
        "--url", "--runtime", "-r", envvar="JAMJET_URL", help="The server to talk to.", metavar="URL"
    ),
]
Token = Annotated[
    str | None,
    typer.Option(envvar="JAMJET_TOKEN", help="The API token.", metavar="TOKEN", show_default=False),
]
Form = Annotated[Output, typer.Option("--output", "-o", help="How data is printed on stdout.")]
ExecutionId = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
Database = Annotated[
    str,
    typer.Option(
        "--db", envvar="DATABASE_URL", help="A SQLite file, or a PostgreSQL URL.", metavar="PATH_OR_URL"
    ),
]
