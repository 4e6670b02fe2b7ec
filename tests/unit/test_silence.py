"""When an actor that is not heard is given up."""

from itertools import pairwise

from actors.silence import SILENT_S, STARTING_S, Silences


def first_given_up(silences: Silences, heard: list[bool], every_s: float = 2.0) -> float | None:
    """When it is, as it is listened to again and again; None: never."""
    for number, one in enumerate(heard):
        if silences.note("a", heard=one, now=number * every_s):
            return number * every_s
    return None


def test_one_that_was_heard_is_given_up_after_a_while() -> None:
    assert first_given_up(Silences(), [True, *[False] * 100]) == 2 + SILENT_S


def test_one_that_answers_now_and_then_is_left_alone() -> None:
    assert first_given_up(Silences(), [True, *[False] * 14] * 20) is None


def test_one_that_starts_has_more_time() -> None:
    assert first_given_up(Silences(), [False] * 1_000) == STARTING_S


def test_nobody_is_given_up_for_a_time_in_which_nobody_listened() -> None:
    silences = Silences()
    silences.note("a", heard=True, now=0)
    assert not silences.note("a", heard=False, now=10 * SILENT_S)
    assert silences.note("a", heard=False, now=11 * SILENT_S)


def test_the_next_of_its_name_starts_anew() -> None:
    silences = Silences()
    silences.note("a", heard=True, now=0)
    given_up = [now for now in range(1_000) if silences.note("a", heard=False, now=now)]
    assert given_up[0] == SILENT_S
    assert all(later - earlier > STARTING_S for earlier, later in pairwise(given_up))


def test_what_has_gone_is_forgotten() -> None:
    silences = Silences()
    for name in ("a", "b"):
        silences.note(name, heard=True, now=0)
        silences.note(name, heard=False, now=1)
    silences.forget_others({"b"})
    assert not silences.note("a", heard=False, now=1 + SILENT_S)
    assert silences.note("b", heard=False, now=1 + SILENT_S)
