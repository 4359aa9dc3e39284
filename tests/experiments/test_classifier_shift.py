"""Shifts of the classifier's training and test items, scored against both posteriors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CLASSIFIER_SWEEP

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells


def test_a_shift_and_its_distance_go_together(
    make_sweep: Callable[..., Sweep],
) -> None:
    for changed in ({"test_shift": "scale"}, {"train_kl": 0.1}):
        with pytest.raises(SweepError, match="a shift needs a distance, and a distance a shift"):
            _ = make_sweep(CLASSIFIER_SWEEP, changed).runs


def test_an_imbalance_is_below_that_of_a_single_class_or_refused_at_plan_time(
    make_sweep: Callable[..., Sweep],
) -> None:
    def runs(when: str, kl: float, **world: object) -> int:
        known = {"kind": "gaussian", "dim": 4, "classes": 3, **world}
        return len(make_sweep(CLASSIFIER_SWEEP, {f"{when}_shift": "imbalance", f"{when}_kl": kl}, world=known).runs)

    assert runs("train", 1.09) == 8
    with pytest.raises(SweepError, match=r"grid\.train_kl: .* 1\.099 nats .* 3 classes, but got \(train_kl=1\.1\)"):
        runs("train", 1.1)
    uneven = {"prior": (5, 4, 1)}  # a single class of probability .1 is log(10) = 2.303 nats away
    assert runs("test", 2.3, **uneven) == 8
    with pytest.raises(SweepError, match=r"grid\.test_kl: .* 2\.303 nats"):
        runs("test", 2.31, **uneven)


def test_shifted_items_are_scored_against_their_own_posterior_and_the_worlds(tmp_path: Path) -> None:
    grid = {
        "n_train": 512,
        "width": 16,
        "seed": 0,
        "steps": 800,
        "k": 1,
        "eval_items": 2048,
        "eval_share": 0,
        "lr": 0.05,
    }
    shifts = [
        {},
        {"test_shift": ["translation", "scale", "pixel"], "test_kl": 1.0},
        {"test_noise": 0.5},
        {"train_shift": "translation", "train_kl": 1.0},
        {"train_shift": "translation", "train_kl": 1.0, "test_shift": "translation", "test_kl": 1.0},
    ]
    raw = {**CLASSIFIER_SWEEP, "grid": {**CLASSIFIER_SWEEP["grid"], **grid, "concat": shifts}}
    store = Store(str(tmp_path / "s"))
    run(from_mapping(raw, "s.yaml", []), store, make_executor("inline"))
    found = {
        (row["train_shift"], "noise" if row["test_noise"] else row["test_shift"]): row
        for row in cells(store)[0].to_pylist()
    }
    plain = found["none", "none"]
    assert plain["epistemic_base"] is None
    for kind in ("translation", "scale"):
        row = found["none", kind]
        assert row["epistemic"] > plain["epistemic"]
        assert row["epistemic"] != pytest.approx(row["epistemic_base"], rel=0.05)
        assert row["total"] == pytest.approx(row["aleatoric"] + row["epistemic"], rel=1e-9)
    for kind in ("pixel", "noise"):
        row = found["none", kind]
        assert row["excess_nll"] is row["excess_error"] is None  # there is no exact posterior to compare with
        assert row["epistemic"] == pytest.approx(row["epistemic_base"], rel=1e-12)
        assert row["accuracy"] < plain["accuracy"]
    moved, both = found["translation", "none"], found["translation", "translation"]
    assert both["epistemic"] < 0.5 * moved["epistemic"]  # trained where it is tested
