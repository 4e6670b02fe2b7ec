"""Makes the actors of the fleet: found by name, so that making one twice is finding it."""

from typing import Any

import ray
from ray.autoscaler import sdk

from actors import names, options
from actors.agents.actor import AgentRegistryActor
from actors.execution import ExecutionActor
from actors.functions.caller import function_settings
from actors.functions.node_worker import NodeWorker
from actors.settings import Settings


def node_worker(settings: Settings, node_id: str) -> Any:
    """The handle of a node's worker."""
    made = options.node_worker(names.node_worker(node_id), settings.namespace, node_id)
    given = (function_settings(settings), settings.log_level, settings.digest())
    return options.remote(NodeWorker).options(**made).remote(*given)


def shared_actor(settings: Settings, node_id: str, index: int) -> Any:
    """The handle of a node's ``index``-th shared ExecutionActor."""
    name = names.shared_execution_actor(node_id, index)
    made = options.shared_execution_actor(name, settings.namespace, node_id, settings.execution_actor_cpus)
    return options.remote(ExecutionActor).options(**made).remote(settings.as_dict(), name)


def request_nodes(count: int, cpus: float) -> None:
    """Tell Ray's autoscaler to have at least ``count`` nodes of ``cpus`` CPUs; 0: as many as are in use."""
    sdk.request_resources(bundles=[{"CPU": cpus}] * count)


def agent_registry(settings: Settings) -> Any:
    """The handle of the registry of agents. With SQLite it runs on the node that holds the file."""
    node_id = ray.get_runtime_context().get_node_id() if settings.one_node else None
    made = options.agent_registry(names.AGENT_REGISTRY, settings.namespace, node_id)
    return options.remote(AgentRegistryActor).options(**made).remote(settings.as_dict())


def dedicated_actor(settings: Settings, execution_id: str, resources: dict[str, Any] | None) -> Any:
    """The handle of an execution's own actor; starting it activates the execution.

    With SQLite it runs on the caller's node, which is the one that holds the file.
    """
    name = names.dedicated_execution_actor(execution_id)
    node_id = ray.get_runtime_context().get_node_id() if settings.one_node else None
    made = options.dedicated_execution_actor(name, settings.namespace, resources, node_id)
    return options.remote(ExecutionActor).options(**made).remote(settings.as_dict(), name, execution_id)
