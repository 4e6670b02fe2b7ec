"""Makes one attempt of a node, by its kind. Every failure comes back as a signal, never as an exception."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from actors import tracing
from actors.settings import Settings
from runtime.effects import RunNode
from runtime.errors import ValueRejected
from runtime.graph import A2aTaskNode, HttpNode, JoinNode, ModelNode, PythonFnNode
from runtime.net.egress import Egress
from runtime.net.policy import EgressPolicy
from runtime.nodes.a2a import A2aExecutor
from runtime.nodes.failure import CallFailed
from runtime.nodes.http import HttpExecutor
from runtime.nodes.models.endpoint import Endpoints
from runtime.nodes.models.executor import ModelExecutor
from runtime.nodes.models.prices import Prices
from runtime.signals import NodeErrored, NodeSucceeded
from runtime.store.port import Store

OnToken = Callable[[str, int, str], None]
"""Gets a piece of a model's answer as it comes: the call's key, the attempt, the text."""


class FunctionFailed(CallFailed):
    """A Python function's failure."""


class FunctionCaller(Protocol):
    """Calls Python functions in processes of their own."""

    async def call(
        self, effect: RunNode, node: PythonFnNode | JoinNode, *, tenant_id: str
    ) -> tuple[Any, dict[str, Any] | None]:
        """Returns (output, state patch).

        Raises:
            FunctionFailed
        """


class Runner:
    """The ``NodeRunner`` of a host: calls to the outside on its loop, functions elsewhere."""

    def __init__(
        self,
        functions: FunctionCaller,
        http: HttpExecutor,
        models: ModelExecutor,
        a2a: A2aExecutor,
        *,
        on_token: OnToken = lambda key, attempt, text: None,
        egresses: tuple[Egress, ...] = (),
    ) -> None:
        self._egresses = egresses
        self._functions = functions
        self._http = http
        self._models = models
        self._a2a = a2a
        self._on_token = on_token

    @classmethod
    def over(
        cls,
        settings: Settings,
        functions: FunctionCaller,
        store: Store,
        *,
        on_token: OnToken = lambda key, attempt, text: None,
    ) -> "Runner":
        """With what an installation's nodes may reach, the secrets that they may carry, and its agents."""
        guarded = Egress(EgressPolicy.parse(settings.http_allow))
        # The operator says where a provider is: it may be on a network that workflows may not reach.
        trusted = Egress(EgressPolicy(hosts=("*",)))
        secrets = settings.held_secrets()
        endpoints = Endpoints(settings.env, secrets, guarded=guarded, trusted=trusted)
        models = ModelExecutor(endpoints, Prices(settings.held_prices()))
        return cls(
            functions,
            HttpExecutor(guarded, secrets, tracing.outgoing_headers),
            models,
            A2aExecutor(
                guarded,
                secrets,
                lambda tenant_id, agent_id: store.agents(tenant_id).agent(agent_id),
                tracing.outgoing_headers,
            ),
            on_token=on_token,
            egresses=(guarded, trusted),
        )

    async def close(self) -> None:
        """Let go of connections that are kept open for the next call."""
        for egress in self._egresses:
            await egress.close()

    async def run(self, effect: RunNode, *, tenant_id: str) -> NodeSucceeded | NodeErrored:
        """Make the attempt. Cancelling the call stops it."""
        began = time.monotonic()
        try:
            fields = await self._run(effect, tenant_id)
        except CallFailed as error:
            return _errored(
                effect,
                began,
                str(error),
                error.error_class,
                retryable=error.retryable,
                retry_after_ms=error.retry_after_ms,
            )
        except ValueRejected as error:
            return _errored(effect, began, error.detail, "value_rejected", retryable=False)
        return NodeSucceeded(
            node_id=effect.node.id,
            visit=effect.visit,
            attempt=effect.attempt,
            duration_ms=_since(began),
            **fields,
        )

    async def _run(self, effect: RunNode, tenant_id: str) -> dict[str, Any]:
        node = effect.node
        if isinstance(node, ModelNode):
            return await self._ask_model(node, effect)
        if isinstance(node, HttpNode):
            return {"output": await self._http.run(node, effect.input, key=effect.key)}
        if isinstance(node, A2aTaskNode):
            return {"output": await self._ask_agent(node, effect, tenant_id)}
        assert isinstance(node, PythonFnNode | JoinNode)
        output, patch = await self._functions.call(effect, node, tenant_id=tenant_id)
        return {"output": output, "state_patch": patch}

    async def _ask_agent(self, node: A2aTaskNode, effect: RunNode, tenant_id: str) -> Any:
        return await self._a2a.run(
            node,
            effect.input,
            message_id=message_id(effect),
            tenant_id=tenant_id,
            on_text=lambda text: self._on_token(effect.key, effect.attempt, text),
        )

    async def _ask_model(self, node: ModelNode, effect: RunNode) -> dict[str, Any]:
        return await self._models.run(
            node,
            effect.input,
            key=effect.key,
            visit=effect.visit,
            attempt=effect.attempt,
            on_token=lambda text: self._on_token(effect.key, effect.attempt, text),
        )


def message_id(effect: RunNode) -> str:
    """The id of the message to an agent: the same until the task that it led to has ended."""
    return f"{effect.key}:{effect.ended_tasks}" if effect.ended_tasks else effect.key


def _errored(
    effect: RunNode,
    began: float,
    error: str,
    error_class: str,
    *,
    retryable: bool | None = None,
    retry_after_ms: int = 0,
) -> NodeErrored:
    return NodeErrored(
        node_id=effect.node.id,
        visit=effect.visit,
        attempt=effect.attempt,
        error=printable(error),
        error_class=printable(error_class),
        retryable=retryable,
        retry_after_ms=retry_after_ms,
        duration_ms=_since(began),
    )


def _since(began: float) -> int:
    return int((time.monotonic() - began) * 1_000)


def printable(text: str, length_max: int = 4_000) -> str:
    """Text that the store can hold: no U+0000, no lone surrogates, not endless."""
    return text[:length_max].replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
