"""Rank correlations: SciPy's values, invariances, intervals that cover a known correlation, refusals."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import kendalltau, spearmanr

from raysweep.errors import FitError
from raysweep.laws import rank
from raysweep.laws.rank import difference, rank_correlation, rank_correlation_of

KINDS = pytest.mark.parametrize("kind", ["kendall", "spearman"])


def normal_pair(units, rows, correlation, draw):
    """x, y and unit: errors of each unit and of each row, with the same correlation, so that all pairs have it."""
    rng = np.random.default_rng(draw)
    root = np.linalg.cholesky([[1, correlation], [correlation, 1]])
    both = rng.standard_normal((units, 1, 2)) + rng.standard_normal((units, rows, 2)) * (rows > 1)
    x, y = (both @ root.T).reshape(-1, 2).T
    return x, y, np.repeat(np.arange(units), rows)


@KINDS
def test_values_are_scipys_with_ties_and_without(kind):
    theirs = kendalltau if kind == "kendall" else spearmanr
    x, y, unit = normal_pair(10, 6, 0.6, 0)
    for one in (x, np.round(x)):
        found = rank_correlation_of(one, y, unit, kind)
        assert found.value == pytest.approx(theirs(one, y).statistic)
        assert found.interval[0] < found.value < found.interval[1]
        assert (found.rows, found.units) == (60, 10)
        same = rank_correlation_of(np.exp(one), -(y**3), unit, kind)
        assert same.value == pytest.approx(-found.value)
        assert sorted(same.interval) == pytest.approx([-found.interval[1], -found.interval[0]])


@KINDS
def test_a_draw_of_every_unit_once_is_the_sample_itself(kind):
    x, y, unit = normal_pair(8, 5, 0.5, 1)
    x = np.round(2 * x)  # ties
    order = np.random.default_rng(0).permutation(x.size)
    own = {"kendall": rank._kendall, "spearman": rank._spearman}[kind](x[order], y[order], unit[order], np.ones((1, 8)))
    assert own[0] == pytest.approx(rank_correlation_of(x, y, unit, kind).value)
    counts = np.array([[2.0, 0, 1, 3, 1, 1, 0, 0]])  # each row once per copy of its unit
    taken = np.repeat(np.arange(x.size), counts[0, unit].astype(int))
    if kind == "spearman":
        drawn = rank._spearman(x, y, unit, counts)[0]
        assert drawn == pytest.approx(spearmanr(x[taken], y[taken]).statistic)


@KINDS
@pytest.mark.parametrize(("units", "rows"), [(40, 1), (12, 8), (6, 8)])
def test_intervals_cover_a_known_correlation(kind, units, rows):
    """Of normal variables: tau = 2 / pi asin(r), rho = 6 / pi asin(r / 2)."""
    r = 0.6
    true = 2 / np.pi * np.arcsin(r) if kind == "kendall" else 6 / np.pi * np.arcsin(r / 2)
    inside, wide = [], []
    for draw in range(250):
        x, y, unit = normal_pair(units, rows, r, draw)
        low, high = rank_correlation_of(x, y, unit, kind, draws=200, seed=draw).interval
        inside.append(low <= true <= high)
        wide.append(high - low)
    assert 0.90 <= np.mean(inside) <= 0.99, np.mean(inside)
    assert np.mean(wide) < 1


def test_rows_that_are_taken_to_be_independent_have_intervals_too_narrow():
    x, y, unit = normal_pair(10, 20, 0.6, 3)
    by_unit, by_row = (rank_correlation_of(x, y, own).interval for own in (unit, None))
    assert by_row[1] - by_row[0] < 0.7 * (by_unit[1] - by_unit[0])


def test_tables_groups_and_differences():
    x, y, unit = normal_pair(20, 4, 0.9, 5)
    noise = np.random.default_rng(1).standard_normal(x.size)
    table = pl.DataFrame({"bmd": x, "noise": noise, "error": y, "seed": unit, "ridge": ["low", "high"] * 40})
    table = table.with_columns(pl.when(pl.col("seed") == 0).then(None).otherwise("error").alias("gap"))
    (whole,) = rank_correlation(table, x=["bmd", "noise"], y="error")
    assert whole.group == {}
    assert whole.each["bmd"] == rank_correlation_of(x, y, unit.astype(str))
    value, (low, high) = difference(whole.each["bmd"], whole.each["noise"])
    assert value == pytest.approx(whole.each["bmd"].value - abs(whole.each["noise"].value))
    assert 0.2 < low < value < high < 1
    of_high, of_low = rank_correlation(table, x="bmd", y="error", by="ridge", where="seed > 2")
    assert (of_high.group, of_low.group) == ({"ridge": "high"}, {"ridge": "low"})
    assert of_high.each["bmd"].units == 17
    assert rank_correlation(table, x="bmd", y="gap")[0].each["bmd"].rows == 76  # nulls do not count
    assert rank_correlation(table, x="bmd", y="error", unit=None)[0].each["bmd"].units == 80


def test_what_has_no_rank_correlation_is_refused():
    x, y, unit = normal_pair(5, 3, 0.5, 0)
    table = pl.DataFrame({"x": x, "flat": 0 * x, "y": y, "seed": unit, "few": unit // 3})
    found = rank_correlation(table, x=["x", "flat"], y="y")[0].each
    assert "single value" in found["flat"]
    for options, said in [
        ({"x": "flat"}, r"but flat is 0 in all 15 rows: it has a single value\. Choose another column"),
        ({"x": []}, "one or more columns as x, but got none"),
        ({"level": 95}, r"level=95\. Give bootstrap=1000 and level=0\.95"),
        ({"unit": "few"}, "needs 4 units, but there are 2"),
        ({"x": "z"}, "no column 'z'"),
        ({"where": "y > 100"}, "no row is left|needs 4 units, but there are 0"),
        ({"kind": "pearson"}, "one of kendall, spearman"),
        ({"bootstrap": 10}, "at least 100 draws"),
    ]:
        with pytest.raises(FitError, match=said):
            rank_correlation(table, **{"x": "x", "y": "y"} | options)
    with pytest.raises(FitError, match="not finite"):
        rank_correlation_of([1, 2, np.nan], [1, 2, 3])
    pair = rank_correlation_of(x, y, unit), rank_correlation_of(x, y)
    with pytest.raises(FitError, match="5 and 15 units"):
        difference(*pair)
