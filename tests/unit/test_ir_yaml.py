"""YAML to IR: the dialects, every type's keys, what is refused, and that nothing is dropped silently."""

from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidWorkflow
from runtime.graph import Graph
from runtime.ir import RegistrationPolicy, compile_yaml, yaml_to_ir

DEV = RegistrationPolicy(python_modules=("*",), template_env=frozenset())

HEADER = "workflow: {id: w, version: 1.0.0}\nnodes:\n"


def node(text: str) -> dict[str, Any]:
    """The IR of the one node called ``n``."""
    nodes: dict[str, Any] = read(text)["nodes"]
    return nodes["n"]


def kind(text: str) -> dict[str, Any]:
    found: dict[str, Any] = node(text)["kind"]
    return found


def read(text: str) -> dict[str, Any]:
    return yaml_to_ir(document(text))


def document(text: str) -> str:
    body = "\n".join(f"  {line}" for line in dedent(text).strip().splitlines())
    return f"{HEADER}{body}\n"


def graph(text: str) -> Graph:
    return compile_yaml(document(text), DEV).graph


def labelled(of: Graph) -> list[str]:
    return [
        f"{e.source} {e.label} {e.target}" + (f" if {e.condition}" if e.condition else "") for e in of.edges
    ]


def edges(text: str) -> list[str]:
    listed = read(text)["edges"]
    return [f"{e['from']}>{e['to']}" + (f" if {e['condition']}" if e["condition"] else "") for e in listed]


def problem(text: str) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        yaml_to_ir(text)
    assert caught.value.fields["problems"][0] == caught.value.detail
    return caught.value.detail


# --- headers --------------------------------------------------------------------------------------

LIMIT = "{type: limit_exceeded}"


@pytest.mark.parametrize(
    "text",
    [
        f"workflow: {{id: w, version: 1.10, start: b}}\nnodes: {{a: {LIMIT}, b: {LIMIT}}}",
        "workflow: {workflow_id: w, version: '1.10', start_node: b, nodes: ["
        "{id: a, kind: limit_exceeded}, {id: b, kind: limit_exceeded, config: {}, edges: []}]}",
        f"id: w\nversion: 1.10\nstart: b\nnodes: {{a: {LIMIT}, b: {LIMIT}}}",
        f"name: w\nversion: 1.10\nstart: b\nnodes: {{a: {LIMIT}, b: {LIMIT}}}",
    ],
    ids=["header", "list inside the header", "top-level id", "top-level name"],
)
def test_dialects_give_the_same_graph(text):
    found = compile_yaml(text, DEV).graph
    assert (found.workflow_id, found.version, found.start, list(found.nodes)) == (
        "w",
        "1.10",
        "b",
        ["a", "b"],
    )


def test_ir_written_as_yaml_or_json_stays_ir():
    text = '{"workflow_id": "w", "nodes": {"a": {"kind": {"type": "limit_exceeded"}}}, "edges": []}'
    assert yaml_to_ir(text)["nodes"] == {"a": {"kind": {"type": "limit_exceeded"}}}


def test_the_version_has_a_default_and_the_id_has_not():
    assert yaml_to_ir(f"workflow: {{id: w}}\nnodes: {{a: {LIMIT}}}")["version"] == "0.1.0"
    with pytest.raises(InvalidWorkflow, match=r"^ir\.workflow_id is required$"):
        compile_yaml(f"workflow: {{}}\nnodes: {{a: {LIMIT}}}", DEV)


def test_tables_have_their_ir_names():
    found = yaml_to_ir(
        f"workflow: {{id: w, timeout: 1h}}\nmcp: {{servers: {{s: {{url: u}}}}}}\n"
        f"a2a: {{remote_agents: {{p: {{url: u}}}}}}\nmodels: {{m: {{}}}}\nnodes: {{a: {LIMIT}}}"
    )
    assert found["mcp_servers"] == {"s": {"url": "u"}}
    assert found["remote_agents"] == {"p": {"url": "u"}}
    assert found["models"] == {"m": {}}
    assert found["timeouts"] == {"workflow_timeout": "1h"}
    assert found["tools"] == {}


# --- nodes ----------------------------------------------------------------------------------------


