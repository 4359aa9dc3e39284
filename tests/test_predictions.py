"""Predictions of larger scales: made before they run, never changed, and scored when they have ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raysweep.cli.status import lines
from raysweep.executors import make_executor
from raysweep.forget import choose, drop_statements
from raysweep.predictions import kept
from raysweep.reports import make_report
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.current import current

SWEEP: dict[str, Any] = {
    "name": "ahead",
    "experiment": "adaptive_toy:train",
    "grid": {"size": {"geom": [10, 1000, 8]}, "seed": {"range": 2}, "bend": [0, 1e9]},
    "fit": [{"law": "power", "x": "size", "y": "loss", "by": ["bend"]}],
}
LARGE = [10, 19, 37, 72, 139, 268, 518, 1000, 10000, 30000]


def test_larger_scales_are_predicted_before_they_run_and_scored_after(
    make_sweep: Callable[..., Sweep], memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make_executor("inline")
    small = make_sweep(SWEEP)
    run(small, memory_store, executor)
    assert kept(memory_store) == []
    larger = make_sweep(SWEEP, {"size": LARGE})
    seen: list[int] = []
    go = type(executor).run

    def watched(self: Any, *arguments: Any) -> None:
        seen.append(len([one for one in kept(memory_store) if one.score is None]))
        go(self, *arguments)

    monkeypatch.setattr(type(executor), "run", watched)
    run(larger, memory_store, executor)
    assert seen == [4]  # two scales of two groups, before anything of them ran
    found = kept(memory_store)
    assert [one.x["size"] for one in found] == [1e4, 3e4] * 2
    assert {(one.fit["group"]["bend"], one.x["size"]) for one in found} == {
        (b, s) for b in (0, 1e9) for s in (1e4, 3e4)
    }
    for one in found:
        assert one.own is not None
        assert one.conformal is not None
        assert one.value == pytest.approx(3 * one.x["size"] ** -0.4, rel=0.15)
        assert one.own[0] < one.value < one.own[1]
        assert one.bent is not None
        assert one.bent[0] <= one.own[0] < one.own[1] <= one.bent[1]
        assert one.level is not None
        assert one.beyond == pytest.approx(one.x["size"] / 1000)
        assert one.score is not None
        assert one.score["runs"] == 2
        assert 0 <= one.score["in_own"] <= one.score["in_bent"] <= 1
    before = [memory_store.read(f"predictions/{name}") for name, _ in memory_store.list("predictions")]
    run(make_sweep(SWEEP, {"size": LARGE, "seed": {"range": 3}}), memory_store, executor)
    assert [memory_store.read(f"predictions/{name}") for name, _ in memory_store.list("predictions")] == before
    page = " ".join(lines(status(memory_store)))
    assert "predictions made before the runs: 4, of which 4 are scored." in page
    assert "of 8 runs lie inside the law's own 95 % interval." in page
    assert "if the law may bend [" in page
    assert ", conformal at 95 % [" in page
    ledger = current(memory_store).ledger
    gone = choose(memory_store, "size = 30000").table.column("cell")
    ledger.forget(gone, "a bad machine", "")
    drop_statements(memory_store)
    assert {one.x["size"]: one.score and one.score["runs"] for one in kept(memory_store)} == {1e4: 3, 3e4: None}
    current(memory_store).ledger.restore(None)
    drop_statements(memory_store)
    assert [one.score and one.score["runs"] for one in kept(memory_store)] == [3] * 4
    assert any("predicted" in line and "measured" in line for line in make_report(memory_store).findings)


def test_a_grid_of_large_scales_alone_is_predicted_from_the_other_grids_of_the_store(
    make_sweep: Callable[..., Sweep], memory_store: Store
) -> None:
    executor = make_executor("inline")
    run(make_sweep(SWEEP, {"bend": 0}), memory_store, executor)
    assert kept(memory_store) == []
    run(make_sweep(SWEEP, {"bend": 0, "size": [10000]}), memory_store, executor)
    (one,) = kept(memory_store)
    assert (one.x["size"], one.scales) == (1e4, 8)
    assert one.value == pytest.approx(3 * 1e4**-0.4, rel=0.15)
    assert one.score is not None
    assert one.score["runs"] == 2


def test_a_foreign_file_among_predictions_is_left_out(memory_store: Store) -> None:
    for content in (b"", b"[]", b'{"value": 1}'):
        memory_store.write("predictions/0.json", content)
        assert kept(memory_store) == []
