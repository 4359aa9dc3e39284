"""The double_descent experiment: its items, labels and initialisations, and that its training is the plain one."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiments import double_descent_scores
from raysweep.experiments.double_descent import EXPERIMENT
from raysweep.experiments.double_descent_task import task_of
from raysweep.experiments.own_inputs import mean_dimensions
from raysweep.models import Architecture
from raysweep.models.initial import he_parameters
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells

SMALL: dict[str, Any] = {
    "width": 6,
    "dim": 16,
    "n_train": 20,
    "test_items": 64,
    "bmd_points": 0,
    "precision": "float64",
}


def rows(path: Any, **grid: Any) -> pl.DataFrame:
    sweep = from_mapping({"name": "d", "experiment": "double_descent", "grid": {**SMALL, **grid}})
    store = Store(str(path))
    assert run(sweep, store, make_executor("inline"), stream=io.StringIO).counts.ok == sweep.runs.cells
    frame = pl.from_arrow(cells(store)[0])
    assert isinstance(frame, pl.DataFrame)
    return frame


def task(**grid: Any) -> Any:
    runs = from_mapping({"name": "d", "experiment": "double_descent", "grid": {**SMALL, **grid}}).runs
    return task_of(runs, list(dict.fromkeys(runs.column("seed"))))


def loaded(parameters: Mapping[str, torch.Tensor], lane: int) -> nn.Sequential:
    """A lane's two-layer network as a plain module."""
    first, second = (parameters[f"layers.{i}.weight"][lane] for i in (0, 1))
    net = nn.Sequential(nn.Linear(first.shape[1], len(first)), nn.Tanh(), nn.Linear(second.shape[1], len(second)))
    net.double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            layer, kind = name.split(".")
            p.copy_(parameters[f"layers.{int(layer) // 2}.{kind}"][lane])
    return net


def test_training_against_fgsm_is_the_plain_loop(tmp_path: Any) -> None:
    """Full-batch Adam at a rate that falls to a tenth after 70 % of the steps, on inputs moved by the sign of their
    gradient, and on inputs as they are; beside a lane of another seed."""
    steps, eps, seed = 20, 0.3, 3
    grid = {"activation": "tanh", "loss": "square", "lr": 0.05, "steps": steps, "seed": [0, seed]}
    found = rows(tmp_path, **grid, attack=[0, eps])
    items = task(**grid, attack=[0, eps])
    start = he_parameters(
        Architecture("mlp", 16, 1, 6, 1, "tanh"), torch.tensor([seed]), torch.float64, "cpu", torch.ones(1).double()
    )
    places = items.rows[1] + items.offset[1]
    x = torch.from_numpy(items.x).double()[places]
    y = torch.from_numpy(2.0 * items.y - 1)[places][:, None]
    for size in (0.0, eps):
        net = loaded(start, 0)
        moments = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in net.parameters()]
        for step in range(1, steps + 1):
            moved = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad((net(moved) - y).square().sum(), moved)
            net.zero_grad()
            ((net((x + size * slope.sign()).clamp(-1, 1)) - y).square().mean() / 2).backward()
            rate = 0.05 if step <= 0.7 * steps else 0.005
            with torch.no_grad():
                for p, mean, square in moments:  # Adam (Kingma & Ba 2015)
                    mean += 0.1 * (p.grad - mean)
                    square += 0.001 * (p.grad**2 - square)
                    p -= rate * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        row = found.filter((pl.col("seed") == seed) & (pl.col("attack") == size))
        loss = (net(x) - y).detach().square().mean() / 2
        assert row["train_loss"].item() == pytest.approx(loss.item(), rel=1e-9)


def test_an_adversarial_initialisation_fits_random_labels_and_then_the_true_ones(tmp_path: Any) -> None:
    grid = {"width": 64, "pretrain": [0, 400], "steps": 400, "lr": 0.01, "seed": {"range": 3}}
    found = rows(tmp_path, **grid).sort("pretrain", "seed")
    assert found["train_error"].to_list() == [0] * 6
    assert found["pretrain_error"].to_list() == [None] * 3 + [0] * 3


