"""The machine on graphs without loops: what runs, what is skipped, what becomes of a result."""

import pytest

from runtime import events as ev
from runtime import jsonvalue
from runtime import signals as sg
from runtime.effects import RunNode
from runtime.graph import ConditionNode, ModelNode, ParallelNode
from tests.unit.machine_driver import EXECUTION_ID, NOW, Driver, graph_of, step

SPLIT = ParallelNode(id="split")
ROUTE = ConditionNode(id="route")


def test_a_line_runs_one_step_after_the_other():
    drive = Driver(graph_of("a>b", "b>end"))
    assert drive.start(q=1) == ["WorkflowStarted", "NodeScheduled a", "NodeStarted a#1", "run a#1"]
    assert drive.status == "running"
    assert drive.ok("a") == ["NodeCompleted a", "NodeScheduled b", "NodeStarted b#1", "run b#1"]
    assert drive.ok("b") == ["NodeCompleted b", "WorkflowCompleted"]
    assert (drive.status, drive.state.steps, drive.state.completed_at) == ("completed", 2, NOW)


def test_the_first_turn_exactly():
    node = step("a", input_mapping={"n": "{{ state.q + 1 }}"}, timeout_ms=500)
    drive = Driver(graph_of("a>end", nodes=(node,), timeout_ms=60_000))
    drive.start(q=1)
    assert drive.last is not None
    assert drive.last.events == (
        ev.WorkflowStarted(
            workflow_id="w", workflow_version="1.0.0", initial_input={"q": 1}, timeout_at=NOW + 60_000
        ),
        ev.NodeScheduled(node_id="a", visit=1, queue_type="python_tool"),
        ev.NodeStarted(node_id="a", visit=1, attempt=1, input={"n": 2}),
    )
    assert drive.last.effects == (
        RunNode(node=node, visit=1, attempt=1, input={"n": 2}, state={"q": 1}, key=f"{EXECUTION_ID}:a:1"),
    )


def test_a_node_without_edges_ends_the_execution():
    drive = Driver(graph_of(nodes=(step("only"),)))
    drive.start()
    assert drive.ok("only") == ["NodeCompleted only", "WorkflowCompleted"]


def test_a_model_gets_its_prompt_rendered():
    node = ModelNode(id="m", provider="scripted", model="x", prompt="Hi {{ state.name }}", output_key="said")
    drive = Driver(graph_of("m>end", nodes=(node,)))
    drive.start(name="Ann")
    assert drive.events(ev.NodeScheduled)[0].queue_type == "model"
    assert drive.state.node("m").input == {"prompt": "Hi Ann", "system_prompt": None}
    drive.ok("m", "hello")
    assert drive.data == {"name": "Ann", "said": "hello"}


def test_what_a_template_misses_is_noted_on_the_attempt():
    node = step("a", input_mapping={"x": "{{ state.gone }}"})
    drive = Driver(graph_of("a>end", nodes=(node,)))
    drive.start()
    started = drive.events(ev.NodeStarted)[0]
    assert started.input == {"x": None}
    assert started.warnings == ("state.gone is undefined",)


def test_templates_read_the_environment_the_execution_and_the_node():
    node = step("a", input_mapping={"x": "{{ env.REGION }} {{ execution.id }} {{ node.id }}"})
    drive = Driver(graph_of("a>end", nodes=(node,)), env={"REGION": "north"})
    drive.start()
    assert drive.state.node("a").input == {"x": f"north {EXECUTION_ID} a"}


def test_a_template_that_cannot_be_rendered_fails_its_node():
    big = "{{ state.text ~ state.text }}"
    drive = Driver(graph_of("a>end", "a>b error", nodes=(step("a", input_mapping={"x": big}),)))
    assert drive.start(text="x" * 200_000) == [
        "WorkflowStarted",
        "NodeScheduled a",
        "NodeStarted a#1",
        "NodeFailed a template_error",
        "NodeScheduled b",
        "NodeStarted b#1",
        "run b#1",
    ]


