"""What crosses between a client and an ExecutionActor comes out as it went in."""

import pytest

from actors import wire
from actors.host import Redirect
from actors.port import KeyTaken, SignalRequest, StartRequest
from runtime import errors
from runtime.signals import Approve, Cancel, SendEvent
from runtime.store.port import IdempotencyRecord

RECORD = IdempotencyRecord(
    key="k", route="POST /executions", fingerprint="f", status=201, body="{}", expires_at=7
)
START = StartRequest(
    tenant_id="t",
    execution_id="exec_1",
    workflow_id="w",
    workflow_version="1.0.0",
    input={"n": 2**63, "ü": [None, 0.5, {}]},
    isolation="dedicated",
    resources={"num_gpus": 0.5},
    idempotency=RECORD,
)
SIGNALS = (
    Approve(signal_id="s", decision="rejected", user_id="ann", node_id="gate", state_patch={"x": None}),
    SendEvent(signal_id="s", correlation_key="k", payload=[1, None, "ü"], size=12),
    Cancel(signal_id="s", reason="changed my mind"),
)


def test_a_batch_of_requests_crosses():
    signals = [
        SignalRequest(tenant_id="t", execution_id="exec_1", signal=signal, deadline=7) for signal in SIGNALS
    ]
    delivery = wire.Delivery(
        sender="replica#1", starts=[(1, START)], signals=list(enumerate(signals, start=2))
    )
    assert wire.decode_delivery(wire.encode(delivery)) == delivery


def test_answers_cross():
    answers = [wire.success(1, {"accepted": True}), wire.Answer(number=2, code=wire.PENDING)]
    assert wire.decode_answers(wire.encode(answers)) == answers


def test_moves_cross():
    moves = wire.Moves(cursor=7, moves=[("exec_1", 3, True)], reset=True, live=12)
    assert wire.decode_moves(wire.encode(moves)) == moves


@pytest.mark.parametrize(
    "error",
    [
        errors.Conflict("node gate is not waiting", node_id="gate"),
        errors.NotFound("execution exec_1"),
        errors.BadRequest("multiple approvals pending"),
        errors.ValueRejected("the payload is not JSON"),
        errors.Unavailable("the store", retry_after_s=2),
        errors.OutcomeUnknown("who knows"),
        KeyTaken("taken"),
        Redirect("moved away", owner="actor#2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_as_its_class_with_its_fields(error):
    (answer,) = wire.decode_answers(wire.encode([wire.failure(3, error)]))
    back = wire.raised(answer)
    assert isinstance(back, type(error))
    assert (answer.number, back.code, back.detail, back.fields) == (3, error.code, error.detail, error.fields)


def test_of_an_unexpected_error_only_the_class_crosses_and_the_outcome_is_unknown():
    back = wire.raised(wire.failure(3, RuntimeError("secret")))
    assert type(back) is errors.OutcomeUnknown
    assert back.detail == "internal error: RuntimeError"


def test_a_code_that_nobody_knows_is_an_unknown_outcome():
    assert type(wire.raised(wire.Answer(number=1, code="from_the_future"))) is errors.OutcomeUnknown
