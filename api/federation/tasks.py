"""Executions as tasks of A2A, and messages of A2A as their input."""

from datetime import datetime
from typing import Any

import orjson
from a2a.types import Artifact, Message, Part, Role, Task, TaskState, TaskStatus
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Value

from runtime.nodes.a2a import whole_numbers

ARTIFACT = "output"
TEXT_KEY = "message"
"""The key of the input under which the text of a message is found, unless that text is a JSON object."""

_LEVELS_MAX = 90
"""Of an output as data: Protocol Buffers take 100, with those of the message around it."""
_STATES = {
    "running": TaskState.TASK_STATE_WORKING,
    "completed": TaskState.TASK_STATE_COMPLETED,
    "failed": TaskState.TASK_STATE_FAILED,
    "limit_exceeded": TaskState.TASK_STATE_FAILED,
    "cancelled": TaskState.TASK_STATE_CANCELED,
}
_ASKS = ("approval", "external_event", "either")
"""What an execution waits for that a message can bring."""


def task_of(execution: dict[str, Any], *, with_artifacts: bool = True) -> Task:
    """An execution, as REST shows it, as a task."""
    execution_id = execution["execution_id"]
    task = Task(id=execution_id, context_id=execution_id, status=status_of(execution))
    task.metadata.update(
        {"workflow_id": execution["workflow_id"], "workflow_version": execution["workflow_version"]}
    )
    if with_artifacts and execution.get("output") is not None:
        task.artifacts.append(artifact_of(execution))
    return task


def status_of(execution: dict[str, Any]) -> TaskStatus:
    status = TaskStatus(state=state_of(execution))
    status.timestamp.FromDatetime(datetime.fromisoformat(execution["updated_at"]))
    said: list[Part] = []
    if execution.get("error"):
        said.append(Part(text=execution["error"]))
    elif status.state == TaskState.TASK_STATE_INPUT_REQUIRED:
        said += [Part(text=_asked(wait)) for wait in execution["waiting_on"] if wait["type"] in _ASKS]
    if said:
        status.message.CopyFrom(agent_message(execution["execution_id"], said))
    return status


def state_of(execution: dict[str, Any]) -> TaskState:
    """Its ``TaskState``. One that waits for a person or an event asks its caller for more input."""
    status = execution["status"]
    if status == "paused":
        return TaskState.TASK_STATE_INPUT_REQUIRED if asks(execution) else TaskState.TASK_STATE_WORKING
    return _STATES[status]


def asks(execution: dict[str, Any]) -> bool:
    """Whether it waits for what a message can bring, whatever goes on beside."""
    return any(wait["type"] in _ASKS for wait in execution.get("waiting_on", ()))


def has_settled(execution: dict[str, Any]) -> bool:
    """Whether nothing more will come of it before its caller says something."""
    return state_of(execution) != TaskState.TASK_STATE_WORKING


def _asked(wait: dict[str, Any]) -> str:
    if wait["type"] == "approval":
        return (
            f'node {wait["node_id"]} waits for an approval: answer with the data {{"decision": "approved"}}'
        )
    return f"node {wait['node_id']} waits for the event {wait['correlation_key']}: answer with its payload"


def artifact_of(execution: dict[str, Any]) -> Artifact:
    output = execution["output"]
    try:
        part = Part(data=ParseDict(output, Value(), max_recursion_depth=_LEVELS_MAX))
    except ParseError:
        # Protocol Buffers do not nest as deep as JSON does.
        part = Part(text=orjson.dumps(output).decode())
    part.media_type = "application/json"
    return Artifact(artifact_id=ARTIFACT, name=ARTIFACT, parts=[part])


def agent_message(execution_id: str, parts: list[Part]) -> Message:
    return Message(
        message_id=f"{execution_id}:status",
        role=Role.ROLE_AGENT,
        parts=parts,
        task_id=execution_id,
        context_id=execution_id,
    )


def said(message: Message) -> tuple[dict[str, Any], str]:
    """What a message says: its data, all objects in one, and its text."""
    data: dict[str, Any] = {}
    texts: list[str] = []
    for part in message.parts:
        if part.HasField("data"):
            value = _value(part)
            data |= value if isinstance(value, dict) else {"data": value}
        elif part.HasField("text"):
            texts.append(part.text)
    text = "\n".join(texts)
    found = _json_object(text)
    return (data | found, "") if found is not None else (data, text)


def _value(part: Part) -> Any:
    try:
        return whole_numbers(MessageToDict(part.data))
    except ValueError as error:
        raise InvalidParamsError(f"a part's data is not JSON: {error}") from error


def input_of(message: Message) -> dict[str, Any]:
    """The input of the execution that a message starts."""
    data, text = said(message)
    return {**({TEXT_KEY: text} if text else {}), **data}


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
