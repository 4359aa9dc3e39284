"""The import command: finished results of other tools to rows of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, say
from raysweep.errors import StudyError
from raysweep.terminal import counted

_TOOLS = "csv, tune, wandb, optuna"
_EPILOG = (
    "With --sweep the cells get the keys that `raysweep run FILE` gives them, so that it runs only what is missing. "
    "Imported rows do not record the code that made them: fits keep them apart from rows that are run later, until "
    "`raysweep run FILE --accept-code` says that the results are the same. Without --sweep the store gets a sweep of "
    "its own, `imported:NAME`, whose grid is the trials: fit it, or take it over with `raysweep run FILE --same-as "
    "imported:NAME`."
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("import", epilog=_EPILOG)(import_)


def import_(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A folder or URI.", show_default=False)],
    path: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="csv: tables (.csv, .json, .jsonl, .parquet), also several; tune: an experiment's folder; wandb: an "
            "export of runs or their folders; optuna: an SQLite or journal file.",
            show_default=False,
        ),
    ],
    tool: Annotated[str, typer.Option("--from", metavar="TOOL", help=f"One of {_TOOLS}.")],
    sweep: Annotated[
        str | None, typer.Option(metavar="FILE", help="The sweep file of the experiment that made the results.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Parameters, without --sweep. Default: those that all trials have."),
    ] = None,
    observed: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns that hold time in a history, without --sweep.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="COL", help="Only this metric; may be repeated. Default: all columns of numbers."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="HERE=THERE", help="A name here and the name in the results; may be repeated."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="AXIS=VALUE", help="A value of all trials; may be repeated.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="PARAM", help="A parameter that makes no difference; may be repeated.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study, for an Optuna storage with several.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the sweep, without --sweep.")] = None,
    json: Json = False,
) -> None:
    """Turn results of other tools into rows of a store. Fit and extend them; run it again to add what is new."""
    from raysweep.executors.quiet import terminal
    from raysweep.imports import Wanted, bring, read_study
    from raysweep.progress import Progress
    from raysweep.store import Store
    from raysweep.sweep import load_sweep

    found_sweep = load_sweep(sweep) if sweep is not None else None
    if found_sweep is not None and name is not None:
        raise StudyError("--name is for imports without --sweep: a sweep file has a name of its own")
    wanted = Wanted(
        _names(axes),
        _names(observed),
        tuple(metric or ()),
        _pairs(rename or ()),
        _given(set_ or ()),
        frozenset(ignore or ()),
        name or "",
    )
    found = bring(Store(store), read_study(tool, path, study), wanted, found_sweep, Progress(terminal))
    if json:
        print_json(asdict(found))
        return
    counts = ", ".join(f"{found.cells[s]:,} {s}" for s in ("ok", "diverged", "failed", "skipped") if s in found.cells)
    others = f"; {found.others:,} of them from other grids than the sweep's" if found.others else ""
    say(f"{found.study} ({found.tool}): {found.trials:,} trials, {counts} as rows of {found.sweep}{others}")
    say(f"  {counted(found.added, 'row')} added to {store}, {counted(found.pending, 'cell')} of the grid pending")
    for line in found.notes:
        say(f"  {line}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def _given(texts: Sequence[str]) -> dict[str, Any]:
    from raysweep.sweep.override import read_overrides

    found = read_overrides(texts, {})
    for name, value in found.items():
        if isinstance(value, list | dict) or value is None:
            raise StudyError(f"--set {name} must give the one value that all trials had, but got {value!r}")
    return found


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        here, equals, there = text.partition("=")
        if not equals or not here or not there or here in found:
            raise StudyError(f"--rename must be HERE=THERE, each name here once, but got {text!r}")
        found[here] = there
    return found
