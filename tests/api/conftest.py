"""The API without Ray, for tests of each route."""

from tests.fixtures.api import api, bare_api, copied, prepared, prepared_postgres
from tests.fixtures.postgres import postgres_server

__all__ = ["api", "bare_api", "copied", "postgres_server", "prepared", "prepared_postgres"]