def test_model():
    found = node(
        "n: {type: model, model: fast, prompt: hi, system: brief, max_tokens: 5,"
        " timeout: 5m, retry_policy: fast, labels: {a: b}}"
    )
    assert found["kind"] == {
        "type": "model",
        "model_ref": "fast",
        "prompt": "hi",
        "prompt_ref": "hi",
        "system_prompt": "brief",
        "max_tokens": 5,
    }
    assert (found["node_timeout_secs"], found["retry_policy"], found["labels"]) == (300, "fast", {"a": "b"})


@pytest.mark.parametrize("name", ["python_fn", "function", "python"])
def test_python_functions(name):
    found = kind(f"n: {{type: {name}, function: 'm:f', input: {{x: 1}}, output_key: k}}")
    assert found == {"type": "python_fn", "function": "m:f", "input_mapping": {"x": 1}, "output_key": "k"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "n: {type: tool, server: web, tool: search, arguments: {q: x}, output_key: k}",
            {
                "type": "mcp_tool",
                "server": "web",
                "tool": "search",
                "input_mapping": {"q": "x"},
                "output_key": "k",
            },
        ),
        (
            "n: {type: tool, tool_ref: get, input: {q: x}}",
            {"type": "tool", "tool_ref": "get", "input_mapping": {"q": "x"}},
        ),
        (
            "n: {type: http, method: GET, url: u, timeout: 30}",
            {"type": "http", "method": "GET", "url": "u", "timeout_secs": 30},
        ),
        (
            "n: {type: wait, event: paid, timeout_hours: 2, on_timeout: end}",
            {
                "type": "wait",
                "condition": "external_event",
                "correlation_key": "paid",
                "timeout_secs": 7200,
                "on_timeout": "end",
            },
        ),
        ("n: {type: wait, duration: 90s}", {"type": "wait", "condition": "timer", "timeout_secs": 90}),
        ("n: {type: wait, timeout: 90s}", {"type": "wait", "condition": "timer", "timeout_secs": 90}),
        (
            "n: {type: wait, event: paid, duration: 90s}",
            {"type": "wait", "condition": "either", "correlation_key": "paid", "timeout_secs": 90},
        ),
        (
            "n: {type: human_approval, message: ok?, timeout: 1d, fallback: end, on_rejected: end}",
            {
                "type": "human_approval",
                "description": "ok?",
                "timeout_secs": 86400,
                "fallback_node": "end",
                "on_rejected": "end",
            },
        ),
        (
            "n: {type: eval, scorers: [{type: assertion, check: [x]}, {type: latency, max_ms: 5}]}",
            {
                "type": "eval",
                "scorers": [{"type": "assertion", "checks": ["x"]}, {"type": "latency", "threshold_ms": 5}],
            },
        ),
        (
            "n: {type: a2a_task, agent_url: u, skill: s, input: {}, timeout: 5}",
            {"type": "a2a_task", "agent_url": "u", "skill": "s", "input_mapping": {}, "timeout_secs": 5},
        ),
        (
            "n: {type: subgraph, workflow: kyc, input: {}, output: {a: b}}",
            {"type": "subgraph", "workflow_ref": "kyc", "input_mapping": {}, "output_mapping": {"a": "b"}},
        ),
        ("n: {type: join, merge: first}", {"type": "join", "merge_strategy": "first"}),
    ],
)
def test_types_have_their_ir_fields(text, expected):
    assert kind(text) == expected


def test_a_kind_that_cannot_run_converts_but_does_not_compile():
    with pytest.raises(InvalidWorkflow) as caught:
        compile_yaml(document("n: {type: subgraph, workflow: w}"), DEV)
    assert caught.value.fields["problems"] == ["node 'n': node kind 'subgraph' is not supported"]


def test_an_inline_retry_is_kept_and_compiled():
    found = graph(
        "n: {type: python_fn, function: 'm:f', retry: {max_attempts: 2, backoff: constant, delay_ms: 5}}"
    )
    policy = found.nodes["n"].retry
    assert policy is not None
    assert (policy.max_attempts, policy.backoff, policy.initial_delay_ms) == (2, "fixed", 5)


