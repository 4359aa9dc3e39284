"""Successive halving of the candidates of a sweep that tunes: which of them pass a rung, and what was spared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raysweep.selection import passed, ranked
from raysweep.sweep import Sweep
from raysweep.sweep.halved import Ladder
from raysweep.sweep.tuned import Layout, Study
from raysweep.terminal import counted
from raysweep.tuning import History

__all__ = ["in_order", "past_rung", "past_rungs", "what_halving_did"]


def past_rung(study: Study, ladder: Ladder, rungs: Sequence[float], history: History) -> Study:
    """The study once all its candidates that are left have rows up to the next rung: the worse ones are retired."""
    rung = next((time for time in rungs if time > study.reached), None)
    if rung is None:
        return replace(study, reached=math.inf)
    known, left = {point: score for asked in history for point, score in asked}, study.left
    best = passed(np.array([known[point] for point in left]), ladder.passing(len(left)))
    on = {left[i] for i in best.tolist()}
    retired = {**study.retired, **{point: rung for point in left if point not in on}}
    return replace(study, retired=retired, reached=rung if len(on) > 1 and rung < rungs[-1] else math.inf)


def past_rungs(study: Study, ladder: Ladder | None, rungs: Sequence[float]) -> Study:
    """The study at the end of its round if, of the candidates that are left, those asked for first were the best."""
    while ladder is not None and study.reached < math.inf:
        study = past_rung(study, ladder, rungs, [[(point, float(i)) for i, point in enumerate(study.left)]])
    return study


def in_order(study: Study, history: History) -> History:
    """The candidates with ranks for scores, where some were retired: a score of a longer training is no better."""
    if not study.retired:
        return history
    known = {point: score for asked in history for point, score in asked}
    rank = ranked(np.array([known[point] for point in study.points]), study.ends[0])
    of = dict(zip(study.points, rank.tolist(), strict=True))
    return [[(point, of[point]) for point, _ in asked] for asked in history]


def what_halving_did(ladder: Ladder, stage: Sweep, layout: Layout) -> list[str]:
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
