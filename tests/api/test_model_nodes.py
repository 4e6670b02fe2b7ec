"""Workflows with model nodes through the REST API, their provider a server of the test's own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from actors.settings import load_settings
from tests.fixtures.api import Api, Prepared, opened
from tests.fixtures.http_server import Asked, http_server, reply, response
from tests.fixtures.model_wire import anthropic, openai, streamed
from tests.fixtures.models import KEY, variables
from tests.fixtures.workflows import chain

Serving = Callable[..., AbstractAsyncContextManager[Api]]
NO_DELAY = {"max_attempts": 3, "initial_delay_ms": 1, "retryable_on": ["rate_limit"]}


def ask(model: str, **fields: Any) -> dict[str, Any]:
    return {"kind": {"type": "model", "model": model, "prompt": "About {{ state.topic }}", **fields}}


@pytest.fixture
def serving(prepared: Prepared, tmp_path: Path) -> Serving:
    """The API of an operator whose providers are at a URL; ``environ`` on top."""

    @asynccontextmanager
    async def serve(url: str, **environ: str) -> AsyncIterator[Api]:
        copyfile(prepared.bare, tmp_path / "runtime.db")
        settings = load_settings({**variables(url), **environ})
        async with opened(tmp_path / "runtime.db", dict(prepared.tokens), settings) as api:
            yield api

    return serve


async def ended(api: Api, ir: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The execution of a workflow once it has ended, and its events, in which no key may stand."""
    await api.register(ir)
    execution_id = await api.start(ir["workflow_id"], topic="Ray")
    execution = await api.settled(execution_id)
    events = await api.events(execution_id)
    typed = (await api.get(f"/executions/{execution_id}/events?shape=typed")).json()
    assert KEY not in json.dumps([execution, events, typed])
    return execution, events


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["kind"] == kind]


async def test_an_answer_is_in_the_state_and_its_telemetry_in_the_event(serving: Serving) -> None:
    node = ask("claude-haiku-4-5", output_key="said", system_prompt="Be brief")
    async with (
        http_server(streamed(anthropic("Ray ", "it is"))) as server,
        serving(server.url) as api,
    ):
        execution, events = await ended(api, chain("ask", only=node))
        assert (execution["status"], execution["state"]["said"]) == ("completed", "Ray it is")
        [told] = of_kind(events, "NodeCompleted")
        assert told["duration_ms"] >= 0
        assert {key: value for key, value in told.items() if "_ai_" in key or "tokens" in key} == {
            "gen_ai_system": "anthropic",
            "gen_ai_model": "claude-said",
            "input_tokens": 11,
            "output_tokens": 7,
        }
        assert (told["finish_reason"], told["cost_usd"]) == ("stop", (11 * 1 + 7 * 5) / 1_000_000)
        asked = server.asked[0]
        assert asked.headers["x-api-key"] == KEY
        assert asked.json()["messages"] == [{"role": "user", "content": "About Ray"}]
        assert asked.json()["system"] == "Be brief"


async def test_a_rate_limit_is_waited_for_and_tried_again_under_the_same_key(serving: Serving) -> None:
    limited = response(429, {"error": {"message": f"slow down, {KEY}"}}, retry_after="0.05")

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) == 1:
            writer.write(limited)
        else:
            await streamed(openai("Hi"))(asked, writer)

    async with http_server(answer) as server, serving(server.url) as api:
        execution, events = await ended(api, chain("ask", only=ask("gpt-4o", retry=NO_DELAY)))
        assert (execution["status"], execution["state"]["only"]) == ("completed", "Hi")
        [failed] = of_kind(events, "NodeFailed")
        assert (failed["error"], failed["error_class"]) == (
            "openai answered 429: slow down, ***",
            "rate_limit",
        )
        [retry] = of_kind(events, "RetryScheduled")
        assert retry["delay_ms"] == 50
        keys = {asked.headers["idempotency-key"] for asked in server.asked}
        assert len(server.asked) == 2
        assert len(keys) == 1


async def test_a_wrong_key_fails_at_once(serving: Serving) -> None:
    said = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    async with http_server(reply(401, said)) as server, serving(server.url) as api:
        any_error = {**NO_DELAY, "retryable_on": []}
        execution, events = await ended(api, chain("ask", only=ask("gpt-4o", retry=any_error)))
        assert execution["status"] == "failed"
        [failed] = of_kind(events, "NodeFailed")
        assert failed["error_class"] == "auth"
        assert len(server.asked) == 1


async def test_a_missing_key_says_what_to_set(serving: Serving) -> None:
    async with http_server(reply(200)) as server, serving(server.url, OPENAI_API_KEY="") as api:
        execution, events = await ended(api, chain("ask", only=ask("gpt-4o")))
        assert execution["status"] == "failed"
        [failed] = of_kind(events, "NodeFailed")
        assert failed["error_class"] == "auth"
        assert "set OPENAI_API_KEY where the server is started" in failed["error"]
        assert server.asked == []


async def test_structured_output_is_a_value_of_the_state(serving: Serving) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    node = ask("openai/gpt-4o", output_schema=schema, output_key="found")
    async with http_server(streamed(openai('{"n"', ": 3}"))) as server, serving(server.url) as api:
        execution, _ = await ended(api, chain("ask", only=node))
        assert execution["state"]["found"] == {"n": 3}
    async with http_server(streamed(openai("three"))) as server, serving(server.url) as api:
        execution, events = await ended(api, chain("ask", only=node))
        assert execution["status"] == "failed"
        assert of_kind(events, "NodeFailed")[0]["error_class"] == "bad_answer"


async def test_a_server_of_the_workflows_own_needs_a_known_secret_and_an_open_way(serving: Serving) -> None:
    async with http_server(streamed(openai("Hi"))) as server:
        entry = {
            "provider": "openai",
            "model": "local",
            "api_base": f"{server.url}/v1",
            "api_key_env": "LOCAL_KEY",
        }
        ir = {**chain("ask", only=ask("own")), "models": {"own": entry}}
        async with serving("http://127.0.0.1:1") as api:
            answer = await api.post("/workflows", {"ir": ir})
            assert answer.status_code == 400
            assert "api_key_env names 'LOCAL_KEY', which is no secret" in answer.text
        bound = {"JAMJET_SECRETS": "LOCAL_KEY@127.0.0.1", "LOCAL_KEY": KEY}
        async with serving("http://127.0.0.1:1", **bound) as api:
            execution, events = await ended(api, ir)
            assert of_kind(events, "NodeFailed")[0]["error_class"] == "address_refused"
            assert server.asked == []
        async with serving("http://127.0.0.1:1", JAMJET_HTTP_ALLOW="127.0.0.1", **bound) as api:
            execution, events = await ended(api, ir)
            assert execution["status"] == "completed"
            assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
            [told] = of_kind(events, "NodeCompleted")
            assert (told["gen_ai_model"], told.get("cost_usd")) == ("gpt-said", None)
