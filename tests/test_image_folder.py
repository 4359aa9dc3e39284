"""Images in folders: sizes, channels, splits, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raysweep import data, image_folder
from raysweep.errors import SweepError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    for cached in (data.images, data.image_shape):
        cached.cache_clear()
    return tmp_path / "pets"


def put(path: Path, size: tuple[int, int] = (20, 10), colour: object = (200, 10, 0), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_images_are_scaled_to_their_shorter_side_and_cut_in_the_middle(folder: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16, 0] = 250  # the middle third is red
    (folder / "train/cat").mkdir(parents=True)
    Image.fromarray(wide).save(folder / "train/cat/a.png")
    put(folder / "train/dog/b.jpg", (9, 30))
    put(folder / "test/cat/c.webp")
    put(folder / "test/dog/d.gif")
    found = data.images("pets", 4)
    assert (found.x.shape, found.train, found.classes, found.skipped) == ((4, 48), 2, 2, ())
    assert found.y.tolist() == [0, 1, 0, 1]
    first = found.x[0].reshape(3, 4, 4)
    assert first[0].min() > 200
    assert not first[1:].any()
    assert data.image_shape("pets", 4) == data.ImageShape(48, 2, 2, 2)


def test_grey_images_have_one_channel(folder: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png"):
        put(folder / name, (5, 5), 77, "L")
    found = data.images("pets", 5)
    assert found.x.shape == (3, 25)
    assert (found.x == 77).all()
    assert data.image_shape("pets", 5).inputs == 25


def test_without_parts_a_sixth_is_for_testing_whatever_else_there_is(folder: Path) -> None:
    for i in range(60):
        put(folder / f"{'ab'[i % 2]}/{i}.png", (3, 3))
    before = image_folder.listed(folder)
    held = {p.name for p in before.paths[before.train :]}
    assert 3 <= len(held) <= 20
    put(folder / "a/new.png", (3, 3))
    after = image_folder.listed(folder)
    assert held == {p.name for p in after.paths[after.train :]} - {"new.png"}


def test_what_cannot_be_read_is_left_out_and_said(folder: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"):
        put(folder / name)
    (folder / "train/a/0.png").write_bytes(b"no image")
    (folder / "train/b/5.jpg").write_bytes((folder / "train/b/2.png").read_bytes()[:30])
    (folder / "train/a/notes.txt").write_text("not an image by its name")
    found = data.images("pets", 4)
    assert found.skipped == ("0.png", "5.jpg")
    assert (len(found.y), found.train) == (4, 2)


def test_the_fingerprint_follows_contents_classes_and_parts(folder: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png"):
        put(folder / name)
    files = image_folder.listed(folder)
    before = image_folder.digest(files)
    assert image_folder.digest(image_folder.listed(folder)) == before
    put(folder / "train/b/2.png", colour=(1, 2, 3))
    changed = image_folder.digest(image_folder.listed(folder))
    (folder / "train/a/1.png").rename(folder / "train/b/1.png")
    put(folder / "train/a/7.png")
    assert len({before, changed, image_folder.digest(image_folder.listed(folder))}) == 3


def test_what_makes_no_data_set_is_refused(folder: Path) -> None:
    put(folder / "train/a/1.png")
    put(folder / "test/a/1.png")
    with pytest.raises(SweepError, match=r"two classes or more.*classes=1, training=1, testing=1"):
        data.images("pets", 4)
    put(folder / "test/b/1.png")
    with pytest.raises(SweepError, match=r"classes for testing must be among.*\['b'\]"):
        data.images("pets", 4)
    put(folder / "train/b/1.png")
    with pytest.raises(SweepError, match=r"side: must be given.*data='pets', side=0"):
        data.images("pets")
    with pytest.raises(SweepError, match=r"side: is given for images in files of their own.*side=9.*'digits'"):
        data.images("digits", 9)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(SweepError, match="none of 4 is"):
        data.image_shape("pets", 8)
