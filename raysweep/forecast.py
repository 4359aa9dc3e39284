"""What a network will learn from a data set and how fast, before it is trained: its kernel at the start says.

The kernel of each of several networks in mean-field scaling is measured on some items. Its spectrum gives the exponents
alpha and beta with intervals (`theory.spectrum`), and these the loss against time, of a lazy network and of one that
learns features, and whether feature learning can help.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import PackError, SweepError
from raysweep.models import ACTIVATIONS, Architecture, image_of
from raysweep.task import Task
from raysweep.theory.exponents import compute_optimal, time_exponent
from raysweep.theory.features import Modes, flow
from raysweep.theory.kernel_limit import data_plateau, reused_data_curve
from raysweep.theory.spectrum import (
    LAST,
    Check,
    Estimate,
    Spectrum,
    check,
    continued,
    estimate,
    exponents,
    verdict,
    window_of,
)

__all__ = ["MODELS", "Forecast", "forecast", "kernel_bytes"]

Array = npt.NDArray[np.float64]

MODELS = ("mlp", "cnn", "resnet")
_DECADES = 6  # of time that curves are predicted for
_PER_DECADE = 4
_POINTS = 50  # of a curve that a slope is fitted to
_BLOCKS = 8  # of items, one of which is left out at a time
_ROUNDING = 1e-12  # spread over size of numbers that differ by rounding alone
_MOST, _DEEPEST = 10**9, 10**4  # items or width, and depth: beyond them sizes are not even computed
_MEAN = 0.99  # largest share of the targets' power that their mean may have
_DATA = (100, 1_000, 10_000, 100_000, 1_000_000)  # items to train on


@dataclass(frozen=True)
class Forecast:
    """The difficulty of a task for a network, and what follows from it.

    Attributes:
        task, items: The data set, and how many of its items the kernel was measured on.
        architecture, seeds: The networks.
        window: The modes that exponents are fitted to.
        first: lambda_1, the largest eigenvalue: it turns lambda_1 t into t = step size * steps.
        alpha, beta: Exponents.
        checked: Whether there is a power law in the window.
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
    checked: Check
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
        return verdict(self.beta, self.checked)[0]

    @property
    def reason(self) -> str:
        """Why the verdict is what it is."""
        return verdict(self.beta, self.checked)[1]

    def exponent(self, rich: bool) -> tuple[float, float, float]:
        """(value, low, high) of the predicted exponent of the loss in time; it rises with beta."""
        value, low, high = (time_exponent(max(b, 0.0), rich) for b in (self.beta.value, self.beta.low, self.beta.high))
        return value, low, high

    def slope(self, curve: Array, low: float, high: float) -> float | None:
        """The exponent of a predicted curve between two times t, by least squares in logs; None outside its times."""
        t = self.times / self.first
        if not t[0] <= low < high <= t[-1]:
            return None
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
            "check": asdict(self.checked),
            "verdict": self.verdict,
            "reason": self.reason,
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
    if not 0 <= gamma < np.inf:
        raise SweepError(f"gamma: `0 <= gamma < inf` must hold, but got (gamma={gamma:g}). 1 is rich, 0 lazy")
    if not 0.5 <= level < 1:
        raise SweepError(f"level: `0.5 <= level < 1` must hold, but got (level={level:g}). 0.95 is usual")
    if not 0 <= train <= _MOST:
        raise SweepError(f"train: `0 <= train <= {_MOST:,}` must hold, but got (train={train}). 0 is for none")
    shape = _shape(task, model, width, depth, activation, memory)
    count = min(items, len(task.x))
    window = window_of(count)
    rows = np.random.default_rng(seed).permutation(len(task.x))[:count]
    _check_values(task.x[rows], task.y[rows])
    whole, *parts = _spectra(shape, task.x[rows], task.y[rows], seeds, device, memory)
    own = exponents(whole, window)
    networks, blocks, halves, quarters = (np.array([exponents(s, window) for s in some]).T for some in parts)
    alpha, beta = (estimate(count, own[j], networks[j], blocks[j], halves[j], quarters[j], level=level) for j in (0, 1))
    checked = check(whole, parts[0], count, window)
    modes = continued(whole, window[1], alpha.value, max(beta.value, checked.noise))
    known = modes.count.sum() if alpha.value > 1 else 0.0  # more items would be decided by modes that are left out
    times = np.geomspace(1.0, 10.0**_DECADES, _DECADES * _PER_DECADE + 1)
    with np.errstate(all="ignore"):
        curves = flow([modes, modes], [0.0, gamma], times).loss
    if not np.isfinite(curves).all():
        raise SweepError(f"gamma: the rich curve must be finite, but got (gamma={gamma:g}). Take a smaller gamma")
    return Forecast(
        task=task.name,
        items=count,
        architecture=shape,
        seeds=seeds,
        window=window,
        first=float(whole.values[0]),
        alpha=alpha,
        beta=beta,
        checked=checked,
        spectrum=whole,
        modes=modes,
        gamma=gamma,
        times=times,
        lazy=curves[0],
        rich=curves[1],
        train=train,
        reused=reused_data_curve(modes, times, train) if 0 < train < known else None,
        measured_to=float(whole.values[0] / whole.values[window[1] - 1] / 2),
        data=tuple((n, data_plateau(modes, n)) for n in _DATA if n < known),
        notes=(*_cut(items, count), *_notes(alpha, beta, checked), *_limits(known, train)),
    )


