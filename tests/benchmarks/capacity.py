"""How full does a measured pack fill its GPU? Bytes a lane estimated, measured, and the peak of the packs that follow.

    python tests/benchmarks/capacity.py [--out DIR]      (writes capacity-<device>.json)

No `memory_gib` is given, so `raysweep.capacity` measures a small and a larger pack of each shape and sizes packs by the
difference. The naive way is to trust the estimate. A pack may fill 80 % of the device; one that
overflows is halved, which shows as packs of half the size. Asserts nothing about time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

GRID = {"n_train": 1024, "pool": 1024, "eval_items": 256, "select_items": 64, "steps": [1, 3], "batch": 128}
SHAPES: dict[str, dict[str, Any]] = {
    "mlp 2048": {"model": "mlp", "width": 2048, "depth": 2, "seed": {"range": 2400}, "optimiser": "adamw"},
    "resnet 16": {"model": "resnet", "width": 16, "seed": {"range": 1200}, "precision": "bf16"},
}


def measure(name: str, grid: dict[str, Any], scratch: str) -> dict[str, Any]:
    import torch

    from raysweep.cache import cache_file
    from raysweep.executors import make_executor
    from raysweep.ledger.log import Ledger
    from raysweep.plan import make_plan
    from raysweep.run import run
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    shape = {"kind": "gaussian", "dim": 3072 if grid["model"] == "resnet" else 192, "classes": 10, "layers": 0}
    sweep = from_mapping(
        {"name": "capacity", "experiment": "classifier", "world": shape, "grid": GRID | grid, "resources": {"gpus": 1}}
    )
    store = Store(f"{scratch}/{name.replace(' ', '-')}")
    plan = make_plan(sweep, store, 1)  # by the estimate: nobody is asked
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    outcome = run(sweep, store, make_executor("inline"), stream=io.StringIO)
    total = torch.cuda.get_device_properties(0).total_memory
    packs = Ledger(store).scan(["pack", "status"]).table.column("pack").to_pylist()
    sizes = sorted((packs.count(p) // len(GRID["steps"]) for p in set(packs)), reverse=True)
    found = {
        "runs": len(sweep.runs),
        "ok": outcome.counts.ok,
        "failed": outcome.counts.failed,
        "lanes": sizes,
        "planned_lanes_by_estimate": plan.most,
        "measured_bytes_a_lane": list(json.loads(cache_file("capacity.json").read_text()).values())[-1],
        "estimated_bytes_a_lane": plan.groups[0].cost.bytes,
        "peak_allocated_share": torch.cuda.max_memory_allocated() / total,
        "peak_reserved_share": torch.cuda.max_memory_reserved() / total,
        "seconds": time.monotonic() - started,
    }
    print(name, json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).parent))
    out = Path(parser.parse_args().out)
    from packing_meter import where

    here = where("cuda")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # measured here, not remembered
        result = {**here, "shapes": {name: measure(name, grid, scratch) for name, grid in SHAPES.items()}}
    slug = re.sub(r"[^a-z0-9]+", "-", here["device"].lower()).strip("-")
    (out / f"capacity-{slug}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
