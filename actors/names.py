"""The names of our actors in Ray's namespace, and how an incarnation is made of one."""

SUPERVISOR = "supervisor"
AGENT_REGISTRY = "agent-registry"

SHARED_OWNERS = "execution-actor:"
OWNERS = (SHARED_OWNERS, "execution:")
"""How the names of actors that own executions begin."""

_NODE_CHARS = 12
"""Of a node's 56 hex digits: enough to tell any nodes apart."""


def shared_execution_actor(node_id: str, index: int) -> str:
    return f"execution-actor:{node_id[:_NODE_CHARS]}:{index}"


def dedicated_execution_actor(execution_id: str) -> str:
    return f"execution:{execution_id}"


def node_worker(node_id: str) -> str:
    return f"node-worker:{node_id[:_NODE_CHARS]}"


def incarnation(actor_name: str, life: str) -> str:
    """One life of an actor; ``life`` is random, minted in its constructor."""
    return f"{actor_name}#{life}"


def actor_of(owner: str) -> str:
    """The name of the actor that an incarnation is a life of."""
    return owner.rpartition("#")[0]
