"""Windows: bounds of a scale that move with the other columns of each row, and what a fit says about them."""

import json
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from test_kind_of_axis import ledger as mixed
from test_table import fit, ledger, rows

from raysweep.errors import FitError
from raysweep.laws import Window
from raysweep.laws import points as module
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest, RequestError
from raysweep.reports.tables import findings, paragraphs

RULE = Window("100 / gamma", "1e-4 * width ** 2 if width else inf")
TIMES = np.geomspace(1, 1e6, 25)


def curves(noise=0.02):
    """y = t^-.5 (1 + 1 / (gamma t)) + 1 / N: a crossover at 1 / gamma, a plateau from t = N^2 on; N = 0 is infinite."""
    grid = [(g, n, t) for g in (0.1, 1.0, 10.0) for n in (0, 3000, 10_000) for t in TIMES]
    gamma, width, t = np.array(grid).T
    clean = t**-0.5 * (1 + 1 / (gamma * t)) + np.where(width > 0, 1 / np.maximum(width, 1), 0)
    y = clean * np.exp(noise * np.random.default_rng(0).standard_normal(t.size))
    return pl.DataFrame({"gamma": gamma, "width": width.astype(int), "t": t, "loss": y})


def by_gamma(table, **options):
    return fit(table, x="t", y="loss", by="gamma", **{"bootstrap": 200, **options})


# The rule


def test_a_window_that_moves_with_its_row_recovers_the_exponent_that_a_plain_fit_misses():
    for group in by_gamma(curves()):
        assert "correlated_rows" in group.notes
    for group in by_gamma(curves(), window=RULE):
        low, high = group.interval("alpha")
        assert low < 0.5 < high
        assert high - low < 0.05
        t, width = curves().filter(gamma=group.group["gamma"])["t", "width"].to_numpy().T
        kept = (t * group.group["gamma"] >= 99.999) & ((width == 0) | (t <= 1.00001e-4 * width**2))
        assert group.n_points == kept.sum()
        assert group.window == ((t[kept].min(), t[kept].max()),)


def test_each_row_of_a_group_is_judged_by_its_own_bound():
    frame = points(curves(), FitRequest(("t",), "loss", by=("gamma",), window=RULE), keep=["width"]).frame
    last = frame.group_by("gamma", "width").agg(pl.col("t").max()).sort("gamma", "width")
    assert dict(last.filter(gamma=10.0).select("width", "t").iter_rows()) == {
        0: pytest.approx(1e6),
        3000: pytest.approx(TIMES[TIMES <= 900].max()),
        10_000: pytest.approx(1e4),
    }


def test_a_window_is_the_same_as_the_condition_that_it_states():
    window = {"low": "1 / gamma", "high": 1e4}
    where = f"t * gamma >= {1 - 1e-9} AND t <= {1e4 + 1e-5}"
    for one, other in zip(by_gamma(curves(), window=window), by_gamma(curves(), where=where), strict=True):
        mine = one.to_json()
        assert mine.pop("bounds")["rows"] == 75
        mine["notes"].remove("window")
        del mine["details"]["window"]
        assert mine == other.to_json()


def test_both_ends_belong_to_the_window_even_where_they_are_rounded():
    x = np.array([0.1 * 3, 1.0, np.exp(np.log(1000.0))])  # 0.30000000000000004 and 999.9999999999998
    assert Window(0.3, 1000).mask({"x": x}, "x").all()
    assert Window("a", "b").mask({"x": x, "a": x, "b": x}, "x").all()
    assert not Window(0.3001, 999).mask({"x": x[[0, 2]]}, "x").any()


@pytest.mark.parametrize("kind", [dict, pl.DataFrame, pa.table, lambda columns: pl.DataFrame(columns).to_arrow()])
def test_any_table_of_columns_has_a_mask(kind):
    columns = kind({"g": [0.0, 0.5, 2.0, None, 1.0], "word": list("aabab"), "t": [1.0, 1.0, 1.0, 1.0, 9.0]})
    assert Window("1 / g if g > 0 else 1", "inf").mask(columns, "t").tolist() == [True, False, True, False, True]
    assert Window(high="2 if word == 'a' else 0.5").mask(columns, "t").tolist() == [True, True, False, True, False]
    low, high = Window(low="3 * g", high=5).bounds(columns)
    assert low[:3].tolist() == [0.0, 1.5, 6.0]
    assert (math.isnan(low[3]), high.tolist()) == (True, 5.0)
    with pytest.raises(FitError, match=r"no column 'gg'. Did you mean 'g'"):
        Window("gg").mask(columns, "t")


