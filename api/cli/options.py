"""The options that many commands share."""

from typing import Annotated

import typer

from api.cli.output import Output

Url = Annotated[
    str | None,
    typer.Option(
        *("--url", "--runtime", "-r"),
        envvar="JAMJET_URL",
        help="The server to talk to.",
        metavar="URL",
        show_default="the jamjet dev of this folder, else http://127.0.0.1:7700",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(envvar="JAMJET_TOKEN", help="The API token.", metavar="TOKEN", show_default=False),
]
Form = Annotated[Output, typer.Option("--output", "-o", help="How data is printed on stdout.")]
ExecutionId = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="A SQLite file, or a PostgreSQL URL (DATABASE_URL).",
        metavar="PATH_OR_URL",
        show_default="that of jamjet.toml, else .jamjet/runtime.db",
    ),
]