def test_unknown_keys_are_kept_with_a_warning():
    result = compile_yaml(
        "workflow: {id: w, owner: me}\nnodes: {a: {type: limit_exceeded, colour: red}}", DEV
    )
    assert result.warnings == (
        "the key 'owner' of the workflow is not known",
        "node 'a': the key 'colour' is not known",
    )
    assert result.ir["owner"] == "me"
    assert result.ir["nodes"]["a"]["kind"]["colour"] == "red"


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("following", "expected"),
    [
        ("b", ["n>b"]),
        ("[b, c]", ["n>b", "n>c"]),
        ("{to: b, when: x}", ["n>b if x"]),
        (
            "[{when: x, to: b}, {when: y, to: c}, {else: b}]",
            ["n>b if x", "n>c if y", "n>b if not ((x) or (y))"],
        ),
        ("[{else: b}]", ["n>b"]),
        ("[{when: true, to: b}]", ["n>b if true"]),
        ("end", ["n>end"]),
    ],
)
def test_next(following, expected):
    text = f"n: {{type: python_fn, next: {following}}}\nb: {LIMIT}\nc: {LIMIT}"
    assert edges(text) == expected


def test_a_missing_next_ends_the_path():
    assert edges("n: {type: python_fn}") == ["n>end"]


def test_an_approval_with_its_own_target_gets_no_other():
    assert edges(f"n: {{type: human_approval, on_approved: b}}\nb: {LIMIT}") == []


@pytest.mark.parametrize(
    "text",
    [
        "{type: branch, conditions: [{if: x, next: b}], default: c}",
        "{type: condition, branches: [{condition: x, next: b}], default: c}",
        "{type: condition, branches: [{when: x, target: b}, {else: c}]}",
        "{type: condition, branches: [{when: x, to: b}, {to: c}]}",
        "{type: condition, next: [{when: x, to: b}, {to: c}]}",
        "{type: condition, next: [{to: c}, {when: x, to: b}]}",
    ],
)
def test_conditions(text):
    found = graph(f"n: {text}\nb: {LIMIT}\nc: {LIMIT}".replace("x,", "state.x,"))
    assert labelled(found) == ["n branch b if state.x", "n branch c"]


def test_a_condition_with_a_next_of_its_own_falls_back_on_it():
    found = graph(
        f"n: {{type: condition, branches: [{{when: state.x, to: b}}], next: c}}\nb: {LIMIT}\nc: {LIMIT}"
    )
    assert labelled(found) == ["n ok c", "n branch b if state.x"]


FN = "type: python_fn, function: 'm:f'"


def test_tails_of_branches_lead_to_the_join():
    found = graph(
        f"""
        fan: {{type: parallel, branches: [b, a], join: meet}}
        a: {{{FN}, next: a2}}
        a2: {{{FN}, on_error: rescue}}
        rescue: {{{FN}}}
        b: {{{FN}, next: meet}}
        meet: {{type: join}}
        """
    )
    assert set(labelled(found)) == {
        "fan ok b",
        "fan ok a",
        "a ok a2",
        "a2 ok meet",
        "a2 error rescue",
        "rescue ok meet",
        "b ok meet",
        "meet ok end",
    }
    assert found.nodes["meet"].wait_for == ("b", "a2", "rescue")


def test_the_step_after_a_parallel_without_join_is_where_it_meets():
    found = graph(
        f"fan: {{type: parallel, branches: [a, b], next: c}}\na: {{{FN}}}\nb: {{{FN}}}\nc: {{{FN}}}"
    )
    assert set(labelled(found)) == {"fan ok a", "fan ok b", "a ok c", "b ok c", "c ok end"}


def test_inner_parallels_meet_at_their_own_join():
    found = graph(
        f"""
        outer: {{type: parallel, branches: [inner, c], join: meet}}
        inner: {{type: parallel, branches: [a, b], join: inner_meet}}
        a: {{{FN}}}
        b: {{{FN}}}
        inner_meet: {{type: join}}
        c: {{{FN}}}
        meet: {{type: join}}
        """
    )
    assert found.nodes["inner_meet"].wait_for == ("a", "b")
    assert found.nodes["meet"].wait_for == ("inner_meet", "c")