# --- fan-out and AND-join -------------------------------------------------------------------------


def test_branches_run_side_by_side_and_meet():
    drive = Driver(graph_of("split>a", "split>b", "a>c", "b>c", "c>end", nodes=(SPLIT,)))
    assert drive.start() == [
        "WorkflowStarted",
        "NodeScheduled split",
        "NodeCompleted split",
        "NodeScheduled a",
        "NodeStarted a#1",
        "NodeScheduled b",
        "NodeStarted b#1",
        "run a#1",
        "run b#1",
    ]
    assert drive.ok("b") == ["NodeCompleted b"]
    assert drive.phase("c") == "pending"
    assert drive.ok("a") == ["NodeCompleted a", "NodeScheduled c", "NodeStarted c#1", "run c#1"]


def test_any_node_may_fan_out():
    drive = Driver(graph_of("a>b", "a>c"))
    drive.start()
    assert drive.ok("a")[-2:] == ["run b#1", "run c#1"]


def test_an_end_ends_its_path_and_not_the_others():
    drive = Driver(graph_of("a>end", "a>b"))
    drive.start()
    drive.ok("a")
    assert drive.status == "running"
    assert drive.ok("b") == ["NodeCompleted b", "WorkflowCompleted"]


def test_two_edges_between_the_same_nodes_start_the_target_once():
    drive = Driver(graph_of("a>b ok", "a>b error"))
    drive.start()
    assert drive.ok("a") == ["NodeCompleted a", "NodeScheduled b", "NodeStarted b#1", "run b#1"]


# --- conditions and skips -------------------------------------------------------------------------


def test_an_edge_fires_only_if_its_condition_holds():
    drive = Driver(graph_of("a>b if state.go", "a>c if not state.go"))
    drive.start(go=True)
    assert drive.ok("a") == [
        "NodeCompleted a",
        "NodeScheduled b",
        "NodeStarted b#1",
        "NodeSkipped c",
        "run b#1",
    ]


def test_a_condition_sees_the_state_after_the_result_and_the_output():
    drive = Driver(graph_of("a>b if state.x == 1 and output.y == 2"))
    drive.start()
    drive.ok("a", {"y": 2}, state_patch={"x": 1})
    assert drive.phase("b") == "running"


def test_when_no_edge_fires_the_path_ends():
    drive = Driver(graph_of("a>b if state.go", "b>c"))
    drive.start()
    assert drive.ok("a") == ["NodeCompleted a", "NodeSkipped b", "NodeSkipped c", "WorkflowCompleted"]
    assert (drive.status, drive.state.steps) == ("completed", 1)


def test_a_skip_goes_down_only_where_every_edge_is_dead():
    drive = Driver(graph_of("a>b", "a>c if state.go", "c>d", "b>e", "d>e", "d>f"))
    drive.start()
    assert drive.ok("a") == [
        "NodeCompleted a",
        "NodeScheduled b",
        "NodeStarted b#1",
        "NodeSkipped c",
        "NodeSkipped d",
        "NodeSkipped f",
        "run b#1",
    ]
    assert drive.ok("b") == ["NodeCompleted b", "NodeScheduled e", "NodeStarted e#1", "run e#1"]


def test_edges_of_other_outcomes_are_dead():
    drive = Driver(graph_of("a>b", "a>oops error", "a>late timeout"))
    drive.start()
    assert drive.ok("a") == [
        "NodeCompleted a",
        "NodeScheduled b",
        "NodeStarted b#1",
        "NodeSkipped oops",
        "NodeSkipped late",
        "run b#1",
    ]


@pytest.mark.parametrize(
    ("data", "taken"),
    [({"n": 10}, "high"), ({"n": 5}, "middle"), ({"n": 1}, "low"), ({}, "low")],
)
def test_a_condition_node_takes_its_first_branch_that_holds(data, taken):
    graph = graph_of(
        "route>high branch if state.n > 8",
        "route>middle branch if state.n > 2",
        "route>low branch",
        nodes=(ROUTE,),
    )
    drive = Driver(graph)
    lines = drive.start(**data)
    assert f"run {taken}#1" in lines
    others = {"high", "middle", "low"} - {taken}
    assert {drive.phase(name) for name in others} == {"skipped"}


