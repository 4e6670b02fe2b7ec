"""Workflows that the cluster and fault tests run, and the functions that they call."""

from typing import Any

FUNCTIONS = '''
import asyncio
import time


def count(state):
    return {"n": state.get("n", 0) + 1}


async def count_async(state):
    await asyncio.sleep(0)
    return {"n": state.get("n", 0) + 1}


def slow(state):
    time.sleep(state.get("pause", 0.2))
    return {"n": state.get("n", 0) + 1}


def fail(state):
    raise ValueError("no luck")


def flaky(state, idempotency_key):
    from pathlib import Path
    file = Path(state["folder"]) / idempotency_key.replace(":", "_")
    seen = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (seen + 1))
    if seen < 2:
        raise ConnectionResetError("not yet")
    return {"tries": seen + 1}


def record(state, idempotency_key):
    """Leaves one line for each time it ran, so that a test can count."""
    with open(state["journal"], "a") as journal:
        journal.write(idempotency_key + "\\n")
    time.sleep(state.get("pause", 0.1))
    return {"n": state.get("n", 0) + 1}
'''


def python(function: str, **fields: Any) -> dict[str, Any]:
    return {"kind": {"type": "python_fn", "module": "steps", "function": function}, **fields}


def chain(workflow_id: str, **nodes: dict[str, Any]) -> dict[str, Any]:
    """Nodes one after the other."""
    names = list(nodes)
    edges = [{"from": a, "to": b} for a, b in zip(names, [*names[1:], "end"], strict=True)]
    return {
        "workflow_id": workflow_id,
        "version": "1.0.0",
        "start_node": names[0],
        "nodes": nodes,
        "edges": edges,
    }


MODEL = {"kind": {"type": "model", "model": "scripted/echo", "prompt": "n is {{ state.n }}"}}
APPROVAL = {"kind": {"type": "human_approval", "description": "May {{ state.n }} go on?"}}
EVENT = {"kind": {"type": "wait", "condition": "external_event", "correlation_key": "paid"}}

THREE = chain("three", one=python("count"), two=python("count_async"), three=python("count"))
APPROVE = chain("approve", draft=MODEL, gate=APPROVAL, publish=python("count"))
PAY = chain("pay", ask=MODEL, paid=EVENT, done=python("count"))
SLOW = chain("slow", **{f"s{i}": python("slow") for i in range(4)})
RECORD = chain("record", **{f"s{i}": python("record") for i in range(3)})
FAILS = chain("fails", only=python("fail"))
NAP = chain(
    "nap", nap={"kind": {"type": "wait", "condition": "timer", "timeout_secs": 1}}, done=python("count")
)
RETRY = {
    **chain("retry", only=python("flaky", retry_policy="quick")),
    "retry_policies": {
        "quick": {
            "max_attempts": 3,
            "backoff": "fixed",
            "initial_delay": 0.05,
            "max_delay": 1,
            "jitter": False,
            "retryable_on": ["connection_reset"],
        }
    },
}
LOOP = {
    "workflow_id": "loop",
    "version": "1.0.0",
    "start_node": "work",
    "nodes": {
        "work": python("count"),
        "check": {
            "kind": {
                "type": "condition",
                "branches": [
                    {"condition": "state.n >= 3", "target": "end"},
                    {"condition": None, "target": "work"},
                ],
            }
        },
    },
    "edges": [{"from": "work", "to": "check"}],
}
FAN = {
    "workflow_id": "fan",
    "version": "1.0.0",
    "start_node": "split",
    "nodes": {
        "split": {"kind": {"type": "parallel", "branches": ["a", "b", "c"]}},
        **{
            name: {"kind": {"type": "model", "model": "scripted/echo", "prompt": name}}
            for name in ("a", "b", "c")
        },
        "meet": {"kind": {"type": "join", "wait_for": ["a", "b", "c"], "merge_strategy": "collect"}},
    },
    "edges": [{"from": name, "to": "meet"} for name in ("a", "b", "c")] + [{"from": "meet", "to": "end"}],
}
ALL = (THREE, APPROVE, PAY, SLOW, RECORD, FAILS, NAP, RETRY, LOOP, FAN)
