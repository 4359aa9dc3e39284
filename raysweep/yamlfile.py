"""YAML files: a safe subset with plain values only, of a length and depth that people write by hand.

YAML 1.1 and YAML 1.2 read some spellings differently (`no`, `016`, `1:30`). A number that is clear to a person is a
number here (`1e3`, `0x20`, `0o17`, `1_000`); an ambiguous spelling is refused, naming both readings.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from raysweep.errors import SweepError

__all__ = ["MAX_BYTES", "dump_yaml", "parse_yaml", "read_number", "read_yaml"]

MAX_BYTES = 1 << 20
_MAX_DEPTH = 40  # nesting of lists and mappings
_MAX_NODES = 100_000  # keys and values: 3 s of parsing
_LONGEST = 400  # characters of a number: a double written in full has up to 330 before its point

_CONSTANTS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"), None)
_CONSTANTS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_DIGITS = "[0-9](?:_?[0-9])*"
_WHOLE = re.compile("[-+]?(?:0|[1-9](?:_?[0-9])*|0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+)")
_REAL = re.compile(
    rf"[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|[-+]?{_DIGITS}[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORD = "tag:yaml.org,2002:str"
_YAML_1_1 = yaml.resolver.Resolver()


def read_number(text: str) -> int | float | None:
    """The number that an unquoted text stands for, or None.

    Raises:
        ValueError: a number that 64 bits cannot hold; the text says why.
    """
    if _WHOLE.fullmatch(text):
        value = int(text, 0) if len(text) <= _LONGEST else 2**64
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"a whole number must fit in 64 bits, but got {_short(text)}")
        return value
    if not _REAL.fullmatch(text):
        return None
    if text.lower().endswith(("inf", "nan")):
        return float(text.replace(".", ""))
    number = float(text) if len(text) <= _LONGEST else float("inf")
    if number in (float("inf"), -float("inf")) or (not number and re.search("[1-9]", re.split("[eE]", text)[0])):
        raise ValueError(f"a number must be between 4.9e-324 and 1.8e308 in size, but got {_short(text)}")
    return number


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)"


def _plain(text: str) -> Any:
    """The value of an unquoted text.

    Raises:
        ValueError: YAML 1.1 and YAML 1.2 read it differently, or 64 bits cannot hold it.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    number = read_number(text)
    if number is not None:
        return number
    tag: str = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    padded = re.fullmatch("[-+]?0[0-9]+", text) is not None
    if tag == _WORD and not padded:
        return text
    old, meant = _as_yaml_1_1(text, tag)
    new = f"the word '{_short(text)}'"
    if padded:
        sign, digits = text.rstrip("0123456789"), text.lstrip("+-").lstrip("0") or "0"
        octal = "" if set(digits) & {"8", "9"} else f", {sign}0o{digits}"
        new, meant = _short(sign + digits), f"{_short(sign + digits)}{_short(octal)}"
    choice = f"{meant} or '{_short(text)}'" if meant else f"'{_short(text)}'"
    rule = "a number must not start with a 0" if padded else "a value must mean the same to all readers"
    raise ValueError(
        f"{rule}, but {_short(text)} is {old} in YAML 1.1 and {new} in YAML 1.2. Write {choice} (quotes make a word)"
    )


def _as_yaml_1_1(text: str, tag: str) -> tuple[str, str]:
    """The value of a text in YAML 1.1, and how to write it; "" where a sweep cannot mean it."""
    kind = tag.rpartition(":")[2]
    if kind == "str":
        return f"the word '{_short(text)}'", ""
    if kind in ("int", "float"):
        if len(text) > _LONGEST:
            return "a number", ""
        try:
            value = yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text))
        except ValueError:  # `0x_`: the pattern of YAML 1.1 takes it for a number
            return "no valid number", ""
        base = " (base 60)" if ":" in text else " (octal)" if text.lstrip("-+")[0] == "0" else ""
        return f"{_short(str(value))}{base}", _short(str(value))
    if kind == "bool":
        value = text.lower() in ("yes", "on")
        return (str(value).lower(),) * 2
    return {"timestamp": "a date or time", "merge": "a merge of mappings", "value": "a default value"}[kind], ""


