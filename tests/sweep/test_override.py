"""The language of --set: what is a range, what is a word, and what is refused because it could be either."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis, axis_values
from raysweep.sweep.override import read_overrides

NUMBER = Axis("a", int, "lane")


def entry(values: str, old: Any = None) -> Any:
    return read_overrides([f"a={values}"], {"a": old})["a"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("64", 64),
        ("64,128", [64, 128]),
        ("64,", [64]),
        ("[64, 128]", [64, 128]),
        ("[]", []),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
        ("[1, 2],[3]", [[1, 2], [3]]),
        ("{a: 1},{b: 2}", [{"a": 1}, {"b": 2}]),
        ("1e-3,0x20", [1e-3, 32]),
        ("null", None),
        ("0..3", {"range": [0, 4]}),
        (" 0 .. 3 ", {"range": [0, 4]}),
        ("-3..-1", {"range": [-3, 0]}),
        ("3..3", {"range": [3, 4]}),
        ("0..10..2", {"range": [0, 11, 2]}),
        ("3..0", {"range": [3, -1, -1]}),
        ("10..0..2", {"range": [10, -1, -2]}),
        ("10..0..-2", {"range": [10, -1, -2]}),
        ("0..1_000", {"range": [0, 1001]}),
        ("0..1e3..1e2", {"range": [0, 1001, 100]}),
        ("0..1..0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0..1..0.4", [0, 0.4, 0.8]),
        ("0..0.3..0.1", [0.0, 0.1, 0.2, 0.3]),
        ("0..3,7", [0, 1, 2, 3, 7]),
        ("[0..3, 7]", [0, 1, 2, 3, 7]),
        ("range(5)", {"range": 5}),
        ("range(0, 10, 2)", {"range": [0, 10, 2]}),
        ("log2(64, 1024)", {"log2": [64, 1024]}),
        ("geom(64, 8192, 8)", {"geom": [64, 8192, 8]}),
        ("geom: [64, 8192, 8]", {"geom": [64, 8192, 8]}),
        ("geom=64,8192,8", {"geom": [64, 8192, 8]}),
        ("geom=[64, 8192, 8]", {"geom": [64, 8192, 8]}),
        ("geom: 64, 8192, 8", {"geom": [64, 8192, 8]}),
        ("linear(0, 1, 11)", {"linear": [0, 1, 11]}),
        ("{geom: [64, 8192, 8]}", {"geom": [64, 8192, 8]}),
    ],
)
def test_values_and_ranges_are_understood(values: str, found: Any) -> None:
    assert entry(values) == found


@pytest.mark.parametrize(
    "text",
    ["v1..v2", "../data", "..", "a..b", "0..n", "0..3.txt", "file.v1..2", "1.2.3", "resnet-18", "resnet(18)", "a:b",
     "width * 4", "min(width, 4)", "log2(width)", "don't", "'0:4'", '"0-3"', "'0..3'", "'1,000'", "a)b"],
)  # fmt: skip
def test_what_cannot_be_a_range_stays_a_word(text: str) -> None:
    assert entry(text) == text.strip("'\"")


@pytest.mark.parametrize(
    "text",
    ["0:4", "0:10:2", "1:30", "0-3",
     "1..", "..5", "0...4", "0....4", "0..3..", "0 to 4", "0->4", "0 -> 4", "0~4", "0\u20134",
     "1 2", "3+", "5-", ":3", "5:"],
)  # fmt: skip
def test_half_a_range_is_refused_with_a_hint_unless_the_axis_has_words(text: str) -> None:
    for values in (text, f"7,{text}"):
        with pytest.raises(SweepError) as caught:
            entry(values, [1, 2])
        for word in (f"--set a={values}", "start..end", "0..10..2", repr(text), "quotes"):
            assert word in str(caught.value)
    if ":" not in text:  # YAML has its own opinion on those
        assert entry(text, ["x", "y"]) == text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("1,000", ["looks like one number", "1000 or 1_000"]),
        ("-1,000,000", ["-1000000 or -1_000_000"]),
        ("1,024", ["1024 or 1_024"]),
        ("0..1.5", ["a step between fractions"]),
        ("0..1..0", ["leads from start to end"]),
        ("0..3..-1", ["leads from start to end"]),
        ("01..10", ["without leading zeros", "'01'"]),
        ("0..1e400", ["1.8e308"]),
        ("0..99999999999999999999", ["64 bits"]),
        ("0..1..1e-9", ["100,000", "1,000,000,001"]),
        ("0..99999999,3", ["100,000"]),
        ("range(3),7", ["stand alone", "'range(3)'"]),
        ("geom(64, x)", ["geom must have numbers", "64, x"]),
        ("linspace(0, 1, 11)", ["must be one of", "try linear"]),
        ("np.arange(5)", ["try range"]),
        ("goem(1, 2, 3)", ["try geom"]),
        ("64,,128", ["one is missing"]),
        ("[1", ["valid YAML"]),
        ("016", ["16 in YAML 1.2"]),
        ("hard,no", ["no is false", "column 8"]),
        ("[1, on]", ["on is true", "column 7"]),
    ],
)
def test_what_is_unclear_is_refused(values: str, words: list[str]) -> None:
    with pytest.raises(SweepError) as caught:
        entry(values)
    for word in (f"--set a={values}", *words):
        assert word in str(caught.value), str(caught.value)


def test_an_axis_is_given_once_and_both_assignments_are_named() -> None:
    assert read_overrides(["a=1", "b=2"], {}) == {"a": 1, "b": 2}
    with pytest.raises(SweepError, match="'a=1' and ' a = 2'"):
        read_overrides(["a=1", "b=2", " a = 2"], {})
    for text in ("a", "=1", " =1", "a=", "a= "):
        with pytest.raises(SweepError, match="axis=values"):
            read_overrides([text], {})


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 9))
def test_a_range_has_the_values_of_a_shell(low: int, high: int, step: int) -> None:
    counts = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
    assert axis_values(NUMBER, entry(f"{low}..{high}..{step}"), "here") == tuple(counts)
    assert axis_values(NUMBER, entry(f"{low}..{high}"), "here") == tuple(
        range(low, high + 1) if low <= high else range(low, high - 1, -1)
    )


@pytest.mark.parametrize(
    "piece", ["1", ":", ".", " ", ": ", ".. ", "1 ", "1:", "a(", "'", "[", "-", "1,000,", "_", "0..0,"]
)
def test_reading_takes_linear_time(piece: str) -> None:
    start = time.perf_counter()
    with pytest.raises(SweepError):
        entry(piece * 5000 + "\0")
    assert time.perf_counter() - start < 5
