"""Costs against torch: parameters of the real module, and FLOPs as torch's own counter sees them."""

import pyarrow as pa
import pytest
import torch
from models.reference import reference_of
from torch.utils.flop_counter import FlopCounterMode

from raysweep.cost import ASSUMED_FLOPS, host_memory, measured_rate
from raysweep.errors import SweepError
from raysweep.experiments.classifier import EXPERIMENT
from raysweep.models import KINDS, Architecture
from raysweep.oracle.recipe import Shape
from raysweep.sweep import from_mapping

WORLD = Shape(64, 4)
GRID = {"width": 16, "depth": 2, "batch": 8, "eval_items": 100, "select_items": 50, "eval_share": 0}


def cost_of(grid, world=WORLD, run=0):
    recipe = {"kind": "gaussian", "dim": world.dim, "classes": world.classes}
    raw = {"name": "c", "experiment": "classifier", "grid": {**GRID, **grid}, "world": recipe, "resources": {"gpus": 1}}
    sweep = from_mapping(raw)
    runs = sweep.runs
    return EXPERIMENT.cost(runs.row(run), runs.observed[int(runs.observed_code[run])], world)


def layout_of(kind="mlp", **changes):
    shape = {"kind": kind, "inputs": 64, "outputs": 4, "width": 16, "depth": 2, **changes}
    return Architecture(**shape).layout


SHAPES = [(8, 16, 2, 4), (5, 7, 1, 3), (6, 9, 0, 2), (3, 32, 5, 4)]


@pytest.mark.parametrize(("inputs", "width", "depth", "outputs"), SHAPES)
def test_parameters_and_flops_equal_torchs_count(inputs, width, depth, outputs):
    batch, steps = 12, 5
    model = reference_of(Architecture("mlp", inputs, outputs, width, depth)).float()
    cost = cost_of({"width": width, "depth": depth, "batch": batch, "steps": [0, 2, steps]}, Shape(inputs, outputs))
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as training:
        for _ in range(steps):
            model(torch.zeros(batch, inputs)).sum().backward()
    assert cost.flops == training.get_total_flops()
    with FlopCounterMode(display=False) as evaluation, torch.no_grad():
        for samples in (100, 50) * 3:
            model(torch.zeros(samples, inputs))
    assert cost.flops_eval == evaluation.get_total_flops()


def test_bytes_hold_parameters_gradients_optimiser_state_and_activations():
    """An MLP of 8, 16, 4: each number of an item is kept, has a gradient, and the batch is gathered."""
    parameters = 8 * 16 + 16 + 16 * 4 + 4
    numbers = 3 * 8 * (8 + 16 + 4)
    grid = {"depth": 1, "steps": 1}
    sizes = {"sgd": 4 * (3 * parameters + numbers), "adamw": 4 * (4 * parameters + numbers)}
    for optimiser, size in sizes.items():
        cost = cost_of({**grid, "optimiser": optimiser}, Shape(8, 4))
        assert (cost.parameters, cost.bytes) == (parameters, size)
        assert cost_of({**grid, "optimiser": optimiser, "precision": "float64"}, Shape(8, 4)).bytes == 2 * size


def test_a_classifier_run_costs_its_longest_time_and_an_evaluation_a_snapshot():
    cost = cost_of({"steps": [10, 50, 100], "k": [1, 2]}, Shape(8, 4))
    forward = 2 * (8 * 16 + 16 * 16 + 16 * 4)
    backward = 2 * forward - 2 * 8 * 16  # no gradient of the data
    assert cost.flops == 100 * 8 * (forward + backward)
    assert cost.flops_eval == 3 * 150 * forward


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_costs_what_its_layout_says(kind):
    cost, layout = cost_of({"model": kind, "steps": [5, 20]}), layout_of(kind)
    assert cost.parameters == layout.size
    assert cost.flops == 20 * 8 * (layout.forward_flops + layout.backward_flops)
    assert cost.flops_eval == 2 * 150 * layout.forward_flops
    assert cost.bytes == 4 * (3 * layout.size + 3 * 8 * layout.activations)


