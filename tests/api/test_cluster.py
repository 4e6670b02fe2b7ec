"""``GET /cluster``: what there is, what waits, and what is wrong."""

from typing import Any

import pytest

from actors.nodes import HEAD_RESOURCE, ClusterNode
from actors.port import Installation
from actors.settings import VERSION, Settings
from api import render
from runtime.demand import Machine
from runtime.store.port import ExecutorRow, Load
from tests.fixtures.api import Api

IDLE = Load(backlog=0, waited_ms=0, overdue_ms=0, open={"running": 0, "paused": 0})


async def test_without_ray_there_are_no_nodes(api: Api) -> None:
    answer = await api.get("/cluster")
    assert answer.status_code == 200
    seen = answer.json()
    assert (seen["release"], seen["nodes"], seen["supervisor"], seen["ray"]) == (VERSION, [], None, None)
    assert seen["lag"] == {"timers_ms": 0, "sweep_ms": 0}


async def test_it_counts_what_is_parked(api: Api) -> None:
    pause = {"kind": {"type": "human_approval", "description": "?"}}
    ir = {"workflow_id": "w", "version": "1", "nodes": {"a": pause}, "edges": [{"from": "a", "to": "end"}]}
    assert (await api.post("/workflows", {"ir": ir})).status_code == 201
    for _ in range(3):
        assert (await api.post("/executions", {"workflow_id": "w"})).status_code == 201
    seen = (await api.get("/cluster")).json()["executions"]
    assert seen["by_status"]["paused"] == 3
    assert (seen["live"], seen["parked"], seen["backlog"]) == (0, 3, 0)


def node(name: str, cpus: float = 2, *, head: bool = False) -> ClusterNode:
    total = {"CPU": cpus} | ({HEAD_RESOURCE: 1.0} if head else {})
    return ClusterNode(id=name, address="192.0.2.1", machine=Machine(total=total, free={"CPU": 1.0}))


def executor(name: str, on: str, state: Any = "active", live: int = 0) -> ExecutorRow:
    return ExecutorRow(
        incarnation=f"{name}#1", name=name, node=on, pid=1, isolation="shared", capacity=9, live=live,
        state=state, started_at=0, heartbeat_at=0,
    )  # fmt: skip


def shown(
    url: str,
    *nodes: ClusterNode,
    idle_ms: int = 100,
    executors: tuple[ExecutorRow, ...] = (),
    proxies: dict[str, str] | None = None,
) -> Any:
    supervisor = {"node": "head", "pid": 1, "idle_ms": idle_ms, "rounds": 1, "digest": "x"}
    installation = Installation(nodes=nodes, supervisor=supervisor, ray="2.60.0")
    return render.cluster(Settings(database_url=url), installation, proxies or {}, IDLE, executors)


def test_each_node_has_its_actors() -> None:
    rows = (executor("a", "head", live=2), executor("b", "head", "spare"), executor("c", "n", live=1))
    seen = shown("postgresql://db/x", node("head", head=True), node("n"), node("empty", 0), executors=rows)
    told = [(n["id"], n["head"], n["runs"], n["actors"], n["spares"], n["live"]) for n in seen["nodes"]]
    assert told == [
        ("head", True, True, 1, 1, 2),
        ("n", False, True, 1, 0, 1),
        ("empty", False, False, 0, 0, 0),
    ]
    assert (seen["database"], seen["problems"]) == ("postgresql", [])


@pytest.mark.parametrize(
    ("url", "idle_ms", "executors", "said"),
    [
        ("x.db", 0, (executor("a", "head"),), "set DATABASE_URL to a PostgreSQL database"),
        (
            "postgresql://db/x",
            20_000,
            (executor("a", "head"),),
            "the Supervisor has not ended a round for 10 s",
        ),
        ("postgresql://db/x", 0, (executor("a", "head", "spare"),), "no ExecutionActor takes work"),
    ],
)
def test_what_is_wrong_is_said(url: str, idle_ms: int, executors: Any, said: str) -> None:
    seen = shown(url, node("head", head=True), node("n"), idle_ms=idle_ms, executors=executors)
    (problem,) = seen["problems"]
    assert said in problem
    assert [n["runs"] for n in seen["nodes"]] == [True, url.startswith("postgresql")]


def test_a_node_on_which_nobody_answers_is_named() -> None:
    proxies = {"head": "healthy", "starts": "starting", "broken": "unhealthy", "leaves": "draining"}
    nodes = [node("head", head=True), *(node(name) for name in ("starts", "broken", "leaves", "none"))]
    seen = shown("postgresql://db/x", *nodes, executors=(executor("a", "head"),), proxies=proxies)
    assert {n["id"]: n["proxy"] for n in seen["nodes"]} == {**proxies, "none": None}
    assert [problem.partition(":")[0] for problem in seen["problems"]] == [
        "the API does not answer on node starts, its proxy is starting",
        "the API does not answer on node broken, its proxy is unhealthy",
    ]
