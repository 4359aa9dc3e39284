"""The classifier experiment: rows for every cell, two disjoint samples, and the science of a small world."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysweep.errors import PackError, SweepError
from raysweep.experiment import Context
from raysweep.experiments.classifier import EXPERIMENT
from raysweep.experiments.classifier_axes import METRICS
from raysweep.grid.axes import index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.ledger.rows import Stamp, row_schema, stamp
from raysweep.metrics.mean_dimension import exact_mean_dimension
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.recipe import recipe_hash
from raysweep.pack import make_pack
from raysweep.theory.gaussian import truth

AXES = index_axes(list(EXPERIMENT.axes))
SMALL = {
    "width": 8,
    "depth": 1,
    "batch": 16,
    "pool": 512,
    "eval_items": 400,
    "select_items": 200,
    "eval_share": 0.0,
}
RECIPE = GaussianRecipe(separation=2.0)
WORLD = FlowWorld(gaussian_flow(RECIPE).requires_grad_(False), RECIPE, recipe_hash(RECIPE))


def runs_of(**grid):
    return enumerate_runs(expand({**SMALL, **grid}, AXES), AXES, "test")


def rows_of(runs, world=WORLD):
    return pa.Table.from_batches(list(EXPERIMENT.run(runs, Context(world=world)))).to_pylist()


def mean(rows, metric, **where):
    found = [row[metric] for row in rows if all(row[name] == value for name, value in where.items())]
    assert found
    return float(np.mean(found))


def with_axes(runs, rows):
    return [{**runs.row(row["lane"]), **row} for row in rows]


@pytest.fixture(scope="module")
def grid():
    torch.set_num_threads(1)
    runs = runs_of(
        n_train=[16, 256],
        labels=["hard", "argmax", "soft"],
        temperature=[1.0, 2.0],
        steps=[0, 4, 32],
        k=[1, 10, 10**12],
    )
    return runs, rows_of(runs)


def test_there_is_one_row_for_every_lane_step_and_budget(grid):
    runs, rows = grid
    cells = [(row["lane"], row["steps"], row["k"]) for row in rows]
    assert len(runs) == 12
    assert sorted(cells) == sorted(itertools.product(range(12), (0, 4, 32), (1, 10, 10**12)))
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["error"] is None for row in rows)
    assert all(np.isfinite(row[m.name]) for row in rows for m in METRICS)
    named = {m.name for m in EXPERIMENT.metrics}
    assert set(rows[0]) == {"lane", "steps", "k", "status", "error", "flops", "flops_eval", *named}


def test_rows_fit_the_ledgers_schema(grid):
    runs, _ = grid
    (first, *_) = EXPERIMENT.run(runs, Context(world=WORLD))
    table = stamp(first, runs, row_schema(EXPERIMENT), Stamp("pack", 1, "cpu"))
    assert table.schema.equals(row_schema(EXPERIMENT))
    assert len(set(table["cell"].to_pylist())) == len(table) == 36


def test_budgets_change_pass_at_k_and_nothing_else(grid):
    _, rows = grid
    for _, group in itertools.groupby(rows, key=lambda row: (row["lane"], row["steps"])):
        one, ten, many = group
        assert one["pass_at_k"] < ten["pass_at_k"] <= many["pass_at_k"] <= 1
        for metric in METRICS:
            if not metric.name.startswith("pass_at_k"):
                assert one[metric.name] == ten[metric.name] == many[metric.name]


@pytest.mark.parametrize("suffix", ["", "_select"])
def test_every_row_decomposes_its_loss(grid, suffix):
    for row in grid[1]:
        gap = row["total" + suffix] - row["aleatoric" + suffix] - row["epistemic" + suffix]
        assert abs(gap) < 1e-12
        assert row["epistemic" + suffix] >= 0


def test_the_floor_is_the_worlds_at_each_temperature_and_no_lanes(grid):
    rows = with_axes(*grid)
    for t in (1.0, 2.0):
        floors = {row["aleatoric"] for row in rows if row["temperature"] == t}
        assert len(floors) == 1
        assert floors.pop() == pytest.approx(truth(2.0 / t).aleatoric, abs=4 * 0.25 / 400**0.5)


def test_select_is_measured_on_another_sample(grid):
    for row in grid[1]:
        assert all(row[m.name] != row[m.name + "_select"] for m in METRICS if m.name in ("total", "nll", "epistemic"))


def test_pool_evaluation_and_selection_are_disjoint():
    drawn = {}

    class Spy:
        classes, dim, sha = WORLD.classes, WORLD.dim, WORLD.sha

        def sample(self, n, stream, temperature=1.0):
            drawn[stream] = WORLD.sample(n, stream, temperature)
            return drawn[stream]

    rows_of(runs_of(steps=0, n_train=16), Spy())
    assert {stream: len(sample.y) for stream, sample in drawn.items()} == {"pool": 512, "eval": 400, "select": 200}
    for a, b in itertools.combinations(drawn.values(), 2):
        assert not np.intersect1d(a.x, b.x).size


def test_flops_are_linear_in_steps_and_equal_over_lanes(grid):
    runs, rows = grid
    each = EXPERIMENT.cost(runs.row(0), runs.observed[0], WORLD)
    assert {row["flops"] for row in rows if row["steps"] == 32} == {each.flops}
    for row in rows:
        assert row["flops"] == pytest.approx(each.flops * row["steps"] / 32, rel=1e-12)
        assert row["flops_eval"] == pytest.approx(each.flops_eval * ((0, 4, 32).index(row["steps"]) + 1) / 3)


def test_a_diverged_lane_has_nulls_and_a_reason_and_its_neighbours_have_not():
    runs = runs_of(lr=[0.02, 1e3], width=32, depth=4, n_train=64, steps=[0, 4, 64], k=[1, 2])
    rows = with_axes(runs, rows_of(runs))
    good, bad = ([row for row in rows if row["lr"] == lr] for lr in (0.02, 1e3))
    assert {row["status"] for row in good} == {"ok"}
    assert [row["status"] for row in bad if row["steps"] == 0] == ["ok", "ok"]
    late = [row for row in bad if row["steps"] == 64]
    assert [row["status"] for row in late] == ["diverged", "diverged"]
    for row in late:
        assert all(row[m.name] is None for m in METRICS)
        assert row["flops"] > 0
        assert row["error"].startswith("loss not finite or above 1e6 nats at step ")
        assert 0 < int(row["error"].split()[-1]) < 64
    alone = rows_of(runs.take(np.flatnonzero(np.array(runs.column("lr")) == 0.02)))
    for a, b in zip(alone, good, strict=True):
        assert [a[m.name] for m in METRICS] == pytest.approx([b[m.name] for m in METRICS], rel=1e-3, abs=1e-4)


def test_a_pack_of_some_lanes_measures_what_the_whole_grid_does(grid):
    runs, rows = grid
    picked = np.array([7, 2, 9])
    part = rows_of(make_pack(runs.take(picked)).runs)
    for row in part:
        whole = next(
            r for r in rows if (r["lane"], r["steps"], r["k"]) == (picked[row["lane"]], row["steps"], row["k"])
        )
        assert [row[m.name] for m in METRICS] == pytest.approx([whole[m.name] for m in METRICS], rel=1e-3, abs=1e-4)


def test_step_0_does_not_depend_on_data_and_seeds_separate_their_effects(grid):
    rows = with_axes(*grid)
    start = {row["epistemic"] for row in rows if row["steps"] == 0 and row["temperature"] == 1.0}
    assert len(start) == 1
    runs = runs_of(zip={"init_seed": [0, 1, 0], "order_seed": [0, 0, 1]}, steps=[0, 8], n_train=64)
    found = {
        (row["init_seed"], row["order_seed"], row["steps"]): row["total"] for row in with_axes(runs, rows_of(runs))
    }
    assert found[0, 0, 0] == found[0, 1, 0] != found[1, 0, 0]
    assert len({found[key] for key in found if key[2] == 8}) == 3


# --- science ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned():
    torch.set_num_threads(1)
    runs = runs_of(
        n_train=[32, 256, 2048],
        labels=["hard", "argmax", "soft"],
        seed=[0, 1, 2],
        width=16,
        lr=0.02,
        batch=128,  # a small learning rate and a large batch: no floor of gradient noise
        pool=4096,
        eval_items=4000,
        select_items=1000,
        steps=600,
    )
    return with_axes(runs, rows_of(runs))


# Soft labels reach the floor of 600 steps before N = 2,048.
@pytest.mark.parametrize(("labels", "sizes"), [("hard", (32, 256, 2048)), ("soft", (32, 256))])
def test_epistemic_error_falls_with_n(learned, labels, sizes):
    errors = [mean(learned, "epistemic", labels=labels, n_train=n) for n in sizes]
    for small, large in itertools.pairwise(errors):
        assert small > 1.2 * large


@pytest.mark.parametrize("n", [32, 256, 2048])
def test_soft_labels_beat_hard_labels(learned, n):
    assert mean(learned, "epistemic", labels="soft", n_train=n) < mean(learned, "epistemic", labels="hard", n_train=n)


def test_argmax_labels_leave_a_floor(learned):
    """Their minimiser is one-hot: more data brings it no nearer to the posterior."""
    floor = [mean(learned, "epistemic", labels="argmax", n_train=n) for n in (256, 2048)]
    soft = mean(learned, "epistemic", labels="soft", n_train=2048)
    assert min(floor) > 20 * soft
    assert min(floor) > 0.1


def test_nobody_beats_the_posterior_on_generating_labels(learned):
    for row in learned:
        assert row["excess_nll"] >= -4 * row["excess_nll_se"]
        assert row["excess_error"] >= -4 * row["excess_error_se"]
        assert abs(row["excess_nll"] - row["epistemic"]) < 5 * row["excess_nll_se"]


# --- what is refused --------------------------------------------------------------------------------------


def test_a_data_set_larger_than_its_pool_is_refused():
    with pytest.raises(SweepError, match=r"n_train <= pool.*n_train=600, pool=512"):
        EXPERIMENT.check(runs_of(n_train=[16, 600]), None, 0.0)
    EXPERIMENT.check(runs_of(n_train=[16, 512]), None, 0.0)


def test_a_world_is_needed():
    runs = runs_of(steps=1)
    with pytest.raises(PackError, match="world"):
        list(EXPERIMENT.run(runs, Context()))
    with pytest.raises(PackError, match="world"):
        EXPERIMENT.cost(runs.row(0), runs.observed[0], None)


def test_the_mean_dimension_is_measured_where_it_is_asked_for(grid):
    assert {row["bmd"] for row in grid[1]} == {row["bmd_se"] for row in grid[1]} == {None}
    assert (runs_of(bmd_points=0).keys == runs_of().keys).all()
    runs = runs_of(n_train=64, lr=[0.0, 0.1, 1e30], steps=[0, 64], bmd_points=50, activation="tanh")
    rows = with_axes(runs, rows_of(runs))
    assert [row["bmd"] is None for row in rows] == [row["status"] == "diverged" for row in rows]
    start = [row["bmd"] for row in rows if row["steps"] == 0]
    still, moved = ([r["bmd"] for r in rows if r["lr"] == lr and r["steps"] == 64] for lr in (0.0, 0.1))
    assert start == [start[0]] * 3  # same initial values, same inputs
    assert still == start[:1] != moved
    architecture = Architecture("mlp", 2, WORLD.classes, 8, 1, "tanh")
    own = initial_parameters(architecture, torch.tensor([0]), torch.float32, "cpu")
    exact = exact_mean_dimension(architecture.model(), 2, parameters=own).value.item()
    assert abs(start[0] - exact) < 4 * rows[0]["bmd_se"]
    for options in ({"bmd_points": 7}, {"bmd_points": 2}, {"bmd_points": 50, "members": 2}):
        with pytest.raises(SweepError, match="bmd_points: must be 0, or even, at least 4 and without an ensemble"):
            EXPERIMENT.check(runs_of(n_train=64, **options), WORLD, 0)
