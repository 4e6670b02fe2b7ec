"""Registering and reading workflow definitions."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.fixtures.api import COUNT, Api, approval, assert_refused
from tests.fixtures.workflows import chain, python

YAML = """
workflow:
  id: from-yaml
  version: 0.2.0
nodes:
  only:
    type: python_fn
    function: "steps:count"
"""
REGISTERED = {"workflow_id": "from-yaml", "version": "0.2.0"}


# --- the ways in --------------------------------------------------------------------------------


async def test_ir_is_registered(bare_api: Api) -> None:
    answer = await bare_api.post("/workflows", {"ir": COUNT})
    assert (answer.status_code, answer.json()) == (201, {"workflow_id": "count", "version": "1.0.0"})
    assert answer.headers["location"] == "/workflows/count/versions/1.0.0"
    shown = (await bare_api.get(answer.headers["location"])).json()
    assert shown["ir"] == COUNT
    assert list(shown["graph"]["nodes"]) == ["only"]


async def test_yaml_is_registered_as_a_field(bare_api: Api) -> None:
    answer = await bare_api.post("/workflows", {"yaml": YAML})
    assert (answer.status_code, answer.json()) == (201, REGISTERED)


@pytest.mark.parametrize(
    "media_type", ["application/yaml", "application/x-yaml", "text/yaml; charset=utf-8", "Application/YAML"]
)
async def test_yaml_is_registered_as_the_body(bare_api: Api, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = await bare_api.post("/workflows", content=YAML.encode(), headers=headers)
    assert (answer.status_code, answer.json()) == (201, REGISTERED)


async def test_ir_and_yaml_of_one_meaning_run_alike(bare_api: Api) -> None:
    await bare_api.post("/workflows", {"yaml": YAML})
    execution_id = await bare_api.start("from-yaml", n=41)
    assert (await bare_api.settled(execution_id))["state"] == {"n": 42}


async def test_warnings_come_with_the_answer(bare_api: Api) -> None:
    answer = await bare_api.post("/workflows", {"ir": {**COUNT, "token_budget": {"total_tokens": 10}}})
    assert answer.status_code == 201
    assert answer.json()["warnings"] == ["ir.token_budget has no effect"]


@pytest.mark.parametrize("workflow_id", ["研究-agent", "with space", "a?b#c", 'quo"te', "per%20cent", "ö"])
async def test_any_printable_id_can_be_registered_and_found(bare_api: Api, workflow_id: str) -> None:
    answer = await bare_api.post("/workflows", {"ir": {**COUNT, "workflow_id": workflow_id}})
    assert (answer.status_code, answer.json()["workflow_id"]) == (201, workflow_id)
    assert (await bare_api.get(answer.headers["location"])).json()["workflow_id"] == workflow_id
    assert (await bare_api.settled(await bare_api.start(workflow_id)))["status"] == "completed"


# --- versions -----------------------------------------------------------------------------------


async def test_the_same_content_again_is_201_too(bare_api: Api) -> None:
    answers = [await bare_api.post("/workflows", {"ir": COUNT}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert (await bare_api.get("/workflows")).json()["total"] == 1


async def test_another_content_for_a_version_is_409(api: Api) -> None:
    answer = await api.post("/workflows", {"ir": {**COUNT, "max_steps": 7}})
    message = (
        "conflict: workflow 'count' version '1.0.0' is registered with another content:"
        " give the new one another version"
    )
    assert_refused(answer, 409, message, "conflict")
    assert "max_steps" not in (await api.get("/workflows/count")).json()["ir"]


async def test_the_latest_registered_version_is_the_default(bare_api: Api) -> None:
    for version in ("2.0.0", "10.0.0", "1.0.0"):
        await bare_api.register({**COUNT, "version": version})
    assert (await bare_api.get("/workflows/count")).json()["version"] == "1.0.0"
    execution_id = await bare_api.start("count")
    assert (await bare_api.settled(execution_id))["workflow_version"] == "1.0.0"


async def test_the_list_is_paged_newest_first(bare_api: Api) -> None:
    await bare_api.register(*({**COUNT, "version": f"{number}.0.0"} for number in range(5)))
    page = (await bare_api.get("/workflows?limit=2&offset=1")).json()
    assert [found["version"] for found in page["workflows"]] == ["3.0.0", "2.0.0"]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 1)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/workflows/nothing", "workflow nothing"),
        ("/workflows/nothing/versions/1.0.0", "workflow nothing version 1.0.0"),
        ("/workflows/count/versions/9.9.9", "workflow count version 9.9.9"),
    ],
)
async def test_an_unknown_workflow_is_404(api: Api, path: str, named: str) -> None:
    assert_refused(await api.get(path), 404, f"not found: {named}", "not_found")


# --- what is refused ----------------------------------------------------------------------------


def changed(**fields: Any) -> dict[str, Any]:
    return {**COUNT, **fields}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in COUNT.items() if name != key}


def one_node(node: dict[str, Any]) -> dict[str, Any]:
    return {"workflow_id": "w", "version": "1", "nodes": {"work": node}}


CYCLE = {
    "workflow_id": "w",
    "version": "1",
    "start_node": "fork",
    "nodes": {"fork": {"kind": {"type": "parallel"}}, "a": approval(), "b": approval()},
    "edges": [{"from": f, "to": t} for f, t in (("fork", "a"), ("fork", "b"), ("a", "b"), ("b", "a"))],
}

REFUSED_IR: dict[str, tuple[Any, str]] = {
    "no id": (without("workflow_id"), "ir.workflow_id is required"),
    "no version": (without("version"), "ir.version is required"),
    "no nodes": (without("nodes"), "ir.nodes is required"),
    "an id of another type": (changed(workflow_id=7), "ir.workflow_id must be a text"),
    "an empty id": (changed(workflow_id=""), "ir.workflow_id is required"),
    "an endless id": (changed(workflow_id="x" * 300), "ir.workflow_id: is 300 characters long"),
    "an id with a line break": (changed(workflow_id="a\r\nX-Evil: 1"), "ir.workflow_id: "),
    "nodes of another type": (changed(nodes="all"), "ir.nodes must be an object"),
    "edges of another type": (changed(edges={}), "ir.edges must be a list"),
    "an edge to nowhere": (
        changed(edges=[{"from": "only", "to": "gone"}]),
        "node 'only': edge target 'gone'",
    ),
    "an edge from nowhere": (changed(edges=[{"from": "gone", "to": "only"}]), "ir.edges[0]: source 'gone'"),
    "a handler that is nowhere": (
        chain("w", work=python("count", on_error="gone")),
        "node 'work': on_error target 'gone' does not exist",
    ),
    "a start that is nowhere": (changed(start_node="gone"), "ir.start_node 'gone' does not exist"),
    "an unknown kind": (one_node({"kind": {"type": "teleport"}}), "node 'work': node kind 'teleport'"),
    "a condition that does not parse": (
        changed(edges=[{"from": "only", "to": "end", "condition": "state.n >>> 1"}]),
        "node 'only': condition 'state.n >>> 1' does not parse at column",
    ),
    "a template that does not parse": (
        one_node({"kind": {"type": "human_approval", "description": "{{ state.n"}}),
        "node 'work': description does not parse",
    ),
    "a template with a loop": (
        one_node(
            {"kind": {"type": "model", "model": "scripted/x", "prompt": "{% for x in [1] %}{% endfor %}"}}
        ),
        "node 'work': prompt does not parse",
    ),
    "an irreducible cycle": (CYCLE, "the cycle a -> b -> a has no single entry"),
    "a module that is not allowed": (
        one_node({"kind": {"type": "python_fn", "module": "os", "function": "system"}}),
        "node 'work': python module 'os' is not allowed",
    ),
    "a private function": (
        one_node({"kind": {"type": "python_fn", "module": "steps", "function": "_hidden"}}),
        "node 'work': '_hidden' is not the plain name of a public function",
    ),
    "a variable that is not allowed": (
        one_node({"kind": {"type": "human_approval", "description": "{{ env.SECRET }}"}}),
        "node 'work': description reads env.SECRET",
    ),
    "a command": (changed(mcp_servers={"shell": {"command": "sh"}}), "ir.mcp_servers.shell: a command"),
}


@pytest.mark.parametrize(("ir", "said"), REFUSED_IR.values(), ids=REFUSED_IR)
async def test_ir_that_cannot_run_is_400_and_says_where(bare_api: Api, ir: Any, said: str) -> None:
    answer = await bare_api.post("/workflows", {"ir": ir})
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["error"].startswith(f"bad request: {said}"), body
    assert body["code"] == "invalid_workflow"
    assert body["problems"][0].startswith(said)
    assert (await bare_api.get("/workflows")).json()["total"] == 0


async def test_all_problems_are_told_at_once(bare_api: Api) -> None:
    ir = chain("w", a=python("count", on_error="gone"), b={"kind": {"type": "teleport"}})
    problems = (await bare_api.post("/workflows", {"ir": ir})).json()["problems"]
    assert {problem.partition(":")[0] for problem in problems} == {"node 'a'", "node 'b'"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"nodes: [", "line 2: the yaml text does not parse"),
        (b"just words", "the yaml text must be an object"),
        (b"\xff\xfe", "the body is not UTF-8"),
        (b"", "the yaml text is empty"),
        (b"workflow: {id: w}\nnodes: {a: {type: teleport}}", "node 'a': node kind 'teleport'"),
        (b"a: &a [*a]", ""),
        (b"!!python/object/apply:os.system ['true']", ""),
    ],
)
async def test_yaml_that_cannot_run_is_400_and_says_why(bare_api: Api, text: bytes, said: str) -> None:
    headers = {"Content-Type": "application/yaml"}
    answer = await bare_api.post("/workflows", content=text, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"bad request: {said}"), answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give either ir or yaml"),
        ({"ir": COUNT, "yaml": YAML}, "give either ir or yaml"),
        ({"ir": [COUNT]}, "ir: "),
        ({"ir": "text"}, "ir: "),
        ({"yaml": {"workflow": "w"}}, "yaml: "),
        ([COUNT], "the body must be a JSON object"),
    ],
)
async def test_a_body_of_another_shape_is_400(bare_api: Api, body: Any, said: str) -> None:
    answer = await bare_api.post("/workflows", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"bad request: {said}")


async def test_a_registration_is_dated(api: Api) -> None:
    await api.register({**COUNT, "workflow_id": "dated"})
    shown = (await api.get("/workflows/dated")).json()
    age_s = datetime.now(UTC).timestamp() - datetime.fromisoformat(shown["created_at"]).timestamp()
    assert -5 < age_s < 60
