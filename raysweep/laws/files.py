"""Files as tables: CSV, JSON, JSON lines and Parquet, one or many, to be read lazily where the form allows it.

What they hold may come from anywhere. Nothing in a file is executed, and text is parsed up to a limit only.
"""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from raysweep.errors import FitError
from raysweep.laws.column import COLUMNS, Column, merged, of_schema
from raysweep.laws.jsonfile import first_line, read_json
from raysweep.laws.missing import as_numbers, numeric
from raysweep.ledger.rows import STAMPS

__all__ = ["FORMS", "UNREADABLE", "tables"]

FORMS = "a .csv, .json or .jsonl file (each also as .gz), or a .parquet file"
UNREADABLE = (  # what the reading of a damaged file raises
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,  # a panic of Rust, which is not an Exception
    pa.ArrowException,
    OSError,
    EOFError,
    zlib.error,
    UnicodeError,
)
_JSON = (".json", ".jsonl", ".ndjson")
# A ledger's columns of text.
_WORDS = {"experiment", "code_sha"} | {name for name, kind in STAMPS.items() if "string" in str(kind)}
_BLOCK = 1 << 17  # rows
_LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 24}  # on what a footer announces
_MOST_FILES = 10_000
_MOST_TEXT = 1 << 28  # bytes of JSON, once unpacked, of all files together


def tables(data: str | Path | Sequence[str | Path]) -> tuple[pl.LazyFrame, dict[str, Column]]:
    """The rows of one file, or of several concatenated with the column `file`, and what the columns are.

    Args:
        data: A path; a pattern such as `runs/*/result.json`; or several of either.

    Raises:
        FitError: There is no such file, it has another ending, or it cannot be read.
    """
    paths, several = _found(data)
    if not several:
        return _read(paths[0], _MOST_TEXT)[:2]
    parts, said, left = [], [], _MOST_TEXT
    for path, name in zip(paths, _names(paths), strict=True):
        rows, columns, size = _read(path, left)
        left -= size
        said.append(columns)
        own = "file" in rows.collect_schema()
        parts.append(rows if own else rows.with_columns(pl.lit(name).alias("file")))
    try:
        rows = pl.concat(parts, how="diagonal_relaxed")
        rows.collect_schema()
    except UNREADABLE as error:
        raise FitError(
            f"{len(paths)} files from {paths[0]} to {paths[-1]} cannot be concatenated: {first_line(error)}. "
            "Give their columns the same types."
        ) from error
    return rows, merged(said)


def _found(data: str | Path | Sequence[str | Path]) -> tuple[list[Path], bool]:
    """The files, each once, and whether several were asked for."""
    asked = [data] if isinstance(data, (str, Path)) else list(data)
    found: dict[str, Path] = {}
    several = not isinstance(data, (str, Path))
    for one in asked:
        if not isinstance(one, (str, Path)):
            raise FitError(f"A list of tables holds paths, but got {type(one).__name__}. Pass {FORMS}.")
        paths = [Path(one)]
        try:
            there = paths[0].is_file()
        except ValueError:  # a null character
            there = False
        if not there and glob.has_magic(str(one)):
            several = True
            paths = [Path(path) for path in sorted(glob.glob(str(one), recursive=True)) if os.path.isfile(path)]
            if not paths:
                raise FitError(f"No file matches the pattern {str(one)!r}. Pass {FORMS}, or a pattern of such.")
        elif not there and paths[0].is_dir():
            raise FitError(
                f"{str(one)!r} is a folder, not a table. Pass its files, such as '{one}/*.csv', or a store's "
                "cells.parquet."
            )
        elif not there:
            raise FitError(f"There is no table at {str(one)!r}. Pass {FORMS}.")
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    paths = list(found.values())
    if not paths:
        raise FitError(f"A list of tables must name at least one file, but is empty. Pass {FORMS}.")
    if len(paths) > _MOST_FILES:
        raise FitError(f"A fit reads at most {_MOST_FILES:,} files, but got {len(paths):,}. Put them together first.")
    for path in paths:
        if _ending(path) not in (".csv", ".parquet", *_JSON):
            raise FitError(f"A table is {FORMS}, but got {str(path)!r}. Name such a file.")
    return paths, several


def _ending(path: Path) -> str:
    """The ending that determines the form, without .gz; Parquet has its own compression."""
    name = path.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    return "" if name.endswith(".parquet.gz") else ending


def _names(paths: Sequence[Path]) -> list[str]:
    """Names that distinguish files: their paths from the innermost folder that holds all of them."""
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [Path(os.path.relpath(os.path.abspath(path), folder)).as_posix() for path in paths]


def _read(path: Path, most: int) -> tuple[pl.LazyFrame, dict[str, Column], int]:
    """Rows, what the columns are, and the bytes of JSON that were held for it."""
    try:
        if _ending(path) == ".parquet":
            (rows, columns), size = _parquet(path), 0
        elif _ending(path) == ".csv":
            rows, columns, size = _csv(path), {}, 0
        else:
            frame, size = read_json(path, most)
            rows, columns = _typed(frame.lazy()), {}
        rows.collect_schema()
    except UNREADABLE as error:
        raise FitError(f"{path}: cannot be read as a table: {first_line(error)}. Repair the file.") from error
    return rows, columns, size


def _parquet(path: Path) -> tuple[pl.LazyFrame, dict[str, Column]]:
    """The rows of a Parquet file, a block at a time, and what its metadata says of them; by pyarrow: a damaged page
    makes Polars' own reader abort the process.
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
        schema = file.schema_arrow
    kinds = pl.DataFrame(pl.from_arrow(schema.empty_table())).schema
    return register_io_source(blocks, schema=kinds), of_schema(schema)


def _csv(path: Path) -> pl.LazyFrame:
    # A column may hold integers for a million rows and then a fraction: look at all of it.
    rows = pl.scan_csv(path, infer_schema_length=None, glob=False)
    names = rows.collect_schema().names()
    if COLUMNS in names and ("cell" in names or "run" in names):  # a ledger's keys are words, also where all are digits
        words = {name: pl.String() for name in names if name in _WORDS}
        rows = pl.scan_csv(path, infer_schema_length=None, glob=False, schema_overrides=words)
        return _typed(rows, words)
    return _typed(rows)


def _typed(rows: pl.LazyFrame, words: Mapping[str, pl.DataType] | None = None) -> pl.LazyFrame:
    """The rows; columns of text that hold only numbers and words for missing ones become numbers, but not `words`."""
    kept = {COLUMNS, *(words or ())}
    text = [name for name, kind in rows.collect_schema().items() if kind == pl.String and name not in kept]
    return rows.with_columns(as_numbers(name, kind) for name, kind in numeric(rows, text).items())