@pytest.mark.parametrize(
    ("decay", "trained"), [(0.2, 8 + 2 + 72 + 20), (0.0, 100), (1.0, 10 + 100), (0.5, 5 + 5 + 45 + 50)]
)
def test_under_wsd_every_time_costs_its_own_branch(decay, trained):
    """Times 10 and 100 with a decay of 0.2: a trunk to 8, a branch of 2, a trunk to 80, a branch of 20."""
    layout = layout_of()
    cost = cost_of({"schedule": "wsd", "decay": decay, "steps": [10, 100]})
    assert cost.flops == trained * 8 * (layout.forward_flops + layout.backward_flops)
    assert cost.flops_eval == 2 * 150 * layout.forward_flops


def test_under_cosine_a_run_costs_its_own_time():
    layout = layout_of()
    for run, steps in enumerate((10, 100)):
        cost = cost_of({"schedule": "cosine", "steps": [10, 100]}, run=run)
        assert cost.flops == steps * 8 * (layout.forward_flops + layout.backward_flops)
        assert cost.flops_eval == 150 * layout.forward_flops


def test_an_ensemble_costs_all_its_members():
    one, three = (cost_of({"members": m, "steps": [10, 100], "model": "cnn"}) for m in (1, 3))
    assert (three.flops, three.flops_eval, three.bytes) == (3 * one.flops, 3 * one.flops_eval, 3 * one.bytes)
    assert three.parameters == one.parameters


def test_early_evaluations_forward_a_part_of_the_sample():
    """A sixteenth of the items trained on, from an eighth of the sample up to all of it; half as many to select on."""
    layout = layout_of()
    cost = cost_of({"eval_share": 0.0625, "steps": [0, 30, 100, 1000]})
    items = (13 + 7) + (15 + 8) + (50 + 25) + (100 + 50)
    assert cost.flops_eval == items * layout.forward_flops


def test_precision_and_optimiser_change_the_bytes_alone():
    layout = layout_of()
    plain = cost_of({"steps": 10})
    sizes = {
        ("float64", "sgd"): 8 * 3 * layout.size + 8 * 3 * 8 * layout.activations,
        ("tf32", "nesterov"): 4 * 3 * layout.size + 4 * 3 * 8 * layout.activations,
        ("bf16", "adamw"): 4 * 4 * layout.size + 2 * 3 * 8 * layout.activations,
    }
    for (precision, optimiser), size in sizes.items():
        cost = cost_of({"steps": 10, "precision": precision, "optimiser": optimiser})
        assert cost.bytes == size
        assert (cost.flops, cost.flops_eval, cost.parameters) == (plain.flops, plain.flops_eval, plain.parameters)


@pytest.mark.parametrize(
    ("grid", "dim", "told"),
    [
        ({"model": "resnet"}, 50, r"grid\.model: resnet needs square images.*50 numbers"),
        ({"model": "vit", "patch": 3}, 64, r"grid\.patch: must divide.*patch=3, pixels=8"),
        ({"model": "vit", "heads": 5}, 64, r"grid\.heads: must divide.*heads=5, width=16"),
        ({"model": "cnn", "depth": 0}, 64, r"grid\.depth: .*depth >= 1.*depth=0"),
        ({"model": "resnet", "activation": "tanh"}, 64, r"grid\.activation: .*relu, but got tanh"),
        ({"model": "resnet"}, 100, r"grid\.model: .*halves images 2 times, but they are 10 pixels"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_when_planned(grid, dim, told):
    with pytest.raises(SweepError, match=told) as caught:
        cost_of({"steps": 1, **grid}, Shape(dim, 4))
    assert "\n" not in str(caught.value)


def test_a_rate_is_work_over_seconds_of_finished_runs():
    cells = pa.table(
        {
            "run": ["a", "a", "b", "c"],
            "status": ["ok", "ok", "ok", "failed"],
            "flops": [100.0, 200.0, 300.0, 1e9],
            "flops_eval": [10.0, 20.0, 30.0, 1e9],
            "seconds": [1.0, 2.0, 3.0, 1e9],
        }
    )
    rate = measured_rate(cells)
    assert rate.flops == (200 + 20 + 300 + 30) / (2 + 3)
    assert "2 runs" in rate.source


@pytest.mark.parametrize("cells", [None, pa.table({"run": ["a"]})])
def test_without_measurements_a_rate_says_that_it_is_assumed(cells):
    rate = measured_rate(cells, threads=4)
    assert rate.flops == 4 * ASSUMED_FLOPS
    assert "assumed" in rate.source


def test_host_memory_is_positive():
    assert host_memory() > 0
