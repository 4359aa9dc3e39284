"""A law of one's own: a formula of scales and parameters, fitted, resampled and held out as the built-in laws are.

Its scales are not divided by typical ones, since nothing says how its parameters would follow: the mesh of the search
takes its values from the data instead.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

import numpy as np

from raysweep.errors import nearest
from raysweep.laws.constrained import constrained
from raysweep.laws.constraint import Constraints
from raysweep.laws.definition import Array, Evaluate, Implicit, Law, Parameter
from raysweep.laws.expression import FUNCTIONS, Expression, names_of, parsed
from raysweep.laws.products import product as powers
from raysweep.laws.products import product_and_floor
from raysweep.laws.refusal import RequestError
from raysweep.laws.search import Search, best, solved

__all__ = ["FORMULA", "log_of", "own_law"]

FORMULA = "formula"  # what the law is called
_MOST = 12  # parameters
_MOST_AXES = 8
_MESH = 1000  # points of the mesh, at most
_STARTS = 3
_LEAST, _GREATEST = 1e-300, 1e300  # what a formula without a positive value counts as
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_RATES = (0.05, 0.2, 0.5, 1.0, 2.5)
_FACTORS = (1e-3, 0.1, 1.0, 30.0, 1e4)
_RIVALS = {1: ("power", "power+floor", "shifted"), 2: ("chinchilla", "kaplan")}
_RESERVED = ("y", *FUNCTIONS)


@lru_cache(maxsize=256)
def own_law(text: str, columns: tuple[str, ...], positive: tuple[str, ...] = ()) -> Law:
    """The law y = `text`.

    Args:
        text: A formula that names the scales, by their columns or as `x` (`x1`, `x2`, ... of several); every other name
            in it is a parameter. A parameter that is a term by itself is a floor, at least 0 as in built-in laws.
        columns: The columns of the scales.
        positive: Parameters above 0, searched and given an interval on the log scale.

    Raises:
        RequestError: It is no such formula.
    """
    if not 0 < len(columns) <= _MOST_AXES:
        raise RequestError("x", f"must name 1 to {_MOST_AXES} columns, but got {len(columns)}. Name fewer.")
    found = names_of(text)
    axes = tuple(_axis(text, column, i, columns, found) for i, column in enumerate(columns))
    form = parsed(text, axes, positive)
    _check(form, positive)
    parameters = tuple(
        Parameter(
            name,
            "1",
            0.0 if name in positive or name in form.alone else -math.inf,
            math.inf,
            log=name in positive,
        )
        for name in form.parameters
    )
    linear = tuple(j for j, name in enumerate(form.parameters) if name in form.linear)
    search, blocks = _search(form, parameters, linear)
    law = Law(
        name=FORMULA,
        formula=f"y = {text}",
        axes=axes,
        amplitudes=(),
        exponents=parameters,
        fewest_scales=len(parameters) + 1,
        source="the user's own",
        when="",
        levels=(2,) * len(axes),
        centred=(False,) * len(axes),
        levelled=False,
        starts=min(blocks, _STARTS),
        implicit=Implicit(log_of(form.value), _same, search, blocks, linear, linear, form.value),
        rivals=_RIVALS.get(len(axes)) or (product_and_floor(len(axes)), powers(len(axes))),
        proved=False,
    )
    floors = [p.name for p in parameters if p.name in form.alone and not p.log]
    return _with_rival(law, floors[0]) if len(floors) == 1 and len(parameters) > 1 else law


def _with_rival(law: Law, floor: str) -> Law:
    """The law with itself without its floor as a rival."""
    without = replace(constrained(law, Constraints(fix=((floor, 0.0),))), rivals=())
    return replace(law, rivals=(without, *law.rivals), contains=(without.name,), floorless=without.name)


def log_of(value: Evaluate) -> Evaluate:
    """log y and its derivatives from those of y. Where y is not positive it counts as next to nothing, which no fit
    is near to, so that points of no weight cannot spoil a fit.
    """

    def evaluate(u: Array, values: Array) -> tuple[Array, list[Array]]:
        with np.errstate(all="ignore"):
            y, slopes = value(u, values)
            sound = (y > _LEAST) & (y < _GREATEST)
            y = np.where(sound, y, _LEAST)
            rows = [np.where(sound, slope / y, 0.0) for slope in slopes]
            return np.log(y), [np.where(np.isfinite(row), row, 0.0) for row in rows]

    return evaluate


def _same(values: Array, u0: Array, t0: Array) -> Array:
    return np.array(np.broadcast_to(values, (*np.broadcast_shapes(values.shape[:-1], t0.shape), values.shape[-1])))


def _axis(text: str, column: str, i: int, columns: Sequence[str], found: Sequence[str]) -> str:
    short = "x" if len(columns) == 1 else f"x{i + 1}"
    name = column if column in found else short
    if name not in found:
        raise RequestError(
            FORMULA,
            f"must name every scale, as its column or as {short}, but {text!r} does not name {column!r}. "
            f"{nearest(column, found)}" + ("" if column.isidentifier() else f". Write {short} for it"),
        )
    return name


def _check(form: Expression, positive: Sequence[str]) -> None:
    names = form.parameters
    for name in names:
        if name in _RESERVED:
            raise RequestError(
                FORMULA,
                f"a parameter may not be called {', '.join(_RESERVED)}, but {form.text!r} has {name!r}. Rename it.",
            )
    if not 0 < len(names) <= _MOST:
        raise RequestError(
            FORMULA,
            f"must have 1 to {_MOST} parameters, names that are no scale, but {form.text!r} has {len(names)}"
            f"{': ' + ', '.join(names) if names else ''}. Name {'one' if not names else 'fewer'}.",
        )
    for name in positive:
        if name not in names:
            raise RequestError(
                "positive", f"must name parameters of {form.text!r}, but got {name!r}. {nearest(name, names)}"
            )


def _search(form: Expression, parameters: Sequence[Parameter], linear: tuple[int, ...]) -> tuple[Search, int]:
    """The search of starts, and how many it finds: the best for each value that it tries of the last parameter."""
    others = [j for j in range(len(parameters)) if j not in linear]
    roles = _roles(form)
    counts = [len(_values(parameters[j], roles.get(parameters[j].name, "rate"), np.zeros(1))) for j in others]
    index = np.array(list(product(*map(range, counts))), dtype=np.int64)
    if len(index) > _MESH:
        index = index[np.sort(np.random.default_rng(0).choice(len(index), _MESH, replace=False))]
    last = index[:, -1] if others else np.zeros(1, dtype=np.int64)

    def search(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
        there = np.broadcast_to((w > 0).any(axis=0), u.shape[-1:])
        spread = np.quantile(u[..., there], _QUANTILES, axis=(0, 2))  # [quantiles, axes]
        mesh = np.ones((len(index), len(parameters)))
        for column, j in enumerate(others):
            role = roles.get(parameters[j].name, "rate")
            axis = form.axes.index(role.partition(" ")[2]) if " " in role else 0
            mesh[:, j] = np.array(_values(parameters[j], role, spread[:, axis]))[index[:, column]]
        return best(*solved(form.value, parameters, linear, mesh[None], u, t, w), last.tolist())

    return search, int(last.max()) + 1


def _values(parameter: Parameter, role: str, spread: Array) -> list[float]:
    """Values from which the search of a parameter starts, by what it does in the formula."""
    kind = role.partition(" ")[0]
    middle = np.resize(spread, len(_QUANTILES))
    if kind == "scale":
        tried = np.exp(middle)
    elif kind == "inverse":
        tried = np.exp(-middle)
    elif kind == "log":
        tried = middle
    else:
        tried = np.array(_FACTORS if kind == "factor" else _RATES)
    if kind in ("factor", "rate") and not parameter.log:
        tried = np.concatenate([tried, -tried])
    return [float(value) for value in np.clip(tried, parameter.low, parameter.high)]


def _roles(form: Expression) -> dict[str, str]:
    """What each parameter that is not linear does: `scale x` beside x in a sum, a difference or a quotient, `log x`
    beside its logarithm in a sum or a difference, `inverse x` as x's factor, `factor` of something else; else a rate.
    """
    roles: dict[str, str] = {}
    for node in ast.walk(form.tree):
        if not isinstance(node, ast.BinOp):
            continue
        for one, other in ((node.left, node.right), (node.right, node.left)):
            name = one.id if isinstance(one, ast.Name) and one.id in form.parameters else None
            if name is not None and (role := _role(node.op, other, form)):
                roles.setdefault(name, role)
    return roles


def _role(op: ast.operator, other: ast.expr, form: Expression) -> str | None:
    logged = isinstance(other, ast.Call)
    argument = other.args[0] if isinstance(other, ast.Call) and other.args else other
    axis = argument.id if isinstance(argument, ast.Name) and argument.id in form.axes else None
    match op:
        case ast.Add() | ast.Sub() if axis:
            return f"log {axis}" if logged else f"scale {axis}"
        case ast.Div() if axis and not logged:
            return f"scale {axis}"
        case ast.Mult() if axis and not logged:
            return f"inverse {axis}"
        case ast.Mult() if not axis and any(_scales(other, form)):
            return "factor"
    return None


def _scales(node: ast.expr, form: Expression) -> Iterator[str]:
    return (one.id for one in ast.walk(node) if isinstance(one, ast.Name) and one.id in form.axes)
