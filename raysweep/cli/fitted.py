"""How fitted laws are printed: paragraphs, JSON, or a table of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.show import print_json, say, terminal_width
from raysweep.errors import FitError

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit
    from raysweep.laws.predicted import Prediction
    from raysweep.laws.result import Fit

__all__ = ["Printed", "Table", "WithDraws"]

Table = Annotated[
    str | None, typer.Option("--table", metavar="md|latex|csv", help="Print parameters as a table of this form.")
]
WithDraws = Annotated[
    bool, typer.Option("--draws", help="With --json: also the draws and the covariance of the parameters.")
]
_ENOUGH = 0.8  # share of data in which a bend would be noticed from which silence says something
_TABLES = ("md", "latex", "csv")


@dataclass(frozen=True)
class Printed:
    """The form in which fits are printed.

    Attributes:
        json: As JSON.
        table: As a table of parameters of this form.
        draws: With draws and covariance, in JSON.

    Raises:
        FitError: Two forms are given, or one that does not exist.
    """

    json: bool
    table: str | None
    draws: bool = False

    def __post_init__(self) -> None:
        if self.table is not None and self.table not in _TABLES:
            raise FitError(f"--table must be one of {', '.join(_TABLES)}, but got {self.table!r}. Take one of them")
        if self.table is not None and self.json:
            raise FitError("--table and --json are two forms of one answer, but both were given; give one of them")
        if self.draws and not self.json:
            raise FitError("--draws adds to --json, which was not given; give both, or --save to keep the draws")

    def show(self, fits: Sequence[Fit], wanted: Sequence[Sequence[Mapping[str, float]]]) -> None:
        """Print fits with their predictions at the points that are wanted of each."""
        if self.table is not None:
            from raysweep.reports.parameters import parameter_table

            print(parameter_table(fits, self.table, wanted), end="")
            return
        from raysweep.laws.predicted import predicted

        made = [[predicted(group, points) for group in law] for law, points in zip(fits, wanted, strict=True)]
        if self.json:
            print_json([record for law, found in zip(fits, made, strict=True) for record in self._records(law, found)])
            return
        for i, paragraph in enumerate(
            each for law, found in zip(fits, made, strict=True) for each in _paragraphs(law, found)
        ):
            say(*([""] * bool(i)), *paragraph)

    def _records(self, law: Fit, found: Sequence[Sequence[Prediction]]) -> list[dict[str, Any]]:
        some = any(found)
        return [
            {**group.to_json(self.draws), **({"predictions": [one.to_json() for one in its]} if some else {})}
            for group, its in zip(law, found, strict=True)
        ]


def _paragraphs(law: Fit, found: Sequence[Sequence[Prediction]]) -> list[list[str]]:
    from raysweep.reports.tables import MOST, paragraphs

    lines = paragraphs(law, terminal_width())
    for paragraph, group, its in zip(lines, law.groups[:MOST], found, strict=False):
        paragraph.extend(line for one in its for line in _sentences(group, one))
    return lines


def _sentences(group: GroupFit, one: Prediction) -> list[str]:
    from raysweep.laws.counts import above_all, below_one
    from raysweep.laws.predicted import IF

    where = ", ".join(f"{name} = {value:.6g}" for name, value in one.x.items())
    text = f"  predicted at {where}: {group.y} = {one.value:.4g}{_ends(one.interval, one.new_run)}"
    if one.first is not None:
        text += f", {IF[one.first]}"
    if one.first == "bent" and one.own is not None:
        text += f"; if it holds{_ends(one.own, one.own_new)}"
    if one.first == "own" and one.bent is not None:
        text += f"; if it may bend{_ends(one.bent, None)}"
    if one.beyond > 1:
        text += f"; {one.beyond:.3g} times beyond the range that was fitted"
    small = below_one(one.x, group.least)
    shown = [end for ends in (one.interval, one.new_run, one.own, one.own_new, one.bent) for end in ends or ()]
    large = above_all(group.y, group.params.get(group.law.ceiling), shown)
    lines = [text, *(f"    {said}" for said in (small, large) if said)]
    if one.noticed is None or one.noticed >= _ENOUGH:
        return lines
    return [
        *lines,
        "    whether it holds, the data do not say: a bend that moves this by half the width of the law's own interval "
        f"would be noticed in at most {one.noticed:.0%} of such data",
    ]


def _ends(mean: tuple[float, float] | None, new_run: tuple[float, float] | None) -> str:
    text = "" if mean is None else f" [{mean[0]:.4g}, {mean[1]:.4g}]"
    return text if new_run is None else f"{text}, of a new run [{new_run[0]:.4g}, {new_run[1]:.4g}]"
