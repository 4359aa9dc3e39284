"""Flows of images against nflows' stock Glow: images per second, likelihood after equal time, sampling, scoring.

    python tests/benchmarks/flows.py --device cuda --data cifar10_jpeg_60k --seconds 120 [--parts ...] [--out DIR]

--data is digits, or NAME of NAME.npz in the folder RAYSWEEP_DATA. Each part is printed and written to
flows-<device>.json in DIR (beside this file, if not given) as soon as it is done; other parts in the file are kept:

training          images/s of each of --shapes (patch,width,batch; 4 blocks of 4 layers) and the share of 989 TFLOP/s,
                  an H100's or H200's dense bfloat16. FLOPs are 6 per weight and token and 6 per pair of tokens, channel
                  and layer (causal attention, forward and backward). A step is the recipe's own: noise, forward,
                  backward, clipping, AdamW, average of the weights (raysweep.oracle.likelihood)
glow              images/s of nflows' stock Glow (3 levels of 8 steps, unconditional, eager, TF32)
likelihood        bits/dim held out after --seconds of training the flow --flow, compilation included
glow_likelihood   the same of the stock Glow
scoring           seconds for the posterior of images, one pass per class, in float32, TF32 and bfloat16; whether the
                  labels of drawn items follow it (the audit's checks of calibration); then of --scored images in the
                  fastest precision whose labels do
sampling          seconds for --samples images, token by token; and of 256 so and all tokens at once (Jacobi, 1e-4)
These are not run unless asked for:

own_glow          images/s of our kind `glow` of the stock one's size, conditional, compiled, bfloat16
profile           kernels of a training step by their time
world             seconds for sampling and for scoring 16,384 images as a world does, in float64, on one GPU and on all

Scoring, sampling and world take the flow that `likelihood` trained in the same call, or train one for at most 30 s.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from flows_bench import Bench, Trained, parameters, rate  # noqa: E402
from flows_rival import HIDDEN, LAYERS, LEVELS, STEPS, Rival  # noqa: E402

from raysweep.experiment import Sample  # noqa: E402
from raysweep.oracle import likelihood  # noqa: E402
from raysweep.oracle.audit import calibration  # noqa: E402
from raysweep.oracle.flow_world import FlowWorld  # noqa: E402
from raysweep.oracle.flows.autoregressive import Autoregressive, Jacobi  # noqa: E402
from raysweep.oracle.flows.block import compile_blocks  # noqa: E402
from raysweep.oracle.flows.conditional import ConditionalFlow  # noqa: E402
from raysweep.oracle.glow_world import GlowRecipe  # noqa: E402
from raysweep.oracle.image_flow import ImageRecipe  # noqa: E402
from raysweep.training.precision import products  # noqa: E402

DENSE = 989e12  # FLOP/s of bfloat16
SHAPES = ("4,256,512", "4,512,512", "2,512,256", "2,1024,128")
PARTS = ("training", "glow", "likelihood", "glow_likelihood", "scoring", "sampling")
MORE = ("own_glow", "profile", "world")
GOAL = 3.10  # bits/dim of the likelihood part on cifar10_jpeg_60k


def training(bench: Bench) -> list[dict[str, Any]]:
    found = []
    for shape in bench.shapes:
        if bench.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        own = bench.recipe(shape)
        trained = Trained(own, bench.device)
        with bench.attending():
            _, first = bench.timed_call(trained)
            speed = rate(bench, trained, own.batch, warm=10)
        row = {
            "patch": own.patch,
            "width": own.width,
            "batch": own.batch,
            "attention": bench.attention,
            "parameters": parameters(trained.flow),
            "images_per_s": speed,
            "flops_per_image": trained.flops(),
            "share": speed * trained.flops() / DENSE,
            "first_step_seconds": first,
            "gib": torch.cuda.max_memory_allocated() / 2**30 if bench.cuda else None,
        }
        found.append(row)
        print(row, flush=True)
    return found


def glow(bench: Bench) -> dict[str, Any]:
    own = bench.recipe(bench.flow)
    with products(bench.precision):
        rival = Rival(own, bench.device)
        speed = rate(bench, rival, own.batch, warm=3, repeats=1)
    return {"batch": own.batch, "parameters": parameters(rival.flow), "images_per_s": speed}


def own_glow(bench: Bench) -> dict[str, Any]:
    own = bench.recipe(bench.flow)
    kept = own.model_dump(include={"data", "batch", "steps", "lr", "warmup", "precision", "flips"})
    trained = Trained(GlowRecipe(**kept, levels=LEVELS, depth=STEPS, width=HIDDEN, layers=LAYERS), bench.device)
    speed = rate(bench, trained, own.batch, warm=5)
    return {"batch": own.batch, "parameters": parameters(trained.flow), "images_per_s": speed}


def train_for(bench: Bench, seconds: float, step: Callable[[], None], at: Callable[[float], None]) -> int:
    """Steps taken in a time, compilation included."""
    begun, taken = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < seconds:
        at(spent / seconds)
        for _ in range(10):
            step()
        bench.wait()
        taken += 10
    return taken


def held_out(bench: Bench, own: ImageRecipe, log_prob: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Bits/dim of the test images, in float32."""
    test = likelihood._Images.of(own, True, bench.device)
    generator = torch.Generator(bench.device).manual_seed(0)
    found = []
    with torch.no_grad(), products("float32"):
        for x, y in islice(zip(test.x.split(250), test.y.split(250), strict=True), 40):
            found.append(-log_prob(test.noisy(x, generator), y).double() / x.shape[1])
    nats = torch.cat(found)
    bits = float(nats.mean()) / math.log(2) + math.log2(test.levels / 2)
    return {"bits_per_dim": bits, "se": float(nats.std()) / math.log(2) / len(nats) ** 0.5, "images": len(nats)}


