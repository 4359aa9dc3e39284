"""The grid algebra against a naive one made of dicts, and by example."""

import pytest
from grid_toy import AXES, cells_of, rows, runs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis, index_axes
from raysweep.grid.enumeration import MAX_RUNS
from raysweep.grid.expand import _MOST, expand

# --- the naive algebra ------------------------------------------------------------------------------------


def naive(grid):
    """Assignments a grid stands for, as dicts; lists of plain values only."""
    cells = [{}]
    for key, entry in grid.items():
        if key == "zip":
            for group in entry:
                rows = [dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)]
                cells = [a | b for a in cells for b in rows]
        elif key == "concat":
            cells = [a | b for a in cells for branch in entry for b in naive(branch)]
        elif key != "when":
            cells = [a | {key: v} for a in cells for v in entry]
    for rule in grid.get("when", []):
        match = [all(resolve(c)[n] in v for n, v in rule["if"].items()) for c in cells]
        cells = [a | b for a, yes in zip(cells, match, strict=True) for b in (naive(rule["then"]) if yes else [{}])]
    return cells


def resolve(cell):
    full = {n: cell.get(n, a.default) for n, a in AXES.items()}
    return {n: full[a.follows] if v is None else v for (n, v), a in zip(full.items(), AXES.values(), strict=True)}


VALUES = {
    "data_seed": [0, 1, 2],
    "seed": [0, 1, 2],
    "width": [32, 64],
    "schedule": ["constant", "cosine", "wsd"],
    "lr": [0.1, 0.5],
    "steps": [50, 100, 200],
    "k": [1, 10],
}


@st.composite
def grids(draw, names=tuple(VALUES), depth=2):
    names = draw(st.permutations(names))
    grid = {}

    def some(name, size=None):
        few = {} if size is None else {"min_size": size, "max_size": size}
        return draw(st.lists(st.sampled_from(VALUES[name]), **({"min_size": 1, "max_size": 3} | few)))

    def take(most):
        count = draw(st.integers(0, min(most, len(names))))
        return [names.pop() for _ in range(count)]

    rules = []
    if depth:
        for _ in range(draw(st.integers(0, 2))):
            then = take(2)
            tested = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=2, unique=True))
            rules.append({"if": {n: some(n) for n in tested}, "then": draw(grids(then, depth - 1))})
        if draw(st.booleans()):
            inner = take(3)
            grid["concat"] = draw(st.lists(grids(inner, depth - 1), min_size=1, max_size=3))
    if len(zipped := take(3)) >= 2:
        size = draw(st.integers(1, 3))
        grid["zip"] = [{n: some(n, size) for n in zipped}]
    for name in take(3):
        grid[name] = some(name)
    if rules:
        grid["when"] = rules
    return grid


@given(grids())
@settings(max_examples=150, deadline=None)
def test_the_algebra_equals_a_naive_one(grid):
    wanted = {tuple(resolve(c).items()) for c in naive(grid)}
    runs = runs_of(grid)
    cells = cells_of(runs)
    assert {tuple((n, c[n]) for n in AXES) for c in cells.values()} == wanted
    assert len(cells) == len(wanted) == runs.cells
    lanes = {tuple((n, v) for n, v in c if AXES[n].kind_for(dict(c)) != "observed") for c in wanted}
    assert len(runs) == len(lanes) == len(set(runs.keys.tolist()))
    for o in runs.observed:
        for at, name in enumerate(o.names):
            assert o.values(name) == tuple(sorted({v[at] for v in o.cells.values()}))


@given(grids())
@settings(max_examples=30, deadline=None)
def test_each_run_has_the_same_key_and_cells_in_the_whole_grid_and_alone(grid):
    runs = runs_of(grid)
    for i in range(min(len(runs), 5)):
        row = runs.row(i)
        alone = runs_of({n: [v] for n, v in row.items()})
        assert alone.keys.tolist() == [runs.keys[i]]
        assert alone.row(0) == row


@given(grids())
@settings(max_examples=30, deadline=None)
def test_equal_observed_sets_are_one_object(grid):
    runs = runs_of(grid)
    assert len(set(runs.observed)) == len(runs.observed)
    assert set(runs.observed_code.tolist()) == set(range(len(runs.observed)))


def excluded(cell, rule):
    return all(resolve(cell)[n] in v for n, v in rule.items())


@given(grids(), st.data())
@settings(max_examples=100, deadline=None)
def test_excluding_equals_filtering_the_listed_cells(grid, data):
    every = naive(grid)
    have = {n: sorted({resolve(c)[n] for c in every}) for n in VALUES}
    rule = {}
    for name in data.draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3, unique=True)):
        rule[name] = data.draw(st.lists(st.sampled_from(have[name]), min_size=1, max_size=2, unique=True))
    rules = [rule, {"seed": [have["seed"][0]], "width": [have["width"][0]]}]
    wanted = {tuple(resolve(c).items()) for c in every if not any(excluded(c, r) for r in rules)}
    if not wanted:
        with pytest.raises(SweepError, match="must leave a cell"):
            expand({**grid, "exclude": rules}, AXES)
        return
    runs = runs_of({**grid, "exclude": rules})
    cells = cells_of(runs)
    assert {tuple((n, c[n]) for n in AXES) for c in cells.values()} == wanted
    assert len(cells) == len(wanted) == runs.cells
    assert len(set(runs.keys.tolist())) == len(runs)


