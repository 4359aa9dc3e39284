"""Scores of candidates from the rows of a ledger, and by how much the score of a winner flatters it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import SweepError, nearest
from raysweep.grid.runs import Runs
from raysweep.ledger.log import Ledger
from raysweep.ledger.remaining import among, locate
from raysweep.ledger.rows import COLUMNS, STAMPS
from raysweep.sweep import Sweep
from raysweep.sweep.tuned import Layout, Tuning
from raysweep.tuning import History

__all__ = [
    "STOPPED", "Bias", "candidate_scores", "histories", "passed", "ranked", "run_scores", "selection_bias",
    "stage_scores",
]  # fmt: skip

STOPPED = "retired by"  # the beginning of the reason of the rows of a candidate that was stopped early


def run_scores(
    table: pa.Table, runs: Runs, metric: str | None, sign: float, others: Sequence[str]
) -> npt.NDArray[np.float64]:
    """[runs] the score of each run, low is better: the metric's mean over the values of `others`, at the best of the
    other observed values; infinity for a run with a row that diverged, failed or was not reached because the candidate
    was stopped, or without a finite value.

    Args:
        metric: A column of the rows; None where none has one.
        sign: 1 where low values are better, -1 where high ones are.
        others: Observed axes besides time.
    """
    table = table.filter(pa.array(among(runs, table.column("cell"))))  # not what another sweep read of these runs
    at = locate(runs, table.column("cell"))
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


def stage_scores(stage: Sweep, tuning: Tuning, ledger: Ledger) -> tuple[str, npt.NDArray[np.float64]] | None:
    """The metric that selects, and [runs] the score of each run of a stage; None where a cell lacks a row.

    Args:
        ledger: As the stage reads it.

    Raises:
        SweepError: no row has the metric that selects.
    """
    runs = stage.runs
    seen = {n for observed in runs.observed for n in observed.names}
    others = {n for n in seen if stage.axes[n].role != "time" and not stage.axes[n].inferred}
    scan = ledger.scan(["error", *tuning.metrics, *others])
    if len(scan.pending(runs, skip_failed=True)):
        return None
    numbers = _numbers(scan.table.schema)
    metric = next((name for name in tuning.metrics if name in numbers), None)
    if metric is None and pc.any(pc.equal(scan.table.column("status"), "ok")).as_py():
        wanted = tuning.metrics[-1]
        known = [name for name in _numbers(ledger.scan().table.schema) if name not in {*STAMPS, COLUMNS, *stage.axes}]
        raise SweepError(
            f"{stage.path}: tuner.metric: must be a metric of the rows that is a number, but got {wanted!r}. "
            f"{nearest(wanted, known)}"
        )
    scores = run_scores(scan.table, runs, metric, tuning.sign, sorted(others & {*scan.table.schema.names}))
    return metric or tuning.metrics[-1], scores


def _numbers(schema: pa.Schema) -> list[str]:
    """The columns that hold numbers."""
    kinds = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean
    return [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]


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


def histories(stage: Sweep, layout: Layout, scores: npt.NDArray[np.float64]) -> dict[str, History]:
    """By setting, the candidates of each round with their scores."""
    studies = [stage.studies[name] for name in layout.settings]
    found: dict[str, History] = {}
    mine = candidate_scores(layout, scores, [len(study.points) for study in studies])
    for name, study, values in zip(layout.settings, studies, mine, strict=True):
        known = dict(zip(study.points, values.tolist(), strict=True))
        found[name] = [[(point, known[point]) for point in asked] for asked in study.rounds]
    return found


def passed(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Positions of the candidates that pass a rung: the best `count`, of equal ones those asked for first. A candidate
    without a finite score does not pass.

    Args:
        scores: [candidates] low is better, of the rows up to the rung.
    """
    best = np.argsort(scores, kind="stable")[:count]
    return np.sort(best[np.isfinite(scores[best])])


def ranked(scores: npt.NDArray[np.float64], until: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[candidates] ranks in place of scores that were reached at different times: later ones come first, as those of
    pruned trials do in Optuna's TPE. A score that is not finite becomes infinity.

    Args:
        until: [candidates] the time at which each was retired; infinity where it was not.
    """
    rank = np.empty(len(scores))
    rank[np.lexsort((scores, -until))] = np.arange(len(scores))
    return np.where(np.isfinite(scores), rank, np.inf)


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
