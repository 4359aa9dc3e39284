"""The F test of lack of fit flags a wrong form and leaves a right one alone."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.laws.fitting import fit_groups
from raysweep.laws.forms import law
from raysweep.laws.group import Data, lack_of_fit
from raysweep.laws.request import Options


def world(rng: np.random.Generator, floor: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.repeat(np.geomspace(10, 10_000, 8), 5)
    return x, (floor + 3.0 * x**-0.7) * np.exp(rng.normal(0, 0.1, x.size))


def test_a_floor_is_flagged_under_a_power_law_and_not_under_its_own() -> None:
    x, y = world(np.random.default_rng(0), floor=0.2)
    found = [fit_groups(law(n), [Data(x[None], y)], ["x"], "y", Options(draws=0))[0] for n in ("power", "power+floor")]
    assert ["lack_of_fit" in fit.notes for fit in found] == [True, False]


def test_p_values_are_uniform_where_the_law_holds() -> None:
    rng, found = np.random.default_rng(1), []
    for _ in range(300):
        x, y = world(rng, floor=0.0)
        slope, level = np.polyfit(np.log(x), np.log(y), 1)
        found.append(lack_of_fit(np.log(x), np.log(y) - level - slope * np.log(x), 2, np.arange(x.size)))
    p = np.array(found, dtype=float)
    assert p.mean() == pytest.approx(0.5, abs=0.07)
    assert (p < 0.1).mean() == pytest.approx(0.1, abs=0.06)


def test_without_replicates_there_is_no_test() -> None:
    x = np.arange(1.0, 9.0)
    assert lack_of_fit(x, np.zeros(8), 2, np.arange(8)) is None
    assert lack_of_fit(np.repeat(x, 2), np.zeros(16), 2, np.repeat(np.arange(8), 2)) is None


def test_errors_that_clusters_share_make_it_rarer_never_more_frequent() -> None:
    rng, found = np.random.default_rng(2), []
    x, run = np.tile(np.linspace(0, 7, 8), 5), np.repeat(np.arange(5), 8)
    root = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8))))
    for _ in range(300):
        y = (rng.standard_normal((5, 8)) @ root.T).ravel()
        found.append(lack_of_fit(x, y - np.polyval(np.polyfit(x, y, 1), x), 2, run))
    assert np.mean(np.array(found, dtype=float) < 0.1) < 0.05
