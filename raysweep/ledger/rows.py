"""Rows: the ledger's columns for an experiment, and how its results become rows.

A row is one measured cell. The experiment yields the columns only it knows (`lane`, observed axes, metrics); `stamp`
adds what the platform knows (keys, axes, pack, code, device, time) and casts to the ledger's schema.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.code import Code
from raysweep.errors import SweepError
from raysweep.experiment import Experiment
from raysweep.grid.axes import KindBy
from raysweep.grid.lineage import Lineage
from raysweep.grid.runs import Runs
from raysweep.grid.values import Json, canonical, column_values

__all__ = [
    "COLUMNS",
    "OTHERWISE",
    "RESERVED",
    "SCHEMA_VERSION",
    "STAMPS",
    "STATUSES",
    "Counts",
    "Stamp",
    "Status",
    "described_kind",
    "failure_rows",
    "row_schema",
    "stamp",
    "with_accepted",
    "with_description",
]

SCHEMA_VERSION = 1
STATUSES = ("ok", "diverged", "failed", "skipped")  # in order of precedence
Status = Literal["ok", "diverged", "failed", "skipped"]
COLUMNS = "columns"  # describes the columns in every row, for tools that drop a table's metadata
_ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), Json: pa.string()}

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
# Stamps that an experiment may set row by row.
_OWN = ("status", "error", "flops", "flops_eval", "seconds", "training_id")
_TAIL: tuple[tuple[str, pa.DataType, str], ...] = (
    ("flops", pa.float64(), "training to this snapshot: 2 per multiply-add, forward + backward"),
    ("flops_eval", pa.float64(), "evaluation to this snapshot"),
    ("seconds", pa.float64(), "the pack's wall time to this snapshot, divided by its lanes"),
    ("device", pa.string(), "where it ran"),
    ("finished_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
    ("experiment", pa.string(), "the experiment's name"),
    ("experiment_version", pa.int32(), "the experiment's version"),
    ("code_sha", pa.string(), "hash of the code that made it: local modules, and versions of installed packages"),
    ("git_commit", pa.string(), "the commit it was checked out at"),
    ("git_dirty", pa.bool_(), "whether that checkout had changes"),
    ("training_id", pa.string(), "which training of this run it was read off; one run keeps the rows of one training"),
)
STAMPS = {name: type_ for name, type_, _ in (*_STAMPS, *_TAIL)}
OTHERWISE = frozenset({"flops", "flops_eval"})  # stamps that a function may return
RESERVED = (frozenset(STAMPS) | {COLUMNS}) - OTHERWISE  # names that no axis or metric may have


@dataclass(frozen=True)
class Counts:
    """Cells by status."""

    ok: int = 0
    diverged: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, s) + getattr(other, s) for s in STATUSES))

    @property
    def total(self) -> int:
        return self.ok + self.diverged + self.failed + self.skipped


def row_schema(experiment: Experiment) -> pa.Schema:
    """The ledger's columns for an experiment, each with its unit, help and meaning as field metadata.

    Raises:
        SweepError: two columns share a name: an axis called `seconds`, say, as every ledger has that column.
    """
    fields = [pa.field(n, t, metadata={"role": "stamp", "help": h}) for n, t, h in _STAMPS]
    for axis in experiment.axes:
        meta = {"role": "axis", "axis_role": axis.role, "unit": axis.unit, "help": axis.help}
        meta |= described_kind(axis.kind) if isinstance(axis.kind, KindBy) else {"kind": axis.kind}
        if axis.default is not None and not isinstance(axis.default, Json):
            meta["default"] = str(axis.default)
        if axis.follows is not None:
            meta["follows"] = axis.follows
        fields.append(pa.field(axis.name, _ARROW[axis.type], metadata=meta))
    for metric in experiment.metrics:
        meta = {"role": "metric", "unit": metric.unit, "help": metric.help, "better": metric.better}
        fields.append(pa.field(metric.name, pa.float64(), metadata=meta))
    fields += [pa.field(n, t, metadata={"role": "stamp", "help": h}) for n, t, h in _TAIL]
    names = [f.name for f in fields]
    if twice := sorted({n for n in names if names.count(n) > 1 or n == COLUMNS}):
        what = "an axis" if twice[0] in {axis.name for axis in experiment.axes} else "a metric"
        taken = {*STAMPS, COLUMNS}
        rule = (
            f"{what} must not have the name of a column that every ledger has, but {twice[0]!r} is one. Choose a "
            f"name other than {', '.join(sorted(taken))}"
            if twice[0] in taken
            else f"axes and metrics must have distinct names, but {twice[0]!r} is declared twice"
        )
        raise SweepError(f"experiment {experiment.name}: {rule}")
    return pa.schema(fields, metadata={"raysweep.schema": str(SCHEMA_VERSION), "raysweep.experiment": experiment.name})


def described_kind(kind: KindBy) -> dict[str, str]:
    """The metadata of an axis whose kind another axis chooses; `laws.column` reads it."""
    rule = {"axis": kind.axis, "kinds": [[value, of] for value, of in kind.kinds.items()]}
    return {"kind": kind.otherwise, "kind_by": json.dumps(rule)}


def with_accepted(schema: pa.Schema, groups: Sequence[Collection[str]]) -> pa.Schema:
    """A schema that records which groups of hashes of code give equal results; `none` stands for rows without one."""
    if not groups or "code_sha" not in schema.names:
        return schema
    at = schema.get_field_index("code_sha")
    text = ";".join(sorted(",".join(sorted(group)) for group in groups))
    meta = {**(schema.field(at).metadata or {}), b"accepted": text.encode()}
    return schema.set(at, schema.field(at).with_metadata(meta))


def with_description(table: pa.Table) -> pa.Table:
    """A table of rows with the constant column `columns`: what its metadata says of axes and metrics, as JSON.

    Most tools drop the metadata of a table's columns but keep this column. It takes 4 bytes per row.
    """
    kept = ("role", "kind", "kind_by", "axis_role", "better", "free", "accepted")
    about: dict[str, dict[str, str]] = {}
    for column in table.schema:
        meta = {k.decode(): v.decode() for k, v in (column.metadata or {}).items()}
        if meta.get("role") in ("axis", "metric") or "accepted" in meta:
            about[column.name] = {key: meta[key] for key in kept if meta.get(key)}
    zeros = pa.array(np.zeros(len(table), dtype=np.int32))
    constant = pa.DictionaryArray.from_arrays(zeros, pa.array([json.dumps(about, sort_keys=True)]))
    return table.append_column(pa.field(COLUMNS, constant.type, metadata={"role": "stamp"}), constant)


@dataclass(frozen=True)
class Stamp:
    """The platform's values for every row of a pack."""

    pack: str
    attempt: int
    device: str
    world_sha: str | None = None
    seconds: float = 0.0
    role: str = "grid"
    experiment: str | None = None
    version: int | None = None
    code: Code = field(default_factory=Code)
    lineage: Lineage | None = None


