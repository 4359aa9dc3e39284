"""One grid, four ways in one run: plain Ray Tune, well-tuned Ray Tune, processes side by side, and raysweep's packs.

    python tests/benchmarks/packing.py run --device cpu --cases mlp-small,mlp     (writes packing-<device>.json)
    python tests/benchmarks/packing.py run --device cuda --cases mlp,resnet,vit,sweep --budget-s 480 --out DIR
    python tests/benchmarks/packing.py scaling --gpus 1,2,4 --out DIR
    python tests/benchmarks/packing.py figure [packing-<device>.json]

Asserts nothing about time. What is measured:

* `steady`: model-steps a second of training alone. raysweep: between snapshots of one pack a core (or GPU) through
  `EXPERIMENT.run`, without start-up, capture and evaluation. Rivals: inside their training loops, while as many train
  as ever do at once; starts of actors and processes left out, which flatters them.
* `wall`: the whole command, start-up included. Rivals train a sample of the grid's runs; their wall for the grid is
  start-up + training * (runs / sample), and says so.
* `nll`: mean cross-entropy to the hard labels of the final models on one evaluation sample, which must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from packing_bench import HERE, ROOT, Bench, say
from packing_cases import Case, cases_of, counted, task_of
from packing_curves import scaling, sweep
from packing_meter import cores, where
from packing_table import WAYS, finish, show, walls
from packing_ways import end_to_end, processes_way, run_packs, same_size, steady_case, tune_ways


def measure(bench: Bench, case: Case) -> None:
    """All ways of one case; what is known is saved after each."""
    args = bench.args
    say(f"\n== {case.key} on {bench.here['device']}: {case.runs:,} runs x {case.steps:,} steps, batch {case.batch}")
    if args.steps:
        case = replace(case, steps=args.steps)
    # JSON has lists for tuples: compare and keep what JSON would hold.
    plain = json.loads(json.dumps(asdict(case)))
    entry: dict[str, Any] = {"case": plain, **where(bench.device), "counted": counted(case), "ways": {}}
    entry["parameters"] = same_size(case)
    old = bench.result.setdefault("cases", {}).get(case.key, {})
    if args.keep and old.get("case") == plain:
        entry["ways"] = {w: {"date": old["date"], **v} for w, v in old["ways"].items() if _kind(w) not in args.ways}
        entry["ceilings"] = old.get("ceilings")
    bench.result["cases"][case.key] = entry
    ways = entry["ways"]
    sample = min(args.sample, case.runs)
    lanes = args.steady_lanes or case.lanes
    if "raysweep" in args.ways:
        if bench.fits(f"{case.key} raysweep steady", 15):
            packs = [steady_case(bench, case, n, args.target_s) for n in lanes]
            found = run_packs(bench, f"steady-{case.name}-{case.precision}", packs, [case.precision])
            entry["ceilings"] = found.get("ceilings")
            ways.setdefault("raysweep", {})["steady"] = found.get("steady", [])
            bench.save()
        for runs in args.runs or [case.runs]:
            if bench.fits(f"{case.key} raysweep end to end, {runs:,} runs", 20):
                for executor in args.executors:
                    found = end_to_end(bench, case, runs, executor)
                    ways.setdefault("raysweep", {}).setdefault("end_to_end", []).append(found)
                    bench.save()
    task = ways.get("processes", {}).get("variant") or task_of(case, bench.device)
    if "processes" in args.ways and bench.fits(f"{case.key} processes", 25):
        found = processes_way(bench, case, [task], sample)
        for one in found.get("tasks", ()):
            task = {**one["variant"]}
            if "train_s" in one:
                one |= walls(one, case)
            ways["processes"] = one
        bench.save()
    if "tune" in args.ways and bench.fits(f"{case.key} Ray Tune", 40):
        found = tune_ways(bench, case, task, sample)
        for name, way in (("plain", WAYS[0]), ("tuned", WAYS[1])):
            if name in found:
                ways[way] = {**found[name], **walls(found[name], case)}
        if WAYS[1] in ways:
            ways[WAYS[1]]["scan"] = found["tuned_scan"]
        bench.save()
    finish(entry)
    bench.save()
    show(entry)


def _kind(way: str) -> str:
    """What --ways calls it."""
    return "tune" if "Tune" in way else way


def run(bench: Bench) -> None:
    for name in bench.args.cases:
        if name == "sweep":
            sweep(bench)
            continue
        for case in cases_of(name, bench.device, bench.args.precisions, bench.args.quick):
            measure(bench, case)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "scaling"):
        p = commands.add_parser(verb)
        p.add_argument("--device", default="cpu" if verb == "run" else "cuda", help="cpu or cuda")
        p.add_argument("--cases", type=_names, default=["mlp-small", "mlp"] if verb == "run" else ["mlp"])
        p.add_argument("--precisions", type=_names, default=[], help="instead of each case's own")
        p.add_argument("--budget-s", type=float, default=3600.0, help="what no longer fits is skipped, and said so")
        p.add_argument("--out", default=str(HERE), help="folder of the JSON")
        p.add_argument("--quick", action="store_true", help="tiny sizes: does it work at all?")
        p.add_argument("--steps", type=int, help="of every run, instead of the case's")
        p.add_argument("--steady-lanes", type=_numbers, default=[], help="of packs, instead of the case's")
        p.add_argument("--memory-gib", type=float, default=64.0, help="resources.memory_gib on a GPU")
    p = commands.choices["run"]
    p.add_argument("--ways", type=_names, default=["raysweep", "processes", "tune"])
    p.add_argument("--keep", action="store_true", help="keep other ways' numbers of an equal case from the JSON")
    p.add_argument("--sample", type=int, help="runs that the rivals train; default 64, 32 on a GPU")
    p.add_argument("--slots", type=_numbers, default=[], help="trials at once that well-tuned Tune is scanned over")
    p.add_argument("--plain-slots", type=int, help="trials at once of plain Tune; default 16 a GPU")
    p.add_argument("--processes", type=_numbers, default=[], help="scanned counts; default 4,8,16, cores on a CPU")
    p.add_argument("--runs", type=_numbers, default=[], help="of raysweep's end-to-end grids, instead of the case's")
    p.add_argument("--executors", type=_names, default=["ray"], help="of raysweep's end-to-end grids: ray, inline")
    p.add_argument("--lanes", type=int, help="resources.lanes of the end-to-end grid; default: the product's choice")
    p.add_argument("--repeats", type=int, default=3, help="timed intervals at steady state")
    p.add_argument("--target-s", type=float, default=0.3, help="least seconds of such an interval")
    p.add_argument("--widths", type=_numbers, default=[], help="of the case `sweep`; 32 to 512, to 256 on a CPU")
    p.add_argument("--sweep-lanes", type=_numbers, default=[1, 4, 16, 64, 256, 1024], help="of the case `sweep`")
    p = commands.choices["scaling"]
    p.add_argument("--gpus", type=_numbers, default=[1, 2, 4])
    p.add_argument("--packs-per-gpu", type=int, default=4)
    p = commands.add_parser("figure")
    p.add_argument("json", nargs="*", help="default: every packing-*.json beside this file")
    args = parser.parse_args(argv)
    if args.verb == "run":
        args.widths = args.widths or [32, 64, 128, 256, 512][: 5 if args.device != "cpu" else 4]
        cuda = args.device != "cpu"
        args.sample = args.sample or (8 if args.quick else 32 if cuda else 64)
        args.plain_slots = args.plain_slots or (16 if cuda else cores())
        args.slots = args.slots or ([4, 8, 16] if cuda else [cores()])
        args.processes = args.processes or ([4, 8, 16] if cuda else [cores()])
    return args


def main() -> None:
    args = parse()
    sys.path[:0] = [str(HERE), str(ROOT)]
    if args.verb == "figure":
        from packing_figure import draw

        for path in map(Path, args.json or sorted(HERE.glob("packing-*.json"))):
            for made in draw(path):
                say(f"wrote {made}")
        return
    bench = Bench(args)
    try:
        (run if args.verb == "run" else scaling)(bench)
    finally:
        bench.save()
        say(f"\nwrote {bench.path}; logs in {bench.scratch}")


if __name__ == "__main__":
    main()
