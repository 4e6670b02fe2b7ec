"""What the tests of the documentation share with those of the API."""

from tests.fixtures.api import prepared

__all__ = ["prepared"]
