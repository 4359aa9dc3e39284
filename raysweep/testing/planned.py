"""Checks of what a plan states, and of what planning imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.errors import SweepError, tail
from raysweep.experiment import Cost
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Runs
from raysweep.grid.values import Json, Value
from raysweep.pack import shape_groups
from raysweep.testing.trial import Reading, Trial, ok_rows, shown

__all__ = ["cost", "imports"]


_HEAVY = ("torch", "ray", "polars")
_PLAN = """
import json, sys, traceback
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
print("\\n" + json.dumps({name: by for name, by in found.items() if name in sys.modules}))
"""


def cost_of(trial: Trial, runs: Runs, i: int) -> Cost:
    return trial.experiment.cost(runs.row(i), runs.observed[int(runs.observed_code[i])], trial.world_shape)


def cost(trial: Trial) -> Iterator[str]:
    """Compare a plan with the costs of its runs, one by one; then a plan of two runs that differ in one lane axis."""
    runs = trial.sweep.runs
    yield from _priced(trial, runs, "the sweep's runs")
    for pack in trial.packs:
        first = pack.runs.row(0)
        for name, axis in trial.sweep.axes.items():
            if axis.kind_for(first) != "lane" or (other := _other(axis, first.get(name))) is None:
                continue
            both = _doubled(pack.runs, name, other)
            try:
                trial.experiment.check(both, trial.world_shape, trial.sweep.file.resources.gpus)
            except SweepError:
                continue  # such a run makes no sense
            yield from _priced(trial, both, f"two runs with {name}={first[name]} and {name}={other}")
    for pack, read in zip(trial.packs, trial.whole, strict=True):
        yield from _reported(trial, pack.runs, read)


def _priced(trial: Trial, runs: Runs, which: str) -> Iterator[str]:
    groups = shape_groups(runs, trial.sweep.axes, lambda r, seen: trial.experiment.cost(r, seen, trial.world_shape))
    each = [cost_of(trial, runs, i) for i in range(len(runs))]
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
    """Compare the costs that rows report, where they do, with the planned costs."""
    for name in ("flops", "flops_eval"):
        if name not in read.given:
            continue
        frame = ok_rows(read.rows).group_by("run").aggregate([(name, "max")])
        said = dict(zip(frame["run"].to_pylist(), frame[f"{name}_max"].to_pylist(), strict=True))
        for i in range(len(runs)):
            found, planned = said.get(runs.key(i)), getattr(cost_of(trial, runs, i), name)
            one = runs.observed[int(runs.observed_code[i])].count == 1  # no branches of a schedule, no other times
            if found is None or (found <= planned * (1 + 1e-6) and not (one and found < planned * (1 - 1e-6))):
                continue
            yield (
                f"cost() must state the {name} that a run's rows report, but run {shown(runs, i)} reports "
                f"{found:.6g} and cost() states {planned:.6g}. Compute both in one function"
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
    done = subprocess.run(
        [sys.executable, "-c", _PLAN], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield f"a fresh process must be able to plan the sweep, but could not:\n{tail(done.stderr, 6)}"
        return
    for name, by in json.loads(done.stdout.splitlines()[-1]).items():  # the experiment's module may print, too
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
