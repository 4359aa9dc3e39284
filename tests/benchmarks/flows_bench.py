"""What is asked of `flows.py`, a flow of images in training, and its speed."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from raysweep.oracle import likelihood
from raysweep.oracle.descent import Descent
from raysweep.oracle.flows.autoregressive import Autoregressive
from raysweep.oracle.flows.block import compile_blocks
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.transformer_world import TransformerRecipe


@dataclass(frozen=True)
class Bench:
    """What was asked for.

    Attributes:
        flow: patch, width and batch of the flow that is scored and sampled.
        attention: The kernel of attention in training: torch's choice, or cuDNN's.
    """

    device: str
    data: str
    seconds: float
    timed: int
    shapes: tuple[str, ...]
    flow: str
    lr: float
    layers: int
    attention: str
    samples: int
    scored: int
    at_once: int
    out: Path

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def precision(self) -> str:
        """Of float32 products that are timed."""
        return "tf32" if self.cuda else "float32"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def recipe(self, shape: str) -> TransformerRecipe:
        patch, width, batch = map(int, shape.split(","))
        return TransformerRecipe(
            data=self.data, patch=patch, width=width, blocks=4, layers=self.layers, batch=batch, steps=10**7,
            lr=self.lr, warmup=0.0, precision="bf16" if self.cuda else "float32", flips=True,
        )  # fmt: skip

    def attending(self) -> contextlib.AbstractContextManager[Any]:
        cudnn = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
        return sdpa_kernel(cudnn, set_priority=True) if self.attention == "cudnn" else contextlib.nullcontext()

    def timed_call(self, call: Callable[[], Any]) -> tuple[Any, float]:
        self.wait()
        begun = time.perf_counter()
        found = call()
        self.wait()
        return found, time.perf_counter() - begun


class Trained:
    """A flow in training; a call takes one step of the recipe."""

    def __init__(self, own: ImageRecipe, device: str) -> None:
        self.recipe, self.device = own, device
        self.images = likelihood._Images.of(own, False, device)
        self.flow = own.fresh().to(device)
        self.average = own.fresh().to(device).requires_grad_(False)
        if device.startswith("cuda"):
            compile_blocks(self.flow)
        self.descent = Descent(own, self.flow, self.average, 1)
        self.batches = self.images.batches(0, own.steps, 0, 1)
        self.step, self.lr = 0, own.lr

    def __call__(self) -> None:
        self.descent(self.step, self.lr, *next(self.batches))
        self.step += 1

    def rate(self, share: float) -> None:
        """The rate at a share of the time: a short warm-up, then half a cosine."""
        self.lr = self.recipe.lr * max(min(share / 0.03, (1 + math.cos(math.pi * share)) / 2), 0.01)

    def flops(self) -> float:
        """Of an image, forward and backward."""
        parts = [part for part in self.flow.modules() if isinstance(part, Autoregressive)]
        linear = [m.weight for part in parts for m in part.net.modules() if isinstance(m, torch.nn.Linear)]
        tokens, width, layers = parts[0].net.tokens, parts[0].net.width, len(parts[0].net.layers)
        weights = sum(p.numel() for p in linear)
        return 6.0 * weights * tokens + 6.0 * len(parts) * layers * tokens**2 * width


def parameters(flow: torch.nn.Module) -> int:
    return sum(p.numel() for p in flow.parameters())


def rate(bench: Bench, step: Callable[[], None], batch: int, warm: int, repeats: int = 3) -> float:
    """Images per second, the median of some repeats."""
    for _ in range(warm):
        step()
    found = []
    for _ in range(repeats):
        _, spent = bench.timed_call(lambda: [step() for _ in range(bench.timed)])
        found.append(batch * bench.timed / spent)
    return statistics.median(found)
