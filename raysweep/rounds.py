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

from raysweep.errors import SweepError
from raysweep.executors import Job
from raysweep.executors.search import Searching
from raysweep.grid.lineage import Lineage
from raysweep.grid.neighbours import neighbours
from raysweep.halving import in_order, past_rung, past_rungs, what_halving_did
from raysweep.ledger.log import Ledger
from raysweep.progress import Progress
from raysweep.searching import asked_in, search_all, wanted
from raysweep.selection import histories, selection_bias, stage_scores
from raysweep.store import Store
from raysweep.store.leases import Claims
from raysweep.sweep import Sweep
from raysweep.sweep.asked import keep_studies, kept_studies, said_of
from raysweep.sweep.current import ledger_of
from raysweep.sweep.stored import stored_declaration, stored_sweep
from raysweep.sweep.tuned import Layout, Study, Tuning
from raysweep.sweep.tuner import tuning_of
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
        searched = {*layout.searched}
        begun = {name: tuning.begun(name, name in searched) for name in layout.settings}
        if tuning.searches and not begun.keys() <= kept.keys():  # nobody can compute again what it proposed
            begun |= {
                name: tuning.study([*dict.fromkeys((*points, *begun[name].points))][: wanted(tuning)])
                for name, points in asked_in(self.store, self.sweep, tuning, layout).items()
                if name in searched
            }
        if tuning.searches:
            begun |= {name: Study(study.rounds) for name, study in kept.items() if name in begun}
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
        tuning, _, layout = _parts(stage)
        found = stage_scores(stage, tuning, self.ledger(stage))
        if found is None:
            return None
        _, scores = found
        known = histories(stage, layout, scores)
        if tuning.ladder is not None and any(study.reached < math.inf for study in stage.studies.values()):
            halved = {
                name: past_rung(stage.studies[name], tuning.ladder, rungs, known[name])
                for name, rungs in zip(layout.settings, layout.rungs, strict=True)
            }
            return replace(stage, studies=halved)
        known = {name: in_order(study, known[name]) for name, study in stage.studies.items()}
        near = _neighbours(stage, layout)
        own = {
            name: _following(tuning, name, stage.studies[name], known[name], [known[other] for other in near[name]])
            for name in layout.searched
        }
        studies = {
            name: own.get(name) or Study((), own[layout.settings[source]].winner)
            for name, source in zip(layout.settings, layout.source, strict=True)
        }
        return None if studies == stage.studies else replace(stage, studies=studies)

    def search(
        self, stage: Sweep, executor: Searching, job: Job, claims: Claims, progress: Progress
    ) -> tuple[Sweep, str]:
        """Propose and run the candidates that a stage lacks; the stage with them, and why it ended early, or ""."""
        tuning, lineage, layout = _parts(stage)
        whole = {name: Study(study.rounds) for name, study in self.rehearsed(stage).studies.items()}
        progress.begin(replace(stage, studies=whole).runs.cells)
        return search_all(stage, tuning, lineage, layout, self.store, executor, job, claims, self.keep, progress.count)

    def rehearsed(self, stage: Sweep) -> Sweep:
        """The whole sweep, for its price: further points of each design stand for candidates that are not proposed yet,
        the first ones asked for are those that pass a rung, and the first of all stands for the winner.
        """
        (tuning, _, layout), studies = _parts(stage), {}
        first = {
            name: stage.studies[layout.settings[i]] for name, i in zip(layout.settings, layout.source, strict=True)
        }
        for name, rungs in zip(layout.settings, layout.rungs, strict=True):
            study = stage.studies[name]
            own = bool(study.rounds) and study.winner is None
            more = (tuning.rounds - len(study.rounds)) * tuning.candidates if own else 0
            spare = tuning.first(name, tuning.candidates * tuning.rounds + len(study.points)) if more else ()
            extra = tuple(point for point in spare if point not in study.points)[:more]
            found = past_rungs(study, tuning.ladder, rungs)
            for start in range(0, len(extra), tuning.candidates):
                found = tuning.followed(found, extra[start : start + tuning.candidates])
                found = past_rungs(found, tuning.ladder, rungs)
            studies[name] = replace(found, winner=study.winner or first[name].points[0])
        return replace(stage, studies=studies)

    def to_end(self, stage: Sweep) -> Sweep:
        """A stage that asks for the candidates which are left to their end: they may need what was saved of them."""
        return replace(stage, studies={name: replace(s, reached=math.inf) for name, s in stage.studies.items()})

    def about(self, stage: Sweep) -> dict[str, Any]:
        """How far the tuning is, as plain data."""
        return _about(_parts(stage)[0], stage.studies)

    def line(self, stage: Sweep, before: Sweep | None = None) -> str:
        """What a stage does that the one before it did not, in a sentence; "" where it has nothing to do."""
        tuning = self.tuning
        known = {} if before is None else before.studies
        new = [(known.get(name, Study(())), study) for name, study in stage.studies.items() if known.get(name) != study]
        asked = [s for old, s in new if s.winner is None and (s.halved or old.rounds != s.rounds)]
        won = sum(study.winner is not None for _, study in new)
        said = [_asked(tuning, asked)] if asked else []
        if won:
            axes = ", ".join(d.axis.name for d in tuning.space)
            said.append(f"winners of {axes} at {counted(won, 'setting')} on {counted(tuning.fresh, 'fresh seed')}")
        return f"tune: {'; '.join(said)}" if said else ""

    def sentences(self, stage: Sweep) -> list[str]:
        """What is said of a sweep that has ended: what the winners are worth, and where they are missing."""
        tuning, _, layout = _parts(stage)
        found = stage_scores(stage, tuning, self.ledger(stage))
        if found is None:
            return []
        metric, scores = found
        tuned, fresh, winners = [], [], []
        known, lost = histories(stage, layout, scores), 0
        for i, (name, study) in enumerate(stage.studies.items()):
            again = scores[(layout.setting == i) & (layout.point < 0)]
            lost += study.winner is None
            if study.points and study.winner is not None and np.isfinite(again).all():
                winners.append(study.winner)
                if study.winner not in study.retired:  # else its score is that of a shorter training
                    tuned.append(next(s for asked in known[name] for point, s in asked if point == study.winner))
                    fresh.append(again)
        said = []
        if tuned:
            seeds = int(np.sum((layout.setting == layout.source[0]) & (layout.point == 0)))
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
            said += what_halving_did(tuning.ladder, stage, layout)
        if lost:
            said.append(f"tune: no winner at {counted(lost, 'setting')}: no candidate trained at each of its seeds")
        return said


