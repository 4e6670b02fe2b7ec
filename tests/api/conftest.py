"""The API without Ray, for tests of each route."""

from tests.fixtures.api import api, bare_api, prepared

__all__ = ["api", "bare_api", "prepared"]
