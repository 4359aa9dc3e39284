"""Export of a store to an experiment tracker: TensorBoard, MLflow or Weights & Biases, fed from the ledger.

The ledger stays the truth and knows nothing of exports. The destination remembers what was exported, by run key, so
exporting again, while a sweep runs or afterwards, adds only what is new.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from raysweep.errors import ExportError, nearest
from raysweep.export.records import Exported, read_records
from raysweep.store import Store

__all__ = ["TRACKERS", "Exported", "export"]

TRACKERS = ("tensorboard", "mlflow", "wandb")


def export(store: Store, to: str, dest: str | None = None, metrics: Sequence[str] = ()) -> Exported:
    """Write every run of a store to a tracker: one run there for one run here.

    Args:
        store: Store of a sweep that runs or has run.
        to: One of `TRACKERS`.
        dest: A folder (tensorboard, wandb) or a tracking URI (mlflow). By default `tensorboard/<sweep>` for
            TensorBoard, `.` for W&B, and MLflow's own setting.
        metrics: Columns to export; all of them by default.

    Raises:
        ExportError: an unknown tracker or metric, a package that is not installed, a destination that refuses.
        LedgerError: `store` is not a store, or holds no rows.
    """
    if to not in TRACKERS:
        raise ExportError(f"export: --to must be one of {', '.join(TRACKERS)}, but got {to!r}. {nearest(to, TRACKERS)}")
    tracker = importlib.import_module(f"raysweep.export.{to}")
    sweep, records = read_records(store, metrics)
    exported: Exported = tracker.write(records, sweep, dest)
    return exported
