"""Training of transformer flows on several GPUs of one host, at a fixed batch per GPU: images per second, efficiency.

    python tests/benchmarks/flows_ddp.py --device cuda --workers 1 2 4 --data cifar10_jpeg_60k --seconds 20 [--out DIR]

--data is digits, or NAME of NAME.npz in the folder RAYSWEEP_DATA; --shapes are patch,width,batch, the batch being that
of one GPU; --seconds is the time of each measurement, after compilation and a warm-up. A step is the recipe's own
(raysweep.oracle.likelihood): noise, forward, backward, clipping, AdamW, average of the weights; the model is wrapped as
Ray Train wraps it for `raysweep oracle fit --workers N`, in DistributedDataParallel over NCCL (gloo on CPUs). Each
worker is a process of its own. Efficiency is images per second and worker, relative to the fewest workers in the run.
--ddp compares ways to wrap: plain, and view, whose gradients are views of the tensors that are summed. Needs neither
Ray nor Polars. Writes flows_ddp-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import socket
import statistics
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

from raysweep.oracle import likelihood  # noqa: E402
from raysweep.oracle.descent import Descent  # noqa: E402
from raysweep.oracle.flows.block import compile_blocks  # noqa: E402
from raysweep.oracle.transformer_world import TransformerRecipe  # noqa: E402
from raysweep.training.precision import products  # noqa: E402

SHAPES = ("4,256,256", "4,512,256", "2,512,128")
WARM, REPEATS = 20, 3


def recipe(data: str, cuda: bool, patch: int, width: int, batch: int) -> TransformerRecipe:
    return TransformerRecipe(
        data=data, patch=patch, width=width, blocks=4, layers=4, batch=batch, steps=10**7, lr=1e-3, warmup=0.0,
        precision="bf16" if cuda else "float32", flips=True,
    )  # fmt: skip


def wrapped(flow: torch.nn.Module, how: str, rank: int, cuda: bool) -> torch.nn.Module:
    devices, view = [rank] if cuda else None, how == "view"
    return torch.nn.parallel.DistributedDataParallel(flow, device_ids=devices, gradient_as_bucket_view=view)


def work(
    rank: int, workers: int, own: TransformerRecipe, how: str, cuda: bool, seconds: float, port: int, to: str
) -> None:
    """One worker; worker 0 writes what it measured."""
    device = f"cuda:{rank}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=workers)
    flow = own.fresh().to(device)
    average = copy.deepcopy(flow).requires_grad_(False)
    if cuda:
        compile_blocks(flow)
    descent = Descent(own, flow, average, workers)
    if workers > 1:
        descent.model = wrapped(flow, how, rank, cuda)
    batches = likelihood._Images.of(own, False, device).batches(0, own.steps, rank, workers)
    taken = 0

    def steps(count: int) -> float:
        """Take this many steps; seconds, those of the slowest worker."""
        nonlocal taken
        distributed.barrier()
        began = time.perf_counter()
        for _ in range(count):
            descent(taken, own.lr, *next(batches))
            taken += 1
        if cuda:
            torch.cuda.synchronize()
        spent = torch.tensor(time.perf_counter() - began, device=device)
        distributed.all_reduce(spent, distributed.ReduceOp.MAX)
        return float(spent)

    with products(own.precision):
        steps(3)  # compilation, and DDP's buckets in the order of the first backward pass
        one = steps(WARM) / WARM
        count = max(3, round(seconds / REPEATS / one))
        speeds = [own.batch * count / steps(count) for _ in range(REPEATS)]
    if rank == 0:
        found = {
            "workers": workers,
            "ddp": how if workers > 1 else None,
            "batch_per_worker": own.batch // workers,
            "images_per_s": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "steps": REPEATS * count,
            "parameters": sum(p.numel() for p in flow.parameters()),
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        }
        Path(to).write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="patch,width,batch")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--ddp", nargs="+", choices=("plain", "view"), default=["plain"])
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    cuda = given.device == "cuda"
    found: dict[str, Any] = {
        **where_it_ran(cuda),
        "data": given.data,
        "rows": [],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    card = found["device"].lower().replace(" ", "-")
    for shape in given.shapes:
        patch, width, batch = map(int, shape.split(","))
        first: dict[str, Any] | None = None
        for workers, how in [(n, how) for n in sorted(given.workers) for how in given.ddp[: None if n > 1 else 1]]:
            own = recipe(given.data, cuda, patch, width, batch * workers)
            with tempfile.TemporaryDirectory() as folder:
                to = f"{folder}/found.json"
                arguments = (workers, own, how, cuda, given.seconds, free_port(), to)
                multiprocessing.spawn(work, arguments, nprocs=workers, join=True)
                row = {"patch": patch, "width": width, **json.loads(Path(to).read_text())}
            first = first or row
            row["efficiency"] = row["images_per_s"] / workers * first["workers"] / first["images_per_s"]
            found["rows"].append(row)
            print(row, flush=True)
            (given.out / f"flows_ddp-{card}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
