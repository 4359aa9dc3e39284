"""The command that audits worlds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import OracleError, nearest

if TYPE_CHECKING:
    from raysweep.oracle.audits import Setting
    from raysweep.oracle.breaks import Change
    from raysweep.oracle.recipe import Recipe
    from raysweep.store import Store


def audit(
    oracle: Annotated[
        str, typer.Argument(metavar="ORACLE", help="A store, or one world's folder.", show_default=False)
    ],
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="AXIS=VALUE",
            help="Where to audit: a value of an axis; may be repeated. Default: those of the store's sweeps.",
        ),
    ] = None,
    items: Annotated[int, typer.Option(min=100, help="Generated pairs.")] = 8192,
    breaks: Annotated[
        bool,
        typer.Option("--breaks", help="Instead, show which changes of samples break exactness."),
    ] = False,
    json: Json = False,
) -> None:
    """Check that a world's posterior is exact. Audit inverse, log-determinant, self-calibration; exit 1 on failure."""
    from raysweep.oracle.audits import place, settings, summary
    from raysweep.oracle.world import load_recipe, load_world
    from raysweep.store import Store

    store = Store(oracle)
    folders = [""] if store.exists("recipe.json") else [f"oracle/{f}" for f in store.folders("oracle")]
    if not folders:
        raise OracleError(f"audit: {oracle} must be a world's folder or a store with one, but holds neither")
    if breaks and at:
        raise OracleError(
            f"audit: --breaks must be without --at, as it is at temperature 1, but got {at}. Leave one out"
        )
    if breaks:
        _breaks(store, folders, items, json)
        return
    todo = []
    for folder in folders:
        recipe = load_recipe(store, folder)
        if recipe.audited is None:
            say(f"{folder or oracle}: a world of kind {recipe.kind} has no audit", stream=sys.stderr)
        else:
            wanted = settings(recipe, _asked(recipe, at)) if at else used_settings(store, folder, recipe)
            todo += [(folder, recipe, one) for one in wanted]
    found = []
    for i, (folder, recipe, one) in enumerate(todo, 1):
        say(f"audit {i} of {len(todo)}: {folder or oracle}{place(one)}", stream=sys.stderr)
        made = recipe.audit(load_world(store, folder), one, items)
        found.append({**made.to_json(), "at": dict(one)})
    if json:
        print_json(found)
    else:
        for one in found:
            say(f"{oracle}: weights {one['sha'][:8]}, {one['items']:,} items{place(one['at'])}: {summary(one)}")
            rows = [
                [c["name"], f"{c['value']:.3g}", f"{c['limit']:.3g}", "ok" if c["passed"] else "FAILED", c["about"]]
                for c in one["checks"]
            ]
            print_table(["check", "value", "limit", "", "about"], rows)
    if not all(one["passed"] for one in found):
        raise typer.Exit(1)


def _breaks(store: Store, folders: Sequence[str], items: int, json: bool) -> None:
    """Print what breaks exactness, for every world of flows."""
    from raysweep.oracle.breaks import changes, grey_levels_and_noise
    from raysweep.oracle.flow_world import FlowWorld
    from raysweep.oracle.world import load_recipe, load_world

    found = []
    for folder in folders:
        recipe, world = load_recipe(store, folder), load_world(store, folder)
        if not isinstance(world, FlowWorld):
            say(f"{folder or store.uri}: a world of kind {recipe.kind} is no flow", stream=sys.stderr)
            continue
        say(f"{folder or store.uri}: {items:,} items per change", stream=sys.stderr)
        each = list(changes(world, *grey_levels_and_noise(recipe), items))
        found += [{"folder": folder, **one.to_json()} for one in each]
        if not json:
            rows = [
                [one.name, f"{one.calibration.value:+.1f}", f"{one.error.value:+.1f}", _verdict(one), one.about]
                for one in each
            ]
            print_table(["change", "calibration (s.e.)", "error (s.e.)", "exact", "about"], rows)
    if json:
        print_json(found)


def _verdict(change: Change) -> str:
    return "may be" if change.exact else "NO"


def _asked(recipe: Recipe, at: Sequence[str]) -> dict[str, list[float]]:
    """Values by axis, as given by `--at`.

    Raises:
        OracleError: an entry does not name an axis that the audit depends on, or gives no number.
    """
    found: dict[str, list[float]] = {}
    for one in at:
        name, _, value = one.partition("=")
        if name not in (recipe.audited or {}):
            raise OracleError(
                f"audit: --at must name an axis that the audit of a world of kind {recipe.kind} depends on, but got "
                f"{one!r}. {nearest(name, recipe.audited or {})}"
            )
        try:
            found.setdefault(name, []).append(float(value))
        except ValueError as error:
            raise OracleError(f"audit: --at must be AXIS=VALUE with a number, but got {one!r}") from error
    return found


def used_settings(store: Store, folder: str, recipe: Recipe) -> list[Setting]:
    """The settings at which a store's sweeps used a world: those of the sweep last run, if it uses this world, and
    those at which earlier runs audited it; by default, the world's own.

    Args:
        store: A store, or a world's own folder.
    """
    from raysweep.oracle.audits import settings, stored_audits
    from raysweep.sweep.stored import stored_runs, stored_sweep

    used = [one["at"] for one in stored_audits(store, folder) if {*one["at"]} == {*(recipe.audited or {})}]
    if store.exists("env.json"):
        world = stored_sweep(store)[0].world
        if world == recipe and (runs := stored_runs(store)) is not None:
            used += [one for one in settings(recipe, runs.values) if one not in used]
    return sorted(used, key=lambda one: sorted(one.items())) or settings(recipe, {})