def test_branches_go_before_the_condition_node_s_other_edges():
    graph = graph_of("route>a if state.x", "route>b", "route>c branch if state.y", nodes=(ROUTE,))
    drive = Driver(graph)
    drive.start(x=True, y=True)
    assert [drive.phase(name) for name in "abc"] == ["skipped", "skipped", "running"]


@pytest.mark.parametrize(("data", "taken"), [({"x": 1}, "a"), ({}, "b")])
def test_a_condition_node_takes_only_the_first_other_edge_that_holds(data, taken):
    graph = graph_of("route>a if state.x", "route>b", "route>c branch if state.y", nodes=(ROUTE,))
    drive = Driver(graph)
    drive.start(**data)
    assert [name for name in "abc" if drive.phase(name) == "running"] == [taken]


def test_a_condition_node_that_takes_nothing_ends_its_path():
    drive = Driver(graph_of("route>a branch if state.x", "a>b", nodes=(ROUTE,)))
    assert drive.start() == [
        "WorkflowStarted",
        "NodeScheduled route",
        "NodeCompleted route",
        "NodeSkipped a",
        "NodeSkipped b",
        "WorkflowCompleted",
    ]


def test_edges_from_unreachable_nodes_are_dead_from_the_start():
    graph = graph_of("a>b", "x>y", "y>b", "x>b", start="a")
    drive = Driver(graph)
    drive.start()
    assert drive.ok("a") == ["NodeCompleted a", "NodeScheduled b", "NodeStarted b#1", "run b#1"]
    assert drive.recover() == ["NodeStarted b#2 recovered", "run b#2"]
    assert drive.ok("b") == ["NodeCompleted b", "WorkflowCompleted"]
    assert (drive.phase("x"), drive.phase("y")) == ("pending", "pending")


# --- results become state -------------------------------------------------------------------------


def test_an_output_is_set_under_its_key_and_nulls_are_kept():
    drive = Driver(graph_of("a>end", nodes=(step("a", output_key="r"),)))
    drive.start(r={"old": 1})
    drive.ok("a", {"x": None})
    assert drive.data == {"r": {"x": None}}


def test_an_output_without_a_key_is_logged_but_not_set():
    drive = Driver(graph_of("a>end"))
    drive.start(q=1)
    drive.ok("a", "said")
    assert drive.data == {"q": 1}
    assert drive.events(ev.NodeCompleted)[0].output == "said"


def test_a_patch_is_merged_before_the_output_is_set():
    drive = Driver(graph_of("a>end", nodes=(step("a", output_key="r"),)))
    drive.start(keep={"x": 1, "y": 2}, gone=1)
    drive.ok("a", 7, state_patch={"keep": {"y": None, "z": 3}, "gone": None, "r": 1})
    assert drive.data == {"keep": {"x": 1, "z": 3}, "r": 7}


def test_of_branches_that_write_one_key_the_last_event_wins():
    drive = Driver(graph_of("a>b", "a>c", nodes=(step("b", output_key="r"), step("c", output_key="r"))))
    drive.start()
    drive.ok("a")
    drive.ok("c", "from c")
    drive.ok("b", "from b")
    assert drive.data == {"r": "from b"}
    assert [e.warnings for e in drive.events(ev.NodeCompleted)[1:]] == [
        (),
        ("state.r was written by c in parallel",),
    ]


@pytest.mark.parametrize(
    ("edges", "merges"),
    [
        (("a>b", "b>c"), {}),
        (("a>b if state.x", "a>c if not state.x"), {}),
        (("a>b", "a>c"), {"r": "append"}),
        (("a>b", "b>c", "c>a if state.x"), {}),
    ],
)
def test_where_nothing_is_overwritten_in_parallel_there_is_no_warning(edges, merges):
    drive = Driver(
        graph_of(*edges, nodes=(step("b", output_key="r"), step("c", output_key="r")), merges=merges)
    )
    drive.start()
    for name in ("a", "b", "c"):
        if drive.phase(name) == "running":
            drive.ok(name, name)
    assert drive.status == "completed"
    assert not any(event.warnings for event in drive.events(ev.NodeCompleted))


