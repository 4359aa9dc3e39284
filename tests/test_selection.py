"""Scores of candidates, and the bias of the score that won."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raysweep.selection import selection_bias


def test_the_bias_is_what_the_least_of_many_means_is_below_zero() -> None:
    rng = np.random.default_rng(0)
    tuned = 1 + 0.1 * rng.standard_normal((4000, 24, 2)).mean(2).min(1)
    bias = selection_bias(tuned, 1 + 0.1 * rng.standard_normal((4000, 50)), 2)
    assert bias.relative
    assert bias.mean == pytest.approx(-0.1 * 1.948 / math.sqrt(2), rel=0.03)  # E of the least of 24 standard normals
    assert bias.high < 0


def test_where_nothing_was_selected_the_interval_holds_zero_as_often_as_it_says() -> None:
    """Settings share their seeds: an interval that took them for independent would be far too narrow."""
    rng, worlds, settings, seeds, fresh = np.random.default_rng(1), 1500, 6, 2, 4
    shared = rng.standard_normal((worlds, 1, seeds + fresh))
    scores = shared + 0.5 * rng.standard_normal((worlds, settings, seeds + fresh))
    found = [selection_bias(one[:, :seeds].mean(1), one[:, seeds:], seeds) for one in scores]
    covered = np.mean([bias.low <= 0 <= bias.high for bias in found if not bias.relative])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_losses_of_other_signs_are_compared_by_their_difference_and_one_seed_gives_no_interval() -> None:
    bias = selection_bias(np.array([-2.0, 1.0]), np.array([[-1.0], [1.0]]), 1)
    assert (bias.mean, bias.relative) == (-0.5, False)
    assert math.isnan(bias.low)
