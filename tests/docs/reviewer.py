"""An agent that the documentation's workflows call: a few skills of A2A 1.0, without a library."""

import asyncio
import json
from typing import Any

from tests.fixtures.http_server import Asked, response

CARD_PATH = "/.well-known/agent.json"
RPC_PATH = "/a2a"
TOKEN = "Bearer s3cret"
_TASK = {"id": "task-1", "contextId": "context-1"}
_WHERE = {"taskId": "task-1", "contextId": "context-1"}


def card(host: str) -> dict[str, Any]:
    one = {"url": f"http://{host}{RPC_PATH}", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    return {
        "name": "Reviewer",
        "version": "1.0.0",
        "supportedInterfaces": [one],
        "capabilities": {"streaming": True},
        "skills": [{"id": skill, "name": skill} for skill in ("review", "sign", "ask")],
    }


def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Write what it says to a request."""
    if asked.method == "GET":
        writer.write(response(200, card(asked.headers["host"])))
        return
    call = asked.json()
    message = call["params"]["message"]
    task = _done(message, asked.headers.get("authorization") == TOKEN)
    if call["method"] == "SendMessage":
        writer.write(response(200, _rpc(call, {"task": task})))
        return
    events = [{"task": {**_TASK, "status": {"state": "TASK_STATE_WORKING"}}}]
    events += [{"artifactUpdate": {**_WHERE, "artifact": artifact}} for artifact in task.get("artifacts", ())]
    events += [{"statusUpdate": {**_WHERE, "status": task["status"]}}]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    told = (b"data: " + json.dumps(_rpc(call, event)).encode() + b"\n\n" for event in events)
    writer.write(head + b"".join(told))
    writer.close()


def _done(message: dict[str, Any], is_known: bool) -> dict[str, Any]:
    """The task that a message leads to, by the skill that it names."""
    skill = message["metadata"].get("skill")
    if skill == "ask":
        return _ended("INPUT_REQUIRED", "which branch?")
    if skill == "sign" and not is_known:
        return _ended("AUTH_REQUIRED", "who are you?")
    (part,) = message["parts"]
    data = {"verdict": "fine", "read": len(part["data"].get("code", ""))}
    return {**_ended("COMPLETED"), "artifacts": [{"artifactId": "a", "parts": [{"data": data}]}]}


def _ended(state: str, text: str = "") -> dict[str, Any]:
    status: dict[str, Any] = {"state": f"TASK_STATE_{state}"}
    if text:
        status["message"] = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}
    return {**_TASK, "status": status}


def _rpc(call: dict[str, Any], result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call["id"], "result": result}
