"""The OpenAPI document is complete, true, and shown without anything from elsewhere.

That every answer has a documented status and shape is checked by the client of all these tests.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from api.app import build_app
from api.auth import Access
from api.routing import SecuredRoute
from tests.fixtures.api import SETTINGS, Api, openapi, routes_of

METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method.upper()} {path}", operation


def test_every_route_is_documented() -> None:
    served = {
        f"{method} {route.path}"
        for route in routes_of(build_app(SETTINGS))
        if isinstance(route, SecuredRoute) and route.path not in ("/docs", "/mcp", "/a2a")
        for method in route.methods
    }
    assert {name for name, _ in operations()} == served


def test_every_operation_says_who_may_call_it_and_what_it_does() -> None:
    for name, operation in operations():
        assert operation["x-access"] in get_args(Access), name
        assert (operation.get("security") == [{"bearer": []}]) == (operation["x-access"] != "public"), name
        assert operation["description"], name
        assert operation["tags"], name


def test_the_document_in_the_repository_is_this_one() -> None:
    """A change of the API is seen in its diff: ``make openapi`` writes it."""
    kept = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert json.loads(kept.read_text("utf-8")) == json.loads(json.dumps(openapi()))


TEXTS = {"text/event-stream", "text/plain"}
"""What a route may answer with instead of JSON, when all is well."""


def test_every_operation_has_its_refusals() -> None:
    for name, operation in operations():
        answers = set(operation["responses"])
        if operation["x-access"] != "public":
            assert answers >= {"400", "401", "403", "500", "503"}, name
        if "{" in name:
            assert "404" in answers, name
        if "requestBody" in operation:
            assert answers >= {"413", "415"}, name
        for status, answer in operation["responses"].items():
            if set(answer["content"]) & TEXTS:
                assert status == "200", name
                continue
            schema = answer["content"]["application/json"]["schema"]
            assert ("ErrorAnswer" in schema["$ref"]) == (int(status) >= 400), f"{name} {status}"


def test_every_placeholder_in_a_path_is_a_parameter() -> None:
    for name, operation in operations():
        named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert set(re.findall(r"\{(\w+)\}", name)) == named, name


def test_every_post_with_a_body_documents_it() -> None:
    bodies = {
        name: operation["requestBody"] for name, operation in operations() if "requestBody" in operation
    }
    without = {name for name, _ in operations() if name.startswith("POST") and name not in bodies}
    agent = "POST /agents/{agent_id}"
    assert without == {
        "POST /executions/{execution_id}/cancel",
        *(f"{agent}/{act}" for act in ("activate", "deactivate", "heartbeat")),
    }
    assert set(bodies["POST /workflows"]["content"]) == {"application/json", "application/yaml"}
    for name, body in bodies.items():
        assert "properties" in body["content"]["application/json"]["schema"], name


def test_no_schema_is_unused_or_missing() -> None:
    """And so FastAPI's own 422, which never comes, is not there."""
    text = json.dumps(openapi())
    used = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text))
    assert used == set(openapi()["components"]["schemas"])
    assert text.count('"$ref"') == len(re.findall(r'"\$ref": "#/components/schemas/', text))


def test_422_is_documented_where_a_key_may_mismatch_and_nowhere_else() -> None:
    for name, operation in operations():
        keyed = any(p["name"] == "Idempotency-Key" for p in operation.get("parameters", ()))
        assert ("422" in operation["responses"]) == keyed, name


@pytest.mark.parametrize("role", [None, "viewer"])
async def test_the_document_is_served_to_everybody(bare_api: Api, role: str | None) -> None:
    answer = await bare_api.get("/openapi.json", role=role)
    assert answer.status_code == 200
    assert answer.json() == openapi()
    assert answer.json()["info"]["version"]


async def test_the_page_loads_nothing_from_elsewhere(bare_api: Api) -> None:
    answer = await bare_api.get("/docs", role=None)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert re.findall(r"(?:https?:)?//[\w.]+|@import|src=", answer.text) == []
    assert 'fetch("openapi.json")' in answer.text
