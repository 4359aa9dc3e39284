"""What packing is measured against: one model at a time, written as a good engineer would, in processes side by side.

Plain modules and torch's own SGD; data resident on the device, batches drawn there, no wait for the device inside the
loop. `rivals_tune.py` runs the same `train` under Ray Tune. Called by packing.py:

    python tests/benchmarks/rivals.py SPEC.json   (writes spec["out"])
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WARM_UP = 10  # steps before a loop's clock starts: libraries choose algorithms and take workspaces in them
CHUNK = 256  # steps whose batches are drawn by one call


@dataclass(frozen=True)
class Task:
    """What one run trains, and how.

    Attributes:
        optimiser: `fused`, `foreach` or `loop`: torch's three implementations of the same SGD.
        channels_last: Memory format of images.
    """

    model: str
    inputs: int
    classes: int
    width: int
    depth: int
    batch: int
    steps: int
    lr: float
    precision: str
    device: str
    momentum: float = 0.9
    activation: str = "relu"
    patch: int = 4
    heads: int = 4
    optimiser: str = "foreach"
    channels_last: bool = False

    def variants(self) -> list[Task]:
        """Ways of writing the same training, to be timed against each other."""
        formats = (False, True) if self.model == "resnet" else (False,)
        return [replace(self, optimiser=o, channels_last=c) for c in formats for o in ("fused", "foreach", "loop")]


class Block(nn.Module):
    """A basic residual block with GroupNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(math.gcd(8, outputs), outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(math.gcd(8, outputs), outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(math.gcd(8, outputs), outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(h)) + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """Stem, three stages of blocks, global mean, head; as raysweep's `resnet`."""

    def __init__(self, task: Task, channels: int, side: int) -> None:
        super().__init__()
        self.image, self.channels_last = (channels, side, side), task.channels_last
        w = task.width
        blocks, inputs = [], w
        for stage in range(3):
            for block in range(task.depth):
                blocks.append(Block(inputs, w * 2**stage, 2 if stage and not block else 1))
                inputs = w * 2**stage
        self.stem = nn.Sequential(nn.Conv2d(channels, w, 3, 1, 1, bias=False), nn.GroupNorm(math.gcd(8, w), w))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, task.classes)

    def forward(self, x: Tensor) -> Tensor:
        h = x.unflatten(1, self.image)
        if self.channels_last:
            h = h.contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(self.stem(h).relu()).mean((2, 3)))


class Attention(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, activate: Any) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(activate(self.up(self.norm2(x))))


