"""The request of a fit: which law of which columns and rows, and how. Every request is checked here, once.

A sweep file, a command line and a call in Python all become a `FitRequest`, which travels whole to the fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raysweep.errors import FitError, nearest
from raysweep.laws import forms
from raysweep.laws.constrained import constrained
from raysweep.laws.constraint import Constraints
from raysweep.laws.definition import Law
from raysweep.laws.own import FORMULA, own_law
from raysweep.laws.refusal import RequestError
from raysweep.laws.window import Window

__all__ = ["AUTO", "FitRequest", "Options", "RequestError"]

AUTO = "auto"
_MOST_HELD_OUT = 0.9
_MOST_AXES = 8  # of a law of any number of them
_FREE = Constraints()


@dataclass(frozen=True)
class Options:
    """How to fit.

    Attributes:
        level: Nominal coverage of intervals, in (0, 1).
        draws: Bootstrap draws; 0 for none, else enough for the percentiles of `level`.
        seed: Seed of the draws.
        huber: Huber's delta on log residuals, > 0; None for least squares.
        holdout: Share of distinct scales (of compute, for several) that a second fit leaves out; 0 for none.

    Raises:
        RequestError: A value is out of its range.
    """

    level: float = 0.95
    draws: int = 1000
    seed: int = 0
    huber: float | None = None
    holdout: float = 0.3

    def __post_init__(self) -> None:
        level, huber, holdout = self.level, self.huber, self.holdout
        if not 0 < level < 1:
            raise RequestError("level", f"must lie in (0, 1), but got {level=}. Try 0.95.")
        fewest = math.ceil(2 / (1 - level) - 1e-9)
        if self.draws < 0 or 0 < self.draws < fewest:
            raise RequestError(
                "bootstrap",
                f"an interval of level {level:g} needs at least {fewest} draws, but got bootstrap={self.draws}. "
                "Ask for more (1000 is usual), or for 0 and no interval.",
            )
        if huber is not None and not 0 < huber < math.inf:
            raise RequestError(
                "huber",
                f"must be finite and > 0, where the loss turns linear in log units, but got {huber=:g}. Try 1e-3.",
            )
        if not 0 <= holdout <= _MOST_HELD_OUT:
            raise RequestError(
                "holdout",
                f"must be a share of the scales in [0, {_MOST_HELD_OUT:g}], but got {holdout=:g}. Try 0.3, or 0 for "
                "none.",
            )


@dataclass(frozen=True)
class FitRequest:
    """What to fit to which columns and rows.

    Attributes:
        x: Columns of the scales, in the order of the law's axes.
        y: Column of the measurement.
        law: A key of `LAWS`, `auto`, or `formula`.
        by: Columns whose every combination of values is fitted separately.
        where: A Polars SQL condition on the rows.
        at: The snapshot of a run that counts: `best`, `last`, or a time.
        run: Column that identifies independent clusters of rows; None for what a ledger says.
        se: Column of y's standard error; None for what a ledger says.
        x_se: Columns of the standard errors of x, one for each of x; none where x is exact.
        options: How to fit.
        window: Bounds on a scale that the rows must keep, once they are grouped.
        formula: What y equals, for the law `formula`; see `own.own_law`.
        positive: Parameters of the formula that are above 0.
        constraints: What else must hold of the law's parameters.

    Raises:
        RequestError: There is no such law, it has another number of scales, a column is named twice, `at` is no moment,
            the window bounds no scale, or the formula or a constraint is none.
    """

    x: tuple[str, ...]
    y: str
    law: str = "power"
    by: tuple[str, ...] = ()
    where: str | None = None
    at: str | float = "best"
    run: str | None = None
    se: str | None = None
    options: Options = Options()
    window: Window | None = None
    formula: str | None = None
    positive: tuple[str, ...] = ()
    constraints: Constraints = _FREE
    x_se: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_formula(self)
        _check_scales(self)
        for key, names in (("x", self.x), ("y", (*self.x, self.y)), ("by", (*self.x, self.y, *self.by))):
            if len(set(names)) < len(names):
                raise RequestError(
                    key,
                    f"x, y and by must be different columns, but got x={', '.join(self.x)}, y={self.y}, "
                    f"by={', '.join(self.by) or 'nothing'}.",
                )
        if self.x_se and len(self.x_se) != len(self.x):
            raise RequestError(
                "x_se",
                f"must name the standard errors of each x ({', '.join(self.x)}), but got {', '.join(self.x_se)}. Name "
                "a column of zeros for one that is exact.",
            )
        if self.at not in ("best", "last") and not _is_number(self.at):
            raise RequestError("at", f"must be 'best', 'last' or a time, but got {self.at!r}.")
        if self.window is not None:
            _check_window(self.window, self.x)

    @property
    def form(self) -> Law | None:
        """The law; None under `auto`."""
        if self.law == AUTO:
            return None
        if self.formula is None:
            law = forms.law(self.law)
            if law.of_axes is not None:
                if not 0 < len(self.x) <= _MOST_AXES:
                    raise RequestError("x", f"must name 1 to {_MOST_AXES} columns, but got {len(self.x)}. Name fewer.")
                law = law.of_axes(len(self.x))
        else:
            law = own_law(self.formula, self.x, self.positive)
        return constrained(law, self.constraints) if self.constraints else law

    @property
    def moment(self) -> float | None:
        """The time at which a run's snapshot counts; None for its best or last one."""
        return None if self.at in ("best", "last") else float(self.at)

    @property
    def bounded(self) -> str:
        """The scale that the window bounds."""
        return self.x[0] if self.window is None or self.window.x is None else self.window.x


def _check_formula(request: FitRequest) -> None:
    if (request.formula is None) == (request.law == FORMULA):
        given = "no formula" if request.formula is None else f"the formula {request.formula!r}, too"
        raise RequestError(
            "law", f"must be {FORMULA!r} where a formula is given, and only there, but got {request.law!r} and {given}."
        )
    if request.positive and request.formula is None:
        raise RequestError(
            "positive",
            f"must come with a formula, but got {', '.join(request.positive)} and the law {request.law!r}. Use bound.",
        )
    if request.law == AUTO and request.constraints:
        raise RequestError(
            "law", f"must name one law whose parameters are constrained, but got {AUTO!r}. Name it, as in power+floor."
        )


def _check_scales(request: FitRequest) -> None:
    try:
        form = request.form
    except RequestError:
        raise
    except FitError as error:
        names = nearest(request.law, [*forms.LAWS, FORMULA, AUTO])
        raise RequestError("law", f"There is no law {request.law!r}. {names}") from error
    axes, about = (("x",), "of one scale") if form is None else (form.axes, form.formula)
    if len(request.x) != len(axes):
        raise RequestError(
            "x",
            f"the law {request.law!r} ({about}) takes {len(axes)} column{'s' * (len(axes) > 1)} of x "
            f"({', '.join(axes)}), but got {len(request.x)}: {', '.join(request.x)}. Name one column for each, in this "
            "order.",
        )


def _check_window(window: Window, scales: tuple[str, ...]) -> None:
    named = window.x if len(scales) > 1 or window.x is not None else scales[0]
    if named is None or named not in scales:
        raise RequestError(
            "window",
            f"x must be the scale that is bounded ({' or '.join(scales)}), but got {named!r}. Name it, as in "
            f"{{low: 10, x: {scales[0]}}}.",
        )
    window.checked(named)


def _is_number(text: str | float) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError, OverflowError):
        return False
