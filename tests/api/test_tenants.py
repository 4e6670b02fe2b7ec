"""Tenants over REST: made, listed, changed, suspended and archived, and held to their limits."""

import time
from typing import Any

import pytest

from api import token_uses
from api.auth import REMEMBERED_S, Authenticator
from api.token_uses import TokenUses
from runtime.errors import Unavailable
from tests.fixtures.api import APPROVE, COUNT, OTHER_TENANT, Api, assert_refused, eventually

ACME = {"X-Tenant-Id": OTHER_TENANT}
SUSPENDED = "tenant acme is suspended: it may read, cancel and revoke tokens, nothing else"


async def create(api: Api, tenant_id: str = "initech", **more: Any) -> None:
    body = {"id": tenant_id, "name": "Initech", **more}
    answer = await api.post("/tenants", body, role="operator")
    assert (answer.status_code, answer.json()) == (201, {"tenant_id": tenant_id})
    assert answer.headers["location"] == f"/tenants/{tenant_id}"


async def change(api: Api, tenant_id: str = "initech", **fields: Any) -> None:
    answer = await api.ask("PUT", f"/tenants/{tenant_id}", role="operator", json=fields)
    assert (answer.status_code, answer.json()) == (200, {"tenant_id": tenant_id, "updated": True})


async def shown(api: Api, tenant_id: str = "initech") -> dict[str, Any]:
    answer = await api.get(f"/tenants/{tenant_id}", role="operator")
    assert answer.status_code == 200
    tenant: dict[str, Any] = answer.json()
    assert set(tenant.pop("usage")) == {"month", "tokens", "cost_usd", "executions", "queued"}
    return tenant


def authenticator(api: Api) -> Authenticator:
    found: Authenticator = api.app.state.resources.authenticator
    return found


def pass_time(api: Api, seconds: float) -> None:
    """From now on the replica's clock is ahead by so much."""
    authenticator(api)._clock = lambda: time.time() + seconds


# --- managing them ------------------------------------------------------------------------------


async def test_a_tenant_is_made_and_shown(bare_api: Api) -> None:
    await create(bare_api)

    tenant = await shown(bare_api)
    assert tenant.pop("created_at") == tenant.pop("updated_at")
    assert tenant == {"id": "initech", "name": "Initech", "status": "active", "policy": {}, "limits": {}}


async def test_a_second_tenant_of_one_id_is_a_conflict(bare_api: Api) -> None:
    for tenant_id in ("default", OTHER_TENANT):
        answer = await bare_api.post("/tenants", {"id": tenant_id, "name": "x"}, role="operator")
        assert_refused(answer, 409, f"conflict: tenant '{tenant_id}' exists already", "conflict")


async def test_tenants_are_listed_by_pages(bare_api: Api) -> None:
    await create(bare_api)
    answer = (await bare_api.get("/tenants", role="operator")).json()
    assert [tenant["id"] for tenant in answer["tenants"]] == ["acme", "default", "initech"]
    assert (answer["total"], answer["limit"], answer["offset"]) == (3, 50, 0)
    answer = (await bare_api.get("/tenants?limit=1&offset=1", role="operator")).json()
    assert [tenant["id"] for tenant in answer["tenants"]] == ["default"]
    assert answer["total"] == 3


async def test_a_change_changes_the_fields_given_and_nothing_else(bare_api: Api) -> None:
    await create(bare_api, limits={"max_workflows": 3})
    await change(bare_api, name="Initech Inc.")
    await change(bare_api, status="suspended")
    await change(bare_api, policy={}, name=None, limits=None)
    await change(bare_api)
    tenant = await shown(bare_api)
    assert (tenant["name"], tenant["status"]) == ("Initech Inc.", "suspended")
    assert tenant["limits"] == {"max_workflows": 3}
    await change(bare_api, limits={"max_workflows": None})
    assert (await shown(bare_api))["limits"] == {}


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_an_unknown_tenant_is_404(bare_api: Api, method: str) -> None:
    answer = await bare_api.ask(method, "/tenants/nobody", role="operator", json={"name": "x"})
    assert_refused(answer, 404, "not found: tenant nobody", "not_found")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "name: "),
        ({"name": 7}, "name: "),
        ({"name": "x" * 201}, "name: "),
        ({"policy": []}, "policy: "),
        ({"policy": {"allow": []}}, "policy: object contains unknown field `allow`"),
        ({"limits": 7}, "limits: "),
        ({"limits": {"max_workflows": "7"}}, "limits.max_workflows: "),
        ({"limits": {"max_workflows": True}}, "limits.max_workflows: "),
        ({"limits": {"max_workflows": -1}}, "limits.max_workflows: "),
        (
            {"limits": {"max_workflows": 1, "max_tokens_per_day": 9}},
            "limit max_tokens_per_day is not",
        ),
        ({"limits": {"bogus": None}}, "limit bogus is not supported"),
    ],
)
async def test_what_cannot_be_is_400_and_named(bare_api: Api, fields: dict[str, Any], said: str) -> None:
    kept = await shown(bare_api, OTHER_TENANT)
    for method, path in (("POST", "/tenants"), ("PUT", f"/tenants/{OTHER_TENANT}")):
        body = {"id": "initech", "name": "Initech", **fields}
        answer = await bare_api.ask(method, path, role="operator", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"bad request: {said}"), answer.text
    assert await shown(bare_api, OTHER_TENANT) == kept
    assert (await bare_api.get("/tenants", role="operator")).json()["total"] == 2