def stamp(batch: pa.RecordBatch, runs: Runs, schema: pa.Schema, by: Stamp) -> pa.Table:
    """Complete an experiment's batch to ledger rows; rows of cells that were not requested are left out.

    Args:
        batch: Columns `lane`, observed axes, metrics; optionally `status`, `error`, `flops`, `flops_eval`,
            `training_id`, and `seconds`, the wall time of a single run.
        runs: The pack's runs; lane i is run i.
        schema: `row_schema(experiment)`.
        by: Values to stamp.

    Raises:
        SweepError: `lane` is missing or does not name a run of the pack, or an observed axis is missing.
    """
    given = set(batch.schema.names)
    lanes = _lanes(batch, len(runs))
    suffix = _suffixes(batch, lanes, runs)
    asked = np.array([s is not None for s in suffix], dtype=bool)
    if not asked.all():
        batch, lanes, suffix = batch.filter(pa.array(asked)), lanes[asked], suffix[asked]
    n = len(lanes)
    run_keys = pa.array([key.decode() for key in runs.keys[lanes].tolist()], pa.string())
    made: dict[str, Any] = {
        "cell": pc.binary_join_element_wise(run_keys, pa.array(suffix, pa.string()), ""),
        "run": run_keys,
        "pack": pa.repeat(by.pack, n),
        "status": pa.repeat("ok", n),
        "role": pa.repeat(by.role, n),
        **(_origin(by.lineage, runs, lanes) if by.lineage is not None else {}),
        "attempt": pa.repeat(pa.scalar(by.attempt, pa.int32()), n),
        "world_sha": pa.repeat(pa.scalar(by.world_sha, pa.string()), n),
        "seconds": pa.repeat(by.seconds / max(len(runs), 1), n),
        "device": pa.repeat(by.device, n),
        "finished_at": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), n),
        "experiment": pa.repeat(pa.scalar(by.experiment, pa.string()), n),
        "experiment_version": pa.repeat(pa.scalar(by.version, pa.int32()), n),
        "code_sha": pa.repeat(pa.scalar(by.code.sha or None, pa.string()), n),
        "git_commit": pa.repeat(pa.scalar(by.code.commit or None, pa.string()), n),
        "git_dirty": pa.repeat(pa.scalar(by.code.dirty, pa.bool_()), n),
    }
    for name, values in runs.values.items():
        type_ = schema.field(name).type
        plain = column_values(values, Json if type_ == pa.string() else float)
        made[name] = pa.array(plain, type_).take(pa.array(runs.codes[name][lanes]))
        if None in values and name in given:  # observed in some of these runs
            made[name] = pc.coalesce(made[name], pc.cast(batch.column(name), type_))
    for name in batch.schema.names:  # a user's function declares its metrics by returning them
        if name != "lane" and name not in schema.names:
            schema = schema.append(_free_metric(batch.schema.field(name)))
    columns = []
    for column in schema:
        own = column.name in given and (column.name not in made or column.name in _OWN)
        source = batch.column(column.name) if own else made.get(column.name)
        found = pa.nulls(n, column.type) if source is None else pc.cast(source, column.type)
        if own and column.name in made and found.null_count:
            found = pc.coalesce(found, pc.cast(made[column.name], column.type))
        columns.append(found)
    return pa.table(columns, schema=schema)


