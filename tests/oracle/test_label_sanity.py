"""On generating labels nobody beats the posterior: mean NLL >= aleatoric, accuracy <= Bayes, beyond 4 s.e."""

import numpy as np
import polars as pl
import pytest
import torch

from raysweep.metrics import decompose
from raysweep.oracle.recipe import GaussianRecipe, recipe_hash
from raysweep.oracle.world import FlowWorld, make_flow
from raysweep.reports.tables import sanity

RECIPES = [GaussianRecipe(separation=2.0), GaussianRecipe(classes=4, dim=5, separation=2.5)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def labelled(recipe, n=20_000):
    flow = make_flow(recipe, recipe.dim, recipe.classes).requires_grad_(False)
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
    verdict = sanity(frame(found))
    assert verdict is not None
    assert verdict.passed
    assert verdict.rows == 4


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_checks_fail_when_the_posteriors_classes_are_swapped(recipe):
    log_r, y = labelled(recipe)
    found = decompose(classifiers(log_r), log_r.roll(1, -1), y)
    verdict = sanity(frame(found))
    assert verdict is not None
    assert not verdict.passed
    assert verdict.worst_nll < -4
    assert verdict.worst_error < -4
    assert "AT LEAST ONE BEATS" in verdict.sentence


def test_rows_that_are_not_ok_are_not_judged():
    log_r, y = labelled(RECIPES[0], 500)
    table = frame(decompose(classifiers(log_r), log_r.roll(1, -1), y))
    assert sanity(table.with_columns(status=pl.lit("diverged"))) is None
    assert sanity(table.drop("excess_nll")) is None


def test_argmax_of_fresh_samples_errs_at_the_bayes_rate():
    log_r, y = labelled(RECIPES[0])
    wrong = (log_r.argmax(-1) != y).double().numpy()
    expected = 1 - np.exp(log_r.numpy()).max(1)
    assert abs((wrong - expected).mean()) < 4 * (wrong - expected).std() / len(y) ** 0.5
