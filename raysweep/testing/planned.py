"""Checks of what a plan states, and of what planning imports."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.errors import SweepError, tail
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Runs
from raysweep.grid.values import Json, Value
from raysweep.pack import shape_groups
from raysweep.testing.trial import Reading, Trial, ok_rows, shown

__all__ = ["cost", "imports"]


_HEAVY = ("torch", "ray", "polars")
# The result goes to a file: the modules that are imported may print, close or redirect whatever they like, and what
# they leave for the end of the process (threads, exit handlers) is no part of planning.
_PLAN = """
import json, os, sys, traceback
asked = json.load(sys.stdin)
sys.path[:] = asked["path"]
found = {}
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in asked["heavy"]:
            files = [f.filename for f in traceback.extract_stack()[:-1] if "importlib" not in f.filename]
            found[name] = files[-1]  # the last of several that look for it is the one that imports it
sys.meta_path.insert(0, Watch())
import tempfile
from pathlib import Path
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import from_mapping
sweep = from_mapping(asked["sweep"], "sweep", [Path(folder) for folder in asked["folders"]])
with tempfile.TemporaryDirectory() as folder:
    make_plan(sweep, Store(folder), 1)
Path(asked["result"]).write_text(json.dumps({name: by for name, by in found.items() if name in sys.modules}))
os._exit(0)
"""


def cost(trial: Trial) -> Iterator[str]:
    """Compare a plan with the costs of its runs, one by one and in reverse order; then a plan of two runs that differ
    in one lane axis; then the costs with what rows report, where all cells are asked for and where one is. Without a
    column `flops` in the rows, nothing is known of the work itself: then only the sums are checked.
    """
    runs = trial.sweep.runs
    yield from _priced(trial, runs, "the sweep's runs")
    for i, (here, there) in enumerate(zip(trial.costs(runs), trial.reversed_costs, strict=False)):
        if here != there:
            yield (
                f"cost() must be a function of its arguments alone, but of run {shown(runs, i)} it is {here}, and "
                f"{there} where the last run is priced first. Keep no result under a key that leaves out an axis"
            )
            break
    for pack in trial.packs:
        first = pack.runs.row(0)
        for name, axis in trial.sweep.axes.items():
            if axis.kind_for(first) != "lane" or (other := _other(axis, first.get(name))) is None:
                continue
            both = _doubled(pack.runs, name, other)
            try:
                wrong = list(_priced(trial, both, f"two runs with {name}={first[name]} and {name}={other}"))
            except Exception:
                if _makes_sense(trial, both):
                    raise
            else:
                yield from wrong if wrong and _makes_sense(trial, both) else ()
    for pack, read in zip(trial.packs, trial.whole, strict=True) if trial.is_declared else ():
        yield from _reported(trial, pack.runs, read)
    for _, _, asked, read in trial.few:
        yield from _reported(trial, asked, read)


def _makes_sense(trial: Trial, runs: Runs) -> bool:
    try:
        trial.experiment.check(runs, trial.world_shape, trial.sweep.file.resources.gpus)
    except SweepError:
        return False
    return True


def _priced(trial: Trial, runs: Runs, which: str) -> Iterator[str]:
    groups = shape_groups(runs, trial.sweep.axes, trial.cost)
    each = trial.costs(runs)
    for name in ("flops", "flops_eval"):
        planned = sum(len(g.index) * getattr(g.cost, name) for g in groups)
        summed = sum(getattr(c, name) for c in each)
        if not np.isclose(planned, summed, rtol=1e-9):
            yield (
                f"a plan's {name} must be the sum over its runs, but {which} are planned at {planned:.6g} and cost "
                f"{summed:.6g}. Let cost() be a function of its arguments alone"
            )
    for group in groups:
        most = max(each[i].bytes for i in group.index.tolist())
        if group.cost.bytes < most * (1 - 1e-9):
            yield (
                f"bytes of a lane must bound every lane of the pack, but {which} are planned at "
                f"{group.cost.bytes:.6g} and take up to {most:.6g}. Let cost() be a function of its arguments alone"
            )


def _reported(trial: Trial, runs: Runs, read: Reading) -> Iterator[str]:
    """Compare the costs that rows report, where they do, with the planned costs.

    A run of one cell has no branches of a schedule and no other times: both are equal. The plan of a run of several
    cells is no less than what its last row reports, and no more than what all of its rows report together, which is
    the work of a training for each cell.
    """
    for name in ("flops", "flops_eval"):
        if name not in read.given:
            continue
        frame = ok_rows(read.rows).group_by("run").aggregate([(name, "max"), (name, "sum"), (name, "count")])
        said = {row["run"]: row for row in frame.to_pylist()}
        for i, each in enumerate(trial.costs(runs)):
            row, cells = said.get(runs.key(i)), runs.observed[int(runs.observed_code[i])].count
            if row is None or row[f"{name}_count"] < cells:
                continue  # some cell is not ok, or reports nothing
            least, most, planned = row[f"{name}_max"], row[f"{name}_sum"], getattr(each, name)
            if least * (1 - 1e-6) <= planned <= most * (1 + 1e-6):
                continue
            reports = f"{least:.6g}" if cells == 1 else f"{least:.6g} at most and {most:.6g} over its {cells} cells"
            yield (
                f"cost() must state the {name} that a run's rows report, but run {shown(runs, i)} reports "
                f"{reports} and cost() states {planned:.6g}. Compute both in one function; where a run may stop before "
                f"its longest time, no plan knows its work: yield null as its {name}"
            )
            break


def imports(trial: Trial) -> Iterator[str]:
    """Plan the sweep in a fresh process, and report the heavy packages that it imports."""
    if trial.sweep.given is not None:
        return
    file = trial.sweep.file.model_dump(mode="json", exclude_unset=True)
    asked = {
        "sweep": {k: v for k, v in file.items() if not (k == "experiment" and trial.sweep.file.command)},
        "folders": [str(folder.absolute()) for folder in trial.sweep.folders],
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "heavy": _HEAVY,
    }
    with tempfile.TemporaryDirectory(prefix="raysweep-") as folder:
        result = Path(folder) / "imports.json"
        asked["result"] = str(result)
        done = subprocess.run(
            [sys.executable, "-c", _PLAN],
            input=json.dumps(asked).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        found = json.loads(result.read_text()) if result.exists() else None
    if found is None:
        said = tail(done.stderr.decode(errors="replace"), 6) or f"it ended with exit code {done.returncode}"
        yield f"a fresh process must be able to plan the sweep, but could not:\n{said}"
        return
    for name, by in found.items():
        yield (
            f"planning must import none of {', '.join(_HEAVY)}, but imports {name} (by {by}). Import it inside run(), "
            "where it is used"
        )


def _other(axis: Axis, value: Value | None) -> Value | None:
    """Another value that a lane axis may take; None where none is known."""
    if axis.type is Json or value is None:
        return None
    tried: list[Any] = [v for v in axis.choices if v != value]
    if isinstance(value, bool):
        tried = [not value]
    elif isinstance(value, int | float) and not tried:
        tried = [value * 2, value * 8, value + 1, value / 2, axis.low, axis.high]
    for other in tried:
        try:
            parsed = axis.parse(other, "contract")
        except SweepError:
            continue
        if parsed != value:
            return parsed
    return None


def _doubled(runs: Runs, name: str, other: Value) -> Runs:
    """The first run twice, with another value of one axis; the axes that follow it stay."""
    two = runs.take(np.array([0, 0]))
    values = {**two.values, name: (two.row(0)[name], other)}
    return replace(two, values=values, codes={**two.codes, name: np.array([0, 1])})
