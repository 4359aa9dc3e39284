"""Make a world in a store by an executor, as the first stage of a sweep or by itself, and audit it."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from raysweep.cost import clock
from raysweep.executors import Executor, Job
from raysweep.executors.quiet import terminal
from raysweep.experiment import World
from raysweep.oracle.audits import Setting, place, require_audit, settings, summary
from raysweep.oracle.card import write_card
from raysweep.oracle.recipe import Recipe, folder_of, is_made, recipe_hash
from raysweep.oracle.world import prepare
from raysweep.progress import Progress
from raysweep.store import Store
from raysweep.store.leases import Claims, hold, who

__all__ = ["fit_world", "made", "ray_log"]


def fit_world(
    recipe: Recipe,
    store: Store,
    executor: Executor,
    workers: int = 1,
    stream: Callable[[], IO[str]] = terminal,
) -> World:
    """Make a recipe's world in a store, which may be one of sweeps, and audit it; a sweep over it then finds it there.

    Args:
        workers: On which training is spread, where the executor can.

    Raises:
        RaysweepError: an unusable store, training or the audit failed.
        KeyboardInterrupt: Ctrl-C; the same call continues from the last checkpoint.
    """
    if not is_made(store, recipe):
        recipe.require_makeable(workers)  # before anything is started or written
    store.create("store.json", json.dumps({"id": secrets.token_hex(8), "sweep": ""}).encode())
    progress = Progress(stream)
    job = Job(
        sweep="{}", path="", folders=(), store=Store(store.absolute), world="", token=store.read_text("store.json"),
        cpus=1, gpus=0,
    )  # fmt: skip
    try:
        with executor.session(job, ray_log(store)), hold(store, executor.dashboard) as claims:
            return made(recipe, settings(recipe, {}), store, executor, workers, claims, progress)
    finally:
        progress.end()


def made(
    recipe: Recipe,
    wanted: Sequence[Setting],
    store: Store,
    executor: Executor,
    workers: int,
    claims: Claims,
    progress: Progress,
) -> World:
    """Train, adopt or create a world, and audit it at every setting; wait while another driver makes it."""

    def on_progress(point: Mapping[str, float]) -> None:
        progress.live(f"oracle: {recipe.progress(point)}")

    started = time.monotonic()
    progress.live("oracle: starting", force=True)
    name, folder = f"oracle-{recipe_hash(recipe)}", folder_of(recipe)
    while not is_made(store, recipe) and not claims.take(name, {name}):
        progress.wait(f"oracle: waiting for {who(claims.holders[name])}, which is making it")
        time.sleep(1.0)
    world, new = prepare(store, recipe, lambda function: executor.train(function, store, folder, workers, on_progress))
    claims.release(name)
    did = f"{recipe.kind} world ready" if new else f"{recipe.kind} world found"
    progress.say(f"oracle: {did} in {clock(time.monotonic() - started)} ({folder}, weights {world.sha[:8]})")
    progress.live("oracle: audit", force=True)
    for found in require_audit(store, folder, recipe, world, wanted):
        progress.say(f"oracle: audit passed{place(found['at'])}: {summary(found)}")
    if new or not store.exists(f"{folder}/card.md"):  # whoever trained it may have died before
        write_card(store, folder, recipe, world)
    return world


def ray_log(store: Store) -> Path:
    """The file for Ray's output: beside a local store's ledger, else in the temporary folder."""
    # In a folder of our own: a predictable name in a shared folder may be a link planted by others.
    return Path(store.path("logs/ray.log") if store.is_local else f"{tempfile.mkdtemp(prefix='raysweep-')}/ray.log")