def _origin(lineage: Lineage, runs: Runs, lanes: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    """The role and parent of rows of these lanes."""
    parents = [key.decode() for key in lineage.parents(runs).tolist()]
    columns = {"role": lineage.roles(runs), "parent": parents}
    return {name: pa.array(column, pa.string()).take(pa.array(lanes)) for name, column in columns.items()}


def _lanes(batch: pa.RecordBatch, runs: int) -> npt.NDArray[np.int64]:
    """[rows] the run of each row. A negative number would count from the end, and give the row to another run."""
    at = batch.schema.get_field_index("lane")
    column = batch.column(at) if at >= 0 else None
    if column is not None and not len(column):
        return np.empty(0, dtype=np.int64)  # a list without values has no type
    if column is None or not pa.types.is_integer(column.type) or column.null_count:
        said = "yields none" if column is None else f"yields {column.type}{' with nulls' * bool(column.null_count)}"
        raise SweepError(
            f"an experiment must yield `lane`, a column of whole numbers without nulls, but {said}. Yield the position "
            "of each row's run in the pack"
        )
    lanes: npt.NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    beyond = lanes[(lanes < 0) | (lanes >= runs)]
    if len(beyond):
        raise SweepError(
            f"an experiment must yield `lane` from 0 to {runs - 1}, as its pack has {runs} runs, but yields "
            f"{beyond[0]}. Yield the position of each row's run in the pack"
        )
    return lanes


def _suffixes(batch: pa.RecordBatch, lanes: np.ndarray[Any, Any], runs: Runs) -> np.ndarray[Any, Any]:
    """[rows] the suffix that each row's cell key adds to its run's; None for a cell that was not requested."""
    suffix = np.full(len(lanes), None, dtype=object)
    codes = runs.observed_code[lanes]
    for code in np.unique(codes).tolist():
        observed = runs.observed[code]
        rows = np.flatnonzero(codes == code)
        names = tuple(name for name in observed.names if name in batch.schema.names)
        lacks = [name for name in observed.names if name not in names]
        if any(len(observed.values(name)) > 1 for name in lacks):
            raise SweepError(f"an experiment must yield every observed axis as a column, but {lacks} are missing")
        picked = batch.select(list(names)).take(pa.array(rows)) if names else None
        found = [list(map(canonical, c.to_pylist())) for c in picked.columns] if picked is not None else []
        wanted = observed.suffixes(names)
        suffix[rows] = [wanted.get(t) for t in (zip(*found, strict=True) if found else [()] * len(rows))]
    return suffix


def _free_metric(column: pa.Field) -> pa.Field:
    number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
    type_ = pa.float64() if number or pa.types.is_null(column.type) else pa.string()
    return pa.field(column.name, type_, metadata={"role": "metric", "better": "", "free": "1"})


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
