"""The command on the processes that run executions."""

from api.cli.client import ApiClient
from api.cli.options import Form, Token, Url
from api.cli.output import Output, print_json, print_rows

COLUMNS = ("name", "pid", "status", "isolation", "live", "capacity", "last_heartbeat")


def workers(url: Url = None, token: Token = None, output: Form = Output.TABLE) -> None:
    """List the processes that run executions."""
    with ApiClient(url, token) as client:
        answer = client.get("/workers")
    if output is Output.JSON:
        print_json(answer)
    else:
        print_rows(answer["workers"], COLUMNS)
