"""Constraints on a law's parameters, as they are written: fixed values, ties and bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raysweep.laws.refusal import RequestError

__all__ = ["Constraints"]


@dataclass(frozen=True)
class Constraints:
    """What must hold of a law's parameters.

    Attributes:
        fix: Parameters and their values.
        tie: Pairs of parameters that are equal.
        bound: Parameters and their lowest and highest value, both included.
    """

    fix: tuple[tuple[str, float], ...] = ()
    tie: tuple[tuple[str, str], ...] = ()
    bound: tuple[tuple[str, float, float], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fix or self.tie or self.bound)

    @classmethod
    def of_mappings(cls, fix: Any = None, tie: Any = None, bound: Any = None) -> Constraints:
        """Constraints as a sweep file writes them: `fix: {alpha: 0.5}`, `tie: {beta: alpha}`, `bound: {alpha: [0, 1]}`,
        null for no bound.

        Raises:
            RequestError: They are written otherwise.
        """
        fixed = tuple((name, _number("fix", name, value)) for name, value in _items("fix", fix, "alpha: 0.5"))
        tied = tuple((name, _name(name, other)) for name, other in _items("tie", tie, "beta: alpha"))
        bounds = tuple((name, *_ends(name, ends)) for name, ends in _items("bound", bound, "alpha: [0, 1]"))
        return cls(fixed, tied, bounds)

    @classmethod
    def of_words(cls, fix: Iterable[str] = (), tie: Iterable[str] = (), bound: Iterable[str] = ()) -> Constraints:
        """Constraints as a command line writes them: `alpha=0.5`, `beta=alpha`, `alpha=0:1`.

        Raises:
            RequestError: They are written otherwise.
        """
        ends = {name: tuple(text.split(":")) for name, text in _split("bound", bound, "alpha=0:1")}
        return cls.of_mappings(
            dict(_split("fix", fix, "alpha=0.5")), dict(_split("tie", tie, "beta=alpha")), ends or None
        )


def _split(key: str, words: Iterable[str], example: str) -> list[tuple[str, str]]:
    out: dict[str, str] = {}
    for word in words:
        name, mark, rest = (part.strip() for part in word.partition("="))
        if not (name and mark and rest):
            raise RequestError(key, f"must be written as {example}, but got {word!r}. Write it so.")
        if name in out:
            raise RequestError(key, f"must name each parameter once, but got {name} twice. Give one.")
        out[name] = rest
    return list(out.items())


def _items(key: str, given: Any, example: str) -> list[tuple[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise RequestError(key, f"must be a mapping such as {{{example}}}, but got {given!r}. Write it so.")
    return [(str(name), value) for name, value in given.items()]


def _number(key: str, name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(key, f"{name} must be a finite number, but got {value!r}. Correct it.")
    return number


def _name(name: str, other: Any) -> str:
    if not isinstance(other, str):
        raise RequestError("tie", f"{name} must be tied to the name of a parameter, but got {other!r}. Name one.")
    return other


def _plain(given: Any) -> str:
    return ":".join(map(str, given)) if isinstance(given, tuple) else repr(given)


def _ends(name: str, given: Any) -> tuple[float, float]:
    if isinstance(given, str) or not isinstance(given, Iterable) or len(ends := list(given)) != 2:
        raise RequestError(
            "bound",
            f"{name} must have a lowest and a highest value, as in [0, 1] or 0:1, but got {_plain(given)}. Give both.",
        )
    low, high = (
        none if end in (None, "") else (none if str(end).lstrip("-+") == "inf" else _number("bound", name, end))
        for end, none in zip(ends, (-math.inf, math.inf), strict=True)
    )
    if not low < high:
        raise RequestError(
            "bound",
            f"{name} must have a lowest value below the highest, but got {low:g} and {high:g}. Use fix for one.",
        )
    return low, high
