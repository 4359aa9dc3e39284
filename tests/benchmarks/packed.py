"""raysweep's packs at steady state, through the product's own path; and the device's ceilings.

Called by packing.py, in a process of its own so that its memory is its own:

    python tests/benchmarks/packed.py SPEC.json   (writes spec["out"])
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from rivals import wait, write

SINGLES = 3  # snapshots one step apart: what a snapshot costs beside the step
FACTOR = 4  # from one length of interval to the next


def schedule(warm: int, repeats: int, unit: int) -> tuple[list[int], list[int]]:
    """Snapshots: after the warm-up, `SINGLES` one step apart, then levels of `repeats` ever longer intervals.

    Returns:
        The steps of the snapshots, and the length of an interval of each level.
    """
    lengths = [unit * FACTOR**level for level in range(8)]
    steps = [warm + i for i in range(SINGLES + 1)]
    for length in lengths:
        for _ in range(repeats):
            steps.append(steps[-1] + length)
    return steps, lengths


def steady(case: Mapping[str, Any], go: Any = None) -> dict[str, Any]:
    """Model-steps a second of one pack between snapshots, without start-up, capture and evaluation.

    The intervals grow until one takes `target_s`; the time of a snapshot itself is what a one-step interval costs
    beyond a step.

    Args:
        case: sweep (a mapping), store and folder of its world, device, warm, repeats, unit, target_s.
        go: A barrier to wait at after the warm-up, where several packs run side by side.
    """
    from raysweep.experiment import Context
    from raysweep.oracle.world import load_world
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    device, repeats = case["device"], case["repeats"]
    cuda = device.startswith("cuda")
    torch.set_num_threads(1)
    steps, lengths = schedule(case["warm"], repeats, case["unit"])
    raw = {**case["sweep"], "grid": {**case["sweep"]["grid"], "steps": steps}}
    raw["grid"] |= {"eval_items": 16, "select_items": 16}
    sweep = from_mapping(raw | ({"resources": {"gpus": 1}} if cuda else {}))
    lanes = len(sweep.runs)
    world = load_world(Store(case["store"]), case["folder"])
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    times: list[float] = []
    unsound = 0
    level, taken = 0, 0
    with contextlib.closing(_batches(sweep, Context(device=device, world=world))) as rows:
        for batch in rows:
            wait(device)
            times.append(time.perf_counter())
            unsound = max(unsound, sum(s != "ok" for s in batch.column("status").to_pylist()))
            if len(times) == 1 and go is not None:
                go.wait()
                times[0] = time.perf_counter()
            taken = len(times) - 1 - SINGLES
            if taken > 0 and taken % repeats == 0:
                level = taken // repeats - 1
                if statistics.median(b - a for a, b in pairwise(times[-repeats - 1 :])) >= case["target_s"]:
                    break
    singles = [b - a for a, b in pairwise(times[: SINGLES + 1])]
    last = [b - a for a, b in pairwise(times[-repeats - 1 :])]
    length = lengths[level]
    # interval = length steps + a snapshot; single = 1 step + a snapshot; so their difference is length - 1 steps.
    single = min(min(singles), statistics.median(last))
    net = [lanes * (length - 1) / (seconds - single) if seconds > 2 * single else lanes * length / seconds
           for seconds in last]  # fmt: skip
    return {
        "lanes": lanes,
        "steps_per_s": statistics.median(net),
        "repeats": net,
        "gross_steps_per_s": statistics.median(lanes * length / seconds for seconds in last),
        "interval_steps": length,
        "interval_s": statistics.median(last),
        "snapshot_s": single,
        "first_snapshot_s": times[0] - begin,
        "unsound_lanes": unsound,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
    }


def _batches(sweep: Any, context: Any) -> Iterator[Any]:
    yield from sweep.experiment.run(sweep.runs, context)


def _side_by_side(case: Mapping[str, Any], go: Any, outbox: Any) -> None:
    outbox.put(steady(case, go))


def packs(case: Mapping[str, Any]) -> dict[str, Any]:
    """`case["packs"]` packs at once, one thread each: their rates add up."""
    if case["packs"] == 1:
        return {**steady(case), "packs": 1}
    context = multiprocessing.get_context("spawn")
    go, outbox = context.Barrier(case["packs"]), context.Queue()
    workers = [context.Process(target=_side_by_side, args=(case, go, outbox)) for _ in range(case["packs"])]
    for worker in workers:
        worker.start()
    each = [outbox.get(timeout=case.get("timeout_s", 600)) for _ in workers]
    for worker in workers:
        worker.join()
    found = dict(each[0])
    for name in ("steps_per_s", "gross_steps_per_s"):
        found[name] = sum(e[name] for e in each)
    found["repeats"] = [sum(r) for r in zip(*(e["repeats"] for e in each), strict=True)]
    found["unsound_lanes"] = sum(e["unsound_lanes"] for e in each)
    return {**found, "packs": case["packs"], "each_steps_per_s": [e["steps_per_s"] for e in each]}


def ceilings(device: str, precisions: list[str], cores: int, quick: bool) -> dict[str, float]:
    """Matrix-product FLOP/s by precision, and copy bytes/s (read + write), of the whole device."""
    cuda = device.startswith("cuda")
    torch.set_num_threads(1 if cuda else cores)
    found: dict[str, float] = {}

    def best(call: Any, times: int) -> float:
        seconds = []
        for i in range(times + 1):
            wait(device)
            begin = time.perf_counter()
            for _ in range(4):
                call()
            wait(device)
            seconds.append((time.perf_counter() - begin) / 4 if i else float("inf"))
        return min(seconds)

    for precision in precisions:
        size = (4096 if precision == "float32" else 8192) if cuda else (512 if quick else 1536)
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        out = torch.empty_like(a)
        found[f"matmul_{precision}_flops_per_s"] = 2 * size**3 / best(lambda a=a, b=b, o=out: torch.mm(a, b, out=o), 5)
    items = 2**30 if cuda else (2**24 if quick else 2**27)
    source = torch.zeros(items, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_bytes_per_s"] = 2 * items / best(lambda: target.copy_(source), 5)
    return found


def main(spec: Mapping[str, Any]) -> None:
    """Ceilings first, then every pack; a pack that fails (out of memory) is told and the others go on."""
    found: dict[str, Any] = {"steady": []}
    if spec.get("ceilings"):
        found["ceilings"] = ceilings(spec["device"], spec["ceilings"], spec["cores"], spec["quick"])
        write(spec, found)
    torch.set_num_threads(1)
    for case in spec["cases"]:
        begin = time.time()
        if begin > spec["deadline"]:
            found["steady"].append({**case["label"], "error": "skipped: the budget is spent"})
            continue
        try:
            one = packs(case)
        except Exception as error:  # say which and go on: device time is dear
            one = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        if spec["device"].startswith("cuda"):
            torch.cuda.empty_cache()
        found["steady"].append({**case["label"], **one, "phase": [begin, time.time()]})
        write(spec, found)
    write(spec, found)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
