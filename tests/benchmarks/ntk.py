"""The NTK of 10,000 images from `models.ntk` against a loop over items with a backward pass per output.

    python tests/benchmarks/ntk.py [--data cifar10_jpeg_60k.npz] [--device cuda] [--items 10000] [--memory-gib 24] \
        [--models mlp cnn resnet] [--out DIR]

--data is an npz of images and classes: `x` and `y`, or all of CIFAR-10 as JPEG (header, payload, lengths, labels).
Without it, the images are noise of the same shape, which costs the same. The loop is what one writes with
`torch.autograd.grad`; it is timed on some items (--sampled) and scaled to all, without the product of the Jacobians,
which would not fit in memory. Both run in float32 without TF32, which torch allows in convolutions by default. On the
sampled items each is compared with the loop in float64, and so is `models.ntk` in float64: where a ReLU's input is 0
but for rounding, float32 may take the other slope, so that two exact methods differ. Writes ntk-<device>.json beside
this file, or into DIR.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.models import Architecture  # noqa: E402
from raysweep.models.initial import initial_parameters  # noqa: E402
from raysweep.models.ntk import ntk  # noqa: E402
from raysweep.training.precision import products  # noqa: E402

INPUTS, CLASSES = 3 * 32 * 32, 10
MODELS = {
    "mlp": Architecture("mlp", INPUTS, CLASSES, 1024, 3),
    "cnn": Architecture("cnn", INPUTS, CLASSES, 32, 3),
    "resnet": Architecture("resnet", INPUTS, CLASSES, 16, 1),
}


def images(data: Path | None, items: int) -> Tensor:
    """[items, 3072] standardised."""
    if data is None:
        return torch.randn(items, INPUTS, generator=torch.Generator().manual_seed(0))
    found = np.load(data)
    if "x" in found:
        x = found["x"][:items].reshape(-1, INPUTS).astype(np.float32)
    else:
        from PIL import Image

        header, payload, lengths = found["header"].tobytes(), found["payload"].tobytes(), found["lengths"][:items]
        ends = np.cumsum(lengths.astype(np.int64)).tolist()
        decoded = [
            np.asarray(Image.open(io.BytesIO(header + payload[end - length : end])))
            for end, length in zip(ends, lengths.tolist(), strict=True)
        ]
        x = np.stack(decoded).transpose(0, 3, 1, 2).reshape(-1, INPUTS).astype(np.float32)
    return torch.from_numpy((x - x.mean()) / x.std())


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def loop(architecture: Architecture, stack: dict[str, Tensor], x: Tensor) -> Tensor:
    """[items, outputs * N] Jacobians, one backward pass per item and output."""
    model = architecture.model()
    own = {name: p.clone().requires_grad_() for name, p in stack.items()}
    rows = []
    for item in x:
        out = model(own, item[None, None])[0, 0]
        each = [torch.autograd.grad(o, list(own.values()), retain_graph=True) for o in out]
        rows.append(torch.cat([g.flatten() for found in each for g in found]))
    return torch.stack(rows)


def measure(name: str, x: Tensor, device: str, memory: int, sampled: int) -> dict[str, Any]:
    """One architecture, both ways."""
    architecture = MODELS[name]
    stack = initial_parameters(architecture, torch.tensor([0]), torch.float32, device)
    ntk(architecture.model(), stack, x[:sampled], memory=memory)  # first use of every kernel of the device
    loop(architecture, stack, x[:2])
    synchronise(device)
    started = time.perf_counter()
    jacobian = loop(architecture, stack, x[:sampled])
    synchronise(device)
    naive = (time.perf_counter() - started) * len(x) / sampled
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    kernel = ntk(architecture.model(), stack, x, memory=memory)
    synchronise(device)
    ours = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    looped, found = jacobian.double() @ jacobian.double().T, kernel[0, :sampled, :sampled].double()
    double, few = {name: p.double() for name, p in stack.items()}, x[:sampled].double()
    jacobian = loop(architecture, double, few)
    exact = jacobian @ jacobian.T
    same = ntk(architecture.model(), double, few, memory=memory)[0]

    def difference(one: Tensor, other: Tensor) -> float:
        return float((one - other).abs().max() / exact.abs().max())

    row = {
        "model": name,
        "width": architecture.width,
        "parameters": architecture.layout.size,
        "items": len(x),
        "sampled": sampled,
        "seconds": ours,
        "loop_seconds": naive,
        "ratio": naive / ours,
        "memory_gib": memory / 2**30,
        "difference": difference(found, looped),
        "difference_in_float64": difference(same, exact),
        "error": difference(found, exact),
        "loop_error": difference(looped, exact),
    }
    if device == "cuda":
        kept = kernel.numel() * kernel.element_size()
        row["peak_gib_besides_kernel"] = (peak - kept) / 2**30
    return row


def main() -> None:
    """Measure the models that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--sampled", type=int, default=64)
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    device_name = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    x = images(asked.data, asked.items).to(asked.device)
    rows = []
    with products("float32"):
        for name in asked.models:
            rows.append(measure(name, x, asked.device, int(asked.memory_gib * 2**30), min(asked.sampled, len(x))))
            print({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    about = {"date": date.today().isoformat(), "device": device_name, "python": platform.python_version()}
    about |= {
        "precision": "float32, no TF32",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "data": asked.data and asked.data.name,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"ntk-{device_name.lower().replace(' ', '-')}.json"
    file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