def test_a_bound_without_a_value_is_an_error_that_names_the_row():
    table = curves().with_columns(gamma=pl.Series([0.0] * 75 + [1.0] * 150))
    with pytest.raises(
        FitError, match=r"window: low: `gamma \*\* -2` .* gamma=0\.0: .*as in `a if gamma > 0 else 0` for no bound"
    ):
        by_gamma(table, window={"low": "gamma ** -2"})
    with pytest.raises(FitError, match=r"window: high: .*as in `a if gamma > 0 else inf` for no bound"):
        by_gamma(table, window={"high": "gamma ** -2"})
    with pytest.raises(FitError, match="'a' is a word"):
        by_gamma(table.with_columns(w=pl.lit("a")), window={"low": "2 * w"})
    with pytest.raises(FitError, match=r"it is (True|False), not a number"):
        by_gamma(table, window={"low": "gamma > 0"})
    assert len(by_gamma(table, window={"low": "gamma ** -2 if gamma else 10"}, bootstrap=0)) == 2


def test_the_advice_for_no_bound_keeps_every_row_and_a_low_of_infinity_none():
    columns = {"gamma": np.repeat([0.0, 1.0], 3), "t": np.array([1e-9, 1, 1e9] * 2)}
    assert Window("2 if gamma > 0 else 0", "3e9 if gamma > 0 else inf").mask(columns, "t").tolist() == [True] * 3 + [
        False,
        False,
        True,
    ]
    assert not Window("1 if gamma > 0 else inf").mask(columns, "t")[:3].any()


def test_a_row_whose_bound_is_unknown_is_outside_and_its_group_says_so():
    table = curves().with_columns(pl.when((pl.col("t") > 10) | (pl.col("gamma") > 1)).then("width").alias("width"))
    found = by_gamma(table, window={"high": "width * 0 + 1e4"}, bootstrap=0)
    assert ["dropped_no_bound" in group.notes for group in found] == [True, True, False]
    one = found.groups[0]
    assert one.window[0][0] > 10
    assert one.details["dropped_no_bound"].startswith("15 of 75 rows were dropped")
    assert "width is missing" in one.details["dropped_no_bound"]


def test_equal_numbers_have_one_bound_however_they_are_written():
    table = curves().with_columns(shift=pl.when(pl.int_range(pl.len()) % 2 == 0).then(-0.0).otherwise(0.0))
    found = by_gamma(table, window={"low": "10 + shift"}, bootstrap=0)
    assert [group.bounds.rows for group in found] == [75] * 3


def test_a_window_on_what_is_fitted_is_a_caveat():
    ends = ("1e5 if loss > 0 else inf", 1e5)
    notes = [by_gamma(curves(), window=Window(high=high), bootstrap=0).groups[0].notes for high in ends]
    assert ["window_on_y" in codes for codes in notes] == [True, False]


def test_a_condition_on_other_columns_is_where():
    table = curves().with_columns(floor=0.2 / pl.col("width").cast(float).replace(0.0, math.inf))
    both = by_gamma(table, window={"low": 10}, where="loss > 5 * floor * 5", bootstrap=0)
    kept = table.filter(pl.col("loss") > 25 * pl.col("floor"), pl.col("t") >= 10)
    assert [group.n_points for group in both] == kept.group_by("gamma").len().sort("gamma")["len"].to_list()


# What is refused


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({}, "must have a bound"),
        ({"low": True}, "low must be a number or a formula"),
        ({"low": float("nan")}, "low must be a number"),
        ({"low": [1]}, "low must be a number"),
        ({"low": 10, "high": 1}, "low must not exceed high"),
        ({"lo": 1}, "unknown key 'lo'. Did you mean 'low'"),
        ({"low": 1, "x": 5}, "x must be the name of a column"),
        ({"low": 1, "x": "gamma"}, r"x must be the scale that is bounded \(t\)"),
        ({"high": "2 * t"}, "high must depend on columns other than t"),
        ({"low": "width *"}, "low: a formula must be one expression"),
        ({"low": "gama"}, "low: there is no column 'gama'. Did you mean 'gamma'"),
        ("t > 5", "must be a mapping"),
        # What is not arithmetic
        ({"low": "().__class__.__bases__"}, "Attribute is not allowed"),
        ({"low": "width.real"}, "Attribute is not allowed"),
        ({"low": "__import__('os').system('true')"}, "Call is not allowed|there is no"),
        ({"low": "open('x')"}, "there is no 'open'"),
        ({"low": "[w for w in (1,)]"}, "is not allowed"),
        ({"low": "9 ** 9 ** 9"}, "1,024 bits"),
        ({"low": "1 / 0"}, "must have a number as its value, but: division by zero"),
        ({"low": "'a'"}, "must have a number as its value, but: it is 'a'"),
        ({"low": 1, "x": "gamma"}, r"Name it, as in {low: 10, x: t}"),
        ({"low": np.bool_(True)}, "low must be a number or a formula"),
        ({"low": "width + 10 ** 400"}, "1,024 bits"),
        ({"low": "1e400"}, "must be finite"),
        ({"low": "1 + " * 300 + "1"}, "1,000 characters"),
        ({"low": "-" * 60 + "width"}, "40 deep"),
    ],
)
def test_what_is_no_window_is_refused_in_one_line(window, message):
    with pytest.raises(FitError, match=message) as caught:
        by_gamma(curves(), window=window, bootstrap=0)
    assert str(caught.value).startswith("window: ")
    assert "\n" not in str(caught.value)


