"""The request of a fit: which law of which columns and rows, and how. Every request is checked here, once.

A sweep file, a command line and a call in Python all become a `FitRequest`, which travels whole to the fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raysweep.errors import FitError, nearest
from raysweep.laws import breaks, forms
from raysweep.laws.constrained import constrained
from raysweep.laws.constraint import Constraints
from raysweep.laws.definition import Law
from raysweep.laws.own import FORMULA, own_law
from raysweep.laws.prior import Prior, checked
from raysweep.laws.refusal import RequestError
from raysweep.laws.steps import STEPS
from raysweep.laws.window import Window

__all__ = ["AUTO", "FitRequest", "Options", "RequestError"]

AUTO = "auto"
BREAKS = "bnsl"  # the number of breaks is chosen
_MOST_HELD_OUT = 0.9
_LEAST_LEVEL = 0.01
_MOST_DRAWS = 1_000_000  # more are no help, and need memory
_MOST_AXES = 8  # of a law of any number of them
_FREE = Constraints()


@dataclass(frozen=True)
class Options:
    """How to fit.

    Attributes:
        level: Nominal coverage of intervals, in [.01, 1).
        draws: Bootstrap draws; 0 for none, else enough for the percentiles of `level`.
        seed: Seed of the draws.
        huber: Huber's delta on log residuals, > 0; None for least squares.
        holdout: Share of distinct scales (of compute, for several) that a second fit leaves out; 0 for none.
        envelope: Weight of squared log residuals above the law against those below, in (0, 1): under .5 the law is that
            of the best (lowest) runs (an expectile: Newey & Powell 1987); None for equal weights.

    Raises:
        RequestError: A value is out of its range.
    """

    level: float = 0.95
    draws: int = 1000
    seed: int = 0
    huber: float | None = None
    holdout: float = 0.3
    envelope: float | None = None

    def __post_init__(self) -> None:
        level, huber, holdout = self.level, self.huber, self.holdout
        if not _LEAST_LEVEL <= level < 1:
            raise RequestError("level", f"must lie in [{_LEAST_LEVEL:g}, 1), but got {level=:g}. Try 0.95.")
        fewest = math.ceil(2 / (1 - level) - 1e-9)
        if self.draws < 0 or 0 < self.draws < fewest:
            raise RequestError(
                "bootstrap",
                f"an interval of level {level:g} needs at least {fewest} draws, but got bootstrap={self.draws}. "
                "Ask for more (1000 is usual), or for 0 and no interval.",
            )
        if self.draws > _MOST_DRAWS:
            raise RequestError(
                "bootstrap", f"must be at most {_MOST_DRAWS:,} draws, but got bootstrap={self.draws}. 1000 is usual."
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
        if self.envelope is not None and not 0 < self.envelope < 1:
            raise RequestError(
                "envelope",
                f"must lie in (0, 1), below .5 for the law of the lowest y, but got {self.envelope:g}. Try 0.1.",
            )
        if self.envelope is not None and huber is not None:
            raise RequestError(
                "envelope", f"must not come with huber, another loss, but got huber={huber:g}, too. Drop one."
            )


@dataclass(frozen=True)
class FitRequest:
    """What to fit to which columns and rows.

    Attributes:
        x: Columns of the scales, in the order of the law's axes.
        y: Column of the measurement.
        law: A key of `LAWS`, `auto`, `bnsl`, or `formula`.
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
        then: The step from y, a loss, to a metric: a key of `STEPS`; None where y is all that is asked for.
        metric: Column of that metric.
        shared: Parameters that are the same in all groups, which are then fitted together.
        priors: What is known of parameters beforehand.

    Raises:
        RequestError: There is no such law, it has another number of scales, a column is named twice, `at` is no moment,
            the window bounds no scale, or the formula, a constraint or the second step is none.
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
    then: str | None = None
    metric: str | None = None
    shared: tuple[str, ...] = ()
    priors: tuple[Prior, ...] = ()
    x_se: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, names in (
            ("x", self.x), ("y", (self.y,)), ("by", self.by), ("run", (self.run,)), ("se", (self.se,)),
            ("x_se", self.x_se), ("metric", (self.metric,)),
        ):  # fmt: skip
            if "" in names:
                raise RequestError(key, "must name a column, but got ''. Name one, or leave it out.")
        if self.where is not None and not self.where.strip():
            raise RequestError(
                "where", f"must be a condition on rows, but got {self.where!r}. Leave it out to keep all."
            )
        _check_formula(self)
        _check_scales(self)
        for key, names in (("x", self.x), ("y", (*self.x, self.y)), ("by", (*self.x, self.y, *self.by))):
            if len(set(names)) < len(names):
                raise RequestError(
                    key,
                    f"x, y and by must be different columns, but got x={', '.join(self.x)}, y={self.y}, "
                    f"by={', '.join(self.by) or 'nothing'}. Name each column once.",
                )
        if self.run is not None and self.run in (self.y, self.se, *(self.x if len(self.x) == 1 else ())):
            raise RequestError(
                "run",
                f"must name the column of runs, which is neither y, se nor the only x, but got {self.run!r}. Name "
                "another, or leave it out where every row is a run.",
            )
        if self.x_se and len(self.x_se) != len(self.x):
            raise RequestError(
                "x_se",
                f"must name the standard errors of each x ({', '.join(self.x)}), but got {', '.join(self.x_se)}. Name "
                "a column of zeros for one that is exact.",
            )
        if self.at not in ("best", "last") and not _is_number(self.at):
            raise RequestError(
                "at", f"must be 'best', 'last' or a time, but got {self.at!r}. Leave it out for the best."
            )
        if self.window is not None:
            _check_window(self.window, self.x)
        _check_steps(self)
        _check_coupling(self)

    @property
    def form(self) -> Law | None:
        """The law; None where it is chosen."""
        if self.law in (AUTO, BREAKS):
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
    def family(self) -> tuple[Law, ...]:
        """The laws to choose from, the one that needs the fewest scales first; none where they are not the question."""
        return (*breaks.BREAKS, forms.law("power+floor")) if self.law == BREAKS else ()

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
            "law",
            f"must be {FORMULA!r} where a formula is given, and only there, but got {request.law!r} and {given}. Leave "
            "one of them out.",
        )
    if request.positive and request.formula is None:
        raise RequestError(
            "positive",
            f"must come with a formula, but got {', '.join(request.positive)} and the law {request.law!r}. Use bound.",
        )
    if request.law in (AUTO, BREAKS) and request.constraints:
        raise RequestError(
            "law",
            f"must name one law whose parameters are constrained, but got {request.law!r}. Name it, as in power+floor.",
        )


