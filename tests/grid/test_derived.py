"""Derived axes in grids: equal to computing each listed cell, wherever sources and formula stand."""

from __future__ import annotations

from typing import Any

import pytest
from grid_toy import AXES, cells_of, rows, runs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import SweepError
from raysweep.experiments.inferred import infer_axes
from raysweep.grid.axes import Axis, KindBy, index_axes
from raysweep.grid.expand import expand

SOME = index_axes([Axis(n, int, "shape", 1) for n in ("a", "b", "c", "d", "e")])
numbers = st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True)


def cells(grid: Any, axes: Any = SOME) -> set[tuple[tuple[str, Any], ...]]:
    return {tuple(sorted(cell.items())) for cell in cells_of(runs_of(grid, axes)).values()}


@given(numbers, numbers, numbers, st.sampled_from(["plain", "branch", "outer", "when", "zip"]))
@settings(max_examples=80, deadline=None)
def test_a_derived_axis_equals_computing_every_cell(a: list[int], b: list[int], c: list[int], form: str) -> None:
    formula = "a * 4 - b // 2 + (7 if a > b else c)"
    grid: dict[str, Any] = {"b": b, "c": c, "d": "e + 1", "e": formula}
    if form == "plain":
        grid |= {"a": a}
    elif form == "branch":  # formula and source in branches
        del grid["e"]
        grid["concat"] = [{"a": a, "e": formula}]
    elif form == "outer":  # source in a branch, formula outside of it
        grid["concat"] = [{"a": [v]} for v in a]
    elif form == "when":  # source known only after a condition
        grid["when"] = [{"if": {"b": b}, "then": {"a": a}}]
    else:
        del grid["c"]
        grid["zip"] = {"a": a, "c": (c * 3)[: len(a)]} if len(a) > 0 else {}
    pairs = {
        (x, y, z)
        for x, y, z in (
            ((x, y, z) for x, z in zip(a, (c * 3)[: len(a)], strict=True) for y in b)
            if form == "zip"
            else ((x, y, z) for x in a for y in b for z in c)
        )
    }
    wanted = set()
    for x, y, z in pairs:
        e = x * 4 - y // 2 + (7 if x > y else z)
        wanted.add((("a", x), ("b", y), ("c", z), ("d", e + 1), ("e", e)))
    assert cells(grid) == wanted


def test_only_the_tables_that_a_formula_needs_are_joined() -> None:
    (term,) = expand(
        {"a": {"range": 1000}, "b": {"range": 1000}, "c": {"range": 1000}, "d": [1, 2], "e": "d * 2"}, SOME
    )
    assert sorted(t.names for t in term) == [("a",), ("b",), ("c",), ("d", "e")]
    with pytest.raises(SweepError, match=r"grid\.e: at most 4,000,000 values .* 1,000,000,000"):
        expand({"a": {"range": 1000}, "b": {"range": 1000}, "c": {"range": 1000}, "e": "a + b + c"}, SOME)
    with pytest.raises(SweepError, match=r"at most 101,626 values of such a formula"):
        expand({"a": {"range": 300_000}, "e": "-a" + "         " * 107 + "+ 1"}, SOME)


def test_many_formulas_are_refused_before_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.grid.expand.MAX_WORK", 100_000)
    grid: dict[str, Any] = {"a": {"range": 1000}, "concat": [{"b": i, "e": "a * 2 + b"} for i in range(5)]}
    with pytest.raises(SweepError, match=r"grid\.concat\[\d\]\.e: formulas for that many cells take too long"):
        expand(grid, SOME)


def test_several_formulas_and_values_multiply() -> None:
    assert [(r["a"], r["e"]) for r in rows(runs_of({"a": [1, 2], "e": ["a * 2", 7, "a + 1"]}, SOME))] == [
        (1, 2), (1, 7), (2, 4), (2, 7), (2, 3),
    ]  # fmt: skip


def test_defaults_and_followed_axes_are_sources_too() -> None:
    assert [r["lr"] for r in rows(runs_of({"lr": "width / 128"}))] == [0.5]
    found = rows(runs_of({"seed": [1, 2], "width": "data_seed * 8"}))
    assert [(r["seed"], r["data_seed"], r["width"]) for r in found] == [(1, 1, 8), (2, 2, 16)]
    found = rows(runs_of({"width": [8, 16], "seed": "width // 8", "lr": "data_seed / 2"}))
    assert [(r["seed"], r["data_seed"], r["lr"]) for r in found] == [(1, 1, 0.5), (2, 2, 1.0)]


def test_an_integer_axis_takes_whole_results_only() -> None:
    assert runs_of({"a": [2, 4], "e": "a / 2"}, SOME).column("e") == [1, 2]
    with pytest.raises(SweepError, match=r"grid\.e: `a / 2` at a=3: e must be an integer.* 1\.5"):
        runs_of({"a": [2, 3], "e": "a / 2"}, SOME)
    axes = index_axes([Axis("a", int, "shape", 1), Axis("e", int, "shape", 1, high=10)])
    with pytest.raises(SweepError, match=r"`a \* 4` at a=3: e must be an integer in \[-inf, 10\], but got 12"):
        runs_of({"a": [2, 3], "e": "a * 4"}, axes)


def test_words_of_an_axis_of_words_stay_words() -> None:
    axes = index_axes([Axis("a", int, "shape", 1), Axis("b", int, "shape", 1), Axis("name", str, "shape", "x")])
    assert runs_of({"a": 2, "name": ["a-b", "a * 2"]}, axes).column("name") == ["a-b", "a * 2"]
    assert runs_of({"a": [2, 3], "name": "'two' if a == 2 else 'more'"}, axes).column("name") == ["two", "more"]


