"""Errors travel between processes, and clients branch on their codes."""

import importlib
import pickle
from collections import Counter

import pytest

from runtime.errors import JamjetError

for _name in ("actors.courier", "actors.host", "runtime.ir", "runtime.store.sql", "runtime.template"):
    importlib.import_module(_name)


def kinds_of(kind: type[JamjetError]) -> list[type[JamjetError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in kinds_of(sub))]


KINDS = [kind for kind in kinds_of(JamjetError) if kind.__module__.startswith(("runtime.", "actors."))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind):
    error = kind("node 'a' is gone", node_id="a", problems=["one", "two"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.detail, again.fields, again.code, str(again)) == (
        "node 'a' is gone",
        {"node_id": "a", "problems": ["one", "two"]},
        kind.code,
        "node 'a' is gone",
    )


def test_every_code_is_one_class_s():
    codes = Counter(kind.code for kind in KINDS if "code" in vars(kind))
    assert codes.most_common(1)[0][1] == 1
    assert len(codes) > 12


def test_what_may_be_repeated_says_so():
    assert {kind.code for kind in KINDS if kind.retryable} == {
        "overloaded",
        "unavailable",
        "outcome_unknown",
        "actor_lost",
        "too_many_attempts",
    }
