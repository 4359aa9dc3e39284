"""A sweep that tunes: for each setting of its grid, candidates of the tuned axes, and the winner on fresh seeds.

A setting is a run without its tuned axes and seeds; what was asked for it so far is a `Study`. The runs of the sweep
are the grid's, repeated for each candidate of their setting, and the winners' on fresh seeds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError, nearest
from raysweep.experiment import Experiment
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.axes import Axis
from raysweep.grid.enumeration import run_keys
from raysweep.grid.formula import is_formula
from raysweep.grid.lineage import Lineage
from raysweep.grid.runs import Runs
from raysweep.grid.values import Value
from raysweep.ledger.rows import COLUMNS, STAMPS
from raysweep.sweep.schema import SweepFile, Tuner
from raysweep.tuning import SEARCH, Point, Space, check_sampler, design, parse_space, seed_of

__all__ = ["Layout", "Study", "Tuning", "probe", "tuning_of", "whole_ends"]

_CONDITIONS = ("when", "exclude")


@dataclass(frozen=True)
class Study:
    """What was asked for one setting.

    Attributes:
        rounds: The candidates of each round begun.
        winner: The best candidate, once all rounds have ended.
    """

    rounds: tuple[tuple[Point, ...], ...]
    winner: Point | None = None

    @property
    def points(self) -> tuple[Point, ...]:
        """All candidates, each once."""
        return tuple(dict.fromkeys(point for asked in self.rounds for point in asked))


@dataclass(frozen=True)
class Layout:
    """The runs of a tuned sweep.

    Attributes:
        settings: Keys of the settings, in the order of the grid.
        setting: [n] index of each run's.
        source: For each setting, the index of the one whose winner it takes: its own, where candidates are tried.
        point: [n] index of its candidate among `Study.points`; -1 for a winner on a fresh seed.
    """

    runs: Runs
    settings: tuple[str, ...]
    setting: npt.NDArray[np.int64]
    point: npt.NDArray[np.int64]
    source: tuple[int, ...]

    @property
    def searched(self) -> tuple[str, ...]:
        """The settings that have candidates."""
        return tuple(name for i, name in enumerate(self.settings) if self.source[i] == i)


@dataclass(frozen=True)
class Tuning:
    """How a sweep tunes.

    Attributes:
        metrics: By the first of these that rows have, candidates are compared; none where they are not known.
        sign: 1 where low values are better, -1 where high ones are.
        seeds: Axes that are fresh when a winner is run again, the leading one first.
        rounds, candidates, fresh: Rounds; candidates per round and setting; fresh seeds per winner.
        scheduler: Of Ray Tune, which stops bad candidates early.
        transfer: Values of axes at which candidates are tried; the winner is taken to the other values of these axes.
    """

    space: Space
    metrics: tuple[str, ...]
    sign: float
    sampler: str
    seeds: tuple[str, ...]
    rounds: int
    candidates: int
    fresh: int
    scheduler: str | None = None
    transfer: Mapping[str, Value] = field(default_factory=dict)

    @property
    def tuned(self) -> frozenset[str]:
        return frozenset(d.axis.name for d in self.space)

    @property
    def searches(self) -> bool:
        """Whether a candidate is proposed whenever another one ends, not in rounds."""
        return self.sampler == SEARCH

    @property
    def stand_in(self) -> dict[str, Value]:
        """One value of each tuned axis, with which a grid is complete."""
        return {d.axis.name: d.choices[0] if d.choices else d.parse(d.low) for d in self.space}

    @cached_property
    def digest(self) -> str:
        """Hash of what proposals depend on besides rows and seeds."""
        parts = (self.metrics, self.sign, self.sampler, self.candidates, *(d.text for d in self.space))
        parts += (self.scheduler,) if self.scheduler else ()
        parts += tuple(f"{name}={value}" for name, value in self.transfer.items())
        return hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=8).hexdigest()

    def lineage(self, base: Runs, axes: Mapping[str, Axis], identity: str) -> Lineage:
        """Where runs come from.

        Args:
            base: The runs of the grid.
        """
        return Lineage(axes, identity, self.tuned, self.seeds[0], frozenset(base.values[self.seeds[0]]))

    def first(self, setting: str, count: int = 0) -> tuple[Point, ...]:
        """The design of a setting, or a longer one that begins with it."""
        space = "\n".join(d.text for d in self.space)
        return tuple(design(self.space, count or self.candidates, seed_of(setting, space)))

    def study(self, points: Sequence[Point]) -> Study:
        """A study that asked for these, in this order: as many of them as a round has count as one."""
        return Study(tuple(tuple(points[i : i + self.candidates]) for i in range(0, len(points), self.candidates)))

    def candidate(self, base: Runs, lineage: Lineage, point: Point) -> Runs:
        """The runs of a candidate.

        Args:
            base: Those of its setting, one at each seed.
        """
        return self._at(base, lineage, [(point, 1)] * len(base), np.full(len(base), -1))

    def layout(self, base: Runs, lineage: Lineage, studies: Mapping[str, Study]) -> Layout:
        """Every run that was asked for.

        Args:
            base: The runs of the grid, each at some value of the tuned axes.
            studies: By setting; one that is missing has its design.
        """
        parent, first, inverse = np.unique(lineage.parents(base), return_index=True, return_inverse=True)
        order = np.argsort(first)  # of the grid
        members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
        settings = tuple(parent[i].decode() for i in order)
        at = self._sources(base.take(first[order]), lineage)
        source, setting, point, fresh = [], [], [], []
        tuned: list[tuple[Point, int]] = []  # points, and how often each is repeated
        for j, (name, i) in enumerate(zip(settings, order.tolist(), strict=True)):
            mine = members[i]
            study = studies.get(name) or self.begun(name, at[j] == j)
            points, count = study.points, self.fresh if study.winner is not None else 0
            source += [np.repeat(mine, len(points)), np.repeat(mine[:1], count)]
            setting += [np.full(len(mine) * len(points) + count, j)]
            point += [np.tile(np.arange(len(points)), len(mine)), np.full(count, -1)]
            fresh += [np.full(len(mine) * len(points), -1), np.arange(count)]
            tuned += [(p, 1) for _ in mine for p in points]
            tuned += [(study.winner, count)] if study.winner is not None else []
        runs = self._at(base.take(np.concatenate(source)), lineage, tuned, np.concatenate(fresh))
        keys, kept = np.unique(runs.keys, return_index=True)
        kept.sort()
        taken = runs.take(kept) if len(keys) < len(runs) else runs
        return Layout(taken, settings, np.concatenate(setting)[kept], np.concatenate(point)[kept], at)

    def begun(self, name: str, searched: bool) -> Study:
        """What is asked for a setting at first: its design, or nothing where it takes another one's winner."""
        return Study((self.first(name),) if searched else ())

    def _sources(self, rows: Runs, lineage: Lineage) -> tuple[int, ...]:
        """`Layout.source`.

        Args:
            rows: One run of each setting.

        Raises:
            SweepError: the winner would have to come from a setting that is not in the grid.
        """
        if not self.transfer:
            return tuple(range(len(rows)))
        group = replace(lineage, tuned=lineage.tuned | self.transfer.keys()).parents(rows).tolist()
        each = [rows.row(i) for i in range(len(rows))]
        found = {group[i]: i for i, row in enumerate(each) if all(row.get(n) == v for n, v in self.transfer.items())}
        if lacking := [row for row, name in zip(each, group, strict=True) if name not in found]:
            shown = {name: lacking[0].get(name) for name in self.transfer}
            raise SweepError(
                f"tuner.transfer: the grid must have a setting at {_listed(self.transfer)} that is otherwise equal to "
                f"each of its settings, but the one at {_listed(shown)} has none. Name every axis that changes with "
                "these, too, or put the value into the grid"
            )
        return tuple(found[name] for name in group)

    def _at(
        self, runs: Runs, lineage: Lineage, tuned: Sequence[tuple[Point, int]], fresh: npt.NDArray[np.int64]
    ) -> Runs:
        """Runs at other points, and those of winners (`fresh >= 0`) at other seeds."""
        values, codes = dict(runs.values), dict(runs.codes)
        repeats = [count for _, count in tuned]
        for i, name in enumerate(d.axis.name for d in self.space):
            found: dict[Value | None, int] = {}
            code = [found.setdefault(point[i], len(found)) for point, _ in tuned]
            values[name], codes[name] = tuple(found), np.repeat(np.array(code, dtype=np.int32), repeats)
        if (fresh >= 0).any():
            for name in self.seeds:
                before, old = values[name], codes[name]
                start = max((int(v) for v in before if v is not None), default=-1) + 1
                values[name] = (*before, *range(start, start + self.fresh))
                codes[name] = np.where(fresh >= 0, len(before) + fresh, old.astype(np.int64))
                for other, axis in lineage.axes.items():
                    if axis.follows == name and codes.get(other) is old:  # equal to what it follows: shared
                        values[other], codes[other] = values[name], codes[name]
        keys = run_keys(values, codes, lineage.axes, lineage.identity, len(runs))
        return replace(runs, keys=keys, values=values, codes=codes)


