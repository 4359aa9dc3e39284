"""The conformal interval is a record of how a law did beyond the scales that it was fitted to."""

from __future__ import annotations

import numpy as np

from raysweep.conformal import conformal
from raysweep.laws.request import FitRequest


def test_the_conformal_interval_learns_from_errors_that_the_law_does_not_expect() -> None:
    x, rng = np.repeat(np.geomspace(10, 1e4, 10), 3), np.random.default_rng(0)
    request = FitRequest(x=("x",), y="y")
    straight = 3 * x**-0.4 * np.exp(0.03 * rng.standard_normal(x.size))
    right, wrong = conformal(x[None], straight, request), conformal(x[None], straight + 0.15, request)
    assert right is not None
    assert wrong is not None
    assert right.level == wrong.level == 0.95
    narrow, wide = (np.log(one.widened([1.0, 1.1], [3e4])) for one in (right, wrong))
    assert np.log(1.1) <= narrow[1] - narrow[0] < 1.5 * np.log(1.1)  # its own interval is about right
    assert wide[1] - wide[0] > 3 * np.log(1.1)  # a floor that the law lacks
    assert wrong.widened([1.0, 1.1], [1e4]) == [1.0, 1.1]  # within what was measured
    assert conformal(x[None, :12], straight[:12], request) is None  # four scales leave none to be wrong at
