"""What a callable consists of: its functions and classes, the values it carries, and what it uses of a notebook."""

from __future__ import annotations

import argparse
import dataclasses
import dis
import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

__all__ = ["globals_of", "origins"]

_DEEPEST = 8
_COLLECTING = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}
_MOST_BYTES = 2**28  # of an array that is hashed


class _Unknown(Exception):
    """A value has no text that is the same in every process."""


def origins(code: Any, depth: int = 0) -> Iterator[Any]:
    """The functions and classes that a callable consists of; and the plain values that it carries, as text."""
    if depth > _DEEPEST:
        return
    if isinstance(code, functools.partial):
        yield repr(_known([*code.args, *sorted(code.keywords.items())]))
        yield from origins(code.func, depth + 1)
        return
    if inspect.ismethod(code):
        owner = code.__self__
        yield from (cls for cls in (owner if isinstance(owner, type) else type(owner)).__mro__ if cls is not object)
        if not isinstance(owner, type):
            yield _held_by(owner)
        yield from origins(code.__func__, depth + 1)
        return
    if isinstance(code, type):
        yield from (cls for cls in code.__mro__ if cls is not object)
        return
    if not inspect.isroutine(code):
        yield from (cls for cls in type(code).__mro__ if cls is not object)
        yield _held_by(code)
        return
    yield code
    cells = [cell.cell_contents for cell in getattr(code, "__closure__", None) or () if _has_content(cell)]
    if kept := _known(_settled(cells, code)):
        yield repr(kept)
    for inner in [*(value for value in cells if callable(value)), getattr(code, "__wrapped__", None)]:
        if inner is not None and inner is not code:
            yield from origins(inner, depth + 1)


def globals_of(code: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a function, or the methods of a class, read of their module: functions, classes, modules,
    and values that a run is not likely to change.
    """
    members = vars(code).values() if isinstance(code, type) else [code]
    for member in members:
        function = inspect.unwrap(getattr(member, "__func__", member)) if callable(member) else member
        if not inspect.isfunction(function):
            continue
        for name in sorted(_names(function.__code__)):
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            if isinstance(value, ModuleType) or inspect.isfunction(value) or isinstance(value, type):
                yield name, value
            else:
                for known in _known(_settled([value], function)):
                    yield name, repr(known)


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _held_by(instance: Any) -> str:
    if not hasattr(instance, "__dict__"):
        return ""
    members = vars(type(instance)).items()
    methods = [member for name, member in members if name == "__call__" or not name.startswith("__")]
    names = {name for name, value in vars(instance).items() if _settled([value], *methods)}
    return repr(sorted(_known((name, value) for name, value in vars(instance).items() if name in names)))


def _settled(values: Sequence[Any], *functions: Any) -> list[Any]:
    """The values without lists, sets and mappings where a function may collect in them what its runs leave there."""
    collects = any(_collects(function.__code__) for function in functions if inspect.isfunction(function))
    return [value for value in values if not (collects and isinstance(value, list | set | Mapping))]


def _collects(code: CodeType) -> bool:
    if not _COLLECTING.isdisjoint(code.co_names) or any(
        one.opname == "STORE_SUBSCR" for one in dis.get_instructions(code)
    ):
        return True
    return any(_collects(constant) for constant in code.co_consts if isinstance(constant, CodeType))


def _known(values: Any) -> list[Any]:
    """The values that are plain data, as such."""
    found = []
    for value in values:
        try:
            found.append(_plain(value, 0))
        except _Unknown:
            continue
    return found


def _plain(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise _Unknown
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, tuple | list):
        return type(value)(_plain(part, depth + 1) for part in value) if type(value) in (tuple, list) else _other(value)
    if isinstance(value, set | frozenset):
        return "set", sorted(repr(_plain(part, depth + 1)) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, SimpleNamespace | argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return "mapping", sorted((repr(key), repr(_plain(part, depth + 1))) for key, part in value.items())
    return _other(value)


def _other(value: Any) -> Any:
    """A named tuple, or an array of numpy or torch, as plain data."""
    if isinstance(value, tuple):
        return type(value).__name__, tuple(_plain(part, 1) for part in value)
    if type(value).__module__ == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.numpy() if hasattr(value, "numpy") and "bfloat16" not in str(value.dtype) else value
    array = type(value).__module__ == "numpy" and hasattr(value, "tobytes") and value.dtype.kind in "biufcSU"
    if not array or value.nbytes > _MOST_BYTES:
        raise _Unknown
    return str(value.dtype), tuple(value.shape), hashlib.sha256(value.tobytes()).hexdigest()[:16]


def _has_content(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