def whole_ends(tuning: Tuning) -> list[str]:
    """Notes on ranges of a plain function's axes that hold whole numbers because their ends are written as such."""
    return [
        f"tune.{d.axis.name}: takes whole numbers from {d.low:g} to {d.high:g}, as both ends are written as such. For "
        f"real numbers write {d.low:.1f}"
        for d in tuning.space
        if d.axis.inferred and d.whole and not d.choices
    ]


def probe(file: SweepFile) -> dict[str, Any]:
    """The grid with the tuned axes at the ends of their ranges, from which a plain function's axes are inferred."""
    ends = {name: _ends(entry) for name, entry in file.tune.items()}
    return {**file.grid, **ends}


def _ends(entry: Any) -> Any:
    return next(iter(entry.values())) if isinstance(entry, Mapping) and entry else entry


def tuning_of(file: SweepFile, axes: Mapping[str, Axis], experiment: Experiment | None = None) -> Tuning | None:
    """How a sweep tunes; None where it does not.

    Args:
        experiment: Whose metrics are known; None to read a store, where the metric does not matter.

    Raises:
        SweepError: a tuned axis is in the grid, too, or cannot be tuned; or there is no metric or seed.
    """
    if not file.tune:
        if file.tuner != Tuner():
            raise SweepError("tuner: must go with `tune`, which names the axes to tune, but there is none. Add it")
        return None
    space = parse_space(file.tune, axes)
    for name in file.tune:
        if place := _named(file.grid, name, axes):
            raise SweepError(f"tune.{name}: must be left out of the grid, but {place} has it. Remove one of the two")
    tuner = file.tuner
    if experiment is not None:
        check_sampler(tuner.sampler, space, tuner.candidates)
    _check_search(tuner, experiment)
    metrics, sign = ((), 1.0) if experiment is None else _metrics(file, experiment, axes)
    seeds = _seeds(file, axes)
    counts = tuner.rounds, tuner.candidates, tuner.seeds
    return Tuning(space, metrics, sign, tuner.sampler, seeds, *counts, tuner.scheduler, _transfer(file, axes))


