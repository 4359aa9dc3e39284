"""Formulas: equal to Python's own arithmetic, and no more than arithmetic."""

from __future__ import annotations

import builtins
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import SweepError
from raysweep.grid.formula import FUNCTIONS, is_formula, parse_formula

NAMES = ("width", "depth", "lr", "optimizer")
CELL: dict[str, Any] = {"width": 48, "depth": 3, "lr": 0.25, "optimizer": "sgd"}


def value(text: str, **cell: Any) -> Any:
    return parse_formula(text, NAMES, "grid.size").value({**CELL, **cell}, "grid.size")


leaves = st.sampled_from(["width", "depth", "lr", "2", "3", "0.5", "1e-2", "7"])


def _more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
    power = st.builds("({} ** {})".format, inner, st.sampled_from(["2", "0.5", "-1", "depth"]))
    signed = st.builds("-{}".format, inner)
    call = st.builds("{}({})".format, st.sampled_from(sorted({*FUNCTIONS} - {"min", "max"})), inner)
    several = st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner)
    test = st.builds("({} {} {})".format, inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner)
    choice = st.builds("({} if {} else {})".format, inner, st.one_of(test, st.builds("not {}".format, test)), inner)
    return binary | power | signed | call | several | choice


@given(
    st.recursive(leaves, _more, max_leaves=8),
    st.integers(-64, 64),
    st.integers(0, 5),
    st.floats(-10, 10, allow_subnormal=False),
)
def test_a_formula_is_pythons_own_arithmetic(text: str, width: int, depth: int, lr: float) -> None:
    cell = {"width": width, "depth": depth, "lr": lr}
    try:
        wanted = eval(text, {**vars(builtins), **vars(math), **cell})
    except (ArithmeticError, ValueError, TypeError):  # TypeError: of complex numbers
        wanted = None
    if isinstance(wanted, complex) or (isinstance(wanted, float) and not math.isfinite(wanted)):
        wanted = None
    try:
        found = value(text, **cell)
    except SweepError as error:
        found, message = None, str(error)
    if found is None:
        assert wanted is None or any(word in message for word in ("1,024 bits", "finite", "power"))
    else:
        assert wanted is None or math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("width * 4", 192),
        ("width / 2", 24),
        ("width / 5", 9.6),
        ("64 if width > 32 else 32", 64),
        ("0.1 if optimizer == 'sgd' else 1e-3", 0.1),
        ("'wide' if width > 100 or depth > 5 else 'narrow'", "narrow"),
        ("min(width, 4) + max(depth, 7, 2)", 11),
        ("1 < depth <= 3 and not width == 5", True),
        ("ceil(log2(width)) ** 2 % 7", 1),
        ("round(lr * 3, 1)", 0.8),
        ("round(2.5) - int(1.9)", 1),
        ("  width\n  * 2 ", 96),
        ("width // -5", -10),
        ("-width ** 2", -2304),
    ],
)
def test_whole_numbers_stay_whole_and_choices_choose(text: str, found: Any) -> None:
    assert value(text) == found
    assert type(value(text)) is type(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width * deth", ["names 'deth'", "Did you mean 'depth'", "functions: min, max"]),
        ("wdth * 4", ["names 'wdth'", "Did you mean 'width'"]),
        ("Width * 2", ["names 'Width'", "Did you mean 'width'"]),
        ("2 ** LR", ["names 'LR'", "Did you mean 'lr'"]),  # no letter in common
        ("WIDTH*Depth", ["names 'Depth'", "Did you mean 'depth'"]),
        ("log2(Width) + depth", ["names 'Width'", "Did you mean 'width'"]),
        ("64 if Optimizer == 'sgd' else 32", ["names 'Optimizer'", "Did you mean 'optimizer'"]),
        ("width.real", ["Attribute is not allowed"]),
        ("lr.imag", ["Attribute is not allowed"]),
        ("width ^ 2", ["BitXor is not allowed", "** (the power)"]),
        ("width * ", ["must be one expression"]),
        ("width * 4 +", ["must be one expression"]),
        ("width.real * 2", ["Attribute is not allowed"]),
        ("width.__class__ * 2", ["Attribute"]),
        ("__import__('os').system('x') + width", ["Call is not allowed"]),
        ("eval('1') * width", ["there is no 'eval'"]),
        ("width[0] * 2", ["Subscript"]),
        ("[width * 2]", ["List"]),
        ("(lambda: width * 2)()", ["Call is not allowed"]),
        ("[x for x in (1, 2)] + width", ["names 'x'"]),
        ("min(width, key=3) * 2", ["Call is not allowed"]),
        ("min(*width) * 2", ["Starred"]),
        ("width * 2j", ["Constant is not allowed"]),
        ("width * None", ["Constant"]),
        ("width * 1e999", ["must be finite"]),
        ("width << 3", ["LShift"]),
        ("1 if width in (3, 4) else 2", ["In is not allowed"]),
        ("f'{width * 2}'", ["JoinedStr"]),
        ("(width := 3) * 2", ["NamedExpr"]),
        ("width" + " * 2" * 400, ["1,000 characters", "1,605"]),
        ("-" * 60 + "width", ["40 deep"]),
        ("width + " * 60 + "1", ["40 deep"]),
    ],
)
def test_what_is_no_arithmetic_is_refused_with_what_is(text: str, words: list[str]) -> None:
    assert is_formula(text, NAMES)
    with pytest.raises(SweepError) as caught:
        parse_formula(text, NAMES, "grid.size")
    assert str(caught.value).startswith("grid.size: ")
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / (width - 48)", ["division by zero", "at width=48"]),
        ("width % 0", ["by zero"]),
        ("log(width - 48)", ["domain"]),
        ("sqrt(-width)", ["domain"]),
        ("(-width) ** 0.5", ["negative number"]),
        ("exp(width ** 2)", ["range"]),
        ("1e308 * width", ["finite"]),
        ("width ** 10 ** 10", ["1,024 bits"]),
        ("width ** width ** width", ["1,024 bits"]),
        ("10 ** 200 * 10 ** 200 * width", ["1,024 bits"]),
        ("round(width, -10 ** 9)", ["digits within 300"]),
        ("optimizer * 1000", ["'sgd' is a word"]),
        ("optimizer % width", ["'sgd' is a word"]),
        ("optimizer < width", ["a word cannot be compared"]),
        ("optimizer == 3", ["a word cannot be compared"]),
        ("abs(optimizer)", ["'sgd' is a word"]),
        ("max(width)", ["iterable"]),
        ("sqrt(width, 2)", ["argument"]),
        ("2 ** (10 ** 300) * width", ["1,024 bits"]),
        ("2.0 ** (10 ** 300) * width", ["at width=48"]),
    ],
)
def test_a_formula_without_a_value_names_its_cell(text: str, words: list[str]) -> None:
    start = time.perf_counter()
    with pytest.raises(SweepError) as caught:
        value(text)
    assert time.perf_counter() - start < 1
    for word in ("grid.size: ", *words):
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "entry",
    ["width", "4 * 8", "resnet-18", "gpt-2", "data/train", "width-first", "depth/first.txt", "a - b", "soft and hard",
     "hard", "", " ", "2026-11", "optimizer.sgd", "width.txt", "don't", 3, 1.5, True, None, {"geom": [1, 2, 3]},
     ["resnet-18", 3], "\ud800 * 2", "-" * 3000, "Width", "Width-2", "Width/first", "LR.txt", "width.py", "Real.width",
     "SGD + momentum", "Width + Dropout", "Soft and Width", "width.", ".width", "v1.2", "U.S. data", "e.g. lr"],
)  # fmt: skip
def test_words_and_numbers_are_no_formulas(entry: Any) -> None:
    assert not is_formula(entry, NAMES)


@pytest.mark.parametrize(
    "entry",
    ["width*4", "width-1", "-width", "width/depth", "width/deth", "log2(width)", "width > 3", "not width",
     ["x", "width * 2"], ("width+1",), "min(wdth, 3)"],
)  # fmt: skip
def test_what_acts_on_an_axis_is_a_formula(entry: Any) -> None:
    assert is_formula(entry, NAMES)


@pytest.mark.parametrize(
    "text", ["(" * 900 + "width", "-" * 999, "~" * 900 + "width", "width+" * 160 + "1", "'\\d' + f'{width}'"]
)
def test_nothing_breaks_the_parser(text: str) -> None:
    with pytest.raises(SweepError, match=r"^here: "):
        parse_formula(text, NAMES, "here")
