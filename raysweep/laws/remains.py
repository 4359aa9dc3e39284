"""What a fit leaves of its data, merged into few cells, so that how far its law may be wrong can be judged later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array

__all__ = ["Remains", "remains"]

_MOST = 200  # cells


@dataclass(frozen=True)
class Remains:
    """Residuals of a fit.

    Attributes:
        u: Mean log scales, [axes, cells].
        residual: Mean log residuals, [cells].
        weight: Total weights, where those of points have mean 1, [cells].
        within: Weighted sum of squared deviations from the cells' means.
        spare: Points less cells.
    """

    u: Array
    residual: Array
    weight: Array
    within: float
    spare: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        lists = {name: getattr(self, name).tolist() for name in ("u", "residual", "weight")}
        return {**lists, "within": self.within, "spare": self.spare}

    @staticmethod
    def of(record: Mapping[str, Any]) -> Remains:
        """What `to_json` wrote."""
        u, residual, weight = (np.asarray(record[name], dtype=np.float64) for name in ("u", "residual", "weight"))
        return Remains(u, residual, weight, float(record["within"]), int(record["spare"]))


def remains(u: Array, residual: Array, weights: Array) -> Remains:
    """Residuals as means of points at equal scales or, beyond 200 of those, at neighbouring ones.

    Args:
        u: Log scales, [axes, points].
        residual: Log residuals, [points].
        weights: Non-negative, [points].
    """
    there = weights > 0
    u, residual, weights = u[:, there], residual[there], weights[there] / weights[there].mean()
    places, cell = np.unique(u[0] if len(u) == 1 else u, axis=-1, return_inverse=True)
    places, cell = np.atleast_2d(places), cell.ravel()
    if places.shape[1] > _MOST:
        cell = _halved(places)[cell]
    total = np.bincount(cell, weights).astype(np.float64)
    *scales, mean = (np.bincount(cell, weights * one) / total for one in (*u, residual))
    within = float((weights * (residual - mean[cell]) ** 2).sum())
    return Remains(np.stack(scales), mean, total, within, residual.size - total.size)


def _halved(u: Array) -> npt.NDArray[np.int64]:
    """A cell for each of many points, u [axes, points]: the widest is halved at its median until there are 200."""
    cells = [np.arange(u.shape[1])]
    spans = [np.ptp(u, axis=1)]
    while len(cells) < _MOST:
        widest = int(np.argmax([span.max() for span in spans]))
        rows, axis = cells.pop(widest), int(spans.pop(widest).argmax())
        rows = rows[np.argsort(u[axis, rows], kind="stable")]
        for half in np.array_split(rows, 2):
            cells.append(half)
            spans.append(np.ptp(u[:, half], axis=1))
    out = np.empty(u.shape[1], dtype=np.int64)
    for i, rows in enumerate(cells):
        out[rows] = i
    return out
