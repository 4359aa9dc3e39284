"""Many groups fitted together: estimates, weights, draws and hold-outs of all groups are solved as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws import caveats, forms, stated
from raysweep.laws.batch import MOST_POINTS, Group, bootstraps, solve_all, weights_of
from raysweep.laws.bootstrap import Bootstrap
from raysweep.laws.choice import Evidence, evidence, held_out
from raysweep.laws.chosen import chosen
from raysweep.laws.copies import counted_once, without_effect
from raysweep.laws.definition import Array, Law
from raysweep.laws.dependence import clustered
from raysweep.laws.determined import overflown, undetermined
from raysweep.laws.estimate import Status, check, distinct, scales_of
from raysweep.laws.floors import floors
from raysweep.laws.group import Data, GroupFit, Holdout
from raysweep.laws.inexact import at_likely_scales
from raysweep.laws.misfit import of_form
from raysweep.laws.noise import followed
from raysweep.laws.pooling import pooled
from raysweep.laws.remains import remains
from raysweep.laws.request import Options

__all__ = ["Drawn", "begin", "effective", "fit_groups", "intervals_of", "outcome", "scored"]

_ROUNDS = 3  # alternations of weights and fit
_BATCH = 4_000_000  # numbers of draws' points held at a time
_MANY = 5_000  # points of a group beyond which runs are averaged in batches
_BATCHES = 100
_SCORED = 5_000  # points held out whose intervals are looked at
_SAME = 1e-12  # relative spread of y below which it is constant
_EXACT = 1e-8  # residuals below this are rounding errors
_OF_A_LINE = 2  # parameters of a straight line in logs, which a flat y determines, too


def fit_groups(
    law: Law | None,
    groups: Sequence[Data],
    x: Sequence[str],
    y: str,
    options: Options | None = None,
    family: Sequence[Law] = (),
) -> list[GroupFit]:
    """Fit `law` to each group's points; a refusal becomes a `FAILED` fit, not an exception.

    Args:
        law: What to fit; None to choose a one-axis law for each group, see `chosen.chosen`.
        family: The laws to choose from.
    """
    options = options or Options()
    begun = [effective(begin(law, data, options, family), y, options.huber) for data in groups]
    sound = [i for i, group in enumerate(begun) if group.error is None]
    for i, group in zip(sound, _estimated([begun[i] for i in sound], options.huber), strict=True):
        judged = _judged(group)
        begun[i] = clustered(judged, x) if judged.error is None else judged
    if options.envelope is None:
        begun = followed(begun, x, options.huber)
    else:  # weights and clusters are those of the mean
        some = [begun[i] for i in sound]
        found = solve_all(some, [g.weights for g in some], None, options.envelope)
        for i, group, (values, status) in zip(sound, some, found, strict=True):
            begun[i] = replace(group, values=values, status=status)
    drawn = _drawn(begun, options, keep=len(groups) <= caveats.MOST_JUDGED)
    second = _held_out(begun, options) if options.holdout else [None] * len(begun)
    compare = len(groups) <= caveats.MOST_COMPARED
    tested = {} if compare or len(groups) > caveats.MOST_JUDGED else floors(begun, options.huber)
    return [
        outcome(group, x, y, options, sample, holdout, None if compare else tested.get(i, ()))
        for i, (group, sample, holdout) in enumerate(zip(begun, drawn, second, strict=True))
    ]


def _judged(group: Group) -> Group:
    """The group, refused where its data do not determine the law, or its estimate is beyond the range of numbers."""
    law, there, error = group.law, group.weights > 0, None
    if not law.proved:
        error = undetermined(law, group.data.x[:, there], group.values)
    return replace(group, error=error or overflown(law, group.data.x[:, there], group.values))


def begin(law: Law | None, data: Data, options: Options, family: Sequence[Law] = ()) -> Group:
    """Points in a canonical order, so that neither the last digit nor a draw depends on the order of rows."""
    run = np.arange(data.y.size) if data.run is None else np.unique(data.run, return_inverse=True)[1]
    ties = (run,) if data.run is not None else ()
    order = np.lexsort((*data.others.values(), *ties, data.y, *data.x[::-1]))
    data, run = data.take(order), run[order] if data.run is not None else run
    details = dict(data.details)
    kept, said = counted_once(data)
    if said:
        details["duplicated_rows"], data, run = said, data.take(kept), run[kept]
    weights = np.ones(data.y.size)
    form, error = law or forms.law("power"), None
    try:
        if law is None:
            check(form, scales_of(form, data.x), data.y)
            form, details["law_chosen"] = chosen(data.x, data.y, options.huber, family)
        check(form, scales_of(form, data.x), data.y)
        if np.ptp(data.y) <= _SAME * data.y.max():
            raise FitError(
                f"A law needs a y that changes, but y is {data.y[0]:.6g} at all {data.y.size} points. Check the "
                "column, or fit another one."
            )
        errors = [one for one in (data.se, data.x_se) if one is not None]
        if not all(np.isfinite(one).all() and (one >= 0).all() for one in errors):
            raise FitError(
                "Standard errors (se, x_se) must be finite and >= 0, but some are not. Filter these rows, or leave the "
                "column out."
            )
    except FitError as refused:
        error = str(refused)
    if error is None and data.x_se is None and data.y.size > _MANY and distinct(data.x) * _BATCHES < data.y.size:
        rows = data.y.size
        data, run, weights = _batched(data, run)
        details["batched_runs"] = (
            f"{rows:,} rows of many runs were averaged (geometric means) in {_BATCHES} batches of runs, which stand "
            "for independent runs: estimates are those of all rows."
        )
    return Group(form, data, run, weights, np.zeros(0), 0, details, error)


def effective(group: Group, y: str, huber: float | None) -> Group:
    """The group with each scale once where its seeds change nothing, unless it follows the law exactly."""
    data, said = (group.data, "") if group.error is not None else without_effect(group.data, y)
    if not said:
        return group
    once = replace(group, data=data, run=np.arange(data.y.size), weights=np.ones(data.y.size))
    if data.y.size > group.law.free:  # as many points follow any law exactly
        ((values, _),) = solve_all([once], [once.weights], huber)
        if np.abs(np.log(group.law.predict(data.x, values)) - np.log(data.y)).max() < _EXACT:
            return group
    return replace(once, details={**group.details, "no_effect": said})


def _batched(data: Data, run: npt.NDArray[np.int64]) -> tuple[Data, npt.NDArray[np.int64], Array]:
    """Geometric means over each batch of runs at each point of scales, and how many rows each stands for."""
    _, scale = np.unique(data.x, axis=1, return_inverse=True)
    run = np.random.default_rng(0).permutation(run.max() + 1)[run]  # sorted neighbours are not a random batch
    _, first, cell, count = np.unique(
        scale * _BATCHES + run % _BATCHES, return_index=True, return_inverse=True, return_counts=True
    )
    y = np.exp(np.bincount(cell, np.log(data.y)) / count)
    se = None if data.se is None else y * np.sqrt(np.bincount(cell, (data.se / data.y) ** 2)) / count
    # Rows that are runs of their own remain so as batches.
    batch = np.arange(first.size) if data.run is None else run[first] % _BATCHES
    label = None if data.run is None else batch
    return replace(data, x=data.x[:, first], y=y, run=label, se=se, others={}), batch, count.astype(np.float64)


def _estimated(groups: Sequence[Group], huber: float | None) -> list[Group]:
    """Values of every group, in batches of equal laws; where standard errors are known, weighted by them."""
    solved = solve_all(groups, [g.weights for g in groups], huber)
    groups = [replace(g, values=v, status=s) for g, (v, s) in zip(groups, solved, strict=True)]
    noisy = [i for i, g in enumerate(groups) if g.data.se is not None]
    out = list(groups)
    for _ in range(_ROUNDS):
        some = [replace(out[i], weights=weights_of(out[i])) for i in noisy]
        solved = solve_all(some, [g.weights for g in some], huber)
        for i, g, (v, s) in zip(noisy, some, solved, strict=True):
            out[i] = replace(g, values=v, status=s)
    return [group if group.data.x_se is None else at_likely_scales(group, huber) for group in out]


@dataclass(frozen=True)
class Drawn:
    """The bootstrap of a group: its draws, unless they are too many to be kept; its intervals; notes on it."""

    sample: Bootstrap | None
    intervals: Mapping[str, tuple[float, float]]
    notes: Mapping[str, str]


def _drawn(groups: Sequence[Group], options: Options, keep: bool) -> list[Drawn]:
    """The bootstrap of each group."""
    out: list[Drawn] = []
    batch: list[Group] = []
    size = 0

    def flush() -> None:
        nonlocal batch, size
        for group, (sample, why) in zip(batch, bootstraps(batch, [g.weights for g in batch], options), strict=True):
            notes = {"no_interval": why} if why else {}
            intervals = {} if sample is None else intervals_of(sample, options.level)
            if sample is not None and sample.redrawn:
                notes["draws_redrawn"] = (
                    f"{sample.redrawn} of {options.draws} draws lost too many scales to fit the law and were drawn "
                    f"again; {sample.discarded} were discarded."
                )
            if sample is not None and group.data.y.size > MOST_POINTS:
                drawn = "clusters" if np.unique(group.run).size == sample.runs else "random batches of independent rows"
                notes["binned_draws"] = (
                    f"There are more than {MOST_POINTS:,} points: draws are of {sample.runs:,} {drawn}, and "
                    "measurements of neighbouring scales are averaged."
                )
            out.append(Drawn(sample if keep else None, intervals, notes))
        batch, size = [], 0

    for group in groups:
        batch.append(group)
        size += options.draws * group.data.y.size
        if size > _BATCH:
            flush()
    flush()
    return out


def intervals_of(sample: Bootstrap, level: float) -> dict[str, tuple[float, float]]:
    law = sample.law
    ends = dict(zip(law.names, map(tuple, sample.interval(level).tolist()), strict=True))
    with np.errstate(all="ignore"):  # parameters at a bound may leave no finite quantity
        derived = {d.name: tuple(sample.interval_of(d.of, level, d.log).tolist()) for d in law.derived}
    return ends | {name: both for name, both in derived.items() if np.isfinite(both).all()}


def _held_out(groups: Sequence[Group], options: Options) -> list[Holdout | None]:
    """The second fit of each group, without its largest scales, scored on them."""
    out: list[Holdout | None] = [None] * len(groups)
    rest = {}
    for i, group in enumerate(groups):
        if group.error is None:
            left = held_out(group.data.x, options.holdout)
            kept = group.data.x[:, ~left]
            enough = distinct(kept) >= group.law.fewest_scales
            levels = zip(kept, group.law.levels, strict=True)
            if enough and all(np.unique(scale).size >= need for scale, need in levels):
                rest[i] = left
    index = list(rest)
    weights = [groups[i].weights * ~rest[i] for i in index]
    solved = solve_all([groups[i] for i in index], weights, options.huber, options.envelope)
    second = [replace(groups[i], values=v) for i, (v, _) in zip(index, solved, strict=True)]
    sound = [overflown(group.law, group.data.x, group.values) is None for group in second]
    index, weights = list(compress(index, sound)), list(compress(weights, sound))
    second = list(compress(second, sound))
    # An envelope has no interval of a measurement.
    covered = len(groups) <= caveats.MOST_JUDGED and options.envelope is None
    samples = bootstraps(second, weights, options) if covered else [(None, "")] * len(index)
    for i, group, (sample, _) in zip(index, second, samples, strict=True):
        out[i] = scored(group, rest[i], sample, options)
    return out


def scored(group: Group, left: npt.NDArray[np.bool_], sample: Bootstrap | None, options: Options) -> Holdout:
    """How well a fit without the points `left` predicted them."""
    data = group.data
    missed = np.log(group.law.predict(data.x[:, left], group.values)) - np.log(data.y[left])
    coverage = p_value = None
    if sample is not None:
        some = np.flatnonzero(left)
        some = some[:: -(-some.size // _SCORED)]  # evenly spaced, as draws of every point may not fit in memory
        x, y = data.x[:, some], data.y[some]
        noise = sample.spread if data.se is None else np.hypot(sample.spread, data.se[some] / y)
        if group.growth is not None:
            noise = sample.spread * group.growth.at(x)
        outside, p_value = sample.missed(x, y, options.level, noise)
        coverage = 1.0 - outside
    with np.errstate(over="ignore"):  # a product of scales
        cut = float(np.exp(np.log(data.x[:, ~left]).sum(axis=0).max()))
    return Holdout(
        options.holdout,
        cut,
        dict(zip(group.law.names, group.values.tolist(), strict=True)),
        int(left.sum()),
        float(np.sqrt((missed**2).mean())),
        coverage,
        p_value,
    )


def outcome(
    group: Group,
    x: Sequence[str],
    y: str,
    options: Options,
    drawn: Drawn,
    holdout: Holdout | None,
    rivals: tuple[Evidence, ...] | None,
) -> GroupFit:
    """The result of a group's fit, with all caveats."""
    failed = _failed(group, x, y, options)
    if group.error is not None:
        return failed
    law, data, values = group.law, group.data, group.values
    residual = np.log(data.y) - np.log(law.predict(data.x, values))
    compare = rivals is None
    if options.envelope is not None:  # what compares laws of the mean says nothing of an envelope
        rivals = ()
    elif rivals is None:
        rivals = tuple(evidence(law, data.x, data.y, group.weights, options.holdout, options.huber))
    trend = caveats.of_trend(group, x, y)
    determined, rises = trend.determined, trend.rises
    # What such a law leaves widens intervals until they hold anything.
    if rises and holdout is not None:
        holdout = replace(holdout, coverage=None, p_value=None)
    judged = drawn.sample is not None and options.envelope is None
    left = remains(np.log(data.x), residual, group.weights) if judged else None
    details = {
        **group.details,
        **caveats.of_search(Status(group.status)),
        **trend.notes,
        **_of_errors(group, residual),
        **(caveats.of_residuals(group, residual) | pooled(group, residual) if options.envelope is None else {}),
        **caveats.of_window(group, x, residual),
        **caveats.of_place(group),
        **caveats.of_holdout(law, holdout, options),
        **(caveats.of_rivals(law, rivals) if determined else {}),
        **caveats.of_comparison(compare, options),
        **drawn.notes,
    }
    if left is not None and (determined or rises):
        details |= of_form(group, left, rivals, details, rises)
    intervals = drawn.intervals
    if not determined and (law.free > _OF_A_LINE or rises) and intervals:
        intervals = {}
        why = "follow" if rises else "determine the parameters of"
        details["no_interval"] = f"These data do not {why} {law.name!r}. " + "".join(trend.notes.values())
    with np.errstate(all="ignore"):  # parameters at a bound may leave no finite quantity
        derived = {d.name: float(d.of(values)) for d in law.derived}
    return replace(
        failed,
        params=dict(zip(law.names, values.tolist(), strict=True)),
        derived={name: value for name, value in derived.items() if np.isfinite(value)},
        intervals=intervals,
        status=Status(group.status).name,
        rmse_log=float(np.sqrt((residual**2).mean())),
        details=details,
        holdout=holdout,
        rivals=rivals,
        draws=drawn.sample,
        left=left,
    )


