"""What an experiment is: the protocol, the metrics it declares, and the context it runs in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.display import Display
from raysweep.errors import SweepError, nearest
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.inside import Place

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Context",
    "Cost",
    "Dist",
    "DividedExperiment",
    "Experiment",
    "Items",
    "Keep",
    "Metric",
    "Outbox",
    "Sample",
    "Saved",
    "Share",
    "ShownExperiment",
    "TheoryExperiment",
    "World",
    "WorldShape",
    "display_of",
]


_MEASURED = ("flops", "flops_eval", "seconds")  # columns of numbers in every ledger


@dataclass(frozen=True)
class Metric:
    """One measured quantity: a column of the ledger.

    Attributes:
        deterministic: Whether equal runs give equal values. False for what measures the machine, such as a wall time:
            `testing.check_experiment` then does not compare its values.
    """

    name: str
    unit: str = ""
    help: str = ""
    better: Literal["low", "high", ""] = ""
    deterministic: bool = True


@dataclass(frozen=True)
class Cost:
    """The cost of one run. FLOPs count 2 per multiply-add.

    Attributes:
        parameters: Trainable scalars (N in scaling laws; all of them, embeddings and biases included).
        flops: Training, forward and backward, to the longest requested time. Where that is the only one, its row
            reports the same `flops`. A run that may stop earlier reports null instead: no plan knows its work.
        flops_eval: Snapshot evaluation.
        bytes: Device memory of one lane: parameters, gradients, optimiser state, activations.
    """

    parameters: float = 0.0
    flops: float = 0.0
    flops_eval: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Dist:
    """The data-parallel hooks that an executor lends to a train function; None in a Context means one device."""

    rank: int
    world_size: int
    wrap: Callable[[Any], Any]
    """Wraps a torch module so that gradients are averaged over ranks."""
    report: Callable[[Mapping[str, Any], Mapping[str, bytes] | None], None]
    """(metrics, files of a checkpoint or None); every rank calls it equally often."""
    resume: Mapping[str, bytes] | None = None
    """The files of the last checkpoint, after a restart."""


@dataclass(frozen=True)
class Share:
    """One worker's part in a pack that several workers train together: each takes its share of every batch.

    All workers hold the same parameters and take the same steps; only worker 0 yields rows and saves states.
    """

    rank: int
    workers: int
    add: Callable[[Tensor], None]
    """Replaces a tensor by its sum over the workers, in all of them; each of them calls it equally often."""

    def of(self, size: int) -> slice:
        """This worker's items of a batch of this size; shares differ by at most one item."""
        return slice(self.rank * size // self.workers, (self.rank + 1) * size // self.workers)


@dataclass(frozen=True)
class Saved:
    """Training state left by an earlier attempt at some runs.

    Attributes:
        data: A safetensors file.
        runs: Position in the file of each of the pack's runs.
        of: Number of runs in the file.
        stage: The run's training that it is a state of.
    """

    data: bytes
    runs: Sequence[int]
    of: int
    stage: int = 0


class Keep(Protocol):
    """A place where a pack's training state outlives its worker, lent by an executor. Only the loop can read the state.

    A run may train several times (rounds of queries, say). Its trainings are stages, numbered 0, 1, ... in the order in
    which they happen, and a state belongs to one of them. The stage's initial data is kept with it, so a resumed run
    continues inside the stage and does not train the earlier ones again: see `training.saved.Stage`. Rows from before
    a state are in the ledger when it is saved, and the resumed pack is asked only for the remaining cells; the first
    of those determines the latest useful stage.
    """

    @property
    def saved(self) -> Saved | None:
        """The state to resume from."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether the runs may be asked for later cells soon, so that the state at their end is saved, too."""
        ...

    def due(self, size: int) -> bool:
        """Whether to save a state of this size now."""
        ...

    def save(self, step: int, state: Callable[[dict[str, str]], bytes], stage: int = 0) -> None:
        """Save the state at a step of a stage; `state` makes a safetensors file with this metadata."""
        ...


@dataclass(frozen=True)
class Items:
    """Items with their targets, from any source: a data set, a teacher, a formula.

    An experiment whose source has no known posterior needs no World: it says `needs_world = False`, makes its Items in
    `run` as a function of the run's axes and seeds alone, and trains on `training.batches.Batches.over(items, ...)`.

    Attributes:
        x: [n, d].
        y: [n] integer classes, or [n, outputs] real numbers.
    """

    x: npt.NDArray[np.floating[Any]]
    y: npt.NDArray[np.int64] | npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sample(Items):
    """Items drawn from a world, each with its class's exact posterior.

    Attributes:
        x: [n, d] float32.
        y: [n] the class that generated each item.
        log_posterior: [n, classes] float64, exact at x as stored.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    log_posterior: npt.NDArray[np.float64]


class WorldShape(Protocol):
    """What a plan must know about a world that does not exist yet."""

    @property
    def classes(self) -> int: ...
    @property
    def dim(self) -> int: ...


class World(WorldShape, Protocol):
    """A data source whose posterior is known."""

    @property
    def sha(self) -> str: ...
    def sample(self, n: int, stream: str, temperature: float = 1.0) -> Sample:
        """n items of the named stream: the same items in every process; streams are independent."""
        ...

    def log_posterior(self, x: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float64]:
        """[n, classes] exact log p(k | x) of items x [n, dim]."""
        ...


class Outbox:
    """Rows in transit: an experiment adds them as they are measured, and whichever consumer comes first takes them out.

    So a row that was measured an hour before the next one need not wait for it. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._held: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def put(self, row: dict[str, Any]) -> None:
        """Add one row: `lane`, observed axes, metrics, and stamps that an experiment may set."""
        with self._lock:
            self._rows.append(row)

    def hold(self, row: dict[str, Any]) -> None:
        """Hold a row back until it is released or dropped."""
        with self._lock:
            self._held.append(row)

    def release(self) -> None:
        """Release the rows held back."""
        with self._lock:
            self._rows += self._held
            self._held = []

    def drop(self) -> None:
        """Drop the rows held back."""
        with self._lock:
            self._held = []

    def drain(self) -> list[pa.RecordBatch]:
        """All rows so far, in order, as one batch; none where there are none."""
        with self._lock:
            rows, self._rows = self._rows, []
        if not rows:
            return []
        names = dict.fromkeys(name for row in rows for name in row)
        return [pa.RecordBatch.from_pydict({name: [row.get(name) for row in rows] for name in names})]


@dataclass(frozen=True)
class Context:
    """The environment in which an experiment runs. Training code sees Ray only through this.

    Attributes:
        device: A torch device name.
        world: The data source with a known posterior, where the experiment needs one.
        keep: A place for training state, or None.
        share: This worker's part in a pack that several train together; None where it trains alone.
        outbox: A place for rows, as an alternative to yielding them.
        hold: Lends a run, by its key, a place of its own for its duration.
        interrupted: Whether an exception is the user's Ctrl-C rather than the run's own.
        on_error: Called with the exception that ended a run.
        enough: Asked between two runs of a user's function: whether to leave the rest of the pack to others.
    """

    device: str = "cpu"
    world: World | None = None
    keep: Keep | None = None
    share: Share | None = None
    outbox: Outbox = field(default_factory=Outbox)
    hold: Callable[[str], AbstractContextManager[Place]] | None = None
    interrupted: Callable[[BaseException], bool] = lambda error: False
    on_error: Callable[[BaseException], None] = lambda error: None
    enough: Callable[[], bool] = lambda: False


@runtime_checkable
class Experiment(Protocol):
    """Code that turns cells into measured rows.

    * `cost` is the cost of one run, to its longest time, in a world of this shape (None: no world): finite numbers, 0
      or more. It is a function of its arguments alone and reads the run's axes by name: it is called once for each
      combination of the values it reads.
    * `check` refuses runs whose axes do not make sense together, in this world or on these GPUs, by a SweepError.
    * `run` yields record batches with `lane` (int, the run's position in the pack), every observed axis and every
      metric, and may add `status`, `error`, `flops`, `flops_eval` per row. Raising fails the pack's cells that were not
      yielded. A row does not depend on which other cells are asked for: some may be finished already.

    `raysweep.testing.check_experiment` checks this, as far as a sweep shows it.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def axes(self) -> Sequence[Axis]: ...
    @property
    def metrics(self) -> Sequence[Metric]: ...
    @property
    def needs_world(self) -> bool: ...
    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost: ...
    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None: ...
    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]: ...


@runtime_checkable
class DividedExperiment(Experiment, Protocol):
    """An Experiment whose packs several workers can train together, by `Context.share`."""

    @property
    def divided(self) -> str:
        """The axis that the workers divide among them: a number of items. A worker's bytes are the cost of a run with
        its part of them."""
        ...


@runtime_checkable
class TheoryExperiment(Experiment, Protocol):
    """An Experiment with a theory of its metrics, which is computed when a store is read and never stored."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        """The expected metrics of each cell, from its axes alone.

        Args:
            cells: Every axis of the experiment except seeds, one row per cell; values are within the bounds of their
                axes.
            metrics: The metrics that will be used; others may be left out.

        Returns:
            As many rows, in the same order. A column named as a metric holds its expectation over seeds, null where
            there is none; the column `reason` then says why, and is null elsewhere.
        """
        ...


@runtime_checkable
class ShownExperiment(Experiment, Protocol):
    """An Experiment that declares how its columns are shown. For others, laws and learning curves are drawn."""

    @property
    def display(self) -> Display: ...


def display_of(experiment: Experiment) -> Display:
    """How an experiment is shown, with a label for every axis and metric that has a unit.

    Raises:
        SweepError: it is no Display, a field has another type or an unknown word, or it names a column that the
            experiment does not have.
    """
    columns = {axis.name: axis.unit for axis in experiment.axes} | {m.name: m.unit for m in experiment.metrics}
    named = {name: f"{name.replace('_', ' ')} ({unit})" for name, unit in columns.items() if unit and unit not in name}
    if not isinstance(experiment, ShownExperiment):
        return Display(labels=named)
    display: Any = experiment.display
    if not isinstance(display, Display):
        raise SweepError(f"experiment {experiment.name}: display must be a Display, but is {repr(display)[:200]}")
    try:
        checked = display.checked()
    except ValueError as error:
        raise SweepError(f"experiment {experiment.name}: display: {error}") from error
    known = {*columns, *_MEASURED}
    for name in (*checked.labels, *checked.numbers):
        if name not in known:
            raise SweepError(
                f"experiment {experiment.name}: display must name axes and metrics, but names {name!r}. "
                + nearest(name, known)
            )
    others = {axis.name: axis.type.__name__ for axis in experiment.axes if axis.type not in (int, float)}
    for name in checked.numbers:
        if name in others:
            raise SweepError(
                f"experiment {experiment.name}: display must draw and bound columns of numbers, but {name!r} is an "
                f"axis of {others[name]}. Name another column"
            )
    return replace(checked, labels={**named, **checked.labels})
