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


@pytest.mark.parametrize(("name", "other"), [("png", "L"), ("tif", "L"), ("png", "RGB")])
def test_levels_of_16_bits_are_scaled_to_8(folder: Path, name: str, other: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for part in ("train/b/2.png", "test/b/3.png", "train/a/0.png"):
        put(folder / part, mode=other, colour=90 if other == "L" else (90, 90, 90))
    deep = folder / f"train/a/1.{name}"
    Image.fromarray(ramp).save(deep)
    with Image.open(deep) as opened:
        assert opened.mode == "I;16"
    found = data.images("pets", 8)
    planes = 1 if other == "L" else 3
    expected = np.tile(np.rint(ramp.ravel() / 257), planes)
    np.testing.assert_allclose(found.x[1], expected, atol=1)
    assert (found.x[0] == 90).all()
    assert found.skipped == ()


def test_levels_without_a_known_range_and_huge_images_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train/a/1.png", "train/b/2.png", "test/b/3.png"):
        put(folder / part)
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(folder / "train/a/0.tif")
    Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)).save(folder / "train/b/4.tif")
    put(folder / "train/b/5.png", (60, 60))
    (folder / "train/b/6.pgm").write_bytes(b"P5\n2 2\n4095\n" + np.array([0, 4095] * 2, ">u2").tobytes())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = data.images("pets", 2)
    assert found.skipped == ("0.tif", "4.tif", "5.png")
    assert found.x[2].tolist() == [0, 255] * 6  # the .pgm; its levels are 12 bits
    data.require_trainable("pets", 2, 3)


@pytest.mark.parametrize(
    ("spoilt", "batch", "message"),
    [
        (
            ("test/a/3.png", "test/b/3.png"),
            2,
            r"an image for testing must be readable, but 0 of 2 .*not 3\.png, 3\.png",
        ),
        (("train/a/1.png", "train/a/2.png"), 2, r"an image of class 'a' for training .*0 of 2 .*not 1\.png, 2\.png"),
        (("train/a/1.png",), 4, r"as a batch \(batch=4\) must be readable, but 3 of 4 .*not 1\.png"),
        (("train/a/1.png", "test/a/3.png"), 3, None),
    ],
)
def test_too_few_readable_images_are_refused(folder: Path, spoilt: tuple[str, ...], batch: int, message: str) -> None:
    for label in "ab":
        for part in ("train/{}/1.png", "train/{}/2.png", "test/{}/3.png"):
            put(folder / part.format(label))
    for name in spoilt:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) - 30])  # its header is sound
    if message is None:
        data.require_trainable("pets", 4, batch)
        return
    with pytest.raises(SweepError, match=message):
        data.require_trainable("pets", 4, batch)


def test_a_class_without_an_image_for_training_is_refused(folder: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/c/1.png"):
        put(folder / name)
    (folder / "train/c").mkdir()
    with pytest.raises(SweepError, match=r"class 2 of pets has none \(classes=3"):
        data.image_shape("pets", 4)


def test_what_is_not_there_is_refused_for_that_and_not_for_its_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name, message in (
        (tmp_path / "gone", "absent", r"data: must be .*'absent', RAYSWEEP_DATA='.*/gone', which is no folder\)"),
        (tmp_path, "absent", r"data: must be .*'absent', RAYSWEEP_DATA='[^,]*'\)"),
        (tmp_path, "fashion-mnist", r"NAME must be letters, digits and underscores, .*'fashion-mnist'\). Rename"),
    ):
        monkeypatch.setenv("RAYSWEEP_DATA", str(folder))
        with pytest.raises(SweepError, match=message):
            data.image_shape(name, 8)
