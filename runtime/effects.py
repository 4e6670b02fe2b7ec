"""Effects: what the machine asks for. They are performed only after their turn is committed."""

import msgspec

from runtime.graph import Node
from runtime.jsonvalue import JsonValue

STOPPED = "stopped"
"""The message of an attempt's cancellation that is meant for what it has others do too."""


class RunNode(msgspec.Struct, frozen=True, kw_only=True):
    """Make this attempt, and send its result back as a signal.

    ``input`` is what was rendered for the visit; ``state`` is the state as the
    attempt sees it, not to be changed. ``key`` is the same on every attempt.
    """

    node: Node
    visit: int
    attempt: int
    input: JsonValue
    state: dict[str, JsonValue]
    key: str
    ended_tasks: int = 0
    """Tasks that a remote agent was asked for under this key, and that have ended without a result."""


class StopNode(msgspec.Struct, frozen=True, kw_only=True):
    """The visit was cancelled: its result is of no interest any more."""

    node_id: str
    visit: int


Effect = RunNode | StopNode
