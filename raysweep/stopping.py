"""Rounds of a sweep that stops itself: which runs of its grid were asked for so far, and why, from the ledger alone.

The coarse pass runs every setting of the grid at a few seeds; each later round adds the runs that `adaptive.look`
chooses from the rows of the rounds before it. A round is a barrier: the next one is computed when all of its runs have
ended. As nothing but the ledger decides, a sweep that was killed replays its rounds and continues in the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep import adaptive
from raysweep.adaptive import Look
from raysweep.errors import SweepError
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Runs
from raysweep.groups import Array, Group, Settings, Whole, measured, settings_of
from raysweep.laws.request import FitRequest
from raysweep.ledger.log import Ledger
from raysweep.ledger.own import Own
from raysweep.ledger.rows import with_accepted
from raysweep.progress import Progress
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.current import Current
from raysweep.sweep.provenance import accepted_codes
from raysweep.sweep.schema import SweepFile
from raysweep.sweep.stale import other_codes
from raysweep.sweep.stored import stored_declaration
from raysweep.sweep.until import Target, Until
from raysweep.terminal import counted

__all__ = [
    "Judged",
    "State",
    "check_coarse",
    "check_code",
    "coarse_pass",
    "replay",
    "run_rounds",
    "state_of",
    "stored_state",
]

_FEW = 8  # settings below which the coarse pass has two seeds of each
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Judged:
    """One wanted interval of one group after a round."""

    group: Group
    target: Target
    look: Look

    @property
    def done(self) -> bool:
        return bool(self.look.reached) or bool(self.look.bent)

    @property
    def brief(self) -> str:
        """Its interval in a few words."""
        low, high = self.group.interval(self.target, float(self.look.half))
        of = f" ({self.group.name})" if self.group.name else ""
        return f"{self.target.text}{of} = {self.group.estimate(self.target):.4g} [{low:.4g}, {high:.4g}]"

    def to_json(self) -> dict[str, Any]:
        low, high = self.group.interval(self.target, float(self.look.half))
        numbers = {
            "value": self.group.estimate(self.target),
            "ci_low": low,
            "ci_high": high,
            "unseen_bend": float(self.look.bend.unseen),
            "p_law": float(self.look.bend.p),
        }
        return {
            "group": dict(self.group.fit.group),
            "target": self.target.text,
            "wanted": self.target.width,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "rivals": [one.to_json() for one in self.group.fit.rivals or ()],
            "holdout_rmse_log": None if self.group.fit.holdout is None else self.group.fit.holdout.rmse_log,
            "bent": bool(self.look.bent),
            "reached": bool(self.look.reached),
        }


@dataclass
class State:
    """Where a sweep that stops itself is.

    Attributes:
        rounds: Rounds asked for so far.
        chosen: [runs] whether each run of the grid was asked for.
        todo: [runs] those of them that have not ended; none where the sweep is over.
        judged: What the last complete round gave.
        over: Why no further round is asked for; empty while there is one.
        spent: Cost so far, in units of `Group.cost`; `hours` in hours of pack time.
    """

    rounds: int
    chosen: npt.NDArray[np.bool_]
    todo: npt.NDArray[np.bool_]
    judged: list[Judged] = field(default_factory=list)
    over: str = ""
    spent: float = 0.0
    hours: float = 0.0


def replay(
    until: Until,
    request: FitRequest,
    runs: Runs,
    axes: Mapping[str, Axis],
    table: pa.Table,
    pending: npt.NDArray[np.bool_],
    gpus: float,
) -> State:
    """The state of a sweep from its rows.

    Args:
        request: What is fitted.
        table: One row per cell, as `sweep.current.cells` gives them.
        pending: [runs] whether a run of the grid is still to be done.
        gpus: That a pack holds.

    Raises:
        SweepError: The sweep cannot be judged: no seeds, a target that the law does not have, or several rows per run.
    """
    settings = settings_of(runs, axes)
    counts = _coarse(until, settings)
    confirmed: dict[tuple[str, str], int] = {}
    where = {key: i for i, key in enumerate(key.decode() for key in runs.keys.tolist())}
    place = np.array([where.get(key, -1) for key in table.column("run").to_pylist()], dtype=np.int64)
    state = State(0, np.zeros(len(runs), dtype=bool), np.zeros(len(runs), dtype=bool))
    while not state.over:
        chosen = settings.first(counts)
        state = State(state.rounds + 1, chosen, chosen & pending, state.judged, "", state.spent, state.hours)
        if state.todo.any():
            return state
        here = table.filter(pa.array((place >= 0) & chosen[place]))
        groups, cost, seconds = measured(here, request, runs, settings)
        state.spent = float((counts * cost).sum())
        state.hours = float((counts * seconds).sum()) / 3600
        wanted, state.judged, state.over = _judge(until, groups, settings, counts, cost, state, confirmed, gpus)
        if not state.over and not (wanted > counts).any():
            wanted = np.minimum(counts + 1, settings.sizes)  # what was not measured yet cannot be judged
        if not state.over and not (wanted > counts).any():
            state.over = "no run of the grid is left; add seeds or scales"
        if not state.over and state.rounds >= min(until.max_rounds or _MOST_ROUNDS, _MOST_ROUNDS):
            state.over = f"as many rounds were made as may be, {state.rounds}"
        counts = np.maximum(counts, wanted)
    return state


def _coarse(until: Until, settings: Settings) -> Whole:
    """Runs of each setting in the first round."""
    return np.minimum(settings.sizes, until.coarse or (1 if settings.count >= _FEW else 2))


def coarse_pass(sweep: Sweep) -> Sweep:
    """The first round of a sweep that stops itself.

    Raises:
        SweepError: Its grid has no seeds.
    """
    assert sweep.file.until is not None
    try:
        settings = settings_of(sweep.runs, sweep.axes)
    except SweepError as error:
        raise SweepError(f"{sweep.path}: {error}") from error
    return sweep.only(settings.first(_coarse(sweep.file.until, settings)))


def check_coarse(sweep: Sweep, flops: float) -> None:
    """Raise a SweepError where the coarse pass alone would cost more FLOPs than the whole sweep may."""
    until = sweep.file.until
    if until is not None and until.max_flops is not None and flops > until.max_flops:
        raise SweepError(
            f"{sweep.path}: until.max_flops: must pay for the coarse pass over the whole grid, but got "
            f"(max_flops={until.max_flops:.4g}), and the pass needs {flops:.4g}. Raise it or shorten an axis"
        )


def _judge(
    until: Until,
    groups: Sequence[Group],
    settings: Settings,
    counts: Whole,
    cost: Array,
    state: State,
    confirmed: dict[tuple[str, str], int],
    gpus: float,
) -> tuple[Whole, list[Judged], str]:
    """Runs wanted of each setting after the next round, what the last one gave, and why there is no next one."""
    wanted, judged = counts.copy(), []
    if until.max_flops is not None and groups and not groups[0].in_flops:
        raise SweepError(
            "until.max_flops: rows must report their FLOPs, but those of this experiment do not. Yield `flops` from "
            "your function, or give max_hours, hours of wall time of packs"
        )
    left = _left(until, state, gpus)
    for group in groups:
        for target in until.targets:
            at = group.settings
            key = (group.name, target.text)
            look = adaptive.look(
                group.u,
                group.slopes(target),
                group.seen,
                group.residual,
                (settings.sizes - counts)[at].astype(np.float64),
                group.cost,
                np.array(target.width / 2),
                state.rounds,
                np.array(float(confirmed.get(key, 0))),
                left / max(len(groups) * len(until.targets), 1),
            )
            if look.half <= target.width / 2 and state.rounds >= adaptive.LEAST_ROUNDS:
                confirmed[key] = confirmed.get(key, 0) + 1
            judged.append(Judged(group, target, look))
            wanted[at] = np.maximum(wanted[at], counts[at] + np.minimum(look.add, (settings.sizes - counts)[at]))
    if judged and all(one.done for one in judged):
        bent = [one for one in judged if one.look.bent]
        reached = "every interval is as narrow as wanted"
        return wanted, judged, reached if not bent else "the law does not hold over the grid"
    if not judged and state.rounds >= adaptive.LEAST_ROUNDS:
        return wanted, judged, "nothing could be fitted; `raysweep fit` says why"
    if left <= 0 or (judged and (wanted == counts).all() and left < cost[cost > 0].sum()):
        return wanted, judged, f"the budget ({until.limits}) allows no further round"
    return wanted, judged, ""


def _left(until: Until, state: State, gpus: float) -> float:
    """Cost that is left to spend."""
    left = math.inf if until.max_flops is None else until.max_flops - state.spent
    for most, hours in ((until.max_gpu_hours, state.hours * gpus), (until.max_hours, state.hours)):
        if most is not None:
            share = hours / most
            left = min(left, state.spent * (1 / share - 1) if share > 0 else math.inf)
    return left


def state_of(
    sweep: Sweep,
    store: Store,
    ledger: Ledger,
    own: Own,
    skip_failed: bool,
    retry_diverged: bool,
    tried: npt.NDArray[np.bool_],
) -> State:
    """Where a sweep that stops itself is, from its store.

    Args:
        ledger, own: Its rows.
        skip_failed, retry_diverged: As of `Scan.pending`.
        tried: [runs] whether a run was tried already; if so, it is not tried again.

    Raises:
        SweepError: As `replay`.
    """
    rest = ledger.pending(sweep.runs, skip_failed, retry_diverged)
    pending = np.isin(sweep.runs.keys, rest.keys) & ~tried
    try:
        return _replayed(sweep.file, sweep.runs, sweep.axes, store, ledger, own, pending)
    except SweepError as error:
        raise SweepError(f"{sweep.path}: {error}") from error


def stored_state(file: SweepFile, store: Store, now: Current) -> State | None:
    """Where a sweep that stops itself is, as its store alone says; None where it does not say so.

    Args:
        file, now: The sweep last run into the store.
    """
    declaration = stored_declaration(store)
    if file.until is None or now.runs is None or declaration is None:
        return None
    pending = np.isin(now.runs.keys, now.ledger.pending(now.runs).keys)
    try:
        return _replayed(file, now.runs, declaration.axes, store, now.ledger, now.own, pending)
    except SweepError:  # it could not be judged, or not here
        return None


def _replayed(
    file: SweepFile,
    runs: Runs,
    axes: Mapping[str, Axis],
    store: Store,
    ledger: Ledger,
    own: Own,
    pending: npt.NDArray[np.bool_],
) -> State:
    assert file.until is not None
    scan = ledger.scan()
    table = scan.table
    if scan.parts:
        table = own.completed(table, own.mine(table.column("cell")))
        table = table.cast(with_accepted(table.schema, accepted_codes(store)))
    gpus = file.resources.gpus * file.resources.workers_per_run
    return replay(file.until, file.fit[file.until.fit].request, runs, axes, table, pending, gpus)


def check_code(sweep: Sweep, store: Store) -> None:
    """Refuse to add runs of one code to those of another: fits keep them apart, and no interval would narrow.

    Raises:
        SweepError: Finished runs of the grid are of other code than the sweep's, and were not declared equal.
    """
    if others := sorted(other_codes(sweep, store)):
        raise SweepError(
            f"{sweep.path}: until: the runs of its grid must be of one code, but those that are finished are of "
            f"{', '.join(sha[:8] for sha in others)}, and the code is {sweep.code.sha[:8]} now: fits would keep them "
            "apart, and no interval would narrow. If results are unchanged, pass --accept-code; otherwise set "
            f"`version: {sweep.experiment.version + 1}` to begin again"
        )


def run_rounds(
    state: State,
    sweep: Sweep,
    judge: Callable[[npt.NDArray[np.bool_]], State],
    fill: Callable[[Sweep], str],
    progress: Progress,
) -> tuple[State, str]:
    """Run round after round until the sweep is over; returns its state, and why it was stopped before, or ""."""
    tried, stopped = np.zeros(len(sweep.runs), dtype=bool), ""
    while state.todo.any() and not stopped:
        said = "; ".join(one.brief for one in state.judged)
        progress.say(f"round {state.rounds}: {counted(int(state.todo.sum()), 'run')}{said and '; so far '}{said}")
        stopped = fill(sweep.only(state.todo))
        tried |= state.todo
        state = judge(tried)
    return state, stopped
