"""Notes: sentences about the points of a fit, each with the groups that it holds for.

A sentence that asks for an argument names it as in Python, between backticks (`run=`, `by='arm'`); whoever prints it
for a command line passes it through `terminal.as_options`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import polars as pl

from raysweep.laws.column import PROVENANCE

__all__ = ["Note", "Regrouped", "counts", "details_of", "each", "group_name", "over"]

_TEXT = "_text"
Regrouped: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]  # gives rows the by-columns of their groups


@dataclass(frozen=True)
class Note:
    """One stable code, and what it says.

    Attributes:
        text: A sentence that holds for all groups, or `each` with its own.
    """

    code: str
    text: str | pl.DataFrame


def each(groups: pl.DataFrame, sentences: Sequence[str | None]) -> pl.DataFrame:
    """A sentence for each row of some of the by-columns; None where there is nothing to say."""
    said = pl.Series(_TEXT, sentences, dtype=pl.String)
    return groups.with_columns(said) if groups.columns else said.to_frame()


def details_of(groups: pl.DataFrame, count: int, notes: Sequence[Note]) -> list[dict[str, str]]:
    """The sentence of each code that holds for each of `count` groups, whose by-columns are `groups`."""
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for note in notes:
        if isinstance(note.text, str):
            said: Sequence[str | None] = [note.text] * count
        elif keys := [name for name in note.text.columns if name != _TEXT]:
            joined = groups.select(keys).join(note.text, on=keys, how="left", nulls_equal=True, maintain_order="left")
            said = joined[_TEXT].to_list()
        else:
            said = note.text[_TEXT].to_list() * count
        for details, text in zip(found, said, strict=True):
            if text is not None:
                details[note.code] = text
    return found


def group_name(group: Mapping[str, Any], equals: str = "=") -> str:
    """`width=64, labels=hard`: a group without the axes that do not apply in it; a row's origin may be unknown."""
    applies = {name: value for name, value in group.items() if value is not None or name in PROVENANCE}
    return ", ".join(f"{name}{equals}{value}" for name, value in applies.items())


def over(frame: pl.DataFrame, by: Sequence[str], *what: pl.Expr) -> pl.DataFrame:
    """Each value of `by`, sorted, with the given aggregates of its rows; one row if there is no by-column."""
    return frame.group_by(by).agg(*what).sort(by) if by else frame.select(*what)


def counts(frame: pl.DataFrame, groups: pl.DataFrame) -> list[int]:
    """How many rows of a frame belong to each group."""
    by = groups.columns
    if not by:
        return [frame.height]
    found = groups.join(
        frame.group_by(by).agg(_len=pl.len()), on=by, how="left", nulls_equal=True, maintain_order="left"
    )
    return found["_len"].fill_null(0).to_list()
