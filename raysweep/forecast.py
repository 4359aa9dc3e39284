"""What a network will learn from a data set and how fast, before it is trained: its kernel at the start says.

The kernel of each of several networks in mean-field scaling is measured on some items. Its spectrum gives the exponents
alpha and beta with intervals (`theory.spectrum`), and these the loss against time, of a lazy network and of one that
learns features, and whether feature learning can help.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.data import Images, images, images_in
from raysweep.errors import PackError, SweepError
from raysweep.models import ACTIVATIONS, Architecture
from raysweep.theory.circle import amplitudes
from raysweep.theory.features import Modes, compute_optimal, flow, time_exponent
from raysweep.theory.kernel_limit import data_plateau, reused_data_curve
from raysweep.theory.spectrum import Estimate, Spectrum, continued, estimate, exponents, verdict, window_of

__all__ = ["MODELS", "Forecast", "Task", "forecast", "kernel_bytes", "task_of"]

Array = npt.NDArray[np.float64]

MODELS = ("mlp", "cnn", "resnet")
_DECADES = 6  # of time that curves are predicted for
_PER_DECADE = 4
_POINTS = 50  # of a curve that a slope is fitted to
_BLOCKS = 8  # of items, one of which is left out at a time
_ANGLES, _HARMONICS = 2048, 8192  # of a task on the circle
_DATA = (100, 1_000, 10_000, 100_000, 1_000_000)  # items to train on


@dataclass(frozen=True)
class Task:
    """Items with targets.

    Attributes:
        name: What the data set is called.
        x: [items, numbers].
        y: [items, outputs]; one-hot for classes.
    """

    name: str
    x: npt.NDArray[np.float32]
    y: Array


def task_of(data: str, seed: int = 0) -> Task:
    """The task that a word names.

    Args:
        data: `digits`; NAME of NAME.npz in the folder RAYSWEEP_DATA; the path of an .npz of images, as `raysweep.data`
            describes them, or of `x` [items, ...] and `y` [items] classes or [items, outputs] numbers; or
            `circle:BETA`, a target of that beta for a ReLU network, on angles drawn by the seed.

    Raises:
        SweepError: There are no such data, or they are of another kind.
    """
    if data.startswith("circle:"):
        return _circle(data, seed)
    if not data.endswith(".npz"):
        return _of_images(data, images(data))
    try:
        with np.load(data) as arrays:
            if not {"x", "y"} <= set(arrays):
                return _of_images(Path(data).name, images_in(Path(data)))
            x, y = arrays["x"], arrays["y"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SweepError(f"data: {data} must be an .npz of arrays, but {error}") from error
    shaped = x.ndim >= 2 and y.ndim in (1, 2) and len(x) == len(y)
    if not shaped or not all(v.dtype.kind in "biuf" and np.isfinite(v).all() for v in (x, y)):
        raise SweepError(
            f"data: {data} must hold x [items, ...] and y [items] or [items, outputs], finite numbers, but got "
            f"{x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    if x.ndim == 4 and x.shape[3] in (1, 3):
        x = np.moveaxis(x, 3, 1)
    axes = (0,) if x.ndim == 2 else (0, *range(x.ndim - 2, x.ndim))
    x = x.astype(np.float32)
    sd = x.std(axes, keepdims=True)
    x = (x - x.mean(axes, keepdims=True)) / np.where(sd > 0, sd, 1)
    if y.ndim == 1 and y.dtype.kind in "biu":
        wanted = (y[:, None] == np.unique(y)).astype(np.float64)
    else:
        wanted = y.reshape(len(y), -1)
    return Task(Path(data).name, x.reshape(len(x), -1), wanted.astype(np.float64))


def _of_images(name: str, found: Images) -> Task:
    x, y = found.standardised()[: found.train], found.y[: found.train]
    return Task(name, x, np.eye(found.classes)[y])


def _circle(data: str, seed: int) -> Task:
    try:
        beta = float(data.partition(":")[2])
    except ValueError:
        beta = 0.0
    if not 0 < beta < 10:
        raise SweepError(f"data: circle:BETA must have a beta between 0 and 10, but got {data!r}")
    angle = 2 * np.pi * np.random.default_rng(seed).random(_ANGLES)
    y = np.cos(np.outer(angle, np.arange(1, _HARMONICS + 1))) @ amplitudes("relu", beta, _HARMONICS)
    x = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Task(data, x.astype(np.float32), y[:, None])


@dataclass(frozen=True)
class Forecast:
    """The difficulty of a task for a network, and what follows from it.

    Attributes:
        task, items: The data set, and how many of its items the kernel was measured on.
        architecture, seeds: The networks.
        window: The modes that exponents are fitted to.
        first: lambda_1, the largest eigenvalue: it turns lambda_1 t into t = step size * steps.
        alpha, beta: Exponents.
        spectrum: Of the average kernel.
        modes: Of the population, continued beyond the window.
        gamma: Richness of the rich curve, in units of lambda_1 and of the target's power.
        times: [times] lambda_1 t.
        lazy, rich: [times] predicted loss on fresh items, relative to that of the zero function.
        train: Items that `reused` is about; 0 for none.
        reused: [times] the lazy loss on fresh items of training that uses `train` items again and again; or nothing.
        measured_to: lambda_1 t up to which curves rest on measured modes; beyond it they are extrapolated.
        data: (items to train on, loss at which a lazy network ends that uses them again and again).
        notes: What a reader should know, in sentences.
    """

    task: str
    items: int
    architecture: Architecture
    seeds: int
    window: tuple[int, int]
    first: float
    alpha: Estimate
    beta: Estimate
    spectrum: Spectrum
    modes: Modes
    gamma: float
    times: Array
    lazy: Array
    rich: Array
    train: int
    reused: Array | None
    measured_to: float
    data: tuple[tuple[int, float], ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Whether feature learning can raise the exponent: `can`, `cannot` or `undecided`."""
        return verdict(self.beta)

    def exponent(self, rich: bool) -> tuple[float, float, float]:
        """(value, low, high) of the predicted exponent of the loss in time; it rises with beta."""
        value, low, high = (time_exponent(max(b, 0.0), rich) for b in (self.beta.value, self.beta.low, self.beta.high))
        return value, low, high

    def slope(self, curve: Array, low: float, high: float) -> float:
        """The exponent of a predicted curve between two times t, by least squares in logs; NaN outside its times."""
        t = self.times / self.first
        if not t[0] <= low < high <= t[-1]:
            return float("nan")
        at = np.linspace(np.log(low), np.log(high), _POINTS)
        return -float(np.polyfit(at, np.interp(at, np.log(t), np.log(curve)), 1)[0])

    def to_json(self) -> dict[str, Any]:
        """Every number, for a file."""
        shape = self.architecture
        a, b = self.alpha.value, self.beta.value
        optimal = {
            kind: dict(zip(("loss", "width"), compute_optimal(a, b, kind == "rich"), strict=True))
            for kind in ("lazy", "rich")
            if a > 1 and b > 0
        }
        return {
            "data": self.task,
            "items": self.items,
            "model": {"kind": shape.kind, "width": shape.width, "depth": shape.depth, "activation": shape.activation},
            "inputs": shape.inputs,
            "outputs": shape.outputs,
            "seeds": self.seeds,
            "window": list(self.window),
            "lambda_1": self.first,
            "alpha": asdict(self.alpha),
            "beta": asdict(self.beta),
            "verdict": self.verdict,
            "time_exponent": {
                kind: dict(zip(("value", "low", "high"), self.exponent(kind == "rich"), strict=True))
                for kind in ("lazy", "rich")
            },
            "compute_optimal": optimal,
            "curves": {
                "lambda_1_t": self.times.tolist(),
                "t": (self.times / self.first).tolist(),
                "lazy": self.lazy.tolist(),
                "rich": self.rich.tolist(),
                "gamma": self.gamma,
                "train": self.train,
                "reused": None if self.reused is None else self.reused.tolist(),
                "measured_to": self.measured_to,
            },
            "data_limit": [{"items": n, "loss": loss} for n, loss in self.data],
            "spectrum": {"values": self.spectrum.values.tolist(), "mass": self.spectrum.mass.tolist()},
            "notes": list(self.notes),
        }


