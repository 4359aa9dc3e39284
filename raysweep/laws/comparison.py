"""Two arms of a table compared: a law is fitted to each, and the two are contrasted over their common range of x.

Where the arms share their clusters (a seed draws the same data in both), whole clusters are drawn together, so that
what they share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError
from raysweep.laws.arms import Arm, Comparison, Parameter
from raysweep.laws.contrast import Contrast, contrast
from raysweep.laws.definition import Array
from raysweep.laws.differences import differences, paired
from raysweep.laws.group import GroupFit
from raysweep.laws.misfit import UNTRUSTED
from raysweep.laws.notes import group_name
from raysweep.laws.points import Points, points
from raysweep.laws.reach import check_reach
from raysweep.laws.request import FitRequest
from raysweep.laws.source import Source, numbers
from raysweep.laws.table import fit_points

__all__ = ["compare_arms", "contrasted"]

_GRID = 200  # values of x at which laws are compared
_WIDE = 1.8  # stretch of a simultaneous band that is worth a note
_DOUBTS = (
    "lack_of_fit",
    "correlated_rows",
    "no_trend",
    "rising",
    "floor_needed",
    "holdout_missed",
    "not_settled",
    UNTRUSTED,
)


def compare_arms(
    data: Source,
    request: FitRequest,
    arm: Arm,
    pair: str | None = None,
    ratio: bool = True,
    at: Sequence[float] = (),
) -> tuple[Comparison, ...]:
    """Both arms fitted by the law of a request, and compared over x, for each group that both have.

    Args:
        data: See `table.fit`.
        request: A fit of one scale, with draws. `by` does not name the arm's column.
        pair: A column whose values pair the clusters of the arms; what only one arm has is left out. If not given, a
            ledger's seeds pair the arms where both have the same ones, else the arms are taken to be independent.
        ratio: Compare the first over the second, else the first minus the second.
        at: Further x, to which the comparison reaches.

    Raises:
        FitError: The request is not of one scale, an arm cannot be fitted or has no intervals, or the arms have no
            group, pair or range of x in common.
    """
    _check(request, arm, pair)
    request = replace(request, by=(*request.by, arm.column), where=_where(arm, request.where), run=pair or request.run)
    taken = points(data, request)
    details = _differing(taken.frame, arm)
    if pair is not None:
        taken, left = _pairs(taken, arm, pair)
        if left:
            details["unpaired_left_out"] = left
    found = list(fit_points(taken, request))
    out, refused = [], {}
    for key, (one, other) in _matched(found, arm):
        try:
            made = _compared(one, other, arm, key, ratio, at, details, must=pair)
        except FitError as error:
            refused[group_name(key)] = str(error)
            continue
        rows = [taken.of(fit.group) for fit in (one, other)]
        seen = tuple((numbers(own, taken.x[0]), numbers(own, taken.y)) for own in rows)
        out.append(replace(made, seen=seen))
    if not out:
        raise FitError(next(iter(refused.values())))
    if refused:
        text = " ".join(f"{name}: {why}" for name, why in refused.items())
        out[0] = replace(out[0], details={**out[0].details, "groups_left_out": f"Not compared: {text}"})
    return tuple(out)


def _check(request: FitRequest, arm: Arm, pair: str | None) -> None:
    form = request.form
    if form is not None and len(form.axes) != 1:
        raise FitError(
            f"Arms are compared over one scale, but {form.name!r} ({form.formula}) has {len(form.axes)}. Name a law of "
            "one, and fix the others with `where=`."
        )
    if arm.column in (*request.x, request.y, *request.by):
        raise FitError(
            f"The arm must be a column besides x, y and by, but {arm.column!r} is one of them. Name another."
        )
    if pair is not None and pair in (request.y, arm.column):
        raise FitError(f"Pairs must be named by a column that both arms share, but got {pair!r}. Name it, as in seed.")
    if pair is not None and request.run not in (None, pair):
        raise FitError(f"Pairs are the clusters of both arms, but got pair {pair!r} and run {request.run!r}. Name one.")
    if not request.options.draws:
        raise FitError("A comparison needs draws, but got `bootstrap=0`. Ask for 1000.")


def _where(arm: Arm, where: str | None) -> str:
    quoted = arm.column.replace('"', '""')
    mine = f'"{quoted}" IN ({", ".join(_literal(value) for value in arm.values)})'
    return mine if where is None else f"({where}) AND {mine}"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return repr(value) if isinstance(value, (int, float)) else "'" + str(value).replace("'", "''") + "'"


def _pairs(taken: Points, arm: Arm, pair: str) -> tuple[Points, str]:
    """The points whose pair is in both arms, and what was left out.

    Raises:
        FitError: The arms have no pair in common.
    """
    most = taken.frame.group_by(arm.column).agg(pl.col(taken.by).n_unique().name.suffix("_count"))
    here = [name for name in taken.by if most[f"{name}_count"].max() != 1]  # others follow the arm, or are the same
    both = taken.frame.group_by([*here, pair]).agg(pl.col(arm.column).n_unique().alias("_arms"))
    alone = both.filter(pl.col("_arms") < 2).height
    if both.height - alone < 2:
        raise FitError(
            f"Pairs need 2 values of {pair!r} that both arms have, but there are {both.height - alone}. Pair by "
            "another column, or leave pair out to take the arms as independent."
        )
    if not alone:
        return taken, ""
    kept = both.filter(pl.col("_arms") == 2).select([*here, pair])
    frame = taken.frame.join(kept, on=[*here, pair], how="semi", nulls_equal=True, maintain_order="left")
    groups = frame.select(taken.by).unique().to_dicts()
    parts = tuple(part for part in taken.parts if dict(part.group) in groups)
    text = f"{alone:,} of {both.height:,} values of {pair} are in one arm only: their rows were left out."
    return replace(taken, frame=frame, parts=parts), text


def _differing(frame: pl.DataFrame, arm: Arm) -> dict[str, str]:
    """Notes on the columns that follow the arm: of one value in each, and another in the other."""
    sides = [frame.filter(pl.col(arm.column) == value) for value in arm.values]
    notes = {}
    for name in frame.columns:
        held = [side[name].drop_nulls().unique() for side in sides]
        if name != arm.column and all(len(one) == 1 for one in held) and held[0][0] != held[1][0]:
            notes[f"differs_{name}"] = (
                f"{name} differs between the arms, too ({held[0][0]} and {held[1][0]}): they are compared in both."
            )
    return notes


def _matched(found: Sequence[GroupFit], arm: Arm) -> list[tuple[dict[str, Any], tuple[GroupFit, GroupFit]]]:
    """The groups that both arms have; columns that follow the arm do not tell groups apart.

    Raises:
        FitError: There are none, or several of one arm for one of the other.
    """
    sides = [[group for group in found if group.group[arm.column] == value] for value in arm.values]
    for side, name in zip(sides, arm.names, strict=True):
        if not side:
            raise FitError(f"No row is left of {arm.column} = {name}. Check `where=` and the table.")
    others = [name for name in found[0].group if name != arm.column]
    held = {name: [{str(group.group[name]) for group in side} for side in sides] for name in others}
    follows = [name for name in others if max(map(len, held[name])) == 1 and held[name][0] != held[name][1]]
    key = [name for name in others if name not in follows]
    by_key: list[dict[tuple[str, ...], list[GroupFit]]] = [{}, {}]
    for side, mine in zip(sides, by_key, strict=True):
        for group in side:
            mine.setdefault(tuple(str(group.group[name]) for name in key), []).append(group)
    out = []
    for at, ones in by_key[0].items():
        others_at = by_key[1].get(at, [])
        if len(ones) > 1 or len(others_at) > 1:
            raise FitError(
                f"Each arm must have one group at {group_name(ones[0].group)}, but they have {len(ones)} and "
                f"{len(others_at)}. Choose rows with `where=`."
            )
        if others_at:
            out.append(({name: ones[0].group[name] for name in key}, (ones[0], others_at[0])))
    if not out:
        raise FitError(
            f"The arms have no group in common: {', '.join(key)} never agree. Choose rows with `where=`, or leave "
            "out `by=`."
        )
    return out


def _compared(
    one: GroupFit,
    other: GroupFit,
    arm: Arm,
    group: Mapping[str, Any],
    ratio: bool,
    at: Sequence[float],
    details: Mapping[str, str],
    must: str | None,
) -> Comparison:
    drawn = []
    for fit, name in zip((one, other), arm.names, strict=True):
        if fit.error is not None or fit.draws is None:
            why = fit.error or fit.details.get("no_interval", "")
            raise FitError(f"Both arms need a fit with an interval, but {arm.column} = {name} has none. {why}")
        drawn.append(fit.draws)
    low, high = (f(fit.window[0][i] for fit in (one, other)) for i, f in enumerate((max, min)))
    if not low < high:
        spans = " and ".join(f"{fit.window[0][0]:.4g} to {fit.window[0][1]:.4g}" for fit in (one, other))
        raise FitError(
            f"The arms need a common range of {one.x[0]}, but theirs are {spans}. Measure both at some of the same "
            "scales."
        )
    check_reach(f"A comparison's {one.x[0]}", at, "scales that were", (low, high))
    a, b = drawn
    together = _together(one, other)
    if must is not None and not together:
        raise FitError(
            f"Arms paired by {must!r} need the same design, but their draws cannot be taken together: "
            f"{a.runs} and {b.runs} clusters, {a.kind} and {b.kind} draws. Leave pair out."
        )
    x = np.geomspace(min(low, *at), max(high, *at), _GRID) if len(at) else np.geomspace(low, high, _GRID)
    curves = contrasted(one, other, x, ratio, together)
    reached = contrasted(one, other, np.asarray(at, dtype=np.float64), ratio, together) if len(at) else None
    more = dict(details)
    if not together:
        more["independent_arms"] = (
            "Nothing pairs the arms, so they are taken to be independent. Where they share seeds or data, name the "
            "column with `pair=`: the comparison is then sharper."
        )
    units = [_unit(fit, together) for fit in (one, other)]
    if units[0] != units[1]:
        each = [f"{name} by {_counted(n, u)}" for name, n, u in zip(arm.names, (a.runs, b.runs), units, strict=True)]
        more["units_differ"] = (
            f"The arms are resampled by different units: {', '.join(each)}. Name the column of both with `run=`."
        )
    for fit, name in zip((one, other), arm.names, strict=True):
        said = [code for code in fit.notes if code in _DOUBTS]
        if said:
            more[f"doubt_{name}"] = f"The fit of {arm.column} = {name} has notes: {', '.join(said)}."
    if len(at) and (max(at) > high or min(at) < low):
        more["extrapolated"] = (
            f"Both arms were measured from {one.x[0]} = {low:.4g} to {high:.4g}; beyond, the laws are taken to "
            "hold. `raysweep fit --by` with `--predict` has each arm's interval if its law may bend."
        )
    if curves.stretch > _WIDE:
        more["few_units"] = (
            f"The simultaneous band is {curves.stretch:.3g} times as wide as the pointwise one, because few units "
            f"({min(a.runs, b.runs)}) say how curves vary. Add pairs (seeds)."
        )
    points: tuple[tuple[float, float, float, float], ...] = ()
    if reached is not None:
        rows = np.column_stack([reached.value, reached.pointwise])
        rows = np.exp(rows) if ratio else rows
        points = tuple((float(p), float(v), float(lo), float(hi)) for p, (v, lo, hi) in zip(at, rows, strict=True))
    return Comparison(
        arm,
        group,
        one.x[0],
        one.y,
        ratio,
        together,
        " and ".join(dict.fromkeys(units)),
        (a.runs, b.runs),
        one.level,
        curves,
        _parameters(one, other, together),
        (one, other),
        points,
        more,
    )


def _unit(fit: GroupFit, together: bool) -> str:
    """What a cluster of an arm is."""
    return "row" if not together and (fit.draws is None or fit.draws.labels is None) else fit.cluster


def _counted(count: int, unit: str) -> str:
    """`20 rows`, `8 blocks`, `2 values of opt`."""
    return f"{count:,} {unit}s" if unit in ("row", "run", "block") else f"{count:,} values of {unit}"


def _together(one: GroupFit, other: GroupFit) -> bool:
    """Whether draws of both arms move the same clusters in the same way: one column, the same labels and design."""
    a, b = one.draws, other.draws
    assert a is not None
    assert b is not None
    same = (a.freedom, a.redrawn) == (b.freedom, b.redrawn)
    named = one.cluster == other.cluster and "correlated_rows" not in {*one.details, *other.details}
    return same and named and paired(a, b)


def contrasted(one: GroupFit, other: GroupFit, x: Array, ratio: bool = True, together: bool = True) -> Contrast:
    """The ratio or difference of two fitted laws, with draws, at x, [grid], with its bands.

    Args:
        together: Draws of both arms move the same clusters.
    """
    a, b = one.draws, other.draws
    assert a is not None
    assert b is not None

    def of(fit: GroupFit) -> Callable[[Array], Array]:
        predict = fit.law.predict
        return (lambda values: np.log(predict(x, values))) if ratio else (lambda values: predict(x, values))

    with np.errstate(divide="ignore", invalid="ignore"):  # in a draw, far out, a law may vanish or overflow
        found = differences(a, b, (of(one), of(other)), one.level, together)
    spanning = [fit.draws.freedom for fit in (one, other) if fit.draws is not None and fit.n_points > fit.draws.runs]
    return contrast(x, found, one.level, min(spanning, default=math.inf))


def _parameters(one: GroupFit, other: GroupFit, together: bool) -> tuple[Parameter, ...]:
    """The parameters of both laws, where these are one."""
    a, b = one.draws, other.draws
    assert a is not None
    assert b is not None
    if one.law.name != other.law.name:
        return ()
    out = []
    for j, parameter in enumerate(one.law.parameters):
        log = parameter.log

        def of(values: Array, j: int = j, log: bool = log) -> Array:
            return np.log(values[..., j]) if log else values[..., j]

        found = differences(a, b, (of, of), one.level, together)
        numbers = (float(found.centre), *map(float, found.interval(one.level)))
        value, low, high = map(math.exp, numbers) if log else numbers
        out.append(Parameter(parameter.name, "ratio" if log else "difference", value, low, high))
    return tuple(out)
