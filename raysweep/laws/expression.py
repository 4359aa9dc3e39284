"""Expressions of a user's own law: a formula's syntax as a function of scales and parameters, with its derivatives.

The language is that of derived axes (`grid.formula`) without what has no derivative: numbers, names, + - * / **, and
the functions in `FUNCTIONS`. Derivatives are exact (forward differentiation).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from raysweep.errors import SweepError
from raysweep.grid.formula import parse_formula, parse_syntax
from raysweep.laws.refusal import RequestError
from raysweep.laws.terms import Array

__all__ = ["FUNCTIONS", "Expression", "names_of", "parsed"]

Dual: TypeAlias = "tuple[Array, dict[int, Array]]"  # a value, and its derivative in each parameter that it depends on
_Node: TypeAlias = Callable[[Array, Array], Dual]

FUNCTIONS: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "exp": (np.exp, lambda x, y: y),
    "log": (np.log, lambda x, y: 1 / x),
    "log2": (np.log2, lambda x, y: 1 / (x * math.log(2))),
    "log10": (np.log10, lambda x, y: 1 / (x * math.log(10))),
    "sqrt": (np.sqrt, lambda x, y: 0.5 / y),
}


@dataclass(frozen=True)
class Expression:
    """A formula of scales and parameters.

    Attributes:
        text: As written.
        tree: Its syntax.
        axes: Names of the scales, in the order of every array of scales.
        parameters: Names of the parameters, in the order of every array of values.
        linear: Parameters that the formula is linear in, jointly.
        alone: Those of them that are a term by themselves, such as a floor, in a sum without a minus.
    """

    text: str
    tree: ast.expr
    axes: tuple[str, ...]
    parameters: tuple[str, ...]
    linear: tuple[str, ...]
    alone: tuple[str, ...]
    node: _Node

    def value(self, u: Array, values: Array) -> tuple[Array, list[Array]]:
        """y, [..., points], of any sign, and its derivative in each parameter (each broadcasts to it); NaN where the
        formula has no value.

        Args:
            u: Log scales, [..., axes, points].
            values: Parameter values, [..., parameters].
        """
        y, slopes = self.node(u, values)
        shape = np.broadcast_shapes(u.shape[:-2], values.shape[:-1]) + u.shape[-1:]
        return np.broadcast_to(y, shape), [slopes.get(j, np.zeros(1)) for j in range(len(self.parameters))]


def names_of(text: str) -> tuple[str, ...]:
    """The names in a formula, in the order in which they first appear.

    Raises:
        RequestError: It is no formula, or has a part that a law may not have.
    """
    return tuple(dict.fromkeys(node.id for node in _ordered(_tree(text)) if isinstance(node, ast.Name)))


def parsed(text: str, axes: Sequence[str], first: Sequence[str] = ()) -> Expression:
    """A formula whose names are `axes` or else parameters.

    Args:
        first: Parameters that are preferred as the linear ones where a product has several.

    Raises:
        RequestError: It is no formula, or has a part that a law may not have.
    """
    tree = _tree(text)
    parameters = tuple(name for name in names_of(text) if name not in axes)
    linear, alone = _linear(tree, parameters, first)
    node = _compiled(tree, {name: i for i, name in enumerate(axes)}, {name: j for j, name in enumerate(parameters)})
    return Expression(text, tree, tuple(axes), parameters, linear, alone, node)


def _tree(text: str) -> ast.expr:
    try:
        tree = parse_syntax(text, "a law")
        culprit = next(_foreign(tree), None)
        if culprit is not None:
            hint = "Write a power as x**-a." if culprit == "^" else "Write it without."
            raise RequestError(
                "formula",
                f"a law may hold numbers, names, + - * / ** (the power) and {', '.join(FUNCTIONS)}, which have "
                f"derivatives, but {text!r} has {culprit}. {hint}",
            )
        parse_formula(text, None, "a law")  # what holds of every formula, such as its depth
    except SweepError as error:
        raise RequestError("formula", f"{str(error).removeprefix('a law: ')}. Correct it.") from error
    return tree


def _foreign(tree: ast.expr) -> Iterator[str]:
    """The parts of a formula that a law may not have."""
    for node in _ordered(tree):
        match node:
            case ast.Constant(value=bool() | str() | None as value):
                yield repr(value)
            case ast.Call(func=ast.Name(id=name), args=[_], keywords=[]) if name in FUNCTIONS:
                pass
            case ast.Call(func=ast.Name(id=name)):
                yield f"{name} of other than one argument" if name in FUNCTIONS else f"the function {name}"
            case ast.BitXor():
                yield "^"
            case ast.Constant(value=int() | float()) | ast.Name() | ast.expr_context() | ast.BinOp() | ast.UnaryOp():
                pass
            case ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow() | ast.USub() | ast.UAdd():
                pass
            case _:
                yield type(node).__name__


def _ordered(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree in the order of its text, without the names of functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.Call) and child is node.func):
            yield from _ordered(child)


def _linear(tree: ast.expr, parameters: Sequence[str], first: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parameters that appear once, as a factor of a term of the sum, at most one of each term; and those that are a
    term by themselves, in a sum without a minus."""
    all_names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    linear, alone = [], []
    terms = list(_terms(tree, True))
    added = all(positive for _, positive in terms)
    for term, _ in terms:
        found = [name for name in _factors(term) if name in parameters and all_names.count(name) == 1]
        found.sort(key=lambda name: name not in first)
        linear += found[:1]
        alone += found[:1] if isinstance(term, ast.Name) and added else []
    return tuple(name for name in parameters if name in linear), tuple(alone)


