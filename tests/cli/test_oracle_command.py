"""`raysweep oracle fit | export | import`: worlds made by themselves and moved between stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from typer.testing import CliRunner

from raysweep import data as images
from raysweep.cli import app
from raysweep.errors import RaysweepError
from raysweep.executors.inline import Inline
from raysweep.oracle.recipe import folder_of, recipe_of
from raysweep.oracle.world import load_world
from raysweep.store import Store
from raysweep.worlds import fit_world
from raysweep.yamlfile import dump_yaml

TINY = {"kind": "transformer", "patch": 4, "width": 16, "blocks": 2, "layers": 1, "batch": 64}
RECIPE = dump_yaml({**TINY, "steps": 12})
Image = pytest.importorskip("PIL.Image")
GAUSSIAN = "kind: gaussian\ndim: 3\n"
FIT = ("fit", "{files}/flow.yaml", "--store", "{files}/s")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["oracle", *arguments])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "flow.yaml").write_text(RECIPE)
    (tmp_path / "gaussian.yaml").write_text(GAUSSIAN)
    return tmp_path


def test_a_world_is_trained_audited_and_described_and_found_the_next_time(files: Path) -> None:
    arguments = ("fit", str(files / "flow.yaml"), "--store", str(files / "s"), "--executor", "inline", "--json")
    made = call(*arguments)
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    recipe = recipe_of(
        {"kind": "transformer", "patch": 4, "width": 16, "blocks": 2, "layers": 1, "steps": 12, "batch": 64}
    )
    assert found["folder"] == folder_of(recipe)
    folder = files / "s" / found["folder"]
    assert load_world(Store(str(files / "s")), found["folder"]).sha == found["sha"]
    card = (folder / "card.md").read_text()
    assert "| blocks | 2 |" in card
    assert "397 images held out" in card
    assert " of 64 samples have numbers beyond 2 and -2" in card
    assert "plus uniform noise in [0, 1), scaled to [-1, 1]: samples" in card
    assert "Audit at temperature 1: aleatoric" in card
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "checkpoint").exists() or not list((folder / "checkpoint").iterdir())
    (folder / "card.md").unlink()  # as if the process had died after the training
    again = call(*arguments)
    assert json.loads(again.stdout) == found
    assert (folder / "card.md").read_text() == card
    other = call(*arguments[:-1], "--set", "steps=6", "--json")
    assert json.loads(other.stdout)["folder"] != found["folder"]


def test_a_world_goes_to_a_folder_and_into_another_store(files: Path) -> None:
    call("fit", str(files / "gaussian.yaml"), "--store", str(files / "s"), "--executor", "inline")
    exported = call("export", str(files / "s"), str(files / "world"))
    assert exported.exit_code == 0, exported.output
    assert {p.name for p in (files / "world").iterdir()} >= {
        "recipe.json",
        "weights.safetensors",
        "audit.json",
        "card.md",
    }
    imported = call("import", str(files / "world"), str(files / "t"))
    assert imported.exit_code == 0, imported.output
    place = folder_of(recipe_of({"kind": "gaussian", "dim": 3}))
    assert load_world(Store(str(files / "t")), place).sha == load_world(Store(str(files / "s")), place).sha
    assert call("import", str(files / "world"), str(files / "t")).exit_code == 0  # again: the same world


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (*FIT, "--set", "steps"),
            "--set must be FIELD=VALUE, but got 'steps'",
        ),
        ((*FIT, "--workers", "2", "--executor", "inline"), r"must have one worker, .*workers=2"),
        ((*FIT, "--set", "batch=10", "--set", "accumulate=20"), "batch=10, workers=1, accumulate=20"),
        ((*FIT, "--set", "accumulate=40", "--workers", "2"), "batch=64, workers=2, accumulate=40"),
        (("export", "{files}/empty", "{files}/out"), "has 0"),
        (("import", "{files}/empty", "{files}/out"), "has 0"),
        (("import", "{files}/half", "{files}/out"), r"half/: must hold .* lacks recipe\.json\. Copy it again"),
    ],
)
def test_what_cannot_be_done_is_one_error_and_leaves_nothing(
    files: Path, arguments: tuple[str, ...], message: str
) -> None:
    (files / "empty").mkdir()
    (files / "half").mkdir()
    (files / "half/weights.safetensors").touch()
    with pytest.raises(RaysweepError, match=message):
        CliRunner().invoke(app, ["oracle", *(a.format(files=files) for a in arguments)], catch_exceptions=False)
    assert not (files / "out").exists()
    assert not (files / "s").exists()


def put_images(folder: Path) -> None:
    """NAME.npz and the folder `pets`, which are good, of images whose side is 8."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8), np.arange(30) % 2
    np.savez(folder / "good.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    for i, image in enumerate(x):
        file = folder / f"pets/{'train' if i < 20 else 'test'}/{'ab'[i % 2]}/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


@pytest.mark.parametrize("executor", ["inline", "ray"])
@pytest.mark.parametrize(
    ("spoil", "data", "message"),
    [
        (lambda folder: (folder / "good.npz").write_bytes(b"text"), "good", r"an .npz must hold .*good\.npz"),
        (
            lambda folder: [file.write_bytes(b"no image") for file in folder.glob("pets/test/*/*")],
            "pets",
            "an image for testing must be readable, but 0 of 10",
        ),
        (
            lambda folder: [file.write_bytes(b"no image") for file in folder.glob("pets/train/*/1?.png")],
            "pets",
            "batch=16. must be readable, but 10 of 20",
        ),
    ],
    ids=["no npz", "no tests", "no batch"],
)
def test_data_that_cannot_be_trained_on_are_one_error_before_anything_is_started(
    spoil: Callable[[Path], Any], data: str, message: str, executor: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_images(files)
    spoil(files)
    forget_data()
    monkeypatch.setenv("RAYSWEEP_DATA", str(files))
    side = ("--set", "side=8") if data == "pets" else ()
    given = (str(files / "flow.yaml"), "--store", str(files / "s"), "--set", f"data={data}", "--set", "batch=16", *side)
    with (
        patch("raysweep.executors.work.Job.__init__", side_effect=AssertionError("started")),
        pytest.raises(RaysweepError, match=message),
    ):
        CliRunner().invoke(app, ["oracle", "fit", *given, "--executor", executor], catch_exceptions=False)
    assert not (files / "s").exists()


def test_a_sweep_over_such_data_is_refused_before_its_store_is_made(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_images(files)
    for file in files.glob("pets/test/*/*"):
        file.write_bytes(file.read_bytes()[:60])
    forget_data()
    monkeypatch.setenv("RAYSWEEP_DATA", str(files))
    world = {**TINY, "steps": 2, "batch": 16, "data": "pets", "side": 8}
    sweep = {"name": "pets", "experiment": "classifier", "world": world, "grid": {"n_train": 32, "width": 8}}
    (files / "sweep.yaml").write_text(dump_yaml(sweep))
    with pytest.raises(RaysweepError, match="an image for testing must be readable"):
        CliRunner().invoke(
            app,
            ["run", str(files / "sweep.yaml"), "--store", str(files / "s"), "--executor", "inline"],
            catch_exceptions=False,
        )
    assert not (files / "s").exists()


def forget_data() -> None:
    for cached in (images.images, images.image_shape, images.fingerprint):
        cached.cache_clear()


def test_two_worlds_of_one_recipe_are_not_mixed(files: Path) -> None:
    for name, seed in (("s", "0"), ("t", "1")):
        call(
            "fit",
            str(files / "flow.yaml"),
            "--store",
            str(files / name),
            "--executor",
            "inline",
            "--set",
            f"seed={seed}",
        )
    one, other = (next((files / name / "oracle").iterdir()) for name in "st")
    (other / "weights.safetensors").replace(files / "weights")
    (one / "weights.safetensors").replace(other / "weights.safetensors")
    (other / "recipe.json").write_text((one / "recipe.json").read_text())
    (files / "weights").replace(one / "weights.safetensors")
    with pytest.raises(RaysweepError, match="must hold no other world of this recipe"):
        CliRunner().invoke(app, ["oracle", "import", str(other), str(files / "s")], catch_exceptions=False)


def test_inline_training_that_was_stopped_continues_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(
        {"kind": "transformer", "patch": 4, "width": 16, "blocks": 2, "layers": 1, "steps": 24, "batch": 64}
    )
    straight = fit_world(recipe, Store(str(tmp_path / "straight")), Inline())
    points: list[float] = []

    def stop(point: Mapping[str, float]) -> str:
        points.append(point["epoch"])
        if point["epoch"] == 13:
            raise KeyboardInterrupt
        return ""

    store = Store(str(tmp_path / "stopped"))
    with monkeypatch.context() as patched:
        patched.setattr(type(recipe), "progress", lambda self, point: stop(point))
        with pytest.raises(KeyboardInterrupt):
            fit_world(recipe, store, Inline())
    monkeypatch.setattr(type(recipe), "progress", lambda self, point: points.append(point["start"]) or "")
    resumed = fit_world(recipe, store, Inline())
    assert points[13:] == [12] * len(points[13:])
    assert resumed.sha == straight.sha


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("patch=3", "patch: must divide .*side=8"),
        ("layer=3", r"must hold a recipe: layer: unknown key\. Did you mean 'layers'\? Valid names: acc"),
        ("data=x", r"data: must be digits or NAME for a file NAME\.npz"),
        ("side=8", "side: is given for images in files of their own"),
        ("width=100", "must hold a recipe: width: must be a multiple of 64, or 8, 16, .*, but got 100"),
        ("width=20", "must hold a recipe: width: must be a multiple of 64, or 8, 16, .*, but got 20"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_with_its_file_and_its_key(files: Path, given: str, message: str) -> None:
    arguments = (a.format(files=files) for a in (*FIT, "--set", given))
    with pytest.raises(RaysweepError, match=rf"flow\.yaml: {message}"):
        CliRunner().invoke(app, ["oracle", *arguments], catch_exceptions=False)