def fitted(bench: Bench, seconds: float) -> tuple[ConditionalFlow, dict[str, Any]]:
    """The average flow after a time, and how likely it finds images held out."""
    own = bench.recipe(bench.flow)
    ours = Trained(own, bench.device)
    with bench.attending():
        steps = train_for(bench, seconds, ours, ours.rate)
    flow = ours.average.eval()
    about = {"flow": bench.flow, "layers": bench.layers, "lr": bench.lr, "parameters": parameters(flow)}
    done = {"seconds": seconds, "steps": steps, "images_seen": steps * own.batch}
    return flow, {**about, **done, **held_out(bench, own, flow.log_prob), "goal": GOAL}


def glow_likelihood(bench: Bench) -> dict[str, Any]:
    own = bench.recipe(bench.flow)
    with products(bench.precision):
        rival = Rival(own, bench.device)
        steps = train_for(bench, bench.seconds, rival, lambda share: None)
    done = {"seconds": bench.seconds, "steps": steps, "images_seen": steps * own.batch}
    return {**done, **held_out(bench, own, rival.log_prob)}


def drawn(bench: Bench, flow: ConditionalFlow, n: int) -> tuple[Tensor, Tensor]:
    """n items of the flow's own, and their classes, in float32."""
    y = torch.arange(n, device=bench.device) % flow.classes
    noise = torch.randn(n, flow.dim, generator=torch.Generator(bench.device).manual_seed(1), device=bench.device)
    return flow.generate(y, noise), y


