"""`raysweep isoflop`: valleys of a table, by group, against the function on arrays and against the truth."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from conftest import Cli

from raysweep.errors import FitError
from raysweep.laws.isoflop import isoflop
from raysweep.laws.valleys import isoflops

OPTIONS = ["--n", "n", "--flops", "c", "--y", "loss", "--bootstrap", "100"]
FUNCTION = {"n": "n", "flops": "c", "y": "loss", "bootstrap": 100}


def table(noise: float = 1e-4) -> pl.DataFrame:
    """Two arms; sizes within a factor of 4 about the optimum of 2 + 400 N^-.34 + 400 D^-.34 under C = 6 N D."""
    rng, rows = np.random.default_rng(0), []
    for arm in "ab":
        for c in (1e18, 1e19, 1e20, 1e21):
            for n in np.sqrt(c / 6) * np.geomspace(0.25, 4, 9):
                loss = 2 + 400 * n**-0.34 + 400 * (c / 6 / n) ** -0.34
                rows.append({"arm": arm, "n": n, "c": c, "loss": loss * np.exp(noise * rng.standard_normal())})
    return pl.DataFrame(rows)


def test_each_group_has_its_frontier(cli: Cli) -> None:
    table().write_csv("runs.csv")
    arguments = ["isoflop", "runs.csv", *OPTIONS, "--by", "arm", "--budget", "1e24"]
    records = json.loads(cli(*arguments, "--json")[1])
    assert [record["group"] for record in records] == [{"arm": "a"}, {"arm": "b"}]
    for record in records:
        a, _ = record["params"]
        assert a["ci_low"] < 0.5 < a["ci_high"]
        assert a["value"] == pytest.approx(0.5, abs=0.01)
        assert [valley["flops"] for valley in record["valleys"]] == [1e18, 1e19, 1e20, 1e21]
        (far,) = record["budgets"]
        best = {one["name"]: one for one in far["params"]}
        assert best["N*"]["ci_low"] < np.sqrt(1e24 / 6) < best["N*"]["ci_high"]
        assert 6 * best["N*"]["value"] * best["D*"]["value"] == pytest.approx(1e24)
        assert 6 * best["N*"]["ci_low"] * best["D*"]["ci_high"] == pytest.approx(1e24)
        assert far["beyond"] == pytest.approx(1e3)
        said = "1e+24 is 1e+03 times outside those that were measured (1e+18 to 1e+21): intervals there take the"
        assert said in record["details"]["extrapolated"]
        assert "extrapolated" in record["notes"]
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert out.count("best n = G c^a, a = 0.") == 2
    assert out.count("predicted, 1e+03 times beyond") == 2
    assert out.count("  extrapolated: A budget of 1e+24") == 2
    assert "extrapolated" not in cli(*arguments[:-1], "1e21")[1]
    assert "Less than one" not in out
    assert "must lie within a factor of 1e+12 of the budgets that were fitted" in cli(*arguments[:-1], "1")[2]
    table().with_columns(pl.col("n") / 1e7).write_csv("runs.csv")  # a unit of its own
    assert cli(*arguments[:-1], "1e10")[1].count("Less than one: N* = 0.") == 2


def test_columns_that_are_swapped_are_asked_about_in_a_short_error(cli: Cli) -> None:
    table().write_csv("runs.csv")
    for n, flops, y, said in (
        ("c", "n", "loss", "Are --n and --flops swapped? The sizes (5.5e+19) exceed the budgets."),
        ("n", "loss", "c", "Are --flops and --y swapped? y is 1e+18 or more, flops goes down to 2."),
        ("loss", "c", "n", "Are --n and --y swapped? y is 1.02e+08 or more, n goes down to 2."),
    ):
        code, out, err = cli("isoflop", "runs.csv", "--n", n, "--flops", flops, "--y", y, "--where", "arm = 'a'")
        assert (code, out) == (2, "")
        assert said in err
        assert len(err) < 500


def test_it_is_the_function_on_arrays() -> None:
    rows = table().filter(arm="a")
    (found,) = isoflops(rows, **FUNCTION)
    direct = isoflop(rows["c"], rows["n"], rows["loss"], draws=100)
    assert found.found.frontier.a == direct.frontier.a
    assert found.found.frontier.interval() == direct.frontier.interval()


def test_measured_budgets_that_nearly_agree_are_one() -> None:
    jitter = np.exp(0.001 * np.random.default_rng(1).standard_normal(72))
    (found,) = isoflops(table().with_columns(pl.col("c") * jitter), where="arm = 'a'", **FUNCTION)
    assert len(found.found.valleys) == 4
    assert found.details["merged_budgets"].startswith("32 ")
    assert found.found.frontier.a == pytest.approx(0.5, abs=0.01)
    with pytest.raises(FitError, match="needs 5 distinct sizes"):
        isoflops(table().with_columns(pl.col("c") * jitter**300), where="arm = 'a'", **FUNCTION)


def test_a_group_without_a_frontier_says_why_and_leaves_the_others(cli: Cli) -> None:
    table().filter((pl.col("arm") == "a") | (pl.col("c") < 5e19)).write_csv("runs.csv")
    code, out, _ = cli("isoflop", "runs.csv", *OPTIONS, "--by", "arm")
    assert code == 0
    assert "arm = b: no frontier: N*(C) needs 3 budgets with a bracketed minimum, but there are 2." in out
    records = json.loads(cli("isoflop", "runs.csv", *OPTIONS, "--by", "arm", "--json")[1])
    assert ["error" in record for record in records] == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "-1"], "a --budget is FLOPs, positive"),
        (["--cost-per", "0"], "--cost-per is FLOPs per unit of size and data"),
        (["--where", "c < 1e19"], "needs 3 budgets"),
        (["--level", "2"], "level=2"),
    ],
)
def test_what_cannot_be_is_refused(cli: Cli, options: list[str], message: str) -> None:
    table().write_csv("runs.csv")
    code, out, err = cli("isoflop", "runs.csv", *OPTIONS, *options)
    assert (code, out) == (2, "")
    assert message in err
