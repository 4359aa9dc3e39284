"""The rounds of a sweep that tunes: what is asked next, as the rows of the ledger say, and what is said at the end.

A round is a barrier: the next one is asked for when every cell of it has a row. It depends on the settings, the round
and the scores of earlier rounds, not on the order of rows or on who measured them. So is a rung of a round whose
candidates are halved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from raysweep.errors import SweepError, nearest
from raysweep.grid.lineage import Lineage
from raysweep.grid.neighbours import neighbours
from raysweep.ledger.log import Ledger
from raysweep.ledger.rows import STAMPS
from raysweep.selection import candidate_scores, passed, ranked, run_scores, selection_bias
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.asked import keep_studies, kept_studies, said_of
from raysweep.sweep.current import ledger_of
from raysweep.sweep.halved import Ladder
from raysweep.sweep.stored import stored_declaration, stored_sweep
from raysweep.sweep.tuned import Layout, Study, Tuning, tuning_of
from raysweep.terminal import counted
from raysweep.tuning import History, Point, propose, seed_of

__all__ = ["Rounds", "described", "stored_tuning"]

_NEAR = 0.05  # share of a range from its end within which a winner is said to lie at the end


@dataclass(frozen=True)
class Rounds:
    """The rounds of one sweep in one store.

    Args:
        sweep: One that tunes.
    """

    sweep: Sweep
    store: Store

    @property
    def tuning(self) -> Tuning:
        return _parts(self.sweep)[0]

    def ledger(self, stage: Sweep) -> Ledger:
        """The store's ledger, as a stage reads it."""
        return ledger_of(self.store, stage.runs, dict(stage.axes), stage.identity)

    def resume(self, skip_failed: bool = False, retry_diverged: bool = False) -> Sweep:
        """The sweep with everything that was asked for, up to a round that has something to do. Nothing is written."""
        tuning, lineage, layout = _parts(self.sweep)
        kept = kept_studies(self.store, self.sweep.hash, tuning, lineage)
        begun = {name: tuning.begun(name) for name in layout.settings}
        known = replace(self.sweep, studies={**begun, **{name: kept[name] for name in begun if name in kept}})
        # What is tried again may change all that followed from it.
        again = bool(kept) and not skip_failed and self._failed(known, retry_diverged)
        following: Sweep | None = replace(self.sweep, studies=begun) if again else known
        while following is not None:
            stage = following
            ledger = self.ledger(stage)
            to_do = len(ledger.pending(stage.runs, skip_failed, retry_diverged))
            following = None if to_do else self.after(stage)
        return stage

    def _failed(self, stage: Sweep, retry_diverged: bool) -> bool:
        """Whether cells of a stage failed, and are to be tried again."""
        ledger = self.ledger(stage)
        every, others = (len(ledger.pending(stage.runs, skip, retry_diverged)) for skip in (False, True))
        return every > others

    def keep(self, stage: Sweep, said: Sequence[str] = ()) -> None:
        """Record what a stage asks for, and what is said at the end, for those who read the store."""
        tuning, lineage, _ = _parts(stage)
        keep_studies(self.store, stage.hash, tuning, lineage, stage.studies, said)

    def after(self, stage: Sweep) -> Sweep | None:
        """The sweep with the next rung or round, or with the winners; None where a cell of this one lacks a row, or
        where nothing follows: all is measured, or no candidate of any setting left could be.

        Raises:
            SweepError: no row has the metric that selects.
        """
        found, (tuning, _, layout) = self._scores(stage), _parts(stage)
        if found is None:
            return None
        _, scores = found
        histories = _histories(stage, layout, scores)
        if tuning.ladder is not None and any(study.reached < math.inf for study in stage.studies.values()):
            halved = {
                name: _past_rung(stage.studies[name], tuning.ladder, rungs, histories[name])
                for name, rungs in zip(layout.settings, layout.rungs, strict=True)
            }
            return replace(stage, studies=halved)
        histories = {name: _in_order(study, histories[name]) for name, study in stage.studies.items()}
        near = _neighbours(stage, layout)
        studies = {}
        for name, study in stage.studies.items():
            best = min((score, point) for asked in histories[name] for point, score in asked)
            if study.winner is None and math.isfinite(best[0]):
                others, points = [histories[other] for other in near[name]], list[Point]()
                if len(study.rounds) < tuning.rounds:
                    seed = seed_of(name, tuning.digest)
                    points = propose(tuning.space, tuning.sampler, tuning.candidates, seed, histories[name], others)
                study = tuning.followed(study, points) if points else replace(study, winner=best[1])
            studies[name] = study
        return None if studies == stage.studies else replace(stage, studies=studies)

    def rehearsed(self, stage: Sweep) -> Sweep:
        """The whole sweep, for its price: further points of each design stand for candidates that are not proposed yet,
        the first ones asked for are those that pass a rung, and the first of all stands for the winner.
        """
        (tuning, _, layout), studies = _parts(stage), {}
        for name, rungs in zip(layout.settings, layout.rungs, strict=True):
            study = stage.studies.get(name) or tuning.begun(name)
            more = (tuning.rounds - len(study.rounds)) * tuning.candidates if study.winner is None else 0
            spare = tuning.first(name, tuning.candidates * tuning.rounds + len(study.points)) if more else ()
            extra = tuple(point for point in spare if point not in study.points)[:more]
            found = _past_rungs(study, tuning.ladder, rungs)
            for start in range(0, len(extra), tuning.candidates):
                found = tuning.followed(found, extra[start : start + tuning.candidates])
                found = _past_rungs(found, tuning.ladder, rungs)
            studies[name] = replace(found, winner=study.winner or study.points[0])
        return replace(stage, studies=studies)

    def to_end(self, stage: Sweep) -> Sweep:
        """A stage that asks for the candidates which are left to their end: they may need what was saved of them."""
        return replace(stage, studies={name: replace(s, reached=math.inf) for name, s in stage.studies.items()})

    def about(self, stage: Sweep) -> dict[str, Any]:
        """How far the tuning is, as plain data."""
        return _about(_parts(stage)[0], stage.studies)

    def line(self, stage: Sweep) -> str:
        """What a stage does, in a sentence."""
        found = self.about(stage)
        what = f"{', '.join(found['axes'])} at {counted(found['settings'], 'setting')}"
        if found["winners"]:
            return f"tune: winners of {what} on {counted(found['seeds'], 'fresh seed')}"
        of = f"tune: round {found['round']} of {found['rounds']}"
        left = sum(len(study.left) for study in stage.studies.values())
        if found["halving"] and left < sum(len({*study.rounds[-1]}) for study in stage.studies.values()):
            return f"{of}, halved: {counted(left, 'candidate')} of {what} in all"
        return f"{of}: {counted(found['candidates'], 'candidate')} of {what}"

    def sentences(self, stage: Sweep) -> list[str]:
        """What is said of a sweep that has ended: what the winners are worth, and where they are missing."""
        found, (tuning, _, layout) = self._scores(stage), _parts(stage)
        if found is None:
            return []
        metric, scores = found
        tuned, fresh, winners = [], [], []
        histories, lost = _histories(stage, layout, scores), 0
        for i, (name, study) in enumerate(stage.studies.items()):
            again = scores[(layout.setting == i) & (layout.point < 0)]
            lost += study.winner is None
            if study.winner is not None and np.isfinite(again).all():
                winners.append(study.winner)
                if study.winner not in study.retired:  # else its score is that of a shorter training
                    tuned.append(next(s for asked in histories[name] for point, s in asked if point == study.winner))
                    fresh.append(again)
        said = []
        if tuned:
            seeds = int(np.sum((layout.setting == 0) & (layout.point == 0)))
            bias = selection_bias(tuning.sign * np.array(tuned), tuning.sign * np.array(fresh), seeds)
            number = "{:+.2%}" if bias.relative else "{:+.3g}"
            low, mean, high = (number.format(value) for value in (bias.low, bias.mean, bias.high))
            said.append(
                f"tune: {counted(len(tuned), 'winner')} by {metric}, measured again on "
                f"{counted(tuning.fresh, 'fresh seed')}; selection bias (the score that won minus the fresh one): "
                + (f"{mean} [{low}, {high}]" if tuning.fresh > 1 else mean)
            )
        for i, dimension in enumerate(tuning.space):
            ends = 0 if dimension.choices else sum(_at_end(dimension.share(point[i])) for point in winners)
            if ends:
                said.append(
                    f"tune: {dimension.axis.name} of {ends} of {counted(len(winners), 'winner')} is within {_NEAR:.0%} "
                    "of an end of its range: a wider one may hold better values"
                )
        if tuning.ladder is not None:
            said += _of_halving(tuning.ladder, stage, layout)
        if lost:
            said.append(f"tune: no winner at {counted(lost, 'setting')}: no candidate trained at each of its seeds")
        return said

    def _scores(self, stage: Sweep) -> tuple[str, npt.NDArray[np.float64]] | None:
        """The metric that selects, and [runs] the score of each run of a stage; None where a cell lacks a row."""
        tuning, runs = _parts(stage)[0], stage.runs
        seen = {n for observed in runs.observed for n in observed.names}
        others = {n for n in seen if stage.axes[n].role != "time" and not stage.axes[n].inferred}
        ledger = self.ledger(stage)
        scan = ledger.scan([*tuning.metrics, *others])
        if len(scan.pending(runs, skip_failed=True)):
            return None
        names = scan.table.schema.names
        metric = next((name for name in tuning.metrics if name in names), None)
        if metric is None and pc.any(pc.equal(scan.table.column("status"), "ok")).as_py():
            wanted, where = tuning.metrics[-1], f"{stage.path}: tuner.metric"
            known = [n for n in ledger.scan().table.schema.names if n not in STAMPS and n not in stage.axes]
            raise SweepError(f"{where}: must be a metric of the rows, but got {wanted!r}. {nearest(wanted, known)}")
        scores = run_scores(scan.table, runs, metric, tuning.sign, sorted(others & {*names}))
        return metric or tuning.metrics[-1], scores


