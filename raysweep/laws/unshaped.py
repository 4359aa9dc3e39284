"""What counts of successes say of pass@k beyond the trials when nothing is assumed of how rates are distributed.

1 - pass@k is linear in the distribution G of success rates, and the log likelihood of G is concave. So the least and
the largest 1 - pass@k among all G whose likelihood lies within a drop of the maximum (a profile likelihood interval
over all mixtures) are two convex problems, solved here by Newton's method with logarithmic barriers.
"""

from __future__ import annotations

import numpy as np

from raysweep.laws.definition import Array
from raysweep.laws.mesh import Mesh

__all__ = ["extremes"]

_NEWTON = 200  # steps for each weight of the barrier
_GROWTH = 8.0  # of the weight of the aim against the barriers
_CLOSE = 1e-4  # of 1 - pass@k, to the bound
_MAXIMUM = 5e-3  # of the log likelihood, to its maximum
_CENTRED = 1e-3  # decrement at which a weight is done with


def extremes(mesh: Mesh, weights: Array, drop: float) -> Array:
    """Least and largest 1 - pass@k at each budget, [budgets, 2].

    Args:
        weights: Problems that have each of the mesh's counts, [pairs].
        drop: How far the log likelihood may lie below its maximum.
    """
    cells = mesh.odds.size
    best = np.full(cells, 1 / cells)
    push = 1.0
    while cells / push > _MAXIMUM:
        push *= _GROWTH
        best = _climbed(best, np.zeros(cells), push, mesh.chance, weights, None)
    top = float(weights @ np.log(mesh.chance @ best))
    found = np.empty((mesh.failure.shape[1], 2))
    for j, failure in enumerate(mesh.failure.T):
        for end, sign in enumerate((-1.0, 1.0)):
            mix, push = best, 1.0
            while cells / push > _CLOSE:
                push *= _GROWTH
                mix = _climbed(mix, sign * failure, push, mesh.chance, weights, top - drop)
            found[j, end] = failure @ mix + sign * (cells + 1) / push  # the barriers' duality gap: never too narrow
    return np.clip(found, 0, 1)


def _climbed(mix: Array, aim: Array, push: float, chance: Array, weights: Array, floor: float | None) -> Array:
    """The mixture that maximises the barrier's aim from a mixture inside.

    The aim is push x log likelihood + sum of log mix without a floor, and push x aim + log(log likelihood - floor) +
    sum of log mix with one, on the simplex.
    """

    def height(mix: Array) -> float:
        likelihood = float(weights @ np.log(chance @ mix))
        if floor is None:
            return push * likelihood + float(np.log(mix).sum())
        spare = likelihood - floor
        return push * float(aim @ mix) + float(np.log(spare) + np.log(mix).sum()) if spare > 0 else -np.inf

    now = height(mix)
    for _ in range(_NEWTON):
        ratio = chance * mix / (chance @ mix)[:, None]  # derivatives are in units of each weight
        slope = ratio.T @ weights
        inner = (ratio * weights[:, None]).T @ ratio
        if floor is None:
            rise, bend = push * slope + 1, push * inner
        else:
            spare = float(weights @ np.log(chance @ mix)) - floor
            rise = push * aim * mix + slope / spare + 1
            bend = inner / spare + np.outer(slope, slope) / spare**2
        bend[np.diag_indices(mix.size)] += 1
        free, held = np.linalg.solve(bend, np.stack([rise, mix], axis=1)).T
        step = free - held * (mix @ free) / (mix @ held)
        gain = float(rise @ step)
        if gain < _CENTRED:
            break
        size = min(1.0, 0.99 / max(1e-300, -float(step.min())))
        while (new := height(mix * (1 + size * step))) < now + 0.1 * size * gain and size > 1e-10:
            size /= 2
        if size <= 1e-10:
            break
        mix = mix * (1 + size * step)
        mix, now = mix / mix.sum(), new
    return mix
