"""The toy regression runs packed, halved, resumed inside a later round, reported and exported, as any experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from regression_toy import REGRESSION_SWEEP

from raysweep.errors import PackError, SweepError
from raysweep.executors import Inline, keeping
from raysweep.executors.keeping import find
from raysweep.experiment import Context
from raysweep.export.records import read_records
from raysweep.ledger.log import Ledger
from raysweep.pack import Pack, halve, make_pack
from raysweep.reports import make_report
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.training import loop

SMALL = {"width": 8, "round": [0, 1, 2], "step": [8, 16, 40], "lr": [0.1, 0.2, 1e5]}
ORDER = ("lr", "richness", "seed", "round", "step")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOOK", 4)
    torch.set_num_threads(1)


@pytest.fixture
def sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    return make_sweep(REGRESSION_SWEEP, SMALL, resources={"checkpoint_seconds": 1e-6})


def rows(store: Store) -> pl.DataFrame:
    frame: Any = pl.from_arrow(Ledger(store).scan().table)
    return frame.sort(*ORDER).select(*ORDER, "run", "status", "loss", "loss_select", "labelled", "flops", "error")


def same(a: pl.DataFrame, b: pl.DataFrame, tolerance: float = 1e-9) -> None:
    numbers = ["loss", "loss_select"]
    assert a.drop(numbers).equals(b.drop(numbers))
    for name in numbers:
        assert a[name].is_null().equals(b[name].is_null())
        assert ((a[name] - b[name]).abs() <= tolerance * b[name].abs()).all()


@pytest.fixture
def whole(sweep: Sweep, tmp_path: Path) -> pl.DataFrame:
    """What an undisturbed run of the sweep gives."""
    store = Store(str(tmp_path / "whole"))
    outcome = run(sweep, store, Inline())
    assert (outcome.counts.failed, outcome.pending) == (0, 0)
    return rows(store)


def test_the_toy_learns_chooses_and_diverges(whole: pl.DataFrame) -> None:
    """So the tests below compare something."""
    assert len(whole) == 12 * 9
    assert set(whole.filter(pl.col("lr") == 1e5)["status"]) == {"diverged"}
    fine = whole.filter(pl.col("lr") < 1)
    assert set(fine["status"]) == {"ok"}
    first, last = (fine.filter((pl.col("round") == r) & (pl.col("step") == s)) for r, s in ((0, 8), (2, 40)))
    assert (last["loss"] < first["loss"]).all()
    assert fine["loss"].n_unique() == len(fine)
    assert whole.filter(pl.col("round") == 2)["labelled"].unique().to_list() == [72.0]


def losses(sweep: Sweep, pack: Pack) -> dict[tuple[str, int, int], float | None]:
    """{(run, round, step): loss} of a pack."""
    found = {}
    for batch in sweep.experiment.run(pack.runs, Context()):
        for row in batch.to_pylist():
            found[pack.runs.key(row["lane"]), row["round"], row["step"]] = row["loss"]
    return found


def test_lanes_alone_and_in_halves_give_what_the_pack_gives(whole: pl.DataFrame, sweep: Sweep) -> None:
    wanted = {(r["run"], r["round"], r["step"]): r["loss"] for r in whole.to_dicts()}
    first, second = halve(make_pack(sweep.runs))
    for part in (*halve(first), second, make_pack(sweep.runs.take(np.array([5])))):
        for place, loss in losses(sweep, part).items():
            assert loss == (None if wanted[place] is None else pytest.approx(wanted[place], rel=1e-9))


def kill(sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Run the sweep, saving as often as possible, until so many updates of its stack are done."""
    done, update = [0], loop._Stack._update

    def counted(stack: Any) -> None:
        done[0] += 1
        if done[0] > updates:
            raise PackError("killed")
        update(stack)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Stack, "_update", counted)
        patch.setattr(keeping, "_SHARE", 1e9)
        with pytest.raises(PackError, match="killed"):
            run(sweep, store, Inline())


@pytest.mark.parametrize(("updates", "stage", "step"), [(30, 0, 28), (2 * 40 + 22, 2, 20), (2 * 40 + 3, 1, 36)])
def test_a_run_killed_in_a_round_goes_on_inside_it(
    whole: pl.DataFrame,
    sweep: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    updates: int,
    stage: int,
    step: int,
) -> None:
    """In the third case a round had begun, and nothing of it was saved: the one before is finished again."""
    store = Store(str(tmp_path / "store"))
    kill(sweep, store, monkeypatch, updates)
    (kept,) = find(store)
    assert (kept.stage, kept.step) == (stage, step)
    steps: list[int] = []
    update = loop._Stack._update
    monkeypatch.setattr(loop._Stack, "_update", lambda stack: (steps.append(1), update(stack))[1])
    outcome = run(sweep, store, Inline())
    assert (outcome.counts.failed, outcome.pending) == (0, 0)
    assert len(steps) == 3 * 40 - (stage * 40 + step)
    same(rows(store), whole, tolerance=0.0)
    assert find(store) == []


def test_halves_go_on_from_the_whole_packs_state(
    whole: pl.DataFrame, make_sweep: Callable[..., Sweep], sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    kill(sweep, store, monkeypatch, 2 * 40 + 22)
    stacks: list[int] = []
    update = loop._Stack._update
    monkeypatch.setattr(loop._Stack, "_update", lambda stack: (stacks.append(len(stack.lanes)), update(stack))[1])
    halves = make_sweep(REGRESSION_SWEEP, SMALL, resources={"checkpoint_seconds": 1e-6, "lanes": 6})
    outcome = run(halves, store, Inline())
    assert (outcome.counts.failed, outcome.pending) == (0, 0)
    assert len(stacks) == 2 * 20
    assert max(stacks) <= 6
    same(rows(store), whole)


def test_a_state_past_what_is_asked_is_of_no_use(
    whole: pl.DataFrame, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows were lost and the state was not: cells of earlier rounds are asked for, so all is trained again."""
    store = Store(str(tmp_path / "store"))
    kill(sweep, store, monkeypatch, 2 * 40 + 22)
    for file in (tmp_path / "store").rglob("*.parquet"):
        file.unlink()
    assert Ledger(store).scan().table.num_rows == 0
    run(sweep, store, Inline())
    same(rows(store), whole, tolerance=0.0)


def test_it_is_reported_and_exported(sweep: Sweep, whole: pl.DataFrame, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "whole"))
    report = make_report(store)
    assert Path(report.page).is_file()

    assert [
        f
        for f in report.findings
        if f.startswith("power (round=0, width=8, lr=0.1, richness=0.5): loss = A step^-alpha")
    ]
    _, records = read_records(store)
    assert len(records) == 12
    for record in records:
        assert not {"round", "step"} & record.params.keys()
        mine = whole.filter((pl.col("run") == record.run) & pl.col("loss").is_not_null()).sort("round", "step")
        found = [(p.step, p.value) for p in record.points if p.name == "loss"]
        assert found == [(1000 * r["round"] + r["step"], r["loss"]) for r in mine.to_dicts()]


def test_a_step_beyond_its_round_is_refused(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"step <= length.*step=50, length=40"):
        run(make_sweep(REGRESSION_SWEEP, {"step": [50]}), Store(str(tmp_path)), Inline())


def test_the_rows_cost_is_the_planned_one(whole: pl.DataFrame, sweep: Sweep) -> None:
    row, observed = sweep.runs.row(0), sweep.runs.observed[0]
    assert sweep.experiment.cost(row, observed, None).flops == whole["flops"].max()
