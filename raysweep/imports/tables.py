"""Any table as a study: each row is a trial; where an axis is observed, rows of equal parameters are one history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raysweep.errors import StudyError
from raysweep.imports.trial import Study, Trial
from raysweep.laws.source import gather, scan

__all__ = ["read_tables", "rows_of"]

_MOST_ROWS = 2_000_000


def rows_of(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one file, or of several concatenated, without empty values.

    Raises:
        FitError: a file is no table.
        StudyError: there are too many rows, or none.
    """
    rows, _ = scan(paths[0] if len(paths) == 1 else list(paths))
    frame = gather(rows.head(_MOST_ROWS + 1))
    if frame.height > _MOST_ROWS:
        raise StudyError(f"{paths[0]}: at most {_MOST_ROWS:,} rows can be imported at once, but there are more")
    if not frame.height:
        raise StudyError(f"{paths[0]}: must hold rows, but holds none")
    return [{name: value for name, value in row.items() if value is not None} for row in frame.to_dicts()]


def read_tables(paths: Sequence[str]) -> Study:
    """A study from a table: CSV, JSON, JSON lines or Parquet.

    Raises:
        RaysweepError: as `rows_of`.
    """
    name = Path(paths[0]).name
    trials = []
    for number, row in enumerate(rows_of(paths), 1):
        place = f"{row['file']}:{number}" if len(paths) > 1 and "file" in row else f"{name}:{number}"
        trials.append(Trial(place, {}, (row,), row))
    return Study("csv", Path(paths[0]).name.split(".")[0], tuple(trials), table=True)
