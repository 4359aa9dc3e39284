"""Worlds in a store: made from a recipe by its kind, kept, and loaded again. The first complete writer wins."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysweep.errors import OracleError, SweepError
from raysweep.experiment import World
from raysweep.oracle.recipe import WEIGHTS, Recipe, Shape, Source, Train, folder_of, is_made, parse_recipe
from raysweep.store import Store

__all__ = ["adopt", "keep_source", "load_recipe", "load_world", "prepare", "with_source", "world_of_worker"]

_RECIPE, _SOURCE = "recipe.json", "source.json"
_MAX_BYTES = 1 << 32  # largest file of weights
_AGAIN = "delete the folder, and the next run makes the world again"


class _Kept(BaseModel):
    """A `Source` as a store keeps it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dim: int = Field(ge=1)
    classes: int = Field(ge=1)
    ingredients: dict[str, str]


def keep_source(store: Store, folder: str, recipe: Recipe) -> None:
    """Keep what the finished world needs of its data beside its recipe."""
    if ingredients := recipe.ingredients:
        shape = recipe.shape
        kept = _Kept(dim=shape.dim, classes=shape.classes, ingredients=dict(ingredients))
        store.create(f"{folder}/{_SOURCE}".lstrip("/"), kept.model_dump_json(indent=1).encode())


def with_source(recipe: Recipe, store: Store) -> Recipe:
    """The recipe; where its data are not here, with what the store's only world of this recipe keeps of them."""
    try:
        _ = recipe.ingredients
    except SweepError:
        made: list[Recipe] = []
        for name in store.folders("oracle"):
            with contextlib.suppress(OracleError):  # unfinished, or of a kind that is not known here
                made.append(load_recipe(store, f"oracle/{name}"))
        same = [one for one in made if one == recipe]
        return same[0] if len(same) == 1 else recipe
    return recipe


def adopt(store: Store, recipe: Recipe, data: bytes) -> World:
    """Keep a finished world's file in the store, unless another writer already did; return the world that is kept."""
    folder = folder_of(recipe)
    store.create(f"{folder}/{_RECIPE}", json.dumps(recipe.model_dump(mode="json"), indent=1).encode())
    keep_source(store, folder, recipe)
    store.create(f"{folder}/{WEIGHTS}", data)
    return load_world(store, folder)


def prepare(store: Store, recipe: Recipe, train: Train) -> tuple[World, bool]:
    """The recipe's world from the store, made first if it is not there; and whether it was made now.

    Raises:
        OracleError: as `load_world`; or the store keeps another recipe in this one's folder.
    """
    if is_made(store, recipe):
        folder = folder_of(recipe)
        own, kept = (one.model_dump(mode="json") for one in (recipe, load_recipe(store, folder)))
        if changed := [name for name in own if own[name] != kept.get(name)]:
            name = "kind" if "kind" in changed else changed[0]
            raise OracleError(
                f"oracle {store.uri}/{folder}: {_RECIPE} must hold the recipe that the folder is named after, with "
                f"{name}={own[name]!r}, but has {name}={kept[name]!r}. Undo the change, or {_AGAIN}"
            )
        return load_world(store, folder), False
    return adopt(store, recipe, recipe.make(train)), True


def load_recipe(store: Store, folder: str = "") -> Recipe:
    """The recipe of a world's folder of `recipe.json` and `weights.safetensors`, with what `source.json` keeps of its
    data; without that file, which older worlds lack, the data themselves are needed.

    Raises:
        OracleError: the folder holds no world, or one of an unknown kind.
    """
    prefix = f"{folder}/" if folder else ""
    for name in (_RECIPE, WEIGHTS):
        if not store.exists(prefix + name):
            raise OracleError(
                f"oracle {store.uri}/{folder}: must hold {_RECIPE} and {WEIGHTS}, but lacks {name}. Copy it "
                f"again, or {_AGAIN}"
            )
    recipe = parse_recipe(store.read_text(prefix + _RECIPE), f"{store.uri}/{prefix}{_RECIPE}")
    if not store.exists(prefix + _SOURCE):
        return recipe
    try:
        kept = _Kept.model_validate_json(store.read_text(prefix + _SOURCE))
    except ValidationError as error:
        reason = " ".join(str(error).split())[:300]
        raise OracleError(
            f"oracle {store.uri}/{folder}: {_SOURCE} must hold dim, classes and ingredients, but does not: {reason}"
        ) from error
    return recipe.made_from(Source(Shape(kept.dim, kept.classes), kept.ingredients))


def load_world(store: Store, folder: str = "") -> World:
    """The world of such a folder.

    Raises:
        OracleError: the folder holds no world, or its files do not belong together.
    """
    from safetensors import SafetensorError  # planning does without

    recipe = load_recipe(store, folder)
    data = store.read(f"{folder}/{WEIGHTS}".lstrip("/"), _MAX_BYTES)
    try:
        return recipe.load(data, hashlib.sha256(data).hexdigest()[:16])
    except (SafetensorError, SweepError, KeyError, RuntimeError, ValueError, TypeError) as error:
        kept = store.exists(f"{folder}/{_SOURCE}".lstrip("/"))
        if isinstance(error, SweepError) and not kept:  # the data, which such a world needs, are not here
            raise
        reason = " ".join(str(error).split())[:300]
        files = f"{_RECIPE} and {_SOURCE}" if kept else _RECIPE
        raise OracleError(
            f"oracle {store.uri}/{folder}: {WEIGHTS} must fit {files}, but does not: {reason}. Copy the folder "
            f"again, or {_AGAIN}"
        ) from error


def world_of_worker(store: Store, folder: str) -> World:
    """The world that a worker draws data sets from: as `load_world`, but where drawing is slow, samples are kept in the
    store. An audit must not read them.
    """
    world = load_world(store, folder)
    if not load_recipe(store, folder).keeps_samples:
        return world
    from raysweep.oracle.flow_world import FlowWorld  # torch, which other kinds may do without
    from raysweep.oracle.kept import Kept

    return replace(world, kept=Kept(store, folder)) if isinstance(world, FlowWorld) else world
