"""What a store holds: done, failed and pending cells, causes of failure, drivers at work; and `doctor`."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.causes import alike, cause, common
from raysweep.claims import drivers
from raysweep.cost import host_memory
from raysweep.current import Current, current, split
from raysweep.errors import LedgerError, RaysweepError, plain
from raysweep.ledger import Ledger, Scan
from raysweep.oracle.recipe import stored_audits
from raysweep.rows import STATUSES
from raysweep.runs import Runs
from raysweep.store import TEMPORARY, Store
from raysweep.sweep import stored_sweep

__all__ = ["Seen", "doctor", "failures", "status"]

_COLUMNS = ("error", "seconds", "finished_at", "experiment", "experiment_version")
_WINDOWS = (600.0, 3600.0, 86400.0)  # seconds that "of late" may mean: the first with something in it


@dataclass
class Seen:
    """What an earlier look at the same store has read and need not read again."""

    parts: dict[str, pa.Table] = field(default_factory=dict)
    sweep: str = ""
    current: Current | None = None


def status(store: Store, seen: Seen | None = None) -> dict[str, Any]:
    """Counts, pace, failures by cause, drivers at work, worlds and unreadable files, as plain data.

    Works while a sweep runs, from anywhere that sees the store, also where its experiment cannot be imported. Ages
    are by the store's own clock, whatever the clocks of workers and of this host say.

    Args:
        seen: Of the last look, when looking again and again.

    Raises:
        LedgerError: it is not a store, cannot be reached, or its files are damaged.
    """
    seen = Seen() if seen is None else seen
    file, name = stored_sweep(store)
    now, clock = _now(store)
    at_work = drivers(store, now)  # before the ledger: what a driver that is gone by now has made is read below
    if seen.current is None or seen.sweep != name:
        seen.sweep, seen.current = name, current(store)
    scan, left_out = split(seen.current, seen.current.ledger.scan(_COLUMNS, known=seen.parts))
    counts = dict.fromkeys(STATUSES, 0)
    if scan.parts:
        counts |= {v["values"]: v["counts"] for v in pc.value_counts(scan.table.column("status")).to_pylist()}
    found: dict[str, Any] = {
        "store": store.uri,
        "sweep": file.name,
        "cells": counts,
        **_grid(store, scan, seen.current.runs),
        "left_out": left_out,
        "pace": None,
        "failures": _failures(scan.table) if scan.parts else [],
        "parts": scan.parts,
        "unreadable": [{"file": name, "reason": reason} for name, reason in scan.skipped],
        "drivers": at_work,
        "worlds": _worlds(store),
        "clock": clock,
    }
    if scan.parts:
        found["pace"] = _pace(scan, now, found["pending"])
        if "finished_at" in scan.table.schema.names:
            last = pc.max(scan.table.column("finished_at")).as_py()
            found["last_row_at"] = last.isoformat() if last else None
    return found


def _now(store: Store) -> tuple[float, str]:
    """The time in seconds, by the store's clock where it has one and may be written to; and whose clock it is."""
    probe = f"{TEMPORARY}clock-{secrets.token_hex(6)}"  # a name that no listing shows
    try:
        store.write(probe, b"", patience=0.0)
        made = store.fs.get_file_info(store.path(probe)).mtime_ns
        store.delete(probe)
    except (LedgerError, OSError):
        made = None
    return (made / 1e9, "store") if made else (time.time(), "this host")


def _grid(store: Store, scan: Scan, runs: Runs | None) -> dict[str, Any]:
    """Cells of the sweep last run, and how many of them are pending; None where that cannot be told from here."""
    cells = scan.cells("ok", "diverged", "skipped")
    if runs is not None:
        pending = scan.pending(runs).cells
        return {"total": runs.cells, "runs": len(runs), "pending": pending, "done": runs.cells - pending}
    total = store.read_json("env.json").get("cells")
    if not isinstance(total, int) or len(store.list("sweeps")) != 1:  # the ledger may hold other grids' cells
        return {"total": None, "runs": None, "pending": None, "done": None}
    return {"total": total, "runs": None, "pending": max(0, total - len(cells)), "done": len(cells)}


def _pace(scan: Scan, now: float, pending: int | None) -> dict[str, Any]:
    """Throughput of late and the time the rest will take at it, from when rows came to the store."""
    table, landed = scan.table, scan.landed
    busy = None
    if "seconds" in table.schema.names:
        of_runs = table.select(["run", "seconds"]).group_by("run").aggregate([("seconds", "max")])
        busy = pc.sum(of_runs.column("seconds_max")).as_py()
    pace: dict[str, Any] = {
        "busy_seconds": busy,
        "last_rows_age": None,
        "window_seconds": None,
        "cells_per_second": None,
        "remaining_seconds": None,
    }
    finished = landed[np.array(pc.not_equal(table.column("status"), "failed"))]
    if not landed.max(initial=0.0):
        return pace  # the store keeps no times
    pace["last_rows_age"] = round(max(0.0, now - float(landed.max())), 1)
    for window in _WINDOWS:
        late = finished[finished > now - window]
        first = late.min(initial=now)
        # What came with the first part was made before it came: it marks the start and is not counted.
        counted, span = int((late > first).sum()), now - float(first)
        if counted and span > 0:
            rate = counted / span
            pace |= {"window_seconds": round(span, 1), "cells_per_second": rate}
            pace["remaining_seconds"] = None if pending is None else round(pending / rate, 1)
            break
    return pace


