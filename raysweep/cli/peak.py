"""The command that locates the peaks of curves: peak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep.cli.asking import At, By, Json, Level, Run, Seed, SomeDraws, Where
from raysweep.cli.laws import Data, Rows, source
from raysweep.cli.naming import naming
from raysweep.cli.show import print_json, say

if TYPE_CHECKING:
    from raysweep.laws.maximum import Peak
    from raysweep.laws.peaks import GroupPeaks

_MOST = 20  # groups that are shown


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(peak)


def peak(
    data: Data,
    x: Annotated[str, typer.Option("--x", metavar="COL", help="Column of the scale, positive.")],
    y: Annotated[
        list[str],
        typer.Option(
            "--y", metavar="COL", help="Column of the curve; of several, the first is compared with the others."
        ),
    ],
    by: By = None,
    where: Where = None,
    at: At = "best",
    run: Run = None,
    rows: Rows = "current",
    bootstrap: SomeDraws = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Locate the peaks of curves, with intervals over runs. No form is assumed."""
    from raysweep.laws.peaks import peak as find

    with naming("peak", x=x, y=y, by=by, run=run):
        found = find(
            source(data, rows, json),
            x=x, y=y, by=by or (), where=where, at=at, run=run, level=level, bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
    if json:
        print_json([one.to_json() for one in found])
        return
    counts = Counter(note for one in found for note in one.details.items())
    shared = {note: count for note, count in counts.items() if count > 1}  # printed once
    for i, one in enumerate(found[:_MOST]):
        say(*([""] * bool(i)), *_paragraph(one, shared))
    say(*([""] * bool(shared)))
    for (code, text), count in shared.items():
        say(f"{'all groups' if count == len(found) else f'{count:,} of {len(found):,} groups'}: {code}: {text}")
    if len(found) > _MOST:
        print(f"\n... and {len(found) - _MOST:,} more groups; --json has them all")


def _paragraph(found: GroupPeaks, shared: Collection[tuple[str, str]]) -> list[str]:
    """Its lines, without the details that it shares with other groups."""
    from raysweep.laws.notes import group_name

    lines = [f"{group_name(found.group, ' = ') or 'all rows'}:"]
    for name, one in found.peaks.items():
        lines += [f"  {name}: {one}"] if isinstance(one, str) else _sentences(name, one, found.x)
    first = next(iter(found.peaks))
    lines += [
        f"  the peak of {first} lies at {one.ratio:.4g} {_ends(one.interval)} times the {found.x} of that of {name}"
        + ("" if one.paired else ", taken to be independent")
        for name, one in found.shifts.items()
    ]
    return lines + [f"  {code}: {text}" for code, text in found.details.items() if (code, text) not in shared]


def _sentences(name: str, one: Peak, x: str) -> list[str]:
    return [
        f"  {name} peaks at {x} = {one.location:.4g} {_ends(one.location_interval)}: height {one.height:.4g} "
        f"{_ends(one.height_interval)}, {one.prominence:.4g} {_ends(one.prominence_interval)} above the ends; "
        f"{one.points} of {one.scales} scales, {one.units} units",
        *(f"    {code}: {text}" for code, text in one.notes.items()),
    ]


def _ends(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4g}, {interval[1]:.4g}]"