class _Composer(yaml.BaseLoader):
    """Nodes of a YAML text, without aliases and tags, none too deep and not too many. Nothing is constructed."""

    nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self.nodes += 1
        self.depth += 1
        if event.anchor is not None:
            raise _refused(event, "anchors (&name) and aliases (*name) are not allowed; write the values out")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _refused(event, f"tags are not allowed, but got {tag}; write the value alone, a word in quotes")
        if self.nodes > _MAX_NODES:
            raise _refused(event, f"at most {_MAX_NODES:,} keys and values are allowed; write ranges instead of lists")
        if self.depth > _MAX_DEPTH:
            raise _refused(event, f"lists and mappings may be nested {_MAX_DEPTH} deep, but these go deeper")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(event: Any, problem: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text: words, numbers, true, false, null, lists and mappings.

    Raises:
        SweepError: it is not valid YAML, repeats a key, uses aliases or tags, nests too deeply, holds a number beyond
            64 bits, or a spelling that YAML 1.1 and 1.2 read differently; line, column and key are named.
    """
    try:
        node = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise SweepError(f"{where}: must be valid YAML: {what} ({_spot(mark)})") from error
    except Exception as error:  # unprintable characters, and other exceptions of the library
        raise SweepError(f"{where}: must be valid YAML: {' '.join(str(error)[:2000].split())}") from error
    return None if node is None else _built(node, where, "")


def _spot(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "at its end"


def _built(node: yaml.Node, where: str, key: str) -> Any:
    """The value of a node; `key` is where it stands in the file, as `grid.concat[0].lr`."""
    if isinstance(node, yaml.SequenceNode):
        return [_built(part, where, f"{key}[{i}]") for i, part in enumerate(node.value)]
    place = f"{where}: {key and f'{key}: '}{_spot(node.start_mark)}"
    if isinstance(node, yaml.MappingNode):
        found: dict[Any, Any] = {}
        for name_node, entry in node.value:
            spot = f"{where}: {key and f'{key}: '}{_spot(name_node.start_mark)}"
            if not isinstance(name_node, yaml.ScalarNode):
                raise SweepError(f"{spot}: must be valid YAML whose keys are words, but got a list or mapping as a key")
            name = _built(name_node, where, key)
            if name in found:  # also 1, 1.0 and 0x1
                raise SweepError(f"{spot}: keys must be distinct, but {name!r} is given twice")
            found[name] = _built(entry, where, f"{key and f'{key}.'}{name}")
        return found
    assert isinstance(node, yaml.ScalarNode)
    text: str = node.value
    if re.search("[\0\ud800-\udfff]", text):
        raise SweepError(f"{place}: a word must be UTF-8 without the null character, but got {text!r}")
    if node.style is not None:  # quoted, or a block of text
        return text
    try:
        return _plain(text)
    except ValueError as error:
        raise SweepError(f"{place}: {error}") from error


class _Dumper(yaml.SafeDumper):
    """Quotes every word that `parse_yaml` would not read as a word."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if tag == _WORD and kind is yaml.ScalarNode and implicit[0]:
            try:
                return tag if _plain(value) == value else None
            except ValueError:
                return None
        return tag


def dump_yaml(value: Any) -> str:
    """Plain values as a YAML text that `parse_yaml` reads as the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: Path) -> Any:
    """A YAML file's content.

    Raises:
        SweepError: missing, unreadable, not a regular file, over 1 MiB, or not valid YAML.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a device never ends, and a pipe blocks its reader
            raise SweepError(f"{path}: cannot be read: a sweep file must be a regular file")
        if found.st_size > MAX_BYTES:
            raise SweepError(f"{path}: a sweep file must be under 1 MiB, but has {found.st_size:,} bytes")
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES).decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null character
        raise SweepError(f"{path}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))
