"""How to call a user's code: functions of a `config` or of named axes, and classes with `train` or `__call__`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysweep.errors import SweepError, nearest

__all__ = ["Calling", "calling"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Calling:
    """A user's code as a function of one configuration.

    Attributes:
        call: Takes the run's configuration: a value for each axis.
        defaults: The signature's defaults, for axes that a cell need not name.
        names: The only axes that the signature takes, or None where it takes any.
    """

    call: Callable[[dict[str, Any]], Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: frozenset[str] | None = None


def calling(code: Any, axes: Sequence[str], reference: str, where: str) -> Calling:
    """How to call a function, a class with `train` or `__call__`, or an instance of one.

    * `def train(config)`: one required parameter that is no axis takes the whole configuration.
    * `def train(width, lr=0.1)`: parameters are axes; cells that do not name them take their defaults.
    * a class is instantiated once per run, with the configuration if it takes one; then `train` or `__call__` runs.

    Args:
        code: What the sweep names.
        axes: The names in its grid.
        reference, where: Names used in errors.

    Raises:
        SweepError: it cannot be called in any of these ways, or it takes no such axis.
    """
    if isinstance(code, type):
        return _class(code, axes, reference, where)
    if not callable(code) and callable(getattr(code, "train", None)):
        code = code.train
    if not callable(code):
        raise SweepError(
            f"{where}: experiment must be an Experiment, `def train(config)`, or a class with `train` or `__call__`, "
            f"but {reference} is {type(code).__name__}"
        )
    found = _function(code, axes, reference, where)
    if found is None:
        raise SweepError(f"{where}: {reference} must take a `config` or the grid's axes, but takes no argument")
    return found


def _function(code: Callable[..., Any], axes: Sequence[str], reference: str, where: str) -> Calling | None:
    """How to call a callable; None where it takes no argument."""
    try:
        parameters = list(inspect.signature(code).parameters.values())
    except (TypeError, ValueError):  # a function written in C has no signature
        return Calling(code)
    if not parameters:
        return None
    places = [p for p in parameters if p.kind in _POSITIONAL]
    required = [p for p in parameters if p.default is p.empty and p.kind in (*_POSITIONAL, p.KEYWORD_ONLY)]
    alone = required if required else places
    if len(alone) == 1 and alone[0].kind in _POSITIONAL and alone[0].name not in axes:
        return Calling(code)
    if not places and not required and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return Calling(code)
    return _by_name(code, parameters, axes, reference, where)


def _by_name(
    code: Callable[..., Any], parameters: Sequence[inspect.Parameter], axes: Sequence[str], reference: str, where: str
) -> Calling:
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for axis in axes:
        if axis not in named and not open_ended:
            raise SweepError(f"{where}: grid: {reference} takes no {axis!r}. {nearest(axis, named)}")
    needed = [name for name, parameter in named.items() if parameter.default is parameter.empty]
    for name in needed:
        if name not in axes:
            raise SweepError(
                f"{where}: grid: must have an axis for each required argument of {reference}, but lacks {name!r}. "
                f"{nearest(name, axes)}"
            )
    absent = dict.fromkeys(needed)  # None for an axis that only other branches name
    defaults = {n: p.default for n, p in named.items() if p.default is not p.empty}
    return Calling(lambda config: code(**{**absent, **config}), defaults, None if open_ended else frozenset(named))


def _class(made: type, axes: Sequence[str], reference: str, where: str) -> Calling:
    """How to call a class: instantiated once per run, then `train` or `__call__`; either may take the arguments."""
    method = "train" if callable(getattr(made, "train", None)) else "__call__"
    if method == "__call__" and not any("__call__" in vars(base) for base in made.__mro__):
        raise SweepError(
            f"{where}: {reference} must have a method `train` or `__call__`, or every member of "
            "raysweep.experiment.Experiment"
        )
    plain = made.__init__ is object.__init__  # type: ignore[misc]
    start = None if plain else _function(made, axes, reference, where)
    bound = functools.partial(getattr(made, method), None)  # fills `self`
    step = _function(bound, axes, reference, where)
    if start is None and step is None:
        raise SweepError(f"{where}: {reference} must take a `config` or the grid's axes in `__init__` or `{method}`")

    def call(config: dict[str, Any]) -> Any:
        instance = made() if start is None else start.call(config)
        again = getattr(instance, method)
        if step is None:
            return again()
        return again(**config) if step.defaults or step.names is not None else again(config)

    known = start if start is not None else step
    assert known is not None
    return Calling(call, known.defaults, known.names)
