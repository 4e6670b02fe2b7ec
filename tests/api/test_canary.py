"""A secret that is put through every door comes out at none but its host's."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors import tracing
from actors.runner import FunctionFailed
from actors.settings import Settings
from tests.api.test_http_nodes import files_of
from tests.fixtures.api import Api, Prepared, opened
from tests.fixtures.http_server import Asked, http_server, response
from tests.fixtures.workflows import chain

SECRET = "canary-5d1f0c-SECRET"
REFERENCE = "{{ env.CANARY }}"


@pytest.fixture
async def api(prepared: Prepared, tmp_path: Path) -> AsyncIterator[Api]:
    copyfile(prepared.bare, tmp_path / "runtime.db")
    settings = Settings(
        http_allow=("127.0.0.0/8",),
        secrets=("CANARY@127.0.0.1",),
        env={"CANARY": SECRET},
        python_modules=("steps",),
    )
    async with opened(tmp_path / "runtime.db", dict(prepared.tokens), settings) as made:
        yield made


def http(url: str, **fields: Any) -> dict[str, Any]:
    return {"kind": {"type": "http", "url": url, "method": "POST", **fields}}


def python(function: str, **mapping: str) -> dict[str, Any]:
    return {
        "kind": {"type": "python_fn", "module": "steps", "function": function, "input_mapping": mapping},
        "output_key": function,
    }


def flows(here: str, elsewhere: str) -> dict[str, dict[str, Any]]:
    """By what becomes of the secret: the nodes that it is given to."""
    header, model = {"Authorization": f"Bearer {REFERENCE}"}, {"type": "model", "model": "scripted/echo"}
    return {
        "echoed": http(f"{here}/200", headers=header, response="full"),
        "refused": http(f"{here}/404", headers=header),
        "in-the-query": http(f"{here}/200", query={"key": REFERENCE, "more": f"a {REFERENCE} b"}),
        "redirected": http(f"{here}/302", headers=header),
        "sent-elsewhere": http(f"{elsewhere}/200", headers=header),
        "of-a-path": http(f"{here}/{REFERENCE}"),
        "of-a-body": http(f"{here}/200", body={"key": REFERENCE}),
        "of-a-model": {"kind": {**model, "prompt": f"say {REFERENCE}"}},
        "of-a-tool": python("echo", argument=REFERENCE),
        "of-a-tool-that-fails": python("fail", argument=REFERENCE),
        "of-an-approval": {"kind": {"type": "human_approval", "description": f"use {REFERENCE}?"}},
        "asked-for": {**http(f"{here}/200", headers=header), "policy": {"require_approval_for": ["http"]}},
    }  # fmt: skip


async def call(effect: Any, node: Any, *, tenant_id: str) -> tuple[Any, None]:
    if node.function == "fail":
        raise FunctionFailed(f"could not use {effect.input}", "value_error")
    return effect.input, None


async def said_by_rest(api: Api, execution_id: str) -> list[str]:
    """All that a client may read of an execution, and what it is told where it errs."""
    paths = ("", "/events", "/events?shape=typed", "/events/stream", "/approvals")
    texts = []
    for path in paths:
        try:
            answer = await asyncio.wait_for(api.get(f"/executions/{execution_id}{path}"), 2)
        except TimeoutError:
            continue  # The stream of one that waits for a person has no end; its events were read above.
        texts.append(answer.text)
    bad = {"decision": "approved", "node_id": "nobody"}
    texts.append((await api.post(f"/executions/{execution_id}/approve", bad)).text)
    return texts


async def test_a_secret_comes_out_nowhere(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(api.functions, "call", call)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        status = int(asked.path[1:4]) if asked.path[1:4].isdigit() else 500
        more = "Location: http://localhost:1/\r\n" if status == 302 else ""
        told = response(status, {"headers": asked.headers, "path": asked.path})
        writer.write(told.replace(b"\r\n", f"\r\n{more}".encode(), 1))

    shown: list[str] = []
    ended: dict[str, str] = {}
    async with http_server(answer) as server:
        with tracing.traced_by(provider):
            listed = flows(f"http://127.0.0.1:{server.port}", f"http://localhost:{server.port}")
            for name, node in listed.items():
                answered = await api.post("/workflows", {"ir": chain(name, only=node)})
                shown.append(answered.text)
                if answered.status_code != 201:
                    ended[name] = "not registered"
                    continue
                execution_id = await api.start(name)
                found = await api.settled(execution_id)
                if found["status"] == "paused":
                    shown += await said_by_rest(api, execution_id)
                    await api.post(f"/executions/{execution_id}/approve", {"decision": "approved"})
                    found = await api.settled(execution_id)
                ended[name] = found["status"]
                shown += [str(found), *await said_by_rest(api, execution_id)]
        assert any(SECRET in str(asked.headers) + asked.path for asked in server.asked), "its host gets it"
    shown.append((await api.get("/audit?limit=200")).text)
    shown.append((await api.get("/metrics", role="operator")).text)
    shown.append(caplog.text)
    shown += [f"{span.name} {dict(span.attributes or {})} {span.events} {span.status.description}"
              for span in exporter.get_finished_spans()]  # fmt: skip
    stored = files_of(tmp_path)

    assert set(ended) == set(listed)
    assert (ended["echoed"], ended["asked-for"], ended["refused"]) == ("completed", "completed", "failed")
    assert len(exporter.get_finished_spans()) > len(listed)
    assert not [text[:500] for text in (*shown, *stored) if SECRET in text]
    for token in api.tokens.values():
        assert not [text[:500] for text in (*shown, *stored) if token in text], (
            "a bearer token is a secret too"
        )
