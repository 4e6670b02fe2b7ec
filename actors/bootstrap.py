"""Starts and stops an installation's actors. All of it may be done twice."""

import time
from typing import Any

import ray
from ray.exceptions import RayError

from actors import names, options
from actors.placement import ONE_NODE
from actors.settings import Settings
from actors.supervisor import Supervisor
from runtime.errors import BadRequest

ANSWER_WITHIN_S = 10.0
POLL_S = 0.1
LEFT_WITHIN_S = 5.0
"""Beyond their patience, for actors that leave to be gone."""


def ensure_supervisor(settings: Settings) -> Any:
    """The Supervisor's handle; it is started if it is missing."""
    made = options.supervisor(names.SUPERVISOR, settings.namespace)
    return options.remote(Supervisor).options(**made).remote(settings.as_dict())


def renew_supervisor(settings: Settings) -> Any:
    """The Supervisor with these very settings: one with others is replaced, and then replaces all others."""
    supervisor = ensure_supervisor(settings)
    if _digest_of(supervisor) != settings.digest():
        _end(names.SUPERVISOR, settings.namespace)
        supervisor = ensure_supervisor(settings)
    return supervisor


def refuse_many_nodes(settings: Settings) -> None:
    """Refuse to run on a cluster that the database cannot serve.

    Raises:
        BadRequest: the database is a SQLite file, and there are several nodes.
    """
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = sum(node["Alive"] for node in nodes)
    if settings.one_node and alive > 1:
        raise BadRequest(f"this cluster has {alive} nodes, and {ONE_NODE}")


def retire_actors(settings: Settings, patience_s: float) -> int:
    """End every actor of ours in the namespace; returns how many there were.

    ExecutionActors may end what they run for so long, and leave the rest in the store for whoever comes.
    """
    _end(names.SUPERVISOR, settings.namespace)
    present = [name for name in _named(settings.namespace) if _is_ours(name)]
    owners = [name for name in present if name.startswith(names.OWNERS)]
    for name in owners:
        _ask(name, settings.namespace, "retire", patience_s)
    until = time.monotonic() + patience_s + LEFT_WITHIN_S
    while time.monotonic() < until and set(owners) & set(_named(settings.namespace)):
        time.sleep(POLL_S)
    for name in filter(_is_ours, _named(settings.namespace)):
        _end(name, settings.namespace)
    return len(present)


def _is_ours(name: str) -> bool:
    return name.startswith((*names.OWNERS, "node-worker:")) or name in (
        names.SUPERVISOR,
        names.AGENT_REGISTRY,
    )


def _named(namespace: str) -> list[str]:
    listed = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in listed if one["namespace"] == namespace]


def _ask(name: str, namespace: str, method: str, *args: Any) -> None:
    """Ask without waiting for the answer."""
    try:
        getattr(ray.get_actor(name, namespace=namespace), method).remote(*args)
    except ValueError:
        return


def _digest_of(supervisor: Any) -> str | None:
    """None: it does not answer, and is better replaced."""
    try:
        described: dict[str, Any] = ray.get(supervisor.describe.remote(), timeout=ANSWER_WITHIN_S)
    except RayError:
        return None
    return described.get("digest")


def _end(name: str, namespace: str) -> None:
    """Kill an actor for good, and wait until its name is free."""
    try:
        ray.kill(ray.get_actor(name, namespace=namespace))
    except ValueError:
        return
    until = time.monotonic() + ANSWER_WITHIN_S
    while time.monotonic() < until and name in _named(namespace):
        time.sleep(POLL_S)
