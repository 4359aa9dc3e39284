"""Priors in a fit: as measurements beside the data, and what the data alone say of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from raysweep.laws.definition import Array, Parameter
from raysweep.laws.group import GroupFit
from raysweep.laws.joint import Joint
from raysweep.laws.prior import Prior

__all__ = ["Pulls", "beside_data"]

_CONTRADICTED = 3.0  # standard deviations between prior and data
_OF_DATA = (
    *("floor_needed", "floor_not_needed", "constraint_contradicted", "shared", "shared_contradicted"),
    *("rivals_by_least_squares", "no_rivals"),
)


@dataclass(frozen=True)
class Pulls:
    """Priors as measurements of a joint law's parameters, [priors] each; mean and sd of its logarithm if it has one."""

    index: npt.NDArray[np.int64]
    mean: Array
    sd: Array
    weight: Array

    @classmethod
    def of(cls, joint: Joint, priors: Sequence[Prior], variance: float) -> Pulls:
        base = joint.base
        found = {
            int(k): prior.coded(base.parameters[base.names.index(prior.name)])
            for prior in priors
            for k in joint.place[:, base.names.index(prior.name)]
        }
        mean, sd = (np.array([one[end] for one in found.values()]) for end in (0, 1))
        return cls(np.array([*found], dtype=np.int64), mean, sd, variance / sd**2)

    def beside(self, u: Array, t: Array, w: Array, means: Array) -> tuple[Array, Array, Array]:
        """Points with these measurements, of `means` [problems or 1, priors], beside them."""
        more = np.repeat(u.mean(axis=2, keepdims=True), self.index.size, axis=2)
        more[:, -1] = -1 - self.index
        t = np.broadcast_to(t, (max(len(t), len(means)), t.shape[1]))
        w = np.broadcast_to(w, (max(len(w), len(means)), w.shape[1]))
        return (
            np.concatenate([u, more], axis=2),
            np.concatenate([t, np.broadcast_to(means, (len(t), self.index.size))], axis=1),
            np.concatenate([w, np.broadcast_to(self.weight, (len(w), self.index.size))], axis=1),
        )


def beside_data(one: GroupFit, plain: GroupFit, priors: Sequence[Prior]) -> GroupFit:
    """A fit with priors, with what `plain`, the fit of the data alone, says of its form and of the priors."""
    kept = {code: plain.details[code] for code in _OF_DATA if code in plain.details}
    said, contradicted = [], []
    for prior in priors:
        p = one.law.parameters[one.law.names.index(prior.name)]
        text = prior.text(p)
        if plain.error is not None:
            said.append(f"{text}; without it there is no fit: {plain.error}")
            continue
        alone, ends = plain.params[prior.name], plain.intervals.get(prior.name)
        text += f"; without it {alone:.4g}"
        if ends is not None:
            away = _away(prior, p, alone, ends, plain.level)
            text += f" [{ends[0]:.4g}, {ends[1]:.4g}], {away:.1f} standard deviations away"
            if away > _CONTRADICTED:
                contradicted.append(
                    f"The data alone put {prior.name} at {alone:.4g}, {away:.1f} standard deviations (of prior and "
                    f"data together) from its prior {prior.mean:g} +- {prior.sd:g}: the fit averages what "
                    "disagrees. Look at the data's notes, or leave the prior out."
                )
        said.append(text)
    kept["prior"] = f"Priors: {'; '.join(said).removesuffix('.')}."
    if contradicted:
        kept["prior_contradicted"] = " ".join(contradicted)
    return replace(one, details={**one.details, **kept}, rivals=plain.rivals)


def _away(prior: Prior, p: Parameter, alone: float, ends: tuple[float, float], level: float) -> float:
    """How many standard deviations, of prior and data together, lie between a prior's mean and the data's estimate."""
    mean, sd = prior.coded(p)
    with np.errstate(divide="ignore"):
        alone, low, high = (float(np.log(end)) if p.log else end for end in (alone, *ends))
    side = high - alone if mean > alone else alone - low  # towards the prior
    return abs(alone - mean) / math.hypot(sd, side / float(ndtri((1 + level) / 2)))