def test_of_several_scales_the_window_names_one():
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(10, 1e4, 7), np.geomspace(10, 1e4, 7)))
    table = pl.DataFrame({"n": n, "d": d, "arm": 1 + (n > 200), "loss": 1 + n**-0.5 + d**-0.3})
    with pytest.raises(RequestError, match=r"x must be the scale that is bounded \(n or d\), but got None"):
        FitRequest(("n", "d"), "loss", "chinchilla", window=Window(10))
    made = fit(table, "chinchilla", x=["n", "d"], y="loss", window=Window("100 * arm", 5000, "d"), bootstrap=0).only
    assert made.window == ((10, 1e4), (100, pytest.approx(10**3.5)))
    assert made.to_json()["bounds"] == {
        "rule": "100 * arm <= d <= 5000", "x": "d", "low": 100, "high": 5000, "kept": 24, "rows": 49,
    }  # fmt: skip


def test_a_number_of_numpy_is_a_bound_of_the_same_value():
    assert Window(np.float32(0.1), np.int64(3), "t") == Window(0.1, 3, "t")
    assert json.dumps(Window(np.int64(3)).text("t")) == '"3 <= t"'


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"t": [1.0, 2.0, 3.0], "g": [1, 2]}, "equally many rows, but got t: 3, g: 2"),
        ({"t": [1.0, 2.0], "g": 1}, "equally many rows, but got t: 2, g: 1"),
        ({"t": ["1", "2"], "g": [1, 2]}, "t, which is bounded, must hold numbers, but got '1'"),
        ({"t": [None, "a"], "g": [1, 2]}, "t, which is bounded, must hold numbers, but got 'a'"),
    ],
)
def test_columns_that_have_no_mask_are_refused_with_the_rule_and_the_value(columns, message):
    with pytest.raises(FitError, match=message):
        Window("g").mask(columns, "t")


def test_a_low_beyond_the_high_is_said_with_both_numbers():
    with pytest.raises(FitError, match=r"left 0 of 75 rows: low exceeds high in all of these rows .*low = 20 .*= 5\)"):
        by_gamma(curves(), window={"low": "20 * max(gamma, 1)", "high": "5"})
    some = by_gamma(curves(), window={"low": "20 if width else 1", "high": "5 if width else 1e9"}, bootstrap=0).groups[
        0
    ]
    assert "low exceeds high in 50 of these rows (there, low = 20 and high = 5)" in some.details["window"]
    assert some.n_points == 25
    for window in ({"low": "inf", "high": 5}, {"low": "5", "high": 5 * (1 - 1e-12)}):  # rows left out; rounding
        bounds = points(curves(), FitRequest(("t",), "loss", window=Window(**{**window, "x": "t"}))).parts[0].bounds
        assert (bounds.crossed, bounds.empty) == (0, "")


# What is said


def test_a_group_that_the_window_empties_says_what_it_left():
    found = by_gamma(curves(), window={"low": "4e5 / gamma", "high": "inf"}, bootstrap=0)
    empty, few, fitted = found
    assert "but got 0. Add scales. The window (4e5 / gamma <= t <= inf, here from 4e+06) left 0 of 75" in empty.error
    assert "but got 2. Add scales. The window" in few.error
    assert few.error.endswith("here from 400000) left 6 of 75 rows.")
    assert fitted.error is None
    assert (empty.n_points, empty.to_json()["window"], few.group) == (0, [None, None], {"gamma": 1.0})
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()
    frame = found.to_frame()
    assert frame.filter(gamma=0.1).select("x_min", "window_low", "window_rows").rows() == [(None, 4e6, 75)]
    assert findings(found)[0].endswith("left 0 of 75 rows.")
    with pytest.raises(FitError, match=r"None of the 3 groups could be fitted\. The first \(.*=.*\): .* 0 of 75 rows"):
        by_gamma(curves(), window={"low": 1e7})
    with pytest.raises(FitError, match=r"The window .* left 0 of 225 rows"):
        fit(curves(), x="t", y="loss", window={"low": 1e7})


