"""Running each way of packing.py: raysweep's packs and its command, processes side by side, and Ray Tune."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from packing_bench import Bench, say
from packing_cases import Case, architecture, recipe, sweep_of, task_of

# raysweep


def resources(bench: Bench, lanes: int | None) -> dict[str, Any]:
    """The resources of one pack."""
    found: dict[str, Any] = {"cpus": 1.0}
    if bench.cuda:
        found |= {"gpus": 1.0, "memory_gib": bench.args.memory_gib}
    return found | ({"lanes": lanes} if lanes else {})


def end_to_end(bench: Bench, case: Case, runs: int, executor: str) -> dict[str, Any]:
    """`python -m raysweep run` on an empty store: everything a user waits for."""
    import yaml

    name = f"e2e-{case.name}-{case.precision}-{runs}-{executor}"
    store, file = bench.scratch / f"store-{name}", bench.scratch / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**sweep_of(case, runs), "resources": resources(bench, bench.args.lanes)}))
    command = [sys.executable, "-m", "raysweep", "run", str(file), "--store", str(store)]
    command += ["--executor", executor]
    with bench.child(command, name) as (sampler, ended):
        found: dict[str, Any] = {
            "wall_s": ended["wall_s"],
            "runs": runs,
            "executor": executor,
            "rc": ended["rc"],
            "command": command[1:4],
        }
        found |= sampler.peak([ended["begin"], ended["end"]])
    with suppress(Exception):
        rows = bench.ledger(store, ["nll", "status", "pack", "seconds"])
        sound = [s == "ok" for s in rows["status"]]
        nll = [v for v, ok in zip(rows["nll"], sound, strict=True) if ok]
        found["nll"] = nll[:: max(1, len(nll) // 1024)]  # enough to compare, and a small file
        found["unsound"] = len(sound) - sum(sound)
        packs = {p: [s for s, q in zip(rows["seconds"], rows["pack"], strict=True) if q == p] for p in rows["pack"]}
        found["packs"] = [{"lanes": len(s), "seconds": sum(s)} for s in packs.values()]
    if found["rc"] != 0 or not found.get("nll"):
        found["error"] = ended["log"][-1500:]
    return found


def world_data(bench: Bench, case: Case) -> tuple[Path, Path, str]:
    """The world in a store of its own, and its pool and evaluation sample as the rivals read them."""
    import numpy as np

    from raysweep.oracle.recipe import folder_of, parse_recipe
    from raysweep.oracle.world import prepare
    from raysweep.store import Store

    made = parse_recipe(json.dumps(recipe(case)), "packing")
    store, folder = bench.scratch / "worlds", folder_of(made)
    data = bench.scratch / f"{Path(folder).name}-{case.pool}-{case.eval_items}.npz"
    if not data.exists():
        world, _ = prepare(Store(str(store)), made, lambda flow: None)  # type: ignore[arg-type, return-value]
        pool, held_out = world.sample(case.pool, "pool"), world.sample(case.eval_items, "eval")
        np.savez(data, x=pool.x, y=pool.y, eval_x=held_out.x, eval_y=held_out.y)
    return store, data, folder


def steady_case(bench: Bench, case: Case, lanes: int, target_s: float) -> dict[str, Any]:
    """What packed.py measures one pack by."""
    store, _, folder = world_data(bench, case)
    return {
        "label": {"case": case.key, "width": case.width, "lanes": lanes},
        "sweep": sweep_of(case, lanes),
        "store": str(store),
        "folder": folder,
        "device": bench.device,
        "warm": 20 if bench.cuda and not bench.args.quick else 5,
        "unit": 16 if bench.cuda else 4,
        "repeats": bench.args.repeats,
        "target_s": target_s,
        "packs": 1 if bench.cuda else bench.cores,
    }


def run_packs(bench: Bench, name: str, cases: list[dict[str, Any]], precisions: list[str]) -> dict[str, Any]:
    spec = {"cases": cases, "device": bench.device, "ceilings": precisions, "quick": bench.args.quick}
    found, sampler, _ = bench.helper("packed.py", name, {**spec, "deadline": bench.deadline - 5})
    for one in found.get("steady", ()):
        if "phase" in one:
            one |= sampler.peak(one.pop("phase"))
    return found


# The rivals


def same_size(case: Case) -> dict[str, Any]:
    """The rivals' model must have raysweep's parameters, one for one."""
    import torch
    from rivals import Task, build

    with torch.device("meta"):
        theirs = sum(p.numel() for p in build(Task(**task_of(case, "cpu"))).parameters())
    ours = architecture(case).layout.size
    if theirs != ours:
        say(f"!! {case.key}: the rivals' model has {theirs:,} parameters, raysweep's {ours:,}")
    return {"raysweep": ours, "rivals": theirs}


def processes_way(bench: Bench, case: Case, tasks: list[dict[str, Any]], sample: int) -> dict[str, Any]:
    _, data, _ = world_data(bench, case)
    spec = {"tasks": tasks, "data": str(data), "counts": bench.args.processes, "sample": sample}
    found, sampler, _ = bench.helper(
        "rivals.py", f"processes-{case.name}-{case.precision}-{len(tasks)}", {**spec, "scan_steps": case.scan_steps}
    )
    for one in found.get("tasks", ()):
        if "phase" in one:
            one |= sampler.peak(one.pop("phase"))
        one["shutdown_s"] = found.get("shutdown_s", 0.0)
    return found


def tune_ways(bench: Bench, case: Case, task: dict[str, Any], sample: int) -> dict[str, Any]:
    _, data, _ = world_data(bench, case)
    spec = {"task": task, "data": str(data), "sample": sample, "scan_steps": case.scan_steps}
    spec |= {"slots": bench.args.slots, "plain_slots": bench.args.plain_slots}
    found, sampler, _ = bench.helper("rivals_tune.py", f"tune-{case.name}-{case.precision}", spec)
    for way in ("plain", "tuned"):
        if way in found:
            found[way] |= sampler.peak(found[way].pop("phase"))
            found[way] |= {"startup_s": found["startup_s"], "shutdown_s": found.get("shutdown_s", 0.0)}
            if found[way]["errors"]:
                say(f"!! {case.key}: {found[way]['errors']} trials of {way} Tune failed: {found[way]['error']}")
    return found
