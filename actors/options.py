"""Every option under which our classes become Ray actors: nowhere else is ``ray.remote`` applied.

All are detached (no replica's death ends them), restarted for ever by Ray, and never
retried by it: a call that may have run is repeated by us, under a key and a fence.
"""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_LASTING: dict[str, Any] = {
    "lifetime": "detached",
    "get_if_exists": True,
    "max_restarts": -1,
    "max_task_retries": 0,
    "max_concurrency": 10_000,
    "enable_task_events": False,
}

_AT_THE_HEAD: dict[str, Any] = {"resources": {"node:__internal_head__": 0.001}}
"""By the resource that Ray gives the head node alone, and a new head too. On another node an actor is lost
for the 15 s that Ray takes to miss a node; a soft affinity to the head is not always heeded."""


def shared_execution_actor(name: str, namespace: str, node_id: str, cpus: float) -> dict[str, Any]:
    return {**_LASTING, "name": name, "namespace": namespace, "num_cpus": cpus, **_on_node(node_id)}


def dedicated_execution_actor(
    name: str, namespace: str, resources: dict[str, Any] | None, node_id: str | None
) -> dict[str, Any]:
    """``resources``: a demand, as ``runtime.demand`` has it."""
    placed = {} if node_id is None else _on_node(node_id)
    return {**_LASTING, "name": name, "namespace": namespace, **_demanding(resources or {}), **placed}


def function_actor(resources: dict[str, Any]) -> dict[str, Any]:
    """It ends with whoever made it, and is not restarted: its call is repeated by us."""
    return {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False, **_demanding(resources)}


def _demanding(demand: dict[str, Any]) -> dict[str, Any]:
    wanted: dict[str, Any] = {"num_cpus": demand.get("num_cpus", 0)}
    wanted |= {option: demand[option] for option in ("num_gpus", "memory") if demand.get(option)}
    if demand.get("custom"):
        wanted["resources"] = demand["custom"]
    if demand.get("labels"):
        wanted["label_selector"] = demand["labels"]
    return wanted


def node_worker(name: str, namespace: str, node_id: str) -> dict[str, Any]:
    return {**_LASTING, "name": name, "namespace": namespace, "num_cpus": 0, **_on_node(node_id)}


def supervisor(name: str, namespace: str) -> dict[str, Any]:
    return {**_LASTING, "name": name, "namespace": namespace, "num_cpus": 0, **_AT_THE_HEAD}


def agent_registry(name: str, namespace: str, node_id: str | None) -> dict[str, Any]:
    placed = _AT_THE_HEAD if node_id is None else _on_node(node_id)
    return {**_LASTING, "name": name, "namespace": namespace, "num_cpus": 0, **placed}


def _on_node(node_id: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)}


def remote(cls: type) -> Any:
    """The class as a Ray actor class, made once a process."""
    made = _REMOTE.get(cls)
    if made is None:
        made = _REMOTE[cls] = ray.remote(cls)
    return made


_REMOTE: dict[type, Any] = {}