def test_the_window_stands_in_every_rendering_of_a_fit():
    found = by_gamma(curves(), window=RULE, bootstrap=0)
    one = found.groups[-1]
    assert one.bounds.low == 10
    assert (one.bounds.high, one.bounds.rows, one.bounds.kept) == (math.inf, 75, one.n_points)
    line = f"t 10 to 1e+06 (window from 10: {one.n_points} of 75 rows)"
    assert line in findings(found)[-1]
    assert line in "\n".join(paragraphs(found)[2])
    assert one.details["window"] == (
        "Fitted where 100 / gamma <= t <= (1e-4 * width ** 2 if width else inf), here from 10: "
        f"{one.n_points} of 75 rows."
    )
    assert one.to_json()["bounds"] == {
        "rule": RULE.text("t"), "x": "t", "low": 10.0, "high": None, "kept": one.n_points, "rows": 75,
    }  # fmt: skip
    last = found.to_frame().row(-1, named=True)
    assert (last["x_min"], last["window_low"], last["window_high"]) == (pytest.approx(10), 10.0, math.inf)


def test_without_a_window_nothing_speaks_of_one():
    plain = by_gamma(curves(), bootstrap=0)
    assert "bounds" not in plain.to_json()[0]
    assert not [name for name in plain.to_frame().columns if "window" in name]


# Ledgers


def test_an_axis_that_only_the_window_names_still_splits_the_fit():
    arms = ledger(rows(width=[32, 64], labels=["hard"]))
    found = fit(arms, window={"high": "2 * width"}, bootstrap=0)
    assert [group.group for group in found] == [{"width": 32}, {"width": 64}]
    assert [group.window for group in found] == [((16, 64),), ((16, 128),)]
    assert all("grouped_by_width" in group.notes for group in found)


def test_a_window_does_not_choose_the_snapshot():
    records = rows(step=[10, 20, 30])
    for row in records:
        row["epistemic_select"] = abs(row["step"] - 20)  # the middle one is best
    whole = fit(ledger(records), bootstrap=0).only
    late = fit(ledger(records), window={"high": "1000 if step == 20 else 0"}, bootstrap=0).only
    assert (late.n_points, late.params) == (whole.n_points, whole.params)
    with pytest.raises(FitError, match="left 0 of 10 rows"):
        fit(ledger(records), window={"high": "1000 if step == 30 else 0"})


def test_an_axis_that_moves_the_window_is_not_collapsed():
    table = ledger(rows(k=[1, 2]))  # y is the same at every k
    assert "collapsed_k" in fit(table, bootstrap=0).only.notes
    assert "collapsed_k" in fit(table, window={"low": "20 + 0 * k"}, bootstrap=0).only.notes
    assert [group.window[0][0] for group in fit(table, window={"low": "20 * k"}, bootstrap=0)] == [32, 64]


def test_seeds_are_the_unit_only_where_the_window_leaves_enough():
    table = ledger(rows(seed=[0, 1, 2, 3]))
    found = [fit(table, window={"low": low}, bootstrap=0).only for low in ("16 * seed", "1000 if seed > 1 else 1")]
    assert [(one.cluster, one.n_clusters) for one in found] == [("seed", 4), ("run", 10)]
    assert "few_seeds" in found[1].notes


def test_a_time_that_is_observed_in_some_rows_has_its_value_in_the_window():
    window = Window("1 if steps >= 160 else 1e9")
    found = points(mixed("constant", "cosine"), FitRequest(("n_train",), "epistemic", window=window))
    left = {(part.group["schedule"], part.group["steps"]): (part.bounds.kept, part.bounds.rows) for part in found.parts}
    assert left == {
        ("constant", None): (30, 30), ("cosine", 10): (0, 30), ("cosine", 40): (0, 30), ("cosine", 160): (30, 30),
    }  # fmt: skip
    assert found.frame.height == 60


@pytest.mark.parametrize("kind", ["ledger", "plain"])
def test_a_long_table_is_cut_unread(kind, monkeypatch):
    if kind == "ledger":
        made, names = ledger(rows(width=[32, 64])), {"by": (), "x": ("n_train",), "y": "epistemic"}
        window = Window(high="2 * width")
    else:
        made, names = curves(), {"by": ("gamma",), "x": ("t",), "y": "loss"}
        window = RULE
    held = points(made, FitRequest(**names, window=window))
    monkeypatch.setattr(module, "_HELD", 0)
    unread = points(made, FitRequest(**names, window=window))
    assert [part.bounds for part in unread.parts] == [part.bounds for part in held.parts]
    x = names["x"][0]
    assert sorted(unread.frame[x].unique()) == sorted(held.frame[x].unique())
