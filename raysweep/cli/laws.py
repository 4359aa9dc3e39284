"""Commands that fit laws to a store or a table: fit, allocate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from raysweep.cli.asking import Asked, Json, asking
from raysweep.cli.fitted import Printed, Table, WithDraws
from raysweep.cli.naming import naming
from raysweep.cli.predict import Predict, places
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import FitError

__all__ = ["Data", "OfLaws", "Rows", "add_to", "source"]

if TYPE_CHECKING:
    from raysweep.laws import GroupFit
    from raysweep.laws.allocate import Allocation
    from raysweep.laws.points import Points
    from raysweep.laws.request import FitRequest
    from raysweep.laws.result import Fit
    from raysweep.store import Store

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="STORE|TABLE...",
        help="A store; or tables: .csv, .json, .jsonl (also as .gz) or .parquet, several or a pattern as one.",
        show_default=False,
    ),
]
Rows = Annotated[
    str, typer.Option("--rows", metavar="current|all", help="For a store: the sweep as it is now, or all it ever held.")
]

_LARGE = 1 << 28  # bytes of a compacted ledger
_DPI = 150


class OfLaws(TyperCommand):
    """A command whose --help ends with a paragraph on each law, for which alone the laws are imported."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from raysweep.laws.forms import LAWS

        only = self.name == "allocate"
        laws = [one for one in LAWS.values() if one.costs or not only]
        if self.name == "compare":
            only, laws = True, [one for one in laws if len(one.axes) == 1]
        about = [f"{one.name}: {one.formula}; --x {' --x '.join(one.axes)}. {one.when}" for one in laws]
        self.epilog = "\n\n".join(["Laws (--law):", *about, *([] if only else _further())])
        super().format_epilog(ctx, formatter)


def _further() -> list[str]:
    """Paragraphs on what only `fit` takes: laws that are chosen, and second steps."""
    from raysweep.laws.steps import STEPS

    steps = [f"{name}: {step.law.formula}, L the loss. {step.law.when}" for name, step in STEPS.items()]
    return [
        "auto: the one-axis law that predicts held-out scales best.",
        "bnsl: power+floor, bnsl1, bnsl2 or bnsl3: the fewest breaks whose AICc is within 4 of the least.",
        "Second steps (--then):",
        *steps,
    ]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(cls=OfLaws)(asking(fit))
    app.command(cls=OfLaws)(asking(allocate, law="chinchilla"))


def fit(
    data: Data,
    asked: Asked,
    rows: Rows = "current",
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw data, law, residuals and hold-out: .png, .pdf or .svg; of several fits also FILE-2, ...",
        ),
    ] = None,
    predict: Predict = None,
    table: Table = None,
    draws: WithDraws = False,
    save: Annotated[
        str | None, typer.Option(metavar="FILE", help="Save the fits, for `raysweep predict FILE`: .json.")
    ] = None,
    then: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="A second step, sigmoid or exponential: --metric as a law of --y, its loss."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="COL", help="With --then: the metric that is predicted through both steps.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit a law, with intervals, to a store or to any table. Without --x and --y: the fits that the sweep names."""
    printed = Printed(json, table, draws)
    requests = [asked.request("fit")] if asked.x or asked.y is not None else _named(data, asked)
    requests = _with_steps(requests, then, metric)
    if metric is not None and (fixed := sorted(asked.given & {"fix", "tie", "bound"})):
        say(f"note: --{fixed[0]} holds for the law of the loss, not for the second step", stream=sys.stderr)
    if save is not None and any(request.then for request in requests):
        raise FitError(
            "fit: --save keeps laws of one step, whose draws predict by themselves, but a second one is named (then). "
            "Leave --save out and use --predict, or --json --draws"
        )
    wanted = [places(predict or (), request.x, "fit: --predict") for request in requests for _ in range(_fits(request))]
    fitted = _fitted("fit", data, asked, requests, rows, json, metric=metric)
    if figure is not None:
        _draw(fitted, wanted, Path(figure))
    fits = [law for law, _ in fitted]
    if save is not None:
        from raysweep.laws.saved import save_fits

        save_fits(save, fits)
    printed.show(fits, wanted)


