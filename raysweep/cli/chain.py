"""The two steps of `raysweep fit --then`: from scales to a loss, and from the loss to a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysweep.cli.asking import Asked
from raysweep.errors import FitError

if TYPE_CHECKING:
    from raysweep.laws.points import Points
    from raysweep.laws.request import FitRequest
    from raysweep.laws.result import Fit

__all__ = ["two_steps"]


def two_steps(
    data: Sequence[str], asked: Asked, then: str | None, metric: str | None, rows: str, quiet: bool
) -> tuple[FitRequest, list[tuple[Fit, Points]]]:
    """The request of the first step; the fit of each step, with its points.

    Raises:
        FitError: An option lacks or is wrong, or the table cannot answer.
    """
    from raysweep.cli.laws import source
    from raysweep.laws.chain import chained, check
    from raysweep.laws.points import points
    from raysweep.laws.request import RequestError

    if then is None or metric is None:
        given = "--metric alone" if then is None else "--then alone"
        raise FitError(f"fit: --then and --metric must be given together, but got {given}")
    request = asked.request("fit")
    try:
        check(request, then, metric)
        taken = points(source(data, rows, quiet), request, (metric,))
        first, second, kept = chained(taken, request, then, metric)
    except RequestError as error:
        raise FitError(f"fit: --{error.key}: {error.rule}") from error
    return request, [(first, taken), (second, kept)]
