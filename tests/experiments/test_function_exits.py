"""What a user's function may do without taking the sweep with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiments.inferred import infer_axes
from raysweep.ledger.log import CELLS
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping


def test_sys_exit_fails_its_run_only(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text(
        "import sys\ndef train(config):\n    if config['size'] == 2:\n        sys.exit(3)\n    return {'loss': 1.0}\n"
    )
    sweep = from_mapping({"name": "e", "experiment": "exits:train", "grid": {"size": [1, 2, 3]}}, "e.yaml", [tmp_path])
    outcome = run(sweep, Store(str(tmp_path / "store")), make_executor("inline"))
    assert (outcome.counts.ok, outcome.counts.failed) == (2, 1)
    (error,) = [e for e in pl.read_parquet(tmp_path / "store" / CELLS)["error"] if e]
    assert "SystemExit: 3" in error


def test_a_module_that_exits_at_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("raise SystemExit(5)\n")
    with pytest.raises(SweepError, match=r"must be importable, but got 'gone'.*SystemExit"):
        from_mapping({"name": "e", "experiment": "gone:train", "grid": {"a": 1}}, "e.yaml", [tmp_path])


@pytest.mark.parametrize(
    ("spec", "type_"),
    [
        ({"linear": [0, 1, 11]}, float),
        ({"linear": [0, 10, 11]}, int),
        ({"geom": [64, 4096, 7]}, int),
        ([1, 2.5], float),
    ],
)
def test_ranges_are_whole_only_where_every_point_is(spec: Any, type_: type) -> None:
    (axis,) = infer_axes({"a": spec}, (), "s.yaml")
    assert axis.type is type_
