"""Who may call what. The matrix is made from the app's own routes."""

import time
from typing import Any, get_args

import httpx2
import pytest

from actors.settings import Settings
from api.auth import ALLOWED, Access
from api.routing import router
from tests.fixtures.api import ROLES, Api, assert_error_shape, assert_refused
from tests.fixtures.routes import BODIES, INVALID, PROTECTED, ROUTES, TOO_LOW, call, filled

# --- the matrix ---------------------------------------------------------------------------------


def test_every_route_declares_who_may_call_it() -> None:
    assert len(ROUTES) >= 20
    assert {access for _, _, access in ROUTES} == set(get_args(Access))
    public = {path for _, path, access in ROUTES if access == "public"}
    cards = ("did.json", "agent.json", "agent-card.json")
    documents = {f"/.well-known/{name}" for name in cards}
    assert public == {"/health", "/health/live", "/health/ready", "/docs", *documents}


@pytest.mark.parametrize("extra", [None, {}, {"x-access": "everybody"}])
def test_a_route_that_does_not_declare_it_cannot_be_made(extra: dict[str, Any] | None) -> None:
    async def handler() -> None: ...

    with pytest.raises((KeyError, AssertionError)):
        router("careless").add_api_route("/careless", handler, openapi_extra=extra)


def test_whatever_writes_needs_more_than_reading() -> None:
    for method, path, access in PROTECTED:
        # These write nothing themselves: they ask other routes, which authorise their caller again.
        outer = path in ("/mcp", "/a2a")
        assert (access == "read") <= (method in ("GET", "HEAD") or outer), f"{method} {path}"


async def test_every_role_reaches_exactly_what_is_declared(bare_api: Api) -> None:
    for method, path, access in PROTECTED:
        for role in ROLES:
            answer = await call(bare_api, method, path, role=role)
            where = f"{role} {method} {path}: {answer.text}"
            if role in ALLOWED[access]:
                assert answer.status_code in (200, 201, 400, 404), where
            else:
                assert answer.status_code == 403, where
                assert_refused(answer, 403, TOO_LOW[access], "forbidden")


BAD_HEADERS = {
    "none": None,
    "empty": "",
    "no scheme": "{token}",
    "another scheme": "Basic {token}",
    "no token": "Bearer",
    "no token after a space": "Bearer ",
    "malformed": "Bearer jj_1234",
    "in capitals": "Bearer {TOKEN}",
    "with more": "Bearer {token}0",
    "two": "Bearer {token} {token}",
    "not of ours": "Bearer ghp_0123456789abcdef",
    "unknown": "Bearer jj_" + "0" * 64,
    "revoked": "Bearer {revoked}",
    "expired": "Bearer {expired}",
}


