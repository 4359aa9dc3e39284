"""How an experiment's columns are shown: labels, companions of a law, bounds that must hold, figures of its own.

All of it is plain data, so that a store keeps it and its report is drawn where the experiment cannot be imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

__all__ = ["Bound", "Companion", "Display", "Figure"]


@dataclass(frozen=True)
class Companion:
    """A column drawn in the figure of a law of another.

    Attributes:
        of: The law's y.
        column: What is drawn, in the same unit.
        drawn: `floor`, a dotted line of its mean over all groups of a panel; `means`, hollow markers for each group.
        caption: A sentence below the figure.
    """

    of: str
    column: str
    drawn: Literal["floor", "means"]
    caption: str = ""


@dataclass(frozen=True)
class Bound:
    """What must hold of every finished row, up to its standard error, if what was measured can be trusted at all.

    Attributes:
        metric: Bounded column.
        limit: Its bound.
        side: `low` where it may not lie below the limit, `high` where it may not lie above.
        se: Column of its standard error; the bound is exact without one.
        sigmas: Standard errors beyond which it is broken.
        claim: What holds then, as the beginning of a sentence: `no classifier beats the exact posterior`.
        broken: What the reader must know where it does not.
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
        """That it looks at."""
        return (self.metric, self.se) if self.se else (self.metric,)


@dataclass(frozen=True)
class Figure:
    """A figure besides those of the laws: a metric against the scale of the first law, for each of its groups.

    Attributes:
        name: Of its file.
        y: The metric.
        title: Above the panel.
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
    """What an experiment is shown by.

    Attributes:
        labels: What figures call a column, with its unit. By default its name, and the unit that its axis or metric
            declares.
        x, y: strs that `raysweep fit STORE` takes where neither the command nor the sweep names any.
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
        """All that it names."""
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
            ValueError: it is no such data.
        """
        try:
            found: Display = _adapter().validate_python(plain)
            return found
        except ValueError as error:  # pydantic's
            raise ValueError(" ".join(str(error).split())[:500]) from error


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter  # only whoever reads a store waits for it

    return TypeAdapter(Display)