def _shape(task: Task, model: str, width: int, depth: int, activation: str, memory: int) -> Architecture:
    """The network.

    Raises:
        SweepError: It does not fit the data.
        PackError: It does not fit in memory.
    """
    inputs = task.x.shape[1]
    if model != "mlp" and image_of(inputs) is None:
        raise SweepError(
            f"model: a {model} needs square images of 1 or 3 channels, but items have {inputs} numbers. Use mlp"
        )
    if model == "resnet" and activation != "relu":
        raise SweepError(f"activation: a resnet has relu, but got {activation}. Use relu, or another model")
    shape = Architecture(model, inputs, task.y.shape[1], width, depth, activation, base_width=1)
    if problem := shape.problem():
        raise SweepError(problem)
    if width > _MOST or depth > _DEEPEST or 4 * shape.layout.size > memory // 2:
        raise PackError(
            f"memory: half of it must hold the network, but got (memory={memory:,} bytes, width={width:,}, "
            f"depth={depth:,}). Allow more memory, or take a narrower network"
        )
    return shape


def _check_values(x: npt.NDArray[np.float32], y: Array) -> None:
    """Refuse items that no spectrum can be measured on.

    Raises:
        SweepError: Inputs or targets are not finite or do not vary, or the mean of the targets is nearly all of them.
    """
    if not np.isfinite(x).all() or not np.ptp(x, axis=0).any():
        raise SweepError("data: x must be finite and differ between items, but does not")
    largest = np.abs(y).max()
    if (
        not 0 < largest < np.sqrt(np.finfo(np.float64).max) / y.size
        or not np.ptp(y, axis=0).max() > _ROUNDING * largest
    ):
        raise SweepError(
            f"data: targets must be finite and differ between items, but those of the {len(y):,} items are constant, "
            "or too large to square"
        )
    share = float((y.mean(0) ** 2).sum() / (y**2).mean(0).sum())
    if share > _MEAN:
        raise SweepError(
            f"data: the mean of the targets must not hold more than {_MEAN:.0%} of their power, but it holds "
            f"{share:.4%}. Centre them: subtract the mean from y (from the columns of 0 and 1 if they are classes)"
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


def _cut(asked: int, items: int) -> tuple[str, ...]:
    """A sentence on items that do not exist."""
    return (
        (f"The kernel is measured on all {items:,} items of the data set: there are no {asked:,}.",)
        if asked > items
        else ()
    )


def _limits(known: float, train: int) -> tuple[str, ...]:
    """A sentence on limits of data that the modes do not resolve."""
    if not 0 < known <= max(train, _DATA[-1]):
        return ()
    return (
        f"Limits of {known:,.0f} items or more are left out: eigenvalues below {LAST:.0e} of the largest would decide "
        "them.",
    )


def _notes(alpha: Estimate, beta: Estimate, checked: Check) -> tuple[str, ...]:
    """Sentences on what weakens the estimate."""
    notes = []
    if checked.hidden:
        notes.append(
            f"Networks of this width mix modes: up to {min(checked.leaked, 1.0):.0%} of the target's power beyond a "
            "mode of the window has leaked there from larger modes. The interval of beta does not cover this, and "
            "curves are not to be relied on. Take a larger width or more seeds; if that changes nothing, the target "
            "is very easy."
        )
    elif abs(beta.mixing) > 0.1:
        notes.append(
            f"Networks of this width mix modes: the average kernel gives beta = {beta.raw:.3g}, and the correction is "
            f"{-beta.mixing:+.2g}. More seeds or a larger width make it smaller."
        )
    if beta.value < checked.noise:
        notes.append("Beyond the window curves continue as those of pure noise.")
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
