"""Worlds made of images: what flows trained on images have in common. Each architecture is a kind in its own file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raysweep import data as datasets
from raysweep.errors import SweepError
from raysweep.experiment import World
from raysweep.oracle.recipe import MAX_SEED, Recipe, Shape, Train, dequantised

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    from raysweep.oracle.audits import Audit
    from raysweep.oracle.flows.conditional import ConditionalFlow

__all__ = ["ImageRecipe"]


class ImageRecipe(Recipe):
    """A flow trained on labelled images, conditional on the class.

    Grey levels are dequantised by uniform noise and scaled to [-1, 1]; with `noise`, Gaussian noise is added. All of
    this is part of the world: its samples are real numbers, and noisy where it was trained on noise.
    """

    audited: ClassVar[Mapping[str, float] | None] = {"temperature": 1.0}
    keeps_samples: ClassVar[bool] = True  # one pass per class and item

    data: str = Field(
        "digits", description="digits, hf:NAME, or NAME of a file or a folder in the folder RAYSWEEP_DATA"
    )
    side: int = Field(
        0, ge=0, le=4096, description="of images in files of their own, which are scaled to it; others have theirs"
    )
    noise: float = Field(0.0, ge=0, le=100, description="std of Gaussian noise added to images scaled to [-1, 1]")
    confusion: float = Field(0.0, ge=0, lt=1, description="chance that a label is one of the other classes")
    flips: bool = Field(False, description="half of the images are mirrored")
    steps: int = Field(2000, ge=1, le=10_000_000, description="updates")
    batch: int = Field(128, ge=1, description="images per update, over all workers together")
    accumulate: int = Field(1, ge=1, le=1024, description="parts that a worker takes its share of a batch in")
    lr: float = Field(1e-3, gt=0, lt=1, description="peak of the rate: warm-up, then a cosine to 1 % of it (AdamW)")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the updates in which the rate rises")
    weight_decay: float = Field(1e-4, ge=0, le=10, description="of AdamW")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the average of the weights that is the world")
    precision: Literal["float32", "tf32", "bf16"] = Field("float32", description="of products in training")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="initialisation, order and noise")

    @abstractmethod
    def fresh(self) -> ConditionalFlow:
        """The untrained flow."""

    @property
    @abstractmethod
    def least_bytes(self) -> int:
        """A lower bound on the file of its weights."""

    @property
    def shape(self) -> Shape:
        if self._source.shape is not None:
            return self._source.shape
        found = datasets.image_shape(self.data, self.side)
        if self.batch > found.train:
            raise SweepError(
                f"world.batch: must be at most the training images of {self.data}, but got (batch={self.batch}, "
                f"images={found.train}). Take a smaller batch"
            )
        return Shape(found.inputs, found.classes)

    def require_makeable(self, workers: int = 1) -> None:
        super().require_makeable(workers)
        if self.batch < workers * self.accumulate:
            raise SweepError(
                f"world.accumulate: each part of a worker's share of a batch must have an image, but got (batch="
                f"{self.batch}, workers={workers}, accumulate={self.accumulate}). Take a larger batch or fewer parts"
            )
        datasets.require_trainable(self.data, self.side, self.batch)

    @property
    def ingredients(self) -> Mapping[str, str]:
        return self._source.ingredients or {"data_sha256": datasets.fingerprint(self.data)}

    @property
    def items(self) -> str:
        return dequantised(self.noise)

    def make(self, train: Train) -> bytes:
        from raysweep.oracle.likelihood import trained, weights_of

        return weights_of(train(partial(trained, self)))

    def load(self, data: bytes, sha: str) -> World:
        import torch

        from raysweep.oracle.flow_world import unpacked

        if len(data) < self.least_bytes:  # a few words may ask for much
            raise ValueError(f"it has {len(data):,} bytes, but such a flow at least {self.least_bytes:,}")
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
        return unpacked(self, type(self).fresh, data, sha, devices)

    def audit(self, world: World, at: Mapping[str, float], items: int) -> Audit:
        from raysweep.oracle.audit import audit

        return audit(world, at["temperature"], items)  # type: ignore[arg-type]

    def progress(self, point: Mapping[str, float]) -> str:
        if "test_bits" in point:
            score = f"{point['test_bits']:.3f} +- {point['test_bits_se']:.3f} bits/dim"
            return f"{score} on {point['test_images']:,.0f} images held out"
        left = point["left"]
        time = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        return (
            f"step {point['epoch']:,.0f}/{point['epochs']:,.0f}  {point['bits']:.3f} bits/dim  "
            f"{point['rate']:,.0f} images/s  {time} left"
        )
