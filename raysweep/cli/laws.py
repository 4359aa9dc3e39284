"""Commands that fit laws to a store or a table: fit, allocate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from raysweep.cli.asking import Asked, Json, asking
from raysweep.cli.fitted import Printed, Table, WithDraws
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
        laws = [one for one in LAWS.values() if one.derived or not only]
        if self.name == "compare":
            laws = [one for one in laws if len(one.axes) == 1]
        about = [f"{one.name}: {one.formula}; --x {' --x '.join(one.axes)}. {one.when}" for one in laws]
        auto = [] if only else ["auto: the one-axis law that predicts held-out scales best."]
        self.epilog = "\n\n".join(["Laws (--law):", *about, *auto])
        super().format_epilog(ctx, formatter)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(cls=OfLaws)(asking(fit))
    app.command(cls=OfLaws)(asking(allocate, law="chinchilla"))


def fit(
    data: Data,
    asked: Asked,
    rows: Rows = "current",
    figure: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw data, law, residuals and hold-out: .png, .pdf or .svg.")
    ] = None,
    predict: Predict = None,
    table: Table = None,
    draws: WithDraws = False,
    save: Annotated[
        str | None, typer.Option(metavar="FILE", help="Save the fits, for `raysweep predict FILE`: .json.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit a law, with intervals, to a store or to any table. Without --x and --y: the fits that the sweep names."""
    printed = Printed(json, table, draws)
    requests = [asked.request("fit")] if asked.x or asked.y is not None else _named(data, asked)
    wanted = [places(predict or (), request.x, "fit: --predict") for request in requests]
    fitted = _fitted("fit", data, asked, requests, rows, json)
    if figure is not None:
        _draw(fitted, wanted, Path(figure))
    fits = [law for law, _ in fitted]
    if save is not None:
        from raysweep.laws.saved import save_fits

        save_fits(save, fits)
    printed.show(fits, wanted)


def allocate(
    data: Data,
    budget: Annotated[list[float], typer.Option(metavar="FLOPS", help="Compute to spend; may be repeated.")],
    asked: Asked,
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
    bad = next((b for b in budget if not 0 < b < float("inf")), None)
    if bad is not None:
        raise FitError(f"allocate: a --budget is FLOPs, positive and finite, but got {bad:g}")
    if cost_per is not None and flops is not None:
        raise FitError("allocate: --cost-per states what training costs and --flops measures it; give one of them")
    if cost_per is not None and not 0 < cost_per < float("inf"):
        raise FitError(
            f"allocate: --cost-per is FLOPs per unit of both scales, positive and finite, but got {cost_per:g}"
        )
    from raysweep.laws.forms import LAWS

    if asked.formula is not None:
        raise FitError("allocate: it takes no formula, whose loss may fall without bound: name a --law of two scales")
    paid = [name for name, one in LAWS.items() if one.derived]
    if asked.law not in paid:
        raise FitError(
            f"allocate: --law must have two scales whose product costs FLOPs, but got {asked.law!r}. Such laws are "
            f"{', '.join(paid)}. For attempts against training use raysweep.laws.split, from Python"
        )
    requests = [asked.request("allocate")]
    ((fitted, points),) = _fitted("allocate", data, asked, requests, rows, json, keep=(flops,) if flops else ())
    made = [(group, _allocation(group, points, budget, cost_per or 6.0, flops)) for group in fitted]
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
    raise FitError(f"fit: --x and --y must be given, for {' '.join(data)} names no fits")


def _store(data: Sequence[str]) -> Store | None:
    """The store that is named; None where the names are of tables. A folder with an env.json is a store."""
    from raysweep.store import Store

    if len(data) > 1 or Path(data[0]).is_file():
        return None
    store = Store(data[0])
    return store if store.exists("env.json") else None


def source(data: Sequence[str], rows: str, quiet: bool) -> Any:
    """The data to fit: a store's table, or files."""
    from pyarrow.parquet import read_schema

    from raysweep.ledger.log import CELLS
    from raysweep.sweep.current import cells, current

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
) -> list[tuple[Fit, Points]]:
    """Each fit with the points that it was made from.

    Raises:
        FitError: The table cannot answer; an option at fault is named.
    """
    from raysweep.laws.points import points
    from raysweep.laws.request import RequestError
    from raysweep.laws.table import fit_points

    table = source(data, rows, quiet)
    try:
        taken = ((points(table, request, keep), request) for request in requests)
        return [(fit_points(kept, request), kept) for kept, request in taken]
    except RequestError as error:
        if error.key not in asked.given:  # the sweep's own fit is at fault
            raise
        raise FitError(f"{command}: --{error.key.replace('_', '-')}: {error.rule}") from error


