"""What an experiment is: the protocol, the metrics it declares, the context it runs in, and the row schema.

A row is one measured cell. The experiment yields the columns only it knows (`lane`, observed axes, metrics);
`stamp` adds what the platform knows (keys, axes, pack, device, time) and casts to the ledger's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.axes import Axis, Value, canonical
from raysweep.errors import SweepError
from raysweep.runs import Observed, Runs

__all__ = [
    "RESERVED",
    "SCHEMA_VERSION",
    "STAMPS",
    "Context",
    "Cost",
    "Dist",
    "Experiment",
    "Keep",
    "Metric",
    "Sample",
    "Saved",
    "Stamp",
    "TheoryExperiment",
    "World",
    "WorldShape",
    "failure_rows",
    "row_schema",
    "stamp",
]

SCHEMA_VERSION = 1
Status = Literal["ok", "diverged", "failed", "skipped"]
_ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True)
class Metric:
    """One measured quantity: a column of the ledger."""

    name: str
    unit: str = ""
    help: str = ""
    better: Literal["low", "high", ""] = ""


@dataclass(frozen=True)
class Cost:
    """What one run takes. FLOPs count 2 per multiply-add.

    Attributes:
        parameters: Trainable scalars (N in scaling laws; all of them, embeddings and biases included).
        flops: Training, forward and backward, to the longest time asked for.
        flops_eval: Snapshot evaluation.
        bytes: Device memory of one lane: parameters, gradients, optimiser state, activations.
    """

    parameters: float = 0.0
    flops: float = 0.0
    flops_eval: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Dist:
    """The data-parallel hooks an executor lends to a train function; None in a Context means one device."""

    rank: int
    world_size: int
    wrap: Callable[[Any], Any]
    """Wraps a torch module so that gradients are averaged over ranks."""
    report: Callable[[Mapping[str, Any], Mapping[str, bytes] | None], None]
    """(metrics, files of a checkpoint or None); every rank calls it equally often."""
    resume: Mapping[str, bytes] | None = None
    """The files of the last checkpoint, after a restart."""


@dataclass(frozen=True)
class Saved:
    """Training state that an earlier try of some runs left.

    Attributes:
        data: A safetensors file.
        runs: Position in the file of each of the pack's runs.
        of: How many runs the file holds.
    """

    data: bytes
    runs: Sequence[int]
    of: int


class Keep(Protocol):
    """Where a pack's training state outlives its worker; lent by an executor. Only the loop knows what the state is."""

    @property
    def saved(self) -> Saved | None:
        """What to go on from."""
        ...

    def due(self, size: int) -> bool:
        """Whether to save a state of so many bytes now."""
        ...

    def save(self, step: int, state: Callable[[dict[str, str]], bytes]) -> None:
        """Save the state at a step; `state` makes a safetensors file with this metadata."""
        ...


