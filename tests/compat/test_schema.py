"""The API under requests made from its own OpenAPI document: no server error, nothing undocumented.

The short form runs with the other tests; ``make compat`` runs the long one. A real server on loopback, with
the executions in its process.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from shutil import copyfile

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from actors.agents.registry import AgentRegistry
from actors.local import LocalExecutions
from actors.runner import Runner
from actors.settings import Settings
from api.app import Opened, build_app
from runtime.store import open_store
from tests.fixtures.api import Functions, Prepared, openapi, prepared

__all__ = ["prepared"]

EXAMPLES = int(os.environ.get("JAMJET_COMPAT_EXAMPLES", "15"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def url(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server on a database of its own."""
    database = tmp_path_factory.mktemp("compat") / "runtime.db"
    copyfile(prepared.full, database)
    with serving(database) as address:
        yield address


@contextlib.contextmanager
def serving(database: Path) -> Iterator[str]:
    """The app on a free port, on an event loop of its own."""
    settings_ = Settings(python_modules=("steps",))

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncIterator[Opened]:
        store = await open_store(str(database), migrate=False)
        executions = LocalExecutions(store, Runner.over(settings_, Functions(), store))
        await executions.open()
        agents = AgentRegistry(store, settings_)
        await agents.open()
        yield store, executions, agents
        await agents.close()
        await executions.close()
        await store.close()

    app = build_app(settings_, open_resources=open_resources)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


schema = schemathesis.openapi.from_dict(openapi())


@schema.exclude(path_regex="stream$").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented(case: Case, url: str, prepared: Prepared) -> None:
    # A wait is as long as it says; the answers are the same without.
    case.query.pop("wait", None)
    case.headers.pop("Prefer", None)
    # No made-up tenant exists; tests/api has this header.
    case.headers.pop("X-Tenant-Id", None)
    case.headers["Authorization"] = f"Bearer {prepared.tokens['operator']}"
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
