"""What a report says in words: one sentence per fitted group, and whether any classifier beat Bayes."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from raysweep.laws import Fit

__all__ = ["Sanity", "findings", "sanity"]

SIGMAS = 4.0


def findings(fit: Fit) -> list[str]:
    """One sentence per group: the law, its parameters with intervals, the window and the runs."""
    sentences = []
    for group in fit:
        name = ", ".join(f"{k}={v}" for k, v in group.group.items())
        head = f"{group.law.name} ({name})" if name else group.law.name
        if group.error is not None:
            sentences.append(f"{head}: not fitted: {group.error}")
            continue
        parts = []
        for parameter, value in group.params.items():
            low, high = group.intervals.get(parameter, (None, None))
            parts.append(f"{parameter} = {value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]"))
        bound = " (at a bound)" if group.status == "BOUND_HIT" else ""
        stray = "; means stray from it beyond the runs' spread (lack_of_fit)" if "lack_of_fit" in group.notes else ""
        floor = ""
        if "E" in group.intervals:
            floor = "; its interval excludes E = 0" if group.intervals["E"][0] > 0 else "; E = 0 is within its interval"
        sentences.append(
            f"{head}: {fit.y} {group.law.formula.removeprefix('y ').replace('x', fit.x)}, {', '.join(parts)}{bound}; "
            f"{fit.x} {group.window[0]:g} to {group.window[1]:g}, {group.n_runs} runs, "
            f"rms log residual {group.rmse_log:.3f}{floor}{stray}"
        )
    return sentences


@dataclass(frozen=True)
class Sanity:
    """Whether any row is better than the Bayes classifier on generating labels, beyond 4 standard errors.

    Attributes:
        rows: Rows looked at.
        worst_nll: Lowest excess_nll / excess_nll_se: mean NLL must be >= that of the posterior.
        worst_error: Lowest excess_error / excess_error_se: accuracy must be <= that of the Bayes classifier.
    """

    rows: int
    worst_nll: float
    worst_error: float

    @property
    def passed(self) -> bool:
        return self.worst_nll >= -SIGMAS and self.worst_error >= -SIGMAS

    @property
    def sentence(self) -> str:
        verdict = "none beats" if self.passed else "AT LEAST ONE BEATS"
        return (
            f"Sanity on generating labels: of {self.rows:,} rows {verdict} the exact posterior by more than "
            f"{SIGMAS:g} s.e. (lowest: NLL {self.worst_nll:+.1f}, error {self.worst_error:+.1f} s.e.)"
        )


def sanity(frame: pl.DataFrame) -> Sanity | None:
    """The check over all finished rows of a classifier ledger; None where it has no such columns."""
    needed = {"excess_nll", "excess_nll_se", "excess_error", "excess_error_se", "status"}
    if not needed <= set(frame.columns):
        return None
    ok = frame.filter((pl.col("status") == "ok") & pl.col("excess_nll").is_not_null())
    if ok.is_empty():
        return None
    # A classifier that agrees with Bayes on every item has no spread: its excess is 0 exactly.
    scores = ok.select(
        nll=pl.when(pl.col("excess_nll_se") > 0).then(pl.col("excess_nll") / pl.col("excess_nll_se")).otherwise(0.0),
        error=pl.when(pl.col("excess_error_se") > 0)
        .then(pl.col("excess_error") / pl.col("excess_error_se"))
        .otherwise(0.0),
    )
    return Sanity(ok.height, float(scores["nll"].min()), float(scores["error"].min()))  # type: ignore[arg-type]
