"""Serve's HTTP proxies: on which nodes requests are answered."""

from typing import Any


async def proxies() -> dict[str, str]:
    """By node, how its proxy is: ``healthy``, ``starting``, ``unhealthy`` or ``draining``.

    Raises:
        Unavailable: Serve does not say.
    """
    # Ray is there only where Serve is.
    from actors.cluster import ask_ray

    found: dict[str, str] = await ask_ray(_look)
    return found


def _look() -> dict[str, str]:
    from ray import serve

    told: dict[str, Any] = serve.status().proxies
    return {node: status.value.lower() for node, status in told.items()}
