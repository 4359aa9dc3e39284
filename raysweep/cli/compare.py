"""The command that compares two arms over x: compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep.cli.asking import Asked, Json, asking
from raysweep.cli.figure import draw, figure_files
from raysweep.cli.laws import Data, OfLaws, Rows, source
from raysweep.cli.naming import naming
from raysweep.cli.passk import counted_rows, whole
from raysweep.cli.predict import places
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import FitError

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.laws.arms import Comparison

_MOST = 20  # groups that are shown
_SHAPES = ("ratio", "difference")
_ROWS = 9  # values of x that are printed
_FEWEST = 100  # draws
_OF_LAW = {
    "law", "formula", "positive", "fix", "tie", "bound", "huber", "holdout", "envelope", "window", "se", "x_se", "run",
    "at", "shared", "prior",
}  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=OfLaws)(asking(compare, law="power+floor", holdout=0.0))


def compare(
    data: Data,
    arm: Annotated[str, typer.Option("--arm", metavar="COL=A,B", help="The column of the arms, and the two of them.")],
    asked: Asked,
    pair: Annotated[
        str | None, typer.Option("--pair", metavar="COL", help="What both arms share, drawn together: seed, problem.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--as", metavar="ratio|difference", help="A over B, or A - B; for pass@k A - B if not given."),
    ] = None,
    predict: Annotated[
        list[str] | None,
        typer.Option("--predict", metavar="X", help="Also compare at this value of x, as 1e10; may be repeated."),
    ] = None,
    successes: Annotated[
        str | None, typer.Option(metavar="COL", help="Compare pass@k over k, from this column of successes.")
    ] = None,
    trials: Annotated[str | None, typer.Option(metavar="COL", help="With --successes: column of trials.")] = None,
    k: Annotated[
        list[str] | None, typer.Option("--k", metavar="K,K,...", help="With --successes: budgets; may be repeated.")
    ] = None,
    rows: Rows = "current",
    figure: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw arms, comparison and bands: .png, .pdf or .svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare two arms over x, or pass@k over k: bands, parameters, and a confidence set of where they cross."""
    column, mark, names = arm.partition("=")
    values = [name.strip() for name in names.split(",")]
    if not mark or not column or len(values) != 2 or not all(values):
        raise FitError(f"compare: --arm must be COL=A,B, two values of a column, but got {arm!r}. Write it as lr=0.1,1")
    if shape is not None and shape not in _SHAPES:
        raise FitError(f"compare: --as must be ratio or difference, but got {shape!r}. Leave it out for the usual one")
    counts = successes is not None or trials is not None
    given = sorted(asked.given & {"x", "y"}) + ["predict"] * bool(predict)
    if counts and (successes is None or trials is None or given):
        raise FitError(
            "compare: --successes and --trials must be given together, and without --x, --y and --predict, but got "
            f"--successes {successes}, --trials {trials}"
            + "".join(f", --{name}" for name in given)
            + ". Give either the two counts or x and y"
        )
    if counts and (others := sorted(asked.given & _OF_LAW)):
        raise FitError(
            f"compare: with --successes and --trials no law is fitted, but got --{others[0].replace('_', '-')}. Leave "
            "it out"
        )
    if coupled := sorted(asked.given & {"shared", "prior"}):
        raise FitError(
            f"compare: each arm must have a law of its own, for a parameter in common, or a prior, ties what is "
            f"compared; but got --{coupled[0]}. Leave it out, or use `raysweep fit --by` with it"
        )
    if pair == "":
        raise FitError("compare: --pair must name a column, but got ''. Name one, or leave it out")
    if pair is not None and pair in (asked.x or []):
        raise FitError(
            f"compare: --pair must be a column of units with several scales each, but got {pair}, a scale. Name another"
        )
    if k and not counts:
        raise FitError(
            f"compare: --k are budgets of pass@k and come with --successes and --trials, but got --k {k} alone. Give "
            "all three, or leave it out"
        )
    files = figure_files("compare", figure)
    if asked.bootstrap < _FEWEST:
        raise FitError(
            f"compare: --bootstrap must be at least {_FEWEST}, for the bands, but got {asked.bootstrap}. Leave it "
            "out for 1000"
        )
    if counts:
        found = _counts(data, column, values, asked, pair, shape, str(successes), str(trials), k)
    else:
        found = _laws(data, column, values, asked, pair, shape, predict or (), rows, json)
    for file in files:
        _draw(found, file)
    if json:
        print_json([one.to_json() for one in found])
        return
    for i, one in enumerate(found[:_MOST]):
        say(*([""] * bool(i)))
        _show(one)
    if len(found) > _MOST:
        say("", f"... and {len(found) - _MOST:,} more groups; --json has them all")