def described(about: Mapping[str, Any]) -> str:
    """How far a tuning is, in a sentence, by `Rounds.about`."""
    by = f" by {about['metric']}" if about["metric"] else ""
    where = counted(about["settings"], "setting")
    if about["transfer"]:
        at = ", ".join(f"{name}={value}" for name, value in about["transfer"].items())
        where = f"{about['searched']} of {where} ({at}; the others take the winners)"
    halved = f", halved along {about['halving']}: {about['retired']:,} retired" if about["halving"] else ""
    return (
        f"tunes {', '.join(about['axes'])}{by} at {where} with {about['sampler']}: "
        f"round {about['round']} of {about['rounds']}, {counted(about['candidates'], 'candidate')} each{halved}; "
        f"{counted(about['winners'], 'winner')} on {counted(about['seeds'], 'fresh seed')}"
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
        "searched": sum(bool(study.rounds) for study in studies.values()),
        "round": min((len(study.rounds) for study in studies.values() if study.rounds), default=0),
        "rounds": tuning.rounds,
        "candidates": tuning.candidates,
        "asked": sum(len(study.points) for study in studies.values()),
        "winners": sum(study.winner is not None for study in studies.values()),
        "seeds": tuning.fresh,
        "halving": None if tuning.ladder is None else tuning.ladder.axis,
        "retired": sum(len(study.retired) for study in studies.values()),
        "transfer": dict(tuning.transfer),
    }


def _parts(stage: Sweep) -> tuple[Tuning, Lineage, Layout]:
    if stage.tuning is None or stage.lineage is None or stage.layout is None:
        raise SweepError(f"{stage.path}: tune: must name the axes to tune, but there is none. Add it")
    return stage.tuning, stage.lineage, stage.layout


def _following(tuning: Tuning, name: str, study: Study, scored: History, others: Sequence[History]) -> Study:
    """The study of a setting with its next round, or its winner; as it is where neither can be.

    Args:
        scored: Its candidates with their scores.
        others: Those of its neighbours.
    """
    score, best = min((score, point) for asked in scored for point, score in asked)
    lacking = tuning.searches and len(study.points) < wanted(tuning)
    if study.winner is not None or not math.isfinite(score) or lacking:
        return study
    points: list[Point] = []
    if len(study.rounds) < tuning.rounds and not tuning.searches:
        seed = seed_of(name, tuning.digest)
        points = propose(tuning.space, tuning.sampler, tuning.candidates, seed, scored, others)
    return tuning.followed(study, points) if points else replace(study, winner=best)


def _neighbours(stage: Sweep, layout: Layout) -> dict[str, list[str]]:
    """By setting, the neighbouring ones."""
    tuned = {d.axis.name for d in _parts(stage)[0].space}
    plain = {n for n, axis in stage.axes.items() if axis.role != "seed" and n not in tuned}
    mine = {layout.settings.index(name): name for name in layout.searched}
    found, first = np.unique(layout.setting, return_index=True)
    names = [mine[j] for j in found.tolist() if j in mine]
    at = [i for i, j in zip(first.tolist(), found.tolist(), strict=True) if j in mine]
    rows = [{n: v for n, v in layout.runs.row(i).items() if n in plain} for i in at]
    near = neighbours(rows, stage.axes)
    return {name: [names[j] for j in others] for name, others in zip(names, near, strict=True)}


def _asked(tuning: Tuning, studies: Sequence[Study]) -> str:
    """What is asked for these settings: a round, what is left of one, or a search."""
    where = f"of {', '.join(d.axis.name for d in tuning.space)} at {counted(len(studies), 'setting')}"
    if tuning.searches:
        return f"search: {counted(wanted(tuning), 'candidate')} {where}"
    which = f"round {min(len(study.rounds) for study in studies)} of {tuning.rounds}"
    if any(study.halved for study in studies):
        return f"{which}, halved: {counted(sum(len(study.left) for study in studies), 'candidate')} {where} in all"
    return f"{which}: {counted(tuning.candidates, 'candidate')} {where}"


def _at_end(share: float) -> bool:
    return abs(share - 0.5) > 0.5 - _NEAR