@torch.no_grad()
def scoring(bench: Bench, flow: ConditionalFlow) -> dict[str, Any]:
    n = min(bench.scored, 5_000 if bench.cuda else 200)
    flow.at_once = bench.at_once
    with products("float32"):
        x, y = drawn(bench, flow, n)
    few = x[:200]
    exact = copy.deepcopy(flow).double().log_posterior(few.double())
    if bench.cuda:
        compile_blocks(flow)
    found: dict[str, Any] = {"classes": flow.classes, "images": n, "precisions": {}}
    passed: dict[str, float] = {}
    for precision in ("float32", "tf32", "bf16") if bench.cuda else ("float32", "bf16"):

        def scored(images: Tensor, precision: str = precision) -> Tensor:
            kind = "tf32" if precision == "tf32" else "float32"
            with products(kind), torch.autocast(bench.device, torch.bfloat16, enabled=precision == "bf16"):
                return flow.log_posterior(images)

        scored(x[: bench.at_once // flow.classes])
        log_r, spent = bench.timed_call(lambda scored=scored: scored(x))
        checks = calibration(Sample(x.cpu().numpy(), y.cpu().numpy(), log_r.cpu().numpy()))
        change = (log_r[: len(few)].exp() - exact.exp()).abs()
        found["precisions"][precision] = {
            "seconds": spent,
            "checks": {check.name: check.value for check in checks},
            "passed": all(check.passed for check in checks),
            "aleatoric": float(-(log_r.exp() * log_r).nan_to_num().sum(1).mean()),
            "largest_change_of_posterior": float(change.max()),
            "mean_change_of_posterior": float(change.sum(1).mean()),
        }
        print(precision, found["precisions"][precision], flush=True)
        if all(check.passed for check in checks):
            passed[precision] = spent
            if spent == min(passed.values()):
                fastest = scored
    if passed:
        many = x.repeat(math.ceil(bench.scored / n), 1)[: bench.scored]
        _, spent = bench.timed_call(lambda: fastest(many))
        found |= {"precision": min(passed, key=passed.__getitem__), "all_images": len(many), "all_seconds": spent}
    return found


@torch.no_grad()
def sampling(bench: Bench, flow: ConditionalFlow) -> dict[str, Any]:
    blocks = [part for part in flow.modules() if isinstance(part, Autoregressive)]
    flow.at_once = bench.at_once
    few = min(256, bench.samples)
    found: dict[str, Any] = {"few": few}
    results = []
    with products("float32"):
        drawn(bench, flow, 8)
        for name, how in (("cache", None), ("jacobi", Jacobi(tolerance=1e-4))):
            for block in blocks:
                block.jacobi = how
            (x, _), found[f"few_{name}_seconds"] = bench.timed_call(lambda: drawn(bench, flow, few))
            results.append(x)
            if how is not None:
                found["jacobi_rounds_per_block"] = how.rounds / len(blocks)
        found["largest_difference"] = float((results[0] - results[1]).abs().max())
        for block in blocks:
            block.jacobi = None
        print(found, flush=True)
        (x, _), spent = bench.timed_call(lambda: drawn(bench, flow, bench.samples))
    return {**found, "images": bench.samples, "seconds": spent, "finite": bool(x.isfinite().all())}


def world(bench: Bench, flow: ConditionalFlow) -> list[dict[str, Any]]:
    exact = copy.deepcopy(flow).double()
    exact.at_once = min(bench.at_once, 2048)
    others = [f"cuda:{i}" for i in range(1, torch.cuda.device_count())] if bench.cuda else ["cpu"]
    copies = tuple(copy.deepcopy(exact).to(device) for device in others)
    n, found, first = (16_384 if bench.cuda else 4_096), [], None
    for several in [(), copies] if copies else [()]:
        own = FlowWorld(exact, bench.recipe(bench.flow), "0" * 16, bench.device, several)
        own.sample(2048 * (1 + len(several)), "warm")
        sample, both = bench.timed_call(lambda own=own: own.draw(n, "timed", 1.0))
        log_r, scored = bench.timed_call(lambda own=own, sample=sample: own.log_posterior(sample.x))
        first = log_r if first is None else first
        apart = float(np.abs(np.exp(log_r) - np.exp(first)).max())
        row = {"devices": 1 + len(several), "images": n, "sampling_seconds": both - scored, "scoring_seconds": scored}
        found.append({**row, "largest_difference_of_posterior": apart})
        print(found[-1], flush=True)
    return found


def profile(bench: Bench) -> list[dict[str, Any]]:
    """Time of each kernel in five steps, the longest first."""
    own = bench.recipe(bench.flow)
    trained = Trained(own, bench.device)
    with bench.attending():
        for _ in range(10):
            trained()
        bench.wait()
        with torch.profiler.profile() as seen:
            for _ in range(5):
                trained()
            bench.wait()
    events = seen.key_averages()
    print(events.table(sort_by="self_device_time_total" if bench.cuda else "self_cpu_time_total", row_limit=40))
    spent = [(e.self_device_time_total if bench.cuda else e.self_cpu_time_total, e.key, e.count) for e in events]
    return [{"ms": t / 1e3, "kernel": key[:120], "calls": count} for t, key, count in sorted(spent, reverse=True)[:40]]


def asked() -> tuple[Bench, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *MORE], default=PARTS)
    parser.add_argument("--seconds", type=float, default=5.0, help="that each flow may train for its likelihood")
    parser.add_argument("--timed", type=int, default=20, help="steps in each of three timings")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="PATCH,WIDTH,BATCH")
    parser.add_argument("--flow", default="4,256,512", metavar="PATCH,WIDTH,BATCH")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--layers", type=int, default=4, help="of each of the four blocks")
    parser.add_argument("--attention", choices=["default", "cudnn"], default="default")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--scored", type=int, default=50_000)
    parser.add_argument("--at-once", type=int, default=5_000, help="sequences in a pass of sampling and scoring")
    parser.add_argument("--out", type=Path, default=HERE)
    given = vars(parser.parse_args())
    parts = list(given.pop("parts"))
    return Bench(**{**given, "shapes": tuple(given["shapes"])}), parts


def main() -> None:
    bench, parts = asked()
    name = torch.cuda.get_device_name() if bench.cuda else "cpu"
    bench.out.mkdir(parents=True, exist_ok=True)
    file = bench.out / f"flows-{name.lower().replace(' ', '-')}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found |= {"device": name, "python": platform.python_version(), "torch": torch.__version__, "data": bench.data}
    flow: ConditionalFlow | None = None
    simple: dict[str, Callable[[Bench], Any]] = {
        "training": training,
        "glow": glow,
        "glow_likelihood": glow_likelihood,
        "own_glow": own_glow,
        "profile": profile,
    }
    trained_parts: dict[str, Callable[[Bench, ConditionalFlow], Any]] = {
        "scoring": scoring,
        "sampling": sampling,
        "world": world,
    }
    for part in sorted(parts, key=[*PARTS, *MORE].index):
        begun = time.perf_counter()
        if part in simple:
            result: Any = simple[part](bench)
        elif part == "likelihood":
            flow, result = fitted(bench, bench.seconds)
        else:
            if flow is None:
                flow, _ = fitted(bench, min(bench.seconds, 30.0))
            result = {"flow": bench.flow, "result": trained_parts[part](bench, flow)}
        found[part] = {"date": date.today().isoformat(), "took": time.perf_counter() - begun, "found": result}
        print(part, json.dumps(found[part]), flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
