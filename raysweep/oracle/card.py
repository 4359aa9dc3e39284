"""The card of a world: what it was made from, how likely it finds images held out, and what its audit says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from raysweep import data
from raysweep.data import channels_and_side
from raysweep.errors import SweepError
from raysweep.experiment import Sample, World
from raysweep.oracle.audits import place, stored_audits, summary
from raysweep.oracle.curve import Curve
from raysweep.oracle.recipe import Recipe, recipe_hash
from raysweep.store import Store

__all__ = ["write_card"]

_SIDE = 8  # samples along a side of the grid
_SIGMAS = 6  # that noise hardly passes


def write_card(store: Store, folder: str, recipe: Recipe, world: World) -> None:
    """Write `card.md` and, for a world of images, a grid of its samples, `samples.png`, into the world's folder."""
    lines = [f"# World {recipe_hash(recipe)} ({recipe.kind})", ""]
    lines += [
        f"{world.classes} classes in {world.dim} dimensions; weights {world.sha}.",
        "",
        "| field | value |",
        "|---|---|",
    ]
    known = {**recipe.model_dump(mode="json"), **recipe.ingredients}
    lines += [f"| {name} | {json.dumps(value)} |" for name, value in known.items()]
    lines += ["", recipe.items] if recipe.items else []
    point = Curve(store, folder).newest
    if point and "test_bits" in point:
        lines += ["", f"On {point['test_images']:,.0f} images held out, given their class: {_bits(point)}."]
    if skipped := _skipped(recipe):
        lines += ["", f"{len(skipped)} files could not be read and are left out: {', '.join(skipped[:20])}."]
    lines += [f"\nAudit{place(one['at'])}: {summary(one)}." for one in stored_audits(store, folder)]
    sample = _drawn(world)
    if sample is not None and "noise" in known:
        lines += ["", _strays(sample, float(known["noise"]))]
    if sample is not None and (grid := _grid(sample)):
        store.write(f"{folder}/samples.png", grid)
        lines += ["", "![Samples, column by column in the order of their classes](samples.png)"]
    store.write(f"{folder}/card.md", "\n".join([*lines, ""]).encode())


def _skipped(recipe: Recipe) -> list[str]:
    """Names of the image files that could not be read."""
    known = recipe.model_dump()
    if not known.get("side"):
        return []
    return list(data.images(str(known["data"]), int(known["side"])).skipped)


def _bits(point: Mapping[str, Any]) -> str:
    return f"{point['test_bits']:.4f} +- {point['test_bits_se']:.4f} bits per dimension (standard error)"


def _drawn(world: World) -> Sample | None:
    """Samples for the card, as many of each class as the grid may hold; None where items are no images."""
    try:
        _, side = channels_and_side(world.dim)
    except SweepError:
        return None
    return world.sample(_SIDE**2 * max(1, world.classes // 8), "grid") if side >= 8 else None


def _strays(sample: Sample, noise: float) -> str:
    """How many samples are no images, because the flow's inverse amplifies noise where no image has been."""
    import numpy as np

    limit = 2 + _SIGMAS * noise
    far = int((np.abs(sample.x).max(1) > limit).sum())
    remedy = ": no images. Noise in training, or longer training, tames a flow" if far else ""
    return f"{far} of {len(sample.x)} samples have numbers beyond {limit:g} and -{limit:g}{remedy}."


def _grid(sample: Sample) -> bytes:
    """A PNG file of samples, classes side by side; nothing where matplotlib is not there."""
    import io

    import numpy as np

    try:
        from matplotlib.image import imsave
    except ModuleNotFoundError:
        return b""
    channels, side = channels_and_side(sample.x.shape[1])
    order = np.argsort(sample.y, kind="stable")[: _SIDE**2]
    x = ((sample.x[order] + 1) / 2).clip(0, 1).reshape(_SIDE, _SIDE, channels, side, side)
    image = x.transpose(1, 3, 0, 4, 2).reshape(_SIDE * side, _SIDE * side, channels)
    whole = np.repeat(np.repeat(image, math.ceil(256 / image.shape[0]), 0), math.ceil(256 / image.shape[0]), 1)
    out = io.BytesIO()
    imsave(out, np.broadcast_to(whole, (*whole.shape[:2], 3)), format="png")
    return out.getvalue()