def forecast(
    task: Task,
    model: str = "mlp",
    width: int = 1024,
    depth: int = 3,
    activation: str = "relu",
    *,
    items: int = 2048,
    seeds: int = 4,
    gamma: float = 1.0,
    train: int = 0,
    level: float = 0.95,
    device: str = "cpu",
    memory: int = 2 * 2**30,
    seed: int = 0,
) -> Forecast:
    """Measure a task's difficulty for a network, and predict how it will be learnt.

    Args:
        task: At least 200 items.
        model, width, depth, activation: The network, in mean-field scaling and without biases.
        items: Items that the kernel is measured on, drawn without replacement; all where there are fewer.
        seeds: Networks whose kernels are averaged.
        gamma: Richness of the rich curve. 1 is rich from times near 1 / lambda_1 on.
        train: Items of a lazy training that uses them again and again, whose curve is predicted too; 0 for none.
        level: Nominal coverage of intervals.
        memory: Bytes for kernels, gradients and activations.
        seed: Draws the items.

    Raises:
        SweepError: The network does not fit the data, or a value is out of its range.
        FitError: There are too few items, or no power law.
        PackError: The memory does not hold the kernels.
    """
    if model not in MODELS:
        raise SweepError(f"model: must be one of {', '.join(MODELS)}, but got {model!r}")
    if activation not in ACTIVATIONS:
        raise SweepError(f"activation: must be one of {', '.join(ACTIVATIONS)}, but got {activation!r}")
    if seeds < 2:
        raise SweepError(f"seeds: `seeds >= 2` must hold, for the intervals, but got (seeds={seeds})")
    if not gamma >= 0 or not 0.5 <= level < 1 or train < 0:
        raise SweepError(
            "`gamma >= 0`, `0.5 <= level < 1` and `train >= 0` must hold, but got "
            f"(gamma={gamma:g}, level={level:g}, train={train})"
        )
    shape = Architecture(model, task.x.shape[1], task.y.shape[1], width, depth, activation, base_width=1)
    if problem := shape.problem():
        raise SweepError(problem)
    count = min(items, len(task.x))
    window = window_of(count)
    rows = np.random.default_rng(seed).permutation(len(task.x))[:count]
    whole, *parts = _spectra(shape, task.x[rows], task.y[rows], seeds, device, memory)
    own = exponents(whole, window)
    networks, blocks, halves, quarters = (np.array([exponents(s, window) for s in some]).T for some in parts)
    alpha, beta = (estimate(count, own[j], networks[j], blocks[j], halves[j], quarters[j], level=level) for j in (0, 1))
    modes = continued(whole, window[1], alpha.value, beta.value)
    times = np.geomspace(1.0, 10.0**_DECADES, _DECADES * _PER_DECADE + 1)
    curves = flow([modes, modes], [0.0, gamma], times).loss
    return Forecast(
        task=task.name,
        items=count,
        architecture=shape,
        seeds=seeds,
        window=window,
        first=float(whole.values[0]),
        alpha=alpha,
        beta=beta,
        spectrum=whole,
        modes=modes,
        gamma=gamma,
        times=times,
        lazy=curves[0],
        rich=curves[1],
        train=train,
        reused=reused_data_curve(modes, times, train) if train and alpha.value > 1 else None,
        measured_to=float(whole.values[0] / whole.values[window[1] - 1] / 2),
        data=tuple((n, data_plateau(modes, n)) for n in _DATA) if alpha.value > 1 else (),
        notes=_notes(alpha, beta),
    )


