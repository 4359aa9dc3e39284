"""Units: what identifies the independent clusters of rows in each group, its seeds or its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from raysweep.laws.column import Column
from raysweep.laws.notes import Note, each, over

__all__ = ["units"]

_FEWEST_SEEDS = 3  # with three, intervals are wide but have their coverage (tests/benchmarks/laws_coverage.py)


def units(
    frame: pl.DataFrame, columns: Mapping[str, Column], x: Sequence[str], groups: pl.DataFrame, count: int
) -> tuple[list[str | None], list[Note]]:
    """For each group a ledger's seed, if errors of one seed may be correlated; None where each run is its own unit.

    Runs of one seed draw their data from one stream, so that smaller sets are contained in larger ones. A group is
    judged by its own rows: a seed lost in one changes nothing in another.

    Args:
        frame: All rows.
        groups: The by-columns, one row per group, in their order.
        count: How many groups there are.
    """
    by = groups.columns
    seeds = [n for n, c in columns.items() if c.axis_role == "seed" and n in frame.columns and n not in (*x, *by)]
    if not seeds:
        return [None] * count, []
    values = over(frame, by, *(pl.col(n).n_unique() for n in seeds))
    absent = over(frame, by, *(pl.col(n).null_count() for n in seeds))
    usable = [
        tuple(n for n in seeds if several[n] > 1 and not nulls[n])
        for several, nulls in zip(values.iter_rows(named=True), absent.iter_rows(named=True), strict=True)
    ]
    # The most scales that one seed of a group was used at, and how many combinations of its seeds there are.
    met = {seed: _most_scales(frame, seed, x, by) for seed in {names[0] for names in usable if names}}
    combined = {
        names: over(frame, by, pl.struct(names).n_unique().alias("_count"))["_count"].to_list()
        for names in set(usable)
        if len(names) > 1
    }
    found: list[str | None] = []
    crossed: list[str | None] = []
    few: list[str | None] = []
    for i, (names, several) in enumerate(zip(usable, values.select(seeds).iter_rows(named=True), strict=True)):
        unit = names[0] if names and met[names[0]][i] > 1 else None  # else no seed was used at two scales
        said = ["", ""]
        if unit and len(names) > 1 and combined[names][i] > max(several[n] for n in names):
            said[0] = (
                f"{', '.join(names)} vary independently, so none of them is the unit of an interval: runs were taken "
                "to be independent. Name one with `run=` to make its values the clusters."
            )
        elif unit and several[unit] < _FEWEST_SEEDS:
            said[1] = (
                f"{several[unit]} values of {unit} are too few to be the units of an interval, so runs were taken to "
                "be independent. Where smaller sets are contained in larger ones, intervals are then too narrow: add "
                "seeds."
            )
        found.append(None if any(said) else unit)
        crossed.append(said[0] or None)
        few.append(said[1] or None)
    notes = [("crossed_seeds", crossed), ("few_seeds", few)]
    return found, [Note(code, each(groups, said)) for code, said in notes if any(said)]


def _most_scales(frame: pl.DataFrame, seed: str, x: Sequence[str], by: Sequence[str]) -> list[int]:
    scales = over(frame, [*by, seed], pl.struct(x).n_unique().alias("_scales"))
    return over(scales, by, pl.col("_scales").max())["_scales"].to_list()
