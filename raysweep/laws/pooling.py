"""Pooling: set-ups that a table tells apart in a column that nobody named, fitted as if they were one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from raysweep.laws.batch import Group
from raysweep.laws.definition import Array
from raysweep.laws.dependence import levels_of
from raysweep.laws.resampling import beyond, tangent

__all__ = ["pooled"]

_SUSPICIOUS = 0.001  # p-value below which values of a column differ, over the number of columns
_EXACT = 1e-8  # residuals below this are rounding errors


def pooled(group: Group, residual: Array) -> dict[str, str]:
    """A note for the column whose values explain most of the log residuals, [points], if more than chance does."""
    data = group.data
    codes = {name: levels_of(column, data.x) for name, column in data.others.items() if name != data.cluster}
    tested = {name: code for name, code in codes.items() if code is not None}
    if not tested or not (group.weights > 0).all() or math.sqrt(float((residual**2).mean())) < _EXACT:
        return {}
    found = {name: _p_value(group, residual, code) for name, code in tested.items()}
    name = min(found, key=lambda one: found[one])
    if found[name] * len(found) >= _SUSPICIOUS:
        return {}
    text = (
        f"Residuals differ between the values of {name} (F test, p = {found[name]:.1g}), which was not named: fit each "
        f"with `by={name!r}`, or choose one with `where=`. If its values are runs, name it with `run={name!r}`."
    )
    return {f"pooled_{name}": text}


def _p_value(group: Group, residual: Array, code: npt.NDArray[np.int64]) -> float:
    """The p-value of the F test that levels of a column add nothing to the law.

    Where rows form clusters, these are the units: their mean residuals are compared. A column that varies within them
    is not tested (1).
    """
    data, values = group.data, int(code.max()) + 1
    if data.run is not None:
        cluster = np.unique(data.run, return_inverse=True)[1]
        size = np.bincount(cluster)
        level = np.bincount(cluster, code) / size
        if not np.array_equal(level[cluster], code):
            return 1.0
        e, q, root = np.bincount(cluster, residual) / size, np.ones((size.size, 1)) / math.sqrt(size.size), np.ones(1)
        code = level.astype(np.int64)
    else:
        _, root, q = tangent(group.law, np.log(data.x), np.log(data.y), group.weights, group.values)
        e = residual * root
    more = beyond(q, np.eye(values)[code] * root[:, None])
    extra, spare = more.shape[1], e.size - q.shape[1] - more.shape[1]
    if extra < 1 or spare < 1:
        return 1.0
    explained = float(((more.T @ e) ** 2).sum())
    rest = float(((e - q @ (q.T @ e)) ** 2).sum()) - explained
    return float(fdtrc(extra, spare, (explained / extra) / (rest / spare))) if rest > 0 else 0.0
