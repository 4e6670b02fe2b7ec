"""What the registry is asked, and what it answers: MessagePack between processes, as in ``actors.wire``."""

from typing import Any

import msgspec

from runtime.agents.lifecycle import AgentStatus
from runtime.audit.entries import SYSTEM, Origin
from runtime.store.agent_port import AgentKey, AgentRow, NewAgent


class _Ask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all questions."""


class Register(_Ask, frozen=True, kw_only=True):
    """Answered with a ``SeenAgent``."""

    tenant_id: str
    agent: NewAgent
    replace: bool = False
    by: Origin = SYSTEM


class Find(_Ask, frozen=True, kw_only=True):
    """Answered with a ``SeenAgent`` or None."""

    tenant_id: str
    agent_id: str


class Search(_Ask, frozen=True, kw_only=True):
    """Answered with an ``AgentPage``."""

    tenant_id: str
    statuses: tuple[AgentStatus, ...]
    traits: tuple[str, ...] = ()
    limit: int = 50
    offset: int = 0


class Move(_Ask, frozen=True, kw_only=True):
    """Answered with a ``SeenAgent`` or None."""

    tenant_id: str
    agent_id: str
    status: AgentStatus
    by: Origin = SYSTEM


class Discover(_Ask, frozen=True, kw_only=True):
    """Answered with a ``SeenAgent``."""

    tenant_id: str
    url: str
    by: Origin = SYSTEM


class Heartbeats(_Ask, frozen=True, kw_only=True):
    """Answered with those of the agents that there are."""

    agents: list[AgentKey]


Ask = Register | Find | Search | Move | Discover | Heartbeats


class SeenAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as the registry knows it: its row with its newest heartbeat.

    ``stale``: it has missed three heartbeats. One that never beat is not expected to.
    """

    row: AgentRow
    stale: bool = False


class AgentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some agents of a list, and how many there are."""

    agents: list[SeenAgent]
    total: int


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The error that a question was answered with."""

    code: str
    detail: str
    fields: dict[str, Any] = {}


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """``failed``, or what the question's class says."""

    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    failed: Failed | None = None


_encode = msgspec.msgpack.Encoder().encode
_asks = msgspec.msgpack.Decoder(Ask)
_answers = msgspec.msgpack.Decoder(Answered)

encode_ask = _encode
decode_ask = _asks.decode
encode_answer = _encode
decode_answer = _answers.decode


def answered(value: Any) -> Answered:
    return Answered(value=msgspec.Raw(_encode(value)))
