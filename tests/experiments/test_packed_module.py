"""Networks and data of a user's own on the packed engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import module_toy
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import HERE, Cli
from torch import nn

from raysweep.errors import SweepError
from raysweep.executors import Inline
from raysweep.experiments.own_data import own_data
from raysweep.experiments.packed_module import PackedModule
from raysweep.experiments.packed_module_run import _batches
from raysweep.metrics.mean_dimension import mean_dimension
from raysweep.models.module import made
from raysweep.pack import make_pack
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.testing import check_experiment

DOUBLE = {"precision": "float64", "batch": 8}


def rows(experiment: PackedModule, grid: dict[str, Any], folder: Path) -> pl.DataFrame:
    store = Store(str(folder))
    run(from_mapping({"name": "own", "experiment": experiment, "grid": grid, "fit": []}), store, Inline())
    return pl.read_parquet(folder / "cells.parquet")


@pytest.mark.parametrize(
    ("experiment", "grid"),
    [
        (
            module_toy.CLASSES,
            {
                "zip": {"width": [4, 4, 6], "lr": [1e-2, 1e30, 1e-2], "n_train": [20, 96, 50]},
                "optimiser": "sgd",
                "steps": [3, 70],
                "bmd_points": 4,
            },
        ),
        (module_toy.LINE, {"schedule": "wsd", "seed": [0, 1], "steps": [5, 10], "bmd_points": 4}),
        (
            module_toy.CLASSES,
            {"schedule": "cosine", "noise": [0.2, 0.5], "items": 48, "steps": [4, 8], "bmd_points": [0, 4]},
        ),
    ],
)
def test_it_keeps_the_contract(experiment: PackedModule, grid: dict[str, Any]) -> None:
    sweep = from_mapping({"name": "own", "experiment": experiment, "grid": {**DOUBLE, **grid}})
    check_experiment(experiment, sweep)


@pytest.mark.parametrize("make", [module_toy.net, "shared"])
def test_a_lane_is_torchs_own_training(make: Any, tmp_path: Path) -> None:
    make = shared if make == "shared" else make
    experiment = PackedModule(make, module_toy.classes)
    grid = {
        **DOUBLE,
        "optimiser": ["sgd", "adamw"],
        "lr": [0.05, 0.01],
        "weight_decay": 0.1,
        "clip": 0.5,
        "seed": [4, 9],
        "n_train": 30,
        "bmd_points": 10,
    }
    found = rows(experiment, {**grid, "steps": [12]}, tmp_path)
    assert found["status"].to_list() == ["ok"] * 8
    data = own_data(module_toy.classes(), "data")
    sweep = from_mapping({"name": "own", "experiment": experiment, "grid": {**grid, "steps": [12]}})
    for i in range(len(sweep.runs)):
        run_ = sweep.runs.row(i)
        batches = _batches(make_pack(sweep.runs.take([i])).runs, data, 3, torch.float64, "cpu")
        module = made(make, int(run_["init_seed"])).double()
        rate, decay = float(run_["lr"]), 0.1
        trained = [p for p in module.parameters() if p.requires_grad]
        optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=decay)
            if run_["optimiser"] == "sgd"
            else torch.optim.AdamW(trained, rate, weight_decay=decay)
        )
        for step in range(12):
            x, targets = batches.at(torch.tensor(step))
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[0].reshape(-1, 2, 3)), targets[0]).backward()
            nn.utils.clip_grad_norm_(trained, float(run_["clip"]))
            optimiser.step()
        with torch.no_grad():
            logits = module(torch.from_numpy(data.test.x).double().reshape(-1, 2, 3))
        y = torch.from_numpy(data.test.y)
        (row,) = found.filter(pl.col("run") == sweep.runs.key(i)).to_dicts()
        assert row["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-9)
        assert row["error_rate"] == pytest.approx(float((logits.argmax(1) != y).double().mean()))
        alone = mean_dimension(module.eval(), (2, 3), points=10, seed=int(run_["seed"]))
        assert (row["bmd"], row["bmd_se"]) == pytest.approx((float(alone.value), float(alone.error)), rel=1e-9)


def test_a_line_is_learned_exactly_and_its_loss_is_the_mean_squared_error(tmp_path: Path) -> None:
    grid = {**DOUBLE, "optimiser": "sgd", "lr": 0.1, "steps": [0, 2000], "bmd_points": 4}
    found = rows(module_toy.LINE, grid, tmp_path).sort("steps")
    assert (found["bmd"] - 1).abs().to_list() <= (4 * found["bmd_se"]).to_list()
    assert found["loss"][1] < 1e-12  # y is rounded to float32
    start = made(lambda: nn.Linear(1, 1), 0).double()
    x = torch.linspace(-1, 1, 64).double()[:, None]
    assert found["loss"][0] == pytest.approx(float((start(x) - 3 * x).square().mean().detach()), rel=1e-6)
    assert "error_rate" not in found.columns


def test_parameters_of_both_functions_are_axes() -> None:
    axes = {axis.name: axis for axis in module_toy.CLASSES.axes}
    assert {name: (axes[name].type, axes[name].kind, axes[name].default) for name in ("width", "noise", "items")} == {
        "width": (int, "shape", 8),
        "noise": (float, "shape", 0.5),
        "items": (int, "shape", 96),
    }
    assert axes["lr"].kind == "lane"


def test_the_mean_dimension_is_off_by_default_and_then_costs_nothing(tmp_path: Path) -> None:
    grids = ({}, {"bmd_points": 0}, {"bmd_points": 20})
    plain, off, on = (
        from_mapping({"name": "own", "experiment": module_toy.CLASSES, "grid": {**DOUBLE, "steps": 2, **grid}}).runs
        for grid in grids
    )
    assert plain.keys == off.keys != on.keys
    assert plain.keys.tolist() == [b"e8df76b989307dd375c4"]  # that of a version without the axis
    costs = [module_toy.CLASSES.cost(runs.row(0), runs.observed[0], None) for runs in (plain, off, on)]
    forward = module_toy.CLASSES._examined(plain.row(0)).forward_flops
    assert costs[0] == costs[1]
    assert costs[2].flops_eval - costs[0].flops_eval == (20 + 10_000 + 20 * 6) * forward
    found = rows(module_toy.CLASSES, {**DOUBLE, "steps": 2}, tmp_path)
    assert found["bmd"].to_list() == found["bmd_se"].to_list() == [None]


def test_a_sweep_file_names_it(cli: Cli) -> None:
    file = {
        "name": "own",
        "experiment": "module_toy:CLASSES",
        "grid": {"n_train": [20, 40, 80], "seed": [0, 1], "steps": 20},
    }
    Path("own.yaml").write_text(yaml.safe_dump({**file, "fit": [{"law": "power", "x": "n_train", "y": "loss"}]}))
    code, out, err = cli("run", "own.yaml", "--store", "s", "--executor", "inline")
    assert code == 0, err
    assert "6 ok of 6 cells" in out
    assert "loss = A n_train^-alpha" in out
    code, out, err = cli("plan", "own.yaml", "--set", "width=7", "--set", "n_train=97")
    assert (code, out) == (2, "")
    assert "grid.n_train: `n_train <= items of train` must hold, but got (n_train=97, items=96)" in err


def test_the_docs_example_runs_as_written(cli: Cli) -> None:
    text = (HERE.parent / "docs/packing.md").read_text()
    (code,), (file,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml"))
    Path("my_net.py").write_text(code)
    Path("mine.yaml").write_text(file)
    code, out, err = cli("plan", "mine.yaml")
    assert (code, "60 runs -> 2 packs" in " ".join(out.split())) == (0, True), err
    small = ("--set", "n_train=50,100,200", "--set", "seed=0", "--set", "steps=5", "--set", "width=16")
    code, out, err = cli("run", "mine.yaml", "--executor", "inline", *small)
    assert code == 0, err
    assert "3 ok of 3 cells" in out


X, Y = np.zeros((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((X, Y), 'must return {"train": (x, y), "test": (x, y)}, and may add "select", but returned tuple'),
        ({"train": (X, Y)}, "but returned ['train']"),
        ({"train": (X, Y), "test": (X, Y), "valid": (X, Y)}, "but returned ['test', 'train', 'valid']"),
        ({"train": (X, Y), "test": X}, "test: must be a pair (x, y), but is ndarray"),
        ({"train": (X, Y[:3]), "test": (X, Y)}, "train: x and y must have one row per item, at least one, but got 4"),
        ({"train": (X[:0], Y[:0]), "test": (X, Y)}, "but got 0 and 0"),
        ({"train": (X[:, 0], Y), "test": (X, Y)}, "x must have shape [items, ...], but got [4]"),
        ({"train": (X, Y - 1), "test": (X, Y)}, "classes from 0, one per item, but got shape [4] and a least value"),
        ({"train": (X, np.stack([Y, Y], 1)), "test": (X, Y)}, "but got shape [4, 2]"),
        ({"train": (X, Y), "test": (X, Y * 1.0)}, "y must be of one kind in all parts"),
        ({"train": (X, Y), "test": (np.zeros((4, 3)), Y)}, "train has [2] float64 and test has [3] float64"),
        ({"train": (X * [1, np.nan], Y), "test": (X, Y)}, "must be finite, but 4 of its 8 numbers are not"),
        ({"train": ([[1.0, 2.0], [3.0]], Y[:2]), "test": (X, Y)}, "train: x: must be an array of numbers, but is list"),
        ({"train": (X.astype(str), Y), "test": (X, Y)}, "must be an array of numbers, but has type <U"),
        ({"train": (np.full((4, 2), 2**24), Y), "test": (np.full((4, 2), 2), Y)}, "must be below 16,777,216"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on_is_refused(found: Any, words: str) -> None:
    with pytest.raises(SweepError) as caught:
        own_data(found, "data")
    assert words in str(caught.value)


def test_data_of_any_numeric_type_are_taken() -> None:
    found = own_data(
        {"train": (torch.ones(3, 2, dtype=torch.bfloat16), [True, False, True]), "test": (X[:2] > 0, Y[:2])}, ""
    )
    assert (found.train.x.dtype, found.test.x.dtype, found.classes, found.whole) == (np.float32, np.float32, 2, False)
    assert found.train.y.tolist() == [1, 0, 1]


def _raises() -> None:
    raise OSError("no disk")


@dataclass
class Unhashable:
    width: int = 4

    def __call__(self) -> nn.Module:
        return nn.Linear(1, self.width)


def unit() -> nn.Module:
    return nn.Linear(1, 1)


def pair() -> nn.Module:
    return nn.Linear(1, 2)


def _none(width: int | None = None) -> nn.Module:
    return nn.Linear(1, width or 1)


def _mixed() -> dict[str, Any]:
    return {"train": (X, Y * 2.0 - 1), "test": (X, Y * 1.0)}


def _few(tokens: int = 20) -> nn.Module:
    return nn.Sequential(nn.Embedding(tokens, 4), nn.Flatten(), nn.Linear(8, 2))


def _tokens() -> dict[str, Any]:
    return {"train": (X.astype(int), Y), "test": (np.full((4, 2), 20), Y)}


class Shared(nn.Module):
    """Two weights that are added, and a number: their gradients share memory. Its mask holds whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(6, 3))
        self.shift, self.scale = nn.Parameter(torch.randn(5)), nn.Parameter(torch.tensor(1.5))
        self.register_buffer("mask", torch.tensor([1, 1, 0, 1, 1, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x.flatten(1) * self.mask @ (self.one + self.two)).tanh() + self.shift.mean()


def shared() -> nn.Module:
    return Shared()


def drawn() -> dict[str, Any]:
    return {"train": (torch.randn(4, 2), np.random.randint(0, 2, 4)), "test": (X.astype(np.float32), Y)}


def test_data_drawn_without_a_generator_are_the_same_in_every_process() -> None:
    one, two = (PackedModule(module_toy.net, lambda: drawn(), name="own")._data({}) for _ in range(2))
    assert np.array_equal(one.train.x, two.train.x)
    assert np.array_equal(one.train.y, two.train.y)


def recurrent() -> nn.Module:
    class Last(nn.GRU):
        def forward(self, x: Any) -> Any:  # type: ignore[override]
            return super().forward(x)[0][:, -1]

    return Last(3, 3, batch_first=True)


def test_a_pack_whose_lanes_all_left_has_diverged(tmp_path: Path) -> None:
    grid = {**DOUBLE, "optimiser": "sgd", "lr": 1e300, "weight_decay": 1e300, "steps": [3, 4, 5]}
    found = rows(PackedModule(recurrent, module_toy.classes), grid, tmp_path)
    assert found["status"].to_list() == ["diverged"] * 3


def test_experiments_of_one_store_have_names_of_their_own() -> None:
    assert PackedModule(module_toy.net, module_toy.classes).name == "net-classes"
    assert PackedModule(module_toy.net, module_toy.line, loss="square").name == "net-line-square"


def _fails() -> nn.Module:
    raise ValueError("too deep")


@pytest.mark.parametrize(
    ("make", "grid", "words"),
    [
        (lambda: PackedModule(module_toy.net, module_toy.line, loss="mse"), {}, "loss must be one of cross_entropy"),
        (lambda: PackedModule(nn.Linear(1, 1), 3), {}, "data must be a function, but got int"),  # type: ignore[arg-type]
        (lambda: PackedModule(lambda size: unit(), module_toy.line, name="own"), {}, "but got `size`. Give it another"),
        (lambda: PackedModule(lambda **more: unit(), module_toy.line, name="own"), {}, "but got `**more`"),
        (lambda: PackedModule(lambda lr=1.0: unit(), module_toy.line, name="own"), {}, "not take an axis of training"),
        (lambda: PackedModule(lambda items=5: unit(), module_toy.classes, name="own"), {}, "must agree on 'items'"),
        (lambda: PackedModule(unit, module_toy.line), {}, "loss cross_entropy needs classes"),
        (lambda: PackedModule(module_toy.net, module_toy.classes, loss="square"), {}, "loss square needs real targets"),
        (lambda: PackedModule(unit, module_toy.line, loss="logistic"), {}, "needs y of -1 and +1"),
        (lambda: PackedModule(pair, module_toy.line, loss="square"), {}, "model must return 1 "),
        (lambda: PackedModule(unit, _raises), {}, "_raises: must return arrays, but raised"),
        (lambda: PackedModule(lambda: nn.Linear(1, 1), lambda: ()), {}, "name must be given where model and data has"),
        (lambda: PackedModule(partial(module_toy.net, width=4), module_toy.classes), {}, "where model has none"),
        (lambda: PackedModule(Unhashable(), module_toy.classes), {}, "model must be hashable, but Unhashable is not"),
        (lambda: PackedModule(_none, module_toy.line), {}, "but got `width = None`. Give it another default"),
        (lambda: PackedModule(module_toy.net, _mixed, loss="logistic"), {}, "of -1 and +1, but y of data holds 0"),
        (lambda: PackedModule(_few, _tokens), {}, "it raised IndexError: index out of range"),
        (lambda: module_toy.CLASSES, {"depth": [0]}, "(at width=8, depth=0)"),
        (lambda: PackedModule(_fails, module_toy.classes), {}, "must return a module, but raised ValueError: too deep"),
        (lambda: module_toy.CLASSES, {"precision": "tf32"}, "tf32 must run on a GPU"),
        (lambda: module_toy.CLASSES, {"bmd_points": [4, 7]}, "bmd_points: must be 0, or even and at least 4, but got"),
        (lambda: PackedModule(_few, _tokens), {"tokens": 21, "bmd_points": 4}, "holds whole numbers, such as tokens"),
    ],
)  # fmt: skip
def test_an_experiment_that_cannot_run_is_refused_before_it_does(
    make: Callable[[], PackedModule], grid: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(SweepError) as caught:
        rows(make(), grid, tmp_path)
    assert words in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))
