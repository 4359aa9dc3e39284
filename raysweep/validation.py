"""What is wrong with plain data that somebody wrote, in the words of these pages rather than those of pydantic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Fault", "first_fault"]

_WORD, _LIST, _MAPPING, _NUMBER = "a word", "a list", "a mapping", "a number"
_NOUNS = {
    "string_type": _WORD,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "mapping_type": _MAPPING,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dataclass_type": _MAPPING,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True)
class Fault:
    """The first thing wrong with some data.

    Attributes:
        place: Keys and positions in lists that lead to it.
        rule: What must hold.
        given: The value that breaks it.
        kind: `unknown` for a key that there is not, `missing` for one that must be given, `value` for all else.
    """

    place: tuple[Any, ...]
    rule: str
    given: Any
    kind: str = "value"

    @property
    def broken(self) -> str:
        """The rule and what was given."""
        if self.kind != "value" or "but got" in self.rule:
            return self.rule
        quoted = self.rule == f"must be {_WORD}" and isinstance(self.given, int | float)
        return f"{self.rule}, but got {self.given!r}" + (f". In quotes it is one: '{self.given}'" if quoted else "")


def first_fault(errors: Sequence[Mapping[str, Any]], raw: Any) -> Fault:
    """The fault to report.

    Args:
        errors: What pydantic found, `ValidationError.errors()`.
        raw: The data. Places are looked up in it, as pydantic adds the types that it tried to them.
    """
    # An unknown key is often the misspelt form of a missing one, and the more useful error.
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    if first["type"] == "extra_forbidden":
        return Fault(tuple(first["loc"]), "unknown key", first["input"], "unknown")
    if first["type"] in ("missing", "missing_argument"):
        return Fault(tuple(first["loc"]), "must be given", first["input"], "missing")
    if first["type"] == "invalid_key" or first["loc"][-1:] == ("[key]",):
        return Fault(_place(first["loc"], raw)[:-1], "keys must be words", first["input"])
    outer = _place(first["loc"], raw)
    tried = [(place, error) for error in errors if (place := _place(error["loc"], raw))[: len(outer)] == outer]
    deepest = max((place for place, _ in tried), key=len)  # of a list or a word, a wrong item says that it is a list
    here = [error for place, error in tried if place == deepest]
    nouns = [noun for error in here if (noun := _noun(error))]
    if len(nouns) == len(here):
        return Fault(deepest, f"must be {' or '.join(dict.fromkeys(nouns))}", here[0]["input"])
    return Fault(deepest, _rule(here[0]), here[0]["input"])


def _place(loc: Sequence[Any], raw: Any) -> tuple[Any, ...]:
    """The parts of a location that are keys or positions in the data."""
    place: list[Any] = []
    at = raw
    for part in loc:
        keys = at if isinstance(at, Mapping) else range(len(at)) if isinstance(at, list | tuple) else ()
        if part in keys:
            place, at = [*place, part], at[part]
    return tuple(place)


def _noun(error: Mapping[str, Any]) -> str:
    return "a whole number" if error["type"].startswith("int_") else _NOUNS.get(error["type"], "")


def _rule(error: Mapping[str, Any]) -> str:
    if error["type"] in _BOUNDS:
        words, key = _BOUNDS[error["type"]]
        bound = error["ctx"][key]
        return f"must be {words} {bound if isinstance(bound, int) else f'{bound:g}'}"
    if error["type"] == "literal_error":
        return f"must be {error['ctx']['expected']}"
    text = str(error["msg"]).removeprefix("Value error, ").replace("Input should be ", "must be ", 1)
    return f"{text[:1].lower()}{text[1:]}"
