"""A user's `def train(config)` as an experiment: the arguments it receives, and how its results become rows.

Every axis is a shape axis (each run is a separate program) unless the sweep says `observed`. `config` holds one value
per axis, and for each observed axis the tuple of values asked for; each dict returned, yielded or reported holds the
observed values it was measured at, and metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from raysweep.code import of_object
from raysweep.errors import tail
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.returned import Column, flattened, matched, not_finite, same_value, snapped
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.inside import Running, pause, resume, running
from raysweep.ledger.rows import OTHERWISE

__all__ = ["FunctionExperiment"]

_EVERY = 0.5  # seconds for which rows are gathered into one batch
_STOPPED = "stopped_at"
_MISSING = ("", "null", "none", "na", "n/a")  # words that stand for no number
_SHOWN = 3  # rows that matched no cell, shown in a reason


@dataclass(frozen=True)
class FunctionExperiment:
    """Runs a user's function once per run. Its metrics are whatever it returns.

    Attributes:
        call: The function of a configuration.
        code: What the user named: a function or class, whose source is inspected.
        watched: Metrics that must be finite: those that the sweep fits.
        signature: The defaults of the function's own arguments.
        kinds: For each metric seen in this process, whether it is a number or a word, and an example.
    """

    name: str
    call: Callable[[dict[str, Any]], Any]
    axes: Sequence[Axis]
    version: int = 1
    metrics: Sequence[Metric] = ()
    needs_world: bool = False
    code: Any = None
    watched: frozenset[str] = frozenset()
    signature: Mapping[str, Any] = field(default_factory=dict)
    kinds: dict[str, tuple[type, Any]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def imports_torch(self) -> bool:
        """Whether the function's own modules import torch anywhere."""
        return self.code is not None and "torch" in of_object(self.code).parts

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Unknown: nothing is assumed about a user's function."""
        return Cost()

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Nothing is checked: the user decides which combinations of axes make sense."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Batches of measured rows. An exception fails only its own run, with the tail of the traceback as reason."""
        gathered = time.monotonic()
        for lane in range(len(pack)):
            if lane and context.enough():
                break  # another worker may have a free slot
            yield from _Training(self, pack, lane, context).rows()
            if time.monotonic() - gathered > _EVERY:  # a batch costs milliseconds, however few rows it has
                yield from context.outbox.drain()
                gathered = time.monotonic()
        yield from context.outbox.drain()