def allocate(
    data: Data,
    asked: Asked,
    budget: Annotated[
        list[float] | None, typer.Option(metavar="FLOPS", help="Compute to spend, in all; may be repeated.")
    ] = None,
    loss: Annotated[
        list[float] | None, typer.Option(metavar="Y", help="Or a loss to reach at the least cost; may be repeated.")
    ] = None,
    inference_tokens: Annotated[
        float, typer.Option(metavar="T", help="Tokens to serve, at 2 FLOPs each per unit of the first scale.")
    ] = 0.0,
    rows: Rows = "current",
    cost_per: Annotated[
        float | None, typer.Option(metavar="C", help="FLOPs are C times both scales; 6 if neither is given.")
    ] = None,
    flops: Annotated[
        str | None, typer.Option(metavar="COL", help="Fit the cost of training to this column of measured FLOPs.")
    ] = None,
    json: Json = False,
) -> None:
    """Show how to spend a budget on two scales, by a fitted law. The answer has intervals."""
    if (not budget) == (not loss):
        given = "both" if budget else "neither"
        raise FitError(f"allocate: --budget or --loss must be given, and not both, but got {given}. Give one of them")
    for option, numbers in (("a --budget is FLOPs", budget), ("a --loss is a value of y", loss)):
        bad = next((b for b in numbers or () if not 0 < b < float("inf")), None)
        if bad is not None:
            raise FitError(f"allocate: {option}, positive and finite, but got {bad:g}. Correct it")
    if not 0 <= inference_tokens < float("inf"):
        raise FitError(
            f"allocate: --inference-tokens must be finite and at least 0, but got {inference_tokens:g}. Leave it out "
            "for training alone"
        )
    if cost_per is not None and flops is not None:
        raise FitError("allocate: --cost-per states what training costs and --flops measures it; give one of them")
    if cost_per is not None and not 0 < cost_per < float("inf"):
        raise FitError(
            f"allocate: --cost-per is FLOPs per unit of both scales, positive and finite, but got {cost_per:g}. Leave "
            "it out for 6"
        )
    from raysweep.laws.forms import LAWS

    if asked.formula is not None:
        raise FitError("allocate: it takes no formula, whose loss may fall without bound: name a --law of two scales")
    paid = [name for name, one in LAWS.items() if one.costs]
    if asked.law not in paid:
        raise FitError(
            f"allocate: --law must have two scales whose product costs FLOPs, but got {asked.law!r}. Such laws are "
            f"{', '.join(paid)}. For attempts against training use raysweep.laws.split, from Python"
        )
    requests = [asked.request("allocate")]
    keep = () if flops is None else (flops,)
    ((fitted, points),) = _fitted("allocate", data, asked, requests, rows, json, keep, flops=flops)
    if flops is not None and not points.frame[flops].dtype.is_numeric():
        raise FitError(f"allocate: --flops must name a column of numbers, but {flops!r} holds words. Name another")
    target = _Target(tuple(budget or ()), tuple(loss or ()), cost_per or 6.0, flops, inference_tokens)
    made = [(group, _allocation(group, points, target)) for group in fitted]
    if all(isinstance(one, str) for _, one in made):
        raise FitError(str(made[0][1]))
    if json:
        print_json([record for group, one in made for record in _records(group, one)])
        return
    from raysweep.reports.tables import MOST

    for group, one in made[:MOST]:
        _show_allocation(group, one)
    if len(made) > MOST:
        say(f"... and {len(made) - MOST:,} more groups; --json has them all")


def _named(data: Sequence[str], asked: Asked) -> list[FitRequest]:
    """The fits that a store's sweep names, or else the one of the columns that its experiment declares.

    Raises:
        FitError: `data` are tables, or a store that names no columns.
    """
    from raysweep.sweep.stored import stored_display, stored_sweep

    store = _store(data)
    if store is not None:
        if specs := stored_sweep(store)[0].fit:
            return [asked.applied(spec.request) for spec in specs]
        display, note = stored_display(store)
        if note:
            say(f"note: {note}", stream=sys.stderr)
        if display.x and display.y:
            return [replace(asked, x=[display.x], y=display.y).request("fit")]
    raise FitError(f"fit: --x and --y must be given, for {' '.join(data)} names no fits. Name two columns")


