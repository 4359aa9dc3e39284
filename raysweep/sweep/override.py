"""The language of `--set axis=values`: what YAML says, and ranges as people write them in a shell."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from raysweep.errors import SweepError
from raysweep.grid.axes import RANGES
from raysweep.sweep.places import entries
from raysweep.yamlfile import parse_yaml, read_number

__all__ = ["read_overrides", "with_until"]

_MOST = 100_000  # values of a range that is listed in full
_END = r"[-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_DOTS = re.compile(rf"({_END})?\s*\.\.\s*({_END})?(?:\s*\.\.\s*({_END}))?")
_LIKE_A_RANGE = re.compile(
    rf"(?=.*[0-9])(?:{_END}\s*)?(?:(?:\.\.+(?!\.)|:)\s*(?:{_END}\s*)?)+"
    rf"|{_END}\s*(?:[-\u2013\u2014~;/]|->|\bto\b|\s)\s*{_END}|{_END}\s*(?:[-\u2013\u2014~+]|->)"
)
_CALL = re.compile(r"([A-Za-z_][\w.]*)\s*(?:\((?P<call>.*)\)|[=:]\s*[\[(]?(?P<rest>.*?)[\])]?)", re.DOTALL)
_ELSEWHERE = {"linspace": "linear", "logspace": "geom", "geomspace": "geom", "arange": "range"}


def read_overrides(texts: Sequence[str], grid: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that `--set` puts into a grid, by axis.

    An entry is a value, values between commas, or what YAML says (`[1, 2]`, `{geom: [64, 4096, 7]}`). Ranges are
    understood as in a shell (`0..3` is 0, 1, 2, 3, and `0..10..2` has a step) and as calls (`range(5)`,
    `geom(64, 8192, 8)`, `geom=64,8192,8`).

    Args:
        texts: Assignments `axis=values`.
        grid: The grid that is overridden: where an axis has words in it, `0-3` is a word, too.

    Raises:
        SweepError: no assignment, two for one axis, invalid YAML, or text that looks like a range and is not.
    """
    found: dict[str, Any] = {}
    said: dict[str, str] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not name or not values.strip():
            raise SweepError(f"--set must be axis=values, but got {text!r}, e.g. --set width=64,128")
        if name in said:
            raise SweepError(
                f"--set must give an axis once, but got {said[name]!r} and {text!r}; several values go between commas"
            )
        said[name] = text
        old = [
            value for entry in entries(grid, name) for value in (entry if isinstance(entry, list | tuple) else [entry])
        ]
        words = any(isinstance(value, str) for value in old)
        found[name] = _entry(values, text, len(text) - len(values), words)
    return found


