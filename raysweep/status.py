"""The state of a store: done, failed and pending cells, causes of failure, drivers at work."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import LedgerError, plain
from raysweep.grid.runs import KEY_LENGTH, Runs
from raysweep.ledger.causes import alike, cause, common
from raysweep.ledger.rows import STATUSES
from raysweep.ledger.scan import Scan
from raysweep.logs import tail_of
from raysweep.oracle.audits import stored_audits
from raysweep.oracle.recipe import WEIGHTS
from raysweep.predictions import kept
from raysweep.rounds import stored_tuning
from raysweep.store import TEMPORARY, Store
from raysweep.store.leases import Pulse, drivers
from raysweep.sweep.current import Current, current, split
from raysweep.sweep.provenance import accepted_codes
from raysweep.sweep.schema import SweepFile
from raysweep.sweep.stored import stored_sweep, stored_until

if TYPE_CHECKING:
    from raysweep.stopping import State

__all__ = ["Seen", "failures", "status"]

_COLUMNS = ("error", "seconds", "finished_at", "experiment", "experiment_version", "code_sha")
_LOGS = 5  # causes whose example is shown with its log
_WINDOWS = (600.0, 3600.0, 86400.0)  # windows of recent time in seconds: the first one with rows is used


@dataclass
class Seen:
    """What an earlier call for the same store has read and need not be read again."""

    parts: dict[str, pa.Table] = field(default_factory=dict)
    sweep: str = ""
    current: Current | None = None
    pulse: Pulse | None = None
    state: tuple[int, State | None] | None = None  # of a sweep that stops itself, after so many parts


def status(store: Store, seen: Seen | None = None) -> dict[str, Any]:
    """Counts, pace, failures by cause, drivers at work, worlds and unreadable files, as plain data.

    Works while a sweep runs, from anywhere that sees the store, also where its experiment cannot be imported. Ages
    are by the store's own clock, independent of the clocks of workers and of this host.

    Args:
        seen: State of the previous call, for repeated calls.

    Raises:
        LedgerError: it is not a store, cannot be reached, or its files are damaged.
    """
    seen = Seen() if seen is None else seen
    file, name = stored_sweep(store)
    now, clock = _now(store)
    seen.pulse = seen.pulse or Pulse(store)
    # Before the ledger: rows of a driver that has ended by now are read below.
    at_work = drivers(store, now, seen.pulse)
    if seen.current is None or seen.sweep != name or file.tune:  # a sweep that tunes grows
        seen.sweep, seen.current, seen.state = name, current(store), None
    scan, left_out = split(seen.current, seen.current.ledger.scan(_COLUMNS, known=seen.parts))
    counts = dict.fromkeys(STATUSES, 0)
    if scan.parts:
        counts |= {v["values"]: v["counts"] for v in pc.value_counts(scan.table.column("status")).to_pylist()}
    found: dict[str, Any] = {
        "store": store.uri,
        "sweep": file.name,
        "cells": counts,
        **_grid(store, scan, seen.current.runs, bool(file.tune)),
        "tuning": stored_tuning(store) if file.tune else None,
        "left_out": left_out,
        "codes": _codes(store, scan.table) if scan.parts else [],
        "running": _running(store, seen.current.runs, scan, now) if any(d["alive"] for d in at_work) else [],
        "pace": None,
        "failures": _with_logs(store, _failures(scan.table)) if scan.parts else [],
        "parts": scan.parts,
        "forgotten": [one.to_json() for one in seen.current.ledger.tombstones()],
        "until": stored_until(store, Path(name).stem),
        "predictions": [asdict(one) for one in kept(store)],
        "unreadable": [{"file": name, "reason": reason} for name, reason in scan.skipped],
        "drivers": at_work,
        "worlds": _worlds(store),
        "clock": clock,
    }
    if (found["until"] or {}).get("over") and found["pending"]:  # what was asked for and failed stays pending
        asked = round(found["total"] * found["until"]["runs"] / found["until"]["of_runs"])
        spared = min(found["total"] - asked, found["pending"])
        found |= {"pending": found["pending"] - spared, "total": found["total"] - spared, "not_needed": spared}
    elif file.until is not None and found["pending"]:
        found |= _chosen(store, file, seen, scan)
    if scan.parts:
        times = _times(scan, now)
        found["pace"] = _pace(scan.table, times, now, found["pending"])
        if last := float(times.max(initial=0.0)):
            found["last_row_at"] = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return found


def _codes(store: Store, table: pa.Table) -> list[dict[str, Any]]:
    """Measured rows by the code that made them, most rows first; codes declared equal count as one, as in fits."""
    if "code_sha" not in table.schema.names:
        return []
    made = table.column("code_sha").filter(pc.not_equal(table.column("status"), "failed"))
    groups = accepted_codes(store)
    found: dict[str, int] = {}
    for one in pc.value_counts(made).to_pylist():
        sha = one["values"] or "none"
        name = next((group[0] for group in groups if sha in group), sha)
        found[name] = found.get(name, 0) + one["counts"]
    return [{"code_sha": plain(name), "cells": cells} for name, cells in sorted(found.items(), key=lambda c: -c[1])]


def _times(scan: Scan, now: float) -> npt.NDArray[np.float64]:
    """[rows] when each was made, in seconds; 0 where it is unknown.

    The row's own time is used, as a copied store has new file dates. But it is capped by the time at which the row came
    to the store and by the present, in case its worker's clock was ahead.
    """
    known = np.where(scan.landed > 0, np.minimum(scan.landed, now), now)
    if "finished_at" not in scan.table.schema.names:
        return np.where(scan.landed > 0, known, 0.0)
    made = pc.cast(scan.table.column("finished_at"), pa.int64())
    said = pc.fill_null(made, 0).to_numpy() / 1e6
    return np.where(said > 0, np.minimum(said, known), np.where(scan.landed > 0, known, 0.0))


def _now(store: Store) -> tuple[float, str]:
    """The time in seconds, by the store's clock where it has one and may be written to; and whose clock it is."""
    probe = f"{TEMPORARY}clock-{secrets.token_hex(6)}"  # a name hidden from listings
    try:
        store.write(probe, b"", patience=0.0)
        made = store.fs.get_file_info(store.path(probe)).mtime_ns
        store.delete(probe)
    except (LedgerError, OSError):
        made = None
    return (made / 1e9, "store") if made else (time.time(), "this host")


