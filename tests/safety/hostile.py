"""What fuzzing feeds raysweep, and what must come of it: each target works or raises one RaysweepError."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hostile_stores import (
    CSV,
    JSON,
    LOST,
    PART,
    SMALL,
    TABLE,
    run_csv,
    run_json,
    run_lost,
    run_part,
    run_store,
    run_table,
    run_world,
    stores,
    tables,
    weights,
)
from hostile_sweeps import SHIPPED, SWEEP, overrides, run_file, run_mapping, run_override, run_preset, sweeps, tokens
from hostile_values import Make, changed
from hypothesis import strategies as st

from raysweep.errors import RaysweepError

__all__ = ["TARGETS", "Target", "outcome"]


@dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
        cases: What is fed: a strategy, or a function of a random number generator.
        run: Takes a case; a RaysweepError is an answer, anything else a crash.
        share: Share of all cases, relative to other targets.
    """

    name: str
    cases: st.SearchStrategy[Any] | Make
    run: Callable[[Any], None]
    share: float


def outcome(target: Target, case: Any) -> str:
    """`worked` or `refused`; whatever else is raised is a crash and goes on."""
    try:
        target.run(case)
    except RaysweepError as error:
        text = str(error)
        assert text.strip(), "an error must say something"
        assert len(text) <= 5000, "an error must be short"
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), "an error must be printable"
        return "refused"
    return "worked"


TARGETS = (
    Target("sweep file, grammar", sweeps(), run_mapping, 0.02),
    Target("sweep file, tokens", tokens, run_file, 0.12),
    Target("sweep file, bytes", changed(SWEEP.encode(), *(text.encode() for text in SHIPPED[:1])), run_file, 0.2),
    Target("--set", overrides, run_override, 0.06),
    Target("--preset", st.text(max_size=8) | st.sampled_from(["smoke", "full", "smok"]), run_preset, 0.005),
    Target("ledger part, bytes", changed(SMALL, PART), run_part, 0.53),
    Target("ledger part, columns", tables(), run_part, 0.01),
    Target("store JSON", stores(), run_store, 0.01),
    Target("safetensors", weights(), run_world, 0.015),
    Target("table, CSV", changed(CSV), run_csv, 0.0075),
    Target("table, JSON", changed(*JSON), run_json, 0.0075),
    Target("table, lost metadata", changed(LOST), run_lost, 0.0075),
    Target("table, parquet", changed(TABLE), run_table, 0.0075),
)
