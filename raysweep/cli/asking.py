"""The options of a fit, which several commands take: listed once, checked by the request that they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from raysweep.cli.naming import naming
from raysweep.errors import FitError

if TYPE_CHECKING:
    from raysweep.laws.request import FitRequest, Options
    from raysweep.laws.window import Window

__all__ = ["Asked", "By", "Draws", "Json", "Level", "Seed", "SomeDraws", "Where", "asking"]

LawOption = Annotated[str, typer.Option("--law", metavar="LAW", help="One of the laws below.")]
Scale = Annotated[
    list[str] | None, typer.Option("--x", metavar="COL", help="Column of a scale; once per scale of the law, in order.")
]
Y = Annotated[str | None, typer.Option("--y", metavar="COL", help="Column of the measurement.")]
By = Annotated[list[str] | None, typer.Option("--by", metavar="COL", help="Fit each value of this column separately.")]
Where = Annotated[str | None, typer.Option(metavar="EXPR", help='Rows to keep, as a SQL condition: "width >= 64".')]
InWindow = Annotated[
    str | None,
    typer.Option("--window", metavar="YAML", help='Bounds of x, formulas of other columns: "{low: 10, high: n / 2}".'),
]
OwnFormula = Annotated[
    str | None,
    typer.Option("--formula", metavar="EXPR", help='A law of your own, for --law: "E + A*N**-a + B*D**-b".'),
]
Positive = Annotated[
    list[str] | None, typer.Option("--positive", metavar="NAMES", help="Its parameters that are above 0: A,B.")
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        "--fix", metavar="NAME=VALUE", help="A parameter that is not fitted (with --then, of the first step)."
    ),
]
Tie = Annotated[list[str] | None, typer.Option("--tie", metavar="NAME=NAME", help="Two parameters that are equal.")]
Bound = Annotated[
    list[str] | None,
    typer.Option(
        "--bound", metavar="NAME=LOW:HIGH", help="Lowest and highest value of a parameter; either may be left out."
    ),
]
Shared = Annotated[
    list[str] | None, typer.Option("--shared", metavar="NAMES", help="Parameters that all groups share: alpha,E.")
]
WithPrior = Annotated[
    list[str] | None,
    typer.Option("--prior", metavar="NAME=MEAN+-SD", help="What is known of a parameter beforehand: alpha=.5+-.1."),
]
Envelope = Annotated[
    float | None,
    typer.Option(
        "--envelope", metavar="TAU", help="Weight of residuals above the law, in (0, 1): .1 for the best runs."
    ),
]
At = Annotated[
    str, typer.Option("--at", metavar="best|last|T", help="Snapshot of a run: best on <y>_select, last, or a time.")
]
Run = Annotated[
    str | None, typer.Option("--run", metavar="COL", help="Column of independent clusters (a ledger: seed).")
]
Se = Annotated[str | None, typer.Option("--se", metavar="COL", help="Standard error of y from finite evaluation.")]
XSe = Annotated[
    list[str] | None,
    typer.Option("--x-se", metavar="COL", help="Standard error of x as measured, in its units; once per scale."),
]
Huber = Annotated[
    float | None, typer.Option(metavar="DELTA", help="Huber's loss on log residuals, linear beyond this: 1e-3.")
]
HoldOut = Annotated[
    float,
    typer.Option(
        "--holdout", metavar="SHARE", help="Share of the largest scales that a second fit is judged on; 0 for none."
    ),
]
Draws = Annotated[int, typer.Option("--bootstrap", min=0, help="Draws of the intervals; 0 for none.")]
SomeDraws = Annotated[
    int, typer.Option("--bootstrap", min=100, max=1_000_000, help="Draws of the intervals, at least 100.")
]
Level = Annotated[float, typer.Option("--level", help="Coverage of the intervals.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Asked:
    """The options of a fit, each under its own name.

    Attributes:
        given: Names of the options that the command line gives; the others have their defaults.
    """

    law: LawOption = "power"
    x: Scale = None
    y: Y = None
    by: By = None
    where: Where = None
    window: InWindow = None
    at: At = "best"
    run: Run = None
    se: Se = None
    x_se: XSe = None
    huber: Huber = None
    holdout: HoldOut = 0.3
    bootstrap: Draws = 1000
    level: Level = 0.95
    seed: Seed = 0
    formula: OwnFormula = None
    positive: Positive = None
    fix: Fix = None
    tie: Tie = None
    bound: Bound = None
    shared: Shared = None
    prior: WithPrior = None
    envelope: Envelope = None
    given: frozenset[str] = frozenset()

    def request(self, command: str) -> FitRequest:
        """The fit that the options ask for.

        Raises:
            FitError: No fit was asked for, or no table could answer it; the option at fault is named.
        """
        from raysweep.laws.request import FitRequest

        if not self.x or self.y is None:
            given = f"--x {' '.join(self.x or ['nothing'])} and --y {'nothing' if self.y is None else self.y}"
            raise FitError(f"{command}: --x and --y must be given together, but got {given}. Give both")
        x, by = tuple(self.x), tuple(self.by or ())
        with naming(command):
            options, window = self.options(), self._window(command)
            return FitRequest(
                **{
                    "x": x, "y": self.y, "law": self.law, "by": by, "where": self.where, "at": self.at, "run": self.run,
                    "se": self.se, "x_se": tuple(self.x_se or ()), "options": options, "window": window, **self._form(),
                }
            )  # fmt: skip

    @property
    def columns(self) -> dict[str, str | list[str] | None]:
        """The columns that options name, by the option."""
        return {"x": self.x, "y": self.y, "by": self.by, "run": self.run, "se": self.se, "x_se": self.x_se}

    def applied(self, request: FitRequest) -> FitRequest:
        """A fit that a sweep names, with every option that the command line gives: its condition on rows holds besides
        the fit's own, all others replace the fit's own.

        Raises:
            FitError: The fit does not go together with an option, which is named.
        """
        from raysweep.laws.request import RequestError

        mine, own = self.options(), request.options
        how = replace(mine, **{name: getattr(own, name) for name in {"huber", "holdout", "envelope"} - self.given})
        changed: dict[str, Any] = {
            name: getattr(self, name) for name in ("law", "at", "run", "se") if name in self.given
        }
        if self.x_se:
            changed["x_se"] = tuple(self.x_se)
        if self.by:
            changed["by"] = tuple(self.by)
        if self.where is not None:
            changed["where"] = self.where if request.where is None else f"({request.where}) AND ({self.where})"
        try:
            changed |= self._form()
            if self.window is not None:
                changed["window"] = self._window("fit")
            return replace(request, options=how, **changed)
        except RequestError as error:
            fit = f"{request.law} of {request.y} in {', '.join(request.x)}"
            raise FitError(
                f"fit: --{error.key.replace('_', '-')}: {error.rule} (The sweep names the fit {fit}.)"
            ) from error

    def _form(self) -> dict[str, Any]:
        """What the options say of the law itself, each part only where one of them is given."""
        from raysweep.laws.constraint import Constraints
        from raysweep.laws.own import FORMULA
        from raysweep.laws.prior import of_words

        out: dict[str, Any] = {}
        if self.formula is not None:
            out = {"formula": self.formula, "law": self.law if "law" in self.given else FORMULA}
        elif "law" in self.given and self.law != FORMULA:
            out = {"formula": None, "positive": ()}
        if self.positive:
            out["positive"] = tuple(name.strip() for names in self.positive for name in names.split(","))
        if self.fix or self.tie or self.bound or "law" in out or "law" in self.given:
            out["constraints"] = Constraints.of_words(self.fix or (), self.tie or (), self.bound or ())
        if self.shared or "law" in out or "law" in self.given:
            out["shared"] = tuple(name.strip() for names in self.shared or () for name in names.split(","))
        if self.prior or "law" in out or "law" in self.given:
            out["priors"] = of_words(self.prior or ())
        return out

    def _window(self, command: str) -> Window | None:
        from raysweep.laws.window import Window
        from raysweep.yamlfile import parse_yaml

        return None if self.window is None else Window.of_mapping(parse_yaml(self.window, f"{command}: --window"))

    def options(self) -> Options:
        """How to fit."""
        from raysweep.laws.request import Options

        return Options(self.level, self.bootstrap, self.seed, self.huber, self.holdout, self.envelope)


def asking(command: Callable[..., None], **defaults: Any) -> Callable[..., None]:
    """The command for typer: the options of `Asked` replace its parameter `asked`.

    Args:
        command: A function with a parameter `asked`.
        defaults: Defaults of options, where they differ from those of `Asked`.
    """
    hints = get_type_hints(Asked, include_extras=True)
    options = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(one.name, one.default),
            annotation=hints[one.name],
        )
        for one in fields(Asked)
        if one.name != "given"
    ]
    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [one for mine in own for one in (options if mine.name == "asked" else [mine])]

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def run(context: typer.Context, **values: Any) -> None:
        names = [one.name for one in options]
        given = frozenset(n for n in names if getattr(context.get_parameter_source(n), "name", "") == "COMMANDLINE")
        command(asked=Asked(**{name: values.pop(name) for name in names}, given=given), **values)

    typed: Any = update_wrapper(run, command)
    parameters = [context, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters)]
    typed.__signature__ = inspect.Signature(parameters)
    typed.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
