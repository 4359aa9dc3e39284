"""A sweep that tunes: for each setting of its grid, candidates of the tuned axes, and the winner on fresh seeds.

A setting is a run without its tuned axes and seeds; what was asked for it so far is a `Study`. The runs of the sweep
are the grid's, repeated for each candidate of their setting, and the winners' on fresh seeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis
from raysweep.grid.enumeration import run_keys
from raysweep.grid.lineage import Lineage
from raysweep.grid.runs import Runs
from raysweep.grid.values import Value
from raysweep.sweep.halved import Ladder
from raysweep.tuning import SEARCH, Point, Space, design, seed_of

__all__ = ["Layout", "Study", "Tuning"]


@dataclass(frozen=True)
class Study:
    """What was asked for one setting.

    Attributes:
        rounds: The candidates of each round begun.
        winner: The best candidate, once all rounds have ended.
        retired: Candidates that were retired, and the time of the rung at which they were.
        reached: Time of the last rung that the candidates of the last round passed, 0 before the first; infinity once
            they are past all rungs.
    """

    rounds: tuple[tuple[Point, ...], ...]
    winner: Point | None = None
    retired: Mapping[Point, float] = field(default_factory=dict)
    reached: float = math.inf

    @property
    def points(self) -> tuple[Point, ...]:
        """All candidates, each once."""
        return tuple(dict.fromkeys(point for asked in self.rounds for point in asked))

    @property
    def left(self) -> tuple[Point, ...]:
        """The candidates of the last round that are not retired, each once; none that an earlier round asked for."""
        before = {point for asked in self.rounds[:-1] for point in asked} | self.retired.keys()
        return tuple(point for point in dict.fromkeys(self.rounds[-1]) if point not in before)

    @property
    def halved(self) -> bool:
        """Whether some candidates of the last round were retired, and others are left."""
        begun = bool(self.rounds) and self.reached > 0  # a round may ask again for one that an earlier one retired
        return begun and not self.retired.keys().isdisjoint(self.rounds[-1]) and bool(self.left)

    @property
    def ends(self) -> npt.NDArray[np.float64]:
        """[2, candidates] the time at which each is retired, infinity where it is not, and the last rung it passed."""
        left = frozenset() if self.reached == math.inf else frozenset(self.left)
        passed = [self.reached if point in left else math.inf for point in self.points]
        return np.array([[self.retired.get(point, math.inf) for point in self.points], passed])


@dataclass(frozen=True)
class Layout:
    """The runs of a tuned sweep.

    Attributes:
        settings: Keys of the settings, in the order of the grid.
        setting: [n] index of each run's.
        point: [n] index of its candidate among `Study.points`; -1 for a winner on a fresh seed.
        rungs: Times of the rungs of each setting; none where no candidates are halved.
        whole: The runs as they would be asked for if no candidate were retired.
        source: For each setting, the index of the one whose winner it takes: its own, where candidates are tried.
    """

    runs: Runs
    settings: tuple[str, ...]
    setting: npt.NDArray[np.int64]
    point: npt.NDArray[np.int64]
    rungs: tuple[tuple[float, ...], ...]
    whole: Runs
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
        ladder: Where the worse candidates of a round are retired; None where all are trained to their end.
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
    ladder: Ladder | None = None
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
        parts += () if self.ladder is None else (self.ladder.text,)
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

    def begun(self, setting: str, searched: bool) -> Study:
        """What is asked for a setting at first: its design, or nothing where it takes another one's winner."""
        return self.followed(Study(()), self.first(setting)) if searched else Study(())

    def followed(self, study: Study, points: Sequence[Point]) -> Study:
        """A study with one more round."""
        rounds = (*study.rounds, tuple(points))
        return replace(study, rounds=rounds, reached=math.inf if self.ladder is None else 0.0)

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

        Raises:
            SweepError: candidates are to be halved, and no run of theirs has a rung; or a winner is to come from a
                setting that is not in the grid.
        """
        parent, first, inverse = np.unique(lineage.parents(base), return_index=True, return_inverse=True)
        order = np.argsort(first)  # of the grid
        members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
        settings = tuple(parent[i].decode() for i in order)
        at = self._sources(base.take(first[order]), lineage)
        rungs = self._rungs(base, [members[i] for i in order.tolist()], at)
        source, setting, point, fresh, ends = [], [], [], [], []
        tuned: list[tuple[Point, int]] = []  # points, and how often each is repeated
        for j, (name, i) in enumerate(zip(settings, order.tolist(), strict=True)):
            mine = members[i]
            study = studies.get(name) or self.begun(name, at[j] == j)
            points, count = study.points, self.fresh if study.winner is not None else 0
            source += [np.repeat(mine, len(points)), np.repeat(mine[:1], count)]
            setting += [np.full(len(mine) * len(points) + count, j)]
            point += [np.tile(np.arange(len(points)), len(mine)), np.full(count, -1)]
            fresh += [np.full(len(mine) * len(points), -1), np.arange(count)]
            ends += [np.tile(study.ends, len(mine)), np.full((2, count), math.inf)]
            tuned += [(p, 1) for _ in mine for p in points]
            tuned += [(study.winner, count)] if study.winner is not None else []
        runs = self._at(base.take(np.concatenate(source)), lineage, tuned, np.concatenate(fresh))
        keys, kept = np.unique(runs.keys, return_index=True)
        kept.sort()
        whole: Runs = runs.take(kept) if len(keys) < len(runs) else runs
        taken = whole if self.ladder is None else self.ladder.until(whole, *np.concatenate(ends, axis=1)[:, kept])
        return Layout(taken, settings, np.concatenate(setting)[kept], np.concatenate(point)[kept], rungs, whole, at)

    def _rungs(
        self, base: Runs, members: Sequence[npt.NDArray[np.int64]], source: Sequence[int]
    ) -> tuple[tuple[float, ...], ...]:
        """`Layout.rungs`, of settings with these members; none where another setting's winner is taken."""
        if self.ladder is None:
            return ((),) * len(members)
        own = [mine if source[i] == i else mine[:0] for i, mine in enumerate(members)]
        self.ladder.check(base.take(np.concatenate(own)))
        return tuple(self.ladder.rungs_of(base.take(mine)) for mine in own)

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


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