def described(about: Mapping[str, Any]) -> str:
    """How far a tuning is, in a sentence, by `Rounds.about`."""
    by = f" by {about['metric']}" if about["metric"] else ""
    return (
        f"tunes {', '.join(about['axes'])}{by} at {counted(about['settings'], 'setting')} with {about['sampler']}: "
        f"round {about['round']} of {about['rounds']}, {counted(about['candidates'], 'candidate')} each"
        + (f", halved along {about['halving']}: {about['retired']:,} retired; " if about.get("halving") else "; ")
        + f"{counted(about['winners'], 'winner')} on {counted(about['seeds'], 'fresh seed')}"
    )


def stored_tuning(store: Store) -> dict[str, Any] | None:
    """How far the tuning of the sweep last run into a store is, as `Rounds.about`, with what was said at its end; None
    where it tunes nothing.

    Raises:
        LedgerError: it is not a store, or its files are damaged.
    """
    file, name = stored_sweep(store)
    declaration = stored_declaration(store) if file.tune else None
    tuning = None if declaration is None else tuning_of(file, declaration.axes)
    if tuning is None:
        return None
    digest = Path(name).stem
    return {**_about(tuning, kept_studies(store, digest, tuning)), "said": said_of(store, digest)}


def _about(tuning: Tuning, studies: Mapping[str, Study]) -> dict[str, Any]:
    return {
        "axes": [d.axis.name for d in tuning.space],
        "metric": " or ".join(tuning.metrics) or None,
        "sampler": tuning.sampler,
        "settings": len(studies),
        "round": min((len(study.rounds) for study in studies.values()), default=0),
        "rounds": tuning.rounds,
        "candidates": tuning.candidates,
        "asked": sum(len(study.points) for study in studies.values()),
        "winners": sum(study.winner is not None for study in studies.values()),
        "seeds": tuning.fresh,
        "halving": None if tuning.ladder is None else tuning.ladder.axis,
        "retired": sum(len(study.retired) for study in studies.values()),
    }


