"""Nodes of the IR made into nodes of the normal form: defaults filled in, references resolved."""

import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

from runtime.graph import (
    A2aTaskNode,
    ConditionNode,
    HttpNode,
    HumanApprovalNode,
    JoinNode,
    LimitExceededNode,
    ModelNode,
    Node,
    ParallelNode,
    PythonFnNode,
    RetryPolicy,
    WaitNode,
)
from runtime.headers import header_name_problem
from runtime.ir.checks import Checks
from runtime.ir.models import (
    BUILT_IN_RETRIES,
    A2aTaskKind,
    ConditionKind,
    CustomMerge,
    HttpKind,
    HumanApprovalKind,
    JoinKind,
    Kind,
    LimitExceededKind,
    ModelConfig,
    ModelKind,
    ParallelKind,
    PythonFnKind,
    WaitKind,
    WorkflowIr,
)
from runtime.ir.policy import RegistrationPolicy, function_problem
from runtime.ir.report import Report
from runtime.providers import PROVIDERS, provider_named, provider_of

MODEL_TIMEOUT_MS = 60_000
HTTP_TIMEOUT_MS = 60_000
A2A_TIMEOUT_MS = 300_000

_STATE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROMPT_FILE = re.compile(r"\S+\.(?:md|txt|j2|jinja2?|prompt)")


