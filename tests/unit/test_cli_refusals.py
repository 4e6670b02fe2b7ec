"""What the commands say of a refusal that asks to wait."""

import httpx2
import pytest

from api.cli.client import _refusal


@pytest.mark.parametrize(
    ("seconds", "said"),
    [("0", "1 s"), ("1", "1 s"), ("119", "119 s"), ("120", "2 min"), ("7200", "2 h"), ("900000", "10 days"),
     ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT")],
)  # fmt: skip
def test_how_long_to_wait_is_told_in_words(seconds: str, said: str) -> None:
    response = httpx2.Response(429, json={"error": "limit reached"}, headers={"Retry-After": seconds})
    assert _refusal(response) == f"limit reached: try again in {said}"
