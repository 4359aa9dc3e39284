"""One classifier on several devices: images per second, and through Ray the same rows, whatever happens to a worker.

    python tests/benchmarks/classifier_ddp.py --device cuda --workers 1 2 4 --out DIR

Part 1, without Ray: a run of the experiment `classifier` whose workers each take a part of every batch, over NCCL
(gloo on CPUs), for each of --models model,width,depth: at one batch for all workers together (`strong`: the same run,
faster), and at one batch per worker (`weak`). Images per second are those between two snapshots, evaluation included.
Part 2, through Ray with resources {gpus_per_run: N} (workers_per_run on CPUs): three packs of one run each, whose rows
are compared with those of one device; with --kill, a worker of the second pack is killed in mid-training. Needs no
Polars. Writes classifier_ddp-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from devices import where_it_ran  # noqa: E402

from raysweep.executors import make_executor  # noqa: E402
from raysweep.experiment import Context, Share  # noqa: E402
from raysweep.experiments.classifier import EXPERIMENT  # noqa: E402
from raysweep.ledger.log import Ledger  # noqa: E402
from raysweep.oracle.flow_world import packed, unpacked  # noqa: E402
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow  # noqa: E402
from raysweep.run import run  # noqa: E402
from raysweep.store import Store  # noqa: E402
from raysweep.sweep import Sweep, from_mapping  # noqa: E402

MODELS = ("resnet,128,2", "vit,512,8")
COMPARED = ("total", "epistemic", "accuracy", "ece")


def sweep_of(given: argparse.Namespace, model: str, batch: int, steps: list[int]) -> Sweep:
    kind, width, depth = model.split(",")
    grid = {
        "model": kind, "width": int(width), "depth": int(depth), "batch": batch, "steps": steps, "n_train": 4096,
        "pool": 4096, "eval_items": 256, "select_items": 256, "lr": 0.01,
        "precision": "bf16" if given.device == "cuda" else "float32",
    }  # fmt: skip
    return from_mapping({"name": "ddp", "experiment": "classifier", "world": world_of(given), "grid": grid})


def world_of(given: argparse.Namespace) -> dict[str, Any]:
    return {"kind": "gaussian", "dim": given.dim, "classes": 10, "separation": 4.0, "layers": 0}


def work(rank: int, workers: int, sweep: Any, cuda: bool, port: int, to: str) -> None:
    """One worker; worker 0 writes what it measured."""
    given, model, batch, steps = sweep
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=workers)
    recipe = GaussianRecipe.model_validate(world_of(given))
    world = unpacked(recipe, gaussian_flow, packed(gaussian_flow(recipe)), "")
    share = Share(rank, workers, distributed.all_reduce) if workers > 1 else None
    context = Context(device=f"cuda:{rank}" if cuda else "cpu", world=world, share=share)
    times = []
    for _ in EXPERIMENT.run(sweep_of(given, model, batch, steps).runs, context):
        times.append(time.perf_counter())
    if rank == 0:
        first, last = steps[0], steps[-1]
        found = {"images_per_s": batch * (last - first) / (times[-1] - times[0]), "steps": last - first}
        if cuda:
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        Path(to).write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def measured(given: argparse.Namespace, model: str, workers: int, batch: int) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        to = f"{folder}/found.json"
        steps = [given.steps // 5 + 1, given.steps]
        arguments = (workers, (given, model, batch, steps), given.device == "cuda", port, to)
        multiprocessing.spawn(work, arguments, nprocs=workers, join=True)
        return json.loads(Path(to).read_text())  # type: ignore[no-any-return]


def speeds(given: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for model in given.models:
        first: dict[str, Any] | None = None
        for workers in sorted(given.workers):
            for kind, batch in (("strong", given.batch), ("weak", given.batch * workers)):
                if first is not None and workers == first["workers"]:
                    continue
                row = {"model": model, "kind": kind, "workers": workers, "batch": batch}
                row |= measured(given, model, workers, batch)
                first = first or row
                row["ratio"] = row["images_per_s"] / first["images_per_s"]
                rows.append(row)
                print(row, flush=True)
    return rows


def on_ray(given: argparse.Namespace, folder: Path, workers: int, kill: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run through Ray did, and its rows by cell."""
    cuda = given.device == "cuda"
    grid = {
        "model": "vit", "width": [32, 48, 64], "depth": 2, "batch": 256, "steps": [20, 200], "n_train": 2048,
        "pool": 4096, "eval_items": 2048, "select_items": 256, "lr": 0.01, "markers": str(folder),
    }  # fmt: skip
    cpus = 1 if cuda else 0.5
    resources = {"gpus_per_run": workers} if cuda else {"workers_per_run": workers}
    if kill:
        (folder / "kill-48").touch()
    raw = {
        "name": "ddp", "experiment": "team_toy:Fragile", "world": world_of(given), "grid": grid,
        "resources": {**resources, "cpus": cpus},
    }  # fmt: skip
    sweep, store = from_mapping(raw, "ddp.yaml", [HERE.parent]), Store(str(folder / f"store-{workers}-{kill}"))
    begun = time.perf_counter()
    outcome = run(sweep, store, make_executor("ray"))
    rows = {row["cell"]: row for row in Ledger(store).scan().table.to_pylist()}
    about = {
        "workers": workers,
        "seconds": time.perf_counter() - begun,
        "ok": outcome.counts.ok,
        "failed": outcome.counts.failed,
        "device": sorted({row["device"] for row in rows.values()}),
        "attempts": {str(row["width"]): row["attempt"] for row in rows.values()},
        "errors": sorted({row["error"] for row in rows.values() if row["error"]}),
        "killed": kill and not (folder / "kill-48").exists(),
    }
    return about, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", default=MODELS, help="model,width,depth")
    parser.add_argument("--batch", type=int, default=1024, help="of the `strong` rows, and per worker of the `weak`")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dim", type=int, default=3072, help="numbers of an image: 3072 is 32 x 32 in three channels")
    parser.add_argument("--kill", action="store_true", help="also kill a worker in mid-training")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    cuda = given.device == "cuda"
    found: dict[str, Any] = {
        **where_it_ran(cuda),
        "speeds": [],
        "ray": [],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    to = given.out / f"classifier_ddp-{found['device'].lower().replace(' ', '-')}.json"
    found["speeds"] = speeds(given)
    to.write_text(json.dumps(found, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as name:
        one: dict[str, Any] = {}
        several = [n for n in given.workers if n > 1]
        killed = [(several[0], True)] if given.kill and several else []
        for workers, kill in [(1, False), *((n, False) for n in several), *killed]:
            about, rows = on_ray(given, Path(name), workers, kill)
            one = one or rows
            both = [(row, one[cell]) for cell, row in rows.items() if row["status"] == one[cell]["status"] == "ok"]
            about["same_cells"] = rows.keys() == one.keys()
            about["largest_gap"] = {m: max((abs(a[m] - b[m]) for a, b in both), default=None) for m in COMPARED}
            found["ray"].append(about)
            print(about, flush=True)
            to.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