def _with_steps(requests: Sequence[FitRequest], then: str | None, metric: str | None) -> list[FitRequest]:
    """The fits with the second step that the command line names.

    Raises:
        FitError: It is none.
    """
    if then is None and metric is None:
        return list(requests)
    with naming("fit"):
        return [replace(request, then=then, metric=metric) for request in requests]


def _fits(request: FitRequest) -> int:
    return 1 if request.then is None else 2


def _store(data: Sequence[str]) -> Store | None:
    """The store that is named; None where the names are of tables. A folder with an env.json is a store."""
    from raysweep.store import Store

    if len(data) > 1 or Path(data[0]).is_file():
        return None
    store = Store(data[0])
    return store if store.exists("env.json") else None


def source(data: Sequence[str], rows: str, quiet: bool) -> Any:
    """The data to fit: a store's table, or files.

    Raises:
        FitError: `rows` is neither `current` nor `all`.
    """
    from pyarrow.parquet import read_schema

    from raysweep.ledger.log import CELLS
    from raysweep.sweep.current import cells, current

    if rows not in ("current", "all"):
        raise FitError(f"--rows must be current or all, but got {rows!r}. Leave it out for the sweep as it is now")
    store = _store(data)
    if store is None:
        return data[0] if len(data) == 1 else list(data)
    if rows == "current" and store.is_local and store.exists(CELLS):
        # A ledger too large for memory is read from its compacted copy, block by block, if that has every part.
        found = Path(store.path(CELLS)).stat()
        if found.st_size > _LARGE and all(written < found.st_mtime for _, written in store.list("ledger")):
            columns = read_schema(store.path(CELLS))
            if current(store).own.schema(columns).equals(columns, check_metadata=True):  # an older raysweep lacks some
                return store.path(CELLS)
    table, notes = cells(store, rows)
    if not quiet:  # a reader of JSON may read both streams as one
        for line in notes:
            say(f"note: {line} Use --rows all to include them", stream=sys.stderr)
    return table


def _fitted(
    command: str,
    data: Sequence[str],
    asked: Asked,
    requests: Sequence[FitRequest],
    rows: str,
    quiet: bool,
    keep: Sequence[str] = (),
    **named: str | None,
) -> list[tuple[Fit, Points]]:
    """Each fit with the points that it was made from.

    Args:
        named: Columns that further options name.

    Raises:
        FitError: The table cannot answer; an option at fault is named.
    """
    from raysweep.laws.chain import fits_of
    from raysweep.laws.points import points

    table = source(data, rows, quiet)
    with naming(command, asked.given, **asked.columns, **named):  # else the sweep's own fit is at fault
        return [one for request in requests for one in fits_of(points(table, request, keep), request)]


def _draw(fitted: Sequence[tuple[Fit, Points]], wanted: Sequence[Sequence[Mapping[str, float]]], path: Path) -> None:
    """One file per fit, drawn to where it predicts: FILE, then FILE with -2, -3, ... before its ending."""
    if path.suffix not in (".png", ".pdf", ".svg") or not path.parent.is_dir():
        raise FitError(
            f"fit: --figure must be a .png, .pdf or .svg in a folder that exists, but got {str(path)!r}. "
            "Name such a file"
        )
    import matplotlib

    matplotlib.use("Agg")
    from raysweep.reports.diagnostics import diagnostics_figure
    from raysweep.reports.style import tame

    for i, ((law, kept), ahead) in enumerate(zip(fitted, wanted, strict=True)):
        name = path if i == 0 else path.with_stem(f"{path.stem}-{i + 1}")
        tame(diagnostics_figure(law, kept, predict=ahead)).savefig(name, dpi=_DPI)
    if len(fitted) > 1:
        say(f"note: {len(fitted)} fits were drawn, {path.name} to {name.name}", stream=sys.stderr)


@dataclass(frozen=True)
class _Target:
    """What is allocated: budgets or losses, and what training and inference cost."""

    budgets: tuple[float, ...]
    losses: tuple[float, ...]
    cost_per: float
    flops: str | None
    tokens: float


