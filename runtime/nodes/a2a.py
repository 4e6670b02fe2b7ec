"""The executor of ``a2a_task`` nodes: one task of a remote agent, from the message to its end.

The message has the attempt's key as its id, so that an agent that remembers messages takes a repeated
attempt for the same task; once that task has ended without a result, a retry asks for another one. The SDK
speaks A2A 1.0 and 0.3; it reaches the agent through the guarded way out alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runtime import jsonvalue
from runtime.agents.card import AgentCard, Interface, read_card
from runtime.effects import STOPPED
from runtime.errors import BadRequest, JamjetError, Unavailable, Unreachable, ValueRejected
from runtime.graph import A2aTaskNode
from runtime.jsonvalue import JsonValue
from runtime.net.cards import CardFetcher
from runtime.net.egress import Egress, parse_url
from runtime.net.errors import EgressError
from runtime.net.secrets import Secrets
from runtime.net.status import retry_after_ms, status_class
from runtime.nodes.failure import CallFailed
from runtime.store.agent_port import AgentRow

if TYPE_CHECKING:
    from a2a.client import Client
    from a2a.types import SendMessageRequest, StreamResponse, Task

FindAgent = Callable[[str, str], Awaitable[AgentRow | None]]
"""The registered agent of a tenant by its id."""

CALLABLE = ("registered", "active")
POLL_S = (0.2, 0.5, 1.0, 2.0)
"""Between looks at a task that goes on; the last one stays."""
CANCEL_WITHIN_S = 5.0
ERROR_CHARS_MAX = 500


class AgentFailed(CallFailed):
    """The agent could not be called, or its task did not come to a result."""


class A2aExecutor:
    """Makes the calls of ``a2a_task`` nodes.

    Args:
        more_headers: asked at each call for headers that it is to have.
    """

    def __init__(
        self,
        egress: Egress,
        secrets: Secrets,
        find_agent: FindAgent,
        more_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._egress = egress
        self._secrets = secrets
        self._find_agent = find_agent
        self._more_headers = more_headers
        self._cards = CardFetcher(egress, egress)

    async def run(
        self,
        node: A2aTaskNode,
        rendered: Mapping[str, Any],
        *,
        message_id: str,
        tenant_id: str,
        on_text: Callable[[str], None],
    ) -> JsonValue:
        """Have the agent do it: ``rendered`` is sent.

        Args:
            on_text: told each piece of text as it comes, where the node asks for a stream.

        Returns:
            What the task's artifacts say: the data of the only part with data, else their text.

        Raises:
            AgentFailed
        """
        timeout_s = None if node.timeout_ms is None else node.timeout_ms / 1_000
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                card = await self._card(node, tenant_id)
                said = await self._called(node, card, rendered, message_id, on_text, deadline)
                # Some agents tell their callers what they were sent.
                kept = self._secrets.withheld(
                    jsonvalue.encode(said, what=f"the answer of agent {node.agent}")
                )
                return jsonvalue.decode(kept)
        except TimeoutError as error:
            raise AgentFailed(f"agent {node.agent} did not end in time", "timeout") from error
        except EgressError as error:
            raise self._unreached(error) from error

    async def _card(self, node: A2aTaskNode, tenant_id: str) -> AgentCard:
        """The card of the agent: as it is registered, or as it is found at its URL."""
        if node.url is not None:
            return await self._fetched(node.url)
        try:
            row = await self._find_agent(tenant_id, node.agent)
        except Unavailable as error:
            raise AgentFailed(error.detail, "io_error") from error
        if row is None:
            raise AgentFailed(f"agent {node.agent} is not registered", "agent_not_found", retryable=False)
        if row.status not in CALLABLE:
            raise AgentFailed(f"agent {node.agent} is {row.status}", "agent_unavailable")
        return read_card(msgspec.json.decode(row.card), found_at=row.found_at)

    async def _fetched(self, url: str) -> AgentCard:
        try:
            return (await self._cards.fetch(url)).card
        except Unreachable as error:
            raise AgentFailed(error.detail, "io_error") from error
        except BadRequest as error:
            if isinstance(error.__cause__, EgressError):
                raise self._unreached(error.__cause__) from error
            raise AgentFailed(error.detail, "bad_agent_card", retryable=False) from error
        except JamjetError as error:
            raise AgentFailed(error.detail, "io_error") from error

    async def _called(
        self,
        node: A2aTaskNode,
        card: AgentCard,
        rendered: Mapping[str, Any],
        message_id: str,
        on_text: Callable[[str], None],
        deadline: asyncio.Timeout,
    ) -> JsonValue:
        # The SDK takes a quarter of a second to import, and most executions call no agent.
        from a2a.utils.errors import A2AError

        interface = _interface(node.agent, card)
        request = _request(node, message_id, dict(rendered))
        async with self._client(node, interface, card) as client:
            call = _Call(client, node, on_text, self._withheld)
            try:
                return await call.result(request)
            except (AgentFailed, EgressError):
                raise
            except A2AError as error:
                raise self._refused(node.agent, "refused", error) from error
            except asyncio.CancelledError as error:
                if STOPPED in error.args or deadline.expired():
                    await call.cancel()
                raise
            except Exception as error:
                # The SDK lets through whatever it trips over in an answer.
                raise self._refused(node.agent, "gave an answer that is no A2A", error) from error

    @contextlib.asynccontextmanager
    async def _client(
        self, node: A2aTaskNode, interface: Interface, card: AgentCard
    ) -> AsyncIterator["Client"]:
        import httpx
        from a2a.client import ClientConfig, ClientFactory
        from a2a.types import AgentCapabilities, AgentInterface
        from a2a.types import AgentCard as SdkCard

        from runtime.net.httpx_transport import EgressTransport

        headers = {"User-Agent": "jamjet-ray", **self._more_headers()}
        if node.token_env is not None:
            headers["Authorization"] = f"Bearer {self._token(node.token_env, interface.url)}"
        http = httpx.AsyncClient(transport=EgressTransport(self._egress), headers=headers, timeout=None)
        config = ClientConfig(
            httpx_client=http,
            streaming=node.stream,
            polling=not node.stream,
            supported_protocol_bindings=["JSONRPC", "HTTP+JSON"],
        )
        known = SdkCard(
            supported_interfaces=[
                AgentInterface(
                    url=interface.url,
                    protocol_binding=interface.binding,
                    protocol_version=_spoken(interface.version),
                )
            ],
            capabilities=AgentCapabilities(streaming=card.streaming),
        )
        async with http:
            yield ClientFactory(config).create(known)

    def _token(self, name: str, url: str) -> str:
        value = self._secrets.value(name, parse_url(url).host)
        if value is None:
            raise EgressError(f"the secret {name} is not set on the server", "secret_missing")
        return value

    def _unreached(self, error: EgressError) -> AgentFailed:
        never = error.error_class in ("address_refused", "bad_url", "too_large", "secret_refused")
        return AgentFailed(self._withheld(str(error)), error.error_class, retryable=False if never else None)

    def _refused(self, agent: str, what: str, error: Exception) -> AgentFailed:
        """What the SDK's error is: the way out's own error is among its causes."""
        import httpx

        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, EgressError):
                return self._unreached(cause)
            if isinstance(cause, httpx.HTTPStatusError):
                return _answered(agent, cause.response.status_code, cause.response.headers)
            cause = cause.__cause__
        said = self._withheld(str(error))[:ERROR_CHARS_MAX]
        return AgentFailed(f"agent {agent} {what}: {said}", "agent_error")

    def _withheld(self, text: str) -> str:
        return self._secrets.withheld(text.encode("utf-8", "replace")).decode()


class _Call:
    """One message, and the task that it leads to."""

    def __init__(
        self,
        client: "Client",
        node: A2aTaskNode,
        on_text: Callable[[str], None],
        withheld: Callable[[str], str],
    ) -> None:
        self._client = client
        self._node = node
        self._on_text = on_text
        self._withheld = withheld
        self._task: Task | None = None

    async def result(self, request: "SendMessageRequest") -> JsonValue:
        events = cast("AsyncGenerator[StreamResponse]", self._client.send_message(request))
        async with contextlib.aclosing(events):
            async for event in events:
                if event.HasField("message"):
                    return _said(event.message.parts)
                self._take(event)
                if self._has_ended():
                    # Some agents leave their streams open.
                    break
        if self._task is None:
            raise AgentFailed(f"agent {self._node.agent} answered with nothing", "agent_error")
        return await self._ended()

    def _take(self, event: Any) -> None:
        """Bring the task up to date, and pass on what is told of it."""
        from a2a.types import Task

        if event.HasField("task"):
            self._task = event.task
            return
        if event.HasField("status_update"):
            update = event.status_update
            self._task = self._task or Task(id=update.task_id, context_id=update.context_id)
            self._task.status.CopyFrom(update.status)
            self._tell(update.status.message.parts)
        elif event.HasField("artifact_update"):
            update = event.artifact_update
            self._task = self._task or Task(id=update.task_id, context_id=update.context_id)
            self._keep(update.artifact, append=update.append)
            self._tell(update.artifact.parts)

    def _has_ended(self) -> bool:
        from a2a.types import TaskState

        state = None if self._task is None else self._task.status.state
        return state == TaskState.TASK_STATE_COMPLETED or state in _FAILURES

    def _keep(self, artifact: Any, *, append: bool) -> None:
        assert self._task is not None
        for known in self._task.artifacts:
            if known.artifact_id == artifact.artifact_id:
                if not append:
                    del known.parts[:]
                known.parts.extend(artifact.parts)
                return
        self._task.artifacts.append(artifact)

    def _tell(self, parts: Any) -> None:
        for part in parts:
            if part.text:
                self._on_text(self._withheld(part.text))

    async def _ended(self) -> JsonValue:
        """The task's result, once it has come to an end."""
        from a2a.types import GetTaskRequest, TaskState

        looks = 0
        while True:
            assert self._task is not None
            state = self._task.status.state
            if state == TaskState.TASK_STATE_COMPLETED:
                parts = [part for artifact in self._task.artifacts for part in artifact.parts]
                return _said(parts or self._task.status.message.parts)
            if state in _FAILURES:
                raise self._failed(*_FAILURES[state])
            await asyncio.sleep(POLL_S[min(looks, len(POLL_S) - 1)])
            looks += 1
            self._task = await self._client.get_task(GetTaskRequest(id=self._task.id))

    def _failed(self, what: str, error_class: str, retryable: bool | None) -> AgentFailed:
        assert self._task is not None
        why = _said(self._task.status.message.parts)
        told = f": {self._withheld(str(why))}"[:ERROR_CHARS_MAX] if why not in (None, "") else ""
        return AgentFailed(f"agent {self._node.agent} {what}{told}", error_class, retryable=retryable)

    async def cancel(self) -> None:
        """Tell the agent to stop; it may not hear, and has bounded time to."""
        from a2a.types import CancelTaskRequest

        if self._task is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CANCEL_WITHIN_S):
                await self._client.cancel_task(CancelTaskRequest(id=self._task.id))


