"""Rows reach the ledger in time, however long the next one takes, at a cost that does not grow with what is asked."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raysweep
from raysweep.executors import make_executor, work
from raysweep.grid.runs import Observed
from raysweep.ledger.log import Ledger
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping


@pytest.mark.parametrize("way", ["yield", "report"])
def test_a_row_is_in_the_ledger_while_the_next_is_far_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    store = Store(str(tmp_path / "store"))
    monkeypatch.setattr(work, "FLUSH_SECONDS", 0.3)

    def waits() -> float:
        end = time.monotonic() + 200
        while not store.list("ledger") and time.monotonic() < end:
            time.sleep(0.02)
        return float(Ledger(store).scan().table.num_rows)

    def yields(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        yield {"epoch": 1, "seen": 0.0}
        yield {"epoch": 2, "seen": waits()}

    def reports(config: dict[str, Any]) -> None:
        raysweep.report(epoch=1, seen=0.0)
        raysweep.report(epoch=2, seen=waits())

    code = yields if way == "yield" else reports
    raw = {"name": "w", "experiment": code, "observed": ["epoch"], "grid": {"n": 1, "epoch": [1, 2]}}
    run(from_mapping(raw), store, make_executor("inline"), stream=io.StringIO)
    assert sorted(Ledger(store).scan().table["seen"].to_pylist()) == [0.0, 1.0]


def test_matching_rows_with_cells_is_linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of what is asked is made once per run, not once per row."""
    asked: list[int] = []
    real = Observed.suffix
    monkeypatch.setattr(Observed, "suffix", lambda self, values: asked.append(1) or real(self, values))

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        for step in range(1, 2001):
            yield {"step": step, "loss": 1.0 / step}

    raw = {"name": "m", "experiment": train, "observed": ["step"], "grid": {"lr": 0.1, "step": {"range": [1, 2001]}}}
    outcome = run(from_mapping(raw), Store(str(tmp_path)), make_executor("inline"), stream=io.StringIO)
    assert outcome.counts.ok == 2000
    assert len(asked) < 20 * 2000  # 2000 rows times 2000 cells would be 4,000,000
