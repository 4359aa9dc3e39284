"""Training a world with Ray Train: data-parallel workers over gloo or NCCL, resumed from checkpoints."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from raysweep.errors import OracleError
from raysweep.executors.cluster import nodes, resources
from raysweep.experiment import Dist
from raysweep.oracle.curve import Curve
from raysweep.oracle.recipe import Point, TrainFunction
from raysweep.store import Store
from raysweep.store.patience import patiently

__all__ = ["train"]

_FAILURES = 3  # worker groups that may die before training is given up


def train(function: TrainFunction, store: Store, folder: str, workers: int, on_progress: Point) -> Mapping[str, bytes]:
    """Train on the running Ray; returns the files of the last checkpoint.

    Each worker has a GPU where there are GPUs, and there are no more workers than these, or else than CPUs.

    On several nodes training survives the loss of one: it continues from the last checkpoint with the workers that are
    left, and adds new ones as they come. The batch is split over however many there are.

    Raises:
        OracleError: training failed.
    """
    workers, use_gpu = _hands(workers, resources())
    elastic = workers > 1 and len(nodes()) > 1
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"function": function, "store": store.absolute, "folder": folder},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=(1, workers) if elastic else workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=store.path(folder),
            storage_filesystem=None if store.is_local else store.fs,
            failure_config=ray.train.FailureConfig(max_failures=_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    curve = Curve(store, folder)  # which rank 0 writes

    def show() -> None:
        if point := curve.newest:
            on_progress(point)

    result = _fit(trainer, show)
    if result.checkpoint is None:
        raise OracleError("oracle: training ended without a checkpoint")
    try:
        files = patiently(lambda: _files_of(result.checkpoint))
    except OSError as error:
        raise OracleError(
            f"oracle: its last checkpoint cannot be read: {error}. Run the same command again; it continues from there"
        ) from error
    with contextlib.suppress(OSError):  # a folder that stays does no harm
        store.fs.delete_dir(store.path(f"{folder}/train"))
    return files


def _hands(asked: int, total: Mapping[str, float]) -> tuple[int, bool]:
    """How many workers there are, of those asked for, and whether each has a GPU; more would wait for ever."""
    cpus, gpus = (int(total.get(name, 0)) for name in ("CPU", "GPU"))
    return max(1, min(asked, cpus, gpus or cpus)), gpus > 0


def _files_of(checkpoint: ray.train.Checkpoint) -> dict[str, bytes]:
    with checkpoint.as_directory() as folder:
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def _fit(trainer: ray.train.torch.TorchTrainer, meanwhile: Callable[[], None]) -> Any:
    """`trainer.fit()` in a thread, so that Ctrl-C reaches this one: in the main thread Ray Train takes SIGINT over,
    keeps it afterwards, and ends the process by `sys.exit`.

    Raises:
        OracleError: training failed.
        KeyboardInterrupt: Ctrl-C; the next run continues from the last checkpoint.
    """
    ended: dict[str, Any] = {}

    def work() -> None:
        try:
            ended["result"] = trainer.fit()
        except BaseException as error:  # Ray wraps whatever a worker raised in classes of its own
            ended["error"] = error

    thread = threading.Thread(target=work, daemon=True, name="raysweep-train")
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        meanwhile()
    if "error" in ended:
        error = ended["error"]
        raise OracleError(f"oracle: training failed: {str(error).strip().splitlines()[-1]}") from error
    return ended["result"]


def _worker(config: dict[str, Any]) -> None:
    """One data-parallel worker."""
    context = ray.train.get_context()
    checkpoint = ray.train.get_checkpoint()
    resume = None if checkpoint is None else _files_of(checkpoint)

    def report(metrics: Mapping[str, Any], files: Mapping[str, bytes] | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if files is not None:
                for name, data in files.items():
                    Path(folder, name).write_bytes(data)
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(dict(metrics), checkpoint=saved)

    dist = Dist(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        wrap=ray.train.torch.prepare_model,
        report=report,
        resume=resume,
    )
    curve = Curve(Store(config["store"]), config["folder"])
    config["function"](dist, curve, str(ray.train.torch.get_device()))