def _past_rung(study: Study, ladder: Ladder, rungs: Sequence[float], history: History) -> Study:
    """The study once all its candidates that are left have rows up to the next rung: the worse ones are retired."""
    rung = next((time for time in rungs if time > study.reached), None)
    if rung is None:
        return replace(study, reached=math.inf)
    known, left = {point: score for asked in history for point, score in asked}, study.left
    best = passed(np.array([known[point] for point in left]), ladder.passing(len(left)))
    on = {left[i] for i in best.tolist()}
    retired = {**study.retired, **{point: rung for point in left if point not in on}}
    return replace(study, retired=retired, reached=rung if len(on) > 1 and rung < rungs[-1] else math.inf)


def _past_rungs(study: Study, ladder: Ladder | None, rungs: Sequence[float]) -> Study:
    """The study at the end of its round if, of the candidates that are left, those asked for first were the best."""
    while ladder is not None and study.reached < math.inf:
        study = _past_rung(study, ladder, rungs, [[(point, float(i)) for i, point in enumerate(study.left)]])
    return study


def _in_order(study: Study, history: History) -> History:
    """The candidates with ranks for scores, where some were retired: a score of a longer training is no better."""
    if not study.retired:
        return history
    known = {point: score for asked in history for point, score in asked}
    rank = ranked(np.array([known[point] for point in study.points]), study.ends[0])
    of = dict(zip(study.points, rank.tolist(), strict=True))
    return [[(point, of[point]) for point, _ in asked] for asked in history]


