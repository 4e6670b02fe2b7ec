"""``jamjet up``, ``down`` and ``status``: an installation on a Ray cluster."""

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.client import ApiClient
from api.cli.dev import Bind, Port, ServerDatabase, require_safe_bind, settings_of_options
from api.cli.exits import EXIT_FAILED, EXIT_UNREACHABLE, CliError
from api.cli.options import Form, Token, Url
from api.cli.output import Output, note, print_json, print_line, print_rows, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.settings import Settings

Address = Annotated[
    str,
    typer.Option(
        help="The Ray cluster: auto, which is the one of this machine, or HOST:PORT of its head.",
        envvar="RAY_ADDRESS",
    ),
]
Within = Annotated[
    float, typer.Option(help="Seconds that executions may take to end what they run.", min=0, max=3600)
]
NODE_COLUMNS = ("node", "address", "role", "api", "cpus", "free", "actors", "spares", "live")


def up(
    address: Address = "auto", port: Port = None, database: ServerDatabase = None, bind: Bind = None
) -> None:
    """Put the runtime on a Ray cluster that runs already, and return when it serves requests.

    May be repeated: the same settings change nothing, others are rolled out while requests are answered.
    """
    settings = _settings(port, database, bind)
    require_safe_bind(settings)
    with _on_cluster(settings, address):
        from api.launch.cluster import install

        told = install(settings, note)
    print_line(f"API    {told['url']}")
    print_line(f"docs   {told['url']}/docs")
    print_line(f"nodes  {told['nodes']}")
    note("`jamjet token create` makes a token; `jamjet status` shows what runs")


def down(
    address: Address = "auto",
    within: Within = 10.0,
    database: ServerDatabase = None,
) -> None:
    """Take the runtime off a Ray cluster. Executions stay in the database and go on after the next `up`."""
    settings = _settings(None, database, None)
    with _on_cluster(settings, address):
        from api.launch.cluster import uninstall

        ended = uninstall(settings, within, note)
    note(
        f"{ended} actors ended; executions are kept in the database"
        if ended
        else "nothing of ours was running"
    )


def status(url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """Show the cluster: nodes, actors, what runs and waits, how late it is, and what is wrong."""
    with ApiClient(url, token) as client:
        seen = client.get("/cluster")
    if output is Output.JSON:
        print_json(seen)
        return
    print_rows(
        [
            {
                "node": node["id"][:12],
                "address": node["address"],
                "role": _role(node),
                "api": {"healthy": "yes", None: "-"}.get(node["proxy"], node["proxy"]),
                "cpus": f"{node['cpus']:g}",
                "free": f"{node['cpus_free']:g}",
                "actors": node["actors"],
                "spares": node["spares"],
                "live": node["live"],
            }
            for node in seen["nodes"]
        ],
        NODE_COLUMNS,
    )
    executions, lag, supervisor = seen["executions"], seen["lag"], seen["supervisor"]
    counts = [f"{count} {name}" for name, count in sorted(executions["by_status"].items())]
    print_line(
        f"executions  {', '.join(counts) or 'none'}; {executions['live']} live, {executions['parked']} parked"
    )
    print_line(f"backlog     {executions['backlog']}, the first for {lag['sweep_ms'] / 1_000:.1f} s")
    print_line(f"timers      {lag['timers_ms'] / 1_000:.1f} s late")
    if supervisor is not None:
        print_line(
            f"supervisor  pid {supervisor['pid']}, last round {supervisor['idle_ms'] / 1_000:.1f} s ago"
        )
    print_line(f"release     {seen['release']}, Ray {seen['ray']}, {seen['database']}")
    for problem in seen["problems"]:
        warn(problem)


def _role(node: dict[str, object]) -> str:
    if node["draining"]:
        return "leaving"
    own = "head" if node["head"] else "worker"
    return own if node["runs"] else f"{own}, runs none"


def _settings(port: int | None, database: str | None, bind: str | None) -> "Settings":
    from api.cli.config_file import load_project
    from api.launch.launcher import with_absolute_database

    return with_absolute_database(load_project(warn, **settings_of_options(port, database, bind, None)))


@contextlib.contextmanager
def _on_cluster(settings: "Settings", address: str) -> "Iterator[None]":
    """The block runs as a driver of the cluster; what goes wrong is one sentence."""
    from api.launch.cluster import NoCluster, joined
    from runtime.errors import BadRequest, JamjetError

    try:
        with joined(settings, address, os.environ):
            yield
    except NoCluster as error:
        raise CliError(error.detail, EXIT_UNREACHABLE) from None
    except BadRequest:
        raise
    except JamjetError as error:
        raise CliError(error.detail, EXIT_FAILED) from None