class NodeBuilder:
    """Builds the nodes of one workflow. What is wrong is reported, and the node left out."""

    def __init__(self, ir: WorkflowIr, policy: RegistrationPolicy, report: Report) -> None:
        self._ir = ir
        self._policy = policy
        self._report = report
        self._checks = Checks(policy, report)

    def build(self, node_id: str, kind: Kind) -> Node | None:
        return _BUILDERS[type(kind)](self, node_id, kind)

    def _common(self, node_id: str, kind: Kind, retry_policy: str | None = None) -> dict[str, Any]:
        return {
            "id": node_id,
            "description": kind.description,
            "labels": kind.labels,
            "retry": self._retry(node_id, kind, retry_policy),
        }

    def _retry(self, node_id: str, kind: Kind, fallback: str | None) -> RetryPolicy | None:
        if kind.retry is not None:
            return kind.retry.policy()
        name = kind.retry_policy or fallback
        if not name:
            return None
        if name in self._ir.retry_policies:
            return self._ir.retry_policies[name].policy()
        if name not in BUILT_IN_RETRIES:
            known = ", ".join(sorted({*self._ir.retry_policies, *BUILT_IN_RETRIES}))
            self._report.at_node(node_id, f"retry policy {name!r} does not exist (known: {known})")
        return BUILT_IN_RETRIES.get(name)

    def _described(self, node_id: str, kind: Kind) -> None:
        if kind.description is not None:
            self._checks.template(node_id, "description", kind.description)

    def _condition(self, node_id: str, kind: ConditionKind) -> Node:
        self._described(node_id, kind)
        return ConditionNode(**self._common(node_id, kind))

    def _parallel(self, node_id: str, kind: ParallelKind) -> Node:
        self._described(node_id, kind)
        return ParallelNode(**self._common(node_id, kind))

    def _limit_exceeded(self, node_id: str, kind: LimitExceededKind) -> Node:
        self._described(node_id, kind)
        return LimitExceededNode(**self._common(node_id, kind))

    def _join(self, node_id: str, kind: JoinKind) -> Node | None:
        """Without its region, which the shape of the graph tells."""
        self._described(node_id, kind)
        merge: Literal["collect", "first", "custom"]
        module = function = None
        if isinstance(kind.merge_strategy, CustomMerge):
            merge = "custom"
            module, _, function = kind.merge_strategy.function_ref.partition(":")
            if not self._may_call(node_id, module, function):
                return None
        else:
            merge = kind.merge_strategy
        return JoinNode(
            **self._common(node_id, kind),
            output_key=kind.output_key or node_id,
            timeout_ms=self._call_timeout(kind) if merge == "custom" else None,
            wait_for=tuple(dict.fromkeys(kind.wait_for)),
            merge=merge,
            module=module,
            function=function,
        )

    def _wait(self, node_id: str, kind: WaitKind) -> Node | None:
        length = kind.timeout_ms
        by_event = kind.until != "timer"
        if by_event and not kind.correlation_key:
            self._report.at_node(node_id, "correlation_key is required to wait for an event")
            return None
        if kind.until != "external_event" and length is None:
            self._report.at_node(node_id, "timeout_secs is required for a timer")
            return None
        if by_event:
            self._checks.template(node_id, "correlation_key", kind.correlation_key)
        return WaitNode(
            **self._common(node_id, kind),
            output_key=kind.output_key or None,
            until=kind.until,
            correlation_key=kind.correlation_key if by_event else None,
            delay_ms=length if kind.until != "external_event" else None,
            timeout_ms=length if kind.until == "external_event" else None,
        )

    def _human_approval(self, node_id: str, kind: HumanApprovalKind) -> Node:
        self._described(node_id, kind)
        deadline = kind.timeout_ms if kind.timeout_ms is not None else self._ir.timeouts.approval_timeout
        return HumanApprovalNode(
            **self._common(node_id, kind), output_key=kind.output_key or None, timeout_ms=deadline
        )

    def _python_fn(self, node_id: str, kind: PythonFnKind) -> Node | None:
        if kind.input_mapping is not None:
            self._checks.template(node_id, "input_mapping", kind.input_mapping)
            for name in kind.input_mapping:
                if not name.isidentifier():
                    self._report.at_node(
                        node_id, f"input_mapping key {name!r} is not the name of an argument"
                    )
        if not self._may_call(node_id, kind.module, kind.function):
            return None
        return PythonFnNode(
            **self._common(node_id, kind),
            output_key=kind.output_key or None,
            timeout_ms=self._call_timeout(kind),
            module=kind.module,
            function=kind.function,
            input_mapping=kind.input_mapping,
            resources=None if kind.resources is None else kind.resources.demand(),
        )

    def _http(self, node_id: str, kind: HttpKind) -> Node:
        parts = {"url": kind.url, "headers": kind.headers, "query": kind.query, "body": kind.body}
        for place, value in parts.items():
            sends = place in ("headers", "query")
            self._checks.template(node_id, place, value, may_send_secrets=sends)
        for name in kind.headers:
            problem = header_name_problem(name)
            if problem is not None:
                self._report.at_node(node_id, problem)
        timeout = self._call_timeout(kind)
        return HttpNode(
            **self._common(node_id, kind),
            **parts,
            output_key=kind.output_key or node_id,
            timeout_ms=HTTP_TIMEOUT_MS if timeout is None else timeout,
            method=kind.method,
            response=kind.response,
            accept=tuple(kind.accept_status),
        )

    def _a2a_task(self, node_id: str, kind: A2aTaskKind) -> Node | None:
        if not kind.remote_agent and not kind.agent_url:
            self._report.at_node(node_id, "remote_agent or agent_url is required")
            return None
        self._checks.template(node_id, "input_mapping", kind.input_mapping)
        if kind.on_input_required not in (None, "fail"):
            self._report.warn_at_node(
                node_id,
                f"on_input_required {kind.on_input_required!r} has no effect: an agent that asks for more"
                " input fails the node with the class input_required",
            )
        config = self._ir.remote_agents.get(kind.remote_agent or "")
        auth = kind.auth or (config.auth if config is not None else {})
        timeout = self._call_timeout(kind)
        return A2aTaskNode(
            **self._common(node_id, kind),
            output_key=kind.output_key or node_id,
            timeout_ms=A2A_TIMEOUT_MS if timeout is None else timeout,
            agent=kind.remote_agent or urlsplit(kind.agent_url or "").netloc,
            url=kind.agent_url or (config.url if config is not None else None),
            skill=kind.skill or None,
            input_mapping=kind.input_mapping,
            stream=kind.stream,
            token_env=self._token_env(node_id, auth),
        )

    def _token_env(self, node_id: str, auth: dict[str, Any]) -> str | None:
        """The secret that an ``auth`` names; what else it may say is left to the agent's card."""
        name = next((auth[key] for key in ("token_env", "bearer_env", "env") if auth.get(key)), None)
        if name is None:
            return None
        if not isinstance(name, str) or not self._policy.allows_secret(name):
            self._report.at_node(node_id, f"auth names {name!r}, which is no secret (JAMJET_SECRETS)")
            return None
        return name

    def _model(self, node_id: str, kind: ModelKind) -> Node | None:
        prompt = kind.prompt or kind.prompt_ref
        config = self._model_config(node_id, kind)
        if not prompt:
            self._report.at_node(node_id, "prompt is required")
        if not prompt or config is None or config.provider is None or config.model is None:
            return None
        if not kind.prompt and _PROMPT_FILE.fullmatch(prompt):
            self._report.warn_at_node(node_id, f"prompt_ref {prompt!r} is sent as text, not read as a file")
        if kind.tools:
            self._report.warn_at_node(node_id, "tools are not offered to the model")
        self._checks.template(node_id, "prompt", prompt)
        if kind.system_prompt:
            self._checks.template(node_id, "system_prompt", kind.system_prompt)
        options = {**(config.__pydantic_extra__ or {}), **kind.options}
        self._check_options(node_id, options)
        if config.provider == "scripted":
            self._check_script(node_id, options)
        return ModelNode(
            **self._common(node_id, kind, config.retry_policy),
            output_key=_model_output_key(node_id, kind),
            timeout_ms=self._model_timeout(kind, config),
            provider=config.provider,
            model=config.model,
            prompt=prompt,
            system_prompt=kind.system_prompt or None,
            temperature=kind.temperature if kind.temperature is not None else config.temperature,
            max_tokens=kind.max_tokens if kind.max_tokens is not None else config.max_tokens,
            stop=tuple(kind.stop if kind.stop is not None else config.stop or ()),
            output_schema=kind.output_schema if isinstance(kind.output_schema, dict) else None,
            api_base=config.api_base,
            api_key_env=config.api_key_env,
            options=options,
        )

    def _check_options(self, node_id: str, options: dict[str, Any]) -> None:
        for name in ("api_base", "api_key_env"):
            if name in options:
                self._report.at_node(node_id, f"{name} is no option: it belongs into an entry of ir.models")

    def _check_script(self, node_id: str, options: dict[str, Any]) -> None:
        for name in ("latency_ms", "token_ms"):
            value = options.get(name) or 0
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                self._report.at_node(node_id, f"{name} must be a number, from 0")
        responses = options.get("responses") or []
        if not isinstance(responses, list):
            self._report.at_node(node_id, "responses must be a list")
            return
        failures = [entry for entry in responses if isinstance(entry, dict) and "error" in entry]
        if not all(type(entry.get("times", 1)) is int for entry in failures):
            self._report.at_node(node_id, "times of a response must be a whole number")

    def _model_config(self, node_id: str, kind: ModelKind) -> ModelConfig | None:
        """The entry of ``models`` that the node names, else what the name itself says."""
        name = kind.model_ref or kind.model
        if not name:
            self._report.at_node(node_id, "model_ref is required")
            return None
        config = self._ir.models.get(name, ModelConfig(model=name))
        model = config.model or name
        provider = config.provider
        if provider is None:
            provider, model = provider_of(model)
        if provider is None:
            self._report.at_node(
                node_id, f"model {name!r} is not in ir.models, and names no provider ('provider/model')"
            )
            return None
        provider = provider_named(provider)
        if provider not in PROVIDERS:
            supported = ", ".join(PROVIDERS)
            self._report.at_node(
                node_id, f"model provider {provider!r} is not supported (supported: {supported})"
            )
            return None
        return config.model_copy(update={"provider": provider, "model": model})

    def _model_timeout(self, kind: ModelKind, config: ModelConfig) -> int:
        candidates = (kind.timeout_ms, config.timeout_secs, self._ir.timeouts.node_timeout)
        return next((length for length in candidates if length is not None), MODEL_TIMEOUT_MS)

    def _call_timeout(self, kind: Kind) -> int | None:
        return kind.timeout_ms if kind.timeout_ms is not None else self._ir.timeouts.node_timeout

    def _may_call(self, node_id: str, module: str, function: str) -> bool:
        problem = function_problem(self._policy, module, function)
        if problem is not None:
            self._report.at_node(node_id, problem)
        return problem is None


def _model_output_key(node_id: str, kind: ModelKind) -> str:
    """An ``output_schema`` that is a plain word is the state key, as strategies write it."""
    if kind.output_key:
        return kind.output_key
    schema = kind.output_schema
    return schema if isinstance(schema, str) and _STATE_KEY.fullmatch(schema) else node_id


_BUILDERS: dict[type[Kind], Callable[[NodeBuilder, str, Any], Node | None]] = {
    ConditionKind: NodeBuilder._condition,
    ParallelKind: NodeBuilder._parallel,
    JoinKind: NodeBuilder._join,
    WaitKind: NodeBuilder._wait,
    HumanApprovalKind: NodeBuilder._human_approval,
    LimitExceededKind: NodeBuilder._limit_exceeded,
    PythonFnKind: NodeBuilder._python_fn,
    ModelKind: NodeBuilder._model,
    HttpKind: NodeBuilder._http,
    A2aTaskKind: NodeBuilder._a2a_task,
}
