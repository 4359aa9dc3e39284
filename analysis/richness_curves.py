"""Curves of richness.py: losses of a setting over seeds, exponents in a window with intervals, and lazy theory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from common import Array, measured, over_seeds

from raysweep.claims import Measured
from raysweep.laws.window import Window
from raysweep.theory.circle import modes
from raysweep.theory.features import flow

LEAST = 4  # times in a window


@dataclass(frozen=True)
class Curve:
    """One setting's losses.

    Attributes:
        key: The setting.
        t: [times].
        loss: [times, seeds].
        seeds: The seeds that did not diverge.
    """

    key: dict[str, object]
    t: Array
    loss: Array
    seeds: tuple[str, ...]

    def within(self, window: Window) -> Curve | None:
        """The part in a window, if it holds enough times."""
        keep = window.mask({"t": self.t}, "t")
        return replace(self, t=self.t[keep], loss=self.loss[keep]) if keep.sum() >= LEAST else None

    def of(self, seeds: tuple[str, ...]) -> Array:
        """[times, seeds] losses of some of the seeds."""
        return self.loss[:, [self.seeds.index(seed) for seed in seeds]]

    @property
    def mean(self) -> Array:
        """[times] geometric mean over seeds."""
        return np.asarray(np.exp(np.log(self.loss).mean(1)))


def curves(frame: pl.DataFrame, by: list[str]) -> Iterator[Curve]:
    """The curves of a sweep; seeds that diverged are left out."""
    for values, part in sorted(frame.group_by(by), key=lambda one: [str(v) for v in one[0]]):
        wide = part.pivot(on="seed", index="t", values="loss").sort("t")
        whole = [seed for seed in wide.columns if seed != "t" and wide[seed].null_count() == 0]
        if whole:
            loss = wide.select(whole).to_numpy().astype(float)
            yield Curve(dict(zip(by, values, strict=True)), wide["t"].to_numpy(), loss, tuple(whole))


def falls(t: Array, loss: Array) -> float:
    """Least-squares exponent of a geometric mean over seeds, loss [times, seeds] ~ t^-e."""
    return -float(np.polyfit(np.log(t), np.log(loss).mean(1), 1)[0])


def exponent(part: Curve) -> Measured:
    """The exponent of a curve in its window."""
    window, seeds = f"t {part.t[0]:.3g} to {part.t[-1]:.3g}", part.loss.shape[1]
    if seeds < 2:
        return measured(window, seeds, falls(part.t, part.loss))
    return measured(window, seeds, *over_seeds(part.loss, lambda v: falls(part.t, v)))


def halves(part: Curve) -> tuple[float, float]:
    """The exponents in the two halves of a window, on a logarithmic scale; the time between them is in both."""
    middle = len(part.t) // 2
    return falls(part.t[: middle + 1], part.loss[: middle + 1]), falls(part.t[middle:], part.loss[middle:])


def gained(one: Curve, other: Curve) -> Measured | None:
    """One exponent minus another, over the seeds that both have, which start from the same weights."""
    seeds = tuple(seed for seed in one.seeds if seed in other.seeds)
    if not seeds:
        return None
    both, cut = np.concatenate([one.of(seeds), other.of(seeds)]), len(one.t)

    def gain(v: Array) -> float:
        return falls(one.t, v[:cut]) - falls(other.t, v[cut:])

    window = f"t {one.t[0]:.3g} to {one.t[-1]:.3g}"
    if len(seeds) < 2:
        return measured(window, len(seeds), gain(both))
    return measured(window, len(seeds), *over_seeds(both, gain))


def infinite(key: dict[str, object], t: Array) -> Array:
    """The lazy loss at infinite width."""
    own = modes(str(key["activation"]), int(key["depth"]), float(key["beta"]), int(key["harmonics"]))  # type: ignore[call-overload, arg-type]
    return np.asarray(flow([own], 0.0, t).loss[0])
