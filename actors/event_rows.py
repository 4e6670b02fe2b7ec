"""The rows that are stored of a decision's events."""

from runtime.events import encode_event, event_type
from runtime.machine import Decision
from runtime.store.port import EventRow


def event_rows(decision: Decision) -> list[EventRow]:
    first = decision.state.sequence - len(decision.events) + 1
    at = decision.state.updated_at
    return [
        EventRow(number, event_type(event), event.node_id, encode_event(event), at)
        for number, event in enumerate(decision.events, start=first)
    ]