@dataclass
class _Training:
    """One run of the function."""

    experiment: FunctionExperiment
    pack: Runs
    lane: int
    context: Context
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    measured: dict[tuple[Value, ...], None] = field(default_factory=dict)
    earlier: set[tuple[Value, ...]] = field(default_factory=set)  # measured before the checkpoint it continues from
    unasked: list[Any] = field(default_factory=list)
    first: Mapping[str, Any] = field(default_factory=dict)  # the row of a run with one cell
    refused: BaseException | None = None  # the error of a wrong row, even if the function swallowed it
    stopped: Any = None

    def __post_init__(self) -> None:
        self.observed = self.pack.observed[int(self.pack.observed_code[self.lane])]
        self.axes = {axis.name: axis for axis in self.experiment.axes}
        self.row = self.pack.row(self.lane)
        self.asked = dict.fromkeys(self.observed.cells.values())
        self.values = {n: frozenset(self.observed.values(n)) for n in self.observed.names}
        self.near = {n: snapped(values) for n, values in self.values.items()}
        self.began = time.monotonic()
        self.outbox = self.context.outbox

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Batches of its rows, one per half second; the rows left at the end are in the outbox."""
        config = {name: self.axes[name].plain(value) for name, value in self.row.items()}
        config |= {n: tuple(self.axes[n].plain(v) for v in self.observed.values(n)) for n in self.observed.names}
        key = self.pack.key(self.lane)
        reason, ended, waiting = "", False, False
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(self.context.hold(key)) if self.context.hold else None
            run = Running(key, self.accept, place, self._about, self._usable, self._resume)
            stack.enter_context(running(run))
            try:
                if self.experiment.imports_torch:
                    importlib.import_module("torch")  # else its first run would draw unseeded
                _set_seeds(config, key)
                gathered = time.monotonic()
                for _ in self._steps(config, run):
                    run.commit()
                    if time.monotonic() - gathered > _EVERY:
                        waiting = True
                        pause(run)
                        yield from self.outbox.drain()
                        resume(run)
                        waiting, gathered = False, time.monotonic()
                ended = True
            except BaseException as error:  # also Rust's, asyncio's and sys.exit(): it ends its run, not the sweep
                if waiting or self.context.interrupted(error):  # the pack is stopped, or the user presses Ctrl-C
                    raise
                reason = _reason(error) + self._hint(error)
                self.context.on_error(error)
            if self.refused is not None and (not reason or isinstance(self.refused, _ContradictionError)):
                reason = _reason(self.refused)  # even if it was swallowed, or raised in another thread
            (self.outbox.drop if reason.startswith(_ContradictionError.mark) else self.outbox.release)()
            if not reason:
                run.commit(end=True)
            elif all(cell in self.measured for cell in self.asked):
                print(f"raised after the last row:\n{reason}", file=sys.stderr)  # no row is lost: only the log says it
        for row in self._endings(reason, ended and run.reported + len(self.measured) > 0):
            self.outbox.put(row)

    def _steps(self, config: dict[str, Any], run: Running) -> Iterator[None]:
        """Call the function and take its rows, one per step."""
        returned = _rows_of(_mapping(self.experiment.call(config)))
        if isinstance(returned, Mapping):
            lacks_cell = not self.observed.names or any(n not in returned for n in self.observed.names)
            if not (run.reported and lacks_cell):
                self.accept(returned)
                self.once = not run.reported
            elif _STOPPED in returned:
                self.accept({_STOPPED: returned[_STOPPED]})
        elif returned is None:
            if not run.reported:
                raise TypeError(
                    f"{self.experiment.name} must return a dict, yield dicts or call raysweep.report(), "
                    "but returned None"
                )
        elif isinstance(returned, str) or not isinstance(returned, Iterable):
            raise TypeError(f"{self.experiment.name} must return a dict or yield dicts, but returned {returned!r}")
        else:
            try:
                for row in returned:
                    self.accept(row)
                    yield
                    if self.stopped is not None:
                        return
            finally:
                if hasattr(returned, "close"):
                    returned.close()

    once = False  # whether one dict was returned, which is no early stop of a loop

    def accept(self, row: Any) -> None:
        """Take one row, or raise an error that says what is wrong with it."""
        try:
            self._accept(_mapping(row))
        except BaseException as error:
            if self.refused is None:
                self.refused = error
            raise

    def _accept(self, row: Any) -> None:
        if not isinstance(row, Mapping):
            raise TypeError(f"{self.experiment.name} must return or yield dicts, but got {row!r}")
        stopped = row.get(_STOPPED)
        if stopped is not None:
            self.stopped = stopped
            if set(row) == {_STOPPED}:
                return
        missing = [n for n in self.observed.names if n not in row]
        if missing:
            raise KeyError(
                f"a row of {self.experiment.name} must hold its observed axes, but lacks {missing}: {dict(row)!r}"
            )
        cell = tuple(matched(self.axes[n], row[n], self.values[n], self.near[n]) for n in self.observed.names)
        self._check_axes(row)
        metrics = self._metrics({k: v for k, v in row.items() if k not in self.axes})
        if all(value is None for value in metrics.values()):
            raise ValueError(f"a row of {self.experiment.name} must hold a metric (not None), but got {dict(row)!r}")
        if cell not in self.asked:
            self.unasked.append(cell)
            return
        if cell in self.measured:
            self._second(cell, metrics)
        self.measured[cell] = None
        ready = {"lane": self.lane, **dict(zip(self.observed.names, cell, strict=True)), **metrics}
        ready |= {"training_id": self.id, "seconds": time.monotonic() - self.began}
        if len(self.asked) == 1:
            self.first = metrics
            self.outbox.hold(ready)  # until it is known that there is no second row
        else:
            self.outbox.put(ready)

    def _second(self, cell: tuple[Value, ...], metrics: Mapping[str, Column]) -> None:
        """Refuse a second row for a cell; the earlier rows are withdrawn at the end."""
        where = ", ".join(f"{n} = {v}" for n, v in zip(self.observed.names, cell, strict=True))
        first = self.first
        differ = [k for k in metrics if k in first and first[k] != metrics[k] and k not in ("status", "error")]
        example = f" ({differ[0]} was {first[differ[0]]!r}, now {metrics[differ[0]]!r})" if differ else ""
        raise _ContradictionError(
            f"a cell must have one row, but {self.experiment.name} gave a second one"
            + (f" for {where}" if where else "")
            + f"{example}. "
            + ("Give all that was measured there in one row, or name what else" if where else "Name what")
            + " changes from row to row in `observed:` of the sweep, and give it in each row"
        )

    def _check_axes(self, row: Mapping[str, Any]) -> None:
        for name, given in row.items():
            if name not in self.axes or name in self.observed.names:
                continue
            if not same_value(self.axes[name], self.row.get(name), given):
                held = repr(self.axes[name].plain(self.row[name])) if name in self.row else "absent"
                raise _ContradictionError(
                    f"{name} is an axis and {held} in this run, but the function gave {name} = {given!r}. "
                    "Give the measured value another name, or, if it changes along a run, name it in `observed:`"
                )

    def _metrics(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = dict(flattened(row))
        for name, value in found.items():
            if value is None:
                continue
            kind, example = self.experiment.kinds.setdefault(name, (type(value), value))
            if kind is not type(value):
                if kind is str:  # the word that an earlier run gave is the exception
                    self.experiment.kinds[name] = (type(value), value)
                    continue
                if str(value).strip().lower() in _MISSING:
                    found[name] = None
                    continue
                with contextlib.suppress(ValueError):
                    found[name] = float(value)
                    continue
                raise _ContradictionError(
                    f"a metric must be a number or a word in all rows, but {name} was {example!r} and is now {value!r}"
                )
        return found | not_finite(found, self.experiment.watched, {*OTHERWISE, _STOPPED})

    def _about(self) -> dict[str, Any]:
        done = [*self.earlier, *self.measured]
        return {"training_id": self.id, "cells": [list(cell) for cell in dict.fromkeys(done)]}

    def _usable(self, about: Mapping[str, Any]) -> bool:
        """Whether a checkpoint comes before every cell still to be measured: earlier cells cannot be measured again."""
        done = [tuple(cell) for cell in about.get("cells", ())]
        missing = [cell for cell in self.asked if cell not in done]
        for i in range(len(self.observed.names)):
            seen = [v for c in done if len(c) > i and isinstance(v := c[i], int | float)]
            left = [v for c in missing if isinstance(v := c[i], int | float)]
            if seen and len(left) == len(missing) and (not left or min(left) > max(seen)):
                return True
        return not done or not missing

    def _resume(self, about: Mapping[str, Any]) -> None:
        """Continue the training of a checkpoint: its earlier rows are in the ledger."""
        self.id = str(about.get("training_id") or self.id)
        self.earlier = {tuple(cell) for cell in about.get("cells", ())}

    def _endings(self, reason: str, ended: bool) -> Iterator[dict[str, Any]]:
        """A row for each cell that the run did not deliver, and for those withdrawn by a contradiction."""
        missing = [c for c in self.asked if c not in self.measured and c not in self.earlier]
        status = "failed"
        if reason.startswith(_ContradictionError.mark):
            reason = reason.removeprefix(_ContradictionError.mark)
            missing = list(self.asked)
        elif self.stopped is not None:
            status, reason = "skipped", f"the run stopped itself at {self.stopped} ({_STOPPED})"
        elif not reason and missing and ended and not self.once and (last := self._early(missing)):
            status = "skipped"
            reason = f"the run ended early, after {last}{self._stray()}; if that is intended, yield `{_STOPPED}`"
        for cell in missing:
            named = dict(zip(self.observed.names, cell, strict=True))
            said = reason or f"the function returned no row with {named}{self._stray()}"
            yield {
                "lane": self.lane, **named, "status": status, "error": said,
                "training_id": self.id, "seconds": time.monotonic() - self.began,
            }  # fmt: skip

    def _early(self, missing: Sequence[tuple[Value, ...]]) -> str:
        """The last measured value of an observed axis, if all missing cells lie beyond it, e.g. `epoch 2`; else ""."""
        for i, name in enumerate(self.observed.names):
            seen = [v for c in (*self.measured, *self.earlier) if isinstance(v := c[i], int | float)]
            lacking = [v for c in missing if isinstance(v := c[i], int | float)]
            if seen and len(lacking) == len(missing) and min(lacking) > max(seen):
                return f"{name} {max(seen)}"
        return ""

    def _hint(self, error: BaseException) -> str:
        """What to do where a function took the tuple of an observed axis for a number; else ""."""
        if not (isinstance(error, TypeError) and "tuple" in str(error) and self.observed.names):
            return ""
        name = self.observed.names[0]
        return f"\n{name} is observed: config[{name!r}] is the tuple of all values asked for. Train to the largest"

    def _stray(self) -> str:
        if not self.unasked:
            return ""
        some = "; ".join(
            ", ".join(f"{n} = {v!r}" for n, v in zip(self.observed.names, cell, strict=True))
            for cell in self.unasked[:_SHOWN]
        )
        return f"; {len(self.unasked):,} rows matched no cell, e.g. {some}"


class _ContradictionError(ValueError):
    """A row contradicts the run: none of the run's rows can be trusted."""

    mark = "\0"


