"""Draws of a fit as plain data: the draws themselves, their covariance, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from raysweep.laws.bootstrap import Bootstrap
from raysweep.laws.definition import Law
from raysweep.laws.growth import Growth

__all__ = ["covariance", "draws_of", "draws_record"]

_LEAST = 1e-300  # log of an amplitude that vanishes in a draw
_SCALARS = ("kind", "runs", "spent", "spread", "redrawn", "discarded", "seed")
_TUPLES = ("along", "window")


def covariance(sample: Bootstrap) -> dict[str, Any]:
    """The covariance of the parameters' errors, as the draws show it.

    Parameters that are positive, with multiplicative errors, count by their logs, as they do in their intervals. Draws
    of whole runs are enlarged by n / (n - p), the degrees of freedom that the fit used up; those of a wild bootstrap
    follow Student's t with n - p degrees already.

    Returns:
        `names`, such as `E`, `log A`, `alpha`; `matrix`, a list of rows.
    """
    log = np.array([p.log for p in sample.law.parameters])
    scaled = np.where(log, np.log(np.maximum(np.where(log, sample.draws, 1.0), _LEAST)), sample.draws)
    matrix = np.atleast_2d(np.cov(scaled, rowvar=False))
    if sample.kind == "case":
        matrix = matrix * sample.runs / sample.freedom
    names = [f"log {p.name}" if p.log else p.name for p in sample.law.parameters]
    return {"names": names, "matrix": matrix.tolist()}


def draws_record(sample: Bootstrap) -> dict[str, Any]:
    """A bootstrap as plain data: `values`, the draws of each parameter by its name, and how they were drawn."""
    columns = {name: sample.draws[:, j].tolist() for j, name in enumerate(sample.law.names)}
    labels = None if sample.labels is None else sample.labels.tolist()
    growth = None if sample.growth is None else asdict(sample.growth)
    return {**{name: getattr(sample, name) for name in _SCALARS}, "growth": growth, "units": labels, "values": columns}


def draws_of(record: Mapping[str, Any], law: Law, params: Mapping[str, float]) -> Bootstrap:
    """The bootstrap of `law` that `draws_record` wrote, around its estimate `params`.

    Raises:
        KeyError, TypeError, ValueError: The record is not one of this law.
    """
    columns = [np.asarray(record["values"][name], dtype=np.float64) for name in law.names]
    growth = record.get("growth")
    return Bootstrap(
        law=law,
        values=np.array([params[name] for name in law.names], dtype=np.float64),
        draws=np.stack(columns, axis=1),
        labels=None if record["units"] is None else np.asarray(record["units"]),
        growth=None if growth is None else Growth(**{**growth, **{key: tuple(growth[key]) for key in _TUPLES}}),
        **{name: record[name] for name in _SCALARS},
    )
