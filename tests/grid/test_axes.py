"""Axes: what a value may be, which points a range stands for, and what every refusal says."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import SweepError, nearest
from raysweep.grid.axes import Axis, KindBy, axis_values, index_axes
from raysweep.grid.values import canonical

INT = Axis("n", int, "lane", 1, low=0, high=10**9, unit="items")
FLOAT = Axis("lr", float, "lane", 0.1)
WORD = Axis("labels", str, "lane", "hard", choices=("hard", "soft"))
FREE = Axis("note", str, "lane", "")
FLAG = Axis("bias", bool, "shape", True)


@pytest.mark.parametrize(
    ("axis", "spec", "expected"),
    [
        (INT, 7, (7,)),
        (INT, [3, 1, 3, 2], (3, 1, 2)),
        (INT, {"geom": [1, 1000, 4]}, (1, 10, 100, 1000)),
        (INT, {"geom": [64, 8192, 8]}, (64, 128, 256, 512, 1024, 2048, 4096, 8192)),
        (INT, {"geom": [1, 8, 7]}, (1, 2, 3, 4, 6, 8)),  # 1, 1.41, 2, 2.83, 4, 5.66, 8 rounded; 1 is met twice
        (INT, {"geom": [1, 6.25, 3]}, (1, 2, 6)),  # 2.5 exactly: half to even, whatever pow's last bit says
        (INT, {"geom": [5, 5, 1]}, (5,)),
        (INT, {"log2": [1, 100]}, (1, 2, 4, 8, 16, 32, 64)),
        (INT, {"log2": [3, 24]}, (3, 6, 12, 24)),
        (INT, {"linear": [0, 10, 3]}, (0, 5, 10)),
        (INT, {"linear": [0, 2, 9]}, (0, 1, 2)),
        (INT, {"range": 3}, (0, 1, 2)),
        (INT, {"range": [2, 5]}, (2, 3, 4)),
        (INT, {"range": [6, 0, -2]}, (6, 4, 2)),
        (FLOAT, {"geom": [1e-3, 1.0, 4]}, (1e-3, 1e-2, 1e-1, 1.0)),
        (FLOAT, {"linear": [0, 1, 5]}, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (FLOAT, {"linear": [-0.3, 0.3, 3]}, (-0.3, 0.0, 0.3)),
        (FLOAT, {"log2": [0.125, 1]}, (0.125, 0.25, 0.5, 1.0)),
        (FLOAT, [1, "1e-3", 0.1 + 0.2, 0.3], (1.0, 0.001, 0.3)),
        (FLOAT, {"geom": [1e-300, 1e300, 3]}, (1e-300, 1.0, 1e300)),  # high / low is beyond a float
        (INT, ["16", 16.0, 1e3], (16, 1000)),
        (WORD, ["soft", "hard"], ("soft", "hard")),
        (FREE, [1, 0.5], ("1", "0.5")),
        (FLAG, [True, False], (True, False)),
    ],
)
def test_a_spec_stands_for_these_values(axis, spec, expected):
    found = axis_values(axis, spec, "here")
    assert found == expected
    assert all(type(v) is axis.type for v in found)


def test_log2_over_the_whole_float_range_has_a_point_per_octave():
    found = axis_values(FLOAT, {"log2": [2.0**-1000, 2.0**1000]}, "here")
    assert len(found) == 2001
    assert found[0] == canonical(2.0**-1000)


def test_whole_numbers_beyond_2_to_53_stay_exact():
    seed = Axis("seed", int, "lane", 0)
    big = 2**62 - 1
    assert axis_values(seed, [big, str(big)], "here") == (big,)
    assert axis_values(seed, {"range": [big - 2, big]}, "here") == (big - 2, big - 1)


@pytest.mark.parametrize(
    ("axis", "spec", "words"),
    [
        (INT, 1.5, ["n must be an integer", "items", "1.5"]),
        (INT, "many", ["n must be an integer", "'many'"]),
        (INT, True, ["an integer", "True"]),
        (INT, None, ["an integer", "None"]),
        (INT, [[1]], ["an integer", "[1]"]),
        (INT, -1, ["[0, 1e+09] items", "-1"]),
        (INT, 10**10, ["[0, 1e+09]", "10000000000"]),
        (FLOAT, math.nan, ["a number", "nan"]),
        (FLOAT, math.inf, ["a number", "inf"]),
        (FLOAT, "1e999", ["a number", "1e999"]),
        (FLOAT, 10**400, ["a number"]),
        (FLAG, 1, ["true or false", "1"]),
        (FLAG, "yes", ["true or false", "'yes'"]),
        (WORD, "sofd", ["one of hard, soft", "'sofd'", "Did you mean 'soft'?"]),
        (FREE, False, ["a word", "False"]),
        (INT, [], ["at least one value", "[]"]),
        (INT, {"range": 0}, ["at least one value", "{'range': 0}"]),
        (INT, {"goem": [1, 2, 3]}, ["geom, log2, linear, range", "'goem'", "Did you mean 'geom'?"]),
        (INT, {}, ["geom, log2, linear, range", "{}"]),
        (INT, {"geom": [1, 2, 3], "log2": [1, 2]}, ["exactly one of", "log2"]),
        (INT, {"geom": [1, 2]}, ["geom takes [low, high, n]", "[1, 2]"]),
        (INT, {"log2": [1, 2, 3]}, ["log2 takes [low, high]", "[1, 2, 3]"]),
        (INT, {"range": [1, 2, 3, 4]}, ["range takes n, [start, stop]", "[1, 2, 3, 4]"]),
        (INT, {"range": 2.5}, ["range takes whole numbers", "2.5"]),
        (INT, {"range": [0, 5, 0]}, ["step other than 0", "[0, 5, 0]"]),
        (INT, {"range": 10**12}, ["at most 1,000,000 values", "1000000000000"]),
        (INT, {"geom": [0, 8, 3]}, ["`0 < low <= high`", "low=0, high=8"]),
        (INT, {"log2": [8, 4]}, ["`0 < low <= high`", "low=8, high=4"]),
        (INT, {"linear": [8, 4, 3]}, ["`low <= high`", "low=8, high=4"]),
        (INT, {"linear": [0, 4, 1]}, ["n in [2, 1,000,000]", "but got 1"]),
        (INT, {"linear": [0, 4, 2.5]}, ["n in [2, 1,000,000]", "but got 2.5"]),
        (INT, {"geom": [1, 4, 10**9]}, ["n in [2, 1,000,000]", "1e+09"]),
        (INT, {"geom": [1, "x", 3]}, ["geom takes [low, high, n]", "'x'"]),
        (WORD, {"range": 3}, ["takes a list, not a range", "{'range': 3}"]),
    ],
)
def test_a_refusal_names_place_rule_and_value(axis, spec, words):
    with pytest.raises(SweepError) as caught:
        axis_values(axis, spec, "grid.here")
    for word in ["grid.here", *words]:
        assert word in str(caught.value)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(2, 200), st.sampled_from(["geom", "linear"]))
@settings(max_examples=100, deadline=None)
def test_integer_ranges_rise_strictly_between_their_exact_ends(low, extra, n, name):
    found = axis_values(INT, {name: [low, low + extra, n]}, "here")
    assert found[0] == low
    assert found[-1] == low + extra
    assert all(a < b for a, b in itertools.pairwise(found))
    assert len(found) <= n


@given(st.floats(1e-8, 1e8), st.floats(1, 1e8), st.integers(3, 50))
@settings(max_examples=100, deadline=None)
def test_geom_has_equal_ratios_and_linear_equal_differences(low, ratio, n):
    geom = axis_values(FLOAT, {"geom": [low, low * (1 + ratio), n]}, "here")
    steps = [b / a for a, b in itertools.pairwise(geom)]
    assert len(geom) == n
    assert max(steps) == pytest.approx(min(steps), rel=1e-10)
    linear = axis_values(FLOAT, {"linear": [low, low + ratio, n]}, "here")
    gaps = [b - a for a, b in itertools.pairwise(linear)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3, abs=1e-10 * (low + ratio))


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_canonical_is_idempotent_and_within_12_digits(x):
    once = canonical(x)
    assert canonical(once) == once
    assert once == pytest.approx(x, rel=1e-11) if x else once == 0
    assert math.copysign(1, once) == 1 or once < 0  # no -0.0


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([FLOAT, FLOAT], ["distinct", "lr"]),
        ([Axis("a", list, "lane", 1)], ["axis a", "bool, int, float, str", "list"]),
        ([Axis("a", int, "stacked", 1)], ["axis a", "shape", "'stacked'"]),
        ([Axis("a", int, "lane", 0.5)], ["axis a: default", "0.5"]),
        ([Axis("a", int, "lane", 5, high=4)], ["axis a: default", "[-inf, 4]", "5"]),
        ([Axis("seed", int, "lane", 0), Axis("b", int, "lane", follows="sed")], ["'sed'", "Did you mean 'seed'?"]),
        ([Axis("t", int, KindBy("schedul", {}, "lane"), 1), WORD], ["axis t", "'schedul'"]),
        ([Axis("a", str, KindBy("t", {}, "lane"), ""), Axis("t", int, KindBy("a", {}, "lane"), 1)], ["must always be"]),
        (
            [Axis("a", str, "observed", ""), Axis("t", int, KindBy("a", {}, "lane"), 1)],
            ["must always be shape or lane"],
        ),
        ([Axis("a", int, "observed", 1), Axis("b", int, "lane", follows="a")], ["axis b follows a", "observed"]),
        ([Axis("a", float, "lane", 1.0), Axis("b", int, "lane", follows="a")], ["axis b follows a", "its type"]),
        ([INT, Axis("b", int, "lane", 3, follows="n")], ["axis b follows n", "no default"]),
    ],
)
def test_axes_that_make_no_sense_together_are_refused(axes, words):
    with pytest.raises(SweepError) as caught:
        index_axes(axes)
    for word in words:
        assert word in str(caught.value)


def test_a_default_is_canonical_like_the_values_it_is_compared_with():
    table = index_axes([Axis("a", float, "lane", 0.1 + 0.2), Axis("b", float, "lane", 1)])
    assert table["a"].default == 0.3
    assert type(table["b"].default) is float


def test_a_kind_may_depend_on_another_axis():
    steps = Axis("steps", int, KindBy("schedule", {"cosine": "lane"}, "observed"), 10)
    assert steps.kind_for({"schedule": "cosine"}) == "lane"
    assert steps.kind_for({"schedule": "constant"}) == "observed"
    assert steps.kind_for({}) == "observed"


def test_nearest_names_the_close_ones_first():
    assert nearest("widht", ["width", "seed"]) == "Did you mean 'width'? Valid names: seed, width"
    assert nearest("zzz", ["width", "seed"]) == "Valid names: seed, width"
