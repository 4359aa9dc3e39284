"""Sources: any table as rows to be read lazily, and what a ledger says of its columns.

Nothing is read here but a schema. Files are scanned, so a fit reads only the columns it needs, a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from raysweep.errors import FitError, nearest
from raysweep.laws.forms import Array

__all__ = ["Column", "Source", "condition", "gather", "numbers", "require", "scan"]

_BLOCK = 1 << 17  # rows
_LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 24}  # of what a footer announces

Source: TypeAlias = "pl.DataFrame | pl.LazyFrame | pa.Table | str | Path"


@dataclass(frozen=True)
class Column:
    """What a ledger says about one of its columns; a field is empty where it says nothing.

    Attributes:
        role: `axis`, `metric` or `stamp`.
        kind: Of an axis: `shape`, `lane` or `observed`.
        axis_role: Of an axis: `seed` or `time`.
        better: Of a metric: `low` or `high`.
    """

    role: str = ""
    kind: str = ""
    axis_role: str = ""
    better: str = ""


def scan(data: Source) -> tuple[pl.LazyFrame, dict[str, Column]]:
    """The rows of `data`, not yet read, and what its columns are; a table without metadata has no `Column`.

    Raises:
        FitError: `data` is no table, or a file that does not exist or is not .csv, .csv.gz or .parquet.
    """
    if isinstance(data, (pl.DataFrame, pl.LazyFrame)):
        return data.lazy(), {}
    if isinstance(data, pa.Table):
        return pl.DataFrame(pl.from_arrow(data)).lazy(), _columns(data.schema)
    if not isinstance(data, (str, Path)):
        raise FitError(f"A table is a Polars frame, an Arrow table or a file, but got {type(data).__name__}.")
    path = Path(data)
    if not path.is_file():
        raise FitError(f"There is no table at {str(path)!r}. Pass a .csv, .csv.gz or .parquet file.")
    if not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise FitError(f"A table is a .csv, .csv.gz or .parquet file, but got {str(path)!r}.")
    try:
        if path.suffix == ".parquet":
            rows, columns = _parquet(path), _columns(pq.read_schema(path))
        else:
            # A column may hold integers for a million rows and then a fraction: look at all of it.
            rows, columns = pl.scan_csv(path, infer_schema_length=None), {}
        rows.collect_schema()
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
    ) as error:
        raise FitError(f"{path}: cannot be read as a table: {_first_line(error)}") from error
    return rows, columns


def _parquet(path: Path) -> pl.LazyFrame:
    """The rows of a Parquet file, a block at a time, by pyarrow: a damaged page makes Polars' own reader abort the
    process.
    """

    def blocks(
        columns: list[str] | None, kept: pl.Expr | None, most: int | None, size: int | None
    ) -> Iterator[pl.DataFrame]:
        with pq.ParquetFile(path, **_LIMITS) as file:
            for batch in file.iter_batches(size or _BLOCK, columns=columns):
                block = pl.DataFrame(pl.from_arrow(batch))
                block = block if most is None else block.head(most)
                most = None if most is None else most - block.height
                yield block if kept is None else block.filter(kept)
                if most == 0:
                    return

    with pq.ParquetFile(path, **_LIMITS) as file:
        schema = pl.DataFrame(pl.from_arrow(file.schema_arrow.empty_table())).schema
    return register_io_source(blocks, schema=schema)


def gather(rows: pl.LazyFrame) -> pl.DataFrame:
    """The rows, read a block at a time.

    Raises:
        FitError: The file behind them is damaged.
    """
    try:
        return rows.collect(engine="streaming")
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,  # of Rust: no Exception
        pa.ArrowException,
        OSError,
    ) as error:
        raise FitError(f"The table cannot be read: {_first_line(error)}. Repair or convert it.") from error


def condition(where: str, schema: pl.Schema) -> pl.Expr:
    """The Polars SQL condition `where` on rows of this schema.

    Raises:
        FitError: It is not valid SQL, names no column, or is neither true nor false.
    """
    try:
        expression = pl.sql_expr(where)
        for name in expression.meta.root_names():
            require(schema.names(), name)
        # On no rows at all: what does not compare, such as text with a number, is found before anything is read.
        (found,) = schema.to_frame().select(expression).dtypes
    except (pl.exceptions.PolarsError, FitError) as error:
        raise FitError(f"{where!r} is not a condition on this table's rows. {_first_line(error)}".rstrip()) from error
    if found not in (pl.Boolean, pl.Null):
        raise FitError(f'{where!r} is not a condition on this table\'s rows: it is {found}. Write e.g. "width >= 64".')
    return expression


def require(names: Iterable[str], name: str) -> None:
    """Raise a FitError unless `names` has `name`."""
    names = list(names)
    if name not in names:
        raise FitError(f"There is no column {name!r}. {nearest(name, names)}")


def numbers(frame: pl.DataFrame, name: str) -> Array:
    """The column `name` as floats, [rows], NaN for null."""
    return frame[name].cast(pl.Float64).to_numpy()


def _columns(schema: pa.Schema) -> dict[str, Column]:
    columns = {}
    for entry in schema:
        told = {key.decode(): value.decode() for key, value in (entry.metadata or {}).items()}
        if "role" in told:
            columns[entry.name] = Column(*(told.get(key, "") for key in ("role", "kind", "axis_role", "better")))
    return columns


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
