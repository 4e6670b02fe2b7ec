"""The example workflows compile, without warnings, and their Python steps do what they say."""

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from runtime.graph import PythonFnNode
from runtime.ir import RegistrationPolicy, compile_yaml
from runtime.plan import Plan

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICY = RegistrationPolicy(python_modules=("flows",), template_env=frozenset())


@pytest.fixture(scope="module")
def flows() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_flows", EXAMPLES / "flows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["approval", "fan_out", "loop", "model", "retry"])
def test_compiles_and_names_functions_that_exist(name, flows):
    result = compile_yaml((EXAMPLES / f"{name}.yaml").read_text(), POLICY)
    assert result.warnings == ()
    assert result.graph.dead_edges == ()
    Plan(result.graph)
    functions = [node.function for node in result.graph.nodes.values() if isinstance(node, PythonFnNode)]
    assert all(callable(getattr(flows, function)) for function in functions)


def test_the_loop_has_one_loop_with_a_way_out():
    graph = compile_yaml((EXAMPLES / "loop.yaml").read_text(), POLICY).graph
    (loop,) = graph.loops
    assert loop.header == "begin_round"
    leaving = [
        edge.target for edge in graph.edges if edge.source in loop.nodes and edge.target not in loop.nodes
    ]
    assert leaving == ["end", "too_many"]


def test_the_fan_out_collects_in_the_order_of_its_branches():
    graph = compile_yaml((EXAMPLES / "fan_out.yaml").read_text(), POLICY).graph
    assert graph.nodes["meet"].wait_for == ("books", "papers", "news")


def test_the_flaky_step_fails_twice(flows, tmp_path):
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            flows.fetch_invoice(str(tmp_path), "7")
    assert flows.fetch_invoice(str(tmp_path), "7") == {"invoice": "7", "amount": 120, "calls": 3}


def test_the_booking_is_refused_over_the_limit(flows):
    state = {"invoice_data": {"invoice": "7", "amount": 120}}
    with pytest.raises(flows.AmountRefused) as caught:
        flows.book(state)
    assert caught.value.error_class == "amount_refused"
    assert flows.book(state | {"limit": 200}) == {"booked": 120}
    assert flows.set_aside(state) == {"booked": 0, "set_aside": "7"}


def test_the_other_steps(flows):
    finding = asyncio.run(flows.look_up("news", "ray"))
    assert flows.summarise([finding, None]) == "news on ray"
    assert flows.publish("t", "a b c") == {"title": "t", "words": 3}
    assert [flows.judge("x", flows.count_round({"round": n})["round"])["score"] for n in range(2)] == [
        pytest.approx(0.6),
        pytest.approx(0.8),
    ]
