"""Train a flow on images by maximum likelihood: on one device or, through `Dist`, on data-parallel workers.

The order of images and all noise are functions of (seed, step) alone, so that a run that resumes sees what it would
have seen, with however many workers. The world is the moving average of the weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from raysweep import data
from raysweep.experiment import Dist
from raysweep.oracle.descent import Descent
from raysweep.oracle.flows.block import compile_blocks
from raysweep.oracle.flows.conditional import ConditionalFlow
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.recipe import Point
from raysweep.training.precision import products

__all__ = ["CHECKPOINT", "Score", "bits_per_dim", "trained", "weights_of"]

CHECKPOINT = "checkpoint.safetensors"
_REPORTS, _POINTS = 12, 100  # checkpoints, and points of the training curve, per run: a report is a barrier
_LONGEST = 5000  # steps between two checkpoints, some minutes of the largest flows
_LEAST_RATE = 0.01  # of the peak, at the end of the cosine
_SCORED = 512  # images in a forward pass of an evaluation
_QUICK = 2048  # held-out images that are scored during training
_SPREAD = 1_000_003  # between the seeds of runs


@dataclass(frozen=True)
class Score:
    """Mean bits per dimension of grey levels, its standard error over images (NaN of one), and how many there were."""

    bits: float
    error: float
    images: int


@dataclass(frozen=True)
class _Images:
    """Images of a split on a device, and how a step's batch is made of them.

    Attributes:
        x: [n, dim] grey levels.
        y: [n].
    """

    recipe: ImageRecipe
    x: Tensor
    y: Tensor
    levels: int

    @staticmethod
    def of(recipe: ImageRecipe, test: bool, device: str) -> _Images:
        found = data.images(recipe.data, recipe.side)
        part = slice(found.train, None) if test else slice(found.train)
        x, y = torch.from_numpy(found.x[part]).to(device), torch.from_numpy(found.y[part]).to(device)
        return _Images(recipe, x, y, found.levels)

    def noisy(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Grey levels plus uniform noise in [0, 1), scaled to [-1, 1], plus Gaussian noise: float32."""
        uniform = torch.rand(x.shape, generator=generator, device=x.device)
        found = (x + uniform) * (2.0 / self.levels) - 1.0
        if self.recipe.noise:
            found += self.recipe.noise * torch.randn(x.shape, generator=generator, device=x.device)
        return found

    def batches(self, start: int, stop: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A worker's share of the batch of each step from `start` on."""
        recipe, device = self.recipe, self.x.device
        per_epoch = len(self.x) // recipe.batch
        noise, epoch, order = torch.Generator(device), -1, torch.empty(0)
        for step in range(start, stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                shuffled = torch.Generator().manual_seed(recipe.seed * _SPREAD + epoch)
                order = torch.randperm(len(self.x), generator=shuffled).to(device)
            at = step % per_epoch * recipe.batch
            chosen = order[at : at + recipe.batch]
            noise.manual_seed((recipe.seed + 1) * _SPREAD + step)
            x = self.noisy(self.x[chosen], noise)
            if recipe.flips:
                mirrored = torch.rand(len(x), 1, generator=noise, device=device) < 0.5
                x = torch.where(mirrored, _mirrored(x), x)
            yield x[rank::world], self.y[chosen][rank::world]


def _mirrored(x: Tensor) -> Tensor:
    channels, side = data.channels_and_side(x.shape[1])
    turned: Tensor = x.unflatten(1, (channels, side, side)).flip(3)
    return turned.flatten(1)


def trained(recipe: ImageRecipe, dist: Dist | None, on_progress: Point, device: str) -> dict[str, bytes]:
    """Train the recipe's flow and return the last checkpoint's files; executors call this.

    Args:
        dist: Data-parallel hooks; None trains on one device.
        on_progress: Called by rank 0 with epoch and epochs (steps done, and to do), start (steps done by the checkpoint
            from which training continued), nll (nats per image, training), bits (per dimension, training), rate (images
            per second, over all workers) and left (seconds); at the end with test_bits of the images held out, its
            standard error test_bits_se, and test_images.
        device: Where this rank trains.
    """
    rank, world = (dist.rank, dist.world_size) if dist else (0, 1)
    train, test = (_Images.of(recipe, held, device) for held in (False, True))
    flow = recipe.fresh().to(device)
    average = copy.deepcopy(flow).requires_grad_(False)
    if device.startswith("cuda"):
        compile_blocks(flow)
    descent, start = Descent(recipe, flow, average, world), 0
    if dist and dist.resume:
        start = _restore(load(dist.resume[CHECKPOINT]), flow, average, descent.optimiser)
    if dist:
        descent.model = dist.wrap(flow)
    every, show = _saved_every(recipe.steps), max(1, recipe.steps // _POINTS)
    since, begun = 0, time.perf_counter()
    files: dict[str, bytes] = {}
    with products(recipe.precision):
        for step, (x, y) in enumerate(train.batches(start, recipe.steps, rank, world), start):
            descent(step, _rate(recipe, step), x, y)
            since += 1
            done = step + 1
            if rank == 0 and (done % show == 0 or done == recipe.steps):
                nll, each = float(descent.total) / since, (time.perf_counter() - begun) / since
                on_progress(_point(recipe, train, done, start, nll, each))
                descent.total.zero_()
                since, begun = 0, time.perf_counter()
            if done % every == 0 or done == recipe.steps:
                last = done == recipe.steps
                if rank == 0 and (dist or last):
                    files = {CHECKPOINT: _checkpoint(flow, average, descent.optimiser, done)}
                if dist:
                    score = _scored(average, _Images(recipe, test.x[:_QUICK], test.y[:_QUICK], test.levels))
                    metrics = {"epoch": done, "test_bits": score.bits, "test_bits_se": score.error}
                    dist.report(metrics, files if rank == 0 else None)
                begun, since = time.perf_counter(), 0
                descent.total.zero_()
    if rank == 0:
        score = _scored(average, test)
        end = {"epoch": recipe.steps, "epochs": recipe.steps, "start": start, "left": 0.0}
        on_progress({**end, "test_bits": score.bits, "test_bits_se": score.error, "test_images": score.images})
    return files or {CHECKPOINT: _checkpoint(flow, average, descent.optimiser, recipe.steps)}


def _saved_every(steps: int) -> int:
    return min(max(1, steps // _REPORTS), _LONGEST)


def _rate(recipe: ImageRecipe, step: int) -> float:
    """Warm-up in a straight line, then half a cosine down to a hundredth of the peak."""
    rising = recipe.warmup * recipe.steps
    if step < rising:
        return recipe.lr * (step + 1) / math.ceil(rising)
    through = (step - rising) / max(recipe.steps - rising, 1)
    return recipe.lr * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * through)) / 2)


def _point(recipe: ImageRecipe, train: _Images, done: int, start: int, nll: float, each: float) -> dict[str, float]:
    """A point of the training curve; `each`: seconds per step."""
    return {
        "epoch": done,
        "epochs": recipe.steps,
        "start": start,
        "nll": nll,
        "bits": _bits(nll / train.x.shape[1], train.levels),
        "rate": recipe.batch / each,
        "left": each * (recipe.steps - done),
    }


def _bits(nats: float, levels: int) -> float:
    """Bits per dimension of grey levels, from nats per dimension of numbers that are scaled to [-1, 1]."""
    return nats / math.log(2) + math.log2(levels / 2)


def bits_per_dim(recipe: ImageRecipe, flow: ConditionalFlow, device: str = "cpu") -> Score:
    """The likelihood of the images held out, in bits per dimension given their class, under one draw of noise."""
    return _scored(flow.to(device), _Images.of(recipe, True, device))


@torch.no_grad()
def _scored(flow: nn.Module, test: _Images) -> Score:
    generator = torch.Generator(test.x.device).manual_seed(0)
    weight = next(flow.parameters())
    found = []
    for x, y in zip(test.x.split(_SCORED), test.y.split(_SCORED), strict=True):
        found.append(-flow.log_prob(test.noisy(x, generator).to(weight.dtype), y).double())  # type: ignore[operator]
    each = torch.cat(found) / test.x.shape[1]
    spread = float(each.std()) if len(each) > 1 else math.nan  # which one image does not show
    error = spread / math.sqrt(len(each)) / math.log(2)
    return Score(_bits(float(each.mean()), test.levels), error, len(each))


def weights_of(files: Mapping[str, bytes]) -> bytes:
    """The averaged flow's weights alone, from a checkpoint's files."""
    tensors = load(files[CHECKPOINT])
    data: bytes = save({k.removeprefix("average/"): v for k, v in tensors.items() if k.startswith("average/")})
    return data


def _checkpoint(flow: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> bytes:
    """Weights, their average, both Adam moments and the step, as safetensors: no pickle in a store."""
    tensors = {f"model/{name}": value for name, value in flow.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": value for name, value in state.items()}
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data: bytes = save({**kept, "step": torch.tensor(step)})
    return data


def _restore(
    tensors: Mapping[str, Tensor], flow: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> int:
    """Undo `_checkpoint`; returns the steps done."""
    for name, module in (("model/", flow), ("average/", average)):
        module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return int(tensors["step"])
