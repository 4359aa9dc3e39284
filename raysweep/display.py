"""How an experiment's columns are shown: labels, companions of a law, bounds that must hold, figures of its own.

All of it is plain data, so that a store keeps it and its report is drawn where the experiment cannot be imported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

from raysweep.validation import Fault, first_fault

__all__ = ["Bound", "Companion", "Display", "Figure", "file_name"]

_OWN = re.compile(r"learning-curves|(theory|\d+)-.*")  # files of a report's own figures


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
        metric: Bounded column of numbers.
        limit: A finite number.
        side: `low` where it may not lie below the limit, `high` where it may not lie above.
        se: Column of its standard error; the bound is exact without one.
        sigmas: Standard errors beyond which it is broken, 0 or more.
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
        name: Name of its file, other than the report's own: `learning-curves`, and what begins with `theory-` or with
            the number of a law, as `1-power-...`.
        y: Column of numbers.
        title: Title of the panel.
        caption: A sentence below the figure.
        reliability: Also show how often classes occur that the world's posterior gives a probability, by its audits.
    """

    name: str
    y: str
    title: str = ""
    caption: str = ""
    reliability: bool = False

    @property
    def file(self) -> str:
        """The name of its file, without the suffix."""
        return file_name(self.name)


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
    def numbers(self) -> Iterator[str]:
        """The columns that it names and that must hold numbers: all but those that are only labelled."""
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
        for fault in found._faults():
            raise ValueError(fault)
        return found

    def _faults(self) -> Iterator[str]:
        """What is wrong with the values of fields that have their types."""
        for name, label in self.labels.items():
            if not label.strip():
                yield f"labels.{name}: must be words, but is {label!r}"
        for i, bound in enumerate(self.bounds):
            if not math.isfinite(bound.limit):
                yield f"bounds[{i}].limit: must be a finite number, but is {bound.limit!r}"
            if not 0 <= bound.sigmas < math.inf:
                yield f"bounds[{i}].sigmas: must be a finite number, 0 or more, but is {bound.sigmas!r}"
            for name, words in (("claim", bound.claim), ("broken", bound.broken)):
                if not words.strip():
                    yield f"bounds[{i}].{name}: must be words for the report, but is {words!r}"
        files: dict[str, str] = {}
        for i, figure in enumerate(self.figures):
            file = figure.file.casefold()  # some file systems hold `A.png` and `a.png` for one file
            if not figure.name.strip() or _OWN.fullmatch(file):
                yield (
                    f"figures[{i}].name: must be words that are not `learning-curves` and do not begin with `theory-` "
                    f"or a number and a hyphen, as files of the report do, but is {figure.name!r}"
                )
            if file in files:
                yield (
                    f"figures[{i}].name: figures must have distinct names of files, but {files[file]!r} and "
                    f"{figure.name!r} are both written to {figure.file}.png"
                )
            files[file] = figure.name

    def checked(self) -> Display:
        """The same display as a store keeps it, if every field is of its type, and plain data.

        Raises:
            ValueError: as `from_json`.
        """
        try:
            plain = self.to_json()
            text = json.dumps(plain)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it must be plain data, but {error}") from error
        found = Display.from_json(json.loads(text))
        for name in self.labels:
            if not isinstance(name, str):  # JSON would write it as a text
                raise ValueError(f"labels: must be named by columns, but one is {name!r}")
        return found


def file_name(words: str) -> str:
    """Words as the name of a figure's file."""
    return re.sub(r"[^\w.-]", "-", words)[:100]


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