def _spectra(
    shape: Architecture, x: npt.NDArray[np.float32], y: Array, seeds: int, device: str, memory: int
) -> tuple[Spectrum, list[Spectrum], list[Spectrum], list[Spectrum], list[Spectrum]]:
    """Spectra of the average kernel; without a network, without a block of items; on halves, on quarters of them."""
    import torch

    from raysweep.models.mean_field import MeanField
    from raysweep.models.ntk import ntk
    from raysweep.training.precision import products

    count = len(x)
    kept = kernel_bytes(count, seeds)
    if kept > memory // 2:
        raise PackError(
            f"memory: half of it must hold the kernels, but got (memory={memory:,} bytes, kernels={kept:,}). "
            "Allow more memory, or take fewer items or seeds"
        )
    network = MeanField(shape)
    inputs, targets = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    kernels = torch.empty(seeds, count, count, device=device)
    with products("float32"):
        for i in range(seeds):
            start, fixed = network.start(torch.tensor([i]), torch.float32, device)
            model = network.architecture.model()
            own = ntk(model, start, inputs, frozen=fixed, rates=network.rates(False), memory=memory - kept)
            kernels[i] = own[0] / shape.outputs

    every = torch.arange(count, device=device)

    def spectrum(kernel: Any, at: Any = every) -> Spectrum:
        values, vectors = torch.linalg.eigh(kernel[at][:, at].double() / len(at))
        mass = (vectors.T @ targets[at]).square().sum(1)
        return Spectrum(values.flip(0).cpu().numpy(), (mass / mass.sum()).flip(0).cpu().numpy())

    mean = kernels.mean(0)
    networks = [spectrum((mean * seeds - kernel) / (seeds - 1)) for kernel in kernels]
    blocks = [spectrum(mean, every[every * _BLOCKS // count != i]) for i in range(_BLOCKS)]
    halves, quarters = ([spectrum(mean, at) for at in every.tensor_split(n)] for n in (2, 4))
    return spectrum(mean), networks, blocks, halves, quarters


def kernel_bytes(items: int, seeds: int) -> int:
    """Bytes of all kernels in float32, of one more with its average, and of four matrices of an eigenproblem."""
    return items**2 * (4 * (seeds + 2) + 8 * 4)


def _notes(alpha: Estimate, beta: Estimate) -> tuple[str, ...]:
    """Sentences on what weakens the estimate."""
    notes = []
    if abs(beta.mixing) > 0.1:
        notes.append(
            f"Networks of this width mix modes: the average kernel gives beta = {beta.raw:.3g}, and {beta.mixing:+.2g} "
            "was taken off. More seeds or a larger width make the correction smaller."
        )
    if abs(beta.drift) > 0.1:
        notes.append(
            f"beta still changes with the number of items, by {beta.drift:+.2g} from half of them to all. "
            "Take more items."
        )
    if alpha.value <= 1:
        notes.append(
            f"alpha = {alpha.value:.3g} is not above 1, as the theory takes it to be: limits of data are left out."
        )
    return tuple(notes)
