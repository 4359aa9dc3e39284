"""What a fit predicts beyond its data: on the command line, in JSON, in figures, and from a saved fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Cli

from raysweep.laws.points import points
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.table import fit_points
from raysweep.reports.diagnostics import diagnostics_figure

FLOOR = ["--x", "n", "--y", "loss", "--law", "power+floor", "--bootstrap", "100"]
JOINT = ["--x", "n", "--x", "d", "--y", "loss", "--law", "chinchilla", "--bootstrap", "100"]


@pytest.fixture
def one(tmp_path: Path) -> str:
    """Three runs at each of seven scales, 10^3 to 10^6, of .3 + 4 n^-.3."""
    n = np.tile(np.geomspace(1e3, 1e6, 7), 3)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(n.size))
    pl.DataFrame({"n": n, "loss": (0.3 + 4 * n**-0.3) * noise}).write_csv(tmp_path / "one.csv")
    return "one.csv"


@pytest.fixture
def two(tmp_path: Path) -> str:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 6)))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    table = pl.DataFrame({"n": n, "d": d, "loss": (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * noise})
    table.write_csv(tmp_path / "two.csv")
    return "two.csv"


def test_a_fit_predicts_where_it_is_asked_to(cli: Cli, one: str) -> None:
    (record,) = json.loads(cli("fit", one, *FLOOR, "--predict", "1e8", "--predict", "n=5e4", "--json")[1])
    p = {each["name"]: each["value"] for each in record["params"]}
    far, near = record["predictions"]
    assert far["x"] == {"n": 1e8}
    assert far["value"] == pytest.approx(p["E"] + p["A"] * 1e8 ** -p["alpha"])
    assert far["new_low"] < far["ci_low"] < far["value"] < far["ci_high"] < far["new_high"]
    assert far["ci_low"] < 0.3 + 4 * 1e8**-0.3 < far["ci_high"]
    assert (far["ci_low"], far["ci_high"]) == (far["bent_low"], far["bent_high"])  # beyond the data the law may bend
    assert far["ci_low"] < far["own_low"] < far["own_high"] < far["ci_high"]
    assert far["own_new_low"] < far["own_low"] < far["own_high"] < far["own_new_high"]
    assert all(near[f"{name}_low"] == near[f"{own}_low"] for name, own in (("ci", "own"), ("new", "own_new")))
    assert (far["beyond"], near["beyond"]) == (pytest.approx(100), 1)
    assert far["ci_high"] - far["ci_low"] > near["ci_high"] - near["ci_low"]
    alone = json.loads(cli("fit", one, *FLOOR, "--predict", "5e4", "--json")[1])[0]["predictions"]
    assert alone == [near]  # whatever else is predicted
    out = cli("fit", one, *FLOOR, "--predict", "1e8", "--predict", "500")[1]
    assert f"predicted at n = 1e+08: loss = {far['value']:.4g} [{far['ci_low']:.4g}, " in out
    assert f"if the law may bend; if it holds [{far['own_low']:.4g}, {far['own_high']:.4g}], of a new run [" in out
    assert "]; 100 times beyond the range" in out
    inside = cli("fit", one, *FLOOR, "--predict", "5e4")[1]
    assert f", if the law holds; if it may bend [{near['bent_low']:.4g}, {near['bent_high']:.4g}]\n" in inside
    assert "2 times beyond the range" in out  # below it
    assert "predictions" not in json.loads(cli("fit", one, *FLOOR, "--json")[1])[0]


def test_without_draws_a_prediction_has_no_interval(cli: Cli, one: str) -> None:
    arguments = ["fit", one, "--x", "n", "--y", "loss", "--bootstrap", "0", "--predict", "1e8"]
    (found,) = json.loads(cli(*arguments, "--json")[1])[0]["predictions"]
    assert [found[name] for name in ("ci_low", "ci_high", "new_low", "new_high")] == [None] * 4
    assert cli(*arguments)[1].splitlines()[-1].endswith("; 100 times beyond the range that was fitted")


def test_a_joint_law_predicts_at_named_scales(cli: Cli, two: str) -> None:
    (record,) = json.loads(cli("fit", two, *JOINT, "--predict", "d=3e11,n=1e10", "--json")[1])
    (found,) = record["predictions"]
    assert found["x"] == {"n": 1e10, "d": 3e11}
    assert found["ci_low"] < 1.7 + 400 * 1e10**-0.34 + 410 * 3e11**-0.28 < found["ci_high"]
    assert found["beyond"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("1e10", "a value for n and for d, once, but '1e10' names no scale"),
        ("n=1e10", "a value for n and for d, but 'n=1e10' has none for d"),
        ("n=1,d=1,n=2", "a value for n and for d, once, but 'n=1,d=1,n=2' names 'n' twice"),
        ("n=1,d=-1", "a positive number for d, but got 'n=1,d=-1'"),
        ("n=1,w=2", "a value for n and for d, once, but 'n=1,w=2' names 'w'"),
        ("n=1,=2", "a value for n and for d, once, but 'n=1,=2' names ''"),
    ],
)
def test_a_point_gives_every_scale_once(cli: Cli, two: str, given: str, said: str) -> None:
    code, out, err = cli("fit", two, *JOINT, "--predict", given)
    assert (code, out) == (2, "")
    assert f"--predict must give {said}. Write it as n=1e10,d=1e10." in err


def test_a_figure_reaches_to_what_is_predicted(two: str, one: str, cli: Cli) -> None:
    request = FitRequest(("n",), "loss", "power+floor", options=Options(draws=50))
    found = points(one, request)
    law = fit_points(found, request)
    left = diagnostics_figure(law, found, predict=[{"n": 1e8}]).axes[0]
    lines = {line.get_label(): line for line in left.get_lines()}
    assert max(lines["all points"].get_xdata()) == pytest.approx(1e8)
    assert lines["predicted"].get_xydata()[0] == pytest.approx([1e8, law.only.predict(1e8).item()])
    assert left.get_xlim()[1] > 1e8
    request = FitRequest(("n", "d"), "loss", "chinchilla", options=Options(draws=50))
    found = points(two, request)
    left = diagnostics_figure(fit_points(found, request), found, predict=[{"n": 1e10, "d": 1e12}]).axes[0]
    (own,) = [line for line in left.get_lines() if line.get_linestyle() == "-."]
    assert max(own.get_xdata()) == pytest.approx(1e12)  # the scale with more values is drawn along
    assert len(left.collections) == 2 + 4 + 1  # points seen and held out; bands of four levels and of the prediction


def test_a_law_of_three_scales_shows_what_is_predicted_on_its_line(cli: Cli) -> None:
    a, b, c = (g.ravel() for g in np.meshgrid([1e3, 1e4, 1e5], [10.0, 100.0, 1000.0], [2.0, 8.0]))
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(a.size))
    pl.DataFrame({"a": a, "b": b, "c": c, "loss": 50 * a**-0.2 * b**-0.1 * c**-0.3 * noise}).write_csv("three.csv")
    request = FitRequest(("a", "b", "c"), "loss", "product", options=Options(draws=50))
    found = points("three.csv", request)
    law = fit_points(found, request)
    left = diagnostics_figure(law, found, predict=[{"a": 1e9, "b": 1e5, "c": 32}]).axes[0]
    lines = {line.get_label(): line for line in left.get_lines()}
    value = law.only.predict(np.array([[1e9], [1e5], [32.0]])).item()
    assert lines["predicted"].get_xydata()[0] == pytest.approx([value, value])
    assert min(lines["all points"].get_xdata()) == pytest.approx(value)


def test_a_saved_fit_predicts_without_its_table(cli: Cli, one: str) -> None:
    arguments = ["fit", one, *FLOOR, "--predict", "1e8", "--json", "--draws"]
    (record,) = json.loads(cli(*arguments, "--save", "fit.json")[1])
    assert len(record["draws"]["values"]["E"]) == 100
    assert record["covariance"]["names"] == ["E", "log A", "alpha"]
    Path(one).unlink()
    assert json.loads(cli("predict", "fit.json", "1e8", "--json", "--draws")[1]) == [record]
    assert "predicted at n = 1e+08: loss = " in cli("predict", "fit.json", "n=1e8")[1]
    assert cli("predict", "fit.json")[1].startswith("power+floor: loss = E + A n^-alpha")
    code, out, err = cli("predict", "fit.json", "d=1e8")
    assert (code, out, "for n, once, but 'd=1e8' names 'd'. Write it as 1e10." in err) == (2, "", True)


def test_a_formula_under_a_constraint_predicts_from_its_file(cli: Cli, one: str) -> None:
    own = ["--x", "n", "--y", "loss", "--formula", "E + A*n**-a", "--positive", "A", "--fix", "a=.5"]
    (record,) = json.loads(
        cli("fit", one, *own, "--bootstrap", "100", "--predict", "1e8", "--save", "f.json", "--json")[1]
    )
    assert json.loads(cli("predict", "f.json", "1e8", "--json")[1]) == [record]
    assert record["formula"] == "y = E + A*n**-0.5"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--table", "html"], "--table must be one of md, latex, csv, but got 'html'"),
        (["--table", "md", "--json"], "give one of them"),
        (["--draws"], "--draws adds to --json"),
    ],
)
def test_one_form_is_printed(cli: Cli, one: str, options: list[str], said: str) -> None:
    code, out, err = cli("fit", one, *FLOOR, *options)
    assert (code, out) == (2, "")
    assert said in err


def test_a_table_is_printed_alone(cli: Cli, one: str) -> None:
    out = cli("fit", one, *FLOOR, "--predict", "1e8", "--table", "csv")[1]
    assert out.startswith("law,name,value,ci_low,ci_high,")
    names = ["E", "A", "alpha", "loss(n=1e+08) if the law may bend", "loss(n=1e+08) if the law holds"]
    assert [line.split(",")[1] for line in out.splitlines()[1:]] == names
