"""The command that fits laws to a store or a table; what others that fit laws share with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import Asked, Json, asking
from raysweep.cli.commands import Command
from raysweep.cli.figure import draw, figure_files
from raysweep.cli.fitted import Printed, Table, WithDraws
from raysweep.cli.naming import naming
from raysweep.cli.predict import Predict, places
from raysweep.cli.show import say
from raysweep.errors import FitError

__all__ = ["Data", "OfLaws", "Rows", "add_to", "fitted_points", "source"]

if TYPE_CHECKING:
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


class OfLaws(Command):
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
    """Register the command."""
    app.command(cls=OfLaws)(asking(fit))


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
    files = figure_files("fit", figure, len(wanted))
    if save is not None:
        _check_save(save, files)
    fitted = fitted_points("fit", data, asked, requests, rows, json, metric=metric)
    if files:
        _draw(fitted, wanted, files)
    fits = [law for law, _ in fitted]
    if save is not None:
        from raysweep.laws.saved import save_fits

        save_fits(save, fits)
    printed.show(fits, wanted)


def _check_save(save: str, figures: Sequence[Path]) -> None:
    """Refuse a file that `--save` may not write.

    Raises:
        FitError: It holds anything but saved fits, or is a figure's, too.
    """
    from raysweep.laws.saved import check_save

    try:
        check_save(save)
    except FitError as error:
        raise FitError(f"fit: --save: {error}") from error
    if Path(save).resolve() in [file.resolve() for file in figures]:
        raise FitError(f"fit: --save and --figure must name different files, but both got {save!r}. Name another")


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


def fitted_points(
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


def _draw(
    fitted: Sequence[tuple[Fit, Points]], wanted: Sequence[Sequence[Mapping[str, float]]], files: Sequence[Path]
) -> None:
    """One file per fit, drawn to where it predicts."""
    import matplotlib

    matplotlib.use("Agg")
    from raysweep.reports.diagnostics import diagnostics_figure

    for (law, kept), ahead, file in zip(fitted, wanted, files, strict=True):
        draw(diagnostics_figure(law, kept, predict=ahead), file)
    if len(fitted) > 1:
        say(f"note: {len(fitted)} fits were drawn, {files[0].name} to {files[-1].name}", stream=sys.stderr)
