"""YAML files: safe ones only, of plain values, no longer and no deeper than anybody writes by hand."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from raysweep.errors import SweepError

__all__ = ["MAX_BYTES", "parse_yaml", "read_yaml"]

MAX_BYTES = 1 << 20
_MAX_DEPTH = 40  # of nested lists and mappings
_MAX_NODES = 100_000  # keys and values: 3 s of parsing


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-3` as a number (YAML 1.2), and refuses aliases, repeated keys and what is too long."""

    nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write the values out")
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise yaml.YAMLError(f"at most {_MAX_NODES:,} keys and values are allowed; write ranges instead of lists")
        if self.depth == _MAX_DEPTH:
            raise yaml.YAMLError(f"lists and mappings may be nested {_MAX_DEPTH} deep, but these go deeper")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    told = f"keys must be distinct, but {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1:30 as 90; here a number is a number.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""[-+]?(?:(?:\d[\d_]*)?\.\d+|\d[\d_]*\.|\d+(?=[eE]))(?:[eE][-+]?\d+)?$
        |[-+]?\.(?:inf|Inf|INF)$
        |\.(?:nan|NaN|NAN)$""",
        re.VERBOSE,
    ),
    list("-+.0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text.

    Raises:
        SweepError: it is not valid YAML, repeats a key or uses aliases, nests too deeply, or holds something other
            than words, numbers, true, false, null, lists and mappings.
    """
    try:
        found = yaml.load(text, Loader=_Loader)
    except (
        Exception
    ) as error:  # the 32nd of May, a mapping as a key, an empty integer: the library raises what it likes
        told = " ".join(str(error)[:2000].split())
        raise SweepError(f"{where}: must be valid YAML: {told}") from error
    _check_plain(found, where)
    return found


def _check_plain(found: Any, where: str) -> None:
    """Refuse what YAML can say and a sweep cannot mean: dates, sets, binary, whole numbers beyond 64 bits."""
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [part for pair in value.items() for part in pair]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise SweepError(f"{where}: a word must be UTF-8 without the null character, but got {value!r}")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise SweepError(f"{where}: a whole number must fit in 64 bits, but got about 2^{value.bit_length()}")
        elif not (value is None or isinstance(value, str | int | float)):
            raise SweepError(
                f"{where}: must hold words, numbers, true, false, lists and mappings, but got the "
                f"{type(value).__name__} {str(value)!r}; quote it if a word is meant"
            )


def read_yaml(path: Path) -> Any:
    """A YAML file's content.

    Raises:
        SweepError: missing, unreadable, no regular file, over 1 MiB, or not valid YAML.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a device never ends, a pipe keeps its reader waiting
            raise SweepError(f"{path}: cannot be read: a sweep file must be a regular file")
        if found.st_size > MAX_BYTES:
            raise SweepError(f"{path}: a sweep file must be under 1 MiB, but has {found.st_size:,} bytes")
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES).decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null character
        raise SweepError(f"{path}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))
