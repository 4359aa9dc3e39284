"""A wrong value of an option of a law command is answered by one sentence: option, rule, value and remedy.

Every option of every command was tried with some thirty wrong values; here is one of each kind.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Cli

FIT = ["fit", "t.csv", "--x", "n", "--y", "loss", "--bootstrap", "100"]
JOINT = ["allocate", "t.csv", "--x", "n", "--x", "d", "--y", "loss", "--bootstrap", "100"]
ARMS = ["compare", "t.csv", "--arm", "arm=a,b", "--x", "n", "--y", "loss"]
VALLEYS = ["isoflop", "t.csv", "--n", "n", "--y", "loss"]
LARGE = "99999999999999999999999"


@pytest.fixture(autouse=True)
def table(tmp_path: Path) -> None:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    frame = pl.DataFrame({"n": n, "d": d, "loss": loss, "arm": ["a", "b"] * 8, "E": 1, "ok": 1, "of": 2})
    frame.write_csv(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*FIT, "--se", "nope"], "fit: --se: There is no column 'nope'. Valid names: E, arm, d"),
        ([*FIT, "--x-se", "arm"], "fit: --x-se: Column 'arm' must hold numbers, but row 1 of t.csv holds 'a'"),
        ([*FIT, "--run", ""], "fit: --run: must name a column, but got ''. Name one, or leave it out."),
        ([*FIT, "--where", "nope = 1"], "fit: --where: 'nope = 1' is not a condition on this table's rows"),
        ([*FIT, "--at", "3"], "fit: --at: a time needs an axis of time"),
        ([*FIT, "--rows", "nope"], "--rows must be current or all, but got 'nope'"),
        ([*FIT, "--huber", "abc"], "'--huber': it must be a valid number, unable to parse string as"),
        ([*FIT[:6], "--bootstrap", LARGE], "fit: --bootstrap: must be at most 1,000,000 draws"),
        ([*FIT, "--level", "1e-300"], "fit: --level: must lie in [0.01, 1), but got level=1e-300"),
        ([*FIT, "--metric", "nope", "--then", "sigmoid"], "fit: --metric: There is no column 'nope'"),
        ([*FIT, "--formula", "E + A*n**-a"], "fit: --formula: must not call a parameter as a column of the table, but"),
        ([*JOINT, "--budget", "1e-300"], "must lie within a factor of 1e+12 of the compute that was fitted (6e+16"),
        ([*JOINT, "--budget", "1e21", "--cost-per", "1e300"], "Check the units of budgets and scales, and what"),
        ([*JOINT, "--budget", "1e21", "--flops", "arm"], "allocate: --flops must name a column of numbers"),
        ([*JOINT, "--budget", "1e21", "--flops", "nope"], "allocate: --flops: There is no column 'nope'"),
        ([*ARMS, "--pair", "nope"], "compare: --pair: There is no column 'nope'"),
        ([*ARMS, "--pair", ""], "compare: --pair must name a column, but got ''"),
        ([*VALLEYS, "--flops", "n"], "isoflop: --n, --flops, --y and --by must name different columns, but got n, n"),
        ([*VALLEYS, "--flops", "nope"], "isoflop: --flops: There is no column 'nope'"),
        (["peak", "t.csv", "--x", "n", "--y", "nope"], "peak: --y: There is no column 'nope'"),
        (["passk", "t.csv", "--successes", "ok", "--trials", "of", "--k", "1e300"], "passk: --k must be whole numbers"),
        (["passk", "t.csv", "--successes", "ok", "--trials", "nope"], "passk: --trials: There is no column 'nope'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence_that_names_its_option(cli: Cli, arguments: list[str], said: str) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_an_option_of_one_value_is_not_given_two_and_one_that_repeats_is_untouched(cli: Cli) -> None:
    for options, said in (
        ([*FIT, "--law", "power", "--law=m4"], "'--law': it takes one value, but got 'power' and 'm4'"),
        ([*FIT, "--y", "d"], "'--y': it takes one value, but got 'loss' and 'd'"),
        (["run", "s.yaml", "--store", "a", "--store", "b"], "'--store': it takes one value, but got 'a' and 'b'"),
        (["oracle", "fit", "w.yaml", "--store", "a", "--store", "b"], "'--store': it takes one value, but got 'a' and"),
    ):
        code, out, err = cli(*options)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert said in err
    code, out, err = cli(*FIT, "--y", "loss", "--by", "d", "--by", "ok", "--predict", "1", "--predict", "2", "--json")
    assert code == 0, err
    assert [len(one["predictions"]) for one in json.loads(out)] == [2] * 4
    assert list(json.loads(out)[0]["group"]) == ["d", "ok"]


def test_a_prediction_far_beyond_warns_of_nothing_and_one_beyond_belief_is_refused(cli: Cli) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for law in ("power", "valley"):
            for x, code in (("1e20", 0), ("1e-4", 0), ("1e300", 2), ("5e-324", 2)):
                assert cli(*FIT, "--law", law, "--predict", x)[0] == code
    assert "A prediction's n must lie within a factor of 1e+12 of the scales" in cli(*FIT, "--predict", "1e300")[2]


def test_help_names_what_the_command_takes_alone(cli: Cli) -> None:
    out = cli("compare", "--help")[1]
    assert "Second steps" not in out
    assert "width=64" not in out  # a point of several scales, over which no arms are compared
    assert "power+floor: y = E + A x^-alpha" in " ".join(out.split())
    assert "at least 100" in " ".join(cli("passk", "--help")[1].split())