def test_random_labels_are_not_those_that_noise_repeats(tmp_path: Any) -> None:
    """Labels that are all drawn at random are learned as well as any: what remains is their share of agreement by
    chance, not the labels that pretraining has fitted."""
    kept = {"task": "images", "width": 64, "lr": 0.01, "n_train": 200, "label_noise": 1.0, "pretrain": 300}
    found = rows(tmp_path, **kept, schedule="constant", steps=[0, 300])
    at_start, trained = found.sort("steps")["train_error"].to_list()
    assert 0.8 < at_start <= 1
    assert trained < 0.05


def test_labels_of_a_teacher_are_flipped_with_the_chance_that_is_asked_for(tmp_path: Any) -> None:
    """A network that learns the labels without noise perfectly misses the flipped ones."""
    grid = {"n_train": 2000, "label_noise": 0.2, "width": 1, "activation": "tanh", "lr": 0.02, "steps": 500}
    found = rows(tmp_path, **grid, loss="logistic")
    assert found["test_error"].item() < 0.05
    assert found["train_error"].item() == pytest.approx(0.2, abs=0.03)


def test_items_of_a_seed_are_the_same_whatever_is_trained_beside_it() -> None:
    alone, beside = task(seed=5, n_train=20), task(seed=[1, 5], n_train=[20, 30], batch=4)
    for places in ("rows", "tests"):
        a = alone.x[getattr(alone, places)[0] + alone.offset[0]]
        b = beside.x[getattr(beside, places)[1] + beside.offset[1]]
        np.testing.assert_array_equal(a, b[: len(a)])
    trained, tested = (set(map(tuple, alone.x[getattr(alone, name)[0]].tolist())) for name in ("rows", "tests"))
    assert not trained & tested
    assert set(np.unique(alone.x)) == {-1.0, 1.0}
    assert alone.y.mean() == pytest.approx(0.5, abs=0.2)


def test_scores_depend_on_neither_other_lanes_nor_the_size_of_a_pass(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"batch": 4, "steps": 30, "share": 0.4, "dim": 8}
    whole = rows(tmp_path / "whole", **grid, n_train=[20, 45], label_noise=0.3).sort("n_train")
    monkeypatch.setattr(double_descent_scores, "_MOST", 7)
    names = ("train_loss", "train_error", "test_loss", "test_error", "flip_error")
    for i, items in enumerate((20, 45)):
        alone = rows(tmp_path / f"{items}", **grid, n_train=items, label_noise=0.3)
        for name in names:
            assert alone[name].item() == pytest.approx(whole[name][i], rel=1e-9)
    assert whole["train_loss"].n_unique() == 2


def test_images_fill_the_range_and_none_is_trained_and_tested_on() -> None:
    found = task(task="images", seed=[0, 1], n_train=800, test_items=900)
    assert (found.x.min(), found.x.max()) == (-1, 1)
    for seed in (0, 1):
        assert not set(found.rows[seed].tolist()) & set(found.tests[seed].tolist())
    assert found.tests[0].tolist() != found.tests[1].tolist()


def test_contributions_of_inputs_add_up_to_the_mean_dimension(tmp_path: Any) -> None:
    found = rows(tmp_path, bmd_points=10, steps=5, pixel={"range": [-1, 16]})
    (bmd,) = set(found["bmd"])
    assert found["contribution"].sum() == pytest.approx(bmd, rel=1e-9)
    assert found.filter(pl.col("pixel") == -1)["contribution"].to_list() == [None]


def test_error_and_mean_dimension_are_highest_where_networks_begin_to_interpolate(tmp_path: Any) -> None:
    """The twin peaks of a teacher's noisy labels, as an ordering of three widths by more than two standard errors."""
    grid = {"activation": "tanh", "loss": "square", "label_noise": 0.1, "lr": 0.03, "steps": 300, "seed": {"range": 24}}
    sizes = {"dim": 20, "n_train": 100, "test_items": 1000, "bmd_points": 10, "precision": "float32"}
    found = rows(tmp_path, **grid, **sizes, width=[2, 5, 20]).sort("seed", "width")
    below, at, beyond = found["train_error"].to_numpy().reshape(24, 3).mean(0)
    assert below > 0.03 > 0.01 > at >= beyond
    for name in ("test_error", "bmd"):
        values = found[name].to_numpy().reshape(24, 3)
        rises = values[:, 1:2] - values[:, [0, 2]]
        assert (rises.mean(0) > 2 * rises.std(0, ddof=1) / np.sqrt(24)).all()