def _allocation(group: GroupFit, points: Points, target: _Target) -> Allocation | str:
    """The best use of each budget, or the cheapest way to each loss, under a group's law; or why there is none."""
    from raysweep.laws.allocate import Cost, allocate, fit_cost
    from raysweep.laws.counts import below_one
    from raysweep.laws.misfit import UNTRUSTED
    from raysweep.laws.serving import cheapest
    from raysweep.laws.source import numbers

    if group.error is not None:
        return group.error
    rows = points.of(group.group)
    x, t = (numbers(rows, name) for name in group.x)
    try:
        cost = Cost(target.cost_per) if target.flops is None else fit_cost(x, t, numbers(rows, target.flops))
        spent = cost.flops(x, t)
        window, cost = (float(spent.min()), float(spent.max())), replace(cost, tokens=target.tokens)
        solve, wanted = (cheapest, target.losses) if target.losses else (allocate, target.budgets)
        made = solve(group.law, _known(group), list(wanted), cost, level=group.level, window=window)
    except FitError as error:
        return str(error)
    optimum = dict(zip(group.x, (float(made.x.min()), float(made.t.min())), strict=True))
    more, small = dict(made.details), below_one(optimum, group.least)
    if "extrapolated" in more and UNTRUSTED in group.details:
        more["extrapolated"] += f" The data speak against it ({UNTRUSTED}): do not believe them."
    return replace(made, details={**more, "below_one": small} if small else more)


def _known(group: GroupFit) -> Any:
    """A group's parameters, with their draws where there are any."""
    return group.draws or list(group.params.values())


def _records(group: GroupFit, made: Allocation | str) -> list[dict[str, Any]]:
    from raysweep.laws.serving import beside

    head = {"group": dict(group.group), "x": list(group.x)}
    if isinstance(made, str):
        return [{**head, "law": group.law.name, "error": made}]
    details = {**group.details, **made.details}
    records = [{**head, **record, "notes": list(details), "details": details} for record in made.to_json()]
    if made.cost.tokens:
        alone = beside(made, _known(group)).to_json()
        return [{**record, "training_only": one} for record, one in zip(records, alone, strict=True)]
    return records


def _show_allocation(group: GroupFit, made: Allocation | str) -> None:
    from raysweep.laws.serving import beside
    from raysweep.reports.tables import formula, title

    say(f"{title(group)}: {formula(group)}")
    if isinstance(made, str):
        say(f"  no allocation: {made}")
        return
    columns = (("budget", made.budget), ("x", made.x), ("t", made.t), ("loss", made.loss))
    rows = []
    for i in range(made.budget.size):
        row = []
        for key, best in columns:
            ends = made.intervals.get(key)
            row.append(f"{best[i]:.4g}" + ("" if ends is None else f" [{ends[i, 0]:.4g}, {ends[i, 1]:.4g}]"))
        rows.append(row)
    head = ["FLOPs", *(f"best {name}" for name in group.x), group.y]
    cost, (one, other) = made.cost, group.law.axes
    if cost.tokens:
        alone = beside(made, _known(group))
        head += [*(f"training-only {name}" for name in group.x), "its FLOPs"]
        for row, *numbers, saved in zip(rows, alone.x, alone.t, alone.budget, alone.saved, strict=True):
            row += [*(f"{number:.4g}" for number in numbers[:2]), f"{numbers[2]:.4g} (saved: {saved:.1%})"]
    print_table(head, rows)
    fitted = "" if cost.r2 is None else f", fitted to measured FLOPs (within {cost.misfit:.1%})"
    price = f"{cost.c:.4g} {_power(one, cost.p)} {_power(other, cost.q)}"
    served = f" + 2 {one} x {cost.tokens:.4g} tokens of inference" if cost.tokens else ""
    say(f"  FLOPs = {price}{served}{fitted}" + (f"; intervals: {made.level:.0%}" if made.intervals else ""))
    if cost.tokens:
        say("  training-only: the optimum of training alone that reaches the same loss, and its FLOPs with inference")
    say(*(f"  {code}: {text}" for code, text in {**group.details, **made.details}.items()))


def _power(name: str, exponent: float) -> str:
    return name if exponent == 1 else f"{name}^{exponent:.3g}"