@pytest.mark.parametrize("status", ["closed", "", 1])
async def test_an_unknown_status_is_400(bare_api: Api, status: Any) -> None:
    answer = await bare_api.ask("PUT", f"/tenants/{OTHER_TENANT}", role="operator", json={"status": status})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("bad request: status: ")


@pytest.mark.parametrize("tenant_id", ["", "-a", "a b", "a/b", "é", "x" * 65, 7, None])
async def test_an_id_that_no_path_or_header_holds_is_400(bare_api: Api, tenant_id: Any) -> None:
    answer = await bare_api.post("/tenants", {"id": tenant_id, "name": "x"}, role="operator")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("bad request: id: ")


@pytest.mark.parametrize("status", ["suspended", "archived"])
async def test_the_default_tenant_stays_active(bare_api: Api, status: str) -> None:
    answer = await bare_api.ask("PUT", "/tenants/default", role="operator", json={"status": status})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("bad request: status: tenant default stays active")
    await change(bare_api, "default", status="active", name="Main")


# --- acting in another --------------------------------------------------------------------------


async def test_an_operator_of_default_acts_in_another_tenant(api: Api) -> None:
    made = await api.post("/workflows", {"ir": COUNT}, role="operator", headers=ACME)
    assert made.status_code == 201
    answer = await api.post(
        "/executions", {"workflow_id": "count", "input": {"n": 4}}, role="operator", headers=ACME
    )
    execution_id = answer.json()["execution_id"]
    assert (await api.settled(execution_id, role="other-viewer"))["state"] == {"n": 5}
    assert (await api.get(f"/executions/{execution_id}", role="operator")).status_code == 404
    assert (await api.get(f"/executions/{execution_id}", role="operator", headers=ACME)).status_code == 200


async def test_the_first_token_of_a_tenant_is_made_by_default(bare_api: Api) -> None:
    await create(bare_api)
    headers = {"X-Tenant-Id": "initech"}
    made = (await bare_api.post("/tokens", {"role": "operator"}, role="operator", headers=headers)).json()
    assert made["tenant_id"] == "initech"
    bare_api.tokens["first"] = made["token"]
    listed = (await bare_api.get("/tokens", role="first")).json()["tokens"]
    assert [token["id"] for token in listed] == [made["id"]]


async def test_ones_own_tenant_may_be_named_by_everybody(bare_api: Api) -> None:
    for role in ("viewer", "operator"):
        answer = await bare_api.get("/executions", role=role, headers={"X-Tenant-Id": "default"})
        assert answer.status_code == 200
        assert (await bare_api.get("/executions", role=f"other-{role}", headers=ACME)).status_code == 200


async def test_a_tenant_that_was_just_made_is_known_at_once(bare_api: Api) -> None:
    headers = {"X-Tenant-Id": "initech"}
    assert (await bare_api.get("/executions", role="operator", headers=headers)).status_code == 404
    await create(bare_api)
    assert (await bare_api.get("/executions", role="operator", headers=headers)).status_code == 200


async def test_without_authentication_the_header_names_the_tenant_too(bare_api: Api) -> None:
    settings = bare_api.settings.__class__(dev_mode=True)
    bare_api.rebuild(settings=settings)
    names = (await bare_api.get("/tokens", role=None, headers=ACME)).json()["tokens"]
    assert {token["tenant_id"] for token in names} == {OTHER_TENANT}


# --- suspended and archived ---------------------------------------------------------------------


async def test_a_suspended_tenant_reads_and_cancels_within_five_seconds(api: Api) -> None:
    await api.register(APPROVE, role="other-developer")
    execution_id = await api.start("approve", role="other-developer")
    await api.settled(execution_id, role="other-developer")
    await change(api, OTHER_TENANT, status="suspended")
    assert REMEMBERED_S < 5
    pass_time(api, 5)

    for path, body in (
        ("/executions", {"workflow_id": "approve"}),
        (f"/executions/{execution_id}/approve", {"decision": "approved"}),
        ("/workflows", {"ir": COUNT}),
    ):
        for role, headers in (("other-operator", {}), ("operator", ACME)):
            answer = await api.post(path, body, role=role, headers=headers)
            assert_refused(answer, 403, SUSPENDED, "forbidden")
    assert (await api.get(f"/executions/{execution_id}", role="other-viewer")).json()["status"] == "paused"
    assert (await api.get("/executions", role="other-viewer")).json()["total"] == 1
    answer = await api.post(f"/executions/{execution_id}/cancel", role="other-developer")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_a_tenant_comes_back_within_five_seconds(bare_api: Api) -> None:
    changes = (("suspended", 403), ("active", 201), ("archived", 401), ("active", 201))
    for number, (status, answered) in enumerate(changes, 1):
        await change(bare_api, OTHER_TENANT, status=status)
        pass_time(bare_api, 5 * number)
        answer = await bare_api.post("/tokens", {"role": "viewer"}, role="other-operator")
        assert answer.status_code == answered, answer.text