def _check_scales(request: FitRequest) -> None:
    try:
        form = request.form
    except RequestError:
        raise
    except FitError as error:
        names = nearest(request.law, [*forms.LAWS, FORMULA, AUTO, BREAKS])
        raise RequestError("law", f"There is no law {request.law!r}. {names}") from error
    axes, about = (("x",), "of one scale") if form is None else (form.axes, form.formula)
    if len(request.x) != len(axes):
        raise RequestError(
            "x",
            f"the law {request.law!r} ({about}) takes {len(axes)} column{'s' * (len(axes) > 1)} of x "
            f"({', '.join(axes)}), but got {len(request.x)}: {', '.join(request.x)}. Name one column for each, in this "
            "order.",
        )


def _check_coupling(request: FitRequest) -> None:
    """Shared parameters and priors, and what they do not go together with."""
    form, options = request.form, request.options
    for key, given in (("shared", request.shared), ("prior", request.priors)):
        if not given:
            continue
        if form is None:
            raise RequestError(key, f"must come with one law, but got {request.law!r}. Name it, as in power+floor.")
        if options.envelope is not None:
            raise RequestError(
                key, f"must not come with envelope, but got envelope={options.envelope:g}, too. Drop one."
            )
    for key, asked in (
        ("shared", bool(request.shared)), ("prior", bool(request.priors)), ("envelope", options.envelope is not None),
    ):  # fmt: skip
        if asked and request.then is not None:
            raise RequestError(key, f"must not come with a second step, but got then={request.then}, too. Drop one.")
        if asked and request.x_se:
            raise RequestError(
                key, f"must not come with errors in x, but got x_se={', '.join(request.x_se)}, too. Drop one."
            )
    if request.x_se and request.then is not None:
        raise RequestError("x_se", f"must not come with a second step, but got then={request.then}, too. Drop one.")
    if form is None:
        if options.envelope is not None:
            raise RequestError(
                "envelope", f"must come with one law, but got {request.law!r}. Name it, as in power+floor."
            )
        return
    for name in request.shared:
        if name not in form.names:
            raise RequestError(
                "shared", f"must name parameters of {form.formula}, but got {name!r}. {nearest(name, form.names)}"
            )
    if len(set(request.shared)) < len(request.shared):
        raise RequestError("shared", f"must name each parameter once, but got {', '.join(request.shared)}. Drop one.")
    checked(request.priors, form)
    if request.priors and options.huber is not None:
        raise RequestError(
            "prior",
            f"must come with least squares, whose residual scale weighs it, but got huber={options.huber:g}, too. Drop "
            "one.",
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


def _check_steps(request: FitRequest) -> None:
    then, metric = request.then, request.metric
    if (then is None) != (metric is None):
        key, other = ("then", "metric") if metric is None else ("metric", "then")
        raise RequestError(key, f"must be given together with {other}, which is not. Give both, or neither.")
    if then is not None and then not in STEPS:
        raise RequestError("then", f"must be {' or '.join(STEPS)}, but got {then!r}. {nearest(then, STEPS)}")
    if metric in (*request.x, request.y, *request.by):
        raise RequestError(
            "metric", f"must be a column that is neither x, y nor in by, but got {metric!r}. Name another."
        )


def _is_number(text: str | float) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError, OverflowError):
        return False