# --- the algebra by example -------------------------------------------------------------------------------


def test_observed_axes_are_never_enumerated():
    runs = runs_of({"seed": {"range": 5}, "steps": {"range": [1, 100_001]}, "k": {"range": [1, 100_001]}})
    assert len(runs) == 5
    assert runs.cells == 5 * 10**10
    assert "cells" not in vars(runs.observed[0])


def test_a_zip_of_run_and_observed_axes_asks_each_run_for_its_own():
    runs = runs_of({"zip": {"lr": [0.2, 0.2, 0.3], "steps": [10, 20, 20]}})
    asked = {r["lr"]: runs.observed[c].values("steps") for r, c in zip(rows(runs), runs.observed_code, strict=True)}
    assert asked == {0.2: (10, 20), 0.3: (20,)}


def test_runs_that_ask_for_equal_sets_share_one_whatever_branch_they_come_from():
    zipped = runs_of({"zip": {"lr": [0.2, 0.3, 0.4], "steps": [10, 20, 10]}})
    assert len(zipped.observed) == 2
    branches = runs_of({"concat": [{"lr": 0.2, "seed": [1, 2]}, {"lr": 0.3, "seed": [5]}], "steps": [10, 20]})
    assert len(branches.observed) == 1


def test_the_same_cell_in_two_branches_is_one_cell():
    runs = runs_of({"concat": [{"seed": [0, 1], "steps": [10, 20]}, {"seed": [1, 2], "steps": [20, 30]}]})
    assert runs.column("seed") == [0, 1, 2]
    assert [runs.observed[c].values("steps") for c in runs.observed_code] == [(10, 20), (10, 20, 30), (20, 30)]
    assert runs.cells == 7


def test_the_kind_of_an_axis_at_its_default_follows_each_cell_too():
    for order in (["constant", "cosine"], ["cosine", "constant"]):
        runs = runs_of({"schedule": order})
        by = {r["schedule"]: r for r in rows(runs)}
        assert by["cosine"]["steps"] == 100
        assert "steps" not in by["constant"]
        asked = {r["schedule"]: runs.observed[c].names for r, c in zip(rows(runs), runs.observed_code, strict=True)}
        assert asked == {"cosine": ("k",), "constant": ("steps", "k")}


def test_a_condition_on_an_axis_left_out_sees_what_it_resolves_to():
    runs = runs_of({"seed": [1, 2], "when": {"if": {"data_seed": 2}, "then": {"lr": [0.5, 0.6]}}})
    assert [(r["seed"], r["lr"]) for r in rows(runs)] == [(1, 0.1), (2, 0.5), (2, 0.6)]
    by_default = runs_of({"when": {"if": {"width": [64]}, "then": {"lr": 0.7}}})
    assert rows(by_default)[0]["lr"] == 0.7


def test_exclude_in_a_branch_sees_axes_given_outside_and_leaves_other_branches():
    grid = {
        "concat": [{"schedule": "wsd", "exclude": {"lr": [0.2, 0.3]}}, {"schedule": "cosine"}],
        "lr": [0.1, 0.2, 0.3],
    }
    assert [(r["schedule"], r["lr"]) for r in rows(runs_of(grid))] == [
        ("wsd", 0.1), ("cosine", 0.1), ("cosine", 0.2), ("cosine", 0.3),
    ]  # fmt: skip
    in_when = {"seed": [1, 2], "when": {"if": {"seed": 1}, "then": {"lr": [0.1, 0.2], "exclude": {"lr": 0.1}}}}
    assert [(r["seed"], r["lr"]) for r in rows(runs_of(in_when))] == [(2, 0.1), (1, 0.2)]


def test_excluding_observed_values_gives_runs_sets_of_their_own():
    runs = runs_of({"width": [8, 16], "steps": [1, 2], "k": [1, 10], "exclude": {"width": 8, "steps": 2, "k": 10}})
    asked = {
        r["width"]: set(runs.observed[c].cells.values()) for r, c in zip(rows(runs), runs.observed_code, strict=True)
    }
    assert asked == {8: {(1, 1), (1, 10), (2, 1)}, 16: {(1, 1), (1, 10), (2, 1), (2, 10)}}
    assert (len(runs), runs.cells) == (2, 7)


def test_a_range_in_exclude_may_reach_beyond_the_grid():
    assert runs_of({"seed": {"range": 10}, "exclude": {"seed": {"range": [3, 100]}}}).column("seed") == [0, 1, 2]
    assert len(runs_of({"seed": {"range": 3}, "exclude": []})) == 3


