"""The rows of a pack of `richness`: lanes trained together, or each lane's lazy limit from its kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raysweep.data import images
from raysweep.experiment import Context
from raysweep.experiments.own_inputs import mean_dimensions
from raysweep.experiments.richness import BMD_VARIANCE_POINTS, architecture_of, steps_of
from raysweep.grid.runs import Runs
from raysweep.models.mean_field import MeanField
from raysweep.models.ntk import ntk
from raysweep.models.outputs import RICHNESS, centred, initial_values, scaled
from raysweep.theory.circle import amplitudes
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.legs import Leg
from raysweep.training.loop import Snapshot, forward, train
from raysweep.training.loss import SQUARE
from raysweep.training.optim import Optimiser
from raysweep.training.precision import parameter_dtype, products
from raysweep.training.probe import fastest_conv
from raysweep.training.schedule import Schedule

if TYPE_CHECKING:
    from raysweep.experiments.richness import Richness
    from raysweep.models.architecture import Model

__all__ = ["Task", "lazy", "task_of", "trained"]

Array = npt.NDArray[np.float64]

_ANGLES = 2**18  # of the circle, to train on
_OFFSET = 1 / 3  # of test angles, in units of their distance: none of them is trained on
_MOST = 1024  # items in a forward pass of an evaluation
_ADAM = (0.9, 0.999, 1e-12)  # beta1, beta2, eps: gradients are small in mean-field scaling


@dataclass(frozen=True)
class Task:
    """The items of a pack.

    Attributes:
        x: [pool, inputs] to train on.
        y: [targets * pool, outputs], a block per target.
        target: [lanes] the block of each lane.
        test_x: [test items, inputs].
        test_y: [targets, test items, outputs].
        points: [points, inputs] that a kernel is taken on.
        point_y: [targets, points, outputs].
        beyond: [targets] share of the target's power that the points cannot hold.
    """

    x: npt.NDArray[np.floating[Any]]
    y: Array
    target: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.floating[Any]]
    test_y: Array
    points: npt.NDArray[np.floating[Any]]
    point_y: Array
    beyond: Array


def task_of(pack: Runs) -> Task:
    """The items that a pack trains and is measured on."""
    return _circle(pack) if pack.value("task") == "circle" else _images(pack)


def _circle(pack: Runs) -> Task:
    betas = sorted(set(pack.column("beta")))
    harmonics, count, points = (int(pack.value(n)) for n in ("harmonics", "test_items", "points"))

    def inputs(place: Array) -> Array:
        angle = 2 * np.pi * place
        return math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)  # of unit mean square

    held = min(harmonics, (points - 1) // 2)
    own = [amplitudes(pack.value("activation"), float(beta), harmonics) for beta in betas]
    power = np.array([(a**2).sum() for a in own])
    return Task(
        x=inputs(np.arange(_ANGLES) / _ANGLES),
        y=np.stack([_sum(a, _ANGLES) for a in own]).reshape(-1, 1),
        target=np.array([betas.index(beta) for beta in pack.column("beta")]),
        test_x=inputs((np.arange(count) + _OFFSET) / count),
        test_y=np.stack([_sum(a, count, _OFFSET) for a in own])[..., None],
        points=inputs(np.arange(points) / points),
        point_y=np.stack([_sum(a[:held], points) for a in own])[..., None],
        beyond=np.array([(a[held:] ** 2).sum() for a in own]) / power,
    )


def _sum(amplitude: Array, angles: int, offset: float = 0.0) -> Array:
    """sum_k amplitude_k cos(k theta) at theta = 2 pi (i + offset) / angles; k is below angles / 2."""
    spectrum = np.zeros(angles // 2 + 1, dtype=complex)
    k = np.arange(1, len(amplitude) + 1)
    spectrum[k] = amplitude / 2 * angles * np.exp(2j * np.pi * k * offset / angles)
    return np.fft.irfft(spectrum, angles)


def _images(pack: Runs) -> Task:
    found = images(pack.value("data"))
    x, y = found.standardised(), np.eye(found.classes)[found.y]
    test = slice(found.train, found.train + int(pack.value("test_items")))
    points = min(int(pack.value("points")), found.train)
    return Task(
        x=x[: found.train],
        y=y[: found.train],
        target=np.zeros(len(pack), dtype=np.int64),
        test_x=x[test],
        test_y=y[None, test],
        points=x[:points],
        point_y=y[None, :points],
        beyond=np.zeros(1),
    )


def trained(pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
    """A batch of rows per time."""
    row, device, precision = pack.row(0), context.device, pack.value("precision")
    dtype, task, adaptive = parameter_dtype(precision), task_of(pack), pack.value("optimiser") == "adam"
    network = MeanField(architecture_of(row))
    layout = network.architecture.layout
    batch, tests = int(pack.value("batch")), len(task.test_x)

    def lanes(values: Any, kind: torch.dtype = dtype) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(device=device, dtype=kind)

    seed, gamma = lanes(pack.column("seed"), torch.int64), lanes(pack.column("gamma"))
    start, fixed = network.start(seed, dtype, device)
    norm = torch.stack([p.square().flatten(1).sum(1) for p in start.values()]).sum(0).sqrt()
    first = initial_values(start)
    momentum = lanes(pack.column("momentum"))
    beta1, beta2, eps = (torch.full_like(gamma, value) for value in _ADAM)
    rate = gamma * pack.value("eta") if adaptive else gamma**2 * pack.value("eta") * (1 - momentum)
    optimiser = Optimiser(
        "adamw" if adaptive else "sgd", rate, momentum, beta1, beta2, eps, rates=network.rates(adaptive)
    )
    zero = torch.zeros_like(seed)
    stops: dict[int, list[float]] = {}
    for t in sorted(float(t) for t in pack.observed[0].values("t")):
        stops.setdefault(steps_of(row, t), []).append(t)
    test_x = lanes(task.test_x)
    test_y = lanes(task.test_y, torch.float64)
    a_step = batch * (2.0 * layout.forward_flops + layout.backward_flops)
    points = int(pack.value("bmd_points"))
    passes = tests + (BMD_VARIANCE_POINTS + points * (test_x.shape[1] + 1) if points else 0)
    an_evaluation = 2.0 * passes * layout.forward_flops
    with products(precision):
        tf32 = precision == "tf32"
        conv = fastest_conv(network.architecture, len(pack), batch, dtype, device, tf32)
        model = scaled(centred(network.architecture.model(conv, tf32)))
        stack = train(
            model,
            start,
            _batches(pack, task, batch, seed, dtype),
            optimiser,
            Schedule.make("constant", zero, zero),
            [Leg(stop, True) for stop in stops],
            keep=context.keep,
            loss=SQUARE,
            frozen={**fixed, **first, RICHNESS: gamma},
        )
        for number, snapshot in enumerate(stack, 1):
            at = snapshot.diverged_at.cpu().numpy()
            loss, moved = _measured(model, snapshot, test_x, test_y, task.target, first, norm)
            found = {"loss": loss, "moved": moved, **_dimension(pack, model, snapshot, test_x.shape[1])}
            done = np.where(at < 0, snapshot.step, at)
            for t in stops[snapshot.step]:
                yield _rows(t, at, found, done * a_step, number * an_evaluation)


def _batches(pack: Runs, task: Task, batch: int, seed: Tensor, dtype: torch.dtype) -> Batches:
    """Items drawn from the whole pool, or from the first `n_train` of its permutation by the run's seed."""
    device, pool = str(seed.device), len(task.x)
    asked = pack.column("n_train") if pack.value("task") == "images" else [0] * len(pack)
    few = [int(n) or pool for n in asked]
    seeds = list(dict.fromkeys(s for s, n in zip(pack.column("seed"), few, strict=True) if n < pool))
    rows = torch.arange(max(few))[None]
    if seeds:
        rows = torch.cat([rows, nested_rows(seeds, pool, max(few))])
    place = [0 if n == pool else 1 + seeds.index(s) for s, n in zip(pack.column("seed"), few, strict=True)]
    return Batches(
        x=torch.from_numpy(task.x).to(device, dtype),
        targets=torch.from_numpy(task.y).to(device, dtype),
        rows=rows.to(device),
        batch=batch,
        seed_row=torch.tensor(place, device=device),
        pool_offset=torch.zeros_like(seed),
        target_offset=torch.from_numpy(task.target * pool).to(device),
        n=torch.tensor(few, device=device),
        order_seed=seed,
        data_seed=seed,
        real=True,
    )


