"""Deterministic equivalents of the lazy model against random matrices, and against each other in their limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raysweep.theory.features import flow, modes_of_width, power_law_modes
from raysweep.theory.kernel_limit import (
    data_plateau,
    ensemble_plateau,
    lazy_curve,
    reused_data_curve,
    width_plateau,
)

TIMES = [1, 10, 100, 1e3, 1e4]


def test_finite_width_against_random_models() -> None:
    modes = power_law_modes(1.5, 0.5, 4096, 4096)
    theory = lazy_curve(modes, TIMES, 256)
    np.testing.assert_allclose(theory, [0.514, 0.194, 0.0758, 0.0426, 0.0388], rtol=2e-3)
    drawn = [modes_of_width(1.5, [0.5], 256, 4096, np.random.default_rng(seed))[0] for seed in range(6)]
    losses = flow(drawn, 0, TIMES).loss
    error = losses.std(0, ddof=1) / np.sqrt(6)
    assert (np.abs(losses.mean(0) - theory) < 4 * error + 0.02 * theory).all()


def test_reused_data_against_an_independent_computation() -> None:
    modes = power_law_modes(1.5, 0.5, 2000, 2000)
    found = reused_data_curve(modes, TIMES, 128)
    np.testing.assert_allclose(found, [0.516, 0.199, 0.0828, 0.0539, 0.0521], rtol=2e-3)
    np.testing.assert_allclose(
        reused_data_curve(modes, TIMES[:3], 1e12), lazy_curve(modes, TIMES[:3], np.inf), rtol=1e-6
    )


def test_curves_end_on_their_plateaus() -> None:
    modes = power_law_modes(1.5, 0.5, 2000, 2000)
    assert lazy_curve(modes, [1e7], 200)[0] == pytest.approx(width_plateau(modes, 200), rel=1e-3)
    assert reused_data_curve(modes, [1e6], 200)[0] == pytest.approx(data_plateau(modes, 200), rel=1e-3)
    assert ensemble_plateau(modes, 200) < width_plateau(modes, 200)
    assert width_plateau(modes, 2000) == data_plateau(modes, 2000) == 0


def test_what_no_mode_reaches_is_left_of_every_loss() -> None:
    modes = power_law_modes(1.5, 0.5, 300, 300)
    less = replace(modes, unreachable=0.25)
    for curve in (lazy_curve, reused_data_curve):
        np.testing.assert_allclose(curve(less, TIMES[:2], 64), curve(modes, TIMES[:2], 64) + 0.25, rtol=1e-12)
    for plateau in (width_plateau, ensemble_plateau, data_plateau):
        for size in (64, 300):
            assert plateau(less, size) == pytest.approx(plateau(modes, size) + 0.25, rel=1e-12)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_plateaus_against_random_matrices(alpha: float) -> None:
    """Within 10 % at 200 features or items: what they leave of a target in their least squares."""
    size, modes = 200, 1600
    tasks = [power_law_modes(alpha, beta, modes, modes) for beta in (0.5, 1.5)]
    root = np.sqrt(np.stack([task.mass for task in tasks], axis=1))
    features, items = [], []
    for seed in range(12):
        psi = np.random.default_rng(seed).standard_normal((modes, size)) * np.sqrt(tasks[0].x)[:, None]
        q, _ = np.linalg.qr(psi)  # of both least squares: what is left is at right angles to psi's columns
        left = root - q @ (q.T @ root)
        features.append((left**2).sum(0))
        target = root / np.sqrt(tasks[0].x)[:, None]
        left = target - q @ (q.T @ target)
        items.append(tasks[0].x @ left**2)
    np.testing.assert_allclose(np.mean(features, axis=0), [width_plateau(task, size) for task in tasks], rtol=0.1)
    np.testing.assert_allclose(np.mean(items, axis=0), [data_plateau(task, size) for task in tasks], rtol=0.1)


def test_infinite_width_is_the_plain_sum() -> None:
    modes = power_law_modes(2, 1.25)
    np.testing.assert_allclose(lazy_curve(modes, TIMES, np.inf), flow([modes], 0, TIMES).loss[0], rtol=1e-5)
    # By the contour, at a width that is as good as infinite.
    np.testing.assert_allclose(lazy_curve(modes, TIMES[:4], 1e14), lazy_curve(modes, TIMES[:4], np.inf), rtol=1e-7)
