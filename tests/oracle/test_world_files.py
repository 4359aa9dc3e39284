"""The recipes that ship. Those of the paper's size are trained at a tiny one, on images in folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from raysweep import data
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.likelihood import trained, weights_of
from raysweep.oracle.recipe import recipe_of
from raysweep.oracle.transformer_world import TransformerRecipe
from raysweep.yamlfile import read_yaml

WORLDS = Path(__file__).parents[2] / "sweeps" / "worlds"
SHARED = Path(os.environ.get("RAYSWEEP_DATA", Path(__file__).parents[3] / "shared" / "data")).absolute()
CLASSES, LARGE = ("cat", "dog", "wild"), {"afhq256": "afhq", "imagenet64": "imagenet"}
Image = pytest.importorskip("PIL.Image")


def shipped(name: str) -> TransformerRecipe:
    found = recipe_of(read_yaml(WORLDS / f"{name}.yaml"))
    assert isinstance(found, TransformerRecipe)
    return found


def animals() -> tuple[np.ndarray, np.ndarray]:
    """43 images of AFHQ [n, 3, 64, 64] and their classes; noise where they are absent (their licence bars copies)."""
    file = SHARED / "afhq_3class_43_64px_nchw.npz"
    if file.is_file():
        with np.load(file) as arrays:
            return arrays["images"], arrays["labels"]
    return np.random.default_rng(0).integers(0, 256, (43, 3, 64, 64), dtype=np.uint8), np.arange(43) % 3


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of both data sets: every fourth image is for testing."""
    for i, (x, y) in enumerate(zip(*animals(), strict=True)):
        for name, test in (("afhq", "test"), ("imagenet", "val")):
            file = tmp_path / name / (test if i % 4 == 0 else "train") / CLASSES[int(y)] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.transpose(1, 2, 0)).save(file)
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    for cached in (data.images, data.image_shape, data.fingerprint):
        cached.cache_clear()


@pytest.mark.parametrize("path", sorted(WORLDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_is_one_and_says_what_it_is(path: Path) -> None:
    recipe = recipe_of(read_yaml(path))
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header
    assert recipe.kind in ("flow", "glow", "transformer")


@pytest.mark.parametrize(
    ("name", "patch", "noise", "images", "epochs"),
    [("afhq256", 8, 0.07, 14_630, 4000), ("imagenet64", 2, 0.05, 1_281_167, 200)],
)
def test_the_papers_recipes_have_its_values(name: str, patch: int, noise: float, images: int, epochs: int) -> None:
    recipe = shipped(name)
    assert (recipe.patch, recipe.width, recipe.blocks, recipe.layers) == (patch, 768, 8, 8)
    assert (recipe.noise, recipe.lr, recipe.batch, recipe.flips) == (noise, 1e-4, 256, True)
    assert recipe.steps == images // recipe.batch * epochs
    assert recipe.warmup == 1 / epochs


@pytest.mark.parametrize("name", LARGE)
def test_the_papers_recipes_train_where_their_data_are(folders: None, name: str) -> None:
    torch.set_num_threads(1)
    tiny = {"width": 8, "blocks": 2, "layers": 1, "steps": 3, "batch": 4, "precision": "float32", "lr": 0.01}
    recipe = shipped(name).model_copy(update={**tiny, "side": 64})
    assert recipe.data == LARGE[name]
    assert (recipe.shape.dim, recipe.shape.classes) == (3 * 64**2, 3)
    points: list[dict[str, float]] = []
    world = recipe.load(weights_of(trained(recipe, None, lambda p: points.append(dict(p)), "cpu")), "0" * 16)
    assert points[-1]["test_images"] == 11
    assert points[-2]["bits"] < points[0]["bits"]
    assert isinstance(world, FlowWorld)
    r = np.exp(world.log_posterior(data.images(recipe.data, 64).x[:2].astype(np.float32) / 128 - 1))
    assert np.abs(r.sum(1) - 1).max() < 1e-12
