"""The trained world: a class-conditional flow fitted to real data, whose invertible net all classes share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raysweep import data as datasets
from raysweep.experiment import World
from raysweep.oracle.recipe import MAX_SEED, Recipe, Shape, Train, dequantised, register

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    from raysweep.oracle.audits import Audit
    from raysweep.oracle.flows.shared import ClassFlow

__all__ = ["FlowRecipe", "fresh_flow"]


@register
class FlowRecipe(Recipe):
    """A class-conditional flow trained on real data (Theisen et al. 2021, arXiv 2106.03357, section 3).

    One invertible net is shared by all classes; classes differ in the mean of a diagonal Gaussian base and share its
    scale. The Jacobian cancels in Bayes' rule, so the posterior is exact at every latent temperature.
    Noise is part of the world: the flow models data + noise, and its samples are noisy.
    """

    audited: ClassVar[Mapping[str, float] | None] = {"temperature": 1.0}

    kind: Literal["flow"] = "flow"
    data: str = Field("digits", description="a data set of raysweep.data")
    noise: float = Field(0.0, ge=0, le=100, description="std of Gaussian noise added to items scaled to [-1, 1]")
    layers: int = Field(10, ge=1, le=64, description="affine coupling layers")
    hidden: int = Field(128, ge=1, le=4096, description="width of a coupling's residual net")
    blocks: int = Field(2, ge=1, le=16, description="residual blocks of a coupling")
    epochs: int = Field(60, ge=1, le=100_000, description="passes over the training items")
    batch: int = Field(128, ge=1, description="items per step, over all workers together")
    lr: float = Field(2e-3, gt=0, lt=1, description="peak of a one-cycle schedule (AdamW)")
    holdout: float = Field(0.15, gt=0, lt=1, description="fraction of items kept for the reported likelihood")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="initialisation, split, order and dequantisation noise")

    @property
    def shape(self) -> Shape:
        if self._source.shape is not None:
            return self._source.shape
        source = datasets.load(self.data)
        return Shape(source.x.shape[1], source.classes)

    @property
    def ingredients(self) -> Mapping[str, str]:
        return self._source.ingredients or {"data_sha256": datasets.load(self.data).sha256}

    @property
    def items(self) -> str:
        return dequantised(self.noise)

    def make(self, train: Train) -> bytes:
        from raysweep.oracle.fit import trained, weights_of

        return weights_of(train(partial(trained, self)))

    def load(self, data: bytes, sha: str) -> World:
        from raysweep.oracle.flow_world import unpacked

        # float32, inside residual blocks and in the nets' first layers alone
        least = 4 * self.layers * self.hidden * (self.blocks * 2 * self.hidden + self.shape.dim // 2)
        if len(data) < least:  # a few words may ask for much
            raise ValueError(f"it has {len(data):,} bytes, but such a flow at least {least:,}")
        return unpacked(self, fresh_flow, data, sha)

    def audit(self, world: World, at: Mapping[str, float], items: int) -> Audit:
        from raysweep.oracle.audit import audit

        return audit(world, at["temperature"], items)  # type: ignore[arg-type]

    def progress(self, point: Mapping[str, float]) -> str:
        return f"{super().progress(point)}  nll {point['nll']:.2f} nats"


def fresh_flow(recipe: FlowRecipe) -> ClassFlow:
    """The untrained flow of a recipe."""
    import torch

    from raysweep.oracle.flows.coupling import coupling_net
    from raysweep.oracle.flows.shared import ClassFlow

    shape = recipe.shape
    prior = torch.full((shape.classes,), -math.log(shape.classes))
    net = coupling_net(shape.dim, recipe.layers, recipe.hidden, recipe.blocks, recipe.seed)
    return ClassFlow(net, shape.dim, prior)