@torch.no_grad()
def _measured(
    model: Model,
    snapshot: Snapshot,
    x: Tensor,
    y: Tensor,
    target: npt.NDArray[np.int64],
    first: Mapping[str, Tensor],
    norm: Tensor,
) -> tuple[Array, Array]:
    """Loss and distance from the start [all lanes]; NaN for lanes that left the stack."""
    lanes, own = snapshot.lanes, snapshot.parameters
    wanted = y[torch.from_numpy(target).to(y.device)[lanes]]
    squares = sum(
        (forward(model, own, part).double() - wanted[:, i : i + _MOST]).square().sum((1, 2))
        for i, part in zip(range(0, len(x), _MOST), x.split(_MOST), strict=True)
    )
    change = torch.stack([(own[name] - start[lanes]).square().flatten(1).sum(1) for name, start in _named(first)]).sum(
        0
    )
    out = torch.full((2, len(norm)), math.nan, dtype=torch.float64, device=y.device)
    out[0, lanes] = squares / wanted.square().sum((1, 2))
    out[1, lanes] = (change.sqrt() / norm[lanes]).double()
    loss, moved = out.cpu().numpy()
    return loss, moved


def _dimension(pack: Runs, model: Model, snapshot: Snapshot, inputs: int) -> dict[str, Array]:
    """`bmd` and `bmd_se` [all lanes] of what is learned; NaN where they are not measured or the lane left the stack."""
    found = {name: np.full(len(pack), np.nan) for name in ("bmd", "bmd_se")}
    if points := int(pack.value("bmd_points")):
        here, seeds = snapshot.lanes.cpu().numpy(), pack.column("seed")
        own = [int(seeds[lane]) for lane in here]
        one = mean_dimensions(model, snapshot.parameters, own, inputs, points, BMD_VARIANCE_POINTS)
        found["bmd"][here], found["bmd_se"][here] = one.value, one.error
    return found


