"""One server for all cluster tests, with every workflow registered."""

from collections.abc import Iterator

import pytest

from tests.fixtures.server import Server
from tests.fixtures.workflows import ALL, FUNCTIONS


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server({"steps.py": FUNCTIONS}) as running:
        for ir in ALL:
            running.register(ir)
        yield running
