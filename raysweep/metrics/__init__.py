"""Scores of a classifier against the exact posterior; every function is batched over lanes."""

from raysweep.metrics.calibration import expected_calibration_error, posterior_gap
from raysweep.metrics.decomposition import decompose
from raysweep.metrics.passk import pass_at_k

__all__ = ["decompose", "expected_calibration_error", "pass_at_k", "posterior_gap"]
