"""The rows of a pack of a user's modules: lanes trained together and measured on test items."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from raysweep.experiment import Context, Items
from raysweep.experiments.held_out import boolean_mean_dimension
from raysweep.experiments.lanes import optimiser_of, schedule_of
from raysweep.experiments.own_data import OwnData
from raysweep.experiments.packed_module import CHUNK, bmd_flops_of, tests_of, times_of
from raysweep.grid.runs import Runs
from raysweep.models.module import Examined, made, stacked, starts
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.legs import legs
from raysweep.training.loop import Snapshot, forward, train
from raysweep.training.loss import Loss
from raysweep.training.precision import parameter_dtype, products

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Work", "trained"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """What the runs of a pack share.

    Attributes:
        make: Returns a new module.
        shape: What that module is.
        metrics: Names of the columns of a row.
    """

    make: Callable[[], nn.Module]
    data: OwnData
    shape: Examined
    loss: Loss
    metrics: Sequence[str]


def trained(pack: Runs, context: Context, work: Work) -> Iterator[pa.RecordBatch]:
    """One batch of rows per time, one row per run."""
    row, device, precision = pack.row(0), context.device, str(pack.value("precision"))
    data, shape, loss, dtype = work.data, work.shape, work.loss, parameter_dtype(precision)
    parameters, constants = starts(work.make, pack.column("init_seed"), dtype, device)
    base = copy.deepcopy(made(work.make, 0)).to(dtype).to(device)  # parts that calls share stay as they are
    times = sorted({t for i in range(len(pack)) for t in times_of(pack.row(i), pack.observed[0])})
    own_end = np.array(pack.column("steps")) if row["schedule"] == "cosine" else None
    step_flops = int(row["batch"]) * (shape.forward_flops + shape.backward_flops)
    seeds, points, inputs = pack.column("seed"), int(pack.value("bmd_points")), data.train.x.shape[1]
    evaluation = tests_of(data) * shape.forward_flops + bmd_flops_of(row, data, shape)
    parts = {
        suffix: _Part.of(items, data, shape.outputs, dtype, device)
        for suffix, items in (("", data.test), ("_select", data.select))
        if items is not None
    }
    spent = np.zeros(len(pack))
    with products(precision):
        model, judge = (stacked(base, data.item, data.whole, shape.vectorised, training) for training in (True, False))
        stack = train(
            model,
            parameters,
            _batches(pack, data, shape.outputs, dtype, device),
            optimiser_of(pack, None, device),
            schedule_of(pack, device),
            legs(str(row["schedule"]), times, float(row["decay"])),
            keep=context.keep,
            loss=loss,
            frozen=constants,
        )
        for snapshot in stack:
            here = np.arange(len(pack)) if own_end is None else np.flatnonzero(own_end == snapshot.step)
            found = {}
            for suffix, part in parts.items():
                for name, values in part.measured(judge, snapshot, len(pack), loss, int(row["batch"])).items():
                    found[name + suffix] = values[here]
            at = snapshot.diverged_at.cpu().numpy()[here]
            sound = here[at < 0]
            own = [int(seeds[run]) for run in sound]
            for name, values in boolean_mean_dimension(judge, snapshot, sound, own, inputs, points).items():
                found[name] = np.full(len(here), np.nan)
                found[name][at < 0] = values
            spent[here] += evaluation
            flops = np.where(at < 0, snapshot.step, at) * step_flops
            yield _rows(snapshot.step, here, at, work.metrics, found, flops, spent[here], loss.rule)


def _batches(pack: Runs, data: OwnData, outputs: int, dtype: Any, device: str) -> Batches:
    """Every lane's part of the training items."""
    pool = len(data.train.x)
    sizes = [int(n) or pool for n in pack.column("n_train")]
    seeds = list(dict.fromkeys(pack.column("data_seed")))

    def lanes(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=device)

    zero = torch.zeros(len(pack), dtype=torch.int64, device=device)
    return Batches(
        x=torch.from_numpy(data.train.x).to(device, dtype),
        targets=_targets(data.train, data, outputs, dtype, device),
        rows=nested_rows(seeds, pool, max(sizes)).to(device),
        batch=int(pack.value("batch")),
        seed_row=lanes([seeds.index(seed) for seed in pack.column("data_seed")]),
        pool_offset=zero,
        target_offset=zero,
        n=lanes(sizes),
        order_seed=lanes(pack.column("order_seed")),
        data_seed=lanes(pack.column("data_seed")),
        real=data.real,
    )


