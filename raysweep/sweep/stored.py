"""What a store says about the sweep last run into it: its file, its axes, its runs. No experiment is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raysweep.display import Display
from raysweep.errors import LedgerError, SweepError
from raysweep.experiment import display_of
from raysweep.experiments import built_in
from raysweep.grid.axes import Axis, declared, index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.grid.runs import Runs
from raysweep.oracle.recipe import kinds
from raysweep.oracle.world import with_source
from raysweep.store import Store
from raysweep.sweep.asked import kept_studies
from raysweep.sweep.resolve import Sweep
from raysweep.sweep.schema import SweepFile, explain
from raysweep.sweep.tuner import tuning_of
from raysweep.yamlfile import MAX_BYTES, parse_yaml

__all__ = [
    "Declaration",
    "at_store",
    "stored_declaration",
    "stored_display",
    "stored_runs",
    "stored_sweep",
    "stored_until",
]


def stored_sweep(store: Store) -> tuple[SweepFile, str]:
    """The sweep file last run into a store, as resolved then, and its name there.

    Raises:
        LedgerError: it is not a store, or its files are damaged.
    """
    if not store.exists("env.json"):
        raise LedgerError(f"store {store.uri}: must hold env.json and a ledger, but does not; is the path right?")
    environment = store.read_json("env.json")
    digest = environment.get("sweep") if isinstance(environment, dict) else None
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{16}", digest):
        raise LedgerError(f"store {store.uri}: env.json must name its sweep by 16 hex digits, but has {digest!r}")
    name = f"sweeps/{digest}.yaml"
    try:
        # The resolved sweep may be longer than its file.
        raw = parse_yaml(store.read(name, 4 * MAX_BYTES).decode(), name)
    except (SweepError, UnicodeDecodeError) as error:
        raise LedgerError(f"store {store.uri}: {name} must be a sweep file: {' '.join(str(error).split())}") from error
    if isinstance(raw, dict) and isinstance(raw.get("world"), dict) and str(raw["world"].get("kind")) not in kinds():
        raw = {**raw, "world": None}  # a user's own kind: reading a store imports no code, and needs no world
    try:
        return SweepFile.model_validate(raw), name
    except ValidationError as error:
        raise LedgerError(f"store {store.uri}: {explain(error, raw, name)}") from error


def stored_until(store: Store, digest: str) -> dict[str, Any] | None:
    """What the last run of a sweep that stops itself came to, as of `verdict.record`; None where there is none."""
    path = f"until/{digest}.json"
    found = store.read_json(path) if store.exists(path) else None
    return found if isinstance(found, dict) else None


def at_store(sweep: Sweep, store: Store) -> Sweep:
    """The sweep, over the world that the store holds where the data of its recipe are not here."""
    if sweep.file.world is None:
        return sweep
    world = with_source(sweep.file.world, store)
    return sweep if world is sweep.file.world else replace(sweep, file=sweep.file.model_copy(update={"world": world}))


@dataclass(frozen=True)
class Declaration:
    """What a store says about the sweep last run into it, besides its file.

    Attributes:
        axes: By name, with their kinds and defaults.
        identity: The contents of every run key besides them.
        display: How its experiment is shown; None where an older raysweep wrote it.
        note: Why that cannot be read, so that plain columns are shown; else empty.
    """

    axes: dict[str, Axis]
    identity: str
    display: Display | None
    note: str = ""


def stored_declaration(store: Store) -> Declaration | None:
    """The axes of the sweep last run into a store; None where the store does not say.

    Raises:
        LedgerError: it is not a store, or its files are damaged.
    """
    _, name = stored_sweep(store)
    path = f"axes/{Path(name).stem}.json"
    if not store.exists(path):
        return None
    plain = store.read_json(path)
    try:
        axes = index_axes([declared(axis) for axis in plain["axes"]])
        identity = str(plain["identity"])
    except (SweepError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"store {store.uri}: {path} must hold the axes of its sweep: {error}") from error
    if "display" not in plain:
        return Declaration(axes, identity, None)
    try:
        return Declaration(axes, identity, Display.from_json(plain["display"]))
    except ValueError as error:  # rows can be read without it
        return Declaration(axes, identity, Display(), f"{path}: display: {error}. Plain columns are shown instead.")


def stored_display(store: Store) -> tuple[Display, str]:
    """How the experiment last run into a store is shown, and a note where that cannot be read: as the store records it,
    else as the built-in experiment of that name declares; otherwise by plain columns.

    Raises:
        LedgerError: it is not a store, or its files are damaged.
    """
    declaration = stored_declaration(store)
    if declaration is not None and declaration.display is not None:
        return declaration.display, declaration.note
    experiment = built_in(stored_sweep(store)[0].experiment)
    return (Display() if experiment is None else display_of(experiment)), ""


def stored_runs(store: Store) -> Runs | None:
    """Every run of the sweep last run into a store; None where the store does not record its axes, or the candidates of
    one that tunes.

    No experiment is imported: what a store names is not executed by those who read it.

    Raises:
        LedgerError: it is not a store, or its files are damaged.
    """
    declaration = stored_declaration(store)
    if declaration is None:
        return None
    file, name = stored_sweep(store)
    try:
        axes, identity = declaration.axes, declaration.identity
        tuning = tuning_of(file, axes)
        if tuning is None:
            return enumerate_runs(expand(file.grid, axes), axes, identity)
        grid = enumerate_runs(expand({**file.grid, **tuning.stand_in}, axes), axes, identity)
        asked = kept_studies(store, Path(name).stem, tuning)
        if not asked:
            return None
        return tuning.layout(grid, tuning.lineage(grid, axes, identity), asked).runs
    except (SweepError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"store {store.uri}: {name} must hold a grid over its axes: {error}") from error
