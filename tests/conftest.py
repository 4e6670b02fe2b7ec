"""For all tests."""

import gc


def pytest_collection_finish() -> None:
    """What is there before the first test stays to the end: no collection is to look through it."""
    gc.collect()
    gc.freeze()