def failures(now: Current, statuses: Sequence[str]) -> list[dict[str, Any]]:
    """Cells of the sweep as it is now that have one of these statuses, by cause, as in `status`."""
    scan, _ = split(now, now.ledger.scan(["error"]))
    return [one for one in _failures(scan.table) if one["status"] in statuses] if scan.parts else []


def _failures(table: pa.Table) -> list[dict[str, Any]]:
    """Failed, diverged and skipped cells grouped by cause, most frequent first; each with an example.

    Causes that differ in numbers only (`at step 123`, a process id, an address) are one, shown with # for those.
    """
    bad = table.filter(pc.is_in(table.column("status"), pc.cast(["failed", "diverged", "skipped"], "string")))
    if "error" not in bad.schema.names:
        bad = bad.append_column("error", pa.nulls(len(bad), pa.string()))
    reasons = bad.group_by(["status", "error"]).aggregate([("cell", "count"), ("cell", "min"), ("attempt", "max")])
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for row in reasons.sort_by([("cell_count", "descending"), ("cell_min", "ascending")]).to_pylist():
        reason = plain(str(row["error"] or "")).strip() or "no reason recorded"
        why = cause(reason)
        key = (row["status"], alike(why))
        example = {"cell": row["cell_min"], "attempt": row["attempt_max"], "error": reason}
        group = groups.setdefault(key, {"status": row["status"], "cause": why, "cells": 0, "example": example})
        group["cause"] = common(group["cause"], why)
        group["cells"] += row["cell_count"]
    return sorted(groups.values(), key=lambda g: -g["cells"])


def _worlds(store: Store) -> list[dict[str, Any]]:
    found = []
    for folder in store.folders("oracle"):
        audits = stored_audits(store, f"oracle/{folder}")
        found.append(
            {
                "recipe": plain(folder),
                "ready": store.exists(f"oracle/{folder}/weights.safetensors"),
                "audited": [a["temperature"] for a in audits],
                "passed": all(a["passed"] for a in audits) if audits else None,
            }
        )
    return found


@dataclass(frozen=True)
class Finding:
    """One thing the doctor looked at."""

    name: str
    ok: bool
    value: str
    remedy: str = ""


def doctor(store: Store | None = None) -> list[Finding]:
    """What would keep a sweep from running here, each with a remedy."""
    needed = ("ray", "torch", "nflows", "pyarrow", "pydantic", "polars", "matplotlib")
    found = [
        Finding("python", (3, 11) <= sys.version_info[:2] < (3, 13), platform.python_version(), "use 3.11 or 3.12")
    ]
    for name in needed:
        try:
            found.append(Finding(name, True, version(name)))
        except PackageNotFoundError:
            reports = name in ("polars", "matplotlib")
            remedy = "fit and report need it" if reports else "pip install raysweep"
            found.append(Finding(name, False, "missing", remedy))
    found.append(Finding("cpus", True, str(os.cpu_count())))
    memory = host_memory() / 2**30
    found.append(Finding("memory", memory > 2, f"{memory:.1f} GiB free", "Ray needs about 2 GiB"))
    for place in (tempfile.gettempdir(), "/dev/shm"):
        if Path(place).is_dir():
            free = shutil.disk_usage(place).free / 2**30
            found.append(Finding(f"disk {place}", free > 1, f"{free:.1f} GiB free", "Ray keeps objects and logs here"))
    threads = os.environ.get("OMP_NUM_THREADS")
    found.append(
        Finding("OMP_NUM_THREADS", threads is None, threads or "unset", "unset it: it overrides cpus per pack")
    )
    found.append(_gpu())
    if store is not None:
        found.append(_writable(store))
        torn = Ledger(store).scan(["cell"]).skipped
        found.append(Finding("ledger files", not torn, f"{len(torn)} unreadable", "see `raysweep status`"))
    return found


def _gpu() -> Finding:
    try:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except (ImportError, RuntimeError) as error:
        return Finding("gpus", False, str(error), "repair torch")
    return Finding("gpus", True, ", ".join(names) or "none; packs run on CPUs")


def _writable(store: Store) -> Finding:
    there = store.exists()
    try:
        store.write("doctor.tmp", b"")
        store.delete("doctor.tmp")
    except RaysweepError as error:
        return Finding("store", False, str(error), "give another --store")
    if not there:  # nothing of a mistyped name is left behind
        with contextlib.suppress(OSError):
            store.fs.delete_dir(store.path())
        return Finding("store", True, f"{store.uri} does not exist yet; it can be made")
    return Finding("store", True, f"{store.uri} is writable")


def as_json(findings: list[Finding]) -> list[Mapping[str, Any]]:
    """Plain data."""
    return [{"name": f.name, "ok": f.ok, "value": f.value, "remedy": f.remedy} for f in findings]