@dataclass(frozen=True)
class Sample:
    """Labelled items drawn from a world.

    Attributes:
        x: [n, d] float32.
        y: [n] the class that generated each item.
        log_posterior: [n, classes] float64, exact at x as stored.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    log_posterior: npt.NDArray[np.float64]


class WorldShape(Protocol):
    """What a plan needs to know of a world that is not made yet."""

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


@dataclass(frozen=True)
class Context:
    """Where and with what an experiment runs. Training code sees Ray only through this.

    Attributes:
        device: A torch device name.
        world: The data source with a known posterior, where the experiment needs one.
        threads: CPU threads this pack may use.
        dist: Data-parallel hooks, or None on a single device.
        keep: Where training state may be kept, or None.
    """

    device: str = "cpu"
    world: World | None = None
    threads: int = 1
    dist: Dist | None = None
    keep: Keep | None = None


@runtime_checkable
class Experiment(Protocol):
    """Code that turns cells into measured rows.

    * `cost` is what one run takes, to its longest time, in a world of this shape (None: no world).
    * `check` refuses runs whose axes do not make sense together, in this world or on these GPUs, by a SweepError.
    * `run` yields record batches with `lane` (int), every observed axis and every metric, and may add `status`,
      `error`, `flops`, `flops_eval` per row. Raising fails the pack's cells that were not yielded.
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
class TheoryExperiment(Experiment, Protocol):
    """An Experiment with a theory of its metrics, which is computed when a store is read and never stored."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        """What is expected of each cell, from its axes alone.

        Args:
            cells: Every axis of the experiment but seeds, a row a cell; values are within the bounds of their axes.
            metrics: What will be looked at; others may be left out.

        Returns:
            As many rows, in the same order. A column named as a metric holds its expectation over seeds, null where
            there is none; the column `reason` then says why, and is null elsewhere.
        """
        ...


_STAMPS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("cell", pa.string(), "key of the cell: its run's key, plus a suffix for observed values"),
    ("run", pa.string(), "key of the training this cell was read off"),
    ("pack", pa.string(), "the program that trained it"),
    ("lane", pa.int32(), "the run's slot in the pack"),
    ("status", pa.string(), "ok | diverged | failed | skipped"),
    ("role", pa.string(), "grid | candidate | selected | replicate"),
    ("parent", pa.string(), "the cell this one was derived from"),
    ("error", pa.string(), "why it is not ok"),
    ("attempt", pa.int32(), "1 for the first try"),
    ("world_sha", pa.string(), "hash of the world's weights"),
)
_OWN = ("status", "error", "flops", "flops_eval")  # stamps that an experiment may set row by row
_TAIL: tuple[tuple[str, pa.DataType, str], ...] = (
    ("flops", pa.float64(), "training to this snapshot: 2 per multiply-add, forward + backward"),
    ("flops_eval", pa.float64(), "evaluation to this snapshot"),
    ("seconds", pa.float64(), "the pack's wall time to this snapshot, divided by its lanes"),
    ("device", pa.string(), "where it ran"),
    ("finished_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
)
STAMPS = {name: type_ for name, type_, _ in (*_STAMPS, *_TAIL)}
RESERVED = frozenset(n for n, *_ in (*_STAMPS, *_TAIL)) - {"flops", "flops_eval"}  # names no axis or metric may have


def row_schema(experiment: Experiment) -> pa.Schema:
    """The ledger's columns for an experiment, each with its unit, help and meaning as field metadata.

    Raises:
        SweepError: two columns share a name, e.g. an axis called `seconds`.
    """
    fields = [pa.field(n, t, metadata={"role": "stamp", "help": h}) for n, t, h in _STAMPS]
    for axis in experiment.axes:
        meta = {"role": "axis", "axis_role": axis.role, "unit": axis.unit, "help": axis.help}
        meta["kind"] = axis.kind if isinstance(axis.kind, str) else axis.kind.otherwise
        if axis.default is not None:
            meta["default"] = str(axis.default)
        if axis.follows is not None:
            meta["follows"] = axis.follows
        fields.append(pa.field(axis.name, _ARROW[axis.type], metadata=meta))
    for metric in experiment.metrics:
        meta = {"role": "metric", "unit": metric.unit, "help": metric.help, "better": metric.better}
        fields.append(pa.field(metric.name, pa.float64(), metadata=meta))
    fields += [pa.field(n, t, metadata={"role": "stamp", "help": h}) for n, t, h in _TAIL]
    names = [f.name for f in fields]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SweepError(f"experiment {experiment.name}: columns must have distinct names, but got {twice} twice")
    return pa.schema(fields, metadata={"raysweep.schema": str(SCHEMA_VERSION), "raysweep.experiment": experiment.name})


@dataclass(frozen=True)
class Stamp:
    """What the platform knows about every row of a pack."""

    pack: str
    attempt: int
    device: str
    world_sha: str | None = None
    seconds: float = 0.0
    role: str = "grid"


def stamp(batch: pa.RecordBatch, runs: Runs, schema: pa.Schema, by: Stamp) -> pa.Table:
    """Complete an experiment's batch to ledger rows; rows of cells that nobody asked for are left out.

    Args:
        batch: Columns `lane`, observed axes, metrics; optionally `status`, `error`, `flops`, `flops_eval`.
        runs: The pack's runs; lane i is run i.
        schema: `row_schema(experiment)`.
        by: What to stamp.
    """
    given = set(batch.schema.names)
    lanes = batch.column("lane").to_numpy(zero_copy_only=False).astype(np.int64)
    n = len(lanes)
    suffix = np.full(n, None, dtype=object)
    for code in np.unique(runs.observed_code[lanes]).tolist():
        observed = runs.observed[code]
        rows = np.flatnonzero(runs.observed_code[lanes] == code)
        names = [name for name in observed.names if name in given]
        if len(names) < len(observed.names) and len(observed.cells) > 1:
            lacks = [name for name in observed.names if name not in given]
            if any(len(observed.values(name)) > 1 for name in lacks):
                raise SweepError(f"an experiment must yield every observed axis as a column, but {lacks} are missing")
        wanted = {tuple(v for n_, v in zip(observed.names, values, strict=True) if n_ in given): s
                  for s, values in observed.cells.items()}  # fmt: skip
        picked = batch.select(names).take(pa.array(rows)) if names else None
        found = [list(map(canonical, c.to_pylist())) for c in picked.columns] if picked is not None else []
        tuples = zip(*found, strict=True) if found else [()] * len(rows)
        suffix[rows] = [wanted.get(t) for t in tuples]
    asked = np.array([s is not None for s in suffix], dtype=bool)
    batch = batch.filter(pa.array(asked))
    lanes, suffix = lanes[asked], suffix[asked]
    n = len(lanes)
    run_keys = pa.array([k.decode() for k in runs.keys.tolist()]).take(pa.array(lanes))
    made: dict[str, Any] = {
        "cell": pc.binary_join_element_wise(run_keys, pa.array(suffix, pa.string()), ""),
        "run": run_keys,
        "pack": pa.repeat(by.pack, n),
        "status": pa.repeat("ok", n),
        "role": pa.repeat(by.role, n),
        "attempt": pa.repeat(pa.scalar(by.attempt, pa.int32()), n),
        "world_sha": pa.repeat(pa.scalar(by.world_sha, pa.string()), n),
        "seconds": pa.repeat(by.seconds / max(len(runs), 1), n),
        "device": pa.repeat(by.device, n),
        "finished_at": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), n),
    }
    for name, values in runs.values.items():
        type_ = schema.field(name).type
        made[name] = pa.array(values, type_).take(pa.array(runs.codes[name][lanes]))
        if None in values and name in given:  # observed in some of these runs
            made[name] = pc.coalesce(made[name], pc.cast(batch.column(name), type_))
    for name in (
        n for n in batch.schema.names if n not in {"lane", *schema.names}
    ):  # a user's function declares its metrics by returning them
        schema = schema.append(_free_metric(batch.schema.field(name)))
    columns = []
    for column in schema:
        own = column.name in given and (column.name not in made or column.name in _OWN)
        source = batch.column(column.name) if own else made.get(column.name)
        columns.append(pa.nulls(n, column.type) if source is None else pc.cast(source, column.type))
    return pa.table(columns, schema=schema)


def _free_metric(column: pa.Field) -> pa.Field:
    number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
    return pa.field(column.name, pa.float64() if number else pa.string(), metadata={"role": "metric", "better": ""})


def failure_rows(runs: Runs, schema: pa.Schema, by: Stamp, status: Status, reason: str) -> pa.Table:
    """One row per cell of these runs, with a status other than ok and the reason."""
    tables = []
    for code in np.unique(runs.observed_code).tolist():
        observed = runs.observed[code]
        lanes = np.flatnonzero(runs.observed_code == code)
        cells = list(observed.cells.values())
        columns: dict[str, Any] = {"lane": pa.array(np.repeat(lanes, len(cells)), pa.int32())}
        for i, name in enumerate(observed.names):
            values = pa.array([c[i] for c in cells], schema.field(name).type)
            columns[name] = values.take(pa.array(np.tile(np.arange(len(cells)), len(lanes))))
        total = len(cells) * len(lanes)
        columns["status"] = pa.repeat(status, total)
        columns["error"] = pa.repeat(reason, total)
        tables.append(stamp(pa.RecordBatch.from_pydict(columns), runs, schema, by))
    return pa.concat_tables(tables)
