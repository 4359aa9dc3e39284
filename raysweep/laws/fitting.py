"""Many groups fitted together: estimates, weights, draws and hold-outs of all groups are solved as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws import forms
from raysweep.laws.bootstrap import Bootstrap, resample
from raysweep.laws.choice import choose, evidence, held_out
from raysweep.laws.estimate import Status, check, distinct, scales_of, solve
from raysweep.laws.forms import Array, Law
from raysweep.laws.group import Data, GroupFit, Holdout, lack_of_fit

__all__ = ["Options", "fit_groups"]

_SUSPICIOUS = 0.001  # p-value below which a fit is flagged
_UNCERTAIN = 0.05  # p-value of no floor above which a floor is not told from none
_RATIO = 10.0  # of the largest weight to the smallest: beyond, a mistaken standard error could rule a fit
_ROUNDS = 3  # of weights and fit in turn
_DRAWN = 1e-7  # see `estimate`'s relative: far below the spread of draws
_BATCH = 4_000_000  # numbers of draws' points held at a time
_KEEP = 2000  # groups beyond which draws are not kept, only their intervals
_SHOWN = 50  # groups beyond which rivals are not fitted


@dataclass(frozen=True)
class Options:
    """How to fit.

    Attributes:
        level: Nominal coverage of intervals.
        draws: Bootstrap draws; 0 for none.
        seed: Of the draws.
        huber: Huber's delta on log residuals; None for least squares.
        holdout: Share of distinct scales (of compute, for several) that a second fit leaves out; 0 for none.
    """

    level: float = 0.95
    draws: int = 1000
    seed: int = 0
    huber: float | None = None
    holdout: float = 0.3


@dataclass(frozen=True)
class _Group:
    """A group on its way: sorted points, and what is known so far."""

    law: Law
    data: Data
    run: npt.NDArray[np.int64]
    weights: Array
    values: Array
    status: int
    details: Mapping[str, str]
    error: str | None = None


def fit_groups(
    law: Law | None, groups: Sequence[Data], x: Sequence[str], y: str, options: Options | None = None
) -> list[GroupFit]:
    """Fit `law` to each group's points; a refusal becomes a `FAILED` fit, not an exception.

    Args:
        law: What to fit; None to choose a one-axis law for each group by hold-out.
        groups: Points.
        x, y: What scales and measurement are called.
        options: How.
    """
    options = options or Options()
    begun = [_begin(law, data, options) for data in groups]
    sound = [i for i, group in enumerate(begun) if group.error is None]
    for i, group in zip(sound, _estimated([begun[i] for i in sound], options.huber), strict=True):
        begun[i] = group
    drawn = _drawn(begun, options, keep=len(groups) <= _KEEP)
    second = _held_out(begun, options) if options.holdout else [None] * len(begun)
    found = []
    for group, (sample, intervals, notes), holdout in zip(begun, drawn, second, strict=True):
        found.append(_finished(group, x, y, options, sample, intervals, notes, holdout, len(groups) <= _SHOWN))
    return found


def _begin(law: Law | None, data: Data, options: Options) -> _Group:
    """Points in a canonical order, so that neither the last digit nor a draw depends on the order of rows."""
    run = np.arange(data.y.size) if data.run is None else np.unique(data.run, return_inverse=True)[1]
    order = np.lexsort((run, data.y, *data.x[::-1]) if data.run is not None else (data.y, *data.x[::-1]))
    data = replace(
        data,
        x=data.x[:, order],
        y=data.y[order],
        run=None if data.run is None else data.run[order],
        se=None if data.se is None else data.se[order],
    )
    run = run[order] if data.run is not None else run
    details = dict(data.details)
    form, error = law or forms.law("power"), None
    try:
        if law is None:
            check(form, scales_of(form, data.x), data.y)
            choice = choose(x=data.x, y=data.y, huber=options.huber)
            form = choice.law
            shown = ", ".join(f"{n} {s:.3g}" for n, s in choice.scores.items() if np.isfinite(s)) or "too few scales"
            details["law_chosen"] = f"{form.name} was chosen by hold-out of the largest scales (log RMSE: {shown})."
        check(form, scales_of(form, data.x), data.y)
        if data.se is not None and not (np.isfinite(data.se).all() and (data.se >= 0).all()):
            raise FitError("Standard errors must be finite and >= 0. Filter the rows without one, or leave se out.")
    except FitError as refused:
        error = str(refused)
    return _Group(form, data, run, np.ones(data.y.size), np.zeros(0), 0, details, error)


def _estimated(groups: Sequence[_Group], huber: float | None) -> list[_Group]:
    """Values of every group, in batches of equal laws; where standard errors are known, weighted by them."""
    found = _solve_all(groups, [g.weights for g in groups], huber)
    groups = [replace(g, values=v, status=s) for g, (v, s) in zip(groups, found, strict=True)]
    noisy = [i for i, g in enumerate(groups) if g.data.se is not None]
    out = list(groups)
    for _ in range(_ROUNDS):
        some = [replace(out[i], weights=_weights(out[i])) for i in noisy]
        found = _solve_all(some, [g.weights for g in some], huber)
        for i, g, (v, s) in zip(noisy, some, found, strict=True):
            out[i] = replace(g, values=v, status=s)
    return out


def _weights(group: _Group) -> Array:
    """Inverse variances of log y, mean 1: of runs about the law, the same for all, and of each finite evaluation.

    The first is what the residuals show beyond the second (a method of moments, DerSimonian & Laird 1986).
    """
    data, p = group.data, len(group.law.parameters)
    assert data.se is not None
    own = (data.se / data.y) ** 2
    residual = np.log(data.y) - np.log(group.law.predict(data.x, group.values))
    spare = max(data.y.size - p, 1)
    between = max(0.0, float(np.average(residual**2, weights=group.weights)) * data.y.size / spare - float(own.mean()))
    weights = 1.0 / np.maximum(between + own, 1e-300)
    weights = np.clip(weights, None, _RATIO * weights.min())
    return np.asarray(weights / weights.mean())


def _solve_all(groups: Sequence[_Group], weights: Sequence[Array], huber: float | None) -> list[tuple[Array, int]]:
    """Values and status of each group under its weights, solved in batches of the same law and padded length."""
    out: list[tuple[Array, int]] = [(np.zeros(0), 0)] * len(groups)
    buckets: dict[tuple[str, int], list[int]] = {}
    for i, group in enumerate(groups):
        length = group.data.y.size
        padded = length if len(groups) < 64 else 1 << (length - 1).bit_length()  # few lengths, at most twice the work
        buckets.setdefault((group.law.name, padded), []).append(i)
    for (name, length), index in buckets.items():
        u = np.zeros((len(index), len(forms.law(name).axes), length))
        t, w = np.zeros((len(index), length)), np.zeros((len(index), length))
        for row, i in enumerate(index):
            n = groups[i].data.y.size
            u[row, :, :n], t[row, :n], w[row, :n] = np.log(groups[i].data.x), np.log(groups[i].data.y), weights[i]
        fitted = solve(forms.law(name), u, t, w, huber)
        for row, i in enumerate(index):
            out[i] = (fitted.values[row], int(fitted.status[row]))
    return out


def _drawn(
    groups: Sequence[_Group], options: Options, keep: bool
) -> list[tuple[Bootstrap | None, dict[str, tuple[float, float]], dict[str, str]]]:
    """The bootstrap of each group with its intervals, and notes on it."""
    out: list[tuple[Bootstrap | None, dict[str, tuple[float, float]], dict[str, str]]] = []
    batch: list[_Group] = []
    size = 0

    def flush() -> None:
        nonlocal batch, size
        for sample, why in bootstraps(batch, [g.weights for g in batch], options):
            notes = {"no_interval": why} if why else {}
            intervals = {} if sample is None else _intervals(sample, options.level)
            if sample is not None and sample.redrawn:
                notes["draws_redrawn"] = (
                    f"{sample.redrawn} of {options.draws} draws lost too many scales to fit the law and were drawn "
                    f"again; {sample.discarded} were discarded."
                )
            out.append((sample if keep else None, intervals, notes))
        batch, size = [], 0

    for group in groups:
        batch.append(group)
        size += options.draws * group.data.y.size
        if size > _BATCH:
            flush()
    flush()
    return out


def bootstraps(
    groups: Sequence[_Group], weights: Sequence[Array], options: Options
) -> list[tuple[Bootstrap | None, str]]:
    """The draws of all groups, solved together where they share a law and a number of points; or why there are none."""
    out: list[tuple[Bootstrap | None, str]] = [(None, "")] * len(groups)
    if not options.draws:
        return out
    buckets: dict[tuple[str, int], list[int]] = {}
    samples = {}
    for i, (group, w) in enumerate(zip(groups, weights, strict=True)):
        if group.error is not None:
            continue
        there = w > 0
        d = group.data
        try:
            samples[i] = resample(
                group.law, d.x[:, there], d.y[there], group.values,
                None if d.run is None else group.run[there], w[there], options.draws, options.seed,
            )  # fmt: skip
        except FitError as error:
            out[i] = (None, str(error))
            continue
        buckets.setdefault((group.law.name, int(there.sum())), []).append(i)
    for (name, _), index in buckets.items():
        parts = []
        for i in index:
            sample, group, there = samples[i], groups[i], weights[i] > 0
            count = options.draws - sample.discarded
            u = np.log(group.data.x[:, there])
            t = np.log(group.data.y[there] if sample.y is None else sample.y)
            w = weights[i][there] if sample.weights is None else sample.weights
            shape = (count, int(there.sum()))
            parts.append((u, np.broadcast_to(t, shape), np.broadcast_to(w, shape), group.values, count))
        if len(index) == 1:
            u, t, w, values, _ = parts[0]
            fitted = solve(forms.law(name), u[None], t, w, options.huber, values[None], _DRAWN).values
        else:
            u = np.concatenate([np.broadcast_to(p[0], (p[4], *p[0].shape)) for p in parts])
            t, w = (np.concatenate([p[j] for p in parts]) for j in (1, 2))
            values = np.concatenate([np.broadcast_to(p[3], (p[4], p[3].size)) for p in parts])
            fitted = solve(forms.law(name), u, t, w, options.huber, values, _DRAWN).values
        first = 0
        for i, part in zip(index, parts, strict=True):
            out[i] = (samples[i].solved(groups[i].law, groups[i].values, fitted[first : first + part[4]]), "")
            first += part[4]
    return out


def _intervals(sample: Bootstrap, level: float) -> dict[str, tuple[float, float]]:
    law = sample.law
    found = dict(zip(law.names, map(tuple, sample.interval(level).tolist()), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        derived = {d.name: tuple(sample.interval_of(d.of, level).tolist()) for d in law.derived}
    return found | {name: ends for name, ends in derived.items() if np.isfinite(ends).all()}


def _held_out(groups: Sequence[_Group], options: Options) -> list[Holdout | None]:
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
    solved = _solve_all([groups[i] for i in index], weights, options.huber)
    second = [replace(groups[i], values=v) for i, (v, _) in zip(index, solved, strict=True)]
    samples = bootstraps(second, weights, options) if len(groups) <= _KEEP else [(None, "")] * len(index)
    for i, group, (sample, _) in zip(index, second, samples, strict=True):
        left, data = rest[i], group.data
        missed = np.log(group.law.predict(data.x[:, left], group.values)) - np.log(data.y[left])
        coverage = None
        if sample is not None:
            noise = sample.spread if data.se is None else np.hypot(sample.spread, data.se[left] / data.y[left])
            ends = sample.prediction(data.x[:, left], options.level, noise)
            coverage = float(((data.y[left] >= ends[:, 0]) & (data.y[left] <= ends[:, 1])).mean())
        size = np.exp(np.log(data.x).sum(axis=0))
        out[i] = Holdout(
            options.holdout,
            float(size[~left].max()),
            dict(zip(group.law.names, group.values.tolist(), strict=True)),
            int(left.sum()),
            float(np.sqrt((missed**2).mean())),
            coverage,
        )
    return out


def _finished(
    group: _Group,
    x: Sequence[str],
    y: str,
    options: Options,
    sample: Bootstrap | None,
    intervals: Mapping[str, tuple[float, float]],
    notes: Mapping[str, str],
    holdout: Holdout | None,
    rivals: bool,
) -> GroupFit:
    law, data = group.law, group.data
    points = distinct(data.x)
    failed = GroupFit(
        law=law,
        x=tuple(x),
        y=y,
        group=data.group,
        params={},
        derived={},
        intervals={},
        status="FAILED",
        n_points=data.y.size,
        n_runs=int(np.unique(group.run).size),
        n_scales=points,
        window=tuple((float(s.min()), float(s.max())) for s in data.x),
        level=options.level,
        rmse_log=None,
        details=group.details,
        huber=options.huber,
        error=group.error,
    )
    if group.error is not None:
        return failed
    details = dict(group.details)
    status = Status(group.status)
    if status is Status.BOUND_HIT:
        details["parameter_at_bound"] = (
            "An estimate lies on a bound of its parameter, so a law without that parameter fits as well."
        )
    if status is Status.MAX_ITER:
        details["not_settled"] = "The search stopped before its last digit: parameters trade against each other here."
    residual = np.log(data.y) - np.log(law.predict(data.x, group.values))
    p_value = lack_of_fit(data.x, residual, len(law.parameters), group.run)
    if p_value is not None and p_value < _SUSPICIOUS:
        details["lack_of_fit"] = (
            f"Means at each scale stray from the law by more than the spread of runs explains (F test, p = "
            f"{p_value:.1g}): the interval is of the best law of this form, not of one the data follow. "
            "Try another form or window."
        )
    if data.y.size == points or distinct(np.concatenate([data.x, group.run[None]])) == points:
        details["one_run_per_scale"] = (
            "There is one run at each scale, so the spread between runs is judged from the residuals of the law alone."
        )
    if options.holdout and holdout is None:
        details["no_holdout"] = (
            f"Without the top {options.holdout:.0%} of scales too few are left for {law.name!r}: nothing was held out."
        )
    table = tuple(evidence(law, data.x, data.y, group.weights, options.holdout)) if rivals else ()
    for rival in table:
        floor = rival.law.endswith("E = 0") or rival.law == "power"
        if floor and rival.p_value is not None and rival.p_value > _UNCERTAIN and rival.law != law.name:
            details["floor_not_needed"] = (
                f"A floor of E = 0 fits as well (likelihood ratio, p = {rival.p_value:.2g}): these data do not tell a "
                "floor from none."
            )
        if law.name == "power" and rival.law == "power+floor" and (rival.p_value or 1.0) < _SUSPICIOUS:
            details["floor_needed"] = (
                f"A floor fits better than none (likelihood ratio, p = {rival.p_value:.1g}). Look at --law power+floor."
            )
    values = group.values
    with np.errstate(divide="ignore", invalid="ignore"):
        derived = {d.name: float(d.of(values)) for d in law.derived}
    return replace(
        failed,
        params=dict(zip(law.names, values.tolist(), strict=True)),
        derived={name: value for name, value in derived.items() if np.isfinite(value)},
        intervals=intervals,
        status=status.name,
        rmse_log=float(np.sqrt((residual**2).mean())),
        details=details | dict(notes),
        holdout=holdout,
        rivals=table,
        draws=sample,
    )