def _laws(
    data: Sequence[str],
    column: str,
    values: Sequence[str],
    asked: Asked,
    pair: str | None,
    shape: str | None,
    predict: Sequence[str],
    rows: str,
    quiet: bool,
) -> Sequence[Comparison]:
    from raysweep.laws.arms import arms_of
    from raysweep.laws.comparison import compare_arms

    request = asked.request("compare")
    at = [place[request.x[0]] for place in places(predict, request.x, "compare: --predict")]
    table = source(data, rows, quiet)
    with naming("compare", **asked.columns, pair=pair, arm=column):
        return compare_arms(table, request, arms_of(table, column, values), pair, shape != "difference", at)


def _counts(
    data: Sequence[str],
    column: str,
    values: Sequence[str],
    asked: Asked,
    pair: str | None,
    shape: str | None,
    successes: str,
    trials: str,
    k: Sequence[str] | None,
) -> Sequence[Comparison]:
    from raysweep.laws.arms import arms_of
    from raysweep.laws.attempt_arms import compare_counts

    by = asked.by or []
    with naming("compare", by=by, pair=pair, arm=column, successes=successes, trials=trials):
        options = asked.options()
        names = [*by, column, *([] if pair is None else [pair])]
        frame = counted_rows(data, successes, trials, names, asked.where)
    return compare_counts(
        frame, successes, trials, arms_of(frame, column, values), pair, by,
        None if not k else whole("compare", ",".join(k), "--k"), shape == "ratio",
        options.draws, options.level, options.seed,
    )  # fmt: skip


def _show(one: Comparison) -> None:
    from raysweep.laws.notes import group_name

    a, b = one.arm.names
    title = group_name(one.group, " = ")
    how = f"{one.y} of {a} over that of {b}" if one.ratio else f"{one.y} of {a} minus that of {b}"
    differ = f" ({one.unit})" if "units_differ" in one.details else ""
    units = (
        f"{one.units[0]:,} pairs by {one.unit}"
        if one.paired
        else f"{one.units[0]:,} and {one.units[1]:,} units{differ}, unpaired"
    )
    say(f"{title + ': ' if title else ''}{how}; {units}, {one.level:.0%} intervals")
    found = one.contrast
    rows = []
    for i in sorted({round(j * (found.x.size - 1) / (_ROWS - 1)) for j in range(_ROWS)}):
        rows.append([
            f"{found.x[i]:.4g}", f"{one.shown(found.value[i]):.4g}",
            _ends(*one.shown(found.pointwise[i])), _ends(*one.shown(found.simultaneous[i])),
        ])  # fmt: skip
    print_table([one.x, "ratio" if one.ratio else "difference", "at this one", "at all of them at once"], rows)
    say(*(f"  at {one.x} = {x:.6g}: {value:.4g} {_ends(low, high)}" for x, value, low, high in one.points))
    for each in one.parameters:
        sign = "/" if each.kind == "ratio" else "-"
        say(f"  {each.name}: {a} {sign} {b} = {each.value:.4g} {_ends(each.low, each.high)}")
    say(f"  {one.words}.")
    say(*(f"  {code}: {text}" for code, text in one.details.items()))


def _ends(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def _draw(found: Sequence[Comparison], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from raysweep.reports.arms import arms_figure

    draw(arms_figure(found), path)