def test_rules_are_checked_against_the_grid_before_any_of_them():
    grid = {
        "seed": [1, 2, 3],
        "lr": [0.1, 0.2],
        "exclude": [{"seed": 1}, {"seed": 1, "lr": 0.1}, {"seed": 2, "lr": 0.2}],
    }
    assert [(r["seed"], r["lr"]) for r in rows(runs_of(grid))] == [(3, 0.1), (3, 0.2), (2, 0.1)]


def test_many_rules_are_refused_before_they_take_long(monkeypatch):
    monkeypatch.setitem(_MOST, "products", 500)
    names = ["seed", "width", "k", "data_seed"]
    halves = [[i for i in range(1, 129) if i >> bit & 1] for bit in range(7)]  # each cuts all that the others left
    rules = [dict.fromkeys(names, half) for half in halves]
    with pytest.raises(SweepError, match=r"grid\.exclude\[\d\]: .*at most 500 products"):
        expand({n: {"range": [1, 129]} for n in names} | {"exclude": rules}, AXES)
    with pytest.raises(SweepError, match=r"grid\.exclude: 100 rules for that many values are too many"):
        expand({"seed": {"range": 1_000_000}, "exclude": [{"seed": 1}] * 100}, AXES)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"widht": 1}, ["grid.widht", "'widht'", "Did you mean 'width'?"]),
        ({"zip": {"width": [1, 2], "lrr": [1, 2]}}, ["grid.zip[0].lrr", "Did you mean 'lr'?"]),
        ({"zip": {"width": [1, 2]}}, ["grid.zip[0]", "two axes or more"]),
        ({"zip": {"width": [1, 2], "lr": [1]}}, ["grid.zip[0]", "equally many", "{'width': 2, 'lr': 1}"]),
        ({"zip": {"width": [], "lr": []}}, ["grid.zip[0]", "equally many"]),
        ({"zip": 3}, ["grid.zip", "a mapping or a list", "3"]),
        ({"concat": []}, ["grid.concat", "at least one grid"]),
        ({"concat": [{"width": 1}, {"depht": 1}]}, ["grid.concat[1].depht"]),
        ({"concat": [3]}, ["grid.concat[0]", "a grid must be a mapping", "3"]),
        ({"width": 1, "zip": {"width": [1], "lr": [1]}}, ["grid.zip", "once in a product", "width"]),
        ({"width": 1, "concat": [{"lr": 1}, {"width": 2}]}, ["grid.concat", "once in a product"]),
        ({"when": {"if": {"width": 64}}}, ["grid.when[0]", "then", "{'if': {'width': 64}}"]),
        ({"when": {"if": {"wdth": 64}, "then": {}}}, ["grid.when[0].if.wdth", "Did you mean 'width'?"]),
        ({"lr": 1, "when": {"if": {"width": 64}, "then": {"lr": 2}}}, ["grid.when[0].then", "lr", "given twice"]),
        ({"when": None}, ["grid.when", "None"]),
        ({"width": "wide"}, ["grid.width", "an integer", "'wide'"]),
        ({"exclude": 3}, ["grid.exclude", "a mapping or a list", "3"]),
        ({"exclude": [3]}, ["grid.exclude[0]", "{axis: values}", "3"]),
        ({"exclude": [{}]}, ["grid.exclude[0]", "at least one axis"]),
        ({"exclude": {"wdth": 64}}, ["grid.exclude[0].wdth", "Did you mean 'width'?"]),
        ({"exclude": {"width": []}}, ["grid.exclude[0].width", "at least one value"]),
        ({"exclude": {"width": 64}}, ["grid.exclude: must leave a cell"]),
        (
            {"lr": [0.1, 0.3, 0.5], "exclude": {"lr": [0.3, 0.31]}},
            ["exclude[0].lr", "lr = 0.31", "values: 0.1, 0.3, 0.5"],
        ),
        (
            {"schedule": ["cosine", "wsd"], "exclude": {"schedule": "constant"}},
            ["schedule = 'constant'", "cosine, wsd"],
        ),
        ({"seed": [1, 2], "exclude": {"seed": {"range": [3, 9]}}}, ["exclude[0].seed", "seed = 3", "1, 2"]),
        ({"concat": [{"lr": 0.5, "exclude": {"lr": 0.1}}, {}]}, ["grid.concat[0].exclude[0].lr", "lr = 0.1"]),
    ],
)
def test_a_bad_grid_is_refused_by_place_rule_and_value(grid, words):
    with pytest.raises(SweepError) as caught:
        expand(grid, AXES)
    for word in words:
        assert word in str(caught.value)


def test_an_axis_without_default_must_be_given_in_every_branch():
    axes = index_axes([Axis("a", int, "shape"), Axis("b", int, "shape")])
    with pytest.raises(SweepError, match=r"axis b has no default and must be given in every branch$"):
        runs_of({"a": 1, "concat": [{"b": 1}, {}]}, axes)


def test_more_runs_than_the_limit_are_refused_before_they_are_made():
    with pytest.raises(SweepError, match=rf"at most {MAX_RUNS:,} runs .* 25,000,000"):
        runs_of({"seed": {"range": 5000}, "width": {"range": [1, 5001]}})