def _transfer(file: SweepFile, axes: Mapping[str, Axis]) -> dict[str, Value]:
    """The values at which candidates are tried, as the grid would hold them."""
    found: dict[str, Value] = {}
    for name, raw in file.tuner.transfer.items():
        place = f"tuner.transfer.{name}"
        if name not in axes or not _named(file.grid, name, axes):
            given = [known for known in axes if _named(file.grid, known, axes)]
            raise SweepError(f"{place}: must be an axis of the grid, but got {name!r}. {nearest(name, given)}")
        axis = axes[name]
        if name in file.tune or axis.role == "seed" or axis.kind == "observed":
            what = "tuned" if name in file.tune else "a seed" if axis.role == "seed" else "observed"
            raise SweepError(
                f"{place}: must be an axis along which settings differ, but {name} is {what}. Name another one"
            )
        found[name] = axis.parse(raw, place)
    return found


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _check_search(tuner: Tuner, experiment: Experiment | None) -> None:
    if tuner.scheduler is not None and tuner.sampler != SEARCH:
        raise SweepError(
            f"tuner.scheduler: must go with `sampler: {SEARCH}`, whose candidates are trials of their own, but got "
            f"(sampler={tuner.sampler}, scheduler={tuner.scheduler}). Leave one of the two out"
        )
    if tuner.sampler == SEARCH and experiment is not None and not isinstance(experiment, FunctionExperiment):
        raise SweepError(
            f"tuner.sampler: {SEARCH} makes each candidate a trial of its own and must be used with a function of your "
            f"own, but got (experiment={experiment.name}), whose candidates are trained in one pack. Use tpe"
        )


