"""A network and data of one's own on the packed engine: every run is a lane, and all lanes of a shape train together.

    # my_net.py
    EXPERIMENT = PackedModule(model=make_model, data=load_data)

`make_model(width=64, depth=2)` returns a `torch.nn.Module`, `load_data(noise=0.0)` arrays; what they take are axes of
the grid, beside those of training. See docs/packing.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.display import Display
from raysweep.errors import PackError, SweepError
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.classifier_axes import AXES, BMD_METRICS, flip_flops
from raysweep.experiments.own_data import Examples, OwnData, own_data
from raysweep.generators import seeded
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.training.legs import legs

if TYPE_CHECKING:  # torch takes seconds to import
    from raysweep.models.module import Examined
    from raysweep.training.loss import Loss

__all__ = ["CHUNK", "LOSSES", "PackedModule", "bmd_flops_of", "tests_of", "times_of"]

LOSSES = ("cross_entropy", "square", "logistic")
_CLASSIFIER = {axis.name: axis for axis in AXES}
_TRAINING = (
    replace(_CLASSIFIER["n_train"], default=0, low=0, help="training items, nested by data_seed; 0: all"),
    replace(_CLASSIFIER["optimiser"], default="adamw"),
    replace(_CLASSIFIER["lr"], default=1e-3),
    *(_CLASSIFIER[n] for n in ("momentum", "beta1", "beta2", "eps", "weight_decay", "clip", "batch", "schedule")),
    *(_CLASSIFIER[n] for n in ("warmup", "decay")),
    replace(_CLASSIFIER["steps"], default=1000),
    replace(_CLASSIFIER["precision"], choices=("float32", "float64", "tf32"), help="of products"),
    *(_CLASSIFIER[n] for n in ("seed", "data_seed", "init_seed", "order_seed")),
    replace(_CLASSIFIER["bmd_points"], help=_CLASSIFIER["bmd_points"].help.replace("logits", "outputs")),
)
_BMD_METRICS = tuple(replace(m, help=m.help.replace("logits", "outputs")) for m in BMD_METRICS)
_LOSS_METRICS = {
    "cross_entropy": ("nats", "cross-entropy"),
    "square": ("", "mean squared error, over items and outputs"),
    "logistic": ("nats", "logistic loss"),
}
_DISPLAY = Display(
    labels={"n_train": "training items N", "steps": "training steps", "bmd": "Boolean mean dimension"},
    x="n_train",
    y="loss",
)
CHUNK = 256  # test items in a forward pass, at least
_MOMENTS = {"adamw": 2}  # optimiser numbers per parameter; 1 otherwise
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PackedModule:
    """An Experiment that trains a user's module on a user's data, all runs of one shape as one program.

    Args:
        model: Returns a new `torch.nn.Module` from [items, ...] to [items, outputs], by torch's own generator. Its
            parameters, each with a default that is a number, a word or true or false, are axes.
        data: Returns {"train": (x, y), "test": (x, y)}, and "select" where hyper-parameters are chosen, as numpy arrays
            or tensors; y holds classes from 0 (whole numbers) or real numbers. Its parameters are axes, too.
        loss: One of `LOSSES`: cross-entropy of classes, the square of real targets, or logistic of targets -1 and +1.
        name: Of the experiment, in stores; by default the names of model and data, and the loss unless cross-entropy.
        version: Another one makes all cells new.
    """

    model: Callable[..., Any]
    data: Callable[..., Any]
    loss: str = "cross_entropy"
    name: str = ""
    version: int = 1
    display: Display = _DISPLAY
    needs_world: bool = False

    def __post_init__(self) -> None:
        for what in ("model", "data"):
            if not callable(given := getattr(self, what)):
                raise SweepError(f"PackedModule: {what} must be a function, but got {type(given).__name__}")
            if not isinstance(given, Hashable):
                raise SweepError(
                    f"PackedModule: {what} must be hashable, but {type(given).__name__} is not. Use a function"
                )
        if self.loss not in LOSSES:
            raise SweepError(f"PackedModule: loss must be one of {', '.join(LOSSES)}, but got {self.loss!r}")
        if not self.name:
            # A store tells experiments apart by name, so it has all that sets one apart from another.
            names = [getattr(given, "__name__", "<nameless>") for given in (self.model, self.data)]
            if odd := [what for what, name in zip(("model", "data"), names, strict=True) if "<" in name]:
                raise SweepError(
                    f"PackedModule: name must be given where {' and '.join(odd)} has none, as a lambda or a partial, "
                    'since a store tells experiments apart by name. Pass name="..."'
                )
            losses = [] if self.loss == LOSSES[0] else [self.loss]
            object.__setattr__(self, "name", "-".join([*names, *losses]))

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """The loss, and the share of wrong classes, on test items and on those to choose by; the mean dimension."""
        unit, what = _LOSS_METRICS[self.loss]
        found = [Metric("loss", unit, f"{what}, on test items", "low")]
        if self.loss != "square":
            found.append(Metric("error_rate", "", "share of test items whose predicted class is wrong", "low"))
        other = "the same on the items `select`, to choose hyper-parameters by; null where there are none"
        return (*found, *(Metric(f"{m.name}_select", m.unit, other, "low") for m in found), *_BMD_METRICS)

    @cached_property
    def axes(self) -> Sequence[Axis]:
        """The axes of the model and of the data, and those of training."""
        found: dict[str, Axis] = {}
        for what in ("model", "data"):
            for axis in _parameters(getattr(self, what), what):
                if axis.name in {a.name for a in _TRAINING}:
                    raise SweepError(
                        f"PackedModule: {what} must not take an axis of training, but takes {axis.name!r}. Rename it"
                    )
                if found.setdefault(axis.name, axis) != axis:
                    raise SweepError(
                        f"PackedModule: model and data must agree on {axis.name!r}, but its defaults are "
                        f"{found[axis.name].default!r} and {axis.default!r}"
                    )
        return (*found.values(), *_TRAINING)

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Steps, the branches of the schedule, evaluations, and the memory of a lane."""
        shape, data, batch = self._examined(run), self._data(run), int(run["batch"])
        times = times_of(run, observed)
        done = trained = 0
        for leg in legs(str(run["schedule"]), times, float(run["decay"])):
            trained += leg.stop - done
            done = done if leg.decay else leg.stop
        wide = 8 if run["precision"] == "float64" else 4
        state = 2 + _MOMENTS.get(str(run["optimiser"]), 1)
        items = max(3 * batch, CHUNK)
        each = tests_of(data) * shape.forward_flops + bmd_flops_of(run, data, shape)
        return Cost(
            parameters=shape.parameters,
            flops=float(trained) * batch * (shape.forward_flops + shape.backward_flops),
            flops_eval=len(times) * each,
            bytes=float(wide) * (state * shape.parameters + shape.constants + items * shape.activations),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Check the data and the model of every shape, that data sets fit, the device of TF32 and the points of BMD."""
        if "tf32" in runs.values["precision"] and not gpus:
            raise SweepError(
                "grid.precision: tf32 must run on a GPU, but got (precision=tf32, resources.gpus=0). "
                "Ask for resources: {gpus: 1}, or use float32"
            )
        own = [axis.name for axis in self.axes if axis not in _TRAINING]
        for i in runs.examples([*own, "n_train"]):
            row = runs.row(i)
            pool = len(self._data(row).train.x)
            if int(row["n_train"]) > pool:
                raise SweepError(
                    f"grid.n_train: `n_train <= items of train` must hold, but got (n_train={row['n_train']}, "
                    f"items={pool}). Take less"
                )
        for i in runs.examples([*own, "bmd_points"]):
            row = runs.row(i)
            self._checked(row)
            points = int(row["bmd_points"])
            if points and self._data(row).whole:
                raise SweepError(
                    "grid.bmd_points: must be 0 where x of data holds whole numbers, such as tokens, but got "
                    f"(bmd_points={points}). Inputs are flipped between -1 and +1: leave it out, or give x as "
                    "floating-point numbers"
                )
            if points and (points < 4 or points % 2):
                raise SweepError(
                    f"grid.bmd_points: must be 0, or even and at least 4, but got (bmd_points={points}). 100 are usual"
                )

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Train the pack's lanes together; one batch of rows per time, one row per run."""
        from raysweep.experiments import packed_module_run

        row = pack.row(0)
        work = packed_module_run.Work(
            make=self._make(row), data=self._data(row), shape=self._checked(row), loss=self._loss(self._data(row)),
            metrics=[metric.name for metric in self.metrics],
        )  # fmt: skip
        yield from packed_module_run.trained(pack, context, work)

    def _given(self, run: Mapping[str, Value], what: str) -> dict[str, Any]:
        """What a run gives the function."""
        return {axis.name: run[axis.name] for axis in _parameters(getattr(self, what), what)}

    def _make(self, run: Mapping[str, Value]) -> Callable[[], Any]:
        return partial(self.model, **self._given(run, "model"))

    def _data(self, run: Mapping[str, Value]) -> OwnData:
        return _loaded(self.data, tuple(self._given(run, "data").items()))

    def _examined(self, run: Mapping[str, Value]) -> Examined:
        data = self._data(run)
        return _examined(self.model, tuple(self._given(run, "model").items()), data.examples)

    def _checked(self, run: Mapping[str, Value]) -> Examined:
        """The module's examination, once it fits the data."""
        data = self._data(run)
        self._loss(data)
        found = self._examined(run)
        wanted = data.classes or data.targets
        if found.outputs != wanted if data.real else found.outputs < max(2, wanted):
            raise SweepError(
                f"experiment {self.name}: model must return {'' if data.real else 'at least '}{wanted} numbers per "
                f"item, one per {'real target' if data.real else 'class'}, but got (outputs={found.outputs}, "
                f"{', '.join(f'{k}={v}' for k, v in self._given(run, 'model').items())})"
            )
        return found

    def _loss(self, data: OwnData) -> Loss:
        from raysweep.training.loss import CROSS_ENTROPY, LOGISTIC, SQUARE

        loss = dict(zip(LOSSES, (CROSS_ENTROPY, SQUARE, LOGISTIC), strict=True))[self.loss]
        if data.real != (self.loss != "cross_entropy"):
            raise SweepError(
                f"experiment {self.name}: loss {self.loss} needs "
                f"{'real targets' if data.classes else 'classes, which are whole numbers'}, but y of data holds "
                f"{'classes' if data.classes else 'floating-point numbers'}. Choose another loss, or convert y"
            )
        y = np.concatenate([part.y.ravel() for part in (data.train, data.test, data.select) if part is not None])
        if self.loss == "logistic" and not np.isin(y, (-1, 1)).all():
            other = y[~np.isin(y, (-1, 1))][0]
            raise SweepError(
                f"experiment {self.name}: loss logistic needs y of -1 and +1, but y of data holds {other:g}"
            )
        return loss


def _parameters(function: Callable[..., Any], what: str) -> list[Axis]:
    """An axis for every parameter of a function."""
    found = []
    for p in inspect.signature(function).parameters.values():
        named = p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)
        if not named or type(p.default) not in (bool, int, float, str):
            # Written with spaces, so that it does not look like a parameter of raysweep's own.
            shown = str(p) if p.default is p.empty else f"{p.name} = {p.default!r}"
            raise SweepError(
                f"PackedModule: every parameter of {what} is an axis and must have a name and a default that is a "
                f"number, a word, or true or false, but got `{shown}`. Give it another default, or leave it out"
            )
        found.append(Axis(p.name, type(p.default), "shape", p.default, help=f"of {what}"))
    return found


