"""What a store holds: done, failed and pending cells, causes of failure, drivers at work; and `doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from raysweep.claims import drivers
from raysweep.cost import host_memory
from raysweep.errors import RaysweepError, plain
from raysweep.ledger import STATUSES, Ledger
from raysweep.oracle.recipe import stored_audits
from raysweep.store import Store
from raysweep.sweep import stored_runs, stored_sweep

__all__ = ["doctor", "status"]


def status(store: Store) -> dict[str, Any]:
    """Counts, failures by cause, drivers at work, worlds and unreadable files, as plain data.

    Works while a sweep runs, from anywhere that sees the store.
    """
    runs = stored_runs(store)
    scan = Ledger(store).scan(["error", "seconds", "finished_at"])
    table = scan.table
    counts = dict.fromkeys(STATUSES, 0)
    if scan.parts:
        counts |= {v["values"]: v["counts"] for v in pc.value_counts(table.column("status")).to_pylist()}
    found: dict[str, Any] = {
        "store": store.uri,
        "sweep": stored_sweep(store)[0].name,
        "cells": counts,
        "failures": _failures(table) if scan.parts else [],
        "parts": scan.parts,
        "unreadable": [{"file": name, "reason": reason} for name, reason in scan.skipped],
        "drivers": drivers(store),
        "worlds": _worlds(store),
    }
    if runs is not None:
        pending = scan.pending(runs).cells
        found |= {"total": runs.cells, "runs": len(runs), "pending": pending, "done": runs.cells - pending}
    if scan.parts and "finished_at" in table.schema.names:
        last = pc.max(table.column("finished_at")).as_py()
        found["last_row_at"] = last.isoformat() if last else None
    return found


def _failures(table: Any) -> list[dict[str, Any]]:
    """Failed and diverged cells grouped by the last line of their reason, most frequent first."""
    bad = table.filter(pc.is_in(table.column("status"), pc.cast(["failed", "diverged", "skipped"], "string")))
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for row in bad.select(
        ["cell", "status", "error"] if "error" in bad.schema.names else ["cell", "status"]
    ).to_pylist():
        reason = plain(str(row.get("error") or "")).strip() or "no reason recorded"
        cause = reason.splitlines()[-1]
        cause = cause.rstrip("0123456789") + "..." if cause[-1:].isdigit() else cause  # "at step 123" is one cause
        group = groups.setdefault((row["status"], cause), {"status": row["status"], "cause": cause, "cells": 0})
        group["cells"] += 1
        group.setdefault("example", {"cell": row["cell"], "error": reason})
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
    try:
        store.write("doctor.tmp", b"")
        store.delete("doctor.tmp")
    except RaysweepError as error:
        return Finding("store", False, str(error), "give another --store")
    return Finding("store", True, f"{store.uri} is writable")


def as_json(findings: list[Finding]) -> list[Mapping[str, Any]]:
    """Plain data."""
    return [{"name": f.name, "ok": f.ok, "value": f.value, "remedy": f.remedy} for f in findings]
