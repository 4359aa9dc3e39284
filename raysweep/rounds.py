"""The rounds of a sweep that tunes: what is asked next, as the rows of the ledger say, and what is said at the end.

A round is a barrier: the next one is asked for when every cell of it has a row. It depends on the settings, the round
and the scores of earlier rounds, not on the order of rows or on who measured them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import SweepError, nearest
from raysweep.executors import Job
from raysweep.executors.search import Searching
from raysweep.grid.lineage import Lineage
from raysweep.grid.neighbours import neighbours
from raysweep.ledger.rows import COLUMNS, STAMPS, Counts
from raysweep.searching import asked_in, search_all, wanted
from raysweep.selection import candidate_scores, run_scores, selection_bias
from raysweep.store import Store
from raysweep.store.leases import Claims
from raysweep.sweep import Sweep
from raysweep.sweep.asked import keep_studies, kept_studies, said_of
from raysweep.sweep.current import ledger_of
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
            ledger = ledger_of(self.store, stage.runs, dict(stage.axes), stage.identity)
            to_do = len(ledger.pending(stage.runs, skip_failed, retry_diverged))
            following = None if to_do else self.after(stage)
        return stage

    def _failed(self, stage: Sweep, retry_diverged: bool) -> bool:
        """Whether cells of a stage failed, and are to be tried again."""
        ledger = ledger_of(self.store, stage.runs, dict(stage.axes), stage.identity)
        every, others = (len(ledger.pending(stage.runs, skip, retry_diverged)) for skip in (False, True))
        return every > others

    def keep(self, stage: Sweep, said: Sequence[str] = ()) -> None:
        """Record what a stage asks for, and what is said at the end, for those who read the store."""
        tuning, lineage, _ = _parts(stage)
        keep_studies(self.store, stage.hash, tuning, lineage, stage.studies, said)

    def after(self, stage: Sweep) -> Sweep | None:
        """The sweep with the next round, or with the winners; None where a cell of this one lacks a row, or where
        nothing follows: all is measured, or no candidate of any setting left could be.

        Raises:
            SweepError: no row has the metric that selects.
        """
        found, (tuning, _, layout) = self._scores(stage), _parts(stage)
        if found is None:
            return None
        _, scores = found
        histories = _histories(stage, layout, scores)
        near = _neighbours(stage, layout)
        studies = {}
        for name in layout.searched:
            study = stage.studies[name]
            best = min((score, point) for asked in histories[name] for point, score in asked)
            lacking = tuning.searches and len(study.points) < wanted(tuning)
            if study.winner is None and math.isfinite(best[0]) and not lacking:
                others, points = [histories[other] for other in near[name]], list[Point]()
                if len(study.rounds) < tuning.rounds and not tuning.searches:
                    seed = seed_of(name, tuning.digest)
                    points = propose(tuning.space, tuning.sampler, tuning.candidates, seed, histories[name], others)
                rounds = (*study.rounds, tuple(points)) if points else study.rounds
                study = Study(rounds, None if points else best[1])
            studies[name] = study
        studies = {
            name: studies.get(name) or Study((), studies[layout.settings[source]].winner)
            for name, source in zip(layout.settings, layout.source, strict=True)
        }
        return None if studies == stage.studies else replace(stage, studies=studies)

    def search(
        self, stage: Sweep, executor: Searching, job: Job, claims: Claims, on_counts: Callable[[Counts], None]
    ) -> tuple[Sweep, str]:
        """Propose and run the candidates that a stage lacks; the stage with them, and why it ended early, or ""."""
        tuning, lineage, layout = _parts(stage)
        return search_all(stage, tuning, lineage, layout, self.store, executor, job, claims, self.keep, on_counts)

    def rehearsed(self, stage: Sweep) -> Sweep:
        """The whole sweep, for its price: further points of each design stand for candidates that are not proposed yet,
        and the first one stands for the winner.
        """
        (tuning, _, layout), studies = _parts(stage), {}
        first = {
            name: stage.studies[layout.settings[i]] for name, i in zip(layout.settings, layout.source, strict=True)
        }
        for name, study in stage.studies.items():
            own = bool(study.rounds) and study.winner is None
            more = (tuning.rounds - len(study.rounds)) * tuning.candidates if own else 0
            spare = tuning.first(name, tuning.candidates * tuning.rounds + len(study.points)) if more else ()
            extra = tuple(point for point in spare if point not in study.points)[:more]
            studies[name] = Study((*study.rounds, extra) if study.rounds else (), study.winner or first[name].points[0])
        return replace(stage, studies=studies)

    def about(self, stage: Sweep) -> dict[str, Any]:
        """How far the tuning is, as plain data."""
        return _about(_parts(stage)[0], stage.studies)

    def line(self, stage: Sweep, before: Sweep | None = None) -> str:
        """What a stage does that the one before it did not, in a sentence."""
        tuning = self.tuning
        known = {} if before is None else before.studies
        new = [study for name, study in stage.studies.items() if known.get(name) != study]
        won = sum(study.winner is not None for study in new)
        axes = ", ".join(d.axis.name for d in tuning.space)
        said = []
        if asked := [len(study.rounds) for study in new if study.winner is None and study.rounds]:
            each = counted(tuning.candidates, "candidate")
            which = f"round {min(asked)} of {tuning.rounds}: {each}"
            if tuning.searches:
                which = f"search: {counted(wanted(tuning), 'candidate')}"
            said.append(f"{which} of {axes} at {counted(len(asked), 'setting')}")
        if won:
            said.append(f"winners of {axes} at {counted(won, 'setting')} on {counted(tuning.fresh, 'fresh seed')}")
        return f"tune: {'; '.join(said)}"

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
            if study.points and study.winner is not None and np.isfinite(again).all():
                tuned.append(next(s for asked in histories[name] for point, s in asked if point == study.winner))
                fresh.append(again)
                winners.append(study.winner)
        said = []
        if winners:
            seeds = int(np.sum((layout.setting == layout.source[0]) & (layout.point == 0)))
            bias = selection_bias(tuning.sign * np.array(tuned), tuning.sign * np.array(fresh), seeds)
            number = "{:+.2%}" if bias.relative else "{:+.3g}"
            low, mean, high = (number.format(value) for value in (bias.low, bias.mean, bias.high))
            said.append(
                f"tune: {counted(len(winners), 'winner')} by {metric}, measured again on "
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
        if lost:
            said.append(f"tune: no winner at {counted(lost, 'setting')}: no candidate trained at each of its seeds")
        return said

    def _scores(self, stage: Sweep) -> tuple[str, npt.NDArray[np.float64]] | None:
        """The metric that selects, and [runs] the score of each run of a stage; None where a cell lacks a row."""
        tuning, runs = _parts(stage)[0], stage.runs
        seen = {n for observed in runs.observed for n in observed.names}
        others = {n for n in seen if stage.axes[n].role != "time" and not stage.axes[n].inferred}
        ledger = ledger_of(self.store, runs, dict(stage.axes), stage.identity)
        scan = ledger.scan(["error", *tuning.metrics, *others])
        if len(scan.pending(runs, skip_failed=True)):
            return None
        names = scan.table.schema.names
        types = {name: scan.table.schema.field(name).type for name in names}
        metric = next((name for name in tuning.metrics if name in names and _is_number(types[name])), None)
        if metric is None and pc.any(pc.equal(scan.table.column("status"), "ok")).as_py():
            wanted, where = tuning.metrics[-1], f"{stage.path}: tuner.metric"
            every = ledger.scan().table.schema
            known = [
                n for n in every.names if n not in {*STAMPS, COLUMNS, *stage.axes} and _is_number(every.field(n).type)
            ]
            raise SweepError(
                f"{where}: must be a metric of the rows that is a number, but got {wanted!r}. {nearest(wanted, known)}"
            )
        scores = run_scores(scan.table, runs, metric, tuning.sign, sorted(others & {*names}))
        return metric or tuning.metrics[-1], scores


def described(about: Mapping[str, Any]) -> str:
    """How far a tuning is, in a sentence, by `Rounds.about`."""
    by = f" by {about['metric']}" if about["metric"] else ""
    where = counted(about["settings"], "setting")
    if about["transfer"]:
        at = ", ".join(f"{name}={value}" for name, value in about["transfer"].items())
        where = f"{about['searched']} of {where} ({at}; the others take the winners)"
    return (
        f"tunes {', '.join(about['axes'])}{by} at {where} with {about['sampler']}: "
        f"round {about['round']} of {about['rounds']}, {counted(about['candidates'], 'candidate')} each; "
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
        "transfer": dict(tuning.transfer),
    }


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
    mine = {layout.settings.index(name): name for name in layout.searched}
    found, first = np.unique(layout.setting, return_index=True)
    names = [mine[j] for j in found.tolist() if j in mine]
    at = [i for i, j in zip(first.tolist(), found.tolist(), strict=True) if j in mine]
    rows = [{n: v for n, v in layout.runs.row(i).items() if n in plain} for i in at]
    near = neighbours(rows, stage.axes)
    return {name: [names[j] for j in others] for name, others in zip(names, near, strict=True)}


def _at_end(share: float) -> bool:
    return abs(share - 0.5) > 0.5 - _NEAR


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
