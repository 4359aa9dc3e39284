"""A finished world is used where the data that it was made from are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from raysweep import data
from raysweep.cli import app
from raysweep.errors import OracleError, RaysweepError, SweepError
from raysweep.executors.inline import Inline
from raysweep.oracle.flow_world import packed
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.recipe import folder_of, recipe_hash, recipe_of
from raysweep.oracle.world import adopt, load_recipe, load_world
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.stored import at_store

RECIPE = {"kind": "transformer", "data": "tiny", "patch": 2, "width": 8, "blocks": 1, "layers": 1, "batch": 4}
GRID = {"n_train": 8, "width": 4, "seed": 0, "steps": 2, "k": 1, "batch": 4, "pool": 16, "eval_items": 32,
        "select_items": 32}  # fmt: skip
SWEEP = {"name": "moved", "experiment": "classifier", "world": RECIPE, "grid": GRID}


def forget_data(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """RAYSWEEP_DATA is another folder, or not set."""
    if folder is None:
        monkeypatch.delenv("RAYSWEEP_DATA")
    else:
        monkeypatch.setenv("RAYSWEEP_DATA", str(folder))
    for cached in (data.images, data.image_shape, data.fingerprint):
        cached.cache_clear()


def write_data(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = {f"x_{part}": rng.integers(0, 256, (8, 4, 4), dtype=np.uint8) for part in ("train", "test")}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "tiny.npz", **arrays, **{f"y_{part}": np.arange(8) % 2 for part in ("train", "test")})


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    """A store with an untrained world, which is invertible as it is; and its folder there."""
    torch.set_num_threads(1)
    write_data(tmp_path / "data", 0)
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path / "data"))
    forget_data(monkeypatch, tmp_path / "data")
    store, recipe = Store(str(tmp_path / "store")), recipe_of(RECIPE)
    assert isinstance(recipe, ImageRecipe)
    adopt(store, recipe, packed(recipe.fresh()))
    return store, folder_of(recipe)


def call(*arguments: str) -> Any:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output or found.exception
    return found


def test_it_is_exported_imported_audited_and_sampled_without_its_data(
    made: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = made
    before = load_world(store, folder).sample(8, "here")
    forget_data(monkeypatch, None)
    with pytest.raises(SweepError, match="RAYSWEEP_DATA"):
        _ = recipe_of(RECIPE).shape
    call("oracle", "export", store.uri, str(tmp_path / "world"))
    call("oracle", "import", str(tmp_path / "world"), str(tmp_path / "other"))
    call("audit", str(tmp_path / "other"), "--items", "100")
    other = load_world(Store(str(tmp_path / "other")), folder)  # the folder's name is a hash of the data, too
    after = other.sample(8, "there and here"), other.sample(8, "here")
    assert np.array_equal(after[1].x, before.x)
    assert np.array_equal(after[1].log_posterior, before.log_posterior)
    assert not np.array_equal(after[0].x, before.x)


def test_a_sweep_finds_it_by_its_recipe_under_the_same_keys(
    made: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = made
    keys = from_mapping(SWEEP, "s.yaml").runs.keys.tolist()
    forget_data(monkeypatch, None)
    with pytest.raises(SweepError, match=r"s\.yaml: data: must be"):
        _ = from_mapping(SWEEP, "s.yaml").runs
    assert at_store(from_mapping(SWEEP, "s.yaml"), store).runs.keys.tolist() == keys
    assert run(from_mapping(SWEEP, "s.yaml"), store, Inline()).counts.ok == 1
    (tmp_path / "s.yaml").write_text(json.dumps(SWEEP))
    assert "nothing to do" in call("plan", str(tmp_path / "s.yaml"), "--store", store.uri).output
    call("audit", store.uri, "--items", "100")
    (tmp_path / "world.yaml").write_text(json.dumps(RECIPE))
    call("oracle", "fit", str(tmp_path / "world.yaml"), "--store", store.uri, "--executor", "inline")


def test_other_data_of_the_same_name_give_another_world(
    made: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = made
    write_data(tmp_path / "data", 1)
    forget_data(monkeypatch, tmp_path / "data")
    assert folder_of(recipe_of(RECIPE)) != folder
    assert folder_of(load_recipe(store, folder)) == folder
    recipe = recipe_of(RECIPE)
    assert isinstance(recipe, ImageRecipe)
    adopt(store, recipe, packed(recipe.fresh()))
    forget_data(monkeypatch, None)
    with pytest.raises(SweepError, match="data: must be"):  # which of the two is not known
        _ = at_store(from_mapping(SWEEP, "s.yaml"), store).runs


def test_a_world_of_an_older_raysweep_needs_its_data_until_it_is_exported(
    made: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = made
    store.delete(f"{folder}/source.json")
    assert folder_of(load_recipe(store, folder)) == folder
    call("oracle", "export", store.uri, str(tmp_path / "world"))
    forget_data(monkeypatch, None)
    with pytest.raises(RaysweepError, match="RAYSWEEP_DATA"):
        load_world(store, folder)
    assert f"oracle/{recipe_hash(load_recipe(Store(str(tmp_path / 'world'))))}" == folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "source.json must hold dim, classes and ingredients"),
        ('{"dim": 0, "classes": 2, "ingredients": {}}', "source.json must hold dim, classes and ingredients"),
        ('{"dim": 64, "classes": 2, "ingredients": {"data_sha256": "0"}}', "must fit recipe.json and source.json"),
        ('{"dim": 65, "classes": 2, "ingredients": {"data_sha256": "0"}}', "source.json, .* must be square, .*=65"),
        ('{"dim": 16, "classes": 3000000000, "ingredients": {"data_sha256": "0"}}', "such a flow at least"),
        ('{"dim": 1000000000000, "classes": 2, "ingredients": {"data_sha256": "0"}}', "such a flow at least"),
    ],
)
def test_a_source_that_is_not_the_worlds_is_refused(made: tuple[Store, str], text: str, message: str) -> None:
    store, folder = made
    store.write(f"{folder}/source.json", text.encode())
    with pytest.raises(OracleError, match=message):
        load_world(store, folder)
