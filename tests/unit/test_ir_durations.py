import pytest

from runtime.ir.durations import duration_ms, seconds


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (30, 30_000),
        (0, 0),
        (0.25, 250),
        ("30", 30_000),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1.5s", 1_500),
        ({"secs": 30, "nanos": 0}, 30_000),
        ({"secs": 1, "nanos": 500_000_000}, 1_500),
    ],
)
def test_reads_every_form(value, length):
    assert duration_ms(value) == length


@pytest.mark.parametrize(
    "value",
    [
        -1,
        True,
        None,
        "",
        "soon",
        "5 weeks",
        "5m!",
        [],
        {},
        {"secs": "x"},
        float("nan"),
        float("inf"),
        10**400,
        "9999999d",
    ],
)
def test_refuses_what_is_no_duration(value):
    with pytest.raises(ValueError, match=r"duration|ten years"):
        duration_ms(value)


def test_seconds_are_whole_where_they_can_be():
    assert seconds("2m") == 120
    assert isinstance(seconds("2m"), int)
    assert seconds("250ms") == 0.25
