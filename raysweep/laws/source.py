"""Sources: any table as rows to be read lazily, and what a ledger says about its columns.

Nothing is read here but a schema. Files are scanned, so a fit reads only the columns it needs, a block at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import polars as pl
import pyarrow as pa

from raysweep.errors import FitError, nearest
from raysweep.grid.runs import KEY_LENGTH
from raysweep.laws.column import COLUMNS, Column, merged, of_schema, of_text
from raysweep.laws.definition import Array
from raysweep.laws.files import FORMS, UNREADABLE, tables
from raysweep.laws.jsonfile import first_line
from raysweep.laws.missing import as_numbers, first_word, numeric
from raysweep.laws.refusal import ColumnError, RequestError
from raysweep.ledger.rows import STAMPS

__all__ = ["Column", "Source", "condition", "gather", "numbers", "require", "scan", "selected"]

_MOST_TEXTS = 100  # tables that were concatenated, each with a text of its own


class PandasFrame(Protocol):
    """A pandas frame, without pandas."""

    columns: Any

    def to_dict(self) -> Any: ...


Source: TypeAlias = "pl.DataFrame | pl.LazyFrame | pa.Table | PandasFrame | str | Path | Sequence[str | Path]"


def scan(data: Source) -> tuple[pl.LazyFrame, dict[str, Column]]:
    """The rows of `data`, not yet read, and what its columns are; a table that says nothing has no `Column`.

    Several files, or the files of a pattern, are concatenated, with the file's name in the column `file`.

    Raises:
        FitError: `data` is not a table, or a file that does not exist or has an unsupported form.
    """
    columns: dict[str, Column] = {}
    if isinstance(data, (pl.DataFrame, pl.LazyFrame)):
        rows = data.lazy()
    elif isinstance(data, pa.Table):
        rows, columns = pl.DataFrame(pl.from_arrow(data)).lazy(), of_schema(data.schema)
    elif type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns") and hasattr(data, "to_dict"):
        rows = _from_pandas(data)
    elif isinstance(data, (str, Path, list, tuple)):
        rows, columns = tables(data)
    else:
        raise FitError(
            f"A table is a Polars or pandas frame, an Arrow table, {FORMS}, or a list of such files, but got "
            f"{type(data).__name__}. Pass one of these."
        )
    names = rows.collect_schema().names()
    if COLUMNS in names and not {"cell", "run"}.isdisjoint(names):
        said = _said(rows, 1 if columns else _MOST_TEXTS)
        if said:
            stamps = {name: Column("stamp") for name in STAMPS if name in names}  # the text leaves them out
            columns = columns or {**stamps, **{name: column for name, column in said.items() if name in names}}
            rows = rows.drop(COLUMNS)
            _refuse_lost(rows, said, names)
    return rows, columns


def _from_pandas(data: Any) -> pl.LazyFrame:
    try:
        return pl.DataFrame(pl.from_arrow(pa.Table.from_pandas(data))).lazy()
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise FitError(
            f"The pandas frame cannot be read as a table: {first_line(error)}. Give each column one type and one name."
        ) from error


def _said(rows: pl.LazyFrame, most: int) -> dict[str, Column]:
    """The descriptions in the column `columns`, from a limited number of texts; also of columns that are lost."""
    texts = pl.col(COLUMNS).cast(pl.String).drop_nulls()
    found = gather(rows.select(texts.head(1) if most == 1 else texts.unique().sort().head(most)))
    return merged(of_text(text) for text in found[COLUMNS])


def _refuse_lost(rows: pl.LazyFrame, said: Mapping[str, Column], names: Collection[str]) -> None:
    """Refuse a table without the axis that identifies its snapshots: each would count as a run of its own."""
    observed = [name for name, column in said.items() if column.kind == "observed"]
    if lost := [name for name in observed if name not in names]:
        run = pl.col("run") if "run" in names else pl.col("cell").cast(pl.String).str.head(KEY_LENGTH)
        kept = [pl.col(name) for name in observed if name in names]
        count, cells = gather(rows.select(pl.len(), pl.struct(run, *kept).n_unique().alias("cells"))).row(0)
        if cells < count:
            raise FitError(
                f"The table must have the observed axis {', '.join(lost)}, which its column `columns` names, but has "
                f"lost it: its {count:,} rows now belong to {cells:,} cells. Keep that column, or keep one row per run."
            )


def gather(rows: pl.LazyFrame) -> pl.DataFrame:
    """The rows, read a block at a time.

    Raises:
        FitError: The file behind them is damaged.
    """
    try:
        return rows.collect(engine="streaming")
    except UNREADABLE as error:
        raise FitError(f"The table cannot be read: {first_line(error)}. Repair or convert it.") from error


def condition(where: str, schema: pl.Schema) -> pl.Expr:
    """The Polars SQL condition `where` on rows of this schema.

    Raises:
        RequestError: It is not valid SQL, names no column, or is neither true nor false.
    """
    try:
        expression = pl.sql_expr(where)
        for name in expression.meta.root_names():
            require(schema.names(), name)
        # On no rows at all: what does not compare, such as text with a number, is found before anything is read.
        (found,) = schema.to_frame().select(expression).dtypes
    except (pl.exceptions.PolarsError, FitError) as error:
        raise RequestError(
            "where",
            f"{where!r} is not a condition on this table's rows. {first_line(error).rstrip('.')}. Write e.g. "
            '"width >= 64".',
        ) from error
    if found not in (pl.Boolean, pl.Null):
        raise RequestError(
            "where", f'{where!r} is not a condition on this table\'s rows: it is {found}. Write e.g. "width >= 64".'
        )
    return expression


def require(names: Iterable[str], name: str) -> None:
    """Raise a ColumnError unless `names` has `name`."""
    names = list(names)
    if name not in names:
        raise ColumnError(name, f"There is no column {name!r}. {nearest(name, names)}")


def selected(rows: pl.LazyFrame, where: str | None, names: Iterable[str], data: Source) -> pl.LazyFrame:
    """The rows that a condition keeps, with numbers in some columns.

    Text counts as numbers where its only words mark missing ones; the condition then sees numbers.

    Args:
        rows: Those of `data`.
        where: A Polars SQL condition; None keeps all.
        data: What to call the table in an error.

    Raises:
        FitError: The condition is invalid, or a column holds anything else; the first such value is named with its row
            and its file.
    """
    rows, words = _converted(rows, list(dict.fromkeys(names)))
    kept, chosen = rows, pl.lit(True)
    if where is not None:
        chosen = condition(where, rows.collect_schema())
        kept, words = _converted(rows.filter(chosen), words)
    if words:
        raise ColumnError(words[0], _first_word(rows, words[0], chosen, data))
    return kept


def _converted(rows: pl.LazyFrame, names: Sequence[str]) -> tuple[pl.LazyFrame, list[str]]:
    """The rows with numbers for text where that can be, and the columns where it cannot."""
    schema = rows.collect_schema()
    for name in names:
        if not (schema[name].is_numeric() or schema[name] in (pl.Null, pl.String)):
            raise ColumnError(
                name, f"Column {name!r} must hold numbers, but holds {schema[name]}. Name another column."
            )
    text = [name for name in names if schema[name] == pl.String]
    try:
        found = numeric(rows, text, least=0)
    except UNREADABLE as error:
        raise FitError(f"The table cannot be read: {first_line(error)}. Repair or convert it.") from error
    rows = rows.with_columns(as_numbers(name, kind) for name, kind in found.items())
    return rows, [name for name in text if name not in found]


def _first_word(rows: pl.LazyFrame, name: str, chosen: pl.Expr, data: Source) -> str:
    number, value = first_word(rows, name, chosen)
    place = "the table"
    if isinstance(data, (str, Path)) and Path(data).is_file():
        place = str(data)
    elif isinstance(data, (str, Path, list, tuple)):  # rows are counted from the start of the file that holds it
        file = pl.col("file")
        place = str(gather(rows.select(file.slice(number - 1, 1))).item())
        number, value = first_word(rows.filter(file == place), name, chosen)
    return (
        f"Column {name!r} must hold numbers, but row {number:,} of {place} holds {value[:80]!r}. Correct it, leave the "
        "row out, or name another column."
    )


def numbers(frame: pl.DataFrame, name: str) -> Array:
    """The column `name` as floats, [rows], NaN for null."""
    return frame[name].cast(pl.Float64).to_numpy()
