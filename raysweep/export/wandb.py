"""Export to Weights & Biases: one W&B run per run, in a project named after the sweep; online or offline.

`WANDB_MODE=offline` writes folders that `wandb sync` uploads later. A file in the run's own folder below --dest
remembers what was logged, so always export to the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from raysweep.errors import ExportError
from raysweep.export.records import Exported, Record, package

__all__ = ["write"]

_MEMORY = "raysweep.json"
_TIME = "step"


def write(records: Sequence[Record], sweep: str, dest: str | None) -> Exported:
    """Log every run that has something new.

    Raises:
        ExportError: wandb is not installed or not logged in, or the folder cannot be written.
    """
    wandb = package("wandb", "wandb")
    root = Path(dest or ".").expanduser()
    written = points = 0
    try:
        root.mkdir(parents=True, exist_ok=True)
        memory = _remembered(root)
        for record in records:
            before = memory.get(record.run, {"rows": "", "points": []})
            if before["rows"] == record.digest:
                continue
            there = {(name, step) for name, step in before["points"]}
            points += _write(wandb, root, sweep, record, there)
            written += 1
    except (OSError, wandb.Error) as error:
        raise ExportError(f"export: Weights & Biases refuses, or {root} cannot be written: {error}") from error
    return Exported(str(root / "wandb"), len(records), written, points)


def _remembered(root: Path) -> dict[str, Any]:
    """What was logged for each run, according to its newest folder."""
    found: dict[str, Any] = {}
    for file in sorted(root.glob(f"wandb/*run-*/files/{_MEMORY}")):
        try:
            memory = json.loads(file.read_text())
            found[str(memory["run"])] = {"rows": str(memory["rows"]), "points": list(memory["points"])}
        except (ValueError, KeyError, TypeError):
            continue  # an incomplete file: the run is logged again
    return found


def _write(wandb: Any, root: Path, sweep: str, record: Record, there: set[tuple[str, int]]) -> int:
    new = [p for p in record.points if (p.name, p.step) not in there]
    config = {**record.params, **record.tags, "raysweep.run": record.run, "raysweep.status": record.status}
    run = wandb.init(
        project=sweep, id=record.run, name=record.run, resume="allow", dir=str(root), config=config,
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        reinit="finish_previous", allow_val_change=True,
    )  # fmt: skip
    run.define_metric("*", step_metric=_TIME)  # W&B's own step can only increase
    for step, group in groupby(new, key=lambda p: p.step):
        run.log({_TIME: step, **{p.name: p.value for p in group}})
    if record.reason:
        run.summary["raysweep.reason"] = record.reason
    memory = {"run": record.run, "rows": record.digest, "points": [(p.name, p.step) for p in record.points]}
    (Path(run.dir) / _MEMORY).write_text(json.dumps(memory))
    run.finish(exit_code=1 if record.status == "failed" else 0)
    return len(new)
