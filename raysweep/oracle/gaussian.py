"""The analytic world: K Gaussians of unit variance behind a fixed random invertible net. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from raysweep.experiment import World
from raysweep.oracle.recipe import MAX_SEED, Recipe, Shape, Train, register

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    import torch

    from raysweep.oracle.audits import Audit
    from raysweep.oracle.flows.shared import ClassFlow

__all__ = ["GaussianRecipe", "gaussian_flow"]


@register
class GaussianRecipe(Recipe):
    """K Gaussians of unit variance pushed through a fixed random invertible net: every posterior in closed form.

    Class means are `separation` apart (K=2: on one line; more: on a regular simplex).
    """

    audited: ClassVar[Mapping[str, float] | None] = {"temperature": 1.0}

    kind: Literal["gaussian"] = "gaussian"
    classes: int = Field(2, ge=2, le=1000)
    dim: int = Field(2, ge=2, le=4096, description="dimensions of x")
    separation: float = Field(2.0, gt=0, description="distance between any two class means, in standard deviations")
    prior: tuple[float, ...] | None = Field(None, description="class probabilities; uniform by default")
    layers: int = Field(4, ge=0, le=64, description="random coupling layers; 0 leaves the Gaussians as they are")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of the random net")

    @field_validator("dim")
    @classmethod
    def _room_for_a_simplex(cls, dim: int, info: ValidationInfo) -> int:
        if info.data.get("classes", 0) > dim + 1:
            raise ValueError(f"`classes <= dim + 1` must hold, for a simplex of {info.data['classes']} class means")
        return dim

    @field_validator("prior")
    @classmethod
    def _one_chance_per_class(cls, prior: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if prior is not None and (len(prior) != info.data.get("classes") or not all(0 < p < math.inf for p in prior)):
            raise ValueError("prior must hold one positive number per class")
        return prior

    @property
    def shape(self) -> Shape:
        return Shape(self.dim, self.classes, self.prior)

    def make(self, train: Train) -> bytes:
        from raysweep.oracle.flow_world import packed

        return packed(gaussian_flow(self))

    def load(self, data: bytes, sha: str) -> World:
        from raysweep.oracle.flow_world import unpacked

        return unpacked(self, gaussian_flow, data, sha)

    def audit(self, world: World, at: Mapping[str, float], items: int) -> Audit:
        from raysweep.oracle.audit import audit

        return audit(world, at["temperature"], items)  # type: ignore[arg-type]


def gaussian_flow(recipe: GaussianRecipe) -> ClassFlow:
    """The finished flow of a recipe, in float64."""
    import torch

    from raysweep.oracle.flows.coupling import coupling_net
    from raysweep.oracle.flows.shared import ClassFlow

    prior = torch.tensor(recipe.prior or [1 / recipe.classes] * recipe.classes, dtype=torch.float64)
    net = coupling_net(recipe.dim, recipe.layers, 16, 1, recipe.seed, bounded=True).double()
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for parameter in net.parameters():  # nflows starts couplings near the identity; this one must bend space
            shape, fan_in = parameter.shape, parameter.shape[-1]
            parameter.copy_(torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in))
    flow = ClassFlow(net, recipe.dim, (prior / prior.sum()).log()).double()
    with torch.no_grad():
        flow.means.copy_(_simplex(recipe.classes, recipe.dim, recipe.separation))
    return flow


def _simplex(classes: int, dim: int, separation: float) -> torch.Tensor:
    """[classes, dim] points pairwise `separation` apart, centred (K=2: on the first axis)."""
    import torch

    corners = torch.eye(classes, dtype=torch.float64) * separation / math.sqrt(2)
    centred = corners - corners.mean(0)
    # Rotate the (classes - 1)-dimensional simplex into the first coordinates.
    u, s, _ = torch.linalg.svd(centred)
    points = torch.zeros(classes, dim, dtype=torch.float64)
    points[:, : classes - 1] = (u * s)[:, : classes - 1]
    return points
