"""What a plan costs: the table, names of machines, the arithmetic, and what it admits to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP

from raysweep.errors import PriceError
from raysweep.executors import make_executor
from raysweep.plan import Plan, make_plan
from raysweep.prices import Machine, estimate, find_machine, read_prices, sentences
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep

MACHINE: dict[str, Any] = {
    "provider": "own", "name": "box", "gpus": 4, "gpu": "H100", "cpus": 16, "memory_gib": 64,
    "on_demand": 10.0, "spot": 4.0, "as_of": "2026-01", "source": "a bill",
}  # fmt: skip


@pytest.fixture
def plan_of(make_sweep: Callable[..., Sweep], tmp_path: Path) -> Callable[..., Plan]:
    def make(**changes: Any) -> Plan:
        return make_plan(make_sweep(CLASSIFIER_SWEEP, **changes), Store(str(tmp_path / "store")), slots=2)

    return make


def test_the_table_that_comes_with_it_is_whole_and_says_where_its_prices_are_from() -> None:
    machines = read_prices()
    assert len({m.key for m in machines}) == len(machines)
    assert {m.provider for m in machines} == {"aws", "gcp", "azure"}
    for machine in machines:
        assert machine.source
        assert bool(machine.gpu) == bool(machine.gpus)
        assert machine.spot is not None
        assert 0 < machine.spot < machine.on_demand < 200


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("aws:p5.48xlarge", "aws:p5.48xlarge"),
        ("aws:p5", "aws:p5.48xlarge"),  # the family, although p5en begins with it too
        ("aws:p5e", "aws:p5en.48xlarge"),
        ("gcp:a3", "gcp:a3-highgpu-8g"),
        ("azure:Standard_ND", "azure:Standard_ND96isr_H100_v5"),
    ],
)
def test_a_beginning_that_fits_one_machine_is_enough(wanted: str, found: str) -> None:
    assert find_machine(read_prices(), wanted).key == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("aws:p4", r"fits 2: aws:p4d\.24xlarge, aws:p4de\.24xlarge"),
        ("aws:g5", r"fits 2: aws:g5\.xlarge, aws:g5\.48xlarge"),
        ("aws:p5.48xlage", r"Did you mean 'aws:p5\.48xlarge'"),
        ("asw:p5.48xlarge", r"Did you mean 'aws:p5\.48xlarge'"),
        ("", "must fit one machine"),
    ],
)
def test_a_name_that_fits_none_or_several_lists_what_there_is(wanted: str, message: str) -> None:
    with pytest.raises(PriceError, match=message):
        find_machine(read_prices(), wanted)


def test_cost_is_work_over_rate_and_places(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(resources={"cpus": 4, "lanes": 2})  # 8 runs in 4 packs of 2 lanes
    found = estimate(plan, Machine(**MACHINE), machines=1)
    assert (found["packs"], found["packs_per_machine"], found["packs_limited_by"]) == (4, 4, "cpus")
    dearest = max(2 * (g.cost.flops + g.cost.flops_eval) for g in plan.groups) / plan.rate.flops
    assert math.isclose(found["seconds"], max(plan.flops / plan.rate.flops / 4, dearest))
    assert math.isclose(found["machine_hours"], found["seconds"] / 3600)
    assert math.isclose(found["on_demand_usd"], 10.0 * found["machine_hours"])
    assert math.isclose(found["spot_usd"], 4.0 * found["machine_hours"])
    many = estimate(plan, Machine(**MACHINE), machines=100)
    assert math.isclose(many["seconds"], dearest)  # no faster than the dearest pack, but all are paid for
    assert math.isclose(many["on_demand_usd"], 1000.0 * dearest / 3600)
    assert any("only 4 packs for 400 places" in line for line in sentences(many))


def test_gpus_limit_how_many_packs_a_machine_takes(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(resources={"cpus": 1, "gpus": 0.5, "memory_gib": 4})
    found = estimate(plan, Machine(**MACHINE))
    assert (found["packs_per_machine"], found["packs_limited_by"]) == (8, "gpus")
    with pytest.raises(PriceError, match=r"resources\.gpus: a pack needs 0\.5, but own:box has 0"):
        estimate(plan, Machine(**{**MACHINE, "gpus": 0}))
    with pytest.raises(PriceError, match=r"resources\.cpus: a pack needs 32, but own:box has 16"):
        estimate(plan_of(resources={"cpus": 32}), Machine(**MACHINE))
    with pytest.raises(PriceError, match="--machines: must be at least 1, but got 0"):
        estimate(plan, Machine(**MACHINE), machines=0)


def test_a_price_on_an_assumed_rate_says_that_it_is_a_guess(
    plan_of: Callable[..., Plan], make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    before = estimate(plan_of(), Machine(**MACHINE))
    assert not before["rate_measured"]
    assert any(line.strip().startswith("A GUESS") for line in sentences(before))
    assert any("4 GPUs stay idle" in line for line in sentences(before))
    run(make_sweep(CLASSIFIER_SWEEP), Store(str(tmp_path / "store")), make_executor("inline"))
    after = estimate(plan_of(grid={**CLASSIFIER_SWEEP["grid"], "seed": {"range": 4}}), Machine(**MACHINE))
    assert after["rate_measured"]
    assert "measured on 8 runs of this store" in after["rate"]
    assert not any("GUESS" in line for line in sentences(after))


def test_what_states_no_cost_has_no_price(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    plan = make_plan(make_sweep(FUNCTION_SWEEP), Store(str(tmp_path)), slots=2)
    with pytest.raises(PriceError, match="toy_experiment:train states no FLOPs"):
        estimate(plan, Machine(**MACHINE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machines: 3", "machines: must be a list of machines, but got 3"),
        ("machines: [{provider: a}]", r"machines\.0\.name: must be given"),
        ("machines: [", "must be valid YAML"),
    ],
)
def test_a_bad_table_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(PriceError, match=rf"mine\.yaml: {message}"):
        read_prices(file)
    with pytest.raises(PriceError, match=r"none\.yaml: cannot be read"):
        read_prices(tmp_path / "none.yaml")