def _grid(store: Store, scan: Scan, runs: Runs | None, grows: bool) -> dict[str, Any]:
    """Cells of the sweep last run, and how many of them are pending; None where that is unknown.

    Args:
        grows: Whether it tunes, so that the cells it began with are not all of them.
    """
    cells = scan.cells("ok", "diverged", "skipped")
    if runs is not None:
        pending = scan.pending(runs).cells
        return {"total": runs.cells, "runs": len(runs), "pending": pending, "done": runs.cells - pending}
    total = store.read_json("env.json").get("cells")
    if grows or not isinstance(total, int) or len(store.list("sweeps")) != 1:  # the ledger may hold other grids' cells
        return {"total": None, "runs": None, "pending": None, "done": None}
    return {"total": total, "runs": None, "pending": max(0, total - len(cells)), "done": len(cells)}


def _chosen(store: Store, file: SweepFile, seen: Seen, scan: Scan) -> dict[str, Any]:
    """Cells that the rounds of a sweep that stops itself have chosen so far, in place of those of its grid; nothing
    where that is unknown.
    """
    from raysweep.stopping import stored_state  # for such sweeps alone, as it takes the laws

    now = seen.current
    if now is None or now.runs is None:
        return {}
    if seen.state is None or seen.state[0] != scan.parts:
        seen.state = (scan.parts, stored_state(file, store, now))
    state, whole = seen.state[1], now.runs.cells
    if state is None:
        return {}
    # Rows that a later round chose before rows of an earlier one were forgotten count, too.
    chosen = state.chosen | ~np.isin(now.runs.keys, scan.pending(now.runs).keys)
    total, pending = now.runs.take(chosen).cells, scan.pending(now.runs.take(state.todo)).cells
    found = {"total": total, "runs": int(chosen.sum()), "pending": pending, "done": total - pending}
    return {**found, **({"not_needed": whole - total} if state.over else {"round": state.rounds, "grid": whole})}


def _pace(table: pa.Table, times: npt.NDArray[np.float64], now: float, pending: int | None) -> dict[str, Any]:
    """Recent throughput, and the remaining time at that rate, from the times at which rows were made."""
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
    finished = times[np.array(pc.not_equal(table.column("status"), "failed"))]
    if not times.max(initial=0.0):
        return pace  # times are unknown
    pace["last_rows_age"] = round(now - float(times.max()), 1)
    for window in _WINDOWS:
        late = finished[finished > now - window]
        first = late.min(initial=now)
        # The first rows mark the start and are not counted.
        counted, span = int((late > first).sum()), now - float(first)
        if counted and span > 0:
            rate = counted / span
            pace |= {"window_seconds": round(span, 1), "cells_per_second": rate}
            pace["remaining_seconds"] = None if pending is None else round(pending / rate, 1)
            break
    return pace


def _running(store: Store, runs: Runs | None, scan: Scan, now: float) -> list[dict[str, Any]]:
    """Active runs of a plain function, by their working folders, longest-running first."""
    folders = set(store.folders("runs")) if runs is not None else set()
    if runs is None or not folders:
        return []
    left, found = scan.pending(runs), []
    for i, key in enumerate(key.decode() for key in left.keys.tolist()):
        if key in folders:
            made = store.fs.get_file_info(store.path(f"runs/{key}")).mtime_ns
            axes = ", ".join(f"{name}={value}" for name, value in left.row(i).items())
            found.append({"run": key, "axes": plain(axes), "seconds": round(max(0.0, now - (made or 0) / 1e9), 1)})
    return sorted(found, key=lambda one: -one["seconds"])


def _with_logs(store: Store, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first causes, with the last output of their examples."""
    for one in found[:_LOGS]:
        one["example"]["log"] = tail_of(store, one["example"]["cell"][:KEY_LENGTH])
    return found


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
                "ready": store.exists(f"oracle/{folder}/{WEIGHTS}"),
                "audited": [a["at"] for a in audits],
                "passed": all(a["passed"] for a in audits) if audits else None,
            }
        )
    return found
