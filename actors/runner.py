"""Makes one attempt of a node, by its kind. Every failure comes back as a signal, never as an exception."""

import asyncio
import time
from typing import Any, Protocol

from actors.settings import Settings
from runtime import jsonvalue
from runtime.effects import RunNode
from runtime.errors import ValueRejected
from runtime.graph import HttpNode, JoinNode, ModelNode, PythonFnNode
from runtime.net.egress import Egress
from runtime.net.policy import EgressPolicy
from runtime.nodes import scripted
from runtime.nodes.http import HttpExecutor, HttpFailed
from runtime.signals import NodeErrored, NodeSucceeded


class FunctionFailed(Exception):
    """A Python function's failure, with its retry class."""

    def __init__(self, message: str, error_class: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retryable = retryable


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

    def __init__(self, functions: FunctionCaller, http: HttpExecutor) -> None:
        self._functions = functions
        self._http = http

    @classmethod
    def over(cls, settings: Settings, functions: FunctionCaller) -> "Runner":
        """With what an installation's nodes may reach, and the secrets that they may carry."""
        egress = Egress(EgressPolicy.parse(settings.http_allow))
        return cls(functions, HttpExecutor(egress, settings.held_secrets()))

    async def run(self, effect: RunNode, *, tenant_id: str) -> NodeSucceeded | NodeErrored:
        """Make the attempt. Cancelling the call stops it."""
        began = time.monotonic()
        try:
            fields = await self._run(effect, tenant_id)
        except scripted.ModelError as error:
            return _errored(effect, began, str(error), error.error_class)
        except HttpFailed as error:
            return _errored(
                effect,
                began,
                str(error),
                error.error_class,
                retryable=error.retryable,
                retry_after_ms=error.retry_after_ms,
            )
        except FunctionFailed as error:
            return _errored(effect, began, str(error), error.error_class, retryable=error.retryable)
        except ValueRejected as error:
            return _errored(effect, began, error.detail, "value_rejected", retryable=False)
        except TimeoutError:
            limit = (effect.node.timeout_ms or 0) / 1_000
            return _errored(effect, began, f"no result within {limit:g} s", "timeout")
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
            limit_s = None if node.timeout_ms is None else node.timeout_ms / 1_000
            async with asyncio.timeout(limit_s):
                return await self._ask_model(node, effect)
        if isinstance(node, HttpNode):
            return {"output": await self._http.run(node, effect.input, key=effect.key)}
        assert isinstance(node, PythonFnNode | JoinNode)
        output, patch = await self._functions.call(effect, node, tenant_id=tenant_id)
        return {"output": output, "state_patch": patch}

    async def _ask_model(self, node: ModelNode, effect: RunNode) -> dict[str, Any]:
        latency_ms = node.options.get("latency_ms") or 0
        if latency_ms:
            await asyncio.sleep(latency_ms / 1_000)
        said = scripted.answer(node, effect.input["prompt"] or "", visit=effect.visit, attempt=effect.attempt)
        jsonvalue.encode(said.value, what="the model's answer")
        return {
            "output": said.value,
            "gen_ai_system": node.provider,
            "gen_ai_model": node.model,
            "input_tokens": said.input_tokens,
            "output_tokens": said.output_tokens,
            "finish_reason": said.finish_reason,
            "cost_usd": said.cost_usd,
        }


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


def as_text(value: Any) -> str:
    """A rendered prompt as text: a template that is one expression may give any JSON value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else jsonvalue.encode(value).decode()


def printable(text: str, length_max: int = 4_000) -> str:
    """Text that the store can hold: no U+0000, no lone surrogates, not endless."""
    return text[:length_max].replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
