"""Commands that make worlds and move them between stores: oracle fit, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep.cli.asking import Json
from raysweep.cli.commands import App, Commands
from raysweep.cli.show import print_json, say
from raysweep.errors import OracleError, SweepError

if TYPE_CHECKING:
    from raysweep.oracle.recipe import Recipe
    from raysweep.store import Store

_World = Annotated[
    str, typer.Argument(metavar="ORACLE", help="A world's folder, or a store with one.", show_default=False)
]
_FILES = ("recipe.json", "weights.safetensors")  # without them a folder holds no world
_BESIDE = ("audit.json", "curve.json", "card.md", "samples.png")

app = App(
    cls=Commands,
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Make a world with an exact posterior, and move worlds between stores.",
)


def add_to(parent: typer.Typer) -> None:
    """Register the commands."""
    app.command()(fit)
    app.command()(export)
    app.command("import")(import_)
    parent.add_typer(app, name="oracle")


@app.callback()
def _alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def fit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe, YAML: sweeps/worlds/...", show_default=False)],
    store: Annotated[str, typer.Option("--store", metavar="URI", help="A folder or URI; it may hold sweeps.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the recipe.")
    ] = None,
    executor: Annotated[str, typer.Option(help="One of ray, inline.")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running Ray cluster; `auto` finds it. Default: start Ray here."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel workers, one per GPU where there are GPUs.")] = 1,
    json: Json = False,
) -> None:
    """Train a world by itself, audit it, and keep it. A sweep over it, in the same store, then finds it there."""
    from raysweep.executors import make_executor
    from raysweep.oracle.recipe import folder_of
    from raysweep.oracle.world import with_source
    from raysweep.store import Store
    from raysweep.worlds import fit_world

    if executor == "inline" and workers > 1:
        raise OracleError(
            f"oracle fit: --executor inline must have one worker, this process, but got (workers={workers}). Leave "
            "--workers out, or train on Ray"
        )
    recipe, target = _recipe(file, set_ or ()), Store(store)
    recipe, where = with_source(recipe, target), make_executor(executor, address)
    try:
        world = fit_world(recipe, target, where, workers)
    except SweepError as error:  # of a key, which a sweep has below `world`
        raise OracleError(f"{file}: {str(error).removeprefix('world.')}") from error
    folder = folder_of(recipe)
    if json:
        print_json(
            {
                "folder": folder,
                "kind": recipe.kind,
                "sha": world.sha,
                "dimensions": world.dim,
                "number_of_classes": world.classes,
            }
        )
    else:
        say(f"{target.uri}/{folder}: {recipe.kind} world, {world.classes} classes in {world.dim} dimensions")
        say(f"  card: {target.uri}/{folder}/card.md")


def export(
    oracle: _World,
    to: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder or URI, new or empty.", show_default=False)],
) -> None:
    """Copy a finished world to a folder of its own: recipe, weights, audit, curve and card."""
    from raysweep.oracle.world import keep_source, load_recipe, load_world
    from raysweep.store import Store

    source, target = Store(oracle), Store(to)
    folder = _only_world(source, oracle)
    if any(target.exists(name) for name in (*_FILES, *_BESIDE)):
        raise OracleError(f"oracle export: FOLDER must hold no world, but {to} does. Take another folder")
    world = load_world(source, folder)
    keep_source(target, "", load_recipe(source, folder))  # a world of an older raysweep lacks the file
    _copy(source, folder, target, "")
    say(f"{to}: world with weights {world.sha[:8]}")


def import_(
    oracle: _World,
    store: Annotated[str, typer.Argument(metavar="STORE", help="A folder or URI.", show_default=False)],
) -> None:
    """Put a finished world into a store, where sweeps over its recipe find it; its files are checked first."""
    from raysweep.oracle.recipe import folder_of, is_made
    from raysweep.oracle.world import keep_source, load_recipe, load_world
    from raysweep.store import Store

    source, target = Store(oracle), Store(store)
    folder = _only_world(source, oracle)
    recipe, world = load_recipe(source, folder), load_world(source, folder)
    place = folder_of(recipe)
    if is_made(target, recipe) and (kept := load_world(target, place)).sha != world.sha:
        raise OracleError(
            f"oracle import: {store} must hold no other world of this recipe, but has one with weights {kept.sha[:8]}, "
            f"not {world.sha[:8]}. Rows measured on the two would differ: take another store"
        )
    keep_source(target, place, recipe)
    _copy(source, folder, target, place)
    say(f"{store}/{place}: world with weights {world.sha[:8]}")


def _recipe(file: str, overrides: list[str] | tuple[str, ...]) -> Recipe:
    """The recipe of a YAML file, with some fields replaced.

    Raises:
        OracleError: it is no recipe.
    """
    from raysweep.oracle.recipe import checked_recipe
    from raysweep.yamlfile import parse_yaml, read_yaml

    raw = read_yaml(Path(file))
    for one in overrides:
        name, equals, value = one.partition("=")
        if not equals or not isinstance(raw, dict):
            raise OracleError(f"oracle fit: --set must be FIELD=VALUE, but got {one!r}")
        raw = {**raw, name.strip(): parse_yaml(value, f"--set {name}")}
    return checked_recipe(raw, file)


def _only_world(store: Store, given: str) -> str:
    """The folder of the one world in a store, "" where the store is a world's own folder."""
    if any(store.exists(name) for name in _FILES):
        return ""
    folders = [f"oracle/{name}" for name in store.folders("oracle")]
    if len(folders) != 1:
        listed = f": {', '.join(folders)}. Name one of these folders" if folders else ""
        raise OracleError(
            f"oracle: ORACLE must be a world's folder or a store with one world, but {given} has {len(folders)}{listed}"
        )
    return folders[0]


def _copy(source: Store, folder: str, target: Store, place: str) -> None:
    for name in (*_BESIDE, *_FILES):  # the weights come last: a world is finished when they are there
        if source.exists(f"{folder}/{name}".lstrip("/")):
            target.create(f"{place}/{name}".lstrip("/"), source.read(f"{folder}/{name}".lstrip("/")))
