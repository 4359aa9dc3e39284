"""Checks of the rows that a pack, and parts of it, return."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.experiment import Saved
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import STATUSES
from raysweep.testing.trial import NO_ROW, Memory, Reading, Trial, numbers, ok_rows, shown

__all__ = ["isolation", "packing", "resume", "rows"]


def rows(trial: Trial) -> Iterator[str]:
    """Check that every cell comes back once, typed and complete."""
    for pack, read in zip(trial.packs, trial.whole, strict=True):
        cells = pack.runs.cells
        if len(read.rows) > len(read.place):
            last = [read.place[cell] for cell in read.rows["cell"].to_pylist()]
            twice = next(i for i, at in enumerate(last) if at != i)
            yield (
                f"every cell must come back once, but of {cells} cells {len(read.rows) - len(read.place)} rows are "
                f"repeated, e.g. at {shown(pack.runs, int(read.rows['lane'][twice].as_py()))}. Yield each once"
            )
        silent = read.rows.filter(pc.equal(read.rows["error"], NO_ROW))
        if len(silent):
            yield (
                f"every cell asked for must come back, but {len(silent)} of {cells} do not, e.g. of run "
                f"{shown(pack.runs, int(silent['lane'][0].as_py()))}. Yield every value of `pack.observed`"
            )
        if read.raised:
            yield (
                f"run() must come to its end, but raised {read.raised}. What ends one run belongs in the status and "
                "the error of its rows: an exception takes every cell with it that was not yielded yet"
            )
        yield from _typed(trial, read)
    rows = pa.concat_tables([read.rows for read in trial.whole], promote_options="permissive")
    ok = ok_rows(rows)
    if not len(ok):
        yield f"some run of the sweep must end ok, but none does: {rows['error'][0].as_py()!r}"
    for metric in trial.experiment.metrics if len(ok) else ():
        if ok[metric.name].null_count == len(ok):
            yield f"every metric must be measured somewhere, but {metric.name} is null in all {len(ok)} rows"


def _typed(trial: Trial, read: Reading) -> Iterator[str]:
    for name in [metric.name for metric in trial.experiment.metrics] if read.given else ():
        type_ = read.given.get(name)
        if type_ is None:
            yield f"every declared metric must be yielded, but {name} is not. Yield it, or do not declare it"
        elif not (pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_null(type_)):
            yield f"a metric must be a number, but {name} is yielded as {type_}"
        elif not pc.all(pc.is_finite(ok_rows(read.rows)[name].drop_null())).as_py():
            yield f"a row that is ok must hold finite numbers or null, but {name} holds NaN or infinity. Yield null"
    endings = set(zip(read.rows["status"].to_pylist(), map(bool, read.rows["error"].to_pylist()), strict=True))
    for status, explained in sorted(endings):
        if status not in STATUSES:
            yield f"a row's status must be one of {', '.join(STATUSES)}, but is {status!r}"
        elif status != "ok" and not explained:
            yield f"a row that is {status} must say why in the column `error`, but does not"


def isolation(trial: Trial) -> Iterator[str]:
    """Compare how runs end alone with how they end in their pack."""
    for which, whole, part in trial.parts:
        yield from _ended_apart(trial, whole, part, which)


def packing(trial: Trial) -> Iterator[str]:
    """Compare what runs measure alone with what they measure in their pack."""
    for which, whole, part in trial.parts:
        yield from _apart(trial, whole, part, which)


def resume(trial: Trial) -> Iterator[str]:
    """Resume the whole pack, and its last run, from the first saved state and one halfway; check the cells left."""
    for pack, read, keep in zip(trial.packs, trial.whole, trial.keeps, strict=True):
        place = {pack.runs.key(i): i for i in range(len(pack))}
        for state, stage, done in keep.states[:: max(1, len(keep.states) // 2)]:
            for index in {tuple(range(len(pack))), (len(pack) - 1,)}:
                left = subtract(pack.runs.take(np.array(index)), done)
                if not len(left):
                    continue
                memory = Memory(Saved(state, [place[left.key(i)] for i in range(len(left))], len(pack), stage))
                resumed = trial.read(left, memory)
                which = f"a pack of {len(left)} runs resumed from a saved state"
                yield from _ended_apart(trial, read, resumed, which)
                yield from _apart(trial, read, resumed, which)
                if not memory.was_read:
                    yield "a state that is saved must be used by a later try, but `context.keep.saved` is not read"


def _ended_apart(trial: Trial, whole: Reading, part: Reading, which: str) -> Iterator[str]:
    """Report the first run that ends differently than in its pack."""
    for cell, ended in zip(part.rows["cell"].to_pylist(), part.rows["status"].to_pylist(), strict=True):
        before = whole.rows["status"][whole.place[cell]].as_py()
        if ended != before:
            why = whole.raised if before == "failed" else part.raised
            yield (
                f"a run must end as it does alone, but {which} is {ended} and in its pack {before}"
                f"{f' ({why})' if why else ''}. Catch what one run raises, and give its rows a status and an error"
            )
            return


def _apart(trial: Trial, whole: Reading, part: Reading, which: str) -> Iterator[str]:
    """Report the first number that differs from the whole pack's."""
    before = whole.rows.take(pa.array([whole.place[cell] for cell in part.rows["cell"].to_pylist()]))
    both = pc.and_(pc.equal(before["status"], "ok"), pc.equal(part.rows["status"], "ok"))
    before, after = before.filter(both), part.rows.filter(both)
    for name in ("flops", "flops_eval", *(metric.name for metric in trial.experiment.metrics)):
        one, other = numbers(before, name), numbers(after, name)
        usual = np.abs(numbers(ok_rows(whole.rows), name))
        floor = float(np.median(usual[np.isfinite(usual)])) if np.isfinite(usual).any() else 0.0
        scale = np.maximum(np.fmax(np.abs(one), np.abs(other)), floor)
        apart = (np.abs(one - other) > trial.tolerance * scale) | (np.isnan(one) != np.isnan(other))
        if apart.any():
            i = int(np.argmax(apart))
            yield (
                f"{which} must give the rows of its whole pack within {trial.tolerance:g}, but {name} is "
                f"{other[i]:.12g} instead of {one[i]:.12g}. Let a run depend on its own axes alone: draw random "
                "numbers by its seed, not by its place in the pack, and save all that training changes"
            )
            return
