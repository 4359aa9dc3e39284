"""Costs against torch: parameters of the real module, and FLOPs as torch's own counter sees them."""

import pyarrow as pa
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raysweep.cost import ASSUMED_FLOPS, dense_cost, host_memory, measured_rate
from raysweep.experiments.classifier import EXPERIMENT
from raysweep.models.mlp import MLP, mlp_sizes
from raysweep.oracle.recipe import Shape
from raysweep.sweep import from_mapping

SHAPES = [(8, 16, 2, 4), (5, 7, 1, 3), (6, 9, 0, 2), (3, 32, 5, 10)]


@pytest.mark.parametrize(("inputs", "width", "depth", "outputs"), SHAPES)
def test_parameters_and_flops_equal_torchs_count(inputs, width, depth, outputs):
    batch, steps, samples = 12, 5, 33
    model = MLP(inputs, width, depth, outputs)
    cost = dense_cost(mlp_sizes(inputs, width, depth, outputs), batch, steps, 3, samples, 4)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as training:
        for _ in range(steps):
            model(torch.zeros(batch, inputs)).sum().backward()
    assert cost.flops == training.get_total_flops()
    with FlopCounterMode(display=False) as evaluation, torch.no_grad():
        for _ in range(3):
            model(torch.zeros(samples, inputs))
    assert cost.flops_eval == evaluation.get_total_flops()


def test_bytes_hold_parameters_gradients_optimiser_state_and_activations():
    small, large = (dense_cost([8, 16, 4], 1, 1, 1, 1, 4, state=s) for s in (1, 3))
    parameters = 8 * 16 + 16 + 16 * 4 + 4
    assert small.parameters == parameters
    assert large.bytes - small.bytes == 2 * 4 * parameters
    assert small.bytes >= 4 * 3 * parameters
    assert dense_cost([8, 16, 4], 1, 1, 1, 1, 8).bytes == 2 * small.bytes


def test_a_classifier_run_costs_its_longest_time_and_an_evaluation_a_snapshot():
    grid = {"width": 16, "depth": 2, "steps": [10, 50, 100], "k": [1, 2], "batch": 8}
    grid |= {"eval_items": 100, "select_items": 50}
    sweep = from_mapping(
        {"name": "c", "experiment": "classifier", "grid": grid, "world": {"kind": "gaussian", "dim": 8, "classes": 4}}
    )
    cost = EXPERIMENT.cost(sweep.runs.row(0), sweep.runs.observed[0], Shape(8, 4))
    assert cost == dense_cost([8, 16, 16, 4], 8, 100, 3, 150, 4)


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