def test_attacks_of_more_steps_are_stronger_and_flips_of_every_sign_turn_an_odd_function(tmp_path: Any) -> None:
    grid = {"task": "images", "n_train": 200, "test_items": 500, "width": 32, "steps": 200, "pgd_steps": 20}
    found = rows(tmp_path / "images", **grid, eps=[0.0, 0.1, 0.3]).sort("eps")
    clean = found["test_error"][0]
    fgsm, pgd = (found[name].to_list() for name in ("fgsm_error", "pgd_error"))
    assert fgsm[0] is None
    assert clean < fgsm[1] < fgsm[2]
    assert pgd[1] >= fgsm[1]
    assert pgd[2] >= fgsm[2]
    odd = rows(tmp_path / "odd", activation="tanh", loss="square", steps=0, schedule="constant", share=1.0)
    assert odd["flip_error"].item() == pytest.approx(1 - odd["test_error"].item())


def test_flops_count_layers_and_the_gradient_of_inputs_under_attack() -> None:
    sweep = from_mapping(
        {
            "name": "d",
            "experiment": "double_descent",
            "grid": {**SMALL, "attack": [0, 0.1], "pretrain": 7, "steps": 10},
        }
    )
    plain, attacked = (EXPERIMENT.cost(sweep.runs.row(i), sweep.runs.observed[0], None) for i in range(2))
    into, out = 16 * 6, 6 * 2
    forward = 2 * (into + out)
    step = 20 * (forward + 2 * into + 4 * out)
    assert plain.flops == 17 * step
    assert attacked.flops == 17 * step + 10 * 20 * 2 * forward
    assert plain.flops_eval == (20 + 20 + 64) * forward


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"precision": "tf32"}, "tf32 must run on a GPU"),
        ({"bmd_points": 5}, r"must be 0, or even and at least 4, but got \(bmd_points=5\)"),
        ({"measures": True}, r"measures=true, bmd_points=0\)\. Set bmd_points: 100"),
        ({"pixel": 2}, r"grid\.pixel: must be an input, and bmd_points not 0.*and set bmd_points: 100"),
        ({"bmd_points": 4, "pixel": 16}, r"pixel=16, inputs=16"),
        ({"label_noise": 0.6}, r"grid\.label_noise: .*label_noise=0\.6\)\. At 0\.5 they are random"),
        ({"dim": 9, "model": "cnn"}, r"grid\.model: must be mlp for a teacher's bits.*model=cnn.*or task: images"),
        ({"task": "images", "loss": "logistic"}, "logistic must have two classes"),
        ({"task": "images", "n_train": 1750}, r"n_train=1750, test_items=64.*Use fewer"),
        ({"task": "images", "shuffled": False, "test_items": 500}, "1400 to train on and 397 to test on"),
        ({"task": "images", "model": "resnet", "activation": "tanh"}, "a resnet has relu"),
    ],
)
def test_what_has_no_meaning_is_refused(grid: dict[str, Any], message: str) -> None:
    sweep = from_mapping({"name": "d", "experiment": "double_descent", "grid": {**SMALL, **grid}})
    with pytest.raises(SweepError, match=message):
        EXPERIMENT.check(sweep.runs, None, 0)


def test_seeds_are_measured_on_inputs_of_their_own_and_settings_of_a_seed_on_the_same() -> None:
    """One network on the inputs of many seeds: the standard errors are those of the spread."""
    own = he_parameters(
        Architecture("mlp", 16, 1, 8, 1, "tanh"), torch.zeros(1, dtype=torch.int64), torch.float64, "cpu",
        torch.ones(1).double(),
    )  # fmt: skip
    seeds = [0, *range(200)]
    same = {name: p.expand(len(seeds), *p.shape[1:]).contiguous() for name, p in own.items()}
    model = Architecture("mlp", 16, 1, 8, 1, "tanh").model("grouped", False)
    found = mean_dimensions(model, same, seeds, 16, 20, 200)
    assert found.value[0] == found.value[1]
    assert len(set(found.value.tolist())) == 200
    spread = found.value[1:].std(ddof=1)
    assert 0.8 < spread / np.sqrt((found.error[1:] ** 2).mean()) < 1.25
