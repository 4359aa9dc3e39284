"""The bundled digits, and images from files."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from raysweep import data
from raysweep.errors import SweepError


def test_digits_are_1797_grey_images_of_ten_classes():
    digits = data.load("digits")
    assert digits.x.shape == (1797, 64)
    assert digits.x.dtype == np.uint8
    assert digits.y.dtype == np.int64
    assert set(digits.y.tolist()) == set(range(digits.classes)) == set(range(10))
    assert (digits.x.min(), digits.x.max()) == (0, digits.levels - 1) == (0, 16)


def test_the_hash_is_of_the_content_and_golden():
    digits = data.load("digits")
    assert digits.sha256 == hashlib.sha256(digits.x.tobytes() + digits.y.tobytes()).hexdigest()
    assert digits.sha256 == "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"


def test_a_data_set_is_loaded_once():
    assert data.load("digits") is data.load("digits")


@pytest.mark.parametrize("name", ["digit", "", "../digits"])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(SweepError, match=r"must be a known data set.*digits"):
        data.load(name)


def test_images_of_a_file_are_channel_by_channel_and_sized_without_being_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    x = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    y = np.arange(9) % 3
    np.savez(tmp_path / "colours.npz", x_train=x[:6], y_train=y[:6], x_test=x[6:], y_test=y[6:])
    found = data.images("colours")
    assert (found.classes, found.train) == (3, 6)
    np.testing.assert_array_equal(found.x.reshape(9, 3, 4, 4)[2, 1], x[2, :, :, 1])
    np.testing.assert_array_equal(found.y, y)
    assert data.image_shape("colours") == data.ImageShape(48, 3, 6, 3)
    standard = found.standardised()[:6].reshape(6, 3, 16)
    np.testing.assert_allclose(standard.mean((0, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(standard.std((0, 2)), 1, rtol=1e-6)


def test_images_may_be_jpeg_that_share_a_header(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    monkeypatch.setattr(data, "_JPEG_TEST", 1)
    files = []
    for grey in (40, 200):
        stream = io.BytesIO()
        image.new("RGB", (8, 8), (grey, grey, grey)).save(stream, "JPEG")
        files.append(stream.getvalue())
    common = next(i for i, (a, b) in enumerate(zip(*files, strict=False)) if a != b)
    rest = [file[common:] for file in files]
    np.savez(
        tmp_path / "photographs.npz",
        header=np.frombuffer(files[0][:common], np.uint8),
        payload=np.frombuffer(b"".join(rest), np.uint8),
        lengths=np.array([len(r) for r in rest], np.uint16),
        labels=np.array([0, 1]),
    )
    found = data.images("photographs")
    np.testing.assert_allclose(found.x.mean(1), [40, 200], atol=2)
    assert data.image_shape("photographs") == data.ImageShape(192, 2, 1, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent", r"NAME\.npz or NAME\.parquet in the folder"), ("other", "must be x_train"), ("../x", "NAME")],
)
def test_a_file_that_is_not_of_images_is_refused(tmp_path, monkeypatch, name, said):
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    with pytest.raises(SweepError, match=said):
        data.image_shape(name)


def table(**columns):
    images = [[0, 1, 2, 255], [9, 9, 9, 9], [4, 5, 6, 7]]
    return pa.table({"x": images, "y": [1, 0, 2], "test": [True, False, False], **columns})


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.list_(pa.uint8()), pa.list_(pa.uint8(), 4)], ids=str)
def test_images_may_be_lists_in_a_parquet_file(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    parquet.write_table(table(x=table()["x"].cast(kind)), tmp_path / "listed.parquet")
    data.images.cache_clear()
    data.image_shape.cache_clear()
    found = data.images("listed")
    assert found.x.tolist() == [[9, 9, 9, 9], [4, 5, 6, 7], [0, 1, 2, 255]]  # those for training first
    assert found.x.dtype == np.uint8
    assert (found.y.tolist(), found.classes, found.train) == ([0, 2, 1], 3, 2)
    assert data.image_shape("listed") == data.ImageShape(4, 3, 2, 1)


@pytest.mark.parametrize(
    "columns",
    [
        {"x": [[0, 1], [2, 3, 4, 5, 6, 7], [8, 9, 0, 1]]},
        {"x": [[0, 256], [0, 0], [0, 0]]},
        {"x": [[0.5, 1.0], [0.0, 0.0], [0.0, 0.0]]},
        {"x": [1, 2, 3]},
        {"y": [1.5, 0.0, 2.0]},
    ],
)
def test_a_parquet_file_that_holds_no_images_is_refused(tmp_path, columns):
    parquet.write_table(table(**columns), tmp_path / "odd.parquet")
    with pytest.raises(SweepError, match=r"must have the columns x .*odd\.parquet has not"):
        data.images_in(tmp_path / "odd.parquet")