def _named(grid: Any, name: str, axes: Mapping[str, Axis], place: str = "grid") -> str:
    """Where a grid gives an axis, conditions on it or computes with it; "" where it does not."""
    if not isinstance(grid, Mapping):
        return ""
    for key, entry in grid.items():
        if key == name:
            return place
        where = f"{place}.{key}"
        parts = entry if isinstance(entry, list | tuple) else [entry]
        for part in parts:
            inner = part
            if key == "when" and isinstance(part, Mapping):
                if isinstance(part.get("if"), Mapping) and name in part["if"]:
                    return where
                inner = part.get("then")
            if key in ("zip", "concat", *_CONDITIONS) and (found := _named(inner, name, axes, where)):
                return found
            if isinstance(part, str) and is_formula(part, axes) and _uses(part, name):
                return where
    return ""


def _uses(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _seeds(file: SweepFile, axes: Mapping[str, Axis]) -> tuple[str, ...]:
    """The seeds that are fresh when a winner is run again: the leading one, and others that the grid gives."""
    seeds = [a for a in axes.values() if a.role == "seed" and a.kind != "observed"]
    leads = [a.name for a in seeds if a.follows is None]
    lead = "seed" if "seed" in leads else next(iter(leads), None)
    given = [a.name for a in seeds if a.name != lead and _named(file.grid, a.name, axes)]
    if lead is None or any(axes[name].type is not int for name in (lead, *given)):
        raise SweepError(
            "tune: an experiment must have a seed of whole numbers, so that the winners can be measured again with "
            f"fresh ones, but has {', '.join(a.name for a in seeds) or 'none'}. Add `seed: {{range: 2}}` to the grid"
        )
    return (lead, *given)


def _metrics(file: SweepFile, experiment: Experiment, axes: Mapping[str, Axis]) -> tuple[tuple[str, ...], float]:
    """The metric that selects, and its sign: by default that of the fit on the selection sample, where there is one.
    What a plain function returns is not known yet.
    """
    known = {metric.name: metric for metric in experiment.metrics}
    name, fitted = file.tuner.metric, list(dict.fromkeys(spec.y for spec in file.fit))
    if name is None and len(fitted) != 1:
        raise SweepError(
            "tuner.metric: must name the metric that candidates are compared by, unless all fits are of one, but the "
            f"sweep {'fits ' + ', '.join(fitted) if fitted else 'has no fit'}. Give tuner: {{metric: NAME}}"
        )
    wanted = (name,) if name is not None else (f"{fitted[0]}_select", fitted[0])
    found = tuple(metric for metric in wanted if metric in known or not known)
    if not found:
        raise SweepError(
            f"tuner.metric: must be a metric of the experiment, but got {wanted[-1]!r}. {nearest(wanted[-1], known)}"
        )
    if not known and (taken := wanted[-1]) in {"", *STAMPS, COLUMNS, *axes}:
        what = "an axis" if taken in axes else "a column of every ledger" if taken else "no name"
        raise SweepError(
            f"tuner.metric: must be a metric that the function reports, but {taken!r} is {what}. Name the metric by "
            "which candidates are compared"
        )
    better = file.tuner.better or (known[found[0]].better if known else "") or "low"
    return found[: 1 if known else None], -1.0 if better == "high" else 1.0
