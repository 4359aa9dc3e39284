"""How an experiment's columns are shown: labels, companions of a law, bounds that must hold, figures of its own.

All of it is plain data, so that a store keeps it and its report is drawn where the experiment cannot be imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

from raysweep.validation import Fault, first_fault

__all__ = ["Bound", "Companion", "Display", "Figure"]


@dataclass(frozen=True)
class Companion:
    """A column drawn in the figure of a law of another column.

    Attributes:
        of: The law's y.
        column: The column that is drawn, in the same unit.
        drawn: `floor`, a dotted line of its mean over all groups of a panel; `means`, hollow markers for each group.
        caption: A sentence below the figure.
    """

    of: str
    column: str
    drawn: Literal["floor", "means"]
    caption: str = ""


@dataclass(frozen=True)
class Bound:
    """A bound that every finished row must keep, up to its standard error, if measurements are to be trusted at all.

    Attributes:
        metric: Bounded column.
        side: `low` where it may not lie below the limit, `high` where it may not lie above.
        se: Column of its standard error; the bound is exact without one.
        sigmas: Standard errors beyond which it is broken.
        claim: What holds if the bound does, as the beginning of a sentence: `no classifier beats the exact posterior`.
        broken: What the reader must know if it does not.
    """

    metric: str
    claim: str
    broken: str
    limit: float = 0.0
    side: Literal["low", "high"] = "low"
    se: str = ""
    sigmas: float = 4.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses."""
        return (self.metric, self.se) if self.se else (self.metric,)


@dataclass(frozen=True)
class Figure:
    """A figure besides those of the laws: a metric against the scale of the first law, for each of its groups.

    Attributes:
        name: Name of its file.
        title: Title of the panel.
        caption: A sentence below the figure.
        reliability: Also show how often classes occur that the world's posterior gives a probability, by its audits.
    """

    name: str
    y: str
    title: str = ""
    caption: str = ""
    reliability: bool = False


@dataclass(frozen=True)
class Display:
    """How an experiment is shown.

    Attributes:
        labels: Labels of columns in figures, with units. By default a column's name, with the unit that its axis or
            metric declares.
        x, y: Columns that `raysweep fit STORE` takes where neither the command nor the sweep names any.
        companions, bounds, figures: What reports show besides laws.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    x: str = ""
    y: str = ""
    companions: tuple[Companion, ...] = ()
    bounds: tuple[Bound, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def columns(self) -> Iterator[str]:
        """All columns that it names."""
        yield from self.labels
        yield from filter(None, (self.x, self.y))
        for companion in self.companions:
            yield from (companion.of, companion.column)
        for bound in self.bounds:
            yield from bound.columns
        for figure in self.figures:
            yield figure.y

    def beside(self, y: str) -> list[str]:
        """Columns that the figures of a law of y need besides y."""
        wanted = [c.column for c in self.companions if c.of == y] + [figure.y for figure in self.figures]
        return [name for name in dict.fromkeys(wanted) if name != y]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(plain: Any) -> Display:
        """Undo `to_json`.

        Raises:
            ValueError: it is not such data; the message names the field, what must hold and the value.
        """
        adapter, faulty = _adapter()
        try:
            found: Display = adapter.validate_json(json.dumps(plain), strict=True)
        except faulty as error:
            raise ValueError(_said(first_fault(error.errors(include_url=False), plain))) from error
        names = [figure.name for figure in found.figures]
        if twice := sorted({name for name in names if not name.strip() or names.count(name) > 1}):
            raise ValueError(f"figures must have distinct names, but got {twice[0]!r} for {names.count(twice[0])}")
        return found

    def checked(self) -> Display:
        """The same display, if every field is of its type, and plain data.

        Raises:
            ValueError: as `from_json`.
        """
        try:
            plain = self.to_json()
            json.dumps(plain)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it must be plain data, but {error}") from error
        Display.from_json(plain)
        return self


def _said(fault: Fault) -> str:
    """As `companions[0].drawn: must be 'floor' or 'means', but is 'flor'`."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.place).lstrip(".")
    if fault.kind == "missing":
        return f"{place} is missing"
    return f"{f'{place}: ' if place else ''}{fault.rule}, but is {repr(fault.given)[:200]}"


@cache
def _adapter() -> tuple[Any, type[Any]]:
    """Reads a Display from JSON; and the error that it raises."""
    from pydantic import TypeAdapter, ValidationError  # imported only when a sweep is loaded or a store is read

    return TypeAdapter(Display), ValidationError