@lru_cache(maxsize=32)
def _loaded(data: Callable[..., Any], given: tuple[tuple[str, Any], ...]) -> OwnData:
    where = f"data function {getattr(data, '__name__', 'data')}"
    try:
        with seeded(0):  # what a function draws without a generator of its own is the same in every worker
            found = data(**dict(given))
    except Exception as error:
        raise SweepError(f"{where}: must return arrays, but raised {type(error).__name__}: {error}") from error
    return own_data(found, where)


@lru_cache(maxsize=4096)
def _examined(model: Callable[..., Any], given: tuple[tuple[str, Any], ...], examples: Examples) -> Examined:
    import torch

    from raysweep.models.module import examine

    try:
        return examine(partial(model, **dict(given)), torch.from_numpy(examples.array))
    except PackError as error:
        shown = ", ".join(f"{name}={value}" for name, value in given)
        raise SweepError(f"{error}{f' (at {shown})' if shown else ''}") from error


def times_of(run: Mapping[str, Value], observed: Observed) -> list[int]:
    """The steps at which a run is evaluated."""
    return [int(t) for t in observed.values("steps")] if "steps" in observed.names else [int(run["steps"])]


def tests_of(data: OwnData) -> int:
    """Items of an evaluation."""
    return len(data.test.x) + (0 if data.select is None else len(data.select.x))


def bmd_flops_of(run: Mapping[str, Value], data: OwnData, shape: Examined) -> float:
    """FLOPs of an evaluation's mean dimension; every flip is a forward pass."""
    return flip_flops(int(run["bmd_points"]), data.train.x.shape[1], shape.forward_flops, shape.forward_flops)
