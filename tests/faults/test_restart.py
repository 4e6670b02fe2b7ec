"""``kill -9`` of everything in mid-run, and a new start on the same database and port."""

import pytest

from tests.faults.conftest import EACH_DATABASE
from tests.faults.load import Load
from tests.fixtures.server import Server

pytestmark = pytest.mark.timeout(300)


@EACH_DATABASE
def test_everything_is_killed_and_goes_on(server: Server, load: Load) -> None:
    load.keep(60)
    server.kill()
    server.start()
    load.keep(20)
    load.finish()
    load.check()
