"""What packing.py trains: shapes and grids, what a model-step of one costs, and a grid as each way reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

ITEMSIZE = {"bf16": 2}  # of an activation; 4 otherwise


@dataclass(frozen=True)
class Case:
    """A shape, and how large the grids around it are.

    Attributes:
        steps: Steps of every run of the grid.
        runs: Number of runs in the end-to-end grid.
        lanes: Lanes of the packs at steady state.
        separation: Separation of the world's classes: images need more to be learned at all.
        scan_steps: Steps of a run while the rivals' concurrency is chosen.
    """

    name: str
    model: str
    inputs: int
    width: int
    depth: int
    batch: int
    lr: float
    steps: int
    runs: int
    lanes: tuple[int, ...]
    precision: str = "float32"
    activation: str = "relu"
    separation: float = 3.0
    pool: int = 4096
    eval_items: int = 1024
    scan_steps: int = 200

    @property
    def key(self) -> str:
        return f"{self.name}/{self.precision}"


def cases_of(name: str, device: str, precisions: Sequence[str], quick: bool) -> list[Case]:
    """A named case in each of its precisions.

    Raises:
        SystemExit: no such case.
    """
    cuda = device != "cpu"
    tf32 = ("tf32",) if cuda else ("float32",)
    small = Case("mlp-small", "mlp", 64, 16, 2, 64, 0.05, 2000, 256, (128,))
    mlp = Case("mlp", "mlp", 192, 128, 2, 128, 0.05, 2000, 64, (16, 64))
    image = {"inputs": 3072, "batch": 128, "separation": 10.0, "scan_steps": 60}
    resnet = Case("resnet", "resnet", width=16, depth=1, lr=0.05, steps=30, runs=8, lanes=(4,), **image)  # type: ignore[arg-type]
    vit = Case("vit", "vit", width=64, depth=4, lr=0.02, steps=30, runs=8, lanes=(4,), activation="gelu", **image)  # type: ignore[arg-type]
    if cuda:
        small = replace(small, runs=1024, lanes=(256, 1024, 4096))
        mlp = replace(mlp, runs=1024, lanes=(64, 256, 1024))
        resnet, vit = (replace(c, steps=300, runs=64, lanes=(16, 64)) for c in (resnet, vit))
    else:
        mlp = replace(mlp, steps=500)
        resnet, vit = (replace(c, scan_steps=8) for c in (resnet, vit))
    known = {
        "mlp-small": (small, tf32),
        "mlp": (mlp, tf32),
        "resnet": (resnet, ("bf16", "tf32") if cuda else tf32),
        "vit": (vit, ("bf16", "tf32") if cuda else tf32),
    }
    if name not in known:
        raise SystemExit(f"--cases must be among {', '.join(known)}, sweep, but got {name!r}")
    case, own = known[name]
    if quick:
        lanes = (8,) if case.model == "mlp" else (2,)
        case = replace(case, steps=50 if case.model == "mlp" else 10, runs=lanes[0], lanes=lanes)
        case = replace(case, scan_steps=min(20, case.scan_steps))
    return [replace(case, precision=p) for p in (precisions or own)]


def architecture(case: Case) -> Any:
    from raysweep.models import Architecture

    return Architecture(case.model, case.inputs, 10, case.width, case.depth, case.activation)


def counted(case: Case) -> dict[str, float]:
    """FLOPs and bytes of a model-step. Bytes are a floor: parameters, gradients and velocities read and written once,
    and each activation three times (written, read, its gradient).
    """
    layout = architecture(case).layout
    itemsize = ITEMSIZE.get(case.precision, 4)
    return {
        "parameters": layout.size,
        "flops": case.batch * (layout.forward_flops + layout.backward_flops),
        "bytes_floor": layout.size * 4 * 6 + layout.activations * case.batch * itemsize * 3,
    }


def recipe(case: Case) -> dict[str, Any]:
    return {"kind": "gaussian", "classes": 10, "dim": case.inputs, "separation": case.separation, "layers": 0}


def sweep_of(case: Case, runs: int) -> dict[str, Any]:
    """The grid as a sweep file: runs differ in their seed."""
    return {
        "name": "packing",
        "experiment": "classifier",
        "world": recipe(case),
        "grid": {
            "model": case.model,
            "width": case.width,
            "depth": case.depth,
            "activation": case.activation,
            "batch": case.batch,
            "lr": case.lr,
            "precision": case.precision,
            "n_train": case.pool,
            "pool": case.pool,
            "steps": case.steps,
            "eval_items": case.eval_items,
            "select_items": 16,
            "eval_share": 0.0,
            "seed": {"range": runs},
        },
    }


def task_of(case: Case, device: str) -> dict[str, Any]:
    """The case in the rivals' words."""
    from rivals import Task

    return asdict(
        Task(case.model, case.inputs, 10, case.width, case.depth, case.batch, case.steps, case.lr, case.precision,
             device, activation=case.activation)
    )  # fmt: skip
