"""The card says how many of a world's samples are no images."""

from __future__ import annotations

import re

import numpy as np
import pytest

from raysweep.experiment import Sample
from raysweep.oracle.card import _strays


@pytest.mark.parametrize(
    ("noise", "expected"), [(0.0, "2 of 3 .* beyond 2 and -2: no images"), (0.5, "1 of 3 .* 5 and")]
)
def test_samples_that_leave_the_range_of_images_and_their_noise_are_counted(noise: float, expected: str) -> None:
    x = np.array([[0.9, -1.9], [0.0, 4.0], [-300.0, 0.0]], dtype=np.float32)
    sample = Sample(x, np.zeros(3, dtype=np.int64), np.zeros((3, 1)))
    assert re.match(expected, _strays(sample, noise))
