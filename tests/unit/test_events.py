"""Events as they are stored: every one survives, and older versions are lifted to today's."""

import json
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from runtime import events as ev

KINDS: tuple[type, ...] = get_args(ev.Event)
VALUES: dict[type, Any] = {
    inspect.StrType: "ü",
    inspect.IntType: 7,
    inspect.FloatType: 0.5,
    inspect.BoolType: True,
    inspect.AnyType: {"list": [1, None, 1.5, "ü"], "nested": {}},
    inspect.DictType: {"gone": None, "kept": [True]},
    inspect.NoneType: None,
}


def value_of(kind: inspect.Type) -> Any:
    """A value that is not the field's default."""
    if isinstance(kind, inspect.LiteralType):
        return kind.values[-1]
    if isinstance(kind, inspect.VarTupleType):
        return (value_of(kind.item_type),) * 2
    if isinstance(kind, inspect.UnionType):
        return value_of(next(part for part in kind.types if not isinstance(part, inspect.NoneType)))
    return VALUES[type(kind)]


def filled(kind: type) -> ev.Event:
    """An event with every field set."""
    fields = {field.name: value_of(inspect.type_info(field.type)) for field in msgspec.structs.fields(kind)}
    event: ev.Event = kind(**fields)
    return event


def bare(kind: type) -> ev.Event:
    """An event with only what it cannot do without."""
    required = [field for field in msgspec.structs.fields(kind) if field.required]
    event: ev.Event = kind(**{field.name: value_of(inspect.type_info(field.type)) for field in required})
    return event


@pytest.mark.parametrize("made", [filled, bare])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_survives_storing(kind, made):
    event = made(kind)
    assert ev.decode_event(ev.event_type(event), ev.encode_event(event)) == event


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_stored_name_and_the_shown_name_are_the_class_s(kind):
    assert ev.kind_name(ev.event_type(bare(kind))) == kind.__name__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_says_which_node_it_concerns(kind):
    assert hasattr(bare(kind), "node_id")


def test_defaults_are_not_stored():
    assert ev.encode_event(ev.NodeSkipped(node_id="a")) == '{"type":"node_skipped","node_id":"a"}'


def test_a_field_that_is_not_known_any_more_is_passed_over():
    assert ev.decode_event("node_skipped", '{"type":"node_skipped","node_id":"a","was":1}') == ev.NodeSkipped(
        node_id="a"
    )


def test_an_older_version_is_lifted(monkeypatch):
    """As if node failures had once told their class as ``kind``, and edges not at all."""

    def lift(fields: dict[str, Any]) -> dict[str, Any]:
        if "kind" in fields:
            fields["error_class"] = fields.pop("kind")
        return fields

    monkeypatch.setitem(ev.UPCASTERS, "node_failed", lift)
    event = ev.NodeFailed(
        node_id="a", visit=1, attempt=2, error="e", error_class="timeout", outcome="error", fired=(1, 2)
    )
    today = ev.encode_event(event)
    older = json.loads(today)
    older["kind"] = older.pop("error_class")
    assert ev.decode_event("node_failed", json.dumps(older)) == event
    assert ev.decode_event("node_failed", today) == event
    assert ev.decode_event("node_skipped", '{"type":"node_skipped","node_id":"a"}').node_id == "a"
