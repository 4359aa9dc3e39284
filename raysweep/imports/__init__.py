"""Finished results of other tools as rows of a store: an old study can be fitted, and extended by a sweep.

One module per format reads trials (`trial.py`), which are matched to a sweep's axes by name and become rows under the
keys that a run would give them. Nothing that is read is executed, and no pickle is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raysweep.errors import StudyError
from raysweep.imports.files import plural
from raysweep.imports.matching import Wanted
from raysweep.imports.rows import make_rows, metrics_of, news
from raysweep.imports.target import of_sweep, own_sweep
from raysweep.imports.trial import Study
from raysweep.ledger.columns import unite
from raysweep.ledger.log import sequence
from raysweep.ledger.remaining import among
from raysweep.progress import Progress
from raysweep.run import open_store
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.current import current, ledger_of, left_out
from raysweep.sweep.provenance import ask

__all__ = ["TOOLS", "Imported", "Wanted", "bring", "read_study"]

_CODE = (
    "Imported rows do not say which code made them: fits keep them apart from rows that are run later, until `raysweep "
    "run --accept-code` says that the results are the same."
)
TOOLS = ("csv", "tune", "wandb", "optuna")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        tool, study: Where the results are from.
        sweep: The name of the sweep that they are rows of.
        trials: Number of trials that were read and had ended.
        cells: Number of rows by status.
        added: Number of rows that the store did not have.
        others: Number of rows that are no cells of the sweep's grid.
        pending: Number of cells of the grid that have no row.
        notes: What the user should know, one sentence each.
    """

    tool: str
    study: str
    sweep: str
    trials: int
    cells: dict[str, int]
    added: int
    others: int
    pending: int
    notes: tuple[str, ...]


def read_study(tool: str, paths: Sequence[str], study: str | None = None) -> Study:
    """The trials of another tool's results.

    Args:
        tool: One of `TOOLS`.
        paths: A file or folder; for tables, several are allowed.
        study: The study's name, where an Optuna storage holds several.

    Raises:
        RaysweepError: there is nothing of the kind at the path, or it is damaged.
    """
    from raysweep.imports.optuna import read_optuna
    from raysweep.imports.tables import read_tables
    from raysweep.imports.tune import read_tune
    from raysweep.imports.wandb import read_wandb

    if tool not in TOOLS:
        raise StudyError(f"--from must be one of {', '.join(TOOLS)}, but got {tool!r}")
    if study is not None and tool != "optuna":
        raise StudyError(f"--study names a study of an Optuna storage, but --from is {tool}")
    if tool == "csv":
        return read_tables(paths)
    if len(paths) != 1:
        raise StudyError(f"--from {tool} takes one path, but got {len(paths)}")
    path = Path(paths[0])
    if "\0" in paths[0] or not path.exists():
        raise StudyError(f"{paths[0]}: must be results of {tool}, but there is no such file or folder")
    if tool == "optuna":
        return read_optuna(path, study)
    return read_tune(path) if tool == "tune" else read_wandb(path)


def bring(store: Store, study: Study, wanted: Wanted, sweep: Sweep | None, progress: Progress) -> Imported:
    """Add a study's trials to a store. Everything is read and checked before anything is written.

    Args:
        store: Created if missing.
        study: What `read_study` returned.
        wanted: How its names are interpreted.
        sweep: The sweep that the results belong to; None makes one from the trials themselves.
        progress: Shows the messages of opening the store.

    Raises:
        RaysweepError: the trials do not match the sweep, or the store cannot be written.
    """
    if not study.trials:
        raise StudyError(f"{study.name}: must hold trials that have ended, but holds none")
    notes = list(study.notes)
    if sweep is None:
        sweep, trials = own_sweep(store, study, wanted, notes)
    else:
        trials = of_sweep(study, wanted, sweep, notes)
        notes.append(_CODE)
    metrics = metrics_of(study, trials, sweep, wanted)
    tables, empty = make_rows(study, trials, sweep, metrics, wanted)
    if not tables:
        raise StudyError(
            f"{study.name}: must hold a result of a trial, but no trial has {', '.join(metrics.watched) or 'any'}"
        )
    if empty:
        notes.append(f"{plural(empty, 'trial')} without a result: left out.")
    together = unite((str(i), table.schema, len(table)) for i, table in enumerate(tables))
    rows = pa.concat_tables([together.conform(table) for table in tables])
    ask(store, sweep)
    ledger = ledger_of(store, sweep.runs, dict(sweep.axes), sweep.identity)
    new = news(rows, ledger.scan(["training_id"]))
    open_store(store, sweep, progress)
    if len(new):
        ledger.append(new, next(sequence()))
    scan = ledger.compact(lambda cells: among(sweep.runs, cells))
    mine = among(sweep.runs, rows.column("cell"))
    counts = {v["values"]: v["counts"] for v in rows.column("status").value_counts().to_pylist()}
    return Imported(
        study.tool,
        study.name,
        sweep.name,
        len(study.trials),
        counts,
        len(new),
        int((~mine).sum()),
        scan.pending(sweep.runs).cells,
        (*notes, *left_out(current(store), scan)),
    )