class ViT(nn.Module):
    """Patches, learned positions, pre-norm blocks, mean of the tokens; as raysweep's `vit`."""

    def __init__(self, task: Task, channels: int, side: int) -> None:
        super().__init__()
        across, p, w = side // task.patch, task.patch, task.width
        self.split, self.activate = (channels, across, p, across, p), getattr(F, task.activation)
        self.embed = nn.Linear(channels * p * p, w)
        self.position = nn.Parameter(torch.empty(across**2, w).uniform_(-1, 1) / across)
        self.blocks = nn.ModuleList(Attention(w, task.heads) for _ in range(task.depth))
        self.norm, self.head = nn.LayerNorm(w), nn.Linear(w, task.classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unflatten(1, self.split).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        h = self.embed(patches) + self.position
        for block in self.blocks:
            h = block(h, self.activate)
        return self.head(self.norm(h).mean(1))


def build(task: Task) -> nn.Module:
    """The model on the CPU, with torch's own initial values (raysweep's have the same distribution)."""
    if task.model == "mlp":
        sizes = [task.inputs, *[task.width] * task.depth, task.classes]
        activation = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[task.activation]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), activation())]
        return nn.Sequential(*layers[:-1])
    channels = 3 if math.isqrt(task.inputs // 3) ** 2 * 3 == task.inputs else 1
    side = math.isqrt(task.inputs // channels)
    made: nn.Module = (ResNet if task.model == "resnet" else ViT)(task, channels, side)
    return made.to(memory_format=torch.channels_last) if task.channels_last else made  # type: ignore[call-overload]


def set_up(task: Task) -> None:
    """Once per process: one thread, and the precision's flags."""
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = task.precision == "tf32"


def on_device(data: Mapping[str, np.ndarray], device: str) -> dict[str, Tensor]:
    """The pool and the evaluation sample, resident."""
    return {name: torch.tensor(values, device=device) for name, values in data.items()}


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def train(task: Task, data: Mapping[str, Tensor], seed: int, steps: int | None = None) -> dict[str, float]:
    """One run: mean cross-entropy on the evaluation sample, and when the loop (warm-up apart) began and ended."""
    torch.manual_seed(seed)
    total, device = steps or task.steps, task.device
    model = build(task).to(device)
    how = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}[task.optimiser]
    optimiser = torch.optim.SGD(model.parameters(), lr=task.lr, momentum=task.momentum, **how)  # type: ignore[arg-type]
    half = torch.autocast("cuda" if device.startswith("cuda") else "cpu", torch.bfloat16, task.precision == "bf16")
    x, y = data["x"], data["y"]
    warm = min(WARM_UP, total // 2)
    begin = 0.0
    for done in range(total):
        if done == warm:
            wait(device)
            begin = time.time()
        if done % CHUNK == 0:
            drawn = torch.randint(len(x), (min(CHUNK, total - done), task.batch), device=device).unbind()
        rows = drawn[done % CHUNK]
        with half:
            loss = F.cross_entropy(model(x.index_select(0, rows)), y.index_select(0, rows))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    wait(device)
    end = time.time()
    with torch.no_grad(), half:
        logits = torch.cat([model(part) for part in data["eval_x"].split(1024)])
    nll = F.cross_entropy(logits.double(), data["eval_y"])
    return {"nll": float(nll), "begin": begin, "end": end, "steps": float(total - warm)}


def busy_rate(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Model-steps a second while (nearly) as many trained as ever did at once: start-up and the tail left out."""
    edges = sorted({t for r in results for t in (r["begin"], r["end"])})
    spans = [(a, b, [r for r in results if r["begin"] <= a and r["end"] >= b]) for a, b in pairwise(edges)]
    most = max((len(own) for *_, own in spans), default=0)
    length = work = 0.0
    for a, b, own in spans:
        if len(own) >= max(1, 0.75 * most):
            length += b - a
            work += sum(r["steps"] / (r["end"] - r["begin"]) for r in own) * (b - a)
    return {"steps_per_s": work / length if length else 0.0, "at_once": float(most), "window_s": length}


def _worker(data_path: str, device: str, inbox: Any, outbox: Any) -> None:
    """A process: told (task, seeds, steps), it trains these runs one after another and tells what each gave."""
    with np.load(data_path) as file:
        data = on_device(file, device)
    wait(device)
    outbox.put(time.time())
    while (told := inbox.get()) is not None:
        task, seeds, steps = told
        set_up(task)
        outbox.put([train(task, data, seed, steps) for seed in seeds])


class Processes:
    """Processes side by side, each training its share."""

    def __init__(self, count: int, data_path: str, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.outbox = context.Queue()
        self.inboxes = [context.Queue() for _ in range(count)]
        self.all = [
            context.Process(target=_worker, args=(data_path, device, i, self.outbox), daemon=True) for i in self.inboxes
        ]
        for process in self.all:
            process.start()
        self.ready = sorted(self._next() for _ in self.all)

    def _next(self) -> Any:
        while True:
            with contextlib.suppress(queue.Empty):
                return self.outbox.get(timeout=5)
            if not all(p.is_alive() for p in self.all):
                raise RuntimeError("a process of the benchmark died")

    def train(self, task: Task, runs: int, count: int, steps: int | None = None) -> list[dict[str, float]]:
        """So many runs in the first `count` processes."""
        shares = [share.tolist() for share in np.array_split(np.arange(runs), min(count, runs))]
        for inbox, seeds in zip(self.inboxes, shares, strict=False):
            inbox.put((task, seeds, steps))
        return [result for _ in shares for result in self._next()]

    def stop(self) -> None:
        for inbox in self.inboxes:
            inbox.put(None)
        for process in self.all:
            process.join(20)


def warm_up(task: Task) -> int:
    """Steps before a scan's own: on a GPU libraries try their algorithms in them."""
    return 2 if task.device == "cpu" else 3 * WARM_UP


def fastest_variant(processes: Processes, task: Task, steps: int) -> tuple[Task, dict[str, float]]:
    """The fastest way of writing the training, alone on the device."""
    rates: dict[str, float] = {}
    best, at = task, 0.0
    for variant in task.variants():
        processes.train(variant, 1, 1, warm_up(task))
        rate = busy_rate(processes.train(variant, 1, 1, steps))["steps_per_s"]
        rates[variant.optimiser + (" channels_last" if variant.channels_last else "")] = rate
        if rate > at:
            best, at = variant, rate
    return best, rates


def write(spec: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """What is known so far: a run that is cut off keeps it."""
    partial = Path(str(spec["out"]) + ".part")
    partial.write_text(json.dumps(found))
    os.replace(partial, spec["out"])


def main(spec: Mapping[str, Any]) -> None:
    """Scan the number of processes, then train the sample with the best one.

    With `spec["tasks"]` (the figure's): the rate of each task at the largest count only.
    """
    tasks = [Task(**t) for t in spec["tasks"]]
    counts: list[int] = spec["counts"]
    found: dict[str, Any] = {"tasks": []}
    processes = Processes(max(counts), spec["data"], tasks[0].device)
    started: float = spec["started"]
    for task in tasks:
        best, variants = fastest_variant(processes, task, spec["scan_steps"])
        scan = {}
        for count in counts:
            processes.train(best, count, count, warm_up(task))
            scan[count] = busy_rate(processes.train(best, count, count, spec["scan_steps"]))["steps_per_s"]
        count = max(scan, key=lambda c: scan[c])
        one: dict[str, Any] = {"variant": asdict(best), "variants": variants, "scan": scan, "processes": count}
        found["tasks"].append(one)
        write(spec, found)
        if spec["sample"]:
            begin = time.time()
            results = processes.train(best, spec["sample"], count)
            end = time.time()
            one |= {
                "phase": [begin, end],
                "startup_s": processes.ready[count - 1] - started,
                "train_s": end - begin,
                "sample": spec["sample"],
                "nll": [r["nll"] for r in results],
                "steady": busy_rate(results),
            }
            write(spec, found)
    begin = time.time()
    processes.stop()
    write(spec, {**found, "shutdown_s": time.time() - begin})


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
