"""Values of axes: which are equal, how they are stored, and those that are not scalars.

Equal numbers are one value whatever their type or spelling, to 12 significant digits; lists, mappings and null are
known by their canonical JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from raysweep.errors import SweepError

__all__ = [
    "LONGEST",
    "NULL",
    "UNSTORABLE",
    "Json",
    "Value",
    "as_whole",
    "canonical",
    "column_values",
    "structured",
    "unwrapped",
]

LONGEST = 1000  # characters of a word
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Json(str):
    """A list, a mapping or null as canonical JSON, by which it is compared, keyed and stored.

    Attributes:
        plain: The value passed to a user's function, with numbers as they were written.
    """

    plain: Any

    def __new__(cls, text: str, plain: Any = None) -> Json:
        made = super().__new__(cls, text)
        made.plain = plain
        return made

    def __getnewargs__(self) -> tuple[str, Any]:  # type: ignore[override]
        return self.text, self.plain

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Json) and self.text == other.text  # the word "null" is not null

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(("json", self.text))

    @property
    def text(self) -> str:
        return str.__str__(self)


NULL = Json("null")
Value = bool | int | float | str


def canonical(value: Value | None) -> Value | None:
    """Floats to 12 significant digits, so that 0.1 + 0.2, 0.3 and another libm's `pow` share one key."""
    if isinstance(value, float):
        return float(f"{value:.12g}") + 0.0  # + 0.0 turns -0.0 into 0.0
    return value


def column_values(values: Iterable[Value | None], type_: type) -> list[Any]:
    """Values as a column of an axis of this type holds them: JSON as its text, null as nothing."""
    if type_ is Json:
        return [None if v is None or v == NULL else _text(v) for v in values]
    return [None if isinstance(v, Json) else v for v in values]


def _text(value: Value) -> str:
    return value.text if isinstance(value, Json) else value if isinstance(value, str) else json.dumps(value)


def as_whole(value: Value | None) -> Value | None:
    """Whole numbers as `int`, whatever their type was; other floats canonical."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**63:
        return int(value)
    return canonical(value)


def unwrapped(raw: Any) -> Any:
    """NumPy's scalars as Python's; those with few bits by their shortest decimal: float32(0.1) means 0.1."""
    if type(raw).__module__ == "numpy" and hasattr(raw, "dtype") and getattr(raw, "ndim", 1) == 0:
        return float(str(raw[()])) if raw.dtype.kind == "f" else raw.item()
    return raw


def structured(raw: Any, where: str) -> Value:
    """A list or mapping by its canonical JSON; a scalar as itself, so that it keeps its key beside lists."""
    if isinstance(raw, Json):
        return raw
    if isinstance(raw, bool):
        return Json(json.dumps(raw), raw)  # True equals 1 in Python
    if isinstance(raw, int | float | str):
        found = as_whole(raw)
        if isinstance(found, float) and not math.isfinite(found):
            raise SweepError(f"{where} must hold finite numbers, but got {raw!r}")
        return found  # type: ignore[return-value]
    plain = _plain_json(raw, where)
    text = json.dumps(_canonical_json(plain), sort_keys=True)
    if len(text) > LONGEST:
        raise SweepError(f"{where} must be at most {LONGEST:,} characters as JSON, but got {len(text):,}")
    return Json(text, plain)


def _plain_json(raw: Any, where: str) -> Any:
    raw = unwrapped(raw)
    if isinstance(raw, Mapping):
        if not all(isinstance(key, str) for key in raw):
            raise SweepError(f"{where}: the keys of a mapping must be words, but got {dict(raw)!r}"[:500])
        return {key: _plain_json(value, where) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [_plain_json(value, where) for value in raw]
    if raw is None or isinstance(raw, bool | int | str) or (isinstance(raw, float) and math.isfinite(raw)):
        if isinstance(raw, str) and UNSTORABLE.search(raw):
            raise SweepError(f"{where}: a word must be UTF-8 without the null character, but got {raw!r}")
        return raw
    raise SweepError(f"{where} must hold numbers, words, true, false, null, lists and mappings, but got {raw!r}"[:500])


def _canonical_json(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _canonical_json(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_canonical_json(value) for value in plain]
    return as_whole(plain)
