"""A search whose candidates are proposed one by one, each whenever another one ends; what an executor needs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from raysweep.executors.work import Job
from raysweep.ledger.rows import Counts
from raysweep.pack import Pack
from raysweep.tuning import Point, Space

__all__ = ["Begun", "Search", "Searching"]


@dataclass(frozen=True)
class Begun:
    """What is left to run of a candidate.

    Attributes:
        pack: Its runs; None where all have ended.
        before: Scores of its runs that had ended before.
    """

    pack: Pack | None
    before: tuple[float, ...] = ()


@dataclass(frozen=True)
class Search:
    """The search for the best candidate of one setting. Scores are minimised.

    Attributes:
        known: Candidates whose score is known; infinity where one diverged or failed.
        stopped: Candidates that the scheduler stopped before.
        first: Candidates that are run before any is proposed.
        spare: Candidates for when those proposed were all tried before: every one of a small space.
        count: Candidates to run, `first` among them.
        startup: Candidates before the sampler learns from scores.
        scheduler: Of Ray Tune: asha, median, or None.
        cells: Rows that a candidate has when it is run to its end.
        metrics: By the first of these that a row has, candidates are compared.
        sign: 1 where low values of it are better, -1 where high ones are.
        most: Failed runs before any succeeds, at which the search ends.
        begin: Records that a candidate is asked for; None where it was before.
        retire: Records that a candidate was stopped early, given the training of each of its runs that began.
    """

    space: Space
    seed: int
    known: Mapping[Point, float]
    stopped: Sequence[Point]
    first: Sequence[Point]
    spare: Sequence[Point]
    count: int
    startup: int
    scheduler: str | None
    cells: int
    metrics: tuple[str, ...]
    sign: float
    most: int
    begin: Callable[[Point], Begun | None]
    retire: Callable[[Point, Mapping[str, str]], Counts]


@runtime_checkable
class Searching(Protocol):
    """An executor that can search, which needs Ray Tune."""

    def search(self, job: Job, search: Search, on_counts: Callable[[Counts], None]) -> str:
        """Run the candidates of one setting, as many at a time as there is room; returns why it ended early, or ""."""
        ...
