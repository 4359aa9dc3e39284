"""Reach: how far outside what was fitted a law is asked at all."""

from __future__ import annotations

import math
from collections.abc import Iterable

from raysweep.errors import FitError

__all__ = ["ABSURD", "check_reach"]

ABSURD = 1e12  # times outside what was fitted, where a number is a mistake


def check_reach(
    what: str, values: Iterable[float], of: str, window: tuple[float, float], cure: str = "Check its unit."
) -> None:
    """Refuse values so far outside a window that their unit must be another.

    Args:
        what: The values, as the subject of a sentence.
        values: Positive.
        of: What was fitted, for the reader.
        window: Its least and greatest value.
        cure: What to do.

    Raises:
        FitError: One lies outside by a factor of 1e12 or more.
    """
    values, (low, high) = list(values), window
    if values and not (low / ABSURD < min(values) and max(values) / ABSURD < high < math.inf):
        ends = sorted({min(values), max(values)})
        raise FitError(
            f"{what} must lie within a factor of {ABSURD:.0e} of the {of} fitted ({low:.3g} to {high:.3g}), but "
            f"got {' to '.join(f'{end:.3g}' for end in ends)}. {cure}"
        )
