"""raysweep suggest: runs to add, with their price, from what a store holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, Cli

SWEEP = {
    "name": "s",
    "experiment": "adaptive_toy:train",
    "grid": {"size": {"geom": [10, 10000, 10]}, "seed": {"range": 3}, "bend": 0},
    "fit": [{"law": "power", "x": "size", "y": "loss"}],
}


@pytest.fixture
def beside(cli: Cli) -> Cli:
    """Runs `raysweep ARGUMENTS` beside a finished store `s`: (exit code, output, errors)."""
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP))
    assert cli("run", "s.yaml", "--store", "s", "--executor", "inline")[0] == 0
    return cli


def test_what_is_suggested_costs_less_than_more_of_the_whole_grid(beside: Cli) -> None:
    before = sorted(Path("s").rglob("*"))
    code, out, _ = beside("suggest", "s", "--ci95", "alpha=0.006", "--price", "aws:p5.48", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["cost_in"] == "flops"
    added = {row["values"]["size"]: row["add"] for row in found["add"]}
    assert added[10] > added.get(10000, 0)
    assert found["cost"] == pytest.approx(sum(1e6 * size * add for size, add in added.items()))
    assert 0 < found["cost"] < 2 * found["spent"]  # with as many of every size, several times of this
    assert found["dollars"]["on_demand"] > 0
    _, out, _ = beside("suggest", "s", "--ci95", "alpha=0.006")
    assert "of them need seeds that the grid does not have yet" in " ".join(out.split())
    assert f"spent so far: {found['spent']:.2g} FLOP" in " ".join(out.split())
    _, out, _ = beside("suggest", "s", "--ci95", "alpha=0.5", "--ci95", "alpha=.5")
    assert "nothing more is needed" in out
    assert out.count(" wide; wanted: 0.5\n") == 1
    _, out, _ = beside("suggest", "s", "--ci95", "alpha=1e-9")
    assert " times what was spent so far. An interval narrows with the root of the cost" in out
    assert len(out.splitlines()) == 2
    assert sorted(Path("s").rglob("*")) == before


REFUSED = [
    (["--ci95", "alpha"], "--ci95: must be NAME=WIDTH, as in alpha=0.02, but got 'alpha'"),
    (["--ci95", "alpha"], "but got 'alpha', which has no width. Correct it"),
    (["--ci95", "alpha=wide"], "but got 'alpha=wide', whose width 'wide' is no number"),
    (["--ci95", "alpha=0"], "--ci95: must be the width of an interval, above 0 and finite, but got (alpha=0)"),
    (["--ci95", "alpha=.1", "--ci95", "alpha=.2"], "must have one width, but got alpha=0.1 and alpha=0.2. Leave one"),
    (["--ci95", "gamma=0.1"], "must name a parameter of the law, or loss at a scale such as loss(1e9)"),
    (["--ci95", "alpha=0.1", "--fit", "2"], "but got (fit=2, fits=1)"),
    (["--ci95", "alpha=0.1", "--prices", "x"], "--prices goes with --price"),
]


def test_what_cannot_be_answered_is_refused(beside: Cli) -> None:
    for options, said in REFUSED:
        code, _, err = beside("suggest", "s", *options)
        assert code == 2
        assert said in " ".join(err.split())


def test_the_price_of_a_sweep_that_stops_itself_is_that_of_its_coarse_pass_and_has_a_bound(cli: Cli) -> None:
    grid = {
        **CLASSIFIER_SWEEP["grid"],
        "n_train": [64, 128, 256, 512, 1024],
        "seed": {"range": 50},
        "k": 1,
        "pool": 2048,
    }
    fit = [{"law": "power", "x": "n_train", "y": "epistemic"}]
    raw = {**CLASSIFIER_SWEEP, "grid": grid, "fit": fit, "until": {"ci95": {"alpha": 0.1}}}
    Path("u.yaml").write_text(yaml.safe_dump(raw))
    found = json.loads(cli("plan", "u.yaml", "--price", "aws:p5", "--json")[1])
    assert 0 < found["price"]["seconds"] < found["price_at_most"]["seconds"]
    _, out, _ = cli("plan", "u.yaml", "--price", "aws:p5")
    assert "this is the coarse pass; all rounds together cost at most what the whole grid does: $" in out