_FAILURES: dict[int, tuple[str, str, bool | None]] = {
    4: ("failed", "agent_failed", None),
    5: ("was cancelled", "agent_cancelled", False),
    6: ("asks for more input", "input_required", False),
    7: ("rejected the task", "agent_rejected", False),
    8: ("asks for other credentials", "auth_required", False),
}
"""By ``TaskState``: what happened, its error class, and whether another attempt may help."""


def _request(node: A2aTaskNode, message_id: str, data: dict[str, Any]) -> "SendMessageRequest":
    """The message that has ``data`` as its only part.

    Raises:
        ValueRejected: A2A cannot say it.
    """
    from a2a.types import Message, SendMessageRequest
    from google.protobuf.json_format import ParseDict, ParseError

    metadata = {"skill": node.skill} if node.skill else {}
    message = {"messageId": message_id, "role": "ROLE_USER", "parts": [{"data": data}], "metadata": metadata}
    try:
        request = SendMessageRequest(message=ParseDict(message, Message()))
    except ParseError as error:
        raise ValueRejected(f"the input of agent {node.agent} cannot be sent: {error}") from error
    request.metadata.update(metadata)
    return request


def _interface(agent: str, card: AgentCard) -> Interface:
    """The newest interface that can be spoken to, JSON-RPC before REST."""
    usable = [one for one in card.interfaces if one.binding in ("JSONRPC", "HTTP+JSON") and one.url]
    if not usable:
        raise AgentFailed(f"agent {agent} does not speak A2A by http", "bad_agent_card", retryable=False)
    return max(usable, key=lambda one: (one.version.split(".")[0] == "1", one.binding == "JSONRPC"))


def _spoken(version: str) -> str:
    """The version of the SDK's two that an agent of a version understands: 0.2 is 0.3 on the wire."""
    return "0.3" if version.startswith("0.") else "1.0"


def _answered(agent: str, status: int, headers: Mapping[str, str]) -> AgentFailed:
    """What a refusal by HTTP means to a retry policy."""
    error_class = status_class(status)
    return AgentFailed(
        f"agent {agent} answered {status}",
        error_class,
        retryable=False if error_class == "client_error" else None,
        retry_after_ms=retry_after_ms(headers),
    )


def _said(parts: Any) -> JsonValue:
    """What parts say: the data of the only one with data, a list of them, else their text."""
    from google.protobuf.json_format import MessageToDict

    data = [whole_numbers(MessageToDict(part.data)) for part in parts if part.HasField("data")]
    if data:
        return data[0] if len(data) == 1 else data
    return "".join(part.text for part in parts if part.HasField("text"))


def whole_numbers(value: JsonValue) -> JsonValue:
    """A value in which a number without a fraction is an integer again: A2A has floats alone."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    return value
