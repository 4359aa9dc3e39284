"""Formulas, which compute derived axes (`size: "width * 4"`): a safe subset of Python's expressions.

A formula has numbers, words in quotes, names of axes, + - * / // % **, comparisons, `and`, `or`, `not`, `a if b else c`
and the functions in `FUNCTIONS`. Nothing is executed but these; numbers stay below 1024 bits.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.grid.values import Value

__all__ = ["FUNCTIONS", "Formula", "is_formula", "parse_formula", "parse_syntax"]

_LONGEST = 1000  # characters of a formula
_DEEPEST = 40  # operations within operations
_NEAR = 0.8  # similarity of a misspelt name to an axis, at most 1
_BITS = 1024  # largest size of a whole number in a computation
_ACTS = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call)
_NAME = re.compile(r"[^\W\d]\w*")
_WORDLIKE = re.compile(r"[\w./-]+")  # `resnet-18` and `data/train` are words, unless they name axes only

Cell = Mapping[str, Value]
_Step = Callable[[Cell], Any]


@dataclass(frozen=True)
class Formula:
    """An expression over axes.

    Attributes:
        text: As written.
        names: The axes it depends on, sorted.
    """

    text: str
    names: tuple[str, ...]
    step: _Step

    def value(self, cell: Cell, where: str) -> Value:
        """The value in a cell that holds at least `names`.

        Raises:
            SweepError: it has no value there (a division by zero, an overflow, the logarithm of 0); the cell is named.
        """
        try:
            found: Value = _checked(self.step(cell))
            return found
        except (ArithmeticError, ValueError, TypeError) as error:
            at = ", ".join(f"{name}={cell[name]!r}" for name in self.names)
            raise SweepError(f"{where}: `{self.text}` must have a value in every cell, but at {at}: {error}") from error


def is_formula(entry: Any, names: Collection[str]) -> bool:
    """Whether a grid's entry (or one of a list) is computed: an expression that acts on axes among `names`.

    Text that would silently become a word counts too, so that `parse_formula` refuses it: an expression of names that
    are nearly axes (`wdth * 4`, `Width * 4`), and a number's attribute (`width.real`). Where a word is as likely
    (`Width-4`, `Data/train`, `width.txt`), it is a word.
    """
    if isinstance(entry, list | tuple):
        return any(isinstance(part, str) and is_formula(part, names) for part in entry)
    if not isinstance(entry, str):
        return False
    mentioned = set(_NAME.findall(entry[:_LONGEST]))
    if not mentioned or not re.search(r"[-+*/%^<>=!&|(.]| (?:if|and|or) |\bnot ", entry):
        return False
    tree = _parsed(entry) if len(entry) <= _LONGEST else None
    if tree is None:
        return not mentioned.isdisjoint(names) and bool(re.search("[*+%^]", entry))
    if not any(isinstance(node, _ACTS) or _is_of_a_number(node, names) for node in ast.walk(tree)):
        return False
    known, unknown = _named(tree, names)
    if _WORDLIKE.fullmatch(entry):
        return bool(known) and all(difflib.get_close_matches(name, names, 1, _NEAR) for name in unknown)
    cased = {name.casefold() for name in names}
    return bool(known) or (
        bool(unknown) and all(n.casefold() in cased or difflib.get_close_matches(n, names, 1, _NEAR) for n in unknown)
    )


def parse_formula(text: str, names: Collection[str] | None, where: str) -> Formula:
    """A formula over axes among `names`; None for a formula over any columns.

    Raises:
        SweepError: an invalid expression, too long or too deep, or one with parts that formulas may not have; the
            message lists those they may have.
    """
    tree = parse_syntax(text, where)
    known, unknown = _named(tree, names)
    if unknown and names is not None:
        name = sorted(unknown)[0]
        raise SweepError(
            f"{where}: a formula may name axes of the grid, but {text!r} names {name!r}. {nearest(name, names)}; "
            f"functions: {', '.join(FUNCTIONS)}"
        )
    try:
        return Formula(text, tuple(sorted(known)), _step(tree, 0))
    except ValueError as error:
        raise SweepError(f"{where}: {error}, but got {text!r}") from error


def parse_syntax(text: str, where: str) -> ast.expr:
    """The syntax of a formula, whatever its parts.

    Raises:
        SweepError: an invalid expression, or one that is too long.
    """
    if len(text) > _LONGEST:
        raise SweepError(f"{where}: a formula may have {_LONGEST:,} characters, but this one has {len(text):,}")
    tree = _parsed(text)
    if tree is None:
        raise SweepError(f'{where}: a formula must be one expression, e.g. "width * 4", but got {text!r}')
    return tree


def _parsed(text: str) -> ast.expr | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `1if x else 2`, `'\d'`
            return ast.parse(text.replace("\n", " ").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_of_a_number(node: ast.AST, names: Collection[str]) -> bool:
    """Whether an expression is `width.real`, rather than a word such as `width.txt`."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            return name in names and hasattr(0, attribute)
    return False


