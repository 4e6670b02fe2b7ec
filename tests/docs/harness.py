"""An installation for examples: the REST API in this process, functions in processes of their own.

A small shop on loopback stands for the services that ``http``, ``model`` and ``a2a_task`` nodes call.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import httpx2

from actors.agents.registry import AgentRegistry
from actors.functions.caller import PooledFunctions
from actors.local import LocalExecutions
from actors.runner import Runner
from actors.settings import load_settings
from api.cli.dev import LOOPBACK
from api.launch.modules import modules_of
from runtime.store import open_store
from tests.docs import reviewer
from tests.fixtures.api import WITHIN_S, Api, Prepared
from tests.fixtures.http_server import Asked, http_server, response
from tests.fixtures.model_wire import openai, streamed
from tests.fixtures.served import served

ENVIRONMENT = {
    "GREETING": "Good day",
    "SHOP_KEY": "s3cret",
    "MODEL_KEY": "s3cret",
    "REVIEWER_TOKEN": "s3cret",
    "JAMJET_TEMPLATE_ENV": "GREETING",
    "JAMJET_SECRETS": "SHOP_KEY@127.0.0.1,MODEL_KEY@127.0.0.1,REVIEWER_TOKEN@127.0.0.1",
}
SHOP = "$SHOP"
"""Stands for the shop's address in the input of a run."""
MODEL_SERVER = "http://127.0.0.1:8000"
"""The server of a model in examples; the shop plays it."""
AGENT_SERVER = "http://127.0.0.1:9000"
"""The agent that examples call; the shop plays it too."""


@contextlib.asynccontextmanager
async def installation(folder: Path, prepared: Prepared, files: dict[str, str]) -> AsyncIterator[Api]:
    """As ``jamjet dev`` in a folder with these files, without Ray."""
    for name, text in files.items():
        (folder / name).write_text(text)
    settings = load_settings(
        ENVIRONMENT,
        python_path=str(folder),
        python_modules=modules_of(folder),
        http_allow=LOOPBACK,
        discovery_allow=LOOPBACK,
    )
    copyfile(prepared.bare, folder / "runtime.db")
    store = await open_store(str(folder / "runtime.db"), migrate=False)
    functions = PooledFunctions.in_process(settings)
    runner = Runner.over(settings, functions, store)
    executions = LocalExecutions(store, runner)
    executions.host._env = settings.readable_env()
    await executions.open()
    try:
        agents = AgentRegistry(store, settings)
        await agents.open()
        yield Api(settings, store, executions, agents, functions, dict(prepared.tokens))  # type: ignore[arg-type]
        await agents.close()
    finally:
        await executions.close()
        await functions.close()
        await runner.close()
        await store.close()


@contextlib.asynccontextmanager
async def served_installation(folder: Path, prepared: Prepared) -> AsyncIterator[tuple[Api, str]]:
    """The same behind a real socket, for clients; yields its address too."""
    async with installation(folder, prepared, {}) as api:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await api.app(scope, receive, send)

        async with served(app) as url:  # type: ignore[arg-type]
            api.rebuild(settings=replace(api.settings, public_url=url))
            yield api, url


@contextlib.asynccontextmanager
async def shop() -> AsyncIterator[str]:
    """The address of a shop that knows order 7, wants a key for orders, and is busy at first."""
    busy = 0

    def said(asked: Asked) -> tuple[int, Any]:
        nonlocal busy
        path = asked.path.partition("?")[0]
        if asked.method == "HEAD":
            return 404, b""
        if asked.method == "POST":
            is_known = asked.headers.get("authorization") == "Bearer s3cret"
            return (201, {"accepted": asked.json()}) if is_known else (401, {"error": "no key"})
        if path == "/orders/7":
            return 200, {"order": 7, "total": 120}
        if path == "/search":
            return 200, [{"asked": asked.path}]
        busy += 1
        return (503, "busy") if path == "/busy" and busy < 3 else (200, {"path": path})

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/v1/chat/completions":
            assert asked.headers["authorization"] == "Bearer s3cret"
            await streamed(openai('{"title": ', '"On Ray"}'))(asked, writer)
        elif asked.path in (reviewer.CARD_PATH, reviewer.RPC_PATH):
            reviewer.answer(asked, writer)
        else:
            writer.write(response(*said(asked)))

    async with http_server(answer) as server:
        yield server.url


def at(text: str, address: str) -> str:
    """A text with the addresses of examples made the shop's."""
    return text.replace(MODEL_SERVER, address).replace(AGENT_SERVER, address)


async def run(api: Api, workflow: dict[str, Any], told: dict[str, Any], address: str) -> dict[str, Any]:
    """Start a registered workflow as told, answer its waits, and return what became of it, with its events.

    ``told``: ``input``, ``then`` (steps of ``approve``, ``event`` and ``cancel``, each sent once it pauses).
    """
    given = json.loads(json.dumps(told.get("input", {})).replace(SHOP, address))
    execution_id = await api.start(workflow["workflow_id"], **given)
    path = f"/executions/{execution_id}"
    for step in told.get("then", ()):
        await _until_paused(api, execution_id)
        ((action, body),) = step.items()
        route = {"approve": "approve", "event": "external-event", "cancel": "cancel"}[action]
        answer = await api.post(f"{path}/{route}", body)
        assert answer.status_code == 200, answer.text
    ended = await _until_ended(api, execution_id)
    return {**ended, "events": await api.kinds(execution_id)}


async def _until_paused(api: Api, execution_id: str) -> None:
    shown = await api.settled(execution_id)
    assert shown["status"] == "paused", shown


async def _until_ended(api: Api, execution_id: str) -> dict[str, Any]:
    until = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        answer: httpx2.Response = await api.get(f"/executions/{execution_id}?wait=0.2")
        shown: dict[str, Any] = answer.json()
        if shown["completed_at"] is not None:
            return shown
        assert asyncio.get_running_loop().time() < until, shown
        await asyncio.sleep(0.05)


def assert_holds(promised: Any, found: Any, place: str = "") -> None:
    """Whether everything promised is there: keys of objects, and of lists of events each one."""
    if isinstance(promised, dict):
        assert isinstance(found, dict), f"{place}: {found!r}"
        for key, value in promised.items():
            assert key in found, f"{place}.{key} is missing: {found!r}"
            assert_holds(value, found[key], f"{place}.{key}")
    elif place == ".events":
        assert set(promised) <= set(found), found
    else:
        assert promised == found, f"{place}: {promised!r} was promised, and it is {found!r}"
