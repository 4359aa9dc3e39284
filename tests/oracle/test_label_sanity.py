"""On generating labels nobody beats the posterior: mean NLL >= aleatoric, accuracy <= Bayes, beyond 4 s.e."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from raysweep.display import Bound
from raysweep.experiments.classifier import EXPERIMENT
from raysweep.metrics import decompose
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.recipe import recipe_hash
from raysweep.reports.tables import sanity

BOUNDS = EXPERIMENT.display.bounds
RECIPES = [GaussianRecipe(separation=2.0), GaussianRecipe(classes=4, dim=5, separation=2.5)]


def labelled(recipe, n=20_000):
    flow = gaussian_flow(recipe).requires_grad_(False)
    sample = FlowWorld(flow, recipe, recipe_hash(recipe)).sample(n, "sanity")
    return torch.from_numpy(sample.log_posterior), torch.from_numpy(sample.y)


def classifiers(log_r):
    """Lanes ever further from the posterior, the first on it but for a breath."""
    noise = torch.randn(log_r.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([torch.log_softmax(log_r + scale * noise, -1) for scale in (0.01, 0.1, 0.5, 2.0)])


def frame(found):
    return pl.DataFrame({name: value.numpy() for name, value in found.items()} | {"status": ["ok"] * 4})


@pytest.mark.parametrize("recipe", RECIPES)
def test_classifiers_near_the_posterior_are_sane(recipe):
    log_r, y = labelled(recipe)
    found = decompose(classifiers(log_r), log_r, y)
    assert (found["excess_nll"] >= -4 * found["excess_nll_se"]).all()
    assert (found["excess_error"] >= -4 * found["excess_error_se"]).all()
    assert (found["nll"] - found["aleatoric"] >= -4 * 0.7 / len(y) ** 0.5).all()  # unpaired, with the labels' own luck
    assert (found["accuracy"] <= found["bayes_accuracy"] + 4 * 0.5 / len(y) ** 0.5).all()
    verdicts = sanity(frame(found), BOUNDS)
    assert [(v.bound.metric, v.passed, v.rows) for v in verdicts] == [(b.metric, True, 4) for b in BOUNDS]
    assert [v.errors for v in verdicts] == [(found[b.metric] / found[b.se]).min().item() for b in BOUNDS]


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_checks_fail_when_the_posteriors_classes_are_swapped(recipe):
    log_r, y = labelled(recipe)
    found = decompose(classifiers(log_r), log_r.roll(1, -1), y)
    verdicts = sanity(frame(found), BOUNDS)
    assert [v.bound.metric for v in verdicts] == ["excess_nll", "excess_error"]
    for verdict in verdicts:
        assert not verdict.passed
        assert (verdict.errors or 0) < -4
        assert "NOT in " in verdict.sentence


def test_rows_that_are_not_ok_are_not_judged():
    log_r, y = labelled(RECIPES[0], 500)
    table = frame(decompose(classifiers(log_r), log_r.roll(1, -1), y))
    assert sanity(table.with_columns(status=pl.lit("diverged")), BOUNDS) == []
    assert [v.bound.metric for v in sanity(table.drop("excess_nll"), BOUNDS)] == ["excess_error"]


def test_a_bound_may_lie_above_and_be_exact():
    table = pl.DataFrame({"share": [0.5, 1.0, 1.25], "se": [0.0, 0.0, 0.1], "status": ["ok"] * 3})
    bound = Bound("share", "no share exceeds 1", "Wrong.", limit=1.0, side="high")
    (exact,) = sanity(table, [bound])
    assert (exact.beyond, exact.worst, exact.errors) == (1, 1.25, None)
    (within,) = sanity(table, [replace(bound, se="se")])
    assert (within.passed, within.worst, within.errors) == (True, 1.25, pytest.approx(-2.5))


def test_the_worst_row_is_named_in_the_unit_of_the_metric_where_no_standard_error_measures_it():
    table = pl.DataFrame({"loss": [3.0, 0.25, 2.0], "se": [0.0, 0.0, -1.0], "status": ["ok"] * 3})
    exact = Bound("loss", "something is lost", "Wrong.")
    found = "in all 3 rows (loss at worst 0.25; at least 0 is required)"
    said = [one.sentence for one in sanity(table, [exact, replace(exact, se="se")])]
    assert said == [
        f"Sanity: something is lost: true {found}",
        f"Sanity: something is lost: true within 4 s.e. {found}",
    ]
    wrong = sanity(
        table, [replace(exact, se="se", limit=2.5)]
    )  # an error below 0 does not turn its row to the right side
    assert [one.sentence for one in wrong] == [
        "Sanity: something is lost: true within 4 s.e. NOT in 2 of 3 rows "
        "(loss at worst 0.25; at least 2.5 is required)"
    ]


def test_a_row_whose_metric_or_error_is_no_number_is_not_judged():
    table = pl.DataFrame({"loss": [math.nan, None, 1.0, 1.0], "se": [1.0, 1.0, math.nan, 1.0], "status": ["ok"] * 4})
    bound = Bound("loss", "something is lost", "Wrong.", se="se")
    assert [(one.rows, one.errors) for one in sanity(table, [bound])] == [(1, 1.0)]
    assert sanity(table[:3], [bound]) == []


def test_argmax_of_fresh_samples_errs_at_the_bayes_rate():
    log_r, y = labelled(RECIPES[0])
    wrong = (log_r.argmax(-1) != y).double().numpy()
    expected = 1 - np.exp(log_r.numpy()).max(1)
    assert abs((wrong - expected).mean()) < 4 * (wrong - expected).std() / len(y) ** 0.5