async def test_without_a_valid_token_every_protected_route_is_401(
    bare_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.attempts.FAILED_MAX", 10_000)
    now = int(time.time() * 1_000)
    tokens = {
        "token": bare_api.tokens["operator"],
        "TOKEN": bare_api.tokens["operator"].upper(),
        "revoked": await bare_api.create_token("revoked", "operator", revoked_at=now - 1),
        "expired": await bare_api.create_token("expired", "operator", expires_at=now - 1),
    }
    for method, path, _ in PROTECTED:
        for name, header in BAD_HEADERS.items():
            headers = {} if header is None else {"Authorization": header.format(**tokens)}
            answer = await call(bare_api, method, path, role=None, headers=headers)
            assert answer.status_code == 401, f"{name}: {method} {path}: {answer.text}"
            assert_refused(answer, 401, INVALID, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["bearer {}", "BEARER {}", "Bearer  {}"])
async def test_the_scheme_is_read_as_http_defines_it(bare_api: Api, header: str) -> None:
    headers = {"Authorization": header.format(bare_api.tokens["viewer"])}
    assert (await bare_api.get("/executions", role=None, headers=headers)).status_code == 200


async def test_who_is_refused_changes_nothing(api: Api) -> None:
    execution_id = await api.paused("approve")
    before = await api.events(execution_id)
    for role in ("reviewer", "viewer"):
        for path in ("cancel", "approve"):
            answer = await api.post(f"/executions/{execution_id}/{path}", {"decision": "approved"}, role=role)
            assert answer.status_code == 403
    assert await api.events(execution_id) == before


async def test_the_caller_is_checked_before_the_body_is_read(bare_api: Api) -> None:
    answer = await bare_api.post("/executions", role="viewer", content=b"{", headers={"Content-Type": "a/b"})
    assert answer.status_code == 403


# --- tenants ------------------------------------------------------------------------------------


async def test_anothers_execution_is_like_an_unknown_one(api: Api) -> None:
    theirs = await api.paused("approve")
    unknown = "exec_" + "0" * 32
    for method, path, _ in PROTECTED:
        if "{execution_id}" not in path:
            continue
        answers = [
            await api.ask(method, filled(path, execution_id), role="other-operator", json=BODIES.get(path))
            for execution_id in (theirs, unknown)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], path
        assert_refused(answers[0], 404, f"not found: execution {theirs}", "not_found")
        assert _told(answers[0], theirs) == _told(answers[1], unknown)
    assert (await api.settled(theirs))["status"] == "paused"


def _told(answer: httpx2.Response, execution_id: str) -> tuple[Any, set[str]]:
    """All that an answer tells, but for the id that was asked for and what differs each time."""
    body = {**answer.json(), "request_id": ""}
    return str(body).replace(execution_id, "ID"), set(answer.headers.keys())


async def test_another_tenants_workflow_is_like_an_unknown_one(api: Api) -> None:
    for path in ("/workflows/count", "/workflows/count/versions/1.0.0"):
        answer = await api.get(path, role="other-operator")
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("not found: workflow count")
    answer = await api.post("/executions", {"workflow_id": "count"}, role="other-operator")
    assert_refused(answer, 404, "not found: workflow count", "not_found")


async def test_lists_show_a_tenant_only_its_own(api: Api) -> None:
    await api.start("count")
    for path, key in (("/executions", "executions"), ("/workflows", "workflows")):
        answer = (await api.get(path, role="other-operator")).json()
        assert (answer[key], answer["total"]) == ([], 0)
    names = {token["name"] for token in (await api.get("/tokens", role="other-operator")).json()["tokens"]}
    assert names == set(ROLES)


async def test_two_tenants_may_use_one_workflow_id(api: Api) -> None:
    await api.register({**EMPTY, "workflow_id": "count"}, role="other-developer")
    ours = await api.start("count", n=1)
    theirs = await api.start("count", role="other-developer", n=1)
    assert (await api.settled(ours))["state"] == {"n": 2}
    assert (await api.settled(theirs, role="other-developer"))["state"] == {"n": 1}


EMPTY: dict[str, Any] = {"version": "1.0.0", "nodes": {"x": {"kind": {"type": "parallel"}}}}
"""A workflow that does nothing, but for its id."""


async def test_an_idempotency_key_belongs_to_its_tenant(api: Api) -> None:
    await api.register({**EMPTY, "workflow_id": "count"}, role="other-developer")
    answers = [
        await api.post("/executions", {"workflow_id": "count"}, role=role, headers={"Idempotency-Key": "k"})
        for role in ("developer", "other-developer")
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() != answers[1].json()


async def test_another_tenants_token_cannot_be_revoked(bare_api: Api) -> None:
    [ours] = [
        token["id"]
        for token in (await bare_api.get("/tokens", role="operator")).json()["tokens"]
        if token["name"] == "the viewer"
    ]
    answer = await bare_api.ask("DELETE", f"/tokens/{ours}", role="other-operator")
    assert_refused(answer, 404, f"not found: token {ours}", "not_found")
    assert (await bare_api.get("/executions", role="viewer")).status_code == 200


# --- without authentication ---------------------------------------------------------------------

LOCAL_HOSTS = ["localhost", "localhost:7700", "LOCALHOST:1", "127.0.0.1", "127.3.4.5:80", "[::1]:7700"]
FOREIGN_HOSTS = [
    "example.com",
    "localhost.example.com",
    "127.0.0.1.example.com",
    "0.0.0.0",
    "192.168.1.2:7700",
    "[::2]",
    "rebinding_site.example:7700",
]


@pytest.fixture
def dev_api(bare_api: Api) -> Api:
    settings = Settings(dev_mode=True, python_modules=("steps",))
    bare_api.rebuild(settings=settings)
    return bare_api


@pytest.mark.parametrize("host", LOCAL_HOSTS)
async def test_dev_mode_needs_no_token_at_a_local_address(dev_api: Api, host: str) -> None:
    for headers in ({"Host": host}, {"Host": host, "Authorization": "Bearer nonsense"}):
        answer = await dev_api.get("/tokens", role=None, headers=headers)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_dev_mode_refuses_whoever_comes_by_another_name(dev_api: Api, host: str) -> None:
    for role in (None, "operator"):
        answer = await dev_api.get("/executions", role=role, headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("authentication is off, so only localhost may be addressed")
    assert (await dev_api.get("/health", role=None, headers={"Host": host})).status_code == 200


async def test_dev_mode_reads_no_body_that_a_foreign_page_may_send(dev_api: Api) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": media_type}
        for method, path, _ in PROTECTED:
            if BODIES.get(path) is not None and method != "GET":
                answer = await dev_api.ask(method, filled(path), role=None, content=b"{}", headers=headers)
                assert answer.status_code == 415, path
                assert_error_shape(answer)
