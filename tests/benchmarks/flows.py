"""Transformer flows against nflows' stock Glow: images per second, likelihood after equal time, sampling, scoring.

    python tests/benchmarks/flows.py --device cuda --data cifar10_jpeg_60k --seconds 120 [--out DIR]

--data is digits, or NAME of NAME.npz in the folder RAYSWEEP_DATA; --seconds is what each flow may train for the
likelihood. A step is the recipe's own (raysweep.oracle.likelihood): noise, forward, backward, clipping, AdamW, average
of the weights. FLOPs are counted as 6 per weight and token and 6 per pair of tokens, channel and layer (causal
attention, forward and backward), and the share is of 989 TFLOP/s, an H100's or H200's dense bfloat16. The rival is a
Glow of nflows' own parts (3 levels of 8 steps, unconditional), as stock code trains it: eager, TF32. Writes
flows-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from nflows import distributions, flows, nn, transforms
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.data import channels_and_side  # noqa: E402
from raysweep.oracle import likelihood  # noqa: E402
from raysweep.oracle.flows.autoregressive import Autoregressive, Jacobi  # noqa: E402
from raysweep.oracle.flows.conditional import ConditionalFlow  # noqa: E402
from raysweep.oracle.transformer_world import TransformerRecipe  # noqa: E402
from raysweep.training.precision import products  # noqa: E402

DENSE = 989e12  # FLOP/s of bfloat16
SHAPES = {"patch 4, width 256": (4, 256, 256), "patch 4, width 512": (4, 512, 256), "patch 2, width 512": (2, 512, 128)}
LEVELS, STEPS, HIDDEN = 3, 8, 96


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def recipe(data: str, device: str, patch: int, width: int, batch: int) -> TransformerRecipe:
    precision = "bf16" if device.startswith("cuda") else "float32"
    return TransformerRecipe(
        data=data, patch=patch, width=width, blocks=4, layers=4, batch=batch, steps=10**7, lr=1e-3, warmup=0.0,
        precision=precision, flips=True,
    )  # fmt: skip


class Trained:
    """A flow in training; a call takes one step of the recipe."""

    def __init__(self, own: TransformerRecipe, device: str) -> None:
        self.recipe, self.device = own, device
        self.images = likelihood._Images.of(own, False, device)
        self.flow = own.fresh().to(device)
        self.average = own.fresh().to(device).requires_grad_(False)
        fused = {"betas": (0.9, 0.95), "weight_decay": own.weight_decay, "fused": True}
        self.optimiser = torch.optim.AdamW(self.flow.parameters(), lr=own.lr, **fused)
        if device.startswith("cuda"):
            self.flow.compile()
        self.batches = self.images.batches(0, own.steps, 0, 1)
        self.step = 0

    def __call__(self) -> None:
        x, y = next(self.batches)
        likelihood._descend(self.recipe, self.flow, self.optimiser, x, y, 1)
        likelihood._follow(self.average, self.flow, self.recipe.ema, self.step)
        self.step += 1

    def rate(self, share: float) -> None:
        """The rate at a share of the time: a short warm-up, then half a cosine."""
        now = min(share / 0.03, (1 + math.cos(math.pi * share)) / 2)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr * max(now, 0.01)

    def flops(self) -> float:
        """Of an image, forward and backward."""
        parts = [part for part in self.flow.modules() if isinstance(part, Autoregressive)]
        weights = sum(p.numel() for part in parts for p in part.net.parameters() if p.dim() == 2)
        tokens, width, layers = parts[0].net.tokens, parts[0].net.width, len(parts[0].net.layers)
        return 6.0 * weights * tokens + 6.0 * len(parts) * layers * tokens**2 * width


def glow(channels: int, side: int) -> flows.Flow:
    """Levels of squeezing, then steps of activation norm, 1x1 convolution and affine coupling."""
    whole = transforms.MultiscaleCompositeTransform(num_transforms=LEVELS)
    shape: Any = (channels, side, side)
    for _ in range(LEVELS):
        squeezed = transforms.SqueezeTransform()
        c, h, w = squeezed.get_output_shape(*shape)
        mask = torch.ones(c)
        mask[::2] = -1

        def net(i: int, o: int) -> Any:
            return nn.nets.ConvResidualNet(in_channels=i, out_channels=o, hidden_channels=HIDDEN, num_blocks=3)

        step = [
            transforms.CompositeTransform(
                [
                    transforms.ActNorm(c),
                    transforms.OneByOneConvolution(c),
                    transforms.AffineCouplingTransform(mask=mask, transform_net_create_fn=net),
                ]
            )
            for _ in range(STEPS)
        ]
        level = transforms.CompositeTransform([squeezed, *step, transforms.OneByOneConvolution(c)])
        new = whole.add_transform(level, (c, h, w))
        shape = new or shape
    return flows.Flow(whole, distributions.StandardNormal((channels * side**2,)))


class Rival:
    """The Glow in training."""

    def __init__(self, own: TransformerRecipe, device: str) -> None:
        self.images = likelihood._Images.of(own, False, device)
        self.shape = channels_and_side(self.images.x.shape[1])
        self.flow = glow(*self.shape).to(device)
        self.optimiser = torch.optim.Adam(self.flow.parameters(), lr=5e-4)
        self.batches: Iterator[tuple[Tensor, Tensor]] = self.images.batches(0, 10**7, 0, 1)

    def square(self, x: Tensor) -> Tensor:
        return x.view(len(x), self.shape[0], self.shape[1], self.shape[1])

    def __call__(self) -> None:
        x, _ = next(self.batches)
        self.optimiser.zero_grad(set_to_none=True)
        loss = -self.flow.log_prob(self.square(x)).mean() / x.shape[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 1.0)
        self.optimiser.step()


def rate(step: Callable[[], None], batch: int, device: str, warm: int, timed: int, repeats: int = 3) -> float:
    """Images per second, the median of some repeats."""
    for _ in range(warm):
        step()
    found = []
    for _ in range(repeats):
        wait(device)
        begun = time.perf_counter()
        for _ in range(timed):
            step()
        wait(device)
        found.append(batch * timed / (time.perf_counter() - begun))
    return statistics.median(found)


def train_for(seconds: float, step: Callable[[], None], at: Callable[[float], None], device: str) -> int:
    """Steps taken in a time, compilation included."""
    begun, taken = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < seconds:
        at(spent / seconds)
        for _ in range(10):
            step()
        wait(device)
        taken += 10
    return taken


def held_out(own: TransformerRecipe, log_prob: Callable[[Tensor, Tensor], Tensor], device: str, most: int) -> Any:
    test = likelihood._Images.of(own, True, device)
    generator = torch.Generator(device).manual_seed(0)
    found = []
    with torch.no_grad():
        for x, y in islice(zip(test.x.split(250), test.y.split(250), strict=True), math.ceil(most / 250)):
            found.append(-log_prob(test.noisy(x, generator), y).double() / x.shape[1])
    nats = torch.cat(found)
    bits = float(nats.mean()) / math.log(2) + math.log2(test.levels / 2)
    return {"bits_per_dim": bits, "se": float(nats.std()) / math.log(2) / len(nats) ** 0.5, "images": len(nats)}


def sampling(flow: ConditionalFlow, device: str, n: int) -> dict[str, float]:
    """Seconds for n images: token by token, and all tokens at once to tolerance 1e-4; and how far apart they are."""
    y = torch.arange(n, device=device) % flow.classes
    noise = torch.randn(n, flow.dim, generator=torch.Generator(device).manual_seed(1), device=device)
    blocks = [part for part in flow.modules() if isinstance(part, Autoregressive)]
    found: dict[str, float] = {"images": n}
    results = []
    for name, how in (("cache", None), ("jacobi", Jacobi(tolerance=1e-4))):
        for block in blocks:
            block.jacobi = how
        with torch.no_grad():
            flow.generate(y[:8], noise[:8])
            if how is not None:
                how.rounds = 0
            wait(device)
            begun = time.perf_counter()
            results.append(flow.generate(y, noise))
            wait(device)
            found[f"{name}_seconds"] = time.perf_counter() - begun
        if how is not None:
            found["jacobi_rounds_per_block"] = how.rounds / len(blocks)
    found["largest_difference"] = float((results[0] - results[1]).abs().max())
    return found


def scoring(flow: ConditionalFlow, device: str, n: int) -> dict[str, float]:
    """Seconds for the posterior of n images, one pass per class, in float32 and TF32, and what TF32 changes."""
    x = torch.randn(n, flow.dim, generator=torch.Generator(device).manual_seed(2), device=device)
    found: dict[str, float] = {"images": n, "classes": flow.classes}
    results = []
    for precision in ("float32", "tf32"):
        with torch.no_grad(), products(precision):
            flow.log_posterior(x[:8])
            wait(device)
            begun = time.perf_counter()
            results.append(flow.log_posterior(x))
            wait(device)
            found[f"{precision}_seconds"] = time.perf_counter() - begun
    found["largest_change_of_log_posterior"] = float((results[0] - results[1]).abs().max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--timed", type=int, default=40)
    parser.add_argument("--shapes", nargs="+", default=None, help="patch,width,batch")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    device, cuda = given.device, given.device.startswith("cuda")
    shapes = {s: tuple(map(int, s.split(","))) for s in given.shapes} if given.shapes else SHAPES
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "data": given.data,
        "training": [],
    }
    last: Any = None
    for name, (patch, width, batch) in shapes.items():
        own = recipe(given.data, device, patch, width, batch)
        last = Trained(own, device)
        speed = rate(last, batch, device, warm=10, timed=given.timed)
        share = speed * last.flops() / DENSE
        row = {"flow": name, "batch": batch, "images_per_s": speed, "flops_per_image": last.flops(), "share": share}
        found["training"].append(row)
        print(row, flush=True)
    own = recipe(given.data, device, *next(iter(shapes.values())))
    with products("tf32" if cuda else "float32"):
        rival = Rival(own, device)
        speed = rate(rival, own.batch, device, warm=3, timed=max(5, given.timed // 4))
    found["glow"] = {"parameters": sum(p.numel() for p in rival.flow.parameters()), "images_per_s": speed}
    print(found["glow"], flush=True)
    ours = Trained(own, device)
    steps = train_for(given.seconds, ours, ours.rate, device)
    found["likelihood"] = {
        "seconds": given.seconds,
        "steps": steps,
        **held_out(own, ours.average.log_prob, device, 10_000),
    }
    print(found["likelihood"], flush=True)
    with products("tf32" if cuda else "float32"):
        rival = Rival(own, device)
        steps = train_for(given.seconds, rival, lambda share: None, device)
        score = held_out(own, lambda x, y: rival.flow.log_prob(rival.square(x)), device, 10_000)
    found["glow_likelihood"] = {"seconds": given.seconds, "steps": steps, **score}
    print(found["glow_likelihood"], flush=True)
    average = ours.average.eval()
    found["sampling"], found["scoring"] = (
        sampling(average, device, given.samples),
        scoring(average, device, given.samples),
    )
    print(found["sampling"], found["scoring"], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    card = found["device"].lower().replace(" ", "-") if cuda else "cpu"
    (given.out / f"flows-{card}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
