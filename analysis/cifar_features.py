"""Features of CIFAR-10's test images, to train heads on: from random patches, and from a residual network.

    python analysis/cifar_features.py patches|resnet --data cifar10_jpeg_60k.npz [--device cuda] [--out DIR]

patches: 400 random 6 x 6 patches of training images as filters, rectified, mean over quarters of the image. resnet:
the input of a ResNet's head, after the platform's own training loop has fitted it to the 50,000 training images and
their labels. Saved: features [10,000, numbers] float32 as OUT/patches.npz or OUT/resnet.npz. The images do not come
with raysweep; --data is an npz of all 60,000 as JPEG (header, payload, lengths, labels; rows 50,000 on are the test).
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.legs import legs
from raysweep.training.loop import train
from raysweep.training.optim import Optimiser
from raysweep.training.precision import products
from raysweep.training.probe import fastest_conv
from raysweep.training.schedule import Schedule

TRAIN = 50_000
FILTERS, SIDE = 400, 6
WIDTH, DEPTH, BATCH, STEPS, LR, DECAY = 32, 2, 128, 12_000, 0.1, 5e-4


def images(data: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Standardised pixels [60,000, 3, 32, 32] and labels [60,000]."""
    found = np.load(data)
    ends = np.cumsum(found["lengths"].astype(np.int64))
    header, payload = found["header"].tobytes(), found["payload"].tobytes()
    decoded = [
        np.asarray(Image.open(io.BytesIO(header + payload[end - length : end])))
        for end, length in zip(ends.tolist(), found["lengths"].tolist(), strict=True)
    ]
    x = np.stack(decoded).transpose(0, 3, 1, 2).astype(np.float32)
    mean, sd = (f(x[:TRAIN], axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (x - mean) / sd, found["labels"].astype(np.int64)


def patches(x: Tensor, seed: int = 0) -> Tensor:
    """[10,000, 4 * FILTERS] of test images; filters are whitened patches of training images (Coates & Ng 2011)."""
    drawing = torch.Generator().manual_seed(seed)
    cut = F.unfold(x[:2000], SIDE).transpose(1, 2).reshape(-1, 3 * SIDE * SIDE)
    cut = cut[torch.randperm(len(cut), generator=drawing)[:50_000]]
    cut = (cut - cut.mean(1, keepdim=True)) / (cut.std(1, keepdim=True) + 0.1)
    values, vectors = torch.linalg.eigh(torch.cov(cut.T))
    white = vectors @ torch.diag((values + 0.1) ** -0.5) @ vectors.T
    filters = cut[torch.randperm(len(cut), generator=drawing)[:FILTERS]] @ white
    filters = (F.normalize(filters) @ white).view(FILTERS, 3, SIDE, SIDE)
    found = [
        F.adaptive_avg_pool2d(F.relu(F.conv2d(part, filters) - 0.5), 2).flatten(1) for part in x[TRAIN:].split(250)
    ]
    return torch.cat(found)


def resnet(x: Tensor, labels: Tensor, steps: int, device: str) -> tuple[Tensor, float]:
    """[10,000, 4 * WIDTH] the head's input on test images, and the network's accuracy there."""
    architecture = Architecture("resnet", x[0].numel(), 10, WIDTH, DEPTH)
    flat, one_hot = x.flatten(1).to(device), F.one_hot(labels, 10).float().to(device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    batches = Batches(
        x=flat[:TRAIN], targets=one_hot[:TRAIN], rows=nested_rows([0], TRAIN, TRAIN).to(device), batch=BATCH,
        seed_row=zero, pool_offset=zero, target_offset=zero, n=zero + TRAIN, order_seed=zero, data_seed=zero,
    )  # fmt: skip
    one = torch.ones(1, device=device)
    optimiser = Optimiser(
        "nesterov", LR * one, 0.9 * one, 0.9 * one, 0.999 * one, 1e-8 * one, DECAY * one,
        rates=architecture.rates(adaptive=False),
    )  # fmt: skip
    schedule = Schedule.make("cosine", zero + 200, zero + steps)
    with products("tf32"):
        conv = fastest_conv(architecture, 1, BATCH, torch.float32, device, True)
        model = architecture.model(conv, True)
        initial = initial_parameters(architecture, zero, torch.float32, device)
        (last,) = train(model, initial, batches, optimiser, schedule, legs("cosine", [steps], 0.0))
        # With the identity as its head, a network returns its head's input.
        d = last.parameters["head.weight"].shape[-1]
        eye, none = torch.eye(d, device=device)[None], torch.zeros(1, d, device=device)
        with torch.no_grad():
            read = [
                (model({**last.parameters, "head.weight": eye, "head.bias": none}, part[None])[0],
                 model(last.parameters, part[None])[0].argmax(-1))
                for part in flat[TRAIN:].split(500)
            ]  # fmt: skip
    features, said = (torch.cat(parts).cpu() for parts in zip(*read, strict=True))
    return features, float((said == labels[TRAIN:]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("patches", "resnet"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the residual network")
    parser.add_argument("--out", type=Path, default=Path("results/lid_cifar"))
    given = parser.parse_args()
    begin = time.perf_counter()
    pixels, labels = images(given.data)
    x = torch.from_numpy(pixels)
    if given.kind == "patches":
        features, about = patches(x), ""
    else:
        features, accuracy = resnet(x, torch.from_numpy(labels), given.steps, given.device)
        about = f"; accuracy on the test images {accuracy:.3f} after {given.steps:,} steps"
    given.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.out / f"{given.kind}.npz", features=features.numpy().astype(np.float32))
    seconds = time.perf_counter() - begin
    print(f"{given.kind}: {features.shape[1]} features{about}; {seconds:.0f} s on {given.device}")


if __name__ == "__main__":
    main()
