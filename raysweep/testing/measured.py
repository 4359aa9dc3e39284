"""Checks of the rows that a pack, and parts of it, return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.experiment import Saved
from raysweep.grid.runs import Runs
from raysweep.grid.values import Json
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import STAMPS, STATUSES
from raysweep.testing.trial import (
    NO_ROW,
    Memory,
    Reading,
    Trial,
    is_number,
    is_text,
    numbers,
    observed_values,
    ok_rows,
    shown,
)

__all__ = ["isolation", "packing", "resume", "rows"]

_PACKED = (
    "a run must give the same rows in every pack",
    "Let a run depend on its own axes alone: draw random numbers by its seed, not by its place in the pack, and save "
    "all that training changes",
)
_ASKED = (
    "a run must give the same rows whichever of its cells are asked for",
    "Let nothing that is measured change the training, and no schedule depend on the longest time asked for",
)
_PAIRS = 3  # pairs of neighbouring saved states that a pack is resumed from


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
        mistyped = list(_mistyped(trial, pack.runs, read))
        yield from mistyped
        silent = read.rows.filter(pc.equal(read.rows["error"], NO_ROW))
        if len(silent) and not mistyped:  # such rows match no cell
            yield (
                f"every cell asked for must come back, but {len(silent)} of {cells} do not, e.g. of run "
                f"{shown(pack.runs, int(silent['lane'][0].as_py()))}. Yield every value of `pack.observed`"
            )
        if read.raised:
            yield (
                f"run() must come to its end, but raised {read.raised}. What ends one run belongs in the status and "
                "the error of its rows: an exception takes every cell with it that was not yielded yet"
            )
        if read.unasked is not None and not mistyped and trial.is_declared:
            yield (
                f"a row must have values that some cell asks for, but one has {read.unasked}, and is dropped. "
                "Yield the values of `pack.observed`"
            )
        if read.altered:
            yield (
                f"run() must leave its pack as it is, but overwrites {', '.join(read.altered)}. Copy what changes: the "
                "same arrays become the axes of the rows"
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
    metrics, ok = [metric.name for metric in trial.experiment.metrics], ok_rows(read.rows)
    lacking = [name for name in metrics if name not in read.given]
    if lacking and len(ok):
        yield f"every declared metric must be yielded, but {', '.join(lacking)} is not. Yield it, or do not declare it"
    wrong = [(name, read.given[name]) for name in metrics if name in read.given and not is_number(read.given[name])]
    if wrong:
        said = ", ".join(f"{name} is yielded as {type_}" for name, type_ in wrong)
        yield f"a metric must be a number, but {said}. Yield a number or null"
    endless = [name for name in metrics if pc.any(pc.invert(pc.is_finite(ok[name]))).as_py()]
    if endless:
        yield (
            f"a row that is ok must hold finite numbers or null, but {', '.join(endless)} holds NaN or infinity. "
            "Yield null"
        )
    known = {"lane", *(axis.name for axis in trial.experiment.axes), *metrics, *STAMPS}
    if trial.is_declared and (more := sorted(set(read.given) - known)):
        yield (
            f"every column must be an axis, a declared metric or a stamp, but {', '.join(more)} is none. Declare it in "
            "`metrics`, with its unit and what it means, or leave it out"
        )
    endings = set(zip(read.rows["status"].to_pylist(), map(bool, read.rows["error"].to_pylist()), strict=True))
    for status, explained in sorted(endings):
        if status not in STATUSES:
            yield f"a row's status must be one of {', '.join(STATUSES)}, but is {status!r}"
        elif status != "ok" and not explained:
            yield f"a row that is {status} must say why in the column `error`, but does not"


def _mistyped(trial: Trial, runs: Runs, read: Reading) -> Iterator[str]:
    """Compare the types of observed columns with those of their axes."""
    for name in [name for name, values in observed_values(runs).items() if values and name in read.given]:
        axis, given = trial.sweep.axes[name], read.given[name]
        type_ = given.value_type if pa.types.is_dictionary(given) else given
        number = axis.type in (int, float) and is_number(type_)
        fits = number or {str: is_text(type_), bool: pa.types.is_boolean(type_), Json: True}.get(axis.type, False)
        if not fits:
            yield (
                f"an observed axis must be yielded in its own type, but {name} ({axis.type.__name__}) is yielded as "
                f"{type_}. Its rows match no cell"
            )


def isolation(trial: Trial) -> Iterator[str]:
    """Compare how runs end alone with how they end in their pack."""
    for which, whole, part in trial.parts:
        yield from _ended_apart(whole, part, which)


def packing(trial: Trial) -> Iterator[str]:
    """Compare what runs measure alone, and where one of their cells is asked for, with what they measure in their whole
    pack. The FLOPs to a cell may depend on the others: branches and evaluations add up.
    """
    for which, whole, part in trial.parts:
        yield from _apart(trial, whole, part, which)
    for cell, whole, asked, part in trial.few:
        which = f"a pack of {len(asked)} runs asked only for {cell}"
        yield from _ended_apart(whole, part, which)
        yield from _apart(trial, whole, part, which, _ASKED, stamps=())


def resume(trial: Trial) -> Iterator[str]:
    """Resume the whole pack and parts of it from several saved states; check the cells that are left."""
    for pack, read, keep in zip(trial.packs, trial.whole, trial.keeps, strict=True):
        place = {pack.runs.key(i): i for i in range(len(pack))}
        everything = np.arange(len(pack))
        halves = [part for part in np.array_split(everything, 2) if 0 < len(part) < len(pack)]
        parts = [everything, *halves, *([everything[-1:]] if len(pack) > 2 else [])]
        for number, at in enumerate(_spread(len(keep.states))):
            state, stage, done = keep.states[at]
            turn = parts[1:] if number == 0 else parts[1 + number % 3 :][:1]  # all of them once, then one by one
            for index in [everything, *turn]:
                left = subtract(pack.runs.take(index), done)
                if not len(left):
                    continue
                memory = Memory(Saved(state, [place[left.key(i)] for i in range(len(left))], len(pack), stage))
                resumed = trial.read(left, memory)
                which = (
                    f"a pack of {len(left)} runs resumed from state {at + 1} of {len(keep.states)} of {len(pack)} runs"
                )
                yield from _ended_apart(read, resumed, which)
                yield from _apart(trial, read, resumed, which)
                if not memory.was_read:
                    yield "a state that is saved must be used by a later try, but `context.keep.saved` is not read"


def _spread(states: int) -> list[int]:
    """Positions of pairs of neighbours among saved states, evenly spread: a fault may occur at every second state."""
    starts = np.linspace(0, max(states - 2, 0), _PAIRS).astype(int)
    return sorted({int(at) for start in starts for at in (start, start + 1) if at < states})


def _ended_apart(whole: Reading, part: Reading, which: str) -> Iterator[str]:
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


def _apart(
    trial: Trial,
    whole: Reading,
    part: Reading,
    which: str,
    rule: tuple[str, str] = _PACKED,
    stamps: Sequence[str] = ("flops", "flops_eval"),
) -> Iterator[str]:
    """Report the first number that differs from the whole pack's."""
    before = whole.rows.take(pa.array([whole.place[cell] for cell in part.rows["cell"].to_pylist()]))
    both = pc.and_(pc.equal(before["status"], "ok"), pc.equal(part.rows["status"], "ok"))
    before, after = before.filter(both), part.rows.filter(both)
    must, remedy = rule
    for name in (*stamps, *(metric.name for metric in trial.experiment.metrics if metric.deterministic)):
        one, other = numbers(before, name), numbers(after, name)
        usual = np.abs(numbers(ok_rows(whole.rows), name))
        floor = float(np.median(usual[np.isfinite(usual)])) if np.isfinite(usual).any() else 0.0
        scale = np.maximum(np.fmax(np.abs(one), np.abs(other)), floor)
        apart = (np.abs(one - other) > trial.tolerance * scale) | (np.isnan(one) != np.isnan(other))
        if apart.any():
            i = int(np.argmax(apart))
            exempt = "" if name in stamps else f". If {name} measures the machine, declare it `deterministic=False`"
            yield (
                f"{must}, within {trial.tolerance:g}, but {name} of {which} is {other[i]:.12g} instead of "
                f"{one[i]:.12g}, as in its whole pack. {remedy}{exempt}"
            )
            return
