"""What a tool answers: the JSON of REST as structure and as text, refusals as sentences."""

from typing import Any

import mcp_types as types
import orjson

from api.inner import InnerAnswer
from api.mcp.tools import Tool

_ENDED_BADLY = {
    "failed": "failed",
    "cancelled": "was cancelled",
    "limit_exceeded": "exceeded a limit",
}


def result_of(tool: Tool, answer: InnerAnswer) -> types.CallToolResult:
    """The result of a call, from what REST answered."""
    if answer.refused:
        return _result(answer.body, answer.body["error"], is_error=True)
    text = orjson.dumps(answer.body).decode()
    if tool.workflow_id is None:
        return _result(answer.body, text)
    execution = answer.body
    return _result(execution, *_told(execution), text, is_error=execution["status"] in _ENDED_BADLY)


def refusal(sentence: str) -> types.CallToolResult:
    """The result of a call that was not made."""
    return types.CallToolResult(content=[types.TextContent(text=sentence)], is_error=True)


def _result(body: dict[str, Any], *texts: str, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(text=text) for text in texts], structured_content=body, is_error=is_error
    )


def _told(execution: dict[str, Any]) -> list[str]:
    """How an execution stands, in a sentence; none of one that is completed: its output says all."""
    status = execution["status"]
    who = f"Execution {execution['execution_id']} of workflow {execution['workflow_id']}"
    if status == "completed":
        return []
    if status in _ENDED_BADLY:
        error = execution["error"]
        return [f"{who} {_ENDED_BADLY[status]}{f': {error}' if error else '.'}"]
    waits = " and for ".join(_wait(entry) for entry in execution["waiting_on"])
    so_far = "is paused" if status == "paused" else "is still running"
    if waits:
        so_far += f" and waits for {waits}"
    return [f"{who} {so_far}. Ask for it with jamjet_get_execution{_advice(execution)}."]


def _wait(entry: dict[str, Any]) -> str:
    """One entry of ``waiting_on``."""
    said = str(entry["type"]).replace("_", " ")
    if "correlation_key" in entry:
        said += f" {entry['correlation_key']!r}"
    if entry["node_id"] is not None:
        said += f" at node {entry['node_id']}"
    return f"{said} until {entry['due_at']}" if entry.get("due_at") else said


def _advice(execution: dict[str, Any]) -> str:
    waits = any(entry["type"] == "approval" for entry in execution["waiting_on"])
    return "; a person's decision is given with jamjet_approve" if waits else ""
