"""A report in words: the findings of each fitted group, and whether the bounds that every row must keep hold."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from raysweep.display import Bound
from raysweep.errors import plain
from raysweep.laws import Fit, GroupFit
from raysweep.laws.choice import Evidence
from raysweep.laws.notes import group_name
from raysweep.laws.source import numbers
from raysweep.laws.window import Bounds

__all__ = ["MOST", "Sanity", "clusters", "findings", "formula", "paragraphs", "parameter", "rule", "sanity", "title"]

MOST = 20  # groups that are described; more are counted
_DOUBTS = {  # what a reader must know beside the numbers of a law, by note, the gravest first
    "lack_of_fit": "means deviate by more than the runs' spread",
    "holdout_missed": "the law did not predict the points held out",
    "floor_needed": "a floor fits better",
    "no_trend": "a constant fits as well",
    "rising": "y rises",
    "no_effect": "equal at every seed",
    "extrapolation_untrusted": "not to be trusted beyond the data",
    "narrow_window": "scales span less than a factor of 2",
}


def findings(fit: Fit) -> list[str]:
    """One sentence per group, of the first `MOST`: the law, its parameters with intervals, the window and the runs."""
    sentences = []
    for group in fit.groups[:MOST]:
        if group.error is not None:
            sentences.append(f"{title(group)}: not fitted: {group.error}")
            continue
        parts = [
            f"{parameter(group, name)} = {value:.3g}{_interval(group, name, '.3g', ' ')}"
            for name, value in group.params.items()
        ]
        bound = " (at a bound)" if group.status == "BOUND_HIT" else ""
        doubts = [code for code in _DOUBTS if code in group.notes]
        also = f"; also {', '.join(doubts[1:])}" if doubts[1:] else ""
        doubt = f"; {_DOUBTS[doubts[0]]} ({doubts[0]}{also})" if doubts else ""
        sentences.append(
            f"{title(group)}: {formula(group)}, {', '.join(parts)}{bound}; {_window(group)}, {clusters(group)}, "
            f"rms log residual {group.rmse_log:.3f}{_floor(group)}{_coupling(group)}{doubt}"
        )
    return sentences + _more(fit)


def _coupling(group: GroupFit) -> str:
    """What a fit is besides a fit of its own data's mean."""
    parts = []
    if group.envelope is not None:
        parts.append(f"an expectile, not the mean (envelope {group.envelope:g})")
    if group.shared:
        parts.append(f"{' and '.join(group.shared)} shared with the other groups")
    if group.priors:
        parts.append(f"with a prior of {' and '.join(one.name for one in group.priors)}")
    return "".join(f"; {part}" for part in parts)


def clusters(group: GroupFit) -> str:
    """The number of independent clusters, and what they are: `80 runs`, `5 clusters by seed`."""
    return f"{group.n_clusters:,} " + ("runs" if group.cluster == "run" else f"clusters by {group.cluster}")


def rule(bounds: Bounds) -> str:
    """`window 10 to 4096: 12 of 33 rows`."""
    return f"window {bounds.span}: {bounds.kept:,} of {bounds.rows:,} rows"


def paragraphs(fit: Fit, columns: int | None = None) -> list[list[str]]:
    """Lines for a terminal: one paragraph per group for the first `MOST`, then what holds for all of them.

    A paragraph has the law with its numbers, beside them those of the fit without the largest scales; what it was
    fitted to; how well the largest scales were predicted; and its notes.

    Args:
        columns: Width of the terminal. The numbers are sentences where it is too narrow for their table.
    """
    shown = fit.groups[:MOST]
    common: dict[str, str] = {}
    if len(fit) > 1:
        first, *others = (group.details for group in shown)
        common = {code: text for code, text in first.items() if all(other.get(code) == text for other in others)}
    lines = [
        [
            *_paragraph(group, columns),
            *(f"  {code}: {text}" for code, text in group.details.items() if code not in common),
        ]
        for group in shown
    ]
    if common:
        lines.append([f"All {len(fit):,} groups:", *(f"  {code}: {text}" for code, text in common.items())])
    return lines + ([_more(fit)] if _more(fit) else [])


def title(group: GroupFit) -> str:
    """`power (width=64, labels=hard)`."""
    name = plain(group_name(group.group))
    return f"{group.law.name} ({name})" if name else group.law.name


def parameter(group: GroupFit, name: str) -> str:
    """What a parameter of a law is called beside its group: `alpha_fit` where a column is called `alpha`, too."""
    return f"{name}_fit" if name in (*group.group, *group.x, group.y) else name


def formula(group: GroupFit) -> str:
    """The law in the names of the columns; with several scales it keeps the letters and says which column is which."""
    text = group.law.formula
    for name in group.law.names:
        text = re.sub(rf"\b{name}\b", parameter(group, name), text)
    text = re.sub(r"\by\b", lambda _: group.y, text)
    if len(group.x) == 1:
        return re.sub(rf"\b{group.law.axes[0]}\b", lambda _: group.x[0], text)
    meant = [f"{axis} is column {name}" for axis, name in zip(group.law.axes, group.x, strict=True) if axis != name]
    return f"{text} where {' and '.join(meant)}" if meant else text


