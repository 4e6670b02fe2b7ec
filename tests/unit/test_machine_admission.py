"""Status x signal: every pair is in the table, behaves as it says, and is told in ARCHITECTURE.md."""

from pathlib import Path
from typing import Any, get_args

import pytest

from runtime import signals as sg
from runtime.admission_table import admission_table
from runtime.errors import Conflict
from runtime.graph import HumanApprovalNode, LimitExceededNode
from runtime.machine import ADMISSION
from runtime.state import Status
from tests.unit.machine_driver import Driver, graph_of

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
BEGIN, END = "<!-- admission-table -->", "<!-- /admission-table -->"

STATUSES: tuple[Status, ...] = get_args(Status)
SIGNALS: tuple[type, ...] = get_args(sg.Signal)


def execution_in(status: str) -> Driver:
    """One that has come to this status; ``gate`` waits or waited, ``a`` runs or ran."""
    nodes = (HumanApprovalNode(id="gate"), LimitExceededNode(id="stop"))
    graph = graph_of("a>gate", "gate>end", "gate>stop if state.stop", nodes=nodes)
    drive = Driver(graph)
    drive.start()
    if status != "running":
        drive.ok("a")
    if status == "cancelled":
        drive.cancel()
    elif status == "completed":
        drive.approve()
    elif status == "failed":
        drive.approve("rejected")
    elif status == "limit_exceeded":
        drive.approve(state_patch={"stop": True})
    assert drive.status == status
    return drive


SENT: dict[type, list[Any]] = {
    sg.StartExecution: [sg.StartExecution(input={})],
    sg.Recover: [sg.Recover()],
    sg.Hold: [sg.Hold()],
    sg.Release: [sg.Release(reason="slot"), sg.Release(reason="tenant")],
    sg.Tick: [sg.Tick()],
    sg.Approve: [
        sg.Approve(signal_id="s", decision=decision, user_id="u", node_id=node_id)
        for decision in ("approved", "rejected")
        for node_id in (None, "gate")
    ],
    sg.SendEvent: [sg.SendEvent(signal_id="s", correlation_key="k")],
    sg.Cancel: [sg.Cancel(signal_id="s")],
    sg.NodeSucceeded: [sg.NodeSucceeded(node_id="a", visit=1, attempt=1)],
    sg.NodeErrored: [
        sg.NodeErrored(node_id="a", visit=1, attempt=1, error="e", error_class=name)
        for name in ("io_error", "worker_lost")
    ],
}
"""Of each kind, those that could fit."""

FITS = {
    "running": {sg.Recover, sg.Hold, sg.SendEvent, sg.Cancel, sg.NodeSucceeded, sg.NodeErrored},
    "paused": {sg.Approve, sg.Hold, sg.SendEvent, sg.Cancel},
}
"""Where a signal is accepted and something comes of it, with the workflow above."""


def test_the_table_has_every_status_and_every_signal():
    assert set(ADMISSION) == set(STATUSES)
    for row in ADMISSION.values():
        assert set(row) == set(SIGNALS)


@pytest.mark.parametrize("kind", SIGNALS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("status", STATUSES)
def test_every_signal_behaves_as_the_table_says(status, kind):
    admission = ADMISSION[status][kind]
    for signal in SENT[kind]:
        drive = execution_in(status)
        before = len(drive.rows)
        if admission == "refuse":
            with pytest.raises(Conflict):
                drive.send(signal)
        elif kind is sg.Approve and status == "running":
            with pytest.raises(Conflict, match="not waiting for an approval"):
                drive.send(signal)
        else:
            drive.send(signal)
            assert drive.last is not None
            assert drive.last.ignored == (kind not in FITS.get(status, ()))
        changed = admission == "accept" and kind in FITS.get(status, ())
        assert (len(drive.rows) > before) == changed


@pytest.mark.parametrize("status", STATUSES)
def test_what_has_not_ended_can_be_cancelled(status):
    drive = execution_in(status)
    if status in ("running", "paused"):
        assert drive.cancel()[-1].startswith(("WorkflowCancelled", "stop"))
        assert drive.status == "cancelled"
    else:
        with pytest.raises(Conflict, match=f"is already in terminal state: {status}"):
            drive.cancel()


@pytest.mark.parametrize("status", STATUSES)
def test_an_execution_starts_once(status):
    with pytest.raises(Conflict, match="exec_1 exists already"):
        execution_in(status).start()


def test_the_table_in_architecture_md_is_the_generated_one():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    told = text.partition(BEGIN)[2].partition(END)[0].strip()
    wanted = admission_table()
    assert told == wanted, f"put this between the markers in {ARCHITECTURE.name}:\n\n{wanted}"
