"""Every history that any release has stored leads to the state that it led to then (G3)."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from runtime import events as ev
from runtime.graph import decode_graph
from runtime.plan import Plan
from runtime.state import check_invariants, decode_state, encode_state, fold
from tests.unit.golden_stories import FOLDER, STORIES, write
from tests.unit.machine_driver import folded

FILES = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    told["rows"] = [(row["type"], row["data"], row["created_at"]) for row in told["rows"]]
    told["graph"] = decode_graph(json.dumps(told["graph"]))
    return told


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_history_folds_to_its_state(path):
    told = read(path)
    state = folded(told["graph"], told["rows"])
    check_invariants(state, Plan(told["graph"]))
    assert state == decode_state(json.dumps(told["state"]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_snapshot_at_any_point_of_it_leads_there_too(path):
    told = read(path)
    plan, rows = Plan(told["graph"]), told["rows"]
    end = folded(told["graph"], rows)
    for at in range(1, len(rows)):
        snapshot = decode_state(encode_state(folded(told["graph"], rows[:at])))
        tail = [(ev.decode_event(name, data), time) for name, data, time in rows[at:]]
        assert fold(snapshot, plan, tail) == end


def test_every_event_occurs_in_some_golden_history():
    shown = {name for path in FILES for name, _, _ in read(path)["rows"]}
    assert shown == {kind.__struct_config__.tag for kind in get_args(ev.Event)}


def test_every_story_has_its_file_which_is_never_written_again():
    assert {path.stem for path in FILES} >= STORIES.keys()
    with pytest.raises(FileExistsError):
        write("line")


@pytest.mark.parametrize("name", STORIES)
def test_the_machine_still_tells_the_stories(name):
    """Not its words, which may change with the machine, but what they come to."""
    told, drive = decode_state(json.dumps(read(FOLDER / f"{name}.json")["state"])), STORIES[name]()
    assert (drive.state.status, drive.state.data) == (told.status, told.data)
