"""One server for all cluster tests, with every workflow registered, and one Ray for what needs no HTTP.

They work on SQLite; JAMJET_TEST_DATABASE=postgresql has them on PostgreSQL.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.postgres import ON_POSTGRESQL, PostgresServer, postgres_server
from tests.fixtures.ray_instance import ray_instance
from tests.fixtures.server import Server
from tests.fixtures.workflows import ALL, FUNCTIONS

__all__ = ["postgres_server", "ray_instance"]

EXAMPLES = Path(__file__).parents[2] / "examples"

NewDatabase = Callable[[], str | None]


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Makes an empty PostgreSQL database; None where a SQLite file is to be taken."""
    if not ON_POSTGRESQL:
        return lambda: None
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    return lambda: postgres.create_database(migrated=False)


@pytest.fixture(scope="session")
def server(new_database: NewDatabase) -> Iterator[Server]:
    flows = (EXAMPLES / "flows.py").read_text()
    with Server({"steps.py": FUNCTIONS, "flows.py": flows}, database=new_database()) as running:
        for ir in ALL:
            running.register(ir)
        yield running
