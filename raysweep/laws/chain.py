"""Two steps: a law of a loss over scales, then a law of a metric over that loss, with one bootstrap through both.

The second step is fitted to the losses that were measured, so that it does not change the first. Draw by draw, its
parameters join those of the first: where both steps have the same runs, the same draws of these runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.bootstrap import Bootstrap
from raysweep.laws.choice import held_out
from raysweep.laws.definition import Array, Law
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data, GroupFit, Holdout
from raysweep.laws.growth import Growth
from raysweep.laws.kept import finite
from raysweep.laws.points import Points, points
from raysweep.laws.remains import remains
from raysweep.laws.request import FitRequest
from raysweep.laws.result import Fit
from raysweep.laws.source import Source
from raysweep.laws.steps import STEPS, Step
from raysweep.laws.table import data_of, fit_points

__all__ = ["Chain", "fit_chain", "fits_of"]

_OF_A_SCALE = ("one_run_per_scale", "narrow_window")  # notes that mean a scale one chooses, not a loss one measures


@dataclass(frozen=True, kw_only=True)
class Chain(Law):
    """A law of a metric over the scales of a loss.

    Attributes:
        first: The law of the loss; its parameters are the first ones.
        second: The step from the loss to the metric.
    """

    first: Law
    second: Step

    def evaluate(self, u: Array, values: Array) -> tuple[Array, list[Array]]:
        k = len(self.first.parameters)
        loss, before = self.first.evaluate(u, values[..., :k])
        log, after = self.second.law.evaluate(loss[..., None, :], values[..., k:])
        slope = self.second.slope(loss, values[..., k:])
        return log, [*(slope * row for row in before), *after]

    def slope(self, x: Array, values: Array) -> Array:
        """By how much log y moves with the log of the loss, [points], at scales x, [axes, points]."""
        k = len(self.first.parameters)
        loss, _ = self.first.evaluate(np.log(np.atleast_2d(x)), values[:k])
        return self.second.slope(loss, values[k:])


@dataclass(frozen=True)
class _Draws(Bootstrap):
    """Draws of a chain; a new run's metric also varies with its own loss, by `of_loss` in log units. Either spread may
    change: that of the loss with scale (`grows`), that of the metric with the loss (`grows_then`)."""

    of_loss: float = 0.0
    grows: Growth | None = None
    grows_then: Growth | None = None

    def prediction(self, x: npt.ArrayLike, level: float = 0.95, noise: npt.ArrayLike | None = None) -> Array:
        if noise is None and isinstance(self.law, Chain):
            x, first = np.atleast_2d(np.asarray(x, dtype=np.float64)), self.law.first
            loss = first.predict(x, self.values[: len(first.names)])[None]
            of_loss = self.of_loss * (1.0 if self.grows is None else self.grows.at(x))
            own = self.spread * (1.0 if self.grows_then is None else self.grows_then.at(loss))
            noise = np.hypot(self.law.slope(x, self.values) * of_loss, own)
        return super().prediction(x, level, noise)


def fit_chain(data: Source, request: FitRequest) -> tuple[Fit, ...]:
    """Fit a loss over scales, and a metric over that loss.

    Args:
        data: See `table.fit`.
        request: The fit of the loss, with the step that follows; rows without the metric count for the loss alone.

    Returns:
        The fit of the loss; that of the metric over the same scales, whose intervals, predictions and hold-out go
        through both steps.

    Raises:
        FitError: As `table.fit`; the metric is no column of numbers; or no group's second step could be fitted.
    """
    return tuple(one for one, _ in fits_of(points(data, request), request))


def fits_of(taken: Points, request: FitRequest) -> list[tuple[Fit, Points]]:
    """The fit that was requested, and the one of its second step where that was, each with its points.

    Raises:
        FitError: As `fit_chain`.
    """
    first = fit_points(taken, request)
    return [(first, taken)] + ([] if request.then is None else [_second(first, taken, request)])


def _second(first: Fit, taken: Points, request: FitRequest) -> tuple[Fit, Points]:
    assert request.then is not None
    assert request.metric is not None
    step, metric = STEPS[request.then], request.metric
    if not taken.frame[metric].dtype.is_numeric():
        held = taken.frame[metric].dtype
        raise FitError(f"The metric must be a column of numbers, but {metric!r} holds {held}. Name another.")
    losses, metrics = data_of(taken), data_of(replace(taken, y=metric))
    found = []
    for one, loss, other in zip(first, losses, metrics, strict=True):
        made = _fitted(one, loss, other, step, request, metric)
        if made.error is None and request.options.holdout:
            made = _judged(made, one, loss, other, step, request, metric)
        found.append(made)
    if all(group.error is not None for group in found):
        raise FitError(str(found[0].error))
    kept = replace(taken, y=metric, frame=taken.frame.filter(finite(metric)))
    return Fit(taken.x, metric, tuple(found)), kept


def _fitted(first: GroupFit, loss: Data, metric: Data, step: Step, request: FitRequest, name: str) -> GroupFit:
    """The chain of one group, from the fit of its loss."""
    if first.error is not None:
        return replace(first, law=_law(first.law, step), y=name)
    there = np.isfinite(metric.y)
    run = metric.run
    if run is None and "correlated_rows" not in first.details:  # the order in which the draws of the first count rows
        run = np.empty(loss.y.size, dtype=np.int64)
        run[np.lexsort((loss.y, *loss.x[::-1]))] = np.arange(loss.y.size)
    rows = replace(metric, x=loss.y[None], run=run, se=None, details={}, bounds=None).take(there)
    options = replace(request.options, holdout=0.0)
    (second,) = fit_groups(step.law, [rows], (request.y,), name, options)
    details = {code: text for code, text in second.details.items() if code not in _OF_A_SCALE}
    if not there.all():
        details["dropped_no_metric"] = (
            f"{np.count_nonzero(~there)} of {there.size} rows have no finite {name}: they count for {request.y} alone."
        )
    law = _law(first.law, step)
    if second.error is not None:
        return replace(
            first, law=law, y=name, params={}, derived={}, intervals={}, status="FAILED", rmse_log=None, rivals=(),
            details=details, holdout=None, draws=None, error=f"From {request.y} to {name}: {second.error}",
        )  # fmt: skip
    its = dict(zip(step.law.names, law.names[len(first.law.names) :], strict=True))
    made = replace(
        first,
        law=law,
        y=name,
        params={**first.params, **{its[n]: value for n, value in second.params.items()}},
        derived={},
        intervals={
            **{n: ends for n, ends in first.intervals.items() if n in first.params},
            **{its[n]: ends for n, ends in second.intervals.items()},
        },
        status=max(first.status, second.status, key=("CONVERGED", "BOUND_HIT", "MAX_ITER").index),
        n_points=second.n_points,
        details=details,
        holdout=None,
        rivals=second.rivals,
        draws=_joined(law, first.draws, second.draws),
    )
    missed = np.log(made.predict(loss.x[:, there])) - np.log(metric.y[there])
    left = None if made.draws is None else remains(np.log(loss.x[:, there]), -missed, np.ones(missed.size))
    return replace(made, rmse_log=float(np.sqrt((missed**2).mean())), left=left)


def _law(first: Law, step: Step) -> Chain:
    """The chain; parameters of the second step that the first has, too, end with `_then`."""
    names = {p.name: f"{p.name}_then" if p.name in first.names else p.name for p in step.law.parameters}
    text = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), step.law.formula)
    return Chain(
        name=f"{first.name}, then {step.law.name}",
        formula=f"{text}, L = {first.formula.removeprefix('y = ')}",
        axes=first.axes,
        amplitudes=(),
        exponents=(*first.parameters, *(replace(p, name=names[p.name]) for p in step.law.parameters)),
        fewest_scales=max(first.fewest_scales, step.law.fewest_scales),
        source=f"{first.source}; {step.law.source}",
        when=step.law.when,
        ceiling=names.get(step.law.ceiling, ""),
        levels=first.levels,
        first=first,
        second=step,
    )


def _joined(law: Chain, a: Bootstrap | None, b: Bootstrap | None) -> Bootstrap | None:
    """The draws of both steps, side by side."""
    if a is None or b is None:
        return None
    labels = np.arange(a.runs) if a.labels is None else a.labels
    count = min(len(a.draws), len(b.draws))
    same = b.labels is not None and np.array_equal(labels, b.labels)
    same = same and (a.seed, a.kind, len(a.draws)) == (b.seed, b.kind, len(b.draws))
    # Draws of other runs still have their multipliers in common; in another order they do not.
    order = np.arange(count) if same else np.random.default_rng(b.seed).permutation(len(b.draws))[:count]
    fewer, spent = min(a.runs, b.runs), max(a.spent, b.spent)
    return _Draws(
        law,
        np.concatenate([a.values, b.values]),
        np.concatenate([a.draws[:count], b.draws[order]], axis=1),
        redrawn=max(a.redrawn, b.redrawn),
        discarded=max(a.discarded, b.discarded),
        runs=fewer,
        spent=min(spent, fewer - 1),
        kind=a.kind if a.kind == b.kind else "case",
        spread=b.spread,
        labels=a.labels,
        seed=a.seed,
        of_loss=a.spread,
        grows=a.growth,
        grows_then=b.growth,
    )


def _judged(
    made: GroupFit, first: GroupFit, loss: Data, metric: Data, step: Step, request: FitRequest, name: str
) -> GroupFit:
    """The chain with a second one, fitted without the largest scales and scored on their metric."""
    left = held_out(loss.x, request.options.holdout)
    options = replace(request.options, holdout=0.0)
    (before,) = fit_groups(first.law, [loss.take(~left)], first.x, first.y, options)
    second = _fitted(before, loss.take(~left), metric.take(~left), step, request, name)
    scored = left & np.isfinite(metric.y)
    if second.error is not None or not scored.any():
        text = f"Too few rows remain without the top {request.options.holdout:.0%} of scales to fit both steps."
        return replace(made, details={**made.details, "no_holdout": text})
    x, y = loss.x[:, scored], metric.y[scored]
    ends = second.prediction(x)
    size = np.exp(np.log(loss.x).sum(axis=0))
    held = Holdout(
        request.options.holdout,
        float(size[~left].max()),
        second.params,
        int(scored.sum()),
        float(np.sqrt(((np.log(second.predict(x)) - np.log(y)) ** 2).mean())),
        None if second.draws is None else float(((y >= ends[:, 0]) & (y <= ends[:, 1])).mean()),
    )
    return replace(made, holdout=held)