def test_conditions_see_derived_values() -> None:
    grid: dict[str, Any] = {"a": [1, 2, 3], "e": "a * 2", "when": [{"if": {"e": [4, 6]}, "then": {"b": "e + a"}}]}
    assert [(r["a"], r["e"], r["b"]) for r in rows(runs_of(grid, SOME))] == [(1, 2, 1), (2, 4, 6), (3, 6, 9)]
    del grid["when"]
    assert [r["a"] for r in rows(runs_of({**grid, "exclude": {"e": 4}}, SOME))] == [1, 3]
    late = {"a": [1, 2], "e": "b * 2", "when": [{"if": {"e": 4}, "then": {"c": 2}}, {"if": {"a": 1}, "then": {"b": 2}}]}
    with pytest.raises(SweepError, match=r"grid\.e: a condition asks for e, so that b must be given"):
        expand(late, SOME)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"a": "a * 2"}, ["grid.a", "a -> a"]),
        ({"a": "b * 2", "b": "c + 1", "c": "a - 1"}, ["depend on itself", "a -> b -> c -> a"]),
        ({"a": "b * 2", "concat": [{"b": "a + 1"}]}, ["a -> b -> a"]),
        ({"a": "b * 2", "b": [1], "zip": {"c": [1, 2], "d": ["a * 2", "a"]}}, ["grid.zip[0].d", "zip takes values"]),
        ({"a": "b * x"}, ["grid.a", "names 'x'", "Valid names: a, b, c, d, e"]),
        ({"a": 1, "e": "1 / (a - 1)"}, ["grid.e", "a=1", "division by zero"]),
        ({"a": 1, "e": "a * 10 ** 300"}, ["grid.e", "64 bits"]),
        ({"a": [1, 2], "e": ["a * 2", "x"]}, ["grid.e", "an integer", "'x'"]),
        ({"a": "b * 2", "concat": [{"a": 1}]}, ["once in a product", "a"]),
    ],
)
def test_a_derived_axis_that_cannot_be_is_refused(grid: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SweepError) as caught:
        expand(grid, SOME)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_source_without_value_in_a_branch_is_named() -> None:
    axes = index_axes([Axis("a", int, "shape"), Axis("b", int, "shape"), Axis("e", int, "shape")])
    with pytest.raises(SweepError, match=r"grid\.e: e depends on b, which must have a value in every cell"):
        expand({"a": 1, "e": "b * 2", "concat": [{"b": 1}, {}]}, axes)


def test_what_is_trained_does_not_depend_on_what_is_observed() -> None:
    for formula in ("k * 2", "steps * 2"):
        with pytest.raises(SweepError, match=r"grid\.width: .*must not depend on observed axes"):
            expand({"width": formula, "steps": [1, 2], "k": [1, 2]}, AXES)
    runs = runs_of({"schedule": "cosine", "steps": [10, 20], "width": "steps * 2"})  # a lane under cosine
    assert [(r["steps"], r["width"]) for r in rows(runs)] == [(10, 20), (20, 40)]
    with pytest.raises(SweepError, match="observed"):
        expand({"schedule": ["cosine", "wsd"], "steps": [10, 20], "width": "steps * 2"}, AXES)
    runs = runs_of({"width": [10, 20], "k": "width * 2"})  # an observed axis may depend on others
    assert [runs.observed[c].values("k") for c in runs.observed_code] == [(20,), (40,)]
    both = index_axes([Axis("t", int, "observed", 1), Axis("u", int, "observed", 1)])
    assert set(runs_of({"t": [1, 2], "u": "t * 2"}, both).observed[0].cells.values()) == {(1, 2), (2, 4)}
    same = KindBy("schedule", {"cosine": "lane"}, "observed")
    axes = index_axes([*AXES.values(), Axis("late", int, same, 1)])
    assert runs_of({"schedule": ["cosine", "wsd"], "steps": [10, 20], "late": "steps // 2"}, axes).cells == 4


def types(grid: dict[str, Any], *observed: str) -> dict[str, type]:
    return {axis.name: axis.type for axis in infer_axes(grid, observed, "here")}


def test_a_plain_functions_derived_axis_has_the_type_of_its_values() -> None:
    assert types({"a": [2, 4], "e": "a * 2"}) == {"a": int, "e": int}
    assert types({"a": [2, 4], "e": "a / 2"})["e"] is int
    assert types({"a": [2, 3], "e": "a / 2"})["e"] is float
    assert types({"a": {"range": [2, 7, 2]}, "e": "a / 2"})["e"] is int  # 2, 4, 6: the end is no value
    assert types({"a": {"geom": [2, 32, 5]}, "e": "sqrt(a)"})["e"] is float
    assert types({"a": [2, 3], "e": "a > 2"})["e"] is bool
    assert types({"a": [2, 3], "e": "'x' if a > 2 else 'y'"})["e"] is str
    assert types({"a": [2, 3], "concat": [{"e": "a * 2"}, {"e": 0.5}]})["e"] is float
    assert types({"a": [2, 3], "f": "e + 0.5", "e": "a * 2"}) == {"a": int, "f": float, "e": int}
    assert list(types({"e": "a * 2", "a": [2], "t": "a"}, "t")) == ["e", "a", "t"]
    for grid, word in (
        ({"a": [2, 3], "e": "wdth * 2 + a"}, "'wdth'"),
        ({"a": [2, 3], "e": "1 if a > 2 else 'y'"}, "one type"),
        ({"a": [2, 3], "e": "e * 2"}, "depend on itself"),
    ):
        with pytest.raises(SweepError, match=word) as caught:
            types(grid)
        assert str(caught.value).startswith("here: ")
