"""One server for all cluster tests, with every workflow registered."""

from collections.abc import Iterator

import pytest

from tests.cluster.workflows import ALL, FUNCTIONS
from tests.fixtures.server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server({"steps.py": FUNCTIONS}) as running:
        for ir in ALL:
            running.register(ir)
        yield running
