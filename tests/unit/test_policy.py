"""Policies: which names they match, what they say at three levels, and what the machine does then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import signals as sg
from runtime.errors import BadRequest, Conflict
from runtime.graph import A2aTaskNode, HttpNode, JoinNode, ModelNode, RetryPolicy, ToolPolicy
from runtime.policy import TenantPolicy, decode_tenant_policy, matches, parse_tenant_policy, verdict
from runtime.redaction import DataPolicy
from runtime.state import waiting_on
from tests.unit.machine_driver import Driver, graph_of, step

PAY = step("pay", output_key="paid", input_mapping={"sum": "{{ state.sum }}"})
SAY = ModelNode(id="say", provider="anthropic", model="claude-sonnet-4-5", prompt="x")
CALL = HttpNode(id="charge", url="https://example.org")
JOIN = JoinNode(id="meet", merge="custom", module="steps", function="vote")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("pay", "pay", True), ("pay", "pays", False), ("pay*", "payment", True), ("*pay", "do.pay", True),
        ("p?y", "pay", True), ("p?y", "py", False), ("*", "", True), ("", "", True), ("", "a", False),
        ("**a**", "cab", True), ("a*b*c", "aXbYc", True), ("a*b*c", "aXcYb", False), ("[ab]", "a", False),
        ("Pay", "pay", False), ("a.c", "abc", False),
    ],
)  # fmt: skip
def test_globs(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_a_hostile_glob_takes_no_time() -> None:
    assert not matches("*a" * 200 + "b", "a" * 2_000)


@given(st.text("ab", max_size=8), st.text("ab*?", max_size=8))
def test_globs_mean_what_regular_expressions_say(name: str, pattern: str) -> None:
    import re

    meant = "".join({"*": ".*", "?": "."}.get(char, char) for char in pattern)
    assert matches(pattern, name) == bool(re.fullmatch(meant, name))


ASK = A2aTaskNode(id="ask", agent="reviewer", skill="security_review")


@pytest.mark.parametrize(
    ("node", "pattern"),
    [
        (PAY, "steps:pay"), (PAY, "steps.p*"), (PAY, "python_fn"), (JOIN, "steps:vote"), (CALL, "charge"),
        (CALL, "http"), (ASK, "reviewer"), (ASK, "security_review"), (ASK, "reviewer/sec*"),
        (ASK, "a2a_task"),
    ],
)  # fmt: skip
def test_a_tool_is_known_by_these_names(node, pattern: str) -> None:
    found = verdict(node, [("workflow", ToolPolicy(blocked_tools=(pattern,)))])
    assert found is not None
    assert (found.decision, found.scope) == ("block", "workflow")
    assert repr(pattern) in found.rule
    assert verdict(SAY, [("workflow", ToolPolicy(blocked_tools=(pattern,)))]) is None


def test_a_model_must_be_listed_at_every_level_that_lists() -> None:
    def allowed(*lists: tuple[str, ...]) -> bool:
        scopes = ("tenant", "workflow", "node")
        levels = [(s, ToolPolicy(model_allowlist=names)) for s, names in zip(scopes, lists, strict=False)]
        return verdict(SAY, levels) is None

    assert allowed()
    assert allowed((), ())
    assert allowed(("claude-*",))
    assert allowed(("anthropic/*",), ("claude-sonnet-4-5",), ("*",))
    assert not allowed(("gpt-*",))
    assert not allowed(("gpt-*",), ("claude-*",))
    assert not allowed(("*",), ("claude-*",), ("gpt-*",))
    assert verdict(PAY, [("tenant", ToolPolicy(model_allowlist=("x",)))]) is None


policies = st.builds(
    ToolPolicy,
    blocked_tools=st.lists(st.sampled_from(["steps:pay", "http", "x"]), max_size=2).map(tuple),
    require_approval_for=st.lists(st.sampled_from(["steps:*", "charge", "y"]), max_size=2).map(tuple),
    model_allowlist=st.lists(st.sampled_from(["claude-*", "gpt-*"]), max_size=2).map(tuple),
)
STRICTNESS = {None: 0, "require_approval": 1, "block": 2}


@given(st.sampled_from([PAY, SAY, CALL, JOIN]), policies, policies, policies)
def test_a_narrower_level_never_widens(node, tenant, workflow, own) -> None:
    def strictness(*levels) -> int:
        found = verdict(node, levels)
        return STRICTNESS[None if found is None else found.decision]

    broad = strictness(("tenant", tenant))
    both = strictness(("tenant", tenant), ("workflow", workflow))
    every = strictness(("tenant", tenant), ("workflow", workflow), ("node", own))
    assert broad <= both <= every
    assert every == strictness(("node", own), ("tenant", tenant), ("workflow", workflow))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"blocked": []}, "policy: object contains unknown field `blocked`"),
        ({"blocked_tools": [1]}, "policy: expected `str`, got `int`"),
        ({"data_policy": {"pii_fields": ["x"]}}, "policy: pii_fields: 'x' is no path"),
        ([], "policy: expected `object`, got `array`"),
    ],
)
def test_a_tenants_policy_is_checked(value, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_tenant_policy(value)
    assert caught.value.detail.startswith(sentence)


# --- the machine ----------------------------------------------------------------------------------

ASK = ToolPolicy(require_approval_for=("steps:pay",))
BLOCK = ToolPolicy(blocked_tools=("steps:pay",))


def started(*edges: str, policy: ToolPolicy = ASK, nodes=(PAY,), **fields) -> Driver:
    drive = Driver(graph_of(*edges, nodes=nodes, policy=policy, **fields))
    drive.start(sum=5)
    return drive


def test_a_blocked_call_fails_its_node_and_is_never_made() -> None:
    drive = started("pay>end", policy=BLOCK, nodes=(step("pay", retry=RetryPolicy(max_attempts=3)),))

    violation, failure = drive.events()[2:4]
    assert (violation.tool, violation.policy_scope, violation.decision) == (
        "steps:pay",
        "workflow",
        "blocked",
    )
    assert (failure.error_class, drive.status) == ("policy_violation", "failed")
    assert "blocked pattern" in failure.error


def test_a_blocked_call_may_be_caught() -> None:
    drive = started("pay>end", "pay>plan_b error", "plan_b>end", policy=BLOCK)
    assert drive.phase("plan_b") == "running"


def test_the_tenants_policy_counts_when_the_node_begins() -> None:
    drive = Driver(graph_of("a>pay", "pay>end", nodes=(PAY,)))
    drive.start()
    drive.policy = TenantPolicy(blocked_tools=("steps:pay",))

    assert drive.ok("a")[-1] == "WorkflowFailed pay"
    assert drive.events()[-3].policy_scope == "tenant"


def test_a_call_waits_for_its_approval_and_is_made_with_the_input_that_was_shown() -> None:
    drive = started("pay>end")
    (asked,) = drive.events()[2:]
    assert (asked.tool, asked.input, len(asked.tool_call_hash)) == ("steps:pay", {"sum": 5}, 64)
    assert (drive.status, [entry["type"] for entry in waiting_on(drive.state)]) == ("paused", ["approval"])

    assert drive.approve(state_patch={"sum": 7, "note": "ok"}) == [
        "ApprovalReceived pay", "NodeStarted pay#1", "run pay#1"
    ]  # fmt: skip
    assert drive.last is not None
    assert drive.last.effects[0].input == {"sum": 5}
    assert drive.data == {"sum": 7, "note": "ok"}
    assert drive.ok("pay", "done")[-1] == "WorkflowCompleted"
    assert drive.data["paid"] == "done"


def test_a_call_that_is_forbidden_while_it_waits_is_not_made_though_it_is_approved() -> None:
    drive = started("pay>end")
    drive.policy = TenantPolicy(blocked_tools=("steps:*",))

    assert drive.approve() == [
        "ApprovalReceived pay", "PolicyViolation pay", "NodeFailed pay policy_violation", "WorkflowFailed pay"
    ]  # fmt: skip


@pytest.mark.parametrize("after", ["retry", "recovered"])
def test_a_call_that_is_forbidden_after_its_first_attempt_is_not_made_again(after: str) -> None:
    node = step("pay", retry=RetryPolicy(max_attempts=3, initial_delay_ms=10))
    drive = started("pay>end", nodes=(node,), policy=ToolPolicy())
    drive.policy = TenantPolicy(blocked_tools=("steps:*",))
    if after == "retry":
        drive.error("pay")

    lines = drive.wake() if after == "retry" else drive.recover()

    assert lines == ["PolicyViolation pay", "NodeFailed pay policy_violation", "WorkflowFailed pay"]


def test_a_call_is_not_approved_while_its_execution_is_held() -> None:
    drive = started("pay>end")
    drive.hold()
    with pytest.raises(Conflict, match="is held"):
        drive.approve()
    drive.release()
    assert drive.approve()[-1] == "run pay#1"


def test_a_policy_of_a_later_release_can_still_be_read() -> None:
    text = '{"blocked_tools":["x"],"later":1,"data_policy":{"pii_detectors":["email"],"later":{}}}'
    found = decode_tenant_policy(text)
    assert found.blocked_tools == ("x",)
    assert found.data_policy == DataPolicy(pii_detectors=("email",))


def test_a_rejected_call_fails_its_node() -> None:
    drive = started("pay>end", "pay>other error", "other>end")
    drive.approve("rejected", comment="too much", state_patch={"sum": 0})

    assert drive.events()[-3].error == "approval rejected by ann: too much"
    assert (drive.phase("other"), drive.data["sum"]) == ("running", 5)


def test_an_approval_is_asked_for_once_a_visit() -> None:
    retry = RetryPolicy(max_attempts=2, initial_delay_ms=10)
    node = step("pay", retry=retry)
    drive = started("pay>end", "pay>pay if output == 'again'", nodes=(node,))
    drive.approve()
    drive.error("pay")
    assert drive.wake() == ["NodeStarted pay#2 retry", "run pay#2"]
    assert drive.recover() == ["NodeStarted pay#3 recovered", "run pay#3"]

    assert drive.ok("pay", "again")[-1] == "ToolApprovalRequired pay/2"


def test_what_waits_for_an_approval_can_be_cancelled_and_times_out_with_the_execution() -> None:
    drive = started("pay>end")
    assert drive.cancel()[-1] == "WorkflowCancelled"
    with pytest.raises(Conflict):
        drive.approve()

    drive = started("pay>end", timeout_ms=1_000)
    assert drive.tick(1_000)[-1] == "WorkflowFailed"


def test_nothing_but_a_decision_begins_the_call() -> None:
    drive = started("pay>end")
    assert drive.recover() == drive.tick(10_000) == []
    late = sg.NodeSucceeded(node_id="pay", visit=1, attempt=1, output=1)
    assert drive.send(late) == []


def test_a_custom_join_and_a_model_are_under_policy_too() -> None:
    drive = started("a>meet", "meet>end", nodes=(JOIN,), policy=ToolPolicy(blocked_tools=("*vote",)))
    assert drive.ok("a")[-1] == "WorkflowFailed meet"
    drive = started("say>end", nodes=(SAY,), policy=ToolPolicy(model_allowlist=("gpt-*",)))
    assert drive.status == "failed"
    assert "'anthropic/claude-sonnet-4-5' is not in the allowlist" in drive.events()[-1].error