def _paragraph(group: GroupFit, columns: int | None) -> list[str]:
    head = f"{title(group)}: {formula(group)}"
    if group.error is not None:
        return [head, f"  not fitted: {group.error}"]
    held = group.holdout
    lines = [head, *_numbers(group, columns)]
    scales = f"{group.n_scales:,} " + (f"points of {' and '.join(group.x)}" if len(group.x) > 1 else "scales")
    loss = "" if group.huber is None else f" under Huber's loss of {group.huber:g}"
    if group.envelope is not None:
        loss = f" under asymmetric squares of {group.envelope:g}"
    lines.append(
        f"  fitted to {group.n_points:,} rows of {clusters(group)} at {scales}{loss}: {_window(group)}; rms log "
        f"residual {group.rmse_log:.4f}{_floor(group)}"
    )
    if held is not None:
        inside = "" if held.coverage is None else f", {held.coverage:.0%} of them in their {group.level:.0%} interval"
        lines.append(
            f"  held out: {held.n_points:,} rows beyond {' x '.join(group.x)} = {held.cut:.4g} were predicted with an "
            f"rms log error of {held.rmse_log:.4f}{inside}"
        )
    if len(group.rivals) > 1:
        lines.append(
            "  compared with other laws (AICc above the best, held-out log error): "
            + "; ".join(map(_rival, group.rivals))
        )
    return lines


def _numbers(group: GroupFit, columns: int | None) -> list[str]:
    """The parameters of a fit and of its second fit: as a table, or a sentence each where that is too wide."""
    held = group.holdout
    numbers = {**group.params, **group.derived}
    names = {name: parameter(group, name) for name in numbers}
    longest = max(map(len, names.values()))
    without = "" if held is None else f"without the top {held.share:.0%} of scales"
    rows = [[f"{'':{longest}}   all scales", f"{group.level:.0%} interval" if group.intervals else "", without]]
    for name, value in numbers.items():
        second = held.params.get(name) if held is not None else None
        both = _interval(group, name), "" if second is None else f"{second:.4g}"
        rows.append([f"{names[name]:{longest}} = {value:.4g}", *both])
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if columns is None or max(map(len, table)) <= columns:
        return table
    return [f"  {value}{ends and f' {ends}'}{second and f'; {without}: {second}'}" for value, ends, second in rows[1:]]


def _rival(rival: Evidence) -> str:
    out = "" if rival.holdout is None else f" ({rival.holdout:.4f})"
    above = f"+{rival.aicc:.1f}" if math.isfinite(rival.aicc) else "no AICc (too few points)"
    return f"{rival.law} {above}{out}"


def _interval(group: GroupFit, name: str, digits: str = ".4g", before: str = "") -> str:
    if name not in group.intervals:
        return ""
    low, high = group.intervals[name]
    return f"{before}[{low:{digits}}, {high:{digits}}]"


def _window(group: GroupFit) -> str:
    ends = zip(group.x, group.window, strict=True)
    span = ", ".join(f"{name} {low:.6g} to {high:.6g}" for name, (low, high) in ends)
    return span if group.bounds is None else f"{span} ({rule(group.bounds)})"


def _floor(group: GroupFit) -> str:
    if "E" not in group.intervals:
        return ""
    name = parameter(group, "E")
    return (
        f"; its interval excludes {name} = 0" if group.intervals["E"][0] > 0 else f"; {name} = 0 is within its interval"
    )


def _more(fit: Fit) -> list[str]:
    rest = fit.groups[MOST:]
    failed = sum(group.error is not None for group in rest)
    about = f", {failed:,} of them not fitted" if failed else ""
    return [f"... and {len(rest):,} more groups{about}; --json or Fit.to_frame() has them all"] if rest else []


@dataclass(frozen=True)
class Sanity:
    """Whether every finished row keeps a bound.

    Attributes:
        bound: What was checked.
        rows: Rows looked at.
        beyond: Rows on the wrong side by more than the allowed number of standard errors.
        worst: The measured value of the worst row.
        errors: Its distance from the limit in standard errors, negative on the wrong side; None where the bound, or
            that row, has no standard error.
    """

    bound: Bound
    rows: int
    beyond: int
    worst: float
    errors: float | None

    @property
    def passed(self) -> bool:
        return not self.beyond

    @property
    def sentence(self) -> str:
        bound = self.bound
        held = f"in all {self.rows:,} rows" if self.passed else f"NOT in {self.beyond:,} of {self.rows:,} rows"
        within = f" within {bound.sigmas:g} s.e." if bound.se else ""
        if self.errors is None:
            worst = f"{self.worst:.4g}; at {'least' if bound.side == 'low' else 'most'} {bound.limit:g} is required"
        else:
            worst = f"{self.errors:+.1f} s.e. from {bound.limit:g}"
        return plain(f"Sanity: {bound.claim}: true{within} {held} ({bound.metric} at worst {worst})")


def sanity(frame: pl.DataFrame, bounds: Sequence[Bound]) -> list[Sanity]:
    """The bounds over all finished rows of a ledger that have numbers; bounds on columns that it lacks are left out."""
    found = []
    for bound in bounds:
        if not {*bound.columns, "status"} <= {*frame.columns}:
            continue
        ok = frame.filter(pl.col("status") == "ok")
        if not all(ok[name].dtype.is_numeric() for name in bound.columns):
            continue
        ok = ok.filter(*(pl.col(name).is_not_null() & pl.col(name).is_not_nan() for name in bound.columns))
        if ok.is_empty():
            continue
        values = numbers(ok, bound.metric)
        off = (values - bound.limit) * (1 if bound.side == "low" else -1)
        error = np.maximum(numbers(ok, bound.se), 0) if bound.se else np.zeros(off.size)  # none is below 0
        with np.errstate(divide="ignore", invalid="ignore"):
            # A value on the bound is 0 standard errors from it: the scores of two equal predictions have no spread.
            score = np.where(off == 0, 0.0, off / error)
        at = int(np.lexsort((off, score))[0])  # by distance where no error tells rows apart
        errors = float(score[at]) if bound.se and np.isfinite(score[at]) else None
        found.append(Sanity(bound, off.size, int((score < -bound.sigmas).sum()), float(values[at]), errors))
    return found
