"""Dependence: clusters of rows whose errors are correlated though nobody named them, found in a fit's residuals.

Checkpoints of one run carry an error on to the next one. Where residuals of neighbouring points are correlated, rows
are no units of an interval: the units are runs, where a scale or another column separates them, or else blocks of
neighbouring points (Künsch 1989).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from raysweep.laws.batch import Group
from raysweep.laws.definition import Array, Law
from raysweep.laws.resampling import beyond, tangent

__all__ = ["Dependence", "clustered", "dependence", "levels_of"]

_UNLIKELY = 0.01  # p-value below which neighbours count as correlated
_DRAWS = 1000  # data sets of independent errors, whose statistic a p-value compares with
_MANY = 1000  # points from which on the statistic is normal
_SLIGHT = 1.0  # standard errors that no number of points makes significant
_FEWEST = 16  # points below which correlation is not seen and blocks are too short
_BLOCKS = 8  # found by coverage
_LEVELS = 50  # values of a column beyond which it is not looked at
_EXACT = 1e-8  # residuals below this are rounding errors

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dependence:
    """Clusters within which errors are correlated.

    Attributes:
        z: The correlation of neighbours' residuals in standard errors.
        p_value: The share of data sets with independent errors in which it is as clear.
        along: What neighbours are ordered by.
        unit: What the clusters are called: a scale, a column, or `block`.
        cluster: The cluster of each point, from 0, [points].
    """

    z: float
    p_value: float
    along: str
    unit: str
    cluster: Labels


@dataclass(frozen=True)
class _Chains:
    """Points as sequences, in each of which neighbours may be correlated.

    Attributes:
        chain: The sequence of each point, from 0, [points].
        place: Where it stands there, [points]; points at one place are replicates.
        column: Whether the sequences are the values of another column.
    """

    along: str
    unit: str
    chain: Labels
    place: Array
    column: bool


def levels_of(column: Labels, x: Array) -> Labels | None:
    """The values of a column, from 0, [points]; None where there is one, where they are too many, or where they follow
    a scale, so that the law itself accounts for them.

    Args:
        column: Any numbers, [points].
        x: Scales, [axes, points].
    """
    values, code = np.unique(column, return_inverse=True)
    if not 2 <= values.size <= min(_LEVELS, column.size // 2):
        return None
    orders = (np.lexsort((code, axis)) for axis in x)
    follows = any(np.count_nonzero(np.diff(code[order])) == values.size - 1 for order in orders)
    return None if follows else code


def clustered(group: Group, names: Sequence[str]) -> Group:
    """The group with clusters that its residuals show, where its rows are their own and neighbours' are correlated."""
    data, law = group.data, group.law
    if data.run is not None:
        return group
    found = dependence(law, names, data.x, data.y, group.weights, group.values, data.others)
    if found is None:
        return group
    count = int(found.cluster.max()) + 1
    units = f"{count} blocks of neighbouring points" if found.unit == "block" else f"the {count} values of {found.unit}"
    text = (
        f"Residuals of neighbouring points along {found.along} are correlated ({found.z:.1f} standard errors, "
        f"p = {found.p_value:.1g}), as those of checkpoints of one run are, or those of a law of the wrong form. "
        f"Intervals take {units} as their independent units, not rows. Where rows belong to several runs, name the "
        "column of runs with `run=`."
    )
    data = replace(data, run=found.cluster, cluster=found.unit)
    return replace(group, data=data, details={**group.details, "correlated_rows": text})


def dependence(
    law: Law, names: Sequence[str], x: Array, y: Array, weights: Array, fitted: Array, others: Mapping[str, Labels]
) -> Dependence | None:
    """The strongest correlation of neighbours' residuals, with its clusters; None where there is none.

    The statistic is the sum of products of neighbouring residuals, freed of what the fit took from it, over its
    standard error: the larger of that for equal variances and that for unequal ones (the root of the sum of squared
    products), so that neither noise that grows nor heavy tails look like correlation. Its distribution is that of
    simulated independent errors: few residuals are correlated by less than the normal distribution allows for.

    Args:
        names: The scales' columns.
        x: Scales, [axes, points].
        y: Measurements, [points].
        weights: Those of the fit, [points].
        fitted: Its values, [parameters].
        others: Columns that the fit did not use, numbered, [points] each.
    """
    there = weights > 0
    if not there.all() or y.size < _FEWEST:
        return None
    t = np.log(y)
    centre, root, q = tangent(law, np.log(x), t, weights, fitted)
    residual = (t - centre) * root
    if np.sqrt((residual**2).mean()) < _EXACT:
        return None
    chains = list(_sequences(names, x, others))
    found = [float(_statistic(one, residual, root, q)) for one in chains]
    z = max(found, default=0.0)
    if z <= _SLIGHT:
        return None
    p_value = _p_value(z, chains, root, q)
    if p_value >= _UNLIKELY:
        return None
    best = chains[found.index(z)]
    cluster = _units(best, x, max(_BLOCKS, len(law.parameters) + 2))
    unit = best.unit if cluster.max() == best.chain.max() > 0 else "block"
    return Dependence(z, p_value, best.along, unit, cluster)


