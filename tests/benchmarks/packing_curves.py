"""Curves of packing.py: speed-up against lanes and width (case `sweep`), and efficiency against GPUs (`scaling`)."""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from packing_bench import Bench, say
from packing_cases import cases_of, counted, sweep_of, task_of
from packing_meter import where
from packing_ways import processes_way, resources, run_packs, steady_case, world_data


def sweep(bench: Bench) -> None:
    """Widths and lanes for the figure: packs over processes side by side, as many as plain Tune has slots."""
    args = bench.args
    precision = (args.precisions or (["tf32"] if bench.cuda else ["float32"]))[0]
    base = replace(cases_of("mlp", bench.device, [precision], False)[0], scan_steps=100 if bench.cuda else 200)
    widths, lanes = args.widths, args.sweep_lanes
    if not bench.fits("sweep", 30):
        return
    say(f"\n== sweep: widths {widths}, lanes {lanes}, {precision}")
    shapes = [replace(base, width=w) for w in widths]
    saved = args.processes
    args.processes = [args.plain_slots if bench.cuda else bench.cores]
    theirs = processes_way(bench, base, [task_of(c, bench.device) for c in shapes], 0)
    args.processes = saved
    entry: dict[str, Any] = {
        **where(bench.device),
        "case": asdict(base),
        "widths": widths,
        "lanes": lanes,
        "left_out": "packs above 4e10 FLOP a step" if not bench.cuda else None,
        "rival": "processes side by side, as many as plain Ray Tune has slots, without Tune's own cost",
        "rival_steps_per_s": {c.width: max(t["scan"].values()) for c, t in zip(shapes, theirs.get("tasks", ()),
                                                                               strict=False)},
    }  # fmt: skip
    bench.result["sweep"] = entry
    bench.save()
    most = math.inf if bench.cuda else 4e10  # FLOPs of one step of a pack: more would take minutes
    shown = [(c, n) for n in lanes for c in shapes if n * counted(c)["flops"] <= most]
    cases = [steady_case(bench, c, n, args.target_s / 3) for c, n in shown]
    found = run_packs(bench, "sweep", cases, [])
    entry["steady"] = [
        {k: p.get(k) for k in ("width", "lanes", "steps_per_s", "repeats", "packs", "unsound_lanes", "error")}
        for p in found.get("steady", ())
    ]
    bench.save()
    say(f"{'width':>6}" + "".join(f"{n:>10,}" for n in lanes) + "   (over processes side by side)")
    for w in widths:
        rate = entry["rival_steps_per_s"].get(w)
        own = {p["lanes"]: p["steps_per_s"] for p in entry["steady"] if p["width"] == w and p["steps_per_s"]}
        say(f"{w:>6}" + "".join(f"{own[n] / rate:>10.1f}" if rate and n in own else f"{'':>10}" for n in lanes))


def scaling(bench: Bench) -> None:
    """The same packs a GPU on 1, 2, 4 GPUs: throughput_n / (n * throughput_1), from the ledger."""
    import yaml

    args = bench.args
    case = cases_of(args.cases[0], bench.device, args.precisions, args.quick)[0]
    lanes = (args.steady_lanes or case.lanes)[-1]
    steps = args.steps or case.steps
    warm = max(1, steps // 10)
    _, _, folder = world_data(bench, case)
    entry: dict[str, Any] = {**where(bench.device), "case": asdict(case), "world": folder, "lanes": lanes,
                             "steps": steps, "packs_per_gpu": args.packs_per_gpu, "gpus": {}}  # fmt: skip
    bench.result.setdefault("scaling", {})[case.key] = entry
    for n in args.gpus:
        if not bench.fits(f"scaling on {n}", 30):
            continue
        runs = n * args.packs_per_gpu * lanes
        raw = sweep_of(case, runs)
        raw["grid"] |= {"steps": [warm, steps], "eval_items": 256}
        raw["resources"] = resources(bench, lanes)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(64)))).split(",")[:n]
        extra = {"CUDA_VISIBLE_DEVICES": ",".join(visible)} if bench.cuda else {}
        if not bench.cuda:  # as many packs at a time as there would be GPUs
            raw["resources"]["cpus"] = max(1, bench.cores // n)
        file, store = bench.scratch / f"scaling-{n}.yaml", bench.scratch / f"scaling-{n}"
        file.write_text(yaml.safe_dump(raw))
        command = [sys.executable, "-m", "raysweep", "run", str(file), "--store", str(store)]
        with bench.child(command, f"scaling-{n}", **extra) as (_, ended):
            found: dict[str, Any] = {"wall_s": ended["wall_s"], "rc": ended["rc"], "runs": runs}
        with suppress(Exception):
            found |= _throughput(bench.ledger(store, ["pack", "steps", "seconds", "finished_at", "status"]), n)
        entry["gpus"][str(n)] = found
        bench.save()
    one = entry["gpus"].get("1", {})
    say(f"\n== scaling of {case.key}, {args.packs_per_gpu} packs of {lanes:,} lanes x {steps:,} steps a GPU")
    kinds = ("end_to_end_steps_per_s", "ledger_steps_per_s", "steady_steps_per_s")
    for n, found in entry["gpus"].items():
        found["end_to_end_steps_per_s"] = found["runs"] * steps / found["wall_s"]
        told = []
        for kind in kinds:
            if found.get(kind) and one.get(kind):
                found[f"efficiency_{kind.removesuffix('_steps_per_s')}"] = found[kind] / (int(n) * one[kind])
                told.append(f"{kind.removesuffix('_steps_per_s').replace('_', ' ')} {found[kind]:,.0f}/s "
                            f"({100 * found[kind] / (int(n) * one[kind]):.0f} %)")  # fmt: skip
        say(f"{n:>3} GPU: wall {found['wall_s']:.1f} s, " + ", ".join(told))
    bench.save()


def _throughput(rows: Mapping[str, list[Any]], gpus: int) -> dict[str, Any]:
    """Model-steps a second over all GPUs, from when the first pack began to the last row; and inside packs.

    A row's `seconds` are its pack's wall time so far divided by its lanes.
    """
    packs: dict[str, dict[int, list[int]]] = {}
    for i, (pack, step, status) in enumerate(zip(rows["pack"], rows["steps"], rows["status"], strict=True)):
        if status == "ok":
            packs.setdefault(pack, {}).setdefault(step, []).append(i)
    starts, ends, rates, work = [], [], [], 0.0
    for by_step in packs.values():
        first, last = min(by_step), max(by_step)
        lanes = len(by_step[last])
        elapsed = {s: rows["seconds"][by_step[s][0]] * lanes for s in (first, last)}
        end = rows["finished_at"][by_step[last][0]].timestamp()
        starts.append(end - elapsed[last])
        ends.append(end)
        work += lanes * last
        rates.append(lanes * (last - first) / (elapsed[last] - elapsed[first]))
    return {
        "packs": len(packs),
        "ledger_s": max(ends) - min(starts),
        "ledger_steps_per_s": work / (max(ends) - min(starts)),
        "steady_steps_per_s": gpus * statistics.median(rates),
        "pack_steps_per_s": rates,
    }
