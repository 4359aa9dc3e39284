"""A fit that was saved predicts as it did, and a file that is none is refused; draws and covariance as data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import Fit, fit
from raysweep.laws.covariance import covariance
from raysweep.laws.saved import load_fits, save_fits
from raysweep.reports.tables import paragraphs


def table(runs: int = 3, noise: float = 0.02) -> pl.DataFrame:
    n = np.tile(np.geomspace(1e2, 1e6, 7), runs)
    rng = np.random.default_rng(0)
    arms = [(0.3 + 4 * n**-0.4) * np.exp(noise * rng.standard_normal(n.size)) for _ in range(2)]
    run = np.repeat(np.arange(runs), 7)
    frames = [pl.DataFrame({"n": n, "loss": y, "run": run, "arm": i}) for i, y in enumerate(arms)]
    return pl.concat([*frames, frames[0].head(2).with_columns(arm=pl.lit(2, pl.Int32))], how="vertical_relaxed")


def fitted(runs: int = 3, **options: object) -> Fit:
    return fit(table(runs), "power+floor", x="n", y="loss", by="arm", run="run", bootstrap=100, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"window": {"low": 150}, "huber": 1e-3}, {"holdout": 0.0, "runs": 40}],
    ids=["wild", "window", "case"],
)
def test_a_saved_fit_says_and_predicts_the_same(options: dict[str, object], tmp_path: Path) -> None:
    law = fitted(**options)
    save_fits(tmp_path / "fit.json", [law, law])
    back, again = load_fits(tmp_path / "fit.json")
    assert again.to_json(draws=True) == back.to_json(draws=True) == law.to_json(draws=True)
    assert paragraphs(back) == paragraphs(law)
    assert back.groups[2].error == law.groups[2].error is not None
    frame = pl.DataFrame({"n": [1e3, 1e9], "arm": [0, 1]})
    assert back.predict(frame, interval=True).equals(law.predict(frame, interval=True))
    for one, other in zip(back.groups[:2], law.groups[:2], strict=True):
        np.testing.assert_array_equal(one.prediction([1e9]), other.prediction([1e9]))
        assert (
            one.draws.interval_of(lambda v: v[..., 2]).tolist() == other.draws.interval_of(lambda v: v[..., 2]).tolist()
        )


@pytest.mark.parametrize(
    ("form", "x"),
    [
        ({"formula": "E + A*n**-a", "positive": ["A"]}, "n"),
        ({"formula": "T - A*x**-a", "positive": ["A"], "fix": {"a": 1 / 3}}, "n"),
        ({"law": "power+floor", "fix": {"E": 0.3}, "bound": {"alpha": [None, 2.0]}}, "n"),
        ({"law": "chinchilla", "tie": {"beta": "alpha"}}, ["n", "d"]),
        ({"law": "product"}, ["n", "d", "run"]),
    ],
    ids=["formula", "fixed formula", "fixed and bound", "tied", "product"],
)
def test_a_law_of_ones_own_is_saved_with_its_form(form: dict[str, Any], x: str | list[str], tmp_path: Path) -> None:
    frame = table().filter(pl.col("arm") == 0).with_columns(pl.col("run") + 1)
    frame = frame.with_columns(d=1 + (pl.int_range(pl.len()) * 7 % 5))
    law = fit(frame, **form, x=x, y="loss", bootstrap=100, holdout=0)
    save_fits(tmp_path / "fit.json", [law])
    (back,) = load_fits(tmp_path / "fit.json")
    assert back.to_json(draws=True) == law.to_json(draws=True)
    assert back.law.parameters == law.law.parameters
    scales = np.full((len(law.x), 1), 1e7)
    np.testing.assert_array_equal(back.only.band(scales), law.only.band(scales))
    np.testing.assert_array_equal(back.only.predict(scales), law.only.predict(scales))


def test_a_saved_formula_is_read_by_the_grammar_of_formulas_alone(tmp_path: Path) -> None:
    frame = table().filter(pl.col("arm") == 0)
    path = tmp_path / "fit.json"
    save_fits(path, [fit(frame, formula="E + A*n**-a", positive="A", x="n", y="loss", bootstrap=0)])
    good = json.loads(path.read_text())
    for change in ({"formula": "__import__('os')"}, {"positive": ["b"]}, {"formula": 5}, {"fix": [1]}, {"law": None}):
        broken = json.loads(json.dumps(good))
        broken["fits"][0][0]["form"] |= change
        path.write_text(json.dumps(broken))
        with pytest.raises(FitError):
            load_fits(path)
    del good["fits"][0][0]["form"]  # as written by an earlier version, which saved named laws alone
    good["fits"][0][0]["law"] = "power"
    path.write_text(json.dumps(good))
    with pytest.raises(FitError, match="wrote, but it is not"):
        load_fits(path)


def test_a_file_that_is_no_saved_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    save_fits(path, [fitted()])
    good = json.loads(path.read_text())
    broken = json.loads(path.read_text())
    del broken["fits"][0][0]["draws"]["values"]["alpha"]
    for text, said in (
        ("{", "wrote, but it is not"),
        ("[]", "wrote, but it is not"),
        (json.dumps(good | {"fits": []}), "holds none"),
        (json.dumps(good | {"raysweep_fits": 99}), "Upgrade raysweep"),
        (json.dumps(broken), "KeyError: 'alpha'"),
        (json.dumps(good).replace('"power+floor"', '"powr"'), "no law 'powr'"),
    ):
        path.write_text(text)
        with pytest.raises(FitError, match=said):
            load_fits(path)
    with pytest.raises(FitError, match="must be a file that can be read"):
        load_fits(tmp_path / "nowhere.json")
    good_one = fitted().groups[0]
    own = replace(good_one, law=good_one.law.without_floor())
    with pytest.raises(FitError, match="in a form of its own"):
        save_fits(path, [Fit(("n",), "loss", (own,))])
    with pytest.raises(FitError, match="a folder that exists"):
        save_fits(tmp_path / "nowhere" / "fit.json", [fitted()])


def test_the_covariance_of_a_linear_law_is_that_of_least_squares() -> None:
    """A power law is a line in logs: with 200 runs, the covariance is s^2 (X'X)^-1."""
    rng = np.random.default_rng(1)
    n = np.exp(rng.uniform(0, 8, 200))
    group = fit(
        pl.DataFrame({"n": n, "loss": 3 * n**-0.5 * np.exp(0.1 * rng.standard_normal(200))}),
        "power", x="n", y="loss", bootstrap=2000,
    ).only  # fmt: skip
    found = covariance(group.draws)
    assert found["names"] == ["log A", "alpha"]
    design = np.stack([np.ones(200), -np.log(n)], axis=1)
    expected = group.rmse_log**2 * 200 / 198 * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(found["matrix"], expected, rtol=0.25)


def test_draws_are_data_only_when_asked_for() -> None:
    group = fitted().groups[0]
    record = json.loads(json.dumps(group.to_json(draws=True)))
    assert len(record["draws"]["values"]["alpha"]) == record["bootstrap"] == 100
    assert record["draws"]["values"]["E"] == group.draws.draws[:, 0].tolist()
    assert {"draws", "covariance"}.isdisjoint(group.to_json())
    without = fit(table(), "power", x="n", y="loss", by="arm", bootstrap=0).groups[0].to_json(draws=True)
    assert (without["draws"], without["covariance"]) == (None, None)
