"""Mean dimensions of many networks from `metrics.mean_dimension` against a loop over lanes and pixels.

    python tests/benchmarks/mean_dimension.py [--device cuda] [--lanes L] [--nets 784-128-10 ...] [--machine NAME]
                                              [--out DIR]

The rival is what one writes first: one network, one pixel flipped in a forward pass, 100 items in a batch, on the same
device, in float32. It is timed on some networks (--rivals), and the shortest of these times is scaled to all. Both ways
use the same estimator and as many points, so their standard errors are equal, up to the noise of estimating them, and
both are compared: `sample` (the variance from 10,000 inputs of its own) and `pairs` (the variance from the flips). The
goal, for 784-128-10 and 64 networks: 50 times the rival on two cores, 500 times on one GPU; other networks have none.

What bounds the ratio for 784-128-10 where both run at the speed of the library's products, as on CPUs: a flip takes
1,280 multiply-adds of ours (the second layer) and 101,632 of the rival's, so 79 for `pairs`. Inputs drawn for the
variance alone take 101,632 of both, so 8.9 for `sample`, whose 10,000 are a ninth of the rival's evaluations. On an
AMD processor our products go at twice the speed of the rival's (`metrics.product`), and the bounds double. With two
such cores, the large products of `pairs` need .05 s (25.7 GFLOP at 250 a core and second); the rest of .26 s is
operations that read or write every change, and the units that may switch.

Columns: evaluations per second over all lanes; the relative standard error after one second, se sqrt(seconds), median
over lanes; `ratio`, the rival's time for the same standard error over ours; `ratio_best`, the same with each side's
better estimator; `cpu_ratio`, that of CPU times. Where other programs use the cores, too, the threads of the rival's
many small products wait for each other, and only a run with OMP_NUM_THREADS=1 is meaningful. Each row has its date,
versions, processor and threads, and the load of the machine before it. Writes mean_dimension-<device>.json, with
--machine mean_dimension-<device>-NAME.json, beside this file or into DIR. Rows of networks that are not among --nets
stay there, and on a CPU those of another number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from packing_meter import device_name as processor
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.metrics.mean_dimension import MeanDimension, mean_dimension  # noqa: E402
from raysweep.models import Architecture  # noqa: E402
from raysweep.models.initial import initial_parameters  # noqa: E402
from raysweep.training.precision import products  # noqa: E402
from raysweep.training.probe import fastest_conv  # noqa: E402

INPUTS, BATCH = 784, 100
NETS = {
    "784-128-10": (Architecture("mlp", INPUTS, 10, 128, 1), 64, 100, 10_000),
    "784-512-512-10": (Architecture("mlp", INPUTS, 10, 512, 2), 8, 100, 10_000),
    "cnn": (Architecture("cnn", INPUTS, 10, 8, 2), 8, 4, 1_000),
}  # architecture, networks, points, points for the variance


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(works: Sequence[Callable[[], Any]], device: str) -> tuple[float, float]:
    """The shortest time of some runs, and their least CPU time, which other programs hardly change."""
    times = []
    for work in works:
        synchronise(device)
        started, used = time.perf_counter(), time.process_time()
        work()
        synchronise(device)
        times.append((time.perf_counter() - started, time.process_time() - used))
    shortest, least = (min(each) for each in zip(*times, strict=True))
    return shortest, least


def network(architecture: Architecture, stack: dict[str, Tensor], lane: int) -> Callable[[Tensor], Tensor]:
    """One lane as plain torch: a sequence of modules, or the stacked model with one lane."""
    own = {name: p[lane : lane + 1] for name, p in stack.items()}
    if architecture.kind != "mlp":
        model = architecture.model("loop")
        return lambda x: model(own, x[None])[0]
    parts: list[nn.Module] = []
    for i in range(architecture.depth + 1):
        weight = own[f"layers.{i}.weight"][0]
        layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        layer.load_state_dict({"weight": weight, "bias": own[f"layers.{i}.bias"][0]})
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def signs(items: int, generator: torch.Generator, device: str) -> Tensor:
    return (torch.randint(0, 2, (items, INPUTS), generator=generator) * 2.0 - 1.0).to(device)


def flips(f: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """For each pixel, the change of f [items, outputs] by a flip."""
    start, found = f(x), []
    for pixel in range(INPUTS):
        flipped = x.clone()
        flipped[:, pixel] *= -1
        found.append(f(flipped) - start)
    return found


@torch.no_grad()
def rival(f: Callable[[Tensor], Tensor], points: int, variance_points: int, pairs: bool, device: str) -> float:
    """The loop, in batches of 100 or of all points if these are fewer."""
    generator = torch.Generator().manual_seed(0)
    x = signs(points, generator, device)
    if not pairs:
        total = sum((change**2).sum() for change in flips(f, x)) / 4 / points
        outputs = torch.cat([f(signs(BATCH, generator, device)) for _ in range(variance_points // BATCH)])
        return float(total / outputs.var(0).sum())
    rho = (torch.arange(points) // 2 + torch.rand(points, generator=generator)) / (points // 2)
    kept = torch.rand(points, INPUTS, generator=generator) < rho[:, None]
    y = torch.where(kept.to(device), x, signs(points, generator, device))
    squares = products_ = torch.zeros((), device=device)
    for pixel, (one, two) in enumerate(zip(flips(f, x), flips(f, y), strict=True)):
        squares = squares + (one**2 + two**2).sum() / 2
        products_ = products_ + (one * two * (x[:, pixel] * y[:, pixel])[:, None]).sum()
    return float(squares / products_)


def measure(name: str, lanes: int | None, rivals: int, device: str, repeats: int) -> list[dict[str, Any]]:
    """Both ways of one network, with both estimators."""
    architecture, usual, points, variance_points = NETS[name]
    lanes = lanes or usual
    rivals = min(rivals, lanes)
    stack = initial_parameters(architecture, torch.arange(lanes), torch.float32, device)
    conv = fastest_conv(architecture, lanes, 1024, torch.float32, device, False)
    model, rows = architecture.model(conv), []
    for estimator in ("sample", "pairs"):
        pairs = estimator == "pairs"
        found: list[MeanDimension] = []

        def ours(
            estimator: Any = estimator, found: list[MeanDimension] = found, points: int = points, kept: int = 0
        ) -> None:
            each = {"points": points, "variance": estimator, "variance_points": variance_points}
            found[kept:] = [mean_dimension(model, INPUTS, parameters=stack, **each)]

        ours()
        seconds, cpu = timed([ours] * repeats, device)
        values: list[float] = []
        nets = [network(architecture, stack, lane) for lane in range(rivals)]
        rival(nets[0], points, BATCH, False, device)  # first use of every kernel of the device

        def theirs(
            f: Callable[[Tensor], Tensor], values: list[float] = values, points: int = points, pairs: bool = pairs
        ) -> None:
            values.append(rival(f, points, variance_points, pairs, device))

        naive, naive_cpu = (t * lanes for t in timed([partial(theirs, f) for f in nets], device))
        result = found[0]
        error = float((result.error / result.value).median())
        both = [float(v) for v in result.value[:rivals]]
        rows.append(
            {
                "net": name,
                "lanes": lanes,
                "estimator": estimator,
                "points": points,
                "variance_points": 0 if pairs else variance_points,
                "evaluations_per_lane": result.evaluations,
                "value": both,
                "rival_value": values,
                "relative_se": error,
                "seconds": seconds,
                "rival_seconds": naive,
                "cpu_seconds": cpu,
                "rival_cpu_seconds": naive_cpu,
                "evaluations_per_s": result.evaluations * lanes / seconds,
                "rival_evaluations_per_s": result.evaluations * lanes / naive,
                "relative_se_after_1_s": error * seconds**0.5,
                "rival_relative_se_after_1_s": error * naive**0.5,
                "ratio": naive / seconds,
                "cpu_ratio": naive_cpu / cpu,
            }
        )
    best = min(row["rival_relative_se_after_1_s"] for row in rows) / min(row["relative_se_after_1_s"] for row in rows)
    return [{**row, "ratio_best": best**2} for row in rows]


def kept(file: Path, measured: Sequence[str], threads: int | None) -> list[dict[str, Any]]:
    """Rows of a file but those that are measured now, with this number of threads or with any. What the file says of
    all its rows goes into each."""
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    about = {name: value for name, value in found.items() if name not in ("rows", "device")}
    rows = [{**about, **row} for row in found["rows"]]
    return [row for row in rows if row["net"] not in measured or threads not in (None, row["threads"])]


def main() -> None:
    """Measure the networks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lanes", type=int, help="networks side by side, in place of each case's own number")
    parser.add_argument("--rivals", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--machine", help="a machine whose rows have a file of their own")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    device_name = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    asked.out.mkdir(parents=True, exist_ok=True)
    where = "-".join(filter(None, [device_name.lower().replace(" ", "-"), asked.machine]))
    file = asked.out / f"mean_dimension-{where}.json"
    rows = kept(file, asked.nets, torch.get_num_threads() if asked.device == "cpu" else None)
    about = {"date": date.today().isoformat(), "python": platform.python_version(), "torch": torch.__version__}
    about |= {"processor": processor("cpu"), "threads": torch.get_num_threads()}
    with products("float32"):
        for name in asked.nets:
            load = round(os.getloadavg()[0], 2)
            for row in measure(name, asked.lanes, asked.rivals, asked.device, asked.repeats):
                rows.append({**about, "load_before": load, **row})
                print({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    rows.sort(key=lambda row: list(NETS).index(row["net"]))
    file.write_text(json.dumps({"device": device_name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
