"""A user's `def train(config) -> dict | iterable of dicts` as an experiment.

Every axis is a shape axis (one run a program) unless the sweep says `observed`. `config` holds one value per
axis, and for each observed axis the tuple of values asked for; each dict returned or yielded holds the observed
values it was measured at, and metrics.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysweep.axes import RANGES, Axis, Value
from raysweep.errors import SweepError, nearest, tail
from raysweep.experiment import RESERVED, Context, Cost, Metric, WorldShape
from raysweep.formula import is_formula
from raysweep.grid import derived_values
from raysweep.runs import Observed, Runs

__all__ = ["FunctionExperiment", "infer_axes", "source_sha"]


@dataclass(frozen=True)
class FunctionExperiment:
    """Runs a user's function once per run. Its metrics are whatever it returns."""

    name: str
    function: Callable[[dict[str, Any]], Any]
    axes: Sequence[Axis]
    version: int = 1
    metrics: Sequence[Metric] = ()
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Unknown: nothing is assumed about a user's function."""
        return Cost()

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Any combination of axes is the user's to judge."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """One batch per measured row. A raised error fails its run only, with the tail of the traceback."""
        kinds: dict[str, type] = {}  # of each metric, as first met
        for lane in range(len(pack)):
            observed = pack.observed[int(pack.observed_code[lane])]
            asked = {values: dict(zip(observed.names, values, strict=True)) for values in observed.cells.values()}
            config = {**pack.row(lane), **{n: observed.values(n) for n in observed.names}}
            reason = ""
            try:
                returned = self.function(config)
                if isinstance(returned, str) or not isinstance(returned, Iterable):
                    raise TypeError(f"{self.name} must return a dict or yield dicts, but returned {returned!r}")
                for row in [returned] if isinstance(returned, Mapping) else returned:
                    plain = self._plain(row)
                    values = self._observed_values(plain, observed)
                    measured = self._metrics(plain, kinds) | dict(zip(observed.names, values, strict=True))
                    batch = pa.RecordBatch.from_pylist([{"lane": lane, **measured}])
                    asked.pop(values, None)
                    yield batch
            except (Exception, SystemExit):  # sys.exit() in a user's function ends its run, not the sweep
                reason = tail(traceback.format_exc())
            for missing in asked.values():
                told = reason or f"the function returned no row with {missing}"
                yield pa.RecordBatch.from_pylist([{"lane": lane, **missing, "status": "failed", "error": told}])

    def _plain(self, row: Any) -> dict[str, Any]:
        """A row of plain Python values: scalars of numpy and torch are unwrapped."""
        if not isinstance(row, Mapping):
            raise TypeError(f"{self.name} must return or yield dicts, but got {row!r}")
        plain: dict[str, Any] = {}
        for name, value in row.items():
            if not isinstance(name, str) or name in RESERVED:
                raise ValueError(f"a metric needs a name of its own, but {name!r} is a column of every ledger")
            try:
                plain[name] = value.item() if hasattr(value, "item") else value
            except (ValueError, RuntimeError):
                plain[name] = value  # an array of several numbers: refused below, by name
            if not isinstance(plain[name], bool | int | float | str):
                raise TypeError(f"a row must hold numbers and words, but {name} is {value!r}")
        return plain

    def _observed_values(self, row: Mapping[str, Any], observed: Observed) -> tuple[Value, ...]:
        missing = [n for n in observed.names if n not in row]
        if missing:
            raise KeyError(f"a row of {self.name} must hold its observed axes, but lacks {missing}: {dict(row)!r}")
        types = {a.name: a for a in self.axes}
        return tuple(types[n].parse(row[n], "a row's observed value") for n in observed.names)

    def _metrics(self, row: Mapping[str, Any], kinds: dict[str, type]) -> dict[str, Any]:
        """Metrics as floats and words; a NaN or infinite number makes its row diverged, as in every experiment."""
        axes = {a.name for a in self.axes}  # the ledger knows their values
        found = {k: v if isinstance(v, str) else float(v) for k, v in row.items() if k not in axes}
        for name, value in found.items():
            if kinds.setdefault(name, type(value)) is not type(value):
                raise TypeError(f"a metric must be a number or a word in all rows, but {name} is now {value!r}")
        bad = [k for k, v in found.items() if isinstance(v, float) and not math.isfinite(v)]
        return {**found, "status": "diverged", "error": f"not finite: {', '.join(bad)}"} if bad else found


def infer_axes(grid: Mapping[str, Any], observed: Sequence[str], where: str) -> tuple[Axis, ...]:
    """Axes of a plain function: every name in the grid, typed by its values; `seed` and `..._seed` are replicates.

    Raises:
        SweepError: `observed` names no axis of the grid, or values of one axis mix types.
    """
    values: dict[str, list[Any]] = {}
    _collect(grid, values)
    for name in observed:
        if name not in values:
            raise SweepError(f"{where}: observed must name axes of the grid, but got {name!r}. {nearest(name, values)}")
    plain = {n: [v for v in found if not is_formula(v, values)] for n, found in values.items()}
    derived = {n for n, found in values.items() if len(plain[n]) < len(found)}
    axes = {n: _axis(n, found, observed, where) for n, found in plain.items() if n not in derived}
    if derived:
        try:
            computed = derived_values(grid, axes, derived)
        except SweepError as error:
            raise SweepError(f"{where}: {error}") from error
        axes |= {n: _axis(n, [*plain[n], *(found or [0.0])], observed, where) for n, found in computed.items()}
    return tuple(axes[name] for name in values)


def _axis(name: str, found: Sequence[Any], observed: Sequence[str], where: str) -> Axis:
    return Axis(
        name,
        _type_of(name, found, where),
        "observed" if name in observed else "shape",
        role="seed" if name == "seed" or name.endswith("_seed") else "",
    )


def _collect(grid: Any, into: dict[str, list[Any]]) -> None:
    for key, entry in grid.items() if isinstance(grid, Mapping) else ():
        parts = list(entry) if isinstance(entry, list | tuple) else [entry]
        if key in ("zip", "concat"):
            for part in parts:
                _collect(part, into)
        elif key == "when":
            for part in parts:
                _collect(part.get("then", {}) if isinstance(part, Mapping) else {}, into)
        elif key == "exclude":
            continue
        elif isinstance(entry, Mapping) and len(entry) == 1 and next(iter(entry)) in RANGES:
            ends = next(iter(entry.values()))
            ends = list(ends) if isinstance(ends, list | tuple) else [ends]
            if next(iter(entry)) == "linear" and len(ends) == 3 and all(type(e) is int for e in ends) and ends[2] > 1:
                step = (ends[1] - ends[0]) / (ends[2] - 1)  # 0 to 1 in 11 points is not about whole numbers
                ends = [*ends[:2], int(step) if step == int(step) else step]
            into.setdefault(key, []).extend(ends[:2] if next(iter(entry)) == "geom" else ends)
        else:
            into.setdefault(key, []).extend(parts)


def _type_of(name: str, values: Sequence[Any], where: str) -> type:
    types = {type(v) for v in values}
    if types == {int, float}:
        return float
    if len(types) != 1 or not types <= {bool, int, float, str}:
        raise SweepError(f"{where}: axis {name} must have values of one type, but got {list(values)!r}")
    return types.pop()


def source_sha(experiment: FunctionExperiment) -> str:
    """Hash of the function's module as it stands, so that a change without a new `version` can be warned of."""
    try:
        text = inspect.getsource(inspect.getmodule(experiment.function) or experiment.function)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
