"""The scaling analysis of arXiv 2602.00315: what it reads off curves, its intervals, and the choice of rates."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP

from raysweep.errors import SweepError
from raysweep.progress import Progress
from raysweep.run import open_store
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping, load_sweep
from raysweep.yamlfile import read_yaml

ROOT = Path(__file__).parent.parent
SIZES = np.array([100.0, 1000.0, 10_000.0])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "analysis")
    return importlib.import_module("oracle_curves")


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "analysis")
    return importlib.import_module("oracle_rates")


def law(floor: float = 0.0) -> np.ndarray:
    """[sizes, seeds] of 2 N^-.5 + floor, with factors between seeds whose geometric mean is 1."""
    return (2 * SIZES**-0.5)[:, None] * np.array([0.8, 1.0, 1.25]) + floor


def test_exponent_and_hold_out_of_a_pure_power(read: ModuleType) -> None:
    assert read.exponent(SIZES, law()) == pytest.approx(0.5)
    assert read.missed(SIZES, law()) == pytest.approx(0.0, abs=1e-12)
    assert read.missed(SIZES, law(0.1)) > 0.25  # a floor that the power does not see
    assert read.local_slopes(SIZES, law()) == pytest.approx([0.5, 0.5])


def test_a_total_loss_is_flat_where_its_floor_dominates(read: ModuleType) -> None:
    assert read.flat_from(SIZES, law()) is None
    assert read.flat_from(SIZES, law(5.0)) == 0
    assert read.flat_from(SIZES, law(1.0)) == 1


def test_crossing_of_the_floor(read: ModuleType) -> None:
    epistemic, floor = 2 * SIZES**-0.5, np.full(3, 0.1)
    assert read.crossing(SIZES, epistemic, floor) == pytest.approx(400.0)
    assert read.crossing(SIZES, epistemic, floor / 100) is None


def frame(n: int = 3, lr: tuple[float, ...] = (0.1,)) -> pl.DataFrame:
    rows = [
        {
            "run": f"{size}-{seed}-{rate}", "model": "mlp", "n_train": int(size), "seed": seed, "lr": rate,
            "steps": step, "pool": 40_000, "epistemic_select": abs(step - 20) + rate, "total": step + 1.0,
            "aleatoric": 1.0, "epistemic": float(step) + seed, "accuracy": 0.5, "bayes_accuracy": 0.6,
            "excess_error": 0.1,
        }
        for size in SIZES for seed in range(n) for rate in lr for step in (10, 20, 30)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_runs_stop_where_the_selection_sample_says(read: ModuleType) -> None:
    (one,) = read.curves("digits", frame())
    assert one.values["epistemic"].tolist() == [[20, 21, 22]] * 3
    assert one.steps.tolist() == [20, 20, 20]
    with pytest.raises(ValueError, match="Run the second stage"):
        read.curves("digits", frame(lr=(0.1, 0.2)))


def test_a_seed_that_lacks_a_size_is_left_out(read: ModuleType) -> None:
    rows = frame().filter((pl.col("seed") != 1) | (pl.col("n_train") != 1000))
    (one,) = read.curves("digits", rows)
    assert one.values["epistemic"].tolist() == [[20, 22]] * 3


def test_widening_is_what_seeds_of_one_pool_lack_in_spread(read: ModuleType) -> None:
    """Means of subsets of a pool: the variance of their mean over that which their spread suggests."""
    rng, pool, n, seeds, repeats = np.random.default_rng(0), 40, 10, 3, 20_000
    items = rng.standard_normal((repeats, pool))
    means = np.stack([rng.permuted(items, axis=1)[:, :n].mean(1) for _ in range(seeds)])
    lacking = means.mean(0).var() / (means.var(0, ddof=1).mean() / seeds)
    (one,) = read.curves("digits", frame().with_columns(pool=pl.lit(pool)))
    assert one.seeds == seeds
    assert one.widening(n) ** 2 == pytest.approx(lacking, rel=0.03) == pytest.approx(2.0, rel=0.03)
    assert read.widened(2.0, (1.0, 4.0), 2.0) == pytest.approx([0.0, 6.0])
    assert read.widened(2.0, (1.0, 4.0), 2.0, log=True) == pytest.approx([0.5, 8.0])
    assert read.widened(0.5, (0.2, 0.9), 2.0, within=(0, 1)) == pytest.approx([0.0, 1.0])


def cell(lr: float, seed: int, select: float | None, n: int = 100) -> dict[str, object]:
    status = "diverged" if select is None else "ok"
    return {
        "model": "mlp", "n_train": n, "lr": lr, "seed": seed, "status": status,
        "epistemic_select": select, "epistemic": 0.0 if lr == 1.0 else 9.0,
    }  # fmt: skip


def test_rates_are_chosen_by_the_mean_of_best_snapshots_on_the_selection_sample(rates: ModuleType) -> None:
    rows = [cell(0.1, 0, 0.5), cell(0.1, 0, 0.2), cell(0.1, 1, 0.4), cell(1.0, 0, 0.1), cell(1.0, 1, 0.6)]
    assert rates.chosen(rows)[0] == {"mlp": {100: 0.1}}
    found, ends = rates.chosen([*rows, cell(0.3, 0, 0.0), cell(0.3, 1, None)])
    assert found == {"mlp": {100: 0.1}}  # a rate at which a seed diverged is out
    assert ends == ["mlp at N = 100: 0.1 is at the end of the rates"]
    with pytest.raises(ValueError, match="one rate must train every seed"):
        rates.chosen([cell(0.1, 0, None), cell(0.1, 1, 0.3)])


def test_the_second_stage_has_fresh_seeds_and_one_rate_per_model_and_size(rates: ModuleType) -> None:
    path = ROOT / "sweeps/oracle_scaling.yaml"
    first, raw = load_sweep(path), read_yaml(path)
    world = first.file.world
    assert world is not None
    sizes = first.runs.values["n_train"]
    picked = {m: {n: first.runs.values["lr"][i] for i, n in enumerate(sizes)} for m in first.runs.values["model"]}
    second = from_mapping(rates.second({**raw, "world": world.model_dump()}, picked, 5)).runs
    assert set(first.runs.keys).isdisjoint(second.keys)
    rows = [second.row(i) for i in range(len(second))]
    assert len(rows) == 5 * sum(map(len, picked.values()))
    assert {row["seed"] for row in rows} == set(range(2, 7))
    assert all(row["lr"] == picked[str(row["model"])][int(row["n_train"])] for row in rows)


def test_a_store_that_is_not_the_first_stages_is_one_error(
    rates: ModuleType,
    tmp_path: Path,
    make_sweep: Callable[..., Sweep],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(store: str) -> str:
        monkeypatch.setattr("sys.argv", ["oracle_rates.py", store])
        with pytest.raises(SystemExit) as ended:
            rates.main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "must hold env.json" in refused(str(tmp_path / "nowhere"))
    for name, base, grid in (
        ("function", FUNCTION_SWEEP, {}),
        ("classifier", CLASSIFIER_SWEEP, {}),
        ("second", CLASSIFIER_SWEEP, {"seed": {"range": [2, 4]}, "width": 4, "concat": [{"model": ["mlp"]}]}),
    ):
        open_store(Store(str(tmp_path / name)), make_sweep(base, grid), Progress(io.StringIO))
        assert "error: STORE must be that of the first stage" in refused(str(tmp_path / name))
    first = make_sweep(CLASSIFIER_SWEEP, {"concat": [{"model": ["mlp"]}]})
    open_store(Store(str(tmp_path / "new")), first, Progress(io.StringIO))
    assert "error: store" in (said := refused(str(tmp_path / "new")))
    assert "must hold finished cells" in said
    with pytest.raises(SweepError, match="must have rows of every model, but has none of mlp"):
        rates.second(first.file.model_dump(mode="json"), {"vit": {32: 0.1}}, 5)
    assert not list(tmp_path.rglob("chosen.yaml"))
