"""The rounds of a sweep that tunes: what is asked next, from the rows of the ledger alone; and what the winners are worth.

A round is a barrier: the next one is asked for when every cell of it has a row. It depends on the setting, the round
and the scores of earlier rounds, not on the order of rows or on who measured them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import SweepError, nearest
from raysweep.grid.runs import Runs
from raysweep.ledger.remaining import locate
from raysweep.ledger.rows import STAMPS
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.current import ledger_of
from raysweep.sweep.tuned import Layout, Study, Tuning, keep_studies, kept_studies
from raysweep.terminal import counted
from raysweep.tuning import History, Point, propose, seed_of

__all__ = ["Rounds", "Won"]

_NEAR = 0.05  # share of a range from its end within which a winner is said to lie at the end
_MOST = 4  # neighbouring settings that a study is started from
_CORNERS = 4  # axes up to which settings that differ in several of them are neighbours, too


@dataclass(frozen=True)
class Won:
    """What the winners are worth: scores where candidates were compared, and on fresh seeds.

    Attributes:
        settings: Settings with a winner that was measured again.
        tuned, fresh: [settings] scores; lower is better.
        bias, low, high: Selection bias and its 95 % interval; nan where there is one fresh seed.
        relative: Whether the bias is relative to the fresh score.
        ends: Per tuned axis, how many winners lie at the end of its range.
    """

    settings: tuple[str, ...]
    tuned: npt.NDArray[np.float64]
    fresh: npt.NDArray[np.float64]
    bias: float
    low: float
    high: float
    relative: bool
    ends: Mapping[str, int]


@dataclass(frozen=True)
class Rounds:
    """The rounds of one sweep in one store.

    Args:
        sweep: One that tunes.
    """

    sweep: Sweep
    store: Store

    @property
    def _tuning(self) -> Tuning:
        tuning = self.sweep.tuning
        assert tuning is not None
        return tuning

    def resume(self, skip_failed: bool = False, retry_diverged: bool = False) -> Sweep:
        """The sweep with everything that was asked for, up to the first round that has something to do. Writes nothing."""
        lineage, layout = self.sweep.lineage, self.sweep.layout
        assert lineage is not None
        assert layout is not None
        kept = kept_studies(self.store, self.sweep.hash, self._tuning, lineage)
        first = {name: kept.get(name) or Study((self._tuning.first(name),)) for name in layout.settings}
        stage: Sweep | None = replace(self.sweep, studies=first)
        while stage is not None:
            found = stage
            ledger = ledger_of(self.store, found.runs, dict(found.axes), found.identity)
            stage = None if len(ledger.pending(found.runs, skip_failed, retry_diverged)) else self.after(found)
        return found

    def keep(self, stage: Sweep) -> None:
        """Record what a stage asks for, for those who read the store."""
        assert stage.lineage is not None
        keep_studies(self.store, stage.hash, self._tuning, stage.lineage, stage.studies)

    def after(self, stage: Sweep) -> Sweep | None:
        """The sweep with the next round, or with the winners; None where cells of this one lack rows, or all is done.

        Raises:
            SweepError: no row has the metric that selects.
        """
        table = self._rows(stage)
        if len(table.pending):
            return None
        tuning, histories = self._tuning, self._histories(stage, table)
        near = _neighbours(stage)
        studies: dict[str, Study] = {}
        for name, study in stage.studies.items():
            history = histories[name]
            if study.winner is not None or not any(math.isfinite(s) for scored in history for _, s in scored):
                studies[name] = study
                continue
            points: list[Point] = []
            if len(study.rounds) < tuning.rounds:
                others = [histories[other] for other in near.get(name, ())]
                seed = seed_of(name, tuning.digest)
                points = propose(tuning.space, tuning.sampler, tuning.candidates, seed, history, others)
            if points:
                studies[name] = replace(study, rounds=(*study.rounds, tuple(points)))
            else:
                studies[name] = replace(study, winner=min((s, p) for scored in history for p, s in scored)[1])
        return None if studies == stage.studies else replace(stage, studies=studies)

    def rehearsed(self, stage: Sweep) -> Sweep:
        """The whole sweep, for its price: further points of each design stand for the candidates still to be proposed
        and for winners.
        """
        tuning, studies = self._tuning, {}
        for name, study in stage.studies.items():
            if study.winner is None:
                more = tuning.rounds - len(study.rounds)
                spare = tuning.first(name, tuning.candidates * (tuning.rounds + 1))
                extra = [p for p in spare if p not in study.points][: more * tuning.candidates]
                study = Study((*study.rounds, tuple(extra)) if extra else study.rounds, study.points[0])
            studies[name] = study
        return replace(stage, studies=studies)

    def about(self, stage: Sweep) -> dict[str, Any]:
        """How far the tuning is, as plain data."""
        tuning, studies = self._tuning, stage.studies.values()
        return {
            "axes": [d.axis.name for d in tuning.space],
            "metric": tuning.metric,
            "sampler": tuning.sampler,
            "settings": len(studies),
            "round": min(len(study.rounds) for study in studies),
            "rounds": tuning.rounds,
            "candidates": tuning.candidates,
            "asked": sum(len(study.points) for study in studies),
            "winners": sum(study.winner is not None for study in studies),
            "seeds": tuning.fresh,
        }

    def line(self, stage: Sweep) -> str:
        """What a stage is, in a sentence."""
        found = self.about(stage)
        what = f"{', '.join(found['axes'])} at {counted(found['settings'], 'setting')}"
        if found["winners"] == found["settings"]:
            return f"tune: the winners of {what} on {counted(found['seeds'], 'fresh seed')}"
        return f"tune: round {found['round']} of {found['rounds']}: {counted(found['candidates'], 'candidate')} of {what}"

    # --- scores -------------------------------------------------------------------------------------------

    def _rows(self, stage: Sweep) -> _Scores:
        tuning, layout = self._tuning, stage.layout
        assert layout is not None
        times = [a.name for a in stage.axes.values() if a.role == "time"]
        seen = [name for name in stage.runs.observed[0].names if name not in times]
        ledger = ledger_of(self.store, stage.runs, dict(stage.axes), stage.identity)
        scan = ledger.scan([tuning.metric, *seen])
        pending = scan.pending(stage.runs, skip_failed=True)
        if len(pending):
            return _Scores(pending, np.zeros(0))
        names = set(scan.table.schema.names)
        if tuning.metric not in names and pc.any(pc.equal(scan.table.column("status"), "ok")).as_py():
            known = {n for n in ledger.scan().table.schema.names if n not in STAMPS and n not in stage.axes}
            raise SweepError(
                f"{stage.path}: tuner.metric: must be a metric of the rows, but got {tuning.metric!r}. "
                f"{nearest(tuning.metric, known)}"
            )
        return _Scores(pending, _run_scores(scan.table, stage.runs, tuning, [n for n in seen if n in names]))

    def _histories(self, stage: Sweep, found: _Scores) -> dict[str, History]:
        layout = stage.layout
        assert layout is not None
        scores = _by_point(layout, found.scores, [len(stage.studies[name].points) for name in layout.settings])
        histories: dict[str, History] = {}
        for name, mine in zip(layout.settings, scores, strict=True):
            study = stage.studies[name]
            known = dict(zip(study.points, mine.tolist(), strict=True))
            histories[name] = [[(point, known[point]) for point in asked] for asked in study.rounds]
        return histories

    def won(self, stage: Sweep) -> Won | None:
        """What the winners are worth; None before any was measured again."""
        found, layout = self._rows(stage), stage.layout
        assert layout is not None
        if len(found.pending):
            return None
        histories = self._histories(stage, found)
        names, tuned, fresh = [], [], []
        for j, name in enumerate(layout.settings):
            scores = found.scores[(layout.setting == j) & (layout.point < 0)]
            winner = stage.studies[name].winner
            if winner is None or not len(scores) or not np.isfinite(scores).all():
                continue
            names.append(name)
            tuned.append(next(s for scored in histories[name] for p, s in scored if p == winner))
            fresh.append(scores)
        if not names:
            return None
        assert stage.lineage is not None
        return _won(names, np.array(tuned), np.array(fresh), len(stage.lineage.known), self._ends(stage))

    def _ends(self, stage: Sweep) -> dict[str, int]:
        winners = [study.winner for study in stage.studies.values() if study.winner is not None]
        return {
            d.axis.name: sum(abs(d.share(point[i]) - 0.5) > 0.5 - _NEAR for point in winners)
            for i, d in enumerate(self._tuning.space)
            if not d.choices
        }

    def sentences(self, stage: Sweep) -> list[str]:
        """What is said of a sweep that has ended."""
        won, tuning, said = self.won(stage), self._tuning, []
        lost = sum(study.winner is None for study in stage.studies.values())
        if won is not None:
            what = "of the fresh score" if won.relative else f"in {tuning.metric}"
            number = "{:+.2%}" if won.relative else "{:+.3g}"
            within = f" [{number.format(won.low)}, {number.format(won.high)}]" if math.isfinite(won.low) else ""
            said.append(
                f"tune: {counted(len(won.settings), 'winner')} by {tuning.metric}, measured again on "
                f"{counted(tuning.fresh, 'fresh seed')}; selection bias {number.format(won.bias)}{within} {what} "
                "(the score that won minus the fresh one)"
            )
            for name, count in won.ends.items():
                if count:
                    said.append(
                        f"tune: {name} of {count} of {counted(len(won.settings), 'winner')} lies within "
                        f"{_NEAR:.0%} of an end of its range: a wider one may hold better values"
                    )
        if lost and won is not None:
            said.append(
                f"tune: {counted(lost, 'setting')} has no winner, because no candidate trained at all of its seeds"
            )
        return said


@dataclass(frozen=True)
class _Scores:
    """The runs of a stage that lack rows, and [runs] the score of each run, if none does."""

    pending: Runs
    scores: npt.NDArray[np.float64]


def _run_scores(table: pa.Table, runs: Runs, tuning: Tuning, others: list[str]) -> npt.NDArray[np.float64]:
    """[runs] the metric of each run, low is better: the best over times, the mean over other observed values; infinity
    for a run with a row that diverged or failed, or without a finite value.
    """
    at = locate(runs, table.column("cell"))
    table, at = table.filter(pa.array(at >= 0)), at[at >= 0]
    scores = np.full(len(runs), np.inf)
    bad = pc.is_in(table.column("status"), pa.array(["diverged", "failed"])).to_numpy(zero_copy_only=False)
    if tuning.metric in table.schema.names:
        value = tuning.sign * pc.cast(table.column(tuning.metric), pa.float64()).to_numpy().astype(float)
        kept = pa.table({"run": at, "value": value, **{f"by_{n}": table.column(n) for n in others}})
        kept = kept.filter(pa.array(np.isfinite(value)))
        best = kept.group_by(["run", *(f"by_{n}" for n in others)]).aggregate([("value", "min")])
        mean = best.group_by("run").aggregate([("value_min", "mean")])
        scores[mean.column("run").to_numpy()] = mean.column("value_min_mean").to_numpy()
    scores[at[bad]] = np.inf
    return scores


def _by_point(layout: Layout, scores: npt.NDArray[np.float64], counts: list[int]) -> list[npt.NDArray[np.float64]]:
    """Per setting, [candidates] the mean score over seeds."""
    start = np.concatenate([[0], np.cumsum(counts)])
    mine = layout.point >= 0
    index = start[layout.setting[mine]] + layout.point[mine]
    total = np.bincount(index, scores[mine], minlength=start[-1])
    number = np.bincount(index, minlength=start[-1])
    return np.split(np.where(number > 0, total / np.maximum(number, 1), np.inf), start[1:-1])


def _won(
    names: list[str],
    tuned: npt.NDArray[np.float64],
    fresh: npt.NDArray[np.float64],
    seeds: int,
    ends: Mapping[str, int],
) -> Won:
    """The bias of selection over settings.

    Settings share their seeds, so that their errors are correlated: the interval is that of the mean over settings, by
    how that varies over fresh seeds. It is the scatter to be expected of a mean over `seeds` seeds beside one over the
    fresh ones, where nothing was selected.

    Args:
        fresh: [settings, fresh seeds] scores.
    """
    from scipy.stats import t

    mean, count = fresh.mean(1), fresh.shape[1]
    relative = bool((mean > 0).all())
    scale = mean if relative else np.ones_like(mean)
    bias, low, high = float(np.mean((tuned - mean) / scale)), math.nan, math.nan
    if count > 1:
        spread = float(np.std(np.mean(fresh / scale[:, None], axis=0), ddof=1))
        half = float(t.ppf(0.975, count - 1)) * spread * math.sqrt(1 / count + 1 / seeds)
        low, high = bias - half, bias + half
    return Won(tuple(names), tuned, mean, bias, low, high, relative, ends)


# --- neighbours -------------------------------------------------------------------------------------------


def _neighbours(stage: Sweep) -> dict[str, list[str]]:
    """For each setting, the nearest others: those that differ by at most one step in each axis of numbers, and not at
    all in the other axes.
    """
    layout, lineage = stage.layout, stage.lineage
    assert layout is not None
    assert lineage is not None
    _, first = np.unique(layout.setting, return_index=True)
    rows = [layout.runs.row(i) for i in first.tolist()]
    left_out = {*lineage.tuned, *(n for n, a in stage.axes.items() if a.role == "seed")}
    numbers, words = [], []
    for name in sorted({name for row in rows for name in row} - left_out):
        values = {row.get(name) for row in rows}
        if len(values) > 1:
            plain = stage.axes[name].type in (int, float) and None not in values
            (numbers if plain else words).append(name)
    ranks = {n: {v: i for i, v in enumerate(sorted({row[n] for row in rows}))} for n in numbers}
    place = {
        (tuple(map(str, map(row.get, words))), tuple(ranks[n][row[n]] for n in numbers)): name
        for row, name in zip(rows, layout.settings, strict=True)
    }
    steps = _steps(len(numbers))
    found: dict[str, list[str]] = {}
    for (kind, rank), name in place.items():
        near = [place.get((kind, tuple(a + b for a, b in zip(rank, step, strict=True)))) for step in steps]
        found[name] = [other for other in near if other is not None][:_MOST]
    return found


def _steps(count: int) -> list[tuple[int, ...]]:
    """The steps to neighbours, the shortest first."""
    if count <= _CORNERS:
        steps = itertools.product((-1, 0, 1), repeat=count)
        return sorted((s for s in steps if any(s)), key=lambda s: sum(map(abs, s)))
    unit = np.eye(count, dtype=int)
    return [tuple(step) for step in (*(-unit).tolist(), *unit.tolist())]