def with_until(raw: Mapping[str, Any], texts: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """A sweep file with what `--set` gives for `until`, and the assignments that are left: those of axes.

    `until.max_hours=2` and `until.ci95.alpha=0.02` set keys, `until=null` leaves it out. A null takes a key away.

    Raises:
        SweepError: No value, or `until` has other values than a mapping or null.
    """
    left, found = [], raw
    for text in texts:
        name, equals, value = text.partition("=")
        top, _, key = name.strip().partition(".")
        if top != "until" or "until" in raw["grid"]:
            left.append(text)
            continue
        if not equals or not value.strip():
            raise SweepError(f"--set must be until.KEY=VALUE, but got {text!r}, e.g. --set until.ci95.alpha=0.02")
        given = parse_yaml(value, f"--set {text}")
        if key:
            old = _mapping(found.get("until"))
            if key.startswith("ci95."):
                key, given = "ci95", _merged(_mapping(old.get("ci95")), key.removeprefix("ci95."), given)
            given = _merged(old, key, given)
        elif given is not None and not isinstance(given, Mapping):
            raise SweepError(f"--set until: must be a mapping or null, but got {value!r}, e.g. until.ci95.alpha=0.02")
        found = {**found, "until": given}
    return found, left


def _mapping(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _merged(old: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {name: one for name, one in {**old, key: value}.items() if one is not None}


def _entry(values: str, text: str, start: int, words: bool) -> Any:
    """An axis's entry; `start` is where `values` begins in `text`."""
    called = _called(values.strip(), text)
    parts = _split(values)
    if called is not None:
        return called
    if parts is None:  # a bracket or a quote is left open: YAML says where
        return _yaml(values, text, start)
    inner = re.fullmatch(r"(\s*\[)(.*)\]\s*", values, re.DOTALL) if len(parts) == 1 else None
    if inner and (within := _split(inner[2])) is not None:
        parts, start = within, start + len(inner[1])
        if parts == [""]:
            return []
    elif len(parts) == 1:
        one = _ranged(values.strip(), text, words)
        if isinstance(one, range):
            return {"range": [one.start, one.stop] if one.step == 1 else [one.start, one.stop, one.step]}
        return _yaml(values, text, start) if one is None else one
    else:
        _check_thousands(values, text)
    if not parts[-1].strip():  # a comma at the end
        parts = parts[:-1]
    listed: list[Any] = []
    for part in parts:
        if not part.strip():
            raise SweepError(f"--set {text}: a value must stand between commas, but one is missing")
        several = _ranged(part.strip(), text, words)
        called = _called(part.strip(), text)
        if several is not None:
            if len(several) + len(listed) > _MOST:
                raise SweepError(f"--set {text}: at most {_MOST:,} values can be listed; give a range alone, or a step")
            listed += several
        elif called is not None:
            raise SweepError(
                f"--set {text}: a range must stand alone or as 0..3 among values, but got {part.strip()!r}"
            )
        else:
            listed.append(_yaml(part, text, start))
        start += len(part) + 1
    return listed


def _split(values: str) -> list[str] | None:
    """The parts between commas that are outside brackets and quotes; None where one of those is left open."""
    parts, depth, quote, last = [""], 0, "", ","
    for char in values:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and last in ",[{(:":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                return None
        if char == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += char
        last = last if char.isspace() else char
    return None if depth or quote else parts


def _yaml(part: str, text: str, start: int) -> Any:
    pad = "" if "\n" in part else " " * start  # so that an error's column is the text's
    return parse_yaml(pad + part, f"--set {text}")


def _ranged(part: str, text: str, words: bool) -> range | list[float] | None:
    """The values of `0..3`, `0..10..2` or `0..1..0.1`, ends included; None where a part is not such a range.

    Raises:
        SweepError: it looks like a range to a person, and the axis does not take `words`.
    """
    dots = _DOTS.fullmatch(part)
    if not dots or not all(dots.groups()[:2]):
        # `..` alone is a folder; a number or a word in quotes is taken literally.
        if not words and ((dots and any(dots.groups())) or (_LIKE_A_RANGE.fullmatch(part) and not _is_number(part))):
            raise SweepError(
                f"--set {text}: a range must be start..end or start..end..step, ends included, e.g. 0..3 or 0..10..2, "
                f"but got {part!r}. If a word is meant, put it in quotes: \"'{part}'\""
            )
        return None
    ends = [_end(end, text) for end in dots.groups() if end]
    low, high = ends[0], ends[1]
    step = ends[2] if len(ends) == 3 else Decimal(1)
    whole = all(end == end.to_integral_value() for end in ends)
    if not step or (step < 0 and high > low) or (len(ends) == 2 and not whole):
        rule = "have a step between fractions" if step == 1 else "have a step that leads from start to end"
        raise SweepError(f"--set {text}: a range must {rule}, e.g. 0..1..0.25 or 10..0..2, but got {part!r}")
    step = abs(step) if high >= low else -abs(step)  # as in a shell, 10..0..2 counts down
    count = int((high - low) / step) + 1
    if whole:
        return range(int(low), int(high) + (1 if step > 0 else -1), int(step))
    if count > _MOST:
        raise SweepError(f"--set {text}: at most {_MOST:,} fractions can be listed, but {part!r} has {count:,}")
    return [float(low + i * step) for i in range(count)]


def _is_number(part: str) -> bool:
    try:
        return read_number(part) is not None
    except ValueError:
        return True


def _end(end: str, text: str) -> Decimal:
    try:
        number = read_number(end)
    except ValueError as error:
        raise SweepError(f"--set {text}: {error}") from error
    if number is None:
        raise SweepError(f"--set {text}: an end of a range must be a number without leading zeros, but got {end!r}")
    return Decimal(repr(number))


def _called(part: str, text: str) -> dict[str, Any] | None:
    """The mapping that `geom(64, 8192, 8)`, `geom=64,8192,8` or `geom: [64, 8192, 8]` stands for, or None."""
    match = _CALL.fullmatch(part)
    if not match:
        return None
    name = match[1].rpartition(".")[2]
    inside = match["call"] if match["call"] is not None else match["rest"]
    arguments = [_argument(a.strip(), text) for a in inside.split(",")]
    if None in arguments:  # `log2(width)` is a formula, and YAML judges `geom: [64, x]`
        if name in RANGES and name != "log2" and match["call"] is not None:
            raise SweepError(f"--set {text}: {name} must have numbers between its brackets, but got {inside!r}")
        return None
    if name in RANGES:
        return {name: arguments if len(arguments) > 1 else arguments[0]}
    meant = (
        [_ELSEWHERE[name.lower()]] if name.lower() in _ELSEWHERE else difflib.get_close_matches(name, RANGES, 1, 0.7)
    )
    if meant and match["call"] is not None:
        raise SweepError(f"--set {text}: a range must be one of {', '.join(RANGES)}, but got {name}; try {meant[0]}")
    return None


def _argument(argument: str, text: str) -> int | float | None:
    try:
        return read_number(argument)
    except ValueError as error:
        raise SweepError(f"--set {text}: {error}") from error


def _check_thousands(values: str, text: str) -> None:
    plain = "".join(values.split())
    if re.fullmatch("[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+", plain) and re.search(",0", plain):
        number = plain.replace(",", "")
        raise SweepError(
            f"--set {text}: a comma must separate values, but {plain} looks like one number. Write {number} or "
            f"{plain.replace(',', '_')}, or each value without leading zeros"
        )
