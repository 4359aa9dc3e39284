"""Scores of candidates from the rows of a ledger, and by how much the score of a winner flatters it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.grid.runs import Runs
from raysweep.ledger.remaining import locate
from raysweep.sweep.tuned import Layout

__all__ = ["STOPPED", "Bias", "candidate_scores", "run_scores", "selection_bias"]

STOPPED = "retired by"  # the beginning of the reason of the rows of a candidate that was stopped early


def run_scores(
    table: pa.Table, runs: Runs, metric: str | None, sign: float, others: Sequence[str]
) -> npt.NDArray[np.float64]:
    """[runs] the score of each run, low is better: the metric's mean over the values of `others`, at the best of the
    other observed values; infinity for a run with a row that diverged, failed or was
    not reached because the candidate was stopped, or without a finite value.

    Args:
        metric: A column of the rows; None where none has one.
        sign: 1 where low values are better, -1 where high ones are.
        others: Observed axes besides time.
    """
    at = locate(runs, table.column("cell"))
    table, at = table.filter(pa.array(at >= 0)), at[at >= 0]
    scores = np.full(len(runs), np.inf)
    stopped = pc.fill_null(pc.starts_with(table.column("error"), STOPPED), False)
    bad = pc.or_(pc.is_in(table.column("status"), pa.array(["diverged", "failed"])), stopped).to_numpy()
    if metric is not None:
        value = sign * pc.cast(table.column(metric), pa.float64()).to_numpy()
        kept = pa.table({"run": at, "value": value, **{f"by_{n}": table.column(n) for n in others}})
        kept = kept.filter(pa.array(np.isfinite(value)))
        best = kept.group_by(["run", *(f"by_{n}" for n in others)]).aggregate([("value", "min")])
        mean = best.group_by("run").aggregate([("value_min", "mean")])
        scores[mean.column("run").to_numpy()] = mean.column("value_min_mean").to_numpy()
    scores[at[bad]] = np.inf
    return scores


def candidate_scores(
    layout: Layout, scores: npt.NDArray[np.float64], counts: Sequence[int]
) -> list[npt.NDArray[np.float64]]:
    """Per setting, [candidates] the mean score over seeds.

    Args:
        scores: Of runs.
        counts: Candidates of each setting.
    """
    start = np.concatenate([[0], np.cumsum(counts)])
    mine = layout.point >= 0
    index = start[layout.setting[mine]] + layout.point[mine]
    total = np.bincount(index, scores[mine], minlength=start[-1])
    number = np.bincount(index, minlength=start[-1])
    return np.split(np.where(number > 0, total / np.maximum(number, 1), np.inf), start[1:-1])


@dataclass(frozen=True)
class Bias:
    """What selection did to the scores of winners: the score that won minus the score on fresh seeds.

    Attributes:
        mean, low, high: Over settings, with a 95 % interval; nan where there is one fresh seed.
        relative: Whether it is a share of the fresh score.
    """

    mean: float
    low: float
    high: float
    relative: bool


def selection_bias(tuned: npt.NDArray[np.float64], fresh: npt.NDArray[np.float64], seeds: int) -> Bias:
    """The selection bias of winners.

    All settings share their seeds, so their errors are correlated, and the mean over settings is what has an interval:
    by Student's t, from how that mean varies over fresh seeds. Its width is what two means, over `seeds` seeds and over
    the fresh ones, would differ by if nothing had been selected.

    Args:
        tuned: [settings] the scores that won.
        fresh: [settings, fresh seeds] scores.
        seeds: Over how many a score that won is a mean.
    """
    from scipy.stats import t

    mean, count = fresh.mean(1), fresh.shape[1]
    relative = bool((mean > 0).all() or (mean < 0).all())
    scale = np.abs(mean) if relative else np.ones_like(mean)
    bias, half = float(np.mean((tuned - mean) / scale)), math.nan
    if count > 1:
        spread = float(np.std(np.mean(fresh / scale[:, None], axis=0), ddof=1))
        half = float(t.ppf(0.975, count - 1)) * spread * math.sqrt(1 / count + 1 / seeds)
    return Bias(bias, bias - half, bias + half, relative)