def _named(first: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Initial values under the names of the parameters."""
    return [(name.removeprefix("initial."), value) for name, value in first.items()]


def lazy(experiment: Richness, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
    """A batch of rows per lane: sum a2 exp(-2 lambda t) over the modes of its kernel, one seed's kernel at a time."""
    device, precision = context.device, pack.value("precision")
    dtype, task = parameter_dtype(precision), task_of(pack)
    network = MeanField(architecture_of(pack.row(0)))
    rates, times = network.rates(False), np.array(sorted(float(t) for t in pack.observed[0].values("t")))
    points = torch.as_tensor(task.points).to(device, dtype)
    seeds = np.array(pack.column("seed"))
    cost = experiment.cost(pack.row(0), pack.observed[0], None)
    with products(precision):
        model = network.architecture.model()
        for seed in np.unique(seeds).tolist():
            start, fixed = network.start(torch.tensor([seed]), dtype, device)
            kernel = ntk(model, start, points, frozen=fixed, rates=rates, accumulate=torch.float64)[0]
            x, vectors = torch.linalg.eigh(kernel.double() / (len(points) * task.point_y.shape[-1]))
            x, vectors = x.clamp(min=0).cpu().numpy(), vectors.cpu().numpy()
            for lane in np.flatnonzero(seeds == seed).tolist():
                y, beyond = task.point_y[task.target[lane]], task.beyond[task.target[lane]]
                mass = ((vectors.T @ y) ** 2).sum(1)
                share = mass / mass.sum() * (1 - beyond)
                loss = beyond + np.exp(-2 * np.outer(times, x)) @ share
                none = np.full(len(times), np.nan)
                found = {"loss": loss, "moved": np.zeros(len(times)), "bmd": none, "bmd_se": none}
                yield _rows(times, np.full(1, -1), found, np.array([cost.flops]), 0.0, lane)


def _rows(
    t: Any, at: npt.NDArray[np.int64], values: Mapping[str, Array], flops: Array, evaluated: float, lane: int = -1
) -> pa.RecordBatch:
    """Rows of all lanes at one time, or of one lane at all times. A lane that diverged has only the step of it."""
    count = len(values["loss"])
    at = np.broadcast_to(at, (count,))
    good = (at < 0) & np.isfinite(values["loss"])
    reason = [f"loss {SQUARE.rule} at step {a}" if a >= 0 else "loss not finite" for a in at.tolist()]
    return pa.RecordBatch.from_pydict(
        {
            "lane": pa.array(np.arange(count) if lane < 0 else np.full(count, lane), pa.int32()),
            "t": pa.array(np.broadcast_to(np.asarray(t, dtype=float), (count,))),
            "status": pa.array(np.where(good, "ok", "diverged")),
            "error": pa.array(np.array(reason, dtype=object), pa.string(), mask=good),
            "flops": pa.array(np.broadcast_to(flops, (count,))),
            "flops_eval": pa.repeat(evaluated, count),
            **{name: pa.array(v, mask=~(good & np.isfinite(v))) for name, v in values.items()},
        }
    )
