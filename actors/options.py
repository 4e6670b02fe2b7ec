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


def shared_execution_actor(name: str, namespace: str, node_id: str) -> dict[str, Any]:
    return {**_LASTING, "name": name, "namespace": namespace, "num_cpus": 0, **_on_node(node_id)}


def dedicated_execution_actor(
    name: str, namespace: str, resources: dict[str, Any] | None, node_id: str | None
) -> dict[str, Any]:
    """``resources``: num_cpus, num_gpus, memory, custom, labels, as a workflow or a start asks for them."""
    wanted = resources or {}
    options: dict[str, Any] = {**_LASTING, "name": name, "namespace": namespace}
    options["num_cpus"] = wanted.get("num_cpus", 0)
    for option in ("num_gpus", "memory"):
        if wanted.get(option):
            options[option] = wanted[option]
    if wanted.get("custom"):
        options["resources"] = wanted["custom"]
    if wanted.get("labels"):
        options["label_selector"] = wanted["labels"]
    if node_id is not None:
        options.update(_on_node(node_id))
    return options


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
