"""IR to the normal form: what is accepted, how it is labelled, and every refusal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidWorkflow
from runtime.graph import END, A2aTaskNode, Graph, RetryPolicy, ToolPolicy, decode_graph, encode_graph
from runtime.ir import CompiledWorkflow, RegistrationPolicy, compile_ir
from runtime.ir.exposure import input_schema
from runtime.plan import Plan
from runtime.providers import PROVIDERS
from runtime.redaction import DataPolicy

DEV = RegistrationPolicy(python_modules=("*",), template_env=frozenset())


def py(**more: Any) -> dict[str, Any]:
    return {"kind": {"type": "python_fn", "module": "app.flow", "function": "step"}, **more}


def model(**kind: Any) -> dict[str, Any]:
    return {"kind": {"type": "model", "model_ref": "scripted/echo", "prompt": "hello", **kind}}


def ir(nodes: Any, *edges: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    """IR with edges written ``a>b``."""
    listed = [
        dict(zip(("from", "to"), edge.split(">"), strict=True)) if isinstance(edge, str) else edge
        for edge in edges
    ]
    return {"workflow_id": "w", "version": "1.0.0", "nodes": nodes, "edges": listed, **more}


def compiled(nodes: Any, *edges: str | dict[str, Any], **more: Any) -> CompiledWorkflow:
    result = compile_ir(ir(nodes, *edges, **more), DEV)
    assert decode_graph(encode_graph(result.graph)) == result.graph
    Plan(result.graph)
    return result


def graph(nodes: Any, *edges: str | dict[str, Any], **more: Any) -> Graph:
    return compiled(nodes, *edges, **more).graph


def problems(source: Any, policy: RegistrationPolicy = DEV) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        compile_ir(source, policy)
    found = caught.value.fields["problems"]
    assert caught.value.detail == found[0]
    return list(found)


def labelled(of: Graph) -> list[str]:
    return [f"{edge.source} {edge.label} {edge.target}" for edge in of.edges]


# --- the top -------------------------------------------------------------------------------------


def test_a_missing_id_is_refused_with_the_contracts_text():
    assert problems({"version": "1", "nodes": {"a": py()}}) == ["ir.workflow_id is required"]


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_id_is_a_missing_id(empty):
    source = ir({"a": py()}) | {"workflow_id": empty}
    assert problems(source) == ["ir.workflow_id is required"]


def test_everything_that_is_missing_is_said_at_once():
    assert problems({}) == ["ir.workflow_id is required", "ir.version is required", "ir.nodes is required"]


@pytest.mark.parametrize("source", [None, [], "text", 5])
def test_ir_must_be_an_object(source):
    assert problems(source) == ["ir must be an object"]


@pytest.mark.parametrize(
    ("key", "value", "start"),
    [
        ("workflow_id", "x" * 257, "ir.workflow_id: is 257 characters long"),
        ("workflow_id", "a\nb", "ir.workflow_id: 'a\\nb' has characters"),
        ("workflow_id", 5, "ir.workflow_id must be a text"),
        ("version", "1" * 65, "ir.version: must be at most 64"),
        ("nodes", {}, "ir.nodes: there must be at least one node"),
        ("nodes", "a", "ir.nodes must be an object"),
        ("nodes", {f"n{i}": py() for i in range(1_001)}, "ir.nodes: 1001 nodes are over the limit of 1000"),
        ("nodes", {"a": 5}, "node 'a': must be an object"),
        ("nodes", [py()], "ir.nodes: item 0 must be an object with an id"),
        ("nodes", [py(id="a"), py(id="a")], "ir.nodes: the id 'a' stands twice"),
        ("edges", [{"from": "a"}], "ir.edges[0].to is required"),
        ("edges", [{"from": "a", "to": "end"}] * 5_001, "ir.edges: 5001 edges are over the limit of 5000"),
        ("edges", {"a": "b"}, "ir.edges must be a list"),
        ("start_node", "b", "ir.start_node 'b' does not exist"),
        ("isolation", "private", "ir.isolation: input should be 'shared' or 'dedicated'"),
        ("resources", {"num_gpus": "many"}, "ir.resources.num_gpus: "),
        ("max_steps", 0, "ir.max_steps: "),
        ("state_schema", {"k": {"merge": "sum"}}, "ir.state_schema.k.merge: 'sum' is none of"),
        ("mcp_servers", {"m": {"command": "sh"}}, "ir.mcp_servers.m: a command is not allowed"),
        (
            "timeouts",
            {"workflow_timeout": "later"},
            "ir.timeouts.workflow_timeout: 'later' is not a duration",
        ),
        ("description", float("nan"), "ir contains the number nan"),
        ("description", "\x00", "ir contains the character U+0000"),
    ],
)
def test_refuses_at_the_top(key, value, start):
    found = problems(ir({"a": py()}) | {key: value})
    assert found[0].startswith(start)


def test_unknown_keys_are_kept_and_nulls_are_absent():
    source = ir({"a": py(extension={"x": 1}, description=None)}, start_node=None, edges=None, future=[1])
    result = compile_ir(source, DEV)
    assert result.ir is source
    assert result.graph.nodes["a"].description is None


def test_the_contracts_shape_registers():
    source = {
        "workflow_id": "research-agent",
        "version": "0.1.0",
        "state_schema": {"query": "str"},
        "nodes": {"search": {"kind": "limit_exceeded"}},
        "edges": [],
    }
    found = compile_ir(source, DEV).graph
    assert (found.workflow_id, found.version, found.start) == ("research-agent", "0.1.0", "search")


@pytest.mark.parametrize(
    "schema", ["app.State", '{"log": {"merge": "append"}}', None, {"log": {"merge": "append"}}]
)
def test_the_state_schema_may_be_text_or_object(schema):
    found = graph({"a": py()}, state_schema=schema)
    assert found.merges == ({"log": "append"} if schema and "append" in str(schema) else {})


def test_merges_are_read_from_json_schema_too():
    schema = {"type": "object", "properties": {"n": {"merge": "add"}, "m": {"merge": "replace"}, "k": {}}}
    assert graph({"a": py()}, state_schema=schema).merges == {"n": "add"}


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"start_node": "b"}, "b"),
        ({"start": "b"}, "b"),
        ({}, "start"),
    ],
)
def test_the_start_is_resolved(more, start):
    assert graph({"a": py(), "b": py(), "start": py()}, **more).start == start


def test_without_any_start_it_is_the_first_node():
    assert graph([py(id="z"), py(id="a")]).start == "z"


def test_limits_and_placement():
    found = graph(
        {"a": py(), "b": py()},
        timeouts={"workflow_timeout": {"secs": 90, "nanos": 0}},
        isolation="dedicated",
        resources={"num_cpus": 1, "custom": {"tpu": 2}},
        labels={"team": "x", "tries": 3, "on": True},
    )
    assert (found.max_steps, found.timeout_ms, found.isolation) == (1_002, 90_000, "dedicated")
    assert found.resources == {"num_cpus": 1.0, "custom": {"tpu": 2.0}}
    assert found.labels == {"team": "x", "tries": "3", "on": "true"}


def test_limits_of_a_strategy_count_where_nothing_else_is_said():
    limits = {"max_steps": 7, "timeout_seconds": 30}
    found = graph({"a": py()}, strategy_metadata={"limits": limits})
    assert (found.max_steps, found.timeout_ms) == (7, 30_000)
    assert graph({"a": py()}, max_steps=5, strategy_metadata={"limits": limits}).max_steps == 5


def test_what_is_not_enforced_is_said():
    pause = {"type": "wait", "condition": "timer", "timeout_secs": 1}
    warnings = compiled(
        {"a": {"kind": pause, "resources": {"num_cpus": 1}}}, token_budget={"total_tokens": 1}
    ).warnings
    assert warnings == (
        "ir.token_budget has no effect",
        "node 'a': resources has no effect: only python_fn nodes have some",
    )


def test_a_function_may_ask_for_a_machine():
    found = graph({"a": py(resources={"num_gpus": 1, "labels": {"zone": "in(a, b)"}})}).nodes["a"]
    assert found.resources == {"num_gpus": 1.0, "labels": {"zone": "in(a, b)"}}


def test_resources_make_an_execution_dedicated():
    found = graph({"a": py()}, resources={"num_cpus": 2})
    assert (found.isolation, found.resources) == ("dedicated", {"num_cpus": 2.0})
    assert graph({"a": py()}, resources={}, isolation="shared").isolation == "shared"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"resources": {"num_cpus": 1}, "isolation": "shared"},
            "ir.resources: only a dedicated execution has some, and isolation is shared",
        ),
        ({"resources": {"num_gpus": 1.5}}, "num_gpus: 1.5 is over 1, so it must be a whole number"),
        ({"resources": {"gpus": 1}}, "gpus"),
    ],
)
def test_what_no_machine_can_be_asked_for_is_refused(more, said):
    with pytest.raises(InvalidWorkflow) as refused:
        graph({"a": py()}, **more)
    assert said in str(refused.value.fields["problems"])


def test_policies_stand_in_the_normal_form():
    policy = {"blocked_tools": ["pay*"], "model_allowlist": []}
    graph = compiled(
        {"a": py(policy=policy, data_policy={"pii_fields": ["$.card"]})},
        policy={"require_approval_for": ["*"]},
    ).graph
    assert graph.policy == ToolPolicy(require_approval_for=("*",))
    assert graph.nodes["a"].policy == ToolPolicy(blocked_tools=("pay*",))
    assert graph.nodes["a"].data_policy == DataPolicy(pii_fields=("$.card",))
    assert graph.data_policy is None


@pytest.mark.parametrize(
    ("on_node", "on_workflow", "sentence"),
    [
        (
            {"policy": {"block_tools": []}},
            {},
            "node 'a': policy: object contains unknown field `block_tools`",
        ),
        ({"policy": {"blocked_tools": "x"}}, {}, "node 'a': policy: expected `array`, got `str`"),
        ({}, {"policy": []}, "ir.policy: expected `object`, got `array`"),
        ({}, {"data_policy": {"pii_detectors": ["iban"]}}, "ir.data_policy: invalid enum value 'iban'"),
        ({}, {"data_policy": {"pii_fields": ["card"]}}, "ir.data_policy: pii_fields: 'card' is no path"),
        ({}, {"data_policy": {"retention_days": 0}}, "ir.data_policy: retention_days must be from 1"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(on_node, on_workflow, sentence):
    (problem,) = problems(ir({"a": py(**on_node)}, **on_workflow))
    assert problem.startswith(sentence)


# --- nodes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tool", "mcp_tool", "subgraph", "agent", "eval", "java_fn", "nonsense"])
def test_kinds_that_cannot_run_are_refused(kind):
    assert problems(ir({"n": {"kind": {"type": kind}}})) == [f"node 'n': node kind {kind!r} is not supported"]


def test_a_node_must_say_what_it_is():
    assert problems(ir({"n": {}})) == ["node 'n': kind is required"]
    assert problems(ir({"n": {"kind": {}}})) == ["node 'n': kind.type is required"]


def test_a_nodes_id_must_equal_its_key():
    assert problems(ir({"n": py(id="m")})) == ["node 'n': its id is 'm', which differs from its key"]


def test_the_id_end_is_reserved():
    assert problems(ir({"a": py(), "end": py()})) == [
        "node 'end': the id 'end' is reserved for the end of a path"
    ]


def test_keys_beside_the_kind_serve_like_keys_within():
    within = graph({"a": model(output_key="k", timeout_secs=5)}).nodes["a"]
    beside = graph({"a": model() | {"output_key": "k", "timeout_secs": 5}}).nodes["a"]
    assert within == beside


def test_a_model_is_resolved_from_the_table():
    tables = {
        "models": {
            "fast": {
                "provider": "scripted",
                "model": "m-1",
                "temperature": 0.5,
                "max_tokens": 9,
                "timeout_secs": 7,
                "retry_policy": "llm_default",
                "responses": ["hi"],
                "latency_ms": 0,
            }
        }
    }
    node = graph({"a": model(model_ref="fast", temperature=0.1, options={"latency_ms": 5})}, **tables).nodes[
        "a"
    ]
    assert (node.provider, node.model, node.temperature, node.max_tokens) == ("scripted", "m-1", 0.1, 9)
    assert (node.timeout_ms, node.retry.max_attempts) == (7_000, 3)
    assert node.options == {"responses": ["hi"], "latency_ms": 5}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("llama-3", f"model provider 'meta' is not supported (supported: {', '.join(PROVIDERS)})"),
        ("command-r", f"model provider 'cohere' is not supported (supported: {', '.join(PROVIDERS)})"),
        ("acme/one", f"model provider 'acme' is not supported (supported: {', '.join(PROVIDERS)})"),
        ("mystery", "model 'mystery' is not in ir.models, and names no provider ('provider/model')"),
        ("", "model_ref is required"),
    ],
)
def test_models_that_cannot_run_are_refused(name, sentence):
    assert problems(ir({"x": model(model_ref=name)})) == [f"node 'x': {sentence}"]


def test_a_model_needs_a_prompt():
    assert problems(ir({"x": model(prompt="")})) == ["node 'x': prompt is required"]
    assert (
        graph({"x": model(prompt=None, prompt_ref="Say {{ state.x }}")}).nodes["x"].prompt
        == "Say {{ state.x }}"
    )


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ({"output_key": "a"}, "a"),
        ({"output_schema": "__plan__"}, "__plan__"),
        ({"output_schema": "schemas.Ticket"}, "x"),
        ({"output_schema": ""}, "x"),
        ({"output_schema": {"type": "object"}}, "x"),
        ({}, "x"),
    ],
)
def test_the_output_key_of_a_model(kind, key):
    assert graph({"x": model(**kind)}).nodes["x"].output_key == key


def test_a_python_function_has_an_output_key_only_if_given():
    found = graph({"a": py(), "b": py(output_key="k")}).nodes
    assert (found["a"].output_key, found["b"].output_key) == (None, "k")


@pytest.mark.parametrize(
    "kind",
    [
        {"module": "app.flow", "function": "step"},
        {"reference": "app.flow:step"},
        {"function": "app.flow:step"},
    ],
)
def test_a_python_function_may_be_written_as_a_reference(kind):
    node = graph({"a": {"kind": {"type": "python_fn", **kind}}}).nodes["a"]
    assert (node.module, node.function) == ("app.flow", "step")


@pytest.mark.parametrize(
    ("module", "function", "sentence"),
    [
        ("os", "system", "python module 'os' is not allowed (JAMJET_PYTHON_MODULES)"),
        ("application.x", "f", "python module 'application.x' is not allowed (JAMJET_PYTHON_MODULES)"),
        ("app.x; import os", "f", "'app.x; import os' is not the name of a python module"),
        ("app..x", "f", "'app..x' is not the name of a python module"),
        ("app.x", "__import__", "'__import__' is not the plain name of a public function"),
        ("app.x", "os.system", "'os.system' is not the plain name of a public function"),
        ("app.x", "", "'' is not the plain name of a public function"),
    ],
)
def test_the_door_of_python_functions(module, function, sentence):
    policy = RegistrationPolicy(python_modules=("app.*",), template_env=frozenset())
    node = {"kind": {"type": "python_fn", "module": module, "function": function}}
    assert problems(ir({"f": node}), policy) == [f"node 'f': {sentence}"]
    join = {"kind": {"type": "join", "merge_strategy": {"custom": {"function_ref": f"{module}:{function}"}}}}
    assert problems(ir({"f": join}), policy) == [f"node 'f': {sentence}"]


def test_input_mapping_keys_are_names_of_arguments():
    found = problems(ir({"a": py(input_mapping={"not a name": 1})}))
    assert found == ["node 'a': input_mapping key 'not a name' is not the name of an argument"]


def test_timeouts_have_an_order():
    limits = {"node_timeout": 40, "approval_timeout": "2d"}
    nodes = {"m": model(), "f": py(node_timeout_secs=3), "g": py(), "h": {"kind": "human_approval"}}
    found = graph(nodes, timeouts=limits).nodes
    assert [found[key].timeout_ms for key in "mfgh"] == [40_000, 3_000, 40_000, 172_800_000]
    bare = graph(nodes).nodes
    assert [bare[key].timeout_ms for key in "mfgh"] == [60_000, 3_000, None, None]


def test_a_node_timeout_of_nothing_is_refused():
    assert problems(ir({"a": py(node_timeout_secs=0)})) == [
        "node 'a': node_timeout_secs: must be greater than 0"
    ]


def test_waits():
    def wait(**kind: Any) -> dict[str, Any]:
        return {"kind": {"type": "wait", **kind}}

    found = graph(
        {
            "t": wait(condition="timer", timeout_secs=0),
            "e": wait(condition="external_event", correlation_key="pay-{{ state.id }}", timeout_secs=9),
            "b": wait(condition="either", correlation_key="k", timeout_secs=5, output_key="paid"),
        }
    ).nodes
    assert [(found[key].delay_ms, found[key].timeout_ms) for key in "teb"] == [
        (0, None),
        (None, 9_000),
        (5_000, None),
    ]
    assert [found[key].output_key for key in "teb"] == [None, None, "paid"]
    assert problems(ir({"t": wait()})) == ["node 't': timeout_secs is required for a timer"]
    assert problems(ir({"t": wait(condition="either", timeout_secs=1)})) == [
        "node 't': correlation_key is required to wait for an event"
    ]


def test_retry_policies():
    table = {
        "retry_policies": {
            "mine": {
                "max_attempts": 5,
                "backoff": "linear",
                "initial_delay": 0.5,
                "max_delay": {"secs": 4, "nanos": 0},
                "jitter": True,
                "retryable_on": ["timeout", {"custom": "odd"}],
            }
        }
    }
    inline = {
        "max_attempts": 2,
        "backoff": "constant",
        "delay_ms": 10,
        "retry_on": ["model_overloaded", "rate_limited"],
    }
    found = graph(
        {
            "a": py(retry_policy="mine"),
            "b": py(retry_policy="io_default"),
            "c": py(retry=inline),
            "d": py(),
            "e": py(retry_policy="no_retry"),
        },
        **table,
    ).nodes
    assert found["a"].retry == RetryPolicy(
        max_attempts=5,
        backoff="linear",
        initial_delay_ms=500,
        max_delay_ms=4_000,
        jitter=True,
        retryable_on=("timeout", "odd"),
    )
    assert found["b"].retry.retryable_on == ("io_error", "timeout", "connection_reset")
    assert (found["c"].retry.backoff, found["c"].retry.initial_delay_ms) == ("fixed", 10)
    assert found["c"].retry.retryable_on == ("server_error", "rate_limit")
    assert found["d"].retry is None
    assert found["e"].retry.max_attempts == 1


def test_an_unknown_retry_policy_is_refused():
    (problem,) = problems(ir({"a": py(retry_policy="often")}))
    assert problem.startswith("node 'a': retry policy 'often' does not exist (known: fast, io_default")


# --- edges ----------------------------------------------------------------------------------------


def test_targets_of_nodes_become_labelled_edges():
    gate = {"kind": {"type": "human_approval", "on_approved": "b", "on_rejected": "c", "fallback_node": "d"}}
    found = graph({"a": py(on_error="d"), "gate": gate, "b": py(), "c": py(), "d": py()}, "a>gate", "b>end")
    assert labelled(found) == [
        "a ok gate",
        "b ok end",
        "a error d",
        "gate timeout d",
        "gate approved b",
        "gate rejected c",
    ]


def test_a_conditions_branches_come_in_order_and_swallow_their_own_edges():
    route = {
        "kind": {
            "type": "condition",
            "branches": [{"condition": "state.n > 1", "target": "b"}, {"condition": None, "target": "c"}],
        }
    }
    edges = [
        {"from": "r", "to": "c"},
        {"from": "r", "to": "b", "condition": "state.ignored"},
        {"from": "r", "to": "d"},
    ]
    found = graph({"r": route, "b": py(), "c": py(), "d": py()}, *edges)
    assert labelled(found) == ["r ok d", "r branch b", "r branch c"]
    assert [edge.condition for edge in found.edges] == [None, "state.n > 1", None]


def test_a_parallels_branches_and_edges_are_the_same_edges():
    fan = {"kind": {"type": "parallel", "branches": ["a", "b"]}}
    found = graph({"p": fan, "a": py(), "b": py()}, "p>a", "a>end", "b>end")
    assert labelled(found) == ["p ok a", "a ok end", "b ok end", "p ok b"]


def test_a_join_gets_the_edges_that_it_waits_for():
    meet = {"kind": {"type": "join", "wait_for": ["a", "b"]}}
    fan = {"kind": {"type": "parallel", "branches": ["a", "b"]}}
    found = graph({"p": fan, "a": py(), "b": py(), "j": meet}, "b>j")
    assert labelled(found) == ["b ok j", "p ok a", "p ok b", "a ok j"]
    assert (found.nodes["j"].wait_for, found.nodes["j"].output_key) == (("a", "b"), "j")
    assert found.nodes["j"].region == ()


def test_the_region_of_a_first_join():
    meet = {"kind": {"type": "join", "merge_strategy": "first"}}
    fan = {"kind": {"type": "parallel", "branches": ["a", "b"]}}
    found = graph({"s": py(), "p": fan, "a": py(), "b": py(), "j": meet}, "s>p", "a>j", "b>j", "j>end")
    assert found.nodes["j"].region == ("a", "b")


def test_a_custom_join():
    meet = {"kind": {"type": "join", "merge_strategy": {"custom": {"function_ref": "app.flow:pick"}}}}
    node = graph({"j": meet}).nodes["j"]
    assert (node.merge, node.module, node.function) == ("custom", "app.flow", "pick")


def test_end_nodes_are_dropped():
    done = {"kind": {"type": "end"}}
    found = graph(
        {"a": py(on_error="failed"), "done": done, "failed": done}, "a>done", "done>done", "done>end"
    )
    assert labelled(found) == [f"a ok {END}", f"a error {END}"]
    assert list(found.nodes) == ["a"]


def test_a_start_that_only_ends_is_refused():
    done = {"kind": {"type": "end"}}
    assert problems(ir({"a": py(), "done": done}, start_node="done")) == [
        "ir.start_node 'done' only ends the workflow"
    ]
    assert problems(ir({"end": done})) == [
        "ir.nodes: there must be a node that does not only end the workflow"
    ]


def test_every_bad_edge_is_named():
    route = {"kind": {"type": "condition", "branches": [{"target": "y"}]}}
    meet = {"kind": {"type": "join", "wait_for": ["z"]}}
    found = problems(ir({"a": py(on_error="x"), "r": route, "j": meet}, "a>b", "q>a"))
    assert found == [
        "node 'a': edge target 'b' does not exist",
        "ir.edges[1]: source 'q' does not exist",
        "node 'a': on_error target 'x' does not exist",
        "node 'r': branch target 'y' does not exist",
        "node 'j': wait_for source 'z' does not exist",
    ]


def test_an_edge_named_twice_is_one_edge():
    assert labelled(graph({"a": py(), "b": py()}, "a>b", "a>b")) == ["a ok b"]


def test_edges_to_one_target_may_differ_in_label():
    assert labelled(graph({"a": py(on_error="b"), "b": py()}, "a>b")) == ["a ok b", "a error b"]


# --- texts ----------------------------------------------------------------------------------------


def test_a_bad_condition_names_node_text_and_column():
    found = problems(ir({"x": py()}, {"from": "x", "to": "end", "condition": "state.score >>"}))
    assert len(found) == 1
    assert found[0].startswith("node 'x': condition 'state.score >>' does not parse at column ")
    assert found[0].count("column") == 1


def test_a_bad_template_names_node_and_place():
    assert problems(ir({"x": model(prompt="{{ state. }}")}))[0].startswith(
        "node 'x': prompt does not parse: "
    )
    assert problems(ir({"x": py(input_mapping={"k": "{{ 1 +"})}))[0].startswith("node 'x': input_mapping ")


@pytest.mark.parametrize(
    ("nodes", "place"),
    [
        ({"x": model(prompt="{{ env.KEY }}")}, "prompt"),
        ({"x": model(system_prompt="{{ env.KEY }}")}, "system_prompt"),
        ({"x": py(input_mapping={"k": ["{{ env.KEY }}"]})}, "input_mapping"),
        ({"x": {"kind": {"type": "human_approval", "description": "{{ env.KEY }}"}}}, "description"),
        ({"x": {"kind": {"type": "wait", "correlation_key": "{{ env.KEY }}"}}}, "correlation_key"),
        (
            {"x": {"kind": {"type": "condition", "branches": [{"condition": "env.KEY", "target": "end"}]}}},
            "condition 'env.KEY'",
        ),
    ],
)
def test_only_listed_variables_may_be_read(nodes, place):
    found = problems(ir(nodes))
    assert found == [f"node 'x': {place} reads env.KEY, which is not allowed (JAMJET_TEMPLATE_ENV)"]
    compile_ir(ir(nodes), RegistrationPolicy(python_modules=("*",), template_env=frozenset({"KEY"})))


def test_credentials_are_named_by_listed_variables_only():
    source = ir({"a": py()}, remote_agents={"p": {"url": "https://x.test", "auth": {"token_env": "SECRET"}}})
    assert problems(source) == [
        "ir.remote_agents.p: token_env names 'SECRET', which is no secret (JAMJET_SECRETS)"
    ]


# --- remote agents --------------------------------------------------------------------------------


def a2a(**kind: Any) -> dict[str, Any]:
    return {"kind": {"type": "a2a_task", "skill": "review", **kind}}


SECRETS = RegistrationPolicy(
    python_modules=("*",), template_env=frozenset({"TOKEN", "PLAIN"}), secrets=frozenset({"TOKEN"})
)


def test_an_a2a_task_names_a_registered_agent():
    asked = a2a(remote_agent="reviewer", input_mapping={"code": "{{ state.code }}"}, stream=True)
    node = graph({"a": asked}).nodes["a"]
    assert isinstance(node, A2aTaskNode)
    assert (node.agent, node.url, node.skill, node.stream) == ("reviewer", None, "review", True)
    assert (node.output_key, node.timeout_ms, node.token_env) == ("a", 300_000, None)


def test_an_a2a_task_takes_url_and_credentials_from_its_entry():
    entry = {"url": "https://x.test/", "auth": {"type": "bearer", "token_env": "TOKEN"}}
    source = ir({"a": a2a(remote_agent="partner", timeout_secs=5)}, remote_agents={"partner": entry})
    node = compile_ir(source, SECRETS).graph.nodes["a"]
    assert isinstance(node, A2aTaskNode)
    assert (node.agent, node.url, node.token_env) == ("partner", "https://x.test", "TOKEN")
    assert node.timeout_ms == 5_000


def test_an_a2a_task_may_say_itself_where_its_agent_is():
    node = graph({"a": a2a(agent_url="https://x.test:8443/base")}).nodes["a"]
    assert isinstance(node, A2aTaskNode)
    assert (node.agent, node.url) == ("x.test:8443", "https://x.test:8443/base")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({}, "node 'a': remote_agent or agent_url is required"),
        ({"agent_url": "ftp://x"}, "node 'a': agent_url: 'ftp://x' is not the url of a server"),
        (
            {"remote_agent": "r", "auth": {"token_env": "PLAIN"}},
            "node 'a': auth names 'PLAIN', which is no secret",
        ),
        ({"remote_agent": "r", "auth": {"token_env": 5}}, "node 'a': auth names 5, which is no secret"),
        ({"remote_agent": "r", "input_mapping": {"a": "{{ env.X }}"}}, "node 'a': input_mapping reads env.X"),
    ],
)
def test_an_a2a_task_that_cannot_be_made(kind, said):
    (problem,) = problems(ir({"a": a2a(**kind)}), SECRETS)
    assert problem.startswith(said)


def test_what_happens_when_input_is_required_is_said():
    found = compiled({"a": a2a(remote_agent="r", on_input_required="gate")})
    assert found.warnings == (
        "node 'a': on_input_required 'gate' has no effect: an agent that asks for more input fails the node"
        " with the class input_required",
    )


# --- exposure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "exposed"),
    [
        ({}, ()),
        ({"expose": ["mcp", "a2a"]}, ("a2a", "mcp")),
        ({"expose": "mcp"}, ("mcp",)),
        ({"labels": {"jamjet.expose": "a2a, mcp"}}, ("a2a", "mcp")),
        ({"expose": ["a2a"], "labels": {"jamjet.expose": "mcp"}}, ("a2a", "mcp")),
        ({"expose": []}, ()),
    ],
)
def test_a_workflow_is_exposed_where_it_says_so(fields, exposed):
    assert compiled({"a": py()}, **fields).exposed == exposed


@pytest.mark.parametrize(
    ("source", "schema"),
    [
        ({}, {"type": "object"}),
        ({"state_schema": {}}, {"type": "object"}),
        (
            {"state_schema": {"n": "int", "tags": {"type": "list", "merge": "append"}, "x": "Odd", "y": 5}},
            {
                "type": "object",
                "properties": {"n": {"type": "integer"}, "tags": {"type": "array"}, "x": {}, "y": {}},
            },
        ),
        (
            {"state_schema": {"type": "object", "properties": {"q": {"type": "string", "description": "Q"}}}},
            {"type": "object", "properties": {"q": {"type": "string", "description": "Q"}}},
        ),
        (
            {"input_schema": {"properties": {"q": {"type": "string"}}, "required": ["q"]}},
            {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
        ),
    ],
)
def test_what_callers_are_told_of_the_input(source, schema):
    assert input_schema(source) == schema


# --- loops ----------------------------------------------------------------------------------------


def test_loops_are_marked():
    found = graph(
        {"a": py(), "b": py(), "c": py()}, "a>b", "b>c", {"from": "c", "to": "b", "condition": "state.n < 3"}
    )
    assert [edge.back for edge in found.edges] == [False, False, True]
    assert [(loop.header, loop.nodes) for loop in found.loops] == [("b", ("b", "c"))]


def test_a_cycle_without_a_single_entry_is_refused():
    (problem,) = problems(ir({"a": py(), "b": py(), "c": py()}, "a>b", "a>c", "b>c", "c>b"))
    assert problem.startswith("the cycle ")
    assert "has no single entry" in problem
    assert "b -> c" in problem


def test_unreachable_nodes_are_a_warning():
    result = compiled({"a": py(), "x": py(), "y": py()}, "x>y", "y>x", "y>a")
    assert result.graph.dead_edges == (0, 1, 2)
    assert result.warnings == (
        "node 'x': no path from the start reaches it",
        "node 'y': no path from the start reaches it",
    )


# --- anything -------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    ["type", "id", "kind", "from", "to", "a", "b", "branches", "condition", "target", "retry"]
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
KINDS = st.sampled_from(
    ["model", "python_fn", "condition", "parallel", "join", "wait", "human_approval", "end"]
)
SOURCES = st.fixed_dictionaries(
    {"workflow_id": st.just("w") | SCALARS, "version": st.just("1")},
    optional={
        "nodes": st.dictionaries(
            KEYS,
            st.fixed_dictionaries(
                {"kind": KINDS},
                optional={
                    "retry": JSON,
                    "branches": JSON,
                    "labels": JSON,
                    "timeout_secs": JSON,
                    "wait_for": JSON,
                    "input_mapping": JSON,
                },
            ),
            max_size=3,
        ),
        "edges": JSON,
        "models": JSON,
        "labels": JSON,
        "state_schema": JSON,
        "strategy_metadata": JSON,
        "resources": JSON,
        "retry_policies": JSON,
    },
)


@given(SOURCES)
def test_whatever_is_posted_compiles_or_is_refused(source):
    try:
        result = compile_ir(source, DEV)
    except InvalidWorkflow as error:
        found = error.fields["problems"]
    else:
        assert decode_graph(encode_graph(result.graph)) == result.graph
        found = ["none"]
    assert found
    assert all(isinstance(problem, str) and problem for problem in found)