def _targets(items: Items, data: OwnData, outputs: int, dtype: Any, device: str) -> Tensor:
    """[n, outputs] real targets, or one-hot classes."""
    y = items.y if data.real else np.eye(outputs)[items.y]
    return torch.from_numpy(y).to(device, dtype)


@dataclass(frozen=True)
class _Part:
    """Items that snapshots are measured on.

    Attributes:
        x: [n, inputs].
        targets: [n, outputs].
        classes: [n], or None where targets are real.
    """

    x: Tensor
    targets: Tensor
    classes: Tensor | None

    @staticmethod
    def of(items: Items, data: OwnData, outputs: int, dtype: Any, device: str) -> _Part:

        x = torch.from_numpy(items.x).to(device, dtype)
        classes = None if data.real else torch.from_numpy(items.y).to(device)
        return _Part(x, _targets(items, data, outputs, dtype, device), classes)

    def measured(self, model: Model, snapshot: Snapshot, lanes: int, loss: Loss, batch: int) -> dict[str, Floats]:
        """`loss` and `error_rate` [lanes]; NaN for lanes that left the stack."""
        own, size = snapshot.parameters, max(batch, CHUNK)
        total = torch.zeros(len(snapshot.lanes), dtype=torch.float64, device=self.x.device)
        wrong = torch.zeros_like(total)
        starts_at = range(0, len(self.x), size) if len(snapshot.lanes) else ()  # not every module runs without lanes
        with torch.no_grad():
            for start in starts_at:
                x, targets = self.x[start : start + size], self.targets[start : start + size]
                outputs = forward(model, own, x)
                value, _ = loss.value_and_gradient(outputs, targets.expand(len(outputs), *targets.shape).contiguous())
                total += value.double() * len(x)
                if self.classes is not None:
                    wrong += (outputs.argmax(-1) != self.classes[start : start + size]).sum(1)
                elif loss.name == "logistic":
                    wrong += (outputs * targets <= 0).double().mean(-1).sum(1)
        mean = total / len(self.x)
        if loss.name == "square":
            mean *= 2 / self.targets.shape[1]  # the loss halves a sum of squares
        found = torch.full((2, lanes), math.nan, dtype=torch.float64, device=self.x.device)
        found[0, snapshot.lanes] = mean
        if self.classes is not None or loss.name == "logistic":
            found[1, snapshot.lanes] = wrong / len(self.x)
        values: Floats = found.cpu().numpy()
        return {"loss": values[0], "error_rate": values[1]}


def _rows(
    step: int,
    here: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
    names: Sequence[str],
    found: Mapping[str, Floats],
    flops: Floats,
    evaluated: Floats,
    rule: str,
) -> pa.RecordBatch:
    """The rows of the runs `here` at a step. One that diverged has only the step of it."""
    good = (at < 0) & np.isfinite(found["loss"])
    reason = [f"loss {rule} at step {a}" if a >= 0 else f"loss not finite by step {step}" for a in at.tolist()]
    none = np.full(len(here), np.nan)
    columns = {name: found.get(name, none) for name in names}
    return pa.RecordBatch.from_pydict(
        {
            "lane": pa.array(here.astype(np.int32)),
            "steps": pa.repeat(pa.scalar(step, pa.int64()), len(here)),
            "status": pa.array(np.where(good, "ok", "diverged")),
            "error": pa.array(np.array(reason, dtype=object), pa.string(), mask=good),
            "flops": pa.array(flops),
            "flops_eval": pa.array(evaluated),
            **{name: pa.array(v, mask=~good | np.isnan(v)) for name, v in columns.items()},
        }
    )
