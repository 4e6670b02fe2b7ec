"""Tokens over REST: shown once, listed without their secrets, revoked everywhere within five seconds."""

import re
import time
from typing import Any

import pytest

from api.auth import REMEMBERED_S
from api.resources import Resources
from tests.fixtures.api import Api, assert_refused


async def create(api: Api, role: str = "developer", **body: Any) -> dict[str, Any]:
    answer = await api.post("/tokens", {"role": role, **body}, role="operator")
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    api.tokens[made["id"]] = made["token"]
    return made


def pass_time(api: Api, seconds: float) -> None:
    """From now on the replica's clock is ahead by so much."""
    resources: Resources = api.app.state.resources
    resources.authenticator._clock = lambda: time.time() + seconds


async def status_with(api: Api, token_id: str) -> int:
    return (await api.get("/executions", role=token_id)).status_code


async def test_a_token_is_shown_once_and_works(bare_api: Api) -> None:
    made = await create(bare_api, name="ci")
    assert re.fullmatch("jj_[0-9a-f]{64}", made["token"])
    assert (made["name"], made["role"], made["tenant_id"]) == ("ci", "developer", "default")
    assert (made["expires_at"], made["revoked_at"]) == (None, None)
    assert await status_with(bare_api, made["id"]) == 200
    listed = (await bare_api.get("/tokens", role="operator")).text
    assert made["id"] in listed
    assert made["token"] not in listed
    assert "hash" not in listed


async def test_a_token_has_the_role_that_was_given(bare_api: Api) -> None:
    for role, status in (("operator", 200), ("developer", 403), ("reviewer", 403), ("viewer", 403)):
        made = await create(bare_api, role)
        assert (await bare_api.get("/tokens", role=made["id"])).status_code == status


async def test_a_token_belongs_to_its_makers_tenant(bare_api: Api) -> None:
    answer = await bare_api.post("/tokens", {"role": "viewer", "tenant_id": "default"}, role="other-operator")
    assert answer.json()["tenant_id"] == "acme"


async def test_a_revoked_token_is_refused_within_five_seconds(bare_api: Api) -> None:
    made = await create(bare_api)
    assert await status_with(bare_api, made["id"]) == 200
    answer = await bare_api.ask("DELETE", f"/tokens/{made['id']}", role="operator")
    assert (answer.status_code, answer.json()) == (200, {"id": made["id"], "revoked": True})
    assert REMEMBERED_S < 5
    pass_time(bare_api, 5)
    assert await status_with(bare_api, made["id"]) == 401
    [listed] = [
        token
        for token in (await bare_api.get("/tokens", role="operator")).json()["tokens"]
        if token["id"] == made["id"]
    ]
    assert listed["revoked_at"]


async def test_a_token_expires_also_while_it_is_remembered(bare_api: Api) -> None:
    made = await create(bare_api, expires_in_s=2)
    assert made["expires_at"]
    assert await status_with(bare_api, made["id"]) == 200
    pass_time(bare_api, 3)
    assert await status_with(bare_api, made["id"]) == 401


@pytest.mark.parametrize("token_id", ["tok_0", "nothing"])
async def test_revoking_what_is_not_there_is_404(bare_api: Api, token_id: str) -> None:
    answer = await bare_api.ask("DELETE", f"/tokens/{token_id}", role="operator")
    assert_refused(answer, 404, f"not found: token {token_id}", "not_found")


async def test_revoking_twice_is_404(bare_api: Api) -> None:
    made = await create(bare_api)
    path = f"/tokens/{made['id']}"
    statuses = [(await bare_api.ask("DELETE", path, role="operator")).status_code for _ in range(2)]
    assert statuses == [200, 404]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "role: field required"),
        ({"role": "admin"}, "role: "),
        ({"role": None}, "role: "),
        ({"role": "viewer", "name": 7}, "name: "),
        ({"role": "viewer", "name": "x" * 201}, "name: "),
        ({"role": "viewer", "expires_in_s": 0}, "expires_in_s: "),
        ({"role": "viewer", "expires_in_s": "60"}, "expires_in_s: "),
        ({"role": "viewer", "expires_in_s": 10**12}, "expires_in_s: "),
    ],
)
async def test_a_token_of_the_wrong_shape_is_400_and_names_the_field(
    bare_api: Api, body: Any, field: str
) -> None:
    answer = await bare_api.post("/tokens", body, role="operator")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"bad request: {field}"), answer.text
