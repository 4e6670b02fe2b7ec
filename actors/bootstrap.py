"""Starts and stops an installation's actors. Both may be done twice."""

from typing import Any

import ray

from actors import names, options
from actors.settings import Settings
from actors.supervisor import Supervisor


def ensure_supervisor(settings: Settings) -> Any:
    """The Supervisor's handle; it is started if it is missing."""
    made = options.supervisor(names.SUPERVISOR, settings.namespace)
    return options.remote(Supervisor).options(**made).remote(settings.as_dict())


def stop_actors(settings: Settings) -> None:
    """End every actor of ours in the namespace. What is committed stays."""
    for found in ray.util.list_named_actors(all_namespaces=True):
        ours = found["name"].startswith(("execution-actor:", "execution:", "node-worker:"))
        ours = ours or found["name"] in (names.SUPERVISOR, names.AGENT_REGISTRY)
        if found["namespace"] == settings.namespace and ours:
            try:
                ray.kill(ray.get_actor(found["name"], namespace=settings.namespace))
            except ValueError:
                continue