def _of_errors(group: Group, residual: Array) -> dict[str, str]:
    """Whether the standard errors of y exceed its log residuals, [points]; with errors of x that is known already."""
    data = group.data
    if data.se is None or data.x_se is not None:
        return {}
    return stated.of_y(residual**2, data.se / data.y, data.y.size - group.law.free)


def _failed(group: Group, x: Sequence[str], y: str, options: Options) -> GroupFit:
    """What is known about a group apart from its fit."""
    data, bounds, error = group.data, group.data.bounds, group.error
    seen = data.x if data.x_seen is None else data.x_seen
    if error is not None and bounds is not None and bounds.kept < bounds.rows:
        left = f"The window ({bounds.window.text(bounds.x)}, here {bounds.span}) left {bounds.kept:,} of "
        left += f"{bounds.rows:,} rows"
        if bounds.kept or not bounds.empty:
            error += f" {left}."
        else:
            error = f"{left}: {bounds.empty}. Correct its bounds."
    return GroupFit(
        law=group.law,
        x=tuple(x),
        y=y,
        group=data.group,
        params={},
        derived={},
        intervals={},
        status="FAILED",
        n_points=data.y.size,
        n_clusters=int(np.unique(group.run if data.run is None else data.run).size),
        cluster=data.cluster,
        n_scales=distinct(seen),
        window=tuple((float(s.min()), float(s.max())) if s.size else (np.nan, np.nan) for s in seen),
        level=options.level,
        rmse_log=None,
        details=group.details,
        huber=options.huber,
        envelope=options.envelope,
        error=error,
        bounds=bounds,
    )