def _of_halving(ladder: Ladder, stage: Sweep, layout: Layout) -> list[str]:
    """What halving did, in sentences."""
    studies, candidates = stage.studies.values(), np.flatnonzero(layout.point >= 0)
    retired, asked = (sum(map(len, each)) for each in zip(*((s.retired, s.points) for s in studies), strict=True))
    share = ladder.share(layout.runs.take(candidates), layout.whole.take(candidates))
    said = [
        f"tune: halving retired {retired:,} of {counted(asked, 'candidate')}: on average a training ended after "
        f"{share:.0%} of its {ladder.axis}"
    ]
    if late := sum(study.winner in study.retired for study in studies):
        said.append(
            f"tune: the winner at {counted(late, 'setting')} is one that was retired, as all those trained to their "
            "end diverged or failed"
        )
    return said


def _parts(stage: Sweep) -> tuple[Tuning, Lineage, Layout]:
    if stage.tuning is None or stage.lineage is None or stage.layout is None:
        raise SweepError(f"{stage.path}: tune: must name the axes to tune, but there is none. Add it")
    return stage.tuning, stage.lineage, stage.layout


def _histories(stage: Sweep, layout: Layout, scores: npt.NDArray[np.float64]) -> dict[str, History]:
    """By setting, the candidates of each round with their scores."""
    studies = [stage.studies[name] for name in layout.settings]
    found: dict[str, History] = {}
    mine = candidate_scores(layout, scores, [len(study.points) for study in studies])
    for name, study, values in zip(layout.settings, studies, mine, strict=True):
        known = dict(zip(study.points, values.tolist(), strict=True))
        found[name] = [[(point, known[point]) for point in asked] for asked in study.rounds]
    return found


def _neighbours(stage: Sweep, layout: Layout) -> dict[str, list[str]]:
    """By setting, the neighbouring ones."""
    tuned = {d.axis.name for d in _parts(stage)[0].space}
    plain = {n for n, axis in stage.axes.items() if axis.role != "seed" and n not in tuned}
    first = np.unique(layout.setting, return_index=True)[1]
    rows = [{n: v for n, v in layout.runs.row(i).items() if n in plain} for i in first.tolist()]
    near = neighbours(rows, stage.axes)
    return {name: [layout.settings[j] for j in mine] for name, mine in zip(layout.settings, near, strict=True)}


def _at_end(share: float) -> bool:
    return abs(share - 0.5) > 0.5 - _NEAR