def test_parallel_writers_are_warned_of_in_every_round():
    nodes = (SPLIT, step("a", output_key="r"), step("b", output_key="r"))
    drive = Driver(graph_of("split>a", "split>b", "a>t", "b>t", "t>split if state.again", nodes=nodes))
    drive.start(again=True)
    for _ in range(2):
        drive.ok("a")
        assert not drive.events(ev.NodeCompleted)[-1].warnings
        drive.ok("b")
        assert drive.events(ev.NodeCompleted)[-1].warnings == ("state.r was written by a in parallel",)
        drive.ok("t")


def test_keys_that_accumulate():
    nodes = (step("a", output_key="log"), step("b", output_key="log"))
    drive = Driver(graph_of("a>b", nodes=nodes, merges={"log": "append", "sum": "add"}))
    drive.start(sum=1)
    drive.ok("a", "one", state_patch={"sum": 2})
    drive.ok("b", ["two", "three"], state_patch={"sum": 0.5, "log": "patched"})
    assert drive.data == {"sum": 3.5, "log": ["one", "patched", "two", "three"]}


def test_a_sum_that_json_cannot_hold_fails_its_node():
    drive = Driver(
        graph_of("a>end", "a>b error", nodes=(step("a", output_key="sum"),), merges={"sum": "add"})
    )
    drive.start(sum=1e308)
    assert drive.ok("a", 1e308)[0] == "NodeFailed a value_rejected"
    assert drive.data == {"sum": 1e308}
    assert drive.phase("b") == "running"


def test_a_result_that_makes_the_state_too_large_fails_its_node(monkeypatch):
    monkeypatch.setattr(jsonvalue.encode, "__kwdefaults__", {"what": "value", "bytes_max": 40})
    drive = Driver(graph_of("a>b", nodes=(step("a", output_key="r"), step("b", output_key="s"))))
    drive.start()
    drive.measure_state = True
    assert drive.ok("a", "x" * 20)[0] == "NodeCompleted a"
    assert drive.ok("b", "x" * 20) == ["NodeFailed b value_rejected", "WorkflowFailed b"]
    assert "the state is" in drive.state.failure.error
    assert "over the limit of 40" in drive.state.failure.error


def test_the_size_is_only_measured_when_asked_for(monkeypatch):
    monkeypatch.setattr(jsonvalue.encode, "__kwdefaults__", {"what": "value", "bytes_max": 1})
    drive = Driver(graph_of("a>end", nodes=(step("a", output_key="r"),)))
    drive.start()
    assert drive.ok("a", "x" * 20) == ["NodeCompleted a", "WorkflowCompleted"]


def test_telemetry_passes_through():
    told = {
        "duration_ms": 12,
        "gen_ai_system": "scripted",
        "gen_ai_model": "echo",
        "input_tokens": 3,
        "output_tokens": 5,
        "finish_reason": "stop",
        "cost_usd": 0.25,
    }
    drive = Driver(graph_of("a>end"))
    drive.start()
    drive.ok("a", **told)
    completed = drive.events(ev.NodeCompleted)[0]
    assert {name: getattr(completed, name) for name in told} == told


def test_results_of_other_attempts_and_visits_are_dropped():
    drive = Driver(graph_of("a>b"))
    drive.start()
    for visit, attempt in ((1, 2), (1, 0), (2, 1)):
        assert drive.send(sg.NodeSucceeded(node_id="a", visit=visit, attempt=attempt)) == []
        assert drive.last is not None
        assert drive.last.ignored
    drive.ok("a")
    late = sg.NodeErrored(node_id="a", visit=1, attempt=1, error="late", error_class="io_error")
    assert drive.send(late) == []
    assert drive.phase("a") == "completed"
