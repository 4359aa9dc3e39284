"""What breaks exactness: ways in which samples are often changed after they were drawn, and whether the posterior is
still that of what results.

Source: arXiv 2602.00315 uses or may have used several of them (guidance, denoising, clipping, a tempered posterior).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raysweep import data
from raysweep.experiment import Sample
from raysweep.oracle.audit import calibration
from raysweep.oracle.audits import Check
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.recipe import Recipe

__all__ = ["Change", "changes", "grey_levels_and_noise"]

_TEMPERED, _COOL = 2.0, 0.8
_CHUNK = 256  # items whose densities are differentiated at a time


@dataclass(frozen=True)
class Change:
    """A change of a sample, and the two checks of its labels against the world's posterior.

    Attributes:
        name, about: What is done.
        calibration: mean(-log r_y) minus mean entropy, in standard errors.
        error: Error of the most probable class minus 1 - E max r, in standard errors.
    """

    name: str
    about: str
    calibration: Check
    error: Check

    @property
    def exact(self) -> bool:
        """Whether both checks pass: the posterior may be that of the changed sample."""
        return self.calibration.passed and self.error.passed

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        values = {"calibration": self.calibration.value, "error": self.error.value, "limit": self.calibration.limit}
        return {"change": self.name, "about": self.about, **values, "exact": self.exact}


def changes(world: FlowWorld, levels: int, noise: float, items: int) -> Iterator[Change]:
    """Every change in turn; the first is none.

    Args:
        levels: Grey levels of the images that the world was trained on.
        noise: Standard deviation of the noise that it was trained on; denoising needs some.
        items: Generated pairs.
    """
    sample = world.sample(items, "breaks")
    yield _checked("none", "the world itself", sample)
    log_r = sample.log_posterior / _TEMPERED
    log_r = log_r - np.log(np.exp(log_r).sum(1, keepdims=True))
    yield _checked("tempered", f"r^(1/{_TEMPERED:g}) in place of r", Sample(sample.x, sample.y, log_r))
    cool = world.sample(items, "breaks", _COOL)
    yield _scored(world, f"temperature {_COOL:g}", "latent noise scaled, posterior at temperature 1", cool.x, cool.y)
    yield _scored(world, "guidance", "of two samples of a class, the one whose class is surer", *_surer(world, items))
    if noise:
        x = _denoised(world, sample, noise)
        yield _scored(world, "denoised", "x + s^2 grad log f_y(x), s the noise of training", x, sample.y)
    kinds: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
        "clipped": ("to [-1, 1]", lambda x: x.clip(-1, 1)),
        "grey levels": (f"rounded to {levels} levels, as files store images", lambda x: _rounded(x, levels)),
        "bfloat16": ("rounded to bfloat16", lambda x: torch.from_numpy(x).bfloat16().float().numpy()),
    }
    for name, (about, change) in kinds.items():
        yield _scored(world, name, about, change(sample.x), sample.y)


def grey_levels_and_noise(recipe: Recipe) -> tuple[int, float]:
    """What a recipe's world was trained on: grey levels of its images, and the standard deviation of its noise."""
    known = recipe.model_dump()
    levels = data.levels(str(known["data"])) if "data" in known else 256
    return levels, float(known.get("noise", 0.0))


def _checked(name: str, about: str, sample: Sample) -> Change:
    found = {check.name: check for check in calibration(sample)}
    return Change(name, about, found["self_calibration"], found["bayes_error"])


def _scored(world: FlowWorld, name: str, about: str, x: np.ndarray, y: np.ndarray) -> Change:
    x = np.ascontiguousarray(x, dtype=np.float32)
    return _checked(name, about, Sample(x, y, world.log_posterior(x)))


def _surer(world: FlowWorld, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of samples of a class, and of each pair the one with the larger posterior of its class."""
    sample = world.sample(2 * items, "breaks")
    own = sample.log_posterior[np.arange(len(sample.y)), sample.y]
    better = []
    for k in range(world.classes):
        members = np.flatnonzero(sample.y == k)
        pairs = members[: len(members) // 2 * 2].reshape(-1, 2)
        better.append(pairs[np.arange(len(pairs)), own[pairs].argmax(1)])
    chosen = np.concatenate(better)
    return sample.x[chosen], sample.y[chosen]


def _denoised(world: FlowWorld, sample: Sample, noise: float) -> np.ndarray:
    """One step up the log-density of each item's own class, as denoising does (arXiv 2412.06329, section 2.5)."""
    parts = []
    for start in range(0, len(sample.x), _CHUNK):
        part = slice(start, start + _CHUNK)
        x = torch.from_numpy(sample.x[part]).to(world.device).double().requires_grad_()
        y = torch.from_numpy(sample.y[part]).to(world.device)
        (slope,) = torch.autograd.grad(world.flow.log_density(x)[torch.arange(len(x)), y].sum(), x)
        parts.append((x + noise**2 * slope).detach().cpu().numpy())
    return np.concatenate(parts)


def _rounded(x: np.ndarray, levels: int) -> np.ndarray:
    """The middle of the grey level in [-1, 1] that a number falls into."""
    level = np.floor((x + 1) / 2 * levels).clip(0, levels - 1)
    return np.asarray((level + 0.5) * 2 / levels - 1)
