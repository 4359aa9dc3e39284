"""Is a world a toy? A classifier that saw only its samples, judged on real images; both side by side in a grid.

    python tests/benchmarks/oracle_real.py STORE [--device cuda] [--train 50000] [--epochs 20] [--seeds 3]
        [--temperature 1 0.9] [--out DIR]

STORE holds worlds of images, as `raysweep oracle fit sweeps/worlds/fashion_mnist.yaml --store STORE` makes them. For
each world a small residual network is trained twice per seed: on samples with the labels that the world drew, and on as
many real training images (or all of them), whose noise is drawn again in each epoch. Both are tested on the real test
images, as the world sees images, with dequantisation and, where the world has some, Gaussian noise; on these without
Gaussian noise; and on 10,000 fresh samples, beside the best possible accuracy there. Each latent temperature of
--temperature is a world of its own, whose posterior is exact as well. Writes oracle_real-<device>.json and, for each
world, <data>.png (<data>-T.png at temperature T; real test images on the left, samples on the right, a row per class)
beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.data import channels_and_side, images  # noqa: E402
from raysweep.oracle.image_flow import ImageRecipe  # noqa: E402
from raysweep.oracle.world import load_recipe, load_world  # noqa: E402
from raysweep.store import Store  # noqa: E402

BATCH, WIDTH, PEAK = 256, 48, 2e-3
PER_CLASS = 10  # images of a class in the grid
FAR = 2.0  # images end at 1


class Block(nn.Module):
    """Two convolutions with batch norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.way = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.way(x))


def network(channels: int, side: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (channels, side, side)), Block(channels, WIDTH, 1), Block(WIDTH, 2 * WIDTH, 2),
        Block(2 * WIDTH, 4 * WIDTH, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * WIDTH, classes),
    )  # fmt: skip


class Real:
    """Images as a world sees them."""

    def __init__(self, recipe: ImageRecipe, device: str) -> None:
        found = images(recipe.data, recipe.side)
        self.recipe, self.levels, self.device = recipe, found.levels, device
        x, y = torch.from_numpy(found.x).float(), torch.from_numpy(found.y).long()
        self.train = x[: found.train], y[: found.train]
        self.test = x[found.train :], y[found.train :]

    def seen(self, x: Tensor, generator: torch.Generator, noise: float) -> Tensor:
        """Dequantised and, with noise, noisy, in [-1, 1] and a little beyond."""
        found = (x + torch.rand(x.shape, generator=generator)) * (2.0 / self.levels) - 1
        return found + noise * torch.randn(x.shape, generator=generator)


def fitted(
    x: Tensor,
    y: Tensor,
    classes: int,
    epochs: int,
    seed: int,
    device: str,
    flips: bool,
    fresh: Callable[[], Tensor] | None,
) -> nn.Module:
    """A network trained on items; `fresh` draws their noise again for each epoch."""
    torch.manual_seed(seed)
    channels, side = channels_and_side(x.shape[1])
    net = network(channels, side, classes).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK, weight_decay=1e-2)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, steps)
    x, y = x.to(device), y.to(device)
    for epoch in range(epochs):
        if fresh is not None and epoch:
            x = fresh().to(device)
        for chosen in torch.randperm(len(x), device=device)[: len(x) // BATCH * BATCH].split(BATCH):
            some = x[chosen]
            if flips:
                turned = some.unflatten(1, (channels, side, side)).flip(3).flatten(1)
                some = torch.where(torch.rand(len(some), 1, device=device) < 0.5, turned, some)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
                loss = F.cross_entropy(net(some), y[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, device: str) -> float:
    right = [
        (net(a.to(device)).argmax(1).cpu() == b).float() for a, b in zip(x.split(1000), y.split(1000), strict=True)
    ]
    return float(torch.cat(right).mean())


def grid(real: Real, x: Tensor, y: Tensor, classes: int) -> Image.Image:
    """A row of images per class: on the left real ones, on the right samples."""
    channels, side = channels_and_side(x.shape[1])
    rows = []
    for label in range(min(classes, PER_CLASS)):
        both = (real.test[0][real.test[1] == label] + 0.5) * (2 / real.levels) - 1, x[y == label]
        halves = [torch.cat([*some[:PER_CLASS].unflatten(1, (channels, side, side))], 2) for some in both]
        rows.append(torch.cat([halves[0], torch.ones(channels, side, side // 2), halves[1]], 2))
    whole = torch.cat(rows, 1).permute(1, 2, 0).expand(-1, -1, 3)
    scaled = ((whole + 1) / 2).clamp(0, 1).mul(255).byte().numpy()
    return Image.fromarray(scaled).resize((2 * scaled.shape[1], 2 * scaled.shape[0]), Image.Resampling.NEAREST)


def judged(store: Store, folder: str, temperature: float, given: argparse.Namespace) -> dict[str, Any]:
    recipe, world, device = load_recipe(store, folder), load_world(store, folder), given.device
    assert isinstance(recipe, ImageRecipe)
    real = Real(recipe, device)
    began = time.perf_counter()
    pool = world.sample(given.train, "train/real", temperature)
    seconds = time.perf_counter() - began
    held = world.sample(10_000, "eval/real", temperature)
    x, y = torch.from_numpy(pool.x), torch.from_numpy(pool.y).long()
    name = recipe.data + (f"-{temperature:g}" if temperature != 1 else "")
    grid(real, x, y, world.classes).save(given.out / f"{name}.png")
    posterior = np.exp(held.log_posterior)
    generator = torch.Generator().manual_seed(0)
    tests = {
        name: (real.seen(real.test[0], generator, noise), real.test[1])
        for name, noise in (("real", recipe.noise), ("real_without_noise", 0.0))
    }
    tests["samples"] = torch.from_numpy(held.x), torch.from_numpy(held.y).long()
    size = min(given.train, len(real.train[0]))
    own, labels = real.train[0][:size], real.train[1][:size]

    def draw() -> Tensor:
        return real.seen(own, generator, recipe.noise)

    row: dict[str, Any] = {
        "data": recipe.data, "world": world.sha, "noise": recipe.noise, "confusion": recipe.confusion,
        "temperature": temperature, "train": given.train,
        "samples_beyond_2": float((np.abs(pool.x) > FAR).any(1).mean()),
        "sampling_seconds": seconds, "entropy": float(-(posterior * held.log_posterior).sum(1).mean()),
        "best_possible_on_samples": float(posterior.max(1).mean()), "test_images": len(real.test[0]),
    }  # fmt: skip
    for name, items in (("trained_on_samples", (x, y, None)), ("trained_on_real_images", (draw(), labels, draw))):
        found: dict[str, list[float]] = {key: [] for key in tests}
        for seed in range(given.seeds):
            net = fitted(items[0], items[1], world.classes, given.epochs, seed, device, recipe.flips, items[2])
            for key, (a, b) in tests.items():
                found[key].append(accuracy(net, a, b, device))
        row[name] = {key: {"median": statistics.median(v), "all": v} for key, v in found.items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0])
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cuda, store = given.device.startswith("cuda"), Store(given.store)
    rows = []
    for name in store.folders("oracle"):
        for temperature in given.temperature:
            rows.append(judged(store, f"oracle/{name}", temperature, given))
            print(rows[-1], flush=True)
    found = {
        "date": date.today().isoformat(), "device": torch.cuda.get_device_name() if cuda else "cpu",
        "python": platform.python_version(), "torch": torch.__version__, "epochs": given.epochs, "rows": rows,
    }  # fmt: skip
    card = found["device"].lower().replace(" ", "-") if cuda else "cpu"
    (given.out / f"oracle_real-{card}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
