"""The ``FunctionCaller`` of an owner: turns attempts of nodes into calls of functions."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from actors import names
from actors.functions.call import FunctionCall
from actors.functions.host import FunctionHost, LocalHost
from actors.functions.node_worker import NodeWorkerHost
from actors.functions.placed import PlacedFunctions
from actors.functions.pool import FunctionPool
from actors.functions.process import FunctionSettings
from actors.metrics import Metrics
from actors.named import NamedActors
from actors.runner import FunctionFailed
from actors.settings import Settings
from runtime.effects import RunNode
from runtime.errors import Unavailable
from runtime.graph import JoinNode, PythonFnNode

NEVER_RETRIED = ("not_allowed", "import_error", "value_rejected", "invalid_result", "worker_crashed")
"""Classes that another attempt cannot mend."""
COUNTED = (*NEVER_RETRIED, "worker_lost", "timeout", "cancelled")
"""Outcomes that are counted by name; other classes are the users' own, and count as ``failed``."""


def function_settings(settings: Settings) -> FunctionSettings:
    """What an installation's function processes may run."""
    folders = (settings.python_path,) if settings.python_path else ()
    return FunctionSettings(folders=folders, modules=settings.python_modules, env_names=settings.function_env)


class PooledFunctions:
    """Calls functions through a pool, made at the first use (or by ``warm``); those with resources apart."""

    def __init__(
        self, make_host: Callable[[], FunctionHost], settings: Settings, metrics: Metrics | None = None
    ) -> None:
        self._make_host = make_host
        self._placed = PlacedFunctions(function_settings(settings), settings.log_level)
        self._metrics = metrics or Metrics()
        self._pool: FunctionPool | None = None

    @classmethod
    def in_process(cls, settings: Settings, metrics: Metrics | None = None) -> "PooledFunctions":
        """Children of this very process: what it is given in resources holds for them."""
        return cls(lambda: LocalHost(function_settings(settings)), settings, metrics)

    @classmethod
    def on_node(cls, settings: Settings, node_id: str, metrics: Metrics | None = None) -> "PooledFunctions":
        """Children of the node's ``NodeWorker``."""
        actors = NamedActors(settings.namespace)
        return cls(lambda: NodeWorkerHost(actors, names.node_worker(node_id)), settings, metrics)

    async def warm(self) -> None:
        """Have a process ready before the first call wants it."""
        with contextlib.suppress(Unavailable):
            await self._made_pool().start()

    async def call(
        self, effect: RunNode, node: PythonFnNode | JoinNode, *, tenant_id: str
    ) -> tuple[Any, dict[str, Any] | None]:
        """Make one attempt; returns (output, state patch).

        Raises:
            FunctionFailed: with the class of what went wrong.
        """
        began = time.monotonic()
        outcome = "failed"
        try:
            answer = await self._call(effect, node, tenant_id)
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except FunctionFailed as error:
            outcome = error.error_class if error.error_class in COUNTED else "failed"
            raise
        finally:
            self._metrics.function_calls.add(outcome)
            self._metrics.function_call_seconds.observe(time.monotonic() - began)
        return answer

    async def _call(
        self, effect: RunNode, node: PythonFnNode | JoinNode, tenant_id: str
    ) -> tuple[Any, dict[str, Any] | None]:
        try:
            call = _call(effect, node, tenant_id)
            if isinstance(node, PythonFnNode) and node.resources:
                result = await self._placed.run(call, node.timeout_ms, node.resources)
            else:
                result = await self._made_pool().run(call, node.timeout_ms)
        except Unavailable as error:
            raise FunctionFailed(error.detail, "worker_lost") from error
        if result.ok:
            output = result.result if node.output_key is not None else result.patch
            return output, result.patch if node.output_key is None else None
        error_class = result.error_class or "unknown"
        retryable = False if error_class in NEVER_RETRIED else None
        raise FunctionFailed(result.error or error_class, error_class, retryable=retryable)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    def _made_pool(self) -> FunctionPool:
        if self._pool is None:
            self._pool = FunctionPool(self._make_host())
        return self._pool


def _call(effect: RunNode, node: PythonFnNode | JoinNode, tenant_id: str) -> FunctionCall:
    assert node.module is not None
    assert node.function is not None
    rendered = effect.input if isinstance(effect.input, dict) else {}
    kwargs: dict[str, Any] | None = None
    args: list[Any] | None = None
    if isinstance(node, JoinNode):
        args = rendered.get("args")
    elif node.input_mapping is not None:
        kwargs = rendered
    return FunctionCall(
        module=node.module,
        function=node.function,
        key=effect.key,
        tenant_id=tenant_id,
        mode="merge" if node.output_key is None else "set",
        state=effect.state,
        args=args,
        kwargs=kwargs,
    )
