"""Exponents as analysis/features_paper.py takes them: ranges over parts of a window, the compute-optimal frontier."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from raysweep.claims import read_claims
from raysweep.theory.exponents import compute_optimal, mode_exponent
from raysweep.theory.features import flow, modes_of_width, power_law_modes
from raysweep.theory.kernel_limit import lazy_curve

ROOT = Path(__file__).parent.parent


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of analysis/ as a module, as where one of them is run."""
    monkeypatch.syspath_prepend(ROOT / "analysis")
    return importlib.import_module("features_common")


@pytest.fixture
def compute(common: ModuleType) -> ModuleType:
    return importlib.import_module("features_compute")


def test_parts_of_a_window_span_at_least_half_of_its_logarithm(common: ModuleType) -> None:
    x = np.geomspace(10, 1000, 9)
    found = [(part.start, part.stop - 1) for part in common.parts(x)]
    assert found[0] == (0, 8)
    assert sorted(found) == [(i, j) for i in range(9) for j in range(9) if j - i >= 4]
    assert [(p.start, p.stop) for p in common.parts(np.array([1.0, 2.0, 1e4]))] == [(0, 3), (1, 3)]


def test_the_range_of_an_exponent_is_that_of_its_local_values(common: ModuleType) -> None:
    x = np.geomspace(10, 1000, 21)
    straight = common.exponent("t", x, 3 * x**-0.75)
    assert (straight.value, straight.low, straight.high, straight.seeds) == (0.75, 0.75, 0.75, 0)
    assert straight.window == "t 10 to 1e+03; interval over parts of it"
    u = np.log(x)
    bent = common.exponent("t", x, np.exp(-0.5 * u - 0.05 * u**2))  # its local exponent is .5 + .1 u
    # The exponent of a parabola over a stretch is that at its middle: the parts' middles reach a quarter to each side.
    reach = (u[-1] - u[0]) / 4
    expected = 0.5 + 0.1 * (u.mean() + np.array([0, -reach, reach]))
    assert [bent.value, bent.low, bent.high] == pytest.approx(expected, abs=1e-3)


def test_windows_of_time_are_those_of_the_modes_that_are_learned(common: ModuleType) -> None:
    """From 10 modes to one in twenty, and in `features_limits` from 5 to a share of the plateau's time."""
    time, limits = (importlib.import_module(f"features_{name}") for name in ("time", "limits"))
    beta, gamma = [0.5, 0.5, 1.25], [0.0, 1.0, 1.0]
    settings = {"alpha": [2.0] * 3, "beta": beta, "gamma": gamma, "inputs": [800] * 3, "width": [2048] * 3}
    power = np.array([mode_exponent(2, b, g > 0) for b, g in zip(beta, gamma, strict=True)])
    np.testing.assert_allclose(power, [2, 1.5, 2])
    low, high = time.BEFORE_LAST.bounds(settings)
    np.testing.assert_allclose(low, 10**power)
    np.testing.assert_allclose(high, 40**power)
    low, high = time.BEFORE_PLATEAU.bounds(settings)
    np.testing.assert_allclose(low, 10**power)
    np.testing.assert_allclose(high, [102.4**2, 102.4**1.5, 102.4 ** (1 / 0.75)])
    low, high = limits.BEFORE_PLATEAU.bounds(settings)
    np.testing.assert_allclose(low, 5**power)
    np.testing.assert_allclose(high, 0.005 * 2048**power)


def test_windows_without_a_bottleneck_begin_late_and_past_the_crossover(common: ModuleType) -> None:
    """At 10^4, or 10^5 where alpha reaches 4, and at a thousand times gamma^(-1 / (1 - beta)); random targets alike."""
    time, phase = (importlib.import_module(f"features_{name}") for name in ("time", "phase"))
    settings = {"beta": [0.5, 0.5, 0.5, 0.5, 1.25], "gamma": [0.0, 1.0, 10.0, 0.1, 0.1]}
    for window, first in ((time.UNBOUNDED, 1e4), (time.RANDOM_TARGETS, 1e4), (phase.LATE, 1e5)):
        low, high = window.bounds(settings)
        np.testing.assert_allclose(low, [first, first, first, 1e5, first])
        assert high == np.inf


@pytest.mark.parametrize(("alpha", "beta", "noise"), [(1.5, 0.5, 0.0), (2, 1.25, 0.0), (1.5, 3.5, 0.3)])
def test_lazy_frontiers_of_three_phases(alpha: float, beta: float, noise: float, compute: ModuleType) -> None:
    """Of the deterministic equivalent, by envelope and by IsoFLOP: L* within .04 and N* within .08 of the table."""
    t = np.geomspace(1, 1e6, 37)
    modes = power_law_modes(alpha, beta)
    still, noisy = flow([modes, modes], 0.0, t, [0.0, noise]).loss
    curves = {n: lazy_curve(modes, t, n) + noisy - still for n in (32, 64, 91, 128, 181, 256, 362, 512, 724, 1448)}
    window = compute.exponents(curves, t)[1]
    for found in compute.both(curves, t, window):
        least, width = compute_optimal(alpha, beta, rich=False)
        assert found[0] == pytest.approx(least, abs=0.04)
        assert found[1] == pytest.approx(width, abs=0.08)


def test_a_rich_frontier_of_a_hard_task_is_steeper_than_the_lazy_one(compute: ModuleType) -> None:
    """Of random models, by both ways: L* within .04 of the table, and the gain .02 of .067."""
    widths, seeds, t = (16, 23, 32, 45, 64, 91, 128, 181, 256), 4, np.geomspace(1, 1e4, 41)
    modes = [modes_of_width(2, [0.5], n, 8 * n, np.random.default_rng(s))[0] for n in widths for s in range(seeds)]
    found = []
    for gamma in (0.0, 1.0):
        loss = flow(modes, gamma, t).loss.reshape(len(widths), seeds, -1).mean(1)
        curves = dict(zip(widths, loss, strict=True))
        found.append(compute.both(curves, t, compute.exponents(curves, t)[1]))
        theory = compute_optimal(2, 0.5, rich=gamma > 0)
        np.testing.assert_allclose(found[-1][:, 0], theory[0], atol=0.04)
        np.testing.assert_allclose(found[-1][:, 1], theory[1], atol=0.08)
    assert (found[1] - found[0])[:, 0] == pytest.approx(0.4 - 1 / 3, abs=0.02)


def test_the_page_has_both_frontiers_as_the_table_of_claims() -> None:
    page = (ROOT / "docs/features.md").read_text()
    claims = [c for c in read_claims(ROOT / "analysis/claims/features.csv") if c.id == "H7"]
    assert len(claims) == 40
    for claim in claims:
        name, task, way = claim.setting.removeprefix("exponent of ").split("; ")
        phase, how, alpha, beta = task.replace(" task", "").split(", ")
        of = f"{alpha.removeprefix('alpha ')}, {beta.removeprefix('beta ')}".replace("0.", ".")
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {phase} | {of} | {how.split()[0]} |"))
        theory, *ways = row.strip("| ").split(" | ")[3:][3 * (name == "N*") :][:3]
        shown = [float(n) for n in re.findall(r"[.\d]+", f"{theory} {ways[way == 'by IsoFLOP']}")]
        found = claim.measured
        assert shown == pytest.approx([claim.theory, found.value, found.low, found.high], abs=6e-4)
