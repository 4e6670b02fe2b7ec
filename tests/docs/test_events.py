"""An event, and the stream of events, look as the page on them shows."""

import json
from pathlib import Path

from tests.docs.harness import installation
from tests.docs.pages import blocks
from tests.fixtures.api import Prepared

WORKFLOW = "workflow: {id: w}\nnodes: {draft: {type: model, model: scripted/echo, prompt: Hello}}"


async def test_events(prepared: Prepared, tmp_path: Path) -> None:
    (shown,) = [
        json.loads(block.text) for block in blocks() if block.page == "events.md" and block.language == "json"
    ]
    async with installation(tmp_path, prepared, {}) as api:
        await api.post("/workflows", {"yaml": WORKFLOW})
        execution_id = await api.start("w")
        await api.settled(execution_id)
        third = (await api.events(execution_id))[2]
        assert third.keys() == shown.keys()
        assert [third[key] for key in ("kind", "type", "node_id")] == ["NodeStarted", "node_started", "draft"]

        path = f"/executions/{execution_id}/events/stream"
        frames = (await api.get(path)).text.split("\n\n")
        assert frames[2].splitlines()[:2] == ["id: 3", "event: NodeStarted"]
        assert json.loads(frames[2].partition("data: ")[2]) == third
        again = (await api.get(path, headers={"Last-Event-ID": "3"})).text
        assert again.startswith("id: 4\n")
        assert again.strip().splitlines()[-2] == "event: end"
