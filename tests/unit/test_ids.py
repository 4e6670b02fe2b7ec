"""Identifiers: what is minted, and what clients may send."""

from runtime.ids import execution_id_from_hex, parse_execution_id, timed_hex

NOW = 1_700_000_000_000


def test_ids_of_one_time_lie_together_and_are_of_one_length() -> None:
    made = [execution_id_from_hex(timed_hex(NOW + later, "f" * 20)) for later in (0, 1, 86_400_000)]
    assert made == sorted(made)
    assert {len(execution_id) for execution_id in made} == {len("exec_") + 32}
    assert parse_execution_id(made[0]) == made[0]


def test_a_bare_uuid_names_the_same_execution() -> None:
    made = timed_hex(NOW, "0123456789abcdef0123")
    dashed = f"{made[:8]}-{made[8:12]}-{made[12:16]}-{made[16:20]}-{made[20:]}"
    assert parse_execution_id(dashed.upper()) == parse_execution_id(made) == execution_id_from_hex(made)