def test_end_nodes_give_the_end_names():
    found = graph(f"a: {{{FN}, next: done, on_error: failed}}\ndone: {{type: end}}\nfailed: {{type: end}}")
    assert labelled(found) == ["a ok end", "a error end"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "the yaml text is empty"),
        ("just text", "the yaml text must be an object"),
        ("workflow: {id: w}", "'nodes' is required"),
        ("workflow: 5\nnodes: {}", "'workflow' must be an object"),
        ("agent: {id: a}", "yaml with 'agent' at the top is not supported"),
        ("workflow: {id: w}\nnodes: [{id: a}, {id: a}]", "the node id 'a' stands twice"),
        ("workflow: {id: w}\nnodes: [5]", "nodes[0] must be an object with an id"),
        ("nodes: {a: 5}", "node 'a': must be an object"),
        ("nodes: {a: {}}", "node 'a': type is required"),
        ("nodes: {a: {type: model, next: 5}}", "node 'a': 5 is not a target"),
        ("nodes: {a: {type: model, next: [{to: b, unless: x}]}}", "node 'a': the key 'unless' of a target"),
        ("nodes: {a: {type: model, timeout: soon}}", "node 'a': 'soon' is not a duration"),
        ("nodes: {a: {type: parallel, branches: b}}", "node 'a': branches must be a list"),
        (
            "nodes: {a: {type: model, input: {}, input_mapping: {}}}",
            "node 'a': input and input_mapping say the same",
        ),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a: [\n1", "line 3: the yaml text does not parse"),
        ("a: 1\n b: 2", "line 2: the yaml text does not parse"),
        (
            "a: !!python/object:os.system x",
            "line 1: the tag 'tag:yaml.org,2002:python/object:os.system' is not",
        ),
        ("a: !!binary aGk=", "line 1: the tag"),
        ("? [1]\n: 2", "line 1: a key must be a text"),
        ("a: &x [*x]", "line 1: an alias refers to what contains it"),
        ("--- 1\n--- 2", "line 2: the yaml text does not parse"),
        ("a: '\x00'", "the yaml text does not parse"),
        ("x: " + "[" * 500 + "]" * 500, "line 1: the yaml text is nested deeper than 64 levels"),
        ("x: " + "a" * 1_048_576, "the yaml text is 1048579 bytes, over the limit of 1048576"),
    ],
)
def test_refusals(text, start):
    assert problem(text).startswith(start)


def test_a_flood_of_brackets_is_refused():
    assert problem("[" * 1_000_000)


def test_too_many_values_are_refused():
    assert "holds more than 100000 values" in problem("a: [" + "1," * 300_000 + "]")


def test_aliases_cannot_expand_without_bound():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "holds more than 100000 values" in problem("\n".join(lines))


def test_merge_keys_cannot_expand_without_bound():
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    assert "holds more than 100000 values" in problem("\n".join(lines))


def test_merge_keys_and_aliases_serve():
    found = kind("base: &base {type: model, model: m, prompt: p}\nn: {<<: *base, prompt: q}")
    assert (found["model_ref"], found["prompt"]) == ("m", "q")


def test_keys_versions_and_dates_stay_text():
    found = read("on: {type: limit_exceeded, labels: {since: 2026-01-02, 1: x}}")
    assert found["nodes"]["on"]["labels"] == {"since": "2026-01-02", "1": "x"}


def test_all_problems_of_nodes_are_said_at_once():
    with pytest.raises(InvalidWorkflow) as caught:
        yaml_to_ir("nodes: {a: {}, b: {type: model, timeout: soon}}")
    assert len(caught.value.fields["problems"]) == 2


# --- anything -------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.5, "a", "b", "end", "5m", "m:f", "state.x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["to", "when", "else", "type", "id", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NODE_KEYS = (
    *("next", "edges", "branches", "conditions", "default", "join", "kind", "config", "timeout", "duration"),
    *("timeout_hours", "retry", "retry_policy", "on_error", "on_approved", "input", "description", "labels"),
    *("scorers", "wait_for", "merge", "prompt", "model", "function", "event"),
)
TYPES = st.sampled_from(
    ["model", "python_fn", "branch", "parallel", "join", "wait", "human_approval", "eval", "end"]
)
NODES = st.fixed_dictionaries({"type": TYPES}, optional={key: VALUES for key in NODE_KEYS})
TOP_KEYS = (
    *("workflow", "mcp", "a2a", "timeout", "timeouts", "models", "labels", "state_schema", "start"),
    *("id", "name", "version"),
)


@given(
    st.fixed_dictionaries(
        {"nodes": st.dictionaries(st.sampled_from("abcde"), NODES, max_size=4) | VALUES},
        optional={key: VALUES for key in TOP_KEYS},
    )
)
def test_whatever_is_written_compiles_or_is_refused(source):
    try:
        compiled = compile_yaml(yaml.safe_dump(source), DEV)
    except InvalidWorkflow as error:
        found = error.fields["problems"]
    else:
        found = [compiled.graph.start]
    assert found
    assert all(isinstance(sentence, str) and sentence for sentence in found)