def _draw(fitted: Sequence[tuple[Fit, Points]], wanted: Sequence[Sequence[Mapping[str, float]]], path: Path) -> None:
    """One file per fit, drawn to where it predicts: FILE, then FILE with -2, -3, ... before its ending."""
    if path.suffix not in (".png", ".pdf", ".svg") or not path.parent.is_dir():
        raise FitError(f"fit: --figure must be a .png, .pdf or .svg in a folder that exists, but got {str(path)!r}")
    import matplotlib

    matplotlib.use("Agg")
    from raysweep.reports.diagnostics import diagnostics_figure
    from raysweep.reports.style import tame

    for i, ((law, kept), ahead) in enumerate(zip(fitted, wanted, strict=True)):
        name = path if i == 0 else path.with_stem(f"{path.stem}-{i + 1}")
        tame(diagnostics_figure(law, kept, predict=ahead)).savefig(name, dpi=_DPI)


def _allocation(
    group: GroupFit, points: Points, budget: Sequence[float], cost_per: float, flops: str | None
) -> Allocation | str:
    """The best use of each budget under a group's law, or why there is none."""
    from raysweep.laws.allocate import Cost, allocate, fit_cost
    from raysweep.laws.source import numbers

    if group.error is not None:
        return group.error
    rows = points.of(group.group)
    x, t = (numbers(rows, name) for name in group.x)
    try:
        cost = Cost(cost_per) if flops is None else fit_cost(x, t, numbers(rows, flops))
        spent = cost.flops(x, t)
        known = group.draws or list(group.params.values())
        window = (float(spent.min()), float(spent.max()))
        return allocate(group.law, known, list(budget), cost, level=group.level, window=window)
    except FitError as error:
        return str(error)


def _records(group: GroupFit, made: Allocation | str) -> list[dict[str, Any]]:
    head = {"group": dict(group.group), "x": list(group.x)}
    if isinstance(made, str):
        return [{**head, "law": group.law.name, "error": made}]
    details = {**group.details, **made.details}
    return [{**head, **record, "notes": list(details), "details": details} for record in made.to_json()]


def _show_allocation(group: GroupFit, made: Allocation | str) -> None:
    from raysweep.reports.tables import formula, title

    say(f"{title(group)}: {formula(group)}")
    if isinstance(made, str):
        say(f"  no allocation: {made}")
        return
    rows = []
    for i, spent in enumerate(made.budget):
        row = [f"{spent:.4g}"]
        for key, best in (("x", made.x), ("t", made.t), ("loss", made.loss)):
            ends = made.intervals.get(key)
            row.append(f"{best[i]:.4g}" + ("" if ends is None else f" [{ends[i, 0]:.4g}, {ends[i, 1]:.4g}]"))
        rows.append(row)
    print_table(["FLOPs", *(f"best {name}" for name in group.x), group.y], rows)
    cost, (one, other) = made.cost, group.law.axes
    fitted = "" if cost.r2 is None else f", fitted to measured FLOPs (within {cost.misfit:.1%})"
    price = f"{cost.c:.4g} {_power(one, cost.p)} {_power(other, cost.q)}"
    say(f"  FLOPs = {price}{fitted}" + (f"; intervals: {made.level:.0%}" if made.intervals else ""))
    say(*(f"  {code}: {text}" for code, text in {**group.details, **made.details}.items()))


def _power(name: str, exponent: float) -> str:
    return name if exponent == 1 else f"{name}^{exponent:.3g}"
