"""Health, and what is answered while the store is down."""

from typing import Any

import pytest

from actors.settings import VERSION
from runtime.errors import OutcomeUnknown, Unavailable
from runtime.store import Store
from runtime.store.faulty import FaultyStore
from tests.fixtures.api import COUNT, Api, assert_error_shape, assert_refused, eventually

HEALTHY = {"status": "ok", "version": VERSION}


class Down:
    """A store of which nothing answers, but who the caller is where ``tokens`` are given."""

    tenant_id = "default"

    def __init__(self, error: type[Unavailable] = Unavailable, *, tokens: Store | None = None) -> None:
        self._error = error
        self.journal = self.system = self
        if tokens is not None:
            self.credential = tokens.system.credential

    def tenant(self, tenant_id: str, by: object = None) -> "Down":
        return self

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_: object, **__: object) -> Any:
            raise self._error("the database is not there")

        return refuse


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_everybody_may_ask_for_health(bare_api: Api, path: str) -> None:
    answer = await bare_api.get(path, role=None)
    assert (answer.status_code, answer.json()) == (200, HEALTHY)


async def test_without_its_store_the_process_is_healthy_but_not_ready(bare_api: Api) -> None:
    bare_api.rebuild(store=Down())
    for path in ("/health", "/health/live"):
        assert (await bare_api.get(path, role=None)).json() == HEALTHY
    answer = await bare_api.get("/health/ready", role=None)
    assert_refused(answer, 503, "unavailable: the database is not there", "unavailable")


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/workflows", None),
    ("GET", "/workflows/count", None),
    ("POST", "/workflows", {"ir": COUNT}),
    ("GET", "/executions", None),
    ("POST", "/executions", {"workflow_id": "count"}),
    ("GET", "/executions/exec_1", None),
    ("GET", "/executions/exec_1/events", None),
    ("GET", "/executions/exec_1/approvals", None),
    ("POST", "/executions/exec_1/cancel", None),
    ("POST", "/executions/exec_1/approve", {"decision": "approved"}),
    ("POST", "/executions/exec_1/external-event", {"correlation_key": "k", "payload": {}}),
    ("GET", "/workers", None),
    ("GET", "/tokens", None),
    ("POST", "/tokens", {"role": "viewer"}),
    ("DELETE", "/tokens/tok_1", None),
]


@pytest.mark.parametrize("knows_tokens", [False, True], ids=["all of it", "all but the tokens"])
async def test_without_its_store_every_route_is_503_with_retry_after(
    bare_api: Api, knows_tokens: bool
) -> None:
    store = Down(tokens=bare_api.store if knows_tokens else None)
    bare_api.rebuild(store=store)
    for method, path, body in REQUESTS:
        answer = await bare_api.ask(method, path, role="operator", json=body)
        assert_refused(answer, 503, "unavailable: the database is not there", "unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_an_unknown_outcome_says_so(bare_api: Api) -> None:
    bare_api.rebuild(store=Down(OutcomeUnknown))
    answer = await bare_api.get("/executions")
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")


async def test_a_store_that_always_fails_somehow_is_never_a_500(api: Api) -> None:
    faulty = FaultyStore(api.store, seed=7, rate=1.0)
    api.rebuild(store=faulty)
    seen = set()
    for _ in range(3):
        for method, path, body in REQUESTS:
            answer = await api.ask(method, path, role="operator", json=body)
            seen.add(answer.status_code)
            if answer.status_code == 503:
                assert_error_shape(answer)
                assert answer.headers["retry-after"]
    assert seen <= {200, 201, 400, 404, 503}
    assert 503 in seen


async def test_with_one_key_a_start_gets_through_a_store_that_mostly_fails(api: Api) -> None:
    faulty = FaultyStore(api.store, seed=7, rate=0.5)
    api.rebuild(store=faulty)

    async def start() -> Any:
        answer = await api.post(
            "/executions", {"workflow_id": "count"}, headers={"Idempotency-Key": "persistent"}
        )
        return answer if answer.status_code != 503 else None

    answers = [await eventually(start) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
