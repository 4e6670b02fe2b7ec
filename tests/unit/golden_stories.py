"""Complete histories as files in ``golden``: what the store holds today must be readable for ever.

A file has the graph, the rows as they are stored, and the state that they lead to. It is written once,
by the release whose format it shows, and never again: a change of the events' format adds a story here
and a file beside the old ones.

    python -m tests.unit.golden_stories NAME      # write golden/NAME.json
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from runtime.graph import (
    A2aTaskNode,
    ConditionNode,
    HttpNode,
    HumanApprovalNode,
    JoinNode,
    ModelNode,
    ParallelNode,
    RetryPolicy,
    ToolPolicy,
    WaitNode,
    encode_graph,
)
from runtime.state import encode_state
from tests.unit.machine_driver import Driver, graph_of, step

FOLDER = Path(__file__).parent / "golden"
SPLIT = ParallelNode(id="split")


def line() -> Driver:
    """Two steps and a model, with templates, patches, telemetry and keys that accumulate."""
    nodes = (
        step(
            "fetch", input_mapping={"url": "{{ state.url }}", "page": "{{ state.gone }}"}, output_key="page"
        ),
        ModelNode(
            id="say", provider="scripted", model="echo", prompt="On {{ state.page.title }}", output_key="text"
        ),
    )
    graph = graph_of(
        "fetch>say", "say>keep", "keep>end", nodes=nodes, merges={"log": "append", "cost": "add"}
    )
    drive = Driver(graph)
    drive.start(url="https://example.org", log=["begun"])
    drive.now += 5
    drive.ok(
        "fetch", {"title": "ü", "size": 1.5, "none": None}, state_patch={"log": "fetched"}, duration_ms=5
    )
    drive.now += 7
    told = {"gen_ai_system": "scripted", "gen_ai_model": "echo", "finish_reason": "stop", "cost_usd": 0.25}
    drive.ok("say", "a text", input_tokens=3, output_tokens=5, duration_ms=7, **told)
    drive.ok("keep", state_patch={"url": None, "cost": 2})
    return drive


def loop() -> Driver:
    """Three rounds, a branch that is skipped in the first, and an edge that leaves at the end."""
    graph = graph_of(
        "work>extra if state.n > 0",
        "work>check",
        "extra>check",
        "check>done branch if state.n >= 2",
        "check>work branch",
        "done>end",
        nodes=(ConditionNode(id="check"), step("work", output_key="n")),
    )
    drive = Driver(graph)
    drive.start()
    for n in range(3):
        drive.now += 10
        drive.ok("work", n)
        if n:
            drive.ok("extra")
    drive.ok("done")
    return drive


def approval() -> Driver:
    """One approval with a patch, one that times out into its edge, one that is rejected without an edge."""
    nodes = (
        HumanApprovalNode(id="draft", description="Publish {{ state.title }}?", output_key="review"),
        HumanApprovalNode(id="legal", timeout_ms=60_000),
        HumanApprovalNode(id="boss"),
    )
    graph = graph_of("draft>legal approved", "legal>boss timeout", "boss>end", nodes=nodes)
    drive = Driver(graph)
    drive.start(title="News")
    drive.now += 1_000
    drive.approve(comment="fine", actor="token-1", state_patch={"title": "Good news"})
    drive.wake()
    drive.approve("rejected", user_id="bob", comment="too dear")
    return drive


def retry() -> Driver:
    """A drawn delay, a lost attempt, and a failure that lets another node settle."""
    policy = RetryPolicy(max_attempts=2, initial_delay_ms=400, jitter=True)
    drive = Driver(graph_of("split>a", "split>b", "split>nap", nodes=(SPLIT, step("a", retry=policy), nap())))
    drive.start()
    drive.error("a", "rate_limit", retry_after_ms=700)
    drive.wake()
    drive.recover(after=50)
    drive.error("a", "server_error", duration_ms=3)
    drive.ok("b", state_patch={"b": True})
    return drive


def join() -> Driver:
    """One join that collects and one that takes the first and cancels the others."""
    nodes = (
        SPLIT,
        ParallelNode(id="race"),
        JoinNode(id="all", wait_for=("b", "a"), output_key="all"),
        JoinNode(id="one", merge="first", output_key="one"),
    )
    graph = graph_of(
        "split>a", "split>b", "a>all", "b>all", "all>race", "race>c", "race>d", "c>one", "d>one", nodes=nodes
    )
    drive = Driver(graph)
    drive.start()
    drive.ok("a", 1)
    drive.ok("b", {"two": 2})
    drive.ok("d", "won")
    return drive


def wait() -> Driver:
    """A timer, an event that came early, and one for two nodes at once."""
    nodes = (
        nap(),
        WaitNode(id="early", until="external_event", correlation_key="{{ state.id }}", output_key="first"),
        SPLIT,
        WaitNode(id="x", until="external_event", correlation_key="paid"),
        WaitNode(id="y", until="either", correlation_key="paid", delay_ms=90_000, output_key="second"),
    )
    drive = Driver(graph_of("nap>early", "early>split", "split>x", "split>y", nodes=nodes))
    drive.start(id=7)
    drive.event("7", {"early": True})
    drive.wake()
    drive.event("paid", {"sum": 12.5})
    return drive


def cancel() -> Driver:
    """A cancelled execution with a node that runs, one that waits and an event that nobody read."""
    drive = Driver(graph_of("split>a", "split>nap", nodes=(SPLIT, nap()), timeout_ms=3_600_000))
    drive.start()
    drive.event("unread", [1, None, "text"])
    drive.cancel(reason="changed my mind")
    return drive


def limit() -> Driver:
    """A loop that meets its bound."""
    drive = Driver(graph_of("a>a", max_steps=2))
    drive.start()
    drive.ok("a")
    drive.ok("a")
    return drive


def http() -> Driver:
    """A call to the outside that is answered badly, tried again, and answered well."""
    call = HttpNode(
        id="fetch",
        url="https://example.org/{{ state.id }}",
        headers={"Authorization": "Bearer {{ env.TOKEN }}"},
        output_key="page",
        retry=RetryPolicy(max_attempts=2, initial_delay_ms=400),
    )
    drive = Driver(graph_of("fetch>end", nodes=(call,)), env={"TOKEN": "${TOKEN}"})
    drive.start(id=7)
    drive.error("fetch", "server_error", duration_ms=9)
    drive.wake()
    drive.ok("fetch", {"title": "found"}, duration_ms=11)
    return drive


def agent() -> Driver:
    """A remote agent that is busy at first, and then does what it is asked for."""
    call = A2aTaskNode(
        id="review",
        agent="reviewer",
        skill="security_review",
        input_mapping={"code": "{{ state.code }}"},
        output_key="verdict",
        retry=RetryPolicy(max_attempts=2, initial_delay_ms=300),
    )
    drive = Driver(graph_of("review>end", nodes=(call,)))
    drive.start(code="x = 1")
    drive.error("review", "io_error", duration_ms=4)
    drive.wake()
    drive.ok("review", {"safe": True}, duration_ms=21)
    return drive


def held() -> Driver:
    """A start that waited for a slot, and then for its suspended tenant."""
    drive = Driver(graph_of("first>second", "second>end", timeout_ms=60_000))
    drive.start(held=True, n=1)
    drive.now += 5_000
    drive.release("slot")
    drive.hold()
    drive.ok("first", state_patch={"n": 2})
    drive.now += 1_000
    drive.release("tenant")
    drive.ok("second")
    return drive


def policy() -> Driver:
    """A call that a person has approved, and one that is forbidden."""
    asked = ToolPolicy(require_approval_for=("steps:pay",), blocked_tools=("steps:drop",))
    nodes = (step("pay", input_mapping={"sum": "{{ state.sum }}"}, output_key="paid"), step("drop"))
    graph = graph_of("pay>drop", "drop>end", "drop>keep error", "keep>end", nodes=nodes, policy=asked)
    drive = Driver(graph)
    drive.start(sum=5)
    drive.now += 3_000
    drive.approve(comment="fine", state_patch={"note": "checked"})
    drive.ok("pay", {"ok": True})
    drive.ok("keep")
    return drive


def nap() -> WaitNode:
    return WaitNode(id="nap", until="timer", delay_ms=1_000)


STORIES: dict[str, Callable[[], Driver]] = {
    story.__name__: story
    for story in (line, loop, approval, retry, join, wait, cancel, limit, http, agent, held, policy)
}


def write(name: str) -> None:
    """Write a story that has no file yet."""
    drive = STORIES[name]()
    told = {
        "about": STORIES[name].__doc__,
        "graph": json.loads(encode_graph(drive.plan.graph)),
        "rows": [{"type": kind, "data": data, "created_at": at} for kind, data, at in drive.rows],
        "state": json.loads(encode_state(drive.state)),
    }
    with (FOLDER / f"{name}.json").open("x", encoding="utf-8") as file:
        json.dump(told, file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        write(wanted)
