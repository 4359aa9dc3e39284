"""Stale rows: finished cells of a sweep that other code made than there is now."""

from __future__ import annotations

import pyarrow.compute as pc

from raysweep.code import changes
from raysweep.experiments import BUILT_IN
from raysweep.ledger.log import Ledger
from raysweep.ledger.remaining import among
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.provenance import equal_codes, last_code, parts_of

__all__ = ["other_codes", "stale"]


def other_codes(sweep: Sweep, store: Store) -> dict[str, int]:
    """The hashes of code that made finished cells of a sweep, with their number; without the code as it is now, what
    was declared equal to it, and the versions of a built-in experiment.
    """
    if sweep.file.experiment in BUILT_IN or not sweep.code.sha:
        return {}
    table = Ledger(store).scan(["code_sha", "status"]).table
    if "code_sha" not in table.schema.names or not len(table):
        return {}
    table = table.filter(pc.not_equal(table.column("status"), "failed"))
    made = table.column("code_sha").filter(among(sweep.runs, table.column("cell")))
    equal = equal_codes(store, sweep.code.sha)
    counts = {one["values"] or "none": one["counts"] for one in pc.value_counts(made).to_pylist()}
    return {sha: count for sha, count in counts.items() if sha not in equal}


def stale(sweep: Sweep, store: Store) -> str:
    """What the user should know of finished cells that other code made, in a sentence; "" where there are none."""
    found = other_codes(sweep, store)
    if not found:
        return ""
    most = max(found, key=lambda sha: found[sha])
    differ = changes(parts_of(store, sweep, most), sweep.code.parts)[:3]
    what = f" ({'; '.join(differ)})" if differ and most != "none" else ""
    remedy = (
        "If results are unchanged, pass --accept-code; otherwise set"
        if {*found} <= {last_code(store, sweep)}
        else "Set"
    )
    return (
        f"{sum(found.values()):,} finished cells were made by other code than there is now{what}. They are "
        f"kept, and fits keep the rows of each code apart. {remedy} "
        f"`version: {sweep.experiment.version + 1}` to rerun everything"
    )
