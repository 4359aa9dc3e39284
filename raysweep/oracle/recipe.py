"""Recipes: what fully determines a world before anything is trained. Their hash is part of every run's key."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from raysweep import data
from raysweep.errors import LedgerError, OracleError
from raysweep.store import Store

__all__ = [
    "WEIGHTS",
    "FlowRecipe",
    "GaussianRecipe",
    "Recipe",
    "folder_of",
    "is_made",
    "parse_recipe",
    "recipe_hash",
    "shape_of",
    "stored_audits",
]

WEIGHTS = "weights.safetensors"
FLOW_VERSION = 1  # bump when the flow's code changes what a recipe means
_MAX_SEED = 2**40  # seeds are spread by a million per epoch, within 63 bits


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FlowRecipe(_Strict):
    """A class-conditional flow trained on real data (Theisen et al. 2021, arXiv 2106.03357, section 3).

    One invertible net is shared by all classes; classes differ in the mean of a diagonal Gaussian base whose
    scale they share. The Jacobian cancels in Bayes' rule, so the posterior is exact at every latent temperature.
    Noise is part of the world: the flow models data + noise, and its samples are noisy.
    """

    kind: Literal["flow"] = "flow"
    data: str = Field("digits", description="a data set of raysweep.data")
    noise: float = Field(0.0, ge=0, le=100, description="std of Gaussian noise added to items scaled to [-1, 1]")
    layers: int = Field(10, ge=1, le=64, description="affine coupling layers")
    hidden: int = Field(128, ge=1, le=4096, description="width of a coupling's residual net")
    blocks: int = Field(2, ge=1, le=16, description="residual blocks of a coupling")
    epochs: int = Field(60, ge=1, le=100_000, description="passes over the training items")
    batch: int = Field(128, ge=1, description="items a step, over all workers together")
    lr: float = Field(2e-3, gt=0, lt=1, description="peak of a one-cycle schedule (AdamW)")
    holdout: float = Field(0.15, gt=0, lt=1, description="fraction of items kept for the reported likelihood")
    seed: int = Field(0, ge=0, le=_MAX_SEED, description="initialisation, split, order and dequantisation noise")

    @property
    def least_bytes(self) -> int:
        """Of its weights in float32, those inside residual blocks alone."""
        return 4 * self.layers * self.blocks * 2 * self.hidden**2


class GaussianRecipe(_Strict):
    """K Gaussians of unit variance pushed through a fixed random invertible net: every posterior in closed form.

    Class means sit `separation` apart (K=2: on one line; more: on a regular simplex); see science page W0.
    """

    kind: Literal["gaussian"] = "gaussian"
    classes: int = Field(2, ge=2, le=1000)
    dim: int = Field(2, ge=2, le=4096, description="dimensions of x")
    separation: float = Field(2.0, gt=0, description="distance between any two class means, in standard deviations")
    prior: tuple[float, ...] | None = Field(None, description="class probabilities; uniform by default")
    layers: int = Field(4, ge=0, le=64, description="random coupling layers; 0 leaves the Gaussians as they are")
    seed: int = Field(0, ge=0, le=_MAX_SEED, description="of the random net")

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


Recipe = Annotated[FlowRecipe | GaussianRecipe, Field(discriminator="kind")]


def parse_recipe(text: bytes | str, where: str) -> FlowRecipe | GaussianRecipe:
    """A recipe from JSON.

    Raises:
        OracleError: it is none.
    """
    try:
        found: FlowRecipe | GaussianRecipe = TypeAdapter(Recipe).validate_json(text)
    except ValidationError as error:
        raise OracleError(f"{where}: must hold a recipe: {' '.join(str(error).split())}") from error
    return found


@dataclass(frozen=True)
class Shape:
    """Dimensions of x and number of classes of a world that need not be made yet."""

    dim: int
    classes: int


def shape_of(recipe: FlowRecipe | GaussianRecipe) -> Shape:
    """The shape a recipe's world will have."""
    if isinstance(recipe, GaussianRecipe):
        return Shape(recipe.dim, recipe.classes)
    source = data.load(recipe.data)
    return Shape(source.x.shape[1], source.classes)


class _KeptCheck(BaseModel):
    name: str
    value: float
    limit: float
    about: str
    passed: bool


class _KeptAudit(BaseModel):
    """An audit as a store keeps it."""

    sha: str
    temperature: float = Field(gt=0, allow_inf_nan=False)
    items: int = Field(ge=1)
    checks: list[_KeptCheck] = Field(max_length=100)
    aleatoric: float
    bayes_error: float
    reliability: list[tuple[float, float, Annotated[int, Field(ge=1)]]] = Field(min_length=1, max_length=1000)
    passed: bool


def stored_audits(store: Store, folder: str) -> list[dict[str, Any]]:
    """The audits kept beside a world; none where the file is missing or damaged (it is then made anew)."""
    try:
        found = TypeAdapter(list[_KeptAudit]).validate_json(store.read_text(f"{folder}/audit.json".lstrip("/")))
    except (LedgerError, ValidationError):
        return []
    return [audit.model_dump() for audit in found]


def recipe_hash(recipe: FlowRecipe | GaussianRecipe) -> str:
    """16 hex digits: the recipe, the hash of the data it is trained on, and the version of the flow's code."""
    known = {**recipe.model_dump(mode="json"), "version": FLOW_VERSION}
    if isinstance(recipe, FlowRecipe):
        known["data_sha256"] = data.load(recipe.data).sha256
    return hashlib.blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=8).hexdigest()


def folder_of(recipe: FlowRecipe | GaussianRecipe) -> str:
    """Where a store keeps this recipe's world."""
    return f"oracle/{recipe_hash(recipe)}"


def is_made(store: Store, recipe: FlowRecipe | GaussianRecipe) -> bool:
    """Whether the store holds this recipe's finished world."""
    return store.exists(f"{folder_of(recipe)}/{WEIGHTS}")