def _named(tree: ast.expr, names: Collection[str] | None) -> tuple[set[str], set[str]]:
    """The names in an expression that are axes (all, without `names`), and others; function names are neither."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    return (found, set()) if names is None else (found & set(names), found - set(names))


def _step(node: ast.expr, depth: int) -> _Step:
    """A function that computes a node's value from a cell.

    Raises:
        ValueError: the node breaks a rule, which the message states.
    """
    if depth > _DEEPEST:
        raise ValueError(f"operations may be nested {_DEEPEST} deep in a formula")
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            _checked(value)
            return lambda cell: value
        case ast.Name(id=name):
            return operator.itemgetter(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            act, one, two = _BINARY[type(op)], _step(left, depth + 1), _step(right, depth + 1)
            return lambda cell: _checked(act(_number(one(cell)), _number(two(cell))))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            sign, one = (-1 if isinstance(op, ast.USub) else 1), _step(operand, depth + 1)
            return lambda cell: sign * _number(one(cell))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            one = _step(operand, depth + 1)
            return lambda cell: not one(cell)
        case ast.BoolOp(op=op, values=parts):
            steps = [_step(part, depth + 1) for part in parts]
            every = all if isinstance(op, ast.And) else any
            return lambda cell: every(step(cell) for step in steps)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            steps = [_step(part, depth + 1) for part in (left, *others)]
            tests = [_COMPARE[type(op)] for op in ops]
            return lambda cell: _compared([step(cell) for step in steps], tests)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            check, yes, no = (_step(part, depth + 1) for part in (test, body, orelse))
            return lambda cell: yes(cell) if check(cell) else no(cell)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function, steps = FUNCTIONS[name], [_step(part, depth + 1) for part in args]
            return lambda cell: _checked(function(*(_number(step(cell)) for step in steps)))
        case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
            raise ValueError(f"the functions of a formula are {', '.join(FUNCTIONS)}; there is no {name!r}")
    culprit: ast.AST = node
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        culprit = node.op
    elif isinstance(node, ast.Compare):
        culprit = next(op for op in node.ops if type(op) not in _COMPARE)
    raise ValueError(
        "a formula may hold numbers, words in quotes, axes, + - * / // % ** (the power), comparisons, and, or, not, "
        f"`a if b else c` and {', '.join(FUNCTIONS)}; {type(culprit).__name__} is not allowed"
    )


def _number(value: Any) -> Any:
    if isinstance(value, str):
        raise TypeError(f"arithmetic takes numbers, but {value!r} is a word")
    return value


def _checked(value: Any) -> Any:
    """A value, checked to be a valid intermediate result."""
    if isinstance(value, complex):
        raise ValueError("a negative number has no such power")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a value must be finite, not {value}")
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise ValueError(f"whole numbers must stay below {_BITS:,} bits, not take {value.bit_length():,}")
    return value


def _compared(values: list[Any], tests: list[Callable[[Any, Any], bool]]) -> bool:
    for value in values[1:]:
        if isinstance(value, str) != isinstance(values[0], str):
            raise TypeError(f"a word cannot be compared with a number: {values[0]!r} and {value!r}")
    return all(test(a, b) for test, a, b in zip(tests, values, values[1:], strict=False))


def _divide(a: float, b: float) -> float:
    """a / b; whole where both are and the division is exact, so that it may size an array."""
    return a // b if b and isinstance(a, int) and isinstance(b, int) and a % b == 0 else a / b


def _power(a: float, b: float) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b > 0 and (a.bit_length() - 1) * b > _BITS:
        raise ValueError(f"whole numbers must stay below {_BITS:,} bits")  # before it is computed
    return a**b


def _round(x: float, digits: int = 0) -> float:
    if not isinstance(digits, int) or abs(digits) > 300:
        raise ValueError(f"round takes digits within 300, not {digits}")
    return round(x, digits) if digits else round(x)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": _round,
    "int": int,
    "float": float,
    "sqrt": math.sqrt,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "ceil": math.ceil,
    "floor": math.floor,
}
