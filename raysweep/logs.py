"""The output of runs of a user's function, as their store keeps it."""

from __future__ import annotations

from typing import Any

from raysweep.errors import LedgerError, plain
from raysweep.executors.runlog import FOLDER, log_name
from raysweep.grid.runs import KEY_LENGTH
from raysweep.store import Store
from raysweep.sweep.current import current

__all__ = ["list_logs", "read_log", "tail_of"]

_MOST_TAIL = 20  # lines of a log shown with a failure


def _runs(store: Store) -> list[str]:
    names = [name for name, _ in store.list(FOLDER)]
    return [name[:-4] for name in names if name.endswith(".log") and len(name) == KEY_LENGTH + 4]


def list_logs(store: Store) -> list[dict[str, Any]]:
    """The runs that have a log, each with its outcome: run, status, characters, axes.

    Raises:
        LedgerError: it is not a store, or has no logs.
    """
    keys = _runs(store)
    if not keys:
        raise LedgerError(
            f"logs: {store.uri} must hold logs of runs, but holds none: only a function or script that prints has one"
        )
    now = current(store)
    table = now.ledger.scan(["run"]).table
    status: dict[str, str] = {}
    if len(table):
        worst = table.select(["run", "status"]).group_by("run").aggregate([("status", "distinct")])
        status = {row["run"]: ", ".join(sorted(row["status_distinct"])) for row in worst.to_pylist()}
    place = {key.decode(): i for i, key in enumerate(now.runs.keys.tolist())} if now.runs is not None else {}
    found = []
    for key in keys:
        axes = now.runs.row(place[key]) if now.runs is not None and key in place else {}
        said = ", ".join(f"{name}={value}" for name, value in axes.items())
        size = len(store.read_text(log_name(key)))
        found.append({"run": key, "status": status.get(key, "-"), "characters": size, "axes": plain(said)})
    return found


def read_log(store: Store, run: str) -> tuple[str, str]:
    """(the run's key, its log) for a key or the beginning of one.

    Raises:
        LedgerError: no log, or several, have this beginning.
    """
    keys = [key for key in _runs(store) if key.startswith(run)]
    if len(keys) != 1:
        known = _runs(store)[:10]
        have = f"It has logs of {', '.join(known)}" if known else "The store has no logs"
        raise LedgerError(
            f"logs: RUN must be the beginning of one run's key, but {len(keys)} of {store.uri} begin with {run!r}. "
            f"{have}"
        )
    return keys[0], store.read_text(log_name(keys[0]))


def tail_of(store: Store, run: str) -> list[str]:
    """The last lines of a run's log; empty where it has none."""
    if not store.exists(log_name(run)):
        return []
    return plain(store.read_text(log_name(run))).splitlines()[-_MOST_TAIL:]