async def test_an_archived_tenants_tokens_are_invalid(bare_api: Api) -> None:
    assert (await bare_api.get("/executions", role="other-viewer")).status_code == 200
    await change(bare_api, OTHER_TENANT, status="archived")
    pass_time(bare_api, 5)
    answer = await bare_api.get("/executions", role="other-viewer")
    assert_refused(answer, 401, "invalid or expired token", "unauthorized")
    assert (await bare_api.get("/executions", role="operator", headers=ACME)).status_code == 200


async def test_many_requests_ask_the_store_once(bare_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("credential", "tenant_row"):
        monkeypatch.setattr(bare_api.store.system, name, counted(bare_api, name, asked))
    bare_api.tokens["unknown"] = "jj_" + "0" * 64
    for _ in range(5):
        await bare_api.get("/executions", role="operator")
        await bare_api.get("/executions", role="operator", headers=ACME)
        await bare_api.get("/executions", role="unknown")
    assert sorted(asked) == ["credential", "credential", "tenant_row"]


def counted(api: Api, name: str, asked: list[str]) -> Any:
    real = getattr(api.store.system, name)

    async def ask(key: str) -> Any:
        asked.append(name)
        return await real(key)

    return ask


# --- limits -------------------------------------------------------------------------------------


async def test_a_workflow_over_the_limit_is_429_and_names_it(bare_api: Api) -> None:
    await change(bare_api, OTHER_TENANT, limits={"max_workflows": 1})
    await bare_api.register(COUNT, {**COUNT, "version": "2.0.0"}, role="other-developer")

    answer = await bare_api.post("/workflows", {"ir": APPROVE}, role="other-developer")

    said = "limit reached: tenant 'acme' has reached max_workflows, which is 1"
    assert_refused(answer, 429, said, "limit_reached")
    assert answer.json()["limit"] == "max_workflows"
    assert int(answer.headers["retry-after"]) > 0
    await bare_api.register(COUNT, APPROVE)


# --- the last use of tokens ---------------------------------------------------------------------


async def last_uses(api: Api) -> dict[str, str | None]:
    listed = (await api.get("/tokens", role="operator")).json()["tokens"]
    return {token["name"].removeprefix("the "): token["last_used_at"] for token in listed}


async def test_the_last_use_of_a_token_is_shown(bare_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_uses, "GATHER_S", 0.01)
    for role in ("viewer", "developer", "viewer"):
        await bare_api.get("/executions", role=role)

    async def both() -> bool:
        uses = await last_uses(bare_api)
        return bool(uses["viewer"] and uses["developer"])

    await eventually(both)
    assert (await last_uses(bare_api))["reviewer"] is None


async def test_a_refused_token_is_not_used(bare_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_uses, "GATHER_S", 0.0)
    bare_api.tokens["expired"] = await bare_api.create_token("expired", "viewer", expires_at=1)
    assert (await bare_api.get("/executions", role="expired")).status_code == 401
    await authenticator(bare_api).close()
    assert (await last_uses(bare_api))["expired"] is None


class Batches:
    """A store that keeps what it is told, or is down."""

    def __init__(self) -> None:
        self.told: list[set[str]] = []
        self.is_down = False

    async def mark_tokens_used(self, token_ids: tuple[str, ...]) -> None:
        if self.is_down:
            raise Unavailable("the database is not there")
        self.told.append(set(token_ids))


async def test_uses_are_written_together_and_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_uses, "GATHER_S", 0.01)
    store = Batches()
    uses = TokenUses(store)  # type: ignore[arg-type]
    for _ in range(100):
        uses.note("a")
        uses.note("b")
    await uses._writing  # type: ignore[misc]
    uses.note("a")
    uses.note("c")
    await uses.close()
    assert store.told == [{"a", "b"}, {"c"}]

    monkeypatch.setattr(token_uses, "EVERY_S", 0.0)
    uses.note("a")
    await uses.close()
    assert store.told[2:] == [{"a"}]


async def test_a_store_that_is_down_loses_a_use_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(token_uses, "GATHER_S", 0.0)
    store = Batches()
    uses = TokenUses(store)  # type: ignore[arg-type]
    store.is_down = True
    uses.note("a")
    await uses._writing  # type: ignore[misc]
    assert "the last use of 1 tokens was not written" in caplog.text
    store.is_down = False
    uses.note("b")
    await uses.close()
    assert store.told == [{"b"}]
