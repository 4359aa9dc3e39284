"""The plan: its totals add up, done cells leave it, and a dear one is refused."""

import json
import re
from fractions import Fraction

import contract_toys
import numpy as np
import pytest

from raysweep import plan as plan_module
from raysweep.errors import PackError, SweepError
from raysweep.experiment import Cost
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.rows import Stamp, failure_rows, row_schema
from raysweep.pack import make_pack
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import from_mapping

BASE = {
    "name": "p",
    "experiment": "classifier",
    "world": {"kind": "gaussian", "dim": 8, "classes": 4},
    "grid": {"width": [8, 16], "seed": {"range": 6}, "steps": [10, 20], "k": [1, 2, 3]},
    "resources": {"lanes": 4},
}


def sweep_of(**changes):
    return from_mapping({**BASE, **changes})


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def mark(store, sweep, runs, status):
    ledger = Ledger(store)
    rows = failure_rows(runs, row_schema(sweep.experiment), Stamp("x", 1, "cpu"), status, "told so")
    ledger.append(rows, next(sequence()))


def test_the_collapse_and_its_totals(store):
    plan = make_plan(sweep_of(), store, slots=1)
    told = json.loads(json.dumps(plan.to_json()))
    assert (told["cells"], told["runs"], told["packs"], told["done_cells"]) == (72, 12, 4, 0)
    assert told["packs"] == len(list(plan.packs()))
    assert told["flops"] + told["flops_eval"] == plan.flops
    assert told["seconds"] == plan.flops / plan.rate.flops
    assert "assumed" in told["rate"]["source"]
    for total, part in (("pending_cells", "cells"), ("pending_runs", "runs"), ("packs", "packs"), ("flops", "flops")):
        assert told[total] == sum(s[part] for s in told["shapes"])
    assert sorted(s["shape"]["width"] for s in told["shapes"]) == [8, 16]
    assert all(len(p) <= 4 for p in plan.packs())


def test_slots_share_the_time(store):
    one, four = (make_plan(sweep_of(), store, slots=s) for s in (1, 4))
    assert one.seconds == pytest.approx(4 * four.seconds)


def test_done_cells_leave_the_plan_and_failed_ones_return(store):
    sweep = sweep_of()
    runs = sweep.runs
    mark(store, sweep, make_pack(runs.take(np.arange(3))).runs, "diverged")
    mark(store, sweep, make_pack(runs.take(np.arange(3, 5))).runs, "failed")
    told = make_plan(sweep, store, 1).to_json()
    assert (told["cells"], told["done_cells"], told["pending_runs"]) == (72, 18, 9)
    assert make_plan(sweep, store, 1, skip_failed=True).to_json()["pending_runs"] == 7
    assert make_plan(sweep, store, 1, retry_diverged=True).to_json()["pending_runs"] == 12


def test_a_new_value_of_an_observed_axis_asks_only_the_new_cells(store):
    sweep = sweep_of()
    mark(store, sweep, sweep.runs, "ok")
    assert make_plan(sweep, store, 1).to_json()["packs"] == 0
    told = make_plan(sweep_of(grid={**BASE["grid"], "k": [1, 2, 3, 4]}), store, 1).to_json()
    assert (told["cells"], told["pending_cells"], told["pending_runs"]) == (96, 24, 12)


@pytest.mark.parametrize(("budget", "word"), [({"cells": 71}, "72"), ({"flops": 10.0}, "budget.flops")])
def test_a_plan_over_its_budget_is_refused(store, budget, word):
    with pytest.raises(SweepError, match=next(iter(budget))) as caught:
        make_plan(sweep_of(budget=budget), store, 1)
    assert word in str(caught.value)


def test_a_budget_that_suffices_is_no_obstacle(store):
    assert make_plan(sweep_of(budget={"cells": 72, "flops": 1e15}), store, 1).runs.cells == 72


def test_a_lane_that_does_not_fit_is_refused(store):
    with pytest.raises(PackError, match=r"resources\.memory_gib"):
        make_plan(sweep_of(resources={"memory_gib": 1e-9}), store, 1)


def test_slots_of_other_hosts_take_no_memory_of_this_one(store, monkeypatch):
    monkeypatch.setattr(plan_module, "host_memory", lambda: 2.0**36)
    monkeypatch.setattr(plan_module.os, "cpu_count", lambda: 4)
    memory = {slots: make_plan(sweep_of(), store, slots).memory for slots in (1, 2, 4, 200)}
    assert memory == {1: 2.0**35, 2: 2.0**34, 4: 2.0**33, 200: 2.0**33}


@pytest.mark.parametrize("toy", ["Endless", "Indebted"])
def test_a_cost_that_is_negative_or_not_finite_is_refused_with_its_run(store, toy):
    made = getattr(contract_toys, toy)()
    sweep = from_mapping({"name": "t", "experiment": made, "grid": {"size": [4, 64]}})
    with pytest.raises(PackError, match=r"toy: cost\(\) must state finite numbers, 0 or more, but states .*'size': \d"):
        make_plan(sweep, store, 1)


def test_a_cost_that_is_no_cost_is_refused(store):
    class Plain(contract_toys.Toy):
        def cost(self, run, observed, world):
            return 5.0

    with pytest.raises(PackError, match=r"cost\(\) must return a Cost, but returns 5\.0"):
        make_plan(from_mapping({"name": "t", "experiment": Plain(), "grid": {}}), store, 1)


@pytest.mark.parametrize("value", ["12", b"12", True, None, 10**309, 1j, [1.0], Fraction(-1, 3)])
@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_a_cost_that_is_no_number_is_refused_with_its_value(store, name, value):
    class Odd(contract_toys.Toy):
        def cost(self, run, observed, world):
            return Cost(**{name: value})

    sweep = from_mapping({"name": "t", "experiment": Odd(), "grid": {}})
    stated = f"must state finite numbers, 0 or more, but states {name}={value!r}"[:90]
    with pytest.raises(PackError, match=re.escape(stated)):
        make_plan(sweep, store, 1)


def test_a_cost_may_be_any_kind_of_number(store):
    class Odd(contract_toys.Toy):
        def cost(self, run, observed, world):
            return Cost(flops=np.int32(3), flops_eval=Fraction(1, 2), bytes=np.float32(4))

    (group,) = make_plan(from_mapping({"name": "t", "experiment": Odd(), "grid": {"size": [4, 8]}}), store, 1).groups
    assert group.cost == Cost(flops=3.0, flops_eval=0.5, bytes=4.0)
