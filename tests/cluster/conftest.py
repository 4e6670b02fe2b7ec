"""One server for all cluster tests, with every workflow registered, and one Ray for what needs no HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.ray_instance import ray_instance
from tests.fixtures.server import Server
from tests.fixtures.workflows import ALL, FUNCTIONS

__all__ = ["ray_instance"]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    flows = (EXAMPLES / "flows.py").read_text()
    with Server({"steps.py": FUNCTIONS, "flows.py": flows}) as running:
        for ir in ALL:
            running.register(ir)
        yield running
