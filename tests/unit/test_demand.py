"""What is asked of machines: what can be asked for at all, and why nobody has it."""

import pytest

from runtime.demand import Machine, problem, unmet

SMALL = Machine(total={"CPU": 2, "memory": 4e9}, free={"CPU": 2, "memory": 4e9}, labels={"zone": "a"})
BUSY_GPU = Machine(total={"CPU": 8, "GPU": 1}, free={"CPU": 1, "GPU": 0}, labels={"zone": "b"})
BOTH = (SMALL, BUSY_GPU)


@pytest.mark.parametrize(
    "demand",
    [
        {},
        {"num_cpus": 0},
        {"num_cpus": 0.25, "num_gpus": 0.5},
        {"num_cpus": 4, "memory": 2**33, "custom": {"licence": 1}},
        {"labels": {"ray.io/accelerator-type": "A100", "zone": "in(a, b)", "spot": "!true", "x": "!in(a,b)"}},
        {"labels": {"zone": ""}},
    ],
)
def test_what_can_be_asked_for(demand):
    assert problem(demand) is None


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        ({"num_cpus": -1}, "num_cpus: -1 is not between 0 and 1000000"),
        ({"num_gpus": 1.5}, "num_gpus: 1.5 is over 1, so it must be a whole number"),
        ({"num_cpus": 0.00001}, "num_cpus: 1e-05 is less than 0.0001, the least that can be asked for"),
        ({"num_cpus": float("inf")}, "num_cpus: inf is not between"),
        ({"num_cpus": float("nan")}, "num_cpus: nan is not between"),
        ({"memory": 2**60}, "memory: "),
        ({"custom": {"CPU": 1}}, "custom.CPU: a name of letters"),
        ({"custom": {"a b": 1}}, "custom.a b: a name of letters"),
        ({"custom": {"licence": 2.5}}, "custom.licence: 2.5 is over 1"),
        ({"labels": {"a b": "x"}}, "labels.a b: a label's name has letters"),
        ({"labels": {"zone": "in()"}}, "labels.zone: 'in()' must be a value"),
        ({"labels": {"zone": "a b"}}, "labels.zone: 'a b' must be a value"),
    ],
)
def test_what_cannot_is_refused_by_its_key(demand, said):
    assert str(problem(demand)).startswith(said)


@pytest.mark.parametrize(
    "demand",
    [
        {},
        {"num_cpus": 2},
        {"labels": {"zone": "a"}},
        {"labels": {"zone": "in(a, c)"}},
        {"labels": {"zone": "!b"}},
        {"labels": {"zone": "!in(b, c)"}},
        {"labels": {"rack": "!r1"}},
        {"num_cpus": 1, "labels": {"zone": "b"}},
    ],
)
def test_a_machine_has_it(demand):
    assert unmet(demand, BOTH) is None


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        ({"num_cpus": 16}, "no node has num_cpus 16 (the most is 8)"),
        ({"num_gpus": 2}, "no node has num_gpus 2 (the most is 1)"),
        ({"custom": {"licence": 1}}, "no node has custom.licence 1 (the most is 0)"),
        ({"labels": {"zone": "c"}}, "no node has the label zone=c"),
        (
            {"labels": {"rack": "r1"}, "num_cpus": 9},
            "no node has num_cpus 9 (the most is 8) and the label rack=r1",
        ),
        ({"num_gpus": 1, "labels": {"zone": "a"}}, "no one node has all of it together"),
        (
            {"num_gpus": 1, "num_cpus": 1},
            "every node that has it is in use: num_cpus 1 (free: 1), num_gpus 1 (free: 0)",
        ),
    ],
)
def test_why_no_machine_has_it(demand, said):
    assert unmet(demand, BOTH) == said


def test_what_is_taken_may_be_left_out_of_account():
    assert unmet({"num_gpus": 1}, BOTH, in_use=False) is None
    assert unmet({"num_gpus": 2}, BOTH, in_use=False) == "no node has num_gpus 2 (the most is 1)"


def test_without_machines_there_is_nothing():
    assert unmet({"num_cpus": 1}, ()) == "no node has num_cpus 1 (the most is 0)"