def _terms(node: ast.expr, positive: bool) -> Iterator[tuple[ast.expr, bool]]:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            yield from _terms(left, positive)
            yield from _terms(right, positive == isinstance(op, ast.Add))
        case ast.UnaryOp(op=op, operand=operand):
            yield from _terms(operand, positive == isinstance(op, ast.UAdd))
        case _:
            yield node, positive


def _factors(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            yield from _factors(left)
            yield from _factors(right)
        case ast.BinOp(left=left, op=ast.Div()):
            yield from _factors(left)
        case ast.UnaryOp(operand=operand):
            yield from _factors(operand)
        case ast.Name(id=name):
            yield name


def _compiled(node: ast.expr, axes: Mapping[str, int], parameters: Mapping[str, int]) -> _Node:
    match node:
        case ast.Constant(value=int() | float() as number):
            constant = np.array([float(number)])
            return lambda u, values: (constant, {})
        case ast.Name(id=name) if name in axes:
            i = axes[name]
            return lambda u, values: (np.exp(u[..., i, :]), {})
        case ast.Name(id=name):
            j, one = parameters[name], np.ones(1)
            return lambda u, values: (values[..., j, None], {j: one})
        case ast.UnaryOp(op=op, operand=operand):
            inner = _compiled(operand, axes, parameters)
            return _negated(inner) if isinstance(op, ast.USub) else inner
        case ast.Call(func=ast.Name(id="log"), args=[ast.Name(id=name)]) if name in axes:
            i = axes[name]
            return lambda u, values: (u[..., i, :], {})
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _applied(*FUNCTIONS[name], _compiled(argument, axes, parameters))
        case ast.BinOp(left=left, op=op, right=right):
            return _joined(_RULES[type(op)], _compiled(left, axes, parameters), _compiled(right, axes, parameters))
    raise AssertionError(node)  # `_tree` has refused it


def _negated(inner: _Node) -> _Node:
    def node(u: Array, values: Array) -> Dual:
        y, slopes = inner(u, values)
        return -y, {j: -slope for j, slope in slopes.items()}

    return node


def _applied(function: Callable[[Array], Array], derivative: Callable[[Array, Array], Array], inner: _Node) -> _Node:
    def node(u: Array, values: Array) -> Dual:
        x, slopes = inner(u, values)
        y = function(x)
        outer = derivative(x, y) if slopes else x
        return y, {j: outer * slope for j, slope in slopes.items()}

    return node


def _joined(rule: _Rule, left: _Node, right: _Node) -> _Node:
    def node(u: Array, values: Array) -> Dual:
        (a, mine), (b, others) = left(u, values), right(u, values)
        y, by_a, by_b = rule(a, b, bool(mine), bool(others))
        slopes = {j: by_a * slope for j, slope in mine.items()}
        for j, slope in others.items():
            slopes[j] = slopes[j] + by_b * slope if j in slopes else by_b * slope
        return y, slopes

    return node


_Rule: TypeAlias = Callable[[Array, Array, bool, bool], tuple[Array, "Array | float", "Array | float"]]


def _power(a: Array, b: Array, moving: bool, bending: bool) -> tuple[Array, Array | float, Array | float]:
    """a ** b, and its derivatives in a and in b where these are asked for."""
    y = a**b
    return y, b * a ** (b - 1) if moving else 0.0, y * np.log(a) if bending else 0.0


_RULES: Mapping[type[ast.operator], _Rule] = {
    ast.Add: lambda a, b, moving, bending: (a + b, 1.0, 1.0),
    ast.Sub: lambda a, b, moving, bending: (a - b, 1.0, -1.0),
    ast.Mult: lambda a, b, moving, bending: (a * b, b, a),
    ast.Div: lambda a, b, moving, bending: (a / b, 1 / b, -a / (b * b)),
    ast.Pow: _power,
}