def _p_value(z: float, chains: Sequence[_Chains], root: Array, q: Array) -> float:
    """The share of data sets with independent errors whose largest statistic is z or more."""
    if root.size > _MANY:
        return min(1.0, len(chains) * float(ndtr(-z)))
    noise = np.random.default_rng(0).standard_normal((_DRAWS, root.size))
    noise -= noise @ q @ q.T
    largest = np.max([_statistic(one, noise, root, q) for one in chains], axis=0)
    return (1 + int((largest >= z).sum())) / (1 + _DRAWS)


def _sequences(names: Sequence[str], x: Array, others: Mapping[str, Labels]) -> Iterator[_Chains]:
    for a, name in enumerate(names):
        rest = np.delete(x, a, axis=0)
        if len(rest):
            chain: Labels = np.unique(rest, axis=1, return_inverse=True)[1].ravel().astype(np.int64)
        else:
            chain = np.zeros(x.shape[1], dtype=np.int64)
        unit = ", ".join(other for other in names if other != name)
        yield _Chains(name, unit, chain, x[a], column=False)
    size = np.log(x).sum(axis=0)
    for name, column in others.items():
        code = levels_of(column, x)
        if code is not None and np.unique(np.stack([code, size]), axis=1).shape[1] == size.size:
            yield _Chains(", ".join(names), name, code, size, column=True)


def _statistic(chains: _Chains, residual: Array, root: Array, q: Array) -> Array:
    """The correlation of neighbours in standard errors, for residuals [..., points]; 0 where there are too few."""
    none = np.zeros(residual.shape[:-1])
    if chains.column:  # levels of the column are another matter (`pooling`): they are taken out
        more = beyond(q, np.eye(chains.chain.max() + 1)[chains.chain] * root[:, None])
        residual, q = residual - residual @ more @ more.T, np.hstack([q, more])
    order = np.lexsort((chains.place, chains.chain))
    chain, place = chains.chain[order], chains.place[order]
    new = np.concatenate([[True], (np.diff(chain) != 0) | (np.diff(place) != 0)])
    first = np.flatnonzero(new)
    if first.size < _FEWEST:
        return none
    # Replicates act as their mean.
    many = np.sqrt(np.diff(np.append(first, order.size)))
    e = np.add.reduceat(residual[..., order], first, axis=-1) / many
    rows = np.add.reduceat(q[order], first, axis=0) / many[:, None]
    pair = np.flatnonzero(np.diff(chain[first]) == 0)
    spare = first.size - q.shape[1]
    if spare < 1 or pair.size < _FEWEST // 2:
        return none
    product = e[..., pair] * e[..., pair + 1]
    variance = (e**2).sum(axis=-1) / spare
    taken = variance * float((rows[pair] * rows[pair + 1]).sum())  # a fit makes neighbours' residuals differ
    error = np.maximum(math.sqrt(pair.size) * variance, np.sqrt((product**2).sum(axis=-1)))
    return np.asarray((product.sum(axis=-1) + taken) / error)


def _units(chains: _Chains, x: Array, fewest: int) -> Labels:
    """The chains, where they meet at some scale or are enough; else each cut into blocks of neighbours."""
    chain = chains.chain
    count = int(chain.max()) + 1
    scales = np.unique(x, axis=1).shape[1]
    meet = np.unique(np.vstack([x, chain]), axis=1).shape[1] > scales
    if count >= fewest or meet:
        return chain
    pieces = -(-fewest // count)
    out = np.empty_like(chain)
    for one in range(count):
        mine = chain == one
        places, place = np.unique(chains.place[mine], return_inverse=True)
        out[mine] = one * pieces + place * pieces // places.size
    return np.unique(out, return_inverse=True)[1]