def _reason(error: BaseException) -> str:
    """The tail of the traceback, from the user's code on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("raysweep."):
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # an exception's own code may raise whatever it is asked
        text = f"{''.join(traceback.format_tb(trace))}{type(error).__name__}"
    if isinstance(error, _ContradictionError):
        return _ContradictionError.mark + str(error)
    return tail(text)


def _mapping(row: Any) -> Any:
    """A row as a mapping: dataclasses, namespaces and single rows of pandas are converted."""
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    if isinstance(row, SimpleNamespace):
        return vars(row)
    if type(row).__module__.partition(".")[0] == "pandas" and hasattr(row, "to_dict") and getattr(row, "ndim", 0) == 1:
        return row.to_dict()
    return row


def _rows_of(returned: Any) -> Any:
    """A table of pandas or Polars as its rows; anything else as it is."""
    library = type(returned).__module__.partition(".")[0]
    if library == "pandas" and getattr(returned, "ndim", 0) == 2:
        return returned.to_dict("records")
    if library == "polars" and hasattr(returned, "iter_rows"):
        return returned.iter_rows(named=True)
    return returned


def _set_seeds(config: Mapping[str, Any], key: str) -> None:
    """Seed the global generators of Python, numpy and torch by the run's `seed` where it has one, else by its key."""
    seed = config.get("seed")
    number = seed if isinstance(seed, int) and not isinstance(seed, bool) else int(key[:15], 16)
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number % 2**63)
