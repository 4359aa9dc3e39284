"""Classifiers trained in a world with an exact posterior: epistemic error against data, width, time, difficulty, k.

Source: arXiv 2602.00315 (section 4.1 scaling, section 4.2 soft labels). Training time is an observed axis under a
constant rate, observed at the price of a branch under warmup-stable-decay, and a lane axis under cosine; the inference
budget k is always observed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.display import Display
from raysweep.errors import PackError, SweepError
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.classifier_axes import (
    AXES,
    BMD_METRICS,
    DISPLAY,
    LABELS,
    METRICS,
    SHIFT_METRICS,
    bmd_flops,
)
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.models import Architecture
from raysweep.oracle.recipe import Shape
from raysweep.training.legs import legs

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    from raysweep.training.loop import Snapshot

__all__ = ["EXPERIMENT", "Classifier", "architecture_of"]

_SHAPE = ("model", "width", "depth", "activation", "patch", "heads", "base_width")  # what an architecture reads
_BMD = ("bmd_points", "members")
_BYTES = {"float64": 8, "bf16": 2}  # per activation; 4 otherwise
_MOMENTS = {"adamw": 2}  # optimiser numbers per parameter; 1 otherwise


@dataclass(frozen=True)
class Classifier:
    """The `classifier` experiment."""

    name: str = "classifier"
    version: int = 2
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = (*METRICS, *BMD_METRICS, *SHIFT_METRICS)
    needs_world: bool = True
    display: Display = DISPLAY
    divided: str = "batch"

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Cost of all members of a run, summed over layers, with the schedule's branches and subsampled evaluations."""
        if world is None:
            raise PackError("classifier: a world is needed to know the input's size")
        layout, batch, members = architecture_of(run, world).layout, int(run["batch"]), int(run["members"])
        times = _times(run, observed)
        done = trained = 0
        for leg in legs(str(run["schedule"]), times, float(run["decay"])):
            trained += leg.stop - done
            done = done if leg.decay else leg.stop
        flops_eval = sum(_evaluated(run, t) * layout.forward_flops + bmd_flops(run, layout, world.dim) for t in times)
        wide = _BYTES["float64"] if run["precision"] == "float64" else 4
        narrow = _BYTES.get(str(run["precision"]), 4)
        state = 2 + _MOMENTS.get(str(run["optimiser"]), 1)
        return Cost(
            parameters=layout.size,
            flops=float(members) * trained * batch * (layout.forward_flops + layout.backward_flops),
            flops_eval=float(members) * flops_eval,
            bytes=float(members) * (wide * state * layout.size + 3 * narrow * batch * layout.activations),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Check that data sets fit their pool, models the world's items, and TF32 the device; and the points of BMD."""
        n, pool = (np.array([v or 0 for v in runs.values[name]])[runs.codes[name]] for name in ("n_train", "pool"))
        if (n > pool).any():
            at = int(np.argmax(n - pool))
            raise SweepError(
                f"grid.n_train: `n_train <= pool` must hold, but got (n_train={n[at]}, pool={pool[at]}). "
                "Make `pool` larger; four times the largest n_train keeps seeds nearly independent"
            )
        if "tf32" in runs.values["precision"] and not gpus:
            raise SweepError(
                "grid.precision: tf32 must run on a GPU, but got (precision=tf32, resources.gpus=0). "
                "Ask for resources: {gpus: 1}, or use float32"
            )
        for points, members in {(runs.row(i)["bmd_points"], runs.row(i)["members"]) for i in runs.examples(_BMD)}:
            if points and (int(points) < 4 or int(points) % 2 or members != 1):
                raise SweepError(
                    "grid.bmd_points: must be 0, or even, at least 4 and without an ensemble, but got "
                    f"(bmd_points={points}, members={members}). 100 points are usual, and members: 1"
                )
        for when in ("train", "test"):
            for i in runs.examples((f"{when}_shift", f"{when}_kl")):
                row = runs.row(i)
                if (row[f"{when}_shift"] == "none") != (row[f"{when}_kl"] == 0):
                    given = f"({when}_shift={row[f'{when}_shift']}, {when}_kl={row[f'{when}_kl']:g})"
                    raise SweepError(
                        f"grid.{when}_shift: a shift needs a distance, and a distance a shift, but got {given}. Use "
                        "`concat` for both with and without"
                    )
                kl, kind = float(row[f"{when}_kl"]), row[f"{when}_shift"]
                if kind == "imbalance" and isinstance(world, Shape) and kl >= world.largest_imbalance:
                    raise SweepError(
                        f"grid.{when}_kl: an imbalance must be less than that of a single class, "
                        f"{world.largest_imbalance:.4g} nats in a world of {world.classes} classes, but got "
                        f"({when}_kl={kl:g}). Take less"
                    )
        if world is not None:
            for first in runs.examples(_SHAPE):
                if problem := architecture_of(runs.row(first), world).problem():
                    raise SweepError(f"grid.{problem}")

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Train the pack's lanes together; one batch of rows per snapshot, one row per run and budget.

        Where several workers share the training, the first of them evaluates while the others wait.
        """
        import torch

        from raysweep.experiments.held_out import HeldOut, boolean_mean_dimension
        from raysweep.experiments.lanes import batches_of, initial_of, optimiser_of, schedule_of
        from raysweep.training.loop import train
        from raysweep.training.precision import compute_dtype, products
        from raysweep.training.probe import fastest_conv

        world, device = context.world, context.device
        if world is None:
            raise PackError("classifier: needs a world, but the context has none")
        row, observed, precision = pack.row(0), pack.observed[0], pack.value("precision")
        architecture = architecture_of(row, world)
        compute = compute_dtype(precision)
        times = sorted({t for i in range(len(pack)) for t in _times(pack.row(i), observed)})
        own_end = np.array(pack.column("steps")) if row["schedule"] == "cosine" else None
        ks = torch.tensor(observed.values("k"), dtype=torch.float64)
        members, seeds, points = pack.value("members"), pack.column("seed"), int(pack.value("bmd_points"))
        share = context.share
        leads = share is None or share.rank == 0
        held = {s: HeldOut.draw(pack, world, s, compute, device, members) for s in ("eval", "select") if leads}
        layout, batch = architecture.layout, pack.value("batch")
        own = batch if share is None else len(range(batch)[share.of(batch)])
        step_flops = float(pack.value("members")) * batch * (layout.forward_flops + layout.backward_flops)
        spent = np.zeros(len(pack))  # evaluation FLOPs so far
        with products(precision):
            tf32 = precision == "tf32"
            conv = fastest_conv(architecture, len(pack) * pack.value("members"), own, compute, device, tf32)
            model = architecture.model(conv, tf32)
            stack = train(
                model,
                initial_of(pack, architecture, device),
                batches_of(pack, world, LABELS, device),
                optimiser_of(pack, architecture, device),
                schedule_of(pack, device),
                legs(str(row["schedule"]), times, float(row["decay"])),
                compute,
                context.keep,
                share=share,
            )
            for snapshot in stack:
                if not leads:
                    continue
                here = np.arange(len(pack)) if own_end is None else np.flatnonzero(own_end == snapshot.step)
                diverged = _by_run(snapshot, pack)
                sound = here[diverged[here] < 0]
                columns = {"epistemic_base": np.full(len(sound), np.nan)}
                for stream, suffix in (("eval", ""), ("select", "_select")):
                    items = _items(row, stream, snapshot.step)
                    for name, values in held[stream].measure(model, snapshot, sound, items, ks).items():
                        if not (suffix and name == "epistemic_base"):
                            columns[name + suffix] = values
                own = [int(seeds[run]) for run in sound]
                columns |= boolean_mean_dimension(model, snapshot, sound, own, world.dim, points)
                evaluation = _evaluated(row, snapshot.step) * layout.forward_flops + bmd_flops(row, layout, world.dim)
                spent[sound] += float(pack.value("members")) * evaluation
                trained = np.where(diverged[here] < 0, snapshot.step, diverged[here])
                cost = {"flops": step_flops * trained, "flops_eval": spent[here]}
                yield _rows(snapshot.step, here, diverged[here], columns, cost, observed.values("k"))


EXPERIMENT = Classifier()


def architecture_of(run: Mapping[str, Value], world: WorldShape) -> Architecture:
    """The network of a run in a world, of this experiment or of another with these axes; `base_width` may be absent."""
    return Architecture(
        kind=str(run["model"]),
        inputs=world.dim,
        outputs=world.classes,
        width=int(run["width"]),
        depth=int(run["depth"]),
        activation=str(run["activation"]),
        patch=int(run["patch"]),
        heads=int(run["heads"]),
        base_width=int(run.get("base_width", 0)),
    )


def _times(run: Mapping[str, Value], observed: Observed) -> list[int]:
    """The steps at which a run is evaluated."""
    return [int(t) for t in observed.values("steps")] if "steps" in observed.names else [int(run["steps"])]


def _items(run: Mapping[str, Value], stream: str, step: int) -> int:
    """Items of a sample that a snapshot is evaluated on. The evaluation sample grows by `eval_share` of the items
    trained on, from an eighth of it to all of it, and the selection sample in proportion.

    The number depends on the cell alone, so that a longer grid leaves its scores unchanged. An early snapshot needs no
    more items: its standard error is stored beside it.
    """
    sample, share = int(run[f"{stream}_items"]), float(run["eval_share"])
    if not share:
        return sample
    part = share * int(run["batch"]) * step / int(run["eval_items"])
    return math.ceil(sample * min(1.0, max(0.125, part)))


def _evaluated(run: Mapping[str, Value], step: int) -> int:
    """Items in the forward passes of a snapshot."""
    return _items(run, "eval", step) + _items(run, "select", step)


def _by_run(snapshot: Snapshot, pack: Runs) -> npt.NDArray[np.int64]:
    """[runs] the step at which the first of a run's members diverged, or -1."""
    at = snapshot.diverged_at.cpu().numpy().reshape(len(pack), -1)
    first: npt.NDArray[np.int64] = np.where(at < 0, np.iinfo(np.int64).max, at).min(1)
    return np.where(first == np.iinfo(np.int64).max, -1, first)


def _rows(
    step: int,
    here: npt.NDArray[np.int64],
    diverged: npt.NDArray[np.int64],
    columns: Mapping[str, npt.NDArray[np.float64]],
    cost: Mapping[str, npt.NDArray[np.float64]],
    ks: Sequence[Value],
) -> pa.RecordBatch:
    """Rows in the order of runs, then budgets. A diverged run has no metrics, only the step it was frozen at.

    Args:
        here: [m] runs evaluated at this step.
        diverged: [m] steps at which they diverged, or -1.
        columns: {metric: [runs that did not diverge, in order]}.
        cost: {column: [m]}.
    """
    from raysweep.training.loss import CROSS_ENTROPY

    budgets = len(ks)
    sound = diverged < 0
    if sound.any():
        sound[sound] = np.isfinite(columns["total"]) & np.isfinite(columns["total_select"])
    ok = np.repeat(sound, budgets)
    reason = [
        f"loss {CROSS_ENTROPY.rule} at step {d}" if d >= 0 else f"loss not finite by step {step}" for d in diverged
    ]
    table: dict[str, Any] = {
        "lane": pa.array(np.repeat(here.astype(np.int32), budgets)),
        "steps": pa.repeat(pa.scalar(step, pa.int64()), len(here) * budgets),
        "k": pa.array(np.tile(np.array(ks, dtype=np.int64), len(here))),
        "status": pa.array(np.where(ok, "ok", "diverged")),
        "error": pa.array(np.repeat(np.array(reason, dtype=object), budgets), pa.string(), mask=ok),
    }
    for name, values in columns.items():
        wide = np.full((len(here), budgets), np.nan)
        wide[diverged < 0] = values if values.ndim == 2 else values[:, None]
        table[name] = pa.array(wide.ravel(), mask=~ok | np.isnan(wide.ravel()))
    for name, values in cost.items():
        table[name] = pa.array(np.repeat(values, budgets))
    return pa.RecordBatch.from_pydict(table)
