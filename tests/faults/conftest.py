"""A server on each database, with the workflows of the load. All tests share it: each leaves it working."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.fixtures.long import LONG
from tests.fixtures.postgres import PostgresServer, postgres_server
from tests.fixtures.server import Server
from tests.fixtures.workflows import ALL, FUNCTIONS

__all__ = ["postgres_server"]

DATABASES = ["sqlite", "postgresql"]
EACH_DATABASE = pytest.mark.parametrize("server", DATABASES if LONG else DATABASES[:1], indirect=True)
"""For what ``test_cluster`` does on PostgreSQL: there is no need of it twice in `make test`."""


@pytest.fixture(scope="session", params=DATABASES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    database = None
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        database = postgres.create_database(migrated=False)
    with Server({"steps.py": FUNCTIONS}, database=database) as running:
        for ir in ALL:
            running.register(ir)
        yield running


@pytest.fixture
def load(server: Server, tmp_path: Path) -> Iterator[Load]:
    made = Load(server, tmp_path / "journal")
    yield made
    made.close()
