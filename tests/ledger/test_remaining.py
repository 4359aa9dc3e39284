"""What is left of runs: against plain sets, and for texts that are no keys; in memory that does not grow with text."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from conftest import FUNCTION_SWEEP

from raysweep.grid.runs import KEY_LENGTH
from raysweep.ledger.remaining import locate, marks, subtract

ODD = ["", "short", "f" * KEY_LENGTH, "é" * KEY_LENGTH, "0" * KEY_LENGTH, None]


@pytest.fixture
def runs(make_sweep):
    return make_sweep(FUNCTION_SWEEP).runs


def cells_of(runs):
    return [runs.key(i) + s for i in range(len(runs)) for s in runs.observed[int(runs.observed_code[i])].cells]


@pytest.mark.parametrize("form", [list, pa.array, lambda t: pa.chunked_array([t[:3], t[3:]], pa.string())])
def test_cells_are_located_in_any_order_and_form(runs, form):
    cells = cells_of(runs)[::-1] + ODD
    found = locate(runs, form(cells)).tolist()
    keys = [k.decode() for k in runs.keys.tolist()]
    assert found == [keys.index(c[:KEY_LENGTH]) for c in cells[: -len(ODD)]] + [-1] * len(ODD)


def test_marks_are_equal_for_equal_cells_alone(runs):
    cells = cells_of(runs)
    found = marks(pa.chunked_array([cells, cells[:4]]))
    assert len(set(found.tolist())) == len(cells)
    assert found[len(cells) :].tolist() == found[:4].tolist()


def test_runs_that_lack_the_same_cells_share_a_set(make_sweep):
    runs = make_sweep(FUNCTION_SWEEP, {"seed": {"range": 50}}).runs
    by_run = np.array(cells_of(runs)).reshape(len(runs), 3)
    gone = [*by_run[:20, 0], *by_run[20:40, 1:].ravel(), *by_run[40:45].ravel()]
    left = subtract(runs, np.random.default_rng(0).permutation(gone).tolist())
    assert sorted(set(cells_of(runs)) - set(gone)) == sorted(cells_of(left))
    assert len(left) == len(runs) - 5
    assert len(set(left.observed_code.tolist())) == 3


def test_nothing_done_leaves_the_runs_themselves(runs):
    assert subtract(runs, []) is runs
    assert len(subtract(runs.take(np.array([], dtype=int)), ["x"])) == 0


PLAN = """
import sys
import numpy as np, pyarrow as pa
import raysweep.experiments.classifier
from raysweep.ledger.log import Ledger
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import from_mapping

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

grid = {"seed": {"range": 1000}, "lr": {"geom": [1e-4, 1, 20]}, "width": [8, 16, 24, 32, 40], "k": {"range": [1, 11]}}
world = {"kind": "gaussian", "dim": 8, "classes": 4}
raw = {"name": "b", "experiment": "classifier", "world": world, "grid": grid, "resources": {"lanes": 500}}
before = peak()
sweep = from_mapping(raw)
runs = sweep.runs
suffixes = list(runs.observed[0].cells)
store = Store(sys.argv[1])
for number, index in enumerate(np.array_split(np.arange(len(runs) // 2), 20)):
    keys = [runs.key(i) for i in index]
    cell = [k + s for k in keys for s in suffixes]
    rows = {"cell": cell, "run": [c[:20] for c in cell], "status": ["ok"] * len(cell)}
    rows["attempt"] = pa.array([1] * len(cell), pa.int32())
    Ledger(store).append(pa.table(rows), number)
plan = make_plan(sweep, store, slots=2)
packs = sum(1 for _ in plan.packs())
print(sweep.runs.cells, plan.runs.cells, packs, peak() - before)
"""


@pytest.mark.timeout(240)
def test_a_million_cells_half_of_them_done_are_planned_within_280_mib(tmp_path):
    done = subprocess.run([sys.executable, "-c", PLAN, str(tmp_path)], capture_output=True, text=True, check=True)
    cells, pending, packs, grown = (float(v) for v in done.stdout.split())
    assert (cells, pending, packs) == (1e6, 5e5, 100)
    assert grown < 280  # Python objects for each cell take more
