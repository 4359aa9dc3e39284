"""Many groups at once: their estimates, and their draws, are solved as arrays of padded problems.

How a group's numbers are laid out depends on that group alone, so its results are the same to the last digit whichever
others are solved beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.binned import binned
from raysweep.laws.bootstrap import Bootstrap, Resample, resample
from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import distinct, solve
from raysweep.laws.expectile import solve_expectile
from raysweep.laws.group import Data
from raysweep.laws.growth import Growth
from raysweep.laws.polish import Problems
from raysweep.laws.request import Options

__all__ = ["MOST_POINTS", "RATIO", "Group", "bootstraps", "problems_of", "solve_all", "weights_of"]

RATIO = 10.0  # largest weight over the smallest: beyond this, a mistaken standard error could dominate a fit
MOST_POINTS = 20_000  # points of a group beyond which draws are those of its sums
_LONG = 100  # distinct scales beyond which a group is solved alone, with one copy of its scales for all draws
_DRAWN = 1e-6  # see `estimate`'s relative: ends of intervals move by 0.03 standard errors at most


@dataclass(frozen=True)
class Group:
    """A group that is being fitted: its sorted points, and what is known so far."""

    law: Law
    data: Data
    run: npt.NDArray[np.int64]
    weights: Array
    values: Array
    status: int
    details: Mapping[str, str]
    error: str | None = None
    growth: Growth | None = None


def weights_of(group: Group) -> Array:
    """Inverse variances of log y, mean 1. The variance is that of runs about the law plus that of a finite evaluation.

    The first is the same for all points: what the residuals show beyond the second (a method of moments, DerSimonian &
    Laird 1986).
    """
    data, p = group.data, len(group.law.parameters)
    assert data.se is not None
    own = (data.se / data.y) ** 2
    residual = np.log(data.y) - np.log(group.law.predict(data.x, group.values))
    spare = max(data.y.size - p, 1)
    between = max(0.0, float(np.average(residual**2, weights=group.weights)) * data.y.size / spare - float(own.mean()))
    weights = 1.0 / np.maximum(between + own, 1e-300)
    weights = np.clip(weights, None, RATIO * weights.min())
    return np.asarray(weights / weights.mean())


def solve_all(
    groups: Sequence[Group], weights: Sequence[Array], huber: float | None, envelope: float | None = None
) -> list[tuple[Array, int]]:
    """Values and status of each group under its weights, solved in batches of the same law and padded length."""
    out: list[tuple[Array, int]] = [(np.zeros(0), 0)] * len(groups)
    buckets: dict[tuple[str, int, int], list[int]] = {}
    for i, group in enumerate(groups):
        length = group.data.y.size
        padded = 1 << (length - 1).bit_length()  # few lengths, at most twice the work
        buckets.setdefault((group.law.name, padded, i if padded > MOST_POINTS else -1), []).append(i)
    for (_, length, _), index in buckets.items():
        law = groups[index[0]].law
        u = np.zeros((len(index), len(law.axes), length))
        t, w = np.zeros((len(index), length)), np.zeros((len(index), length))
        for row, i in enumerate(index):
            n = groups[i].data.y.size
            u[row, :, :n], t[row, :n], w[row, :n] = np.log(groups[i].data.x), np.log(groups[i].data.y), weights[i]
            u[row, :, n:] = u[row, :, n - 1 : n]  # a law may have no value elsewhere
        fitted = solve(law, u, t, w, huber) if envelope is None else solve_expectile(law, u, t, w, envelope)
        for row, i in enumerate(index):
            out[i] = (fitted.values[row], int(fitted.status[row]))
    return out


def bootstraps(
    groups: Sequence[Group], weights: Sequence[Array], options: Options
) -> list[tuple[Bootstrap | None, str]]:
    """The draws of all groups, solved together where they share a law and a number of points; or why there are none."""
    out: list[tuple[Bootstrap | None, str]] = [(None, "")] * len(groups)
    if not options.draws:
        return out
    buckets: dict[tuple[str, int, int], list[int]] = {}
    samples, parts = {}, {}
    for i, (group, w) in enumerate(zip(groups, weights, strict=True)):
        if group.error is not None:
            continue
        there = w > 0
        d = group.data
        own = None if d.run is None else d.run[there]
        try:
            if there.sum() > MOST_POINTS:
                out[i] = (
                    binned(
                        group.law, d.x[:, there], d.y[there], w[there], group.values,
                        own, options.draws, options.seed, options.huber, group.growth,
                    ),
                    "",
                )  # fmt: skip
                continue
            samples[i] = resample(
                group.law, d.x[:, there], d.y[there], group.values,
                own, w[there], options.draws, options.seed, group.growth,
                # Residuals of one sign count more: signs drawn at random would not surround the law.
                kind=None if options.envelope is None else "case",
            )  # fmt: skip
        except FitError as error:
            out[i] = (None, str(error))
            continue
        if options.envelope is not None:
            samples[i] = _counted(samples[i], group, w, options.envelope)
        whole = problems_of(group, samples[i], w, options)
        long = whole.w.shape[1] > _LONG
        parts[i] = whole if long else whole.compact()
        buckets.setdefault((group.law.name, parts[i].w.shape[1], i if long else -1), []).append(i)
    for (_, _, alone), index in buckets.items():
        law = groups[index[0]].law
        some = [parts[i] for i in index]
        counts = [len(one.w) for one in some]
        u, t, w = some[0].u, some[0].t, some[0].w
        if alone < 0:
            w = np.concatenate([one.w for one in some])
            t = np.concatenate([np.broadcast_to(one.t, one.w.shape) for one in some])
            u = np.concatenate([np.broadcast_to(one.u, (len(one.w), *one.u.shape[1:])) for one in some])
        start = np.repeat([groups[i].values for i in index], counts, axis=0)
        if options.envelope is None:
            warm = solve(law, u, t, w, options.huber, start, _DRAWN)
        else:
            warm = solve_expectile(law, u, t, w, options.envelope, start, _DRAWN)
        fitted = warm.values
        if (
            law.starts > 1 and options.envelope is None
        ):  # several basins: a draw's optimum may lie in another one than the estimate's
            cold = solve(law, u, t, w, options.huber, None, _DRAWN, known=warm.values)
            fitted = np.where((cold.objective < warm.objective)[:, None], cold.values, warm.values)
        for i, values in zip(index, np.split(fitted, np.cumsum(counts)[:-1]), strict=True):
            out[i] = (samples[i].solved(groups[i].law, groups[i].values, values), "")
    return out


def _counted(sample: Resample, group: Group, weights: Array, tau: float) -> Resample:
    """The draws of an envelope, whose runs count as many as weigh in it (Kish 1965): few lie on its rare side."""
    above = group.data.y > group.law.predict(group.data.x, group.values)
    weights = weights * np.where(above, tau, 1 - tau)
    share = float(weights.sum() ** 2 / (weights**2).sum()) / np.count_nonzero(weights)
    return replace(sample, runs=max(round(share * sample.runs), sample.spent + 1))


def problems_of(group: Group, sample: Resample, weights: Array, options: Options) -> Problems:
    """The draws of one group.

    Least squares sees only the mean log y and the weight at each point of scales, so replicates are merged.
    """
    there = weights > 0
    x, y = group.data.x[:, there], group.data.y[there]
    shape = (options.draws - sample.discarded, y.size)
    t = np.log(np.atleast_2d(y if sample.y is None else sample.y))
    w = np.broadcast_to(weights[there] if sample.weights is None else sample.weights, shape)
    if options.huber is None and options.envelope is None and distinct(x) < y.size:
        x, at = np.unique(x, axis=1, return_inverse=True)
        member = np.zeros((y.size, x.shape[1]))
        member[np.arange(y.size), at.ravel()] = 1.0
        total = w @ member
        t = ((w * t) @ member) / np.where(total > 0, total, 1.0)
        w = total
    return Problems(group.law, np.log(x)[None], t, w, options.huber)
