"""The states of a registered agent, and which follows from which."""

from typing import Literal, get_args

from runtime.errors import Conflict

AgentStatus = Literal["registered", "active", "paused", "deactivated", "archived"]
STATUSES: tuple[AgentStatus, ...] = get_args(AgentStatus)

LISTED: tuple[AgentStatus, ...] = ("registered", "active", "paused", "deactivated")
"""What a list shows that asks for no status."""

_FROM: dict[AgentStatus, tuple[AgentStatus, ...]] = {
    "active": ("registered", "active", "paused", "deactivated"),
    "paused": ("active",),
    "deactivated": ("registered", "active", "paused", "deactivated"),
    "archived": ("deactivated", "archived"),
}
"""By state: those from which it may be reached. Nothing leads out of ``archived``."""


def check_not_archived(agent_id: str, status: AgentStatus) -> None:
    """Raise Conflict for the id of an archived agent, which stays taken."""
    if status == "archived":
        raise Conflict(f"agent {agent_id} is archived: register it under another id")


def check_move(agent_id: str, present: AgentStatus, wanted: AgentStatus) -> None:
    """Raise Conflict where an agent may not go from one state to another."""
    if present in _FROM.get(wanted, ()):
        return
    hint = ": deactivate it first" if wanted == "archived" else ""
    raise Conflict(f"agent {agent_id} is {present}, so it cannot become {wanted}{hint}")
