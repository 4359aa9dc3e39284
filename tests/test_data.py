"""The bundled digits, and images from files."""

import hashlib
import io
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from raysweep import data, image_file
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
    monkeypatch.setattr(image_file, "_JPEG_TEST", 1)
    greys = (40, 200, 120)
    files = []
    for grey in greys:
        stream = io.BytesIO()
        image.new("RGB", (8, 8), (grey, grey, grey)).save(stream, "JPEG")
        files.append(stream.getvalue())
    common = next(i for i, each in enumerate(zip(*files, strict=False)) if len({*each}) > 1)
    rest = [file[common:] for file in files]
    arrays = {
        "header": np.frombuffer(files[0][:common], np.uint8),
        "payload": np.frombuffer(b"".join(rest), np.uint8),
        "lengths": np.array([len(r) for r in rest], np.uint16),
        "labels": np.array([0, 1, 1]),
    }
    np.savez(tmp_path / "photographs.npz", **arrays)
    found = data.images("photographs")
    np.testing.assert_allclose(found.x.mean(1), greys, atol=2)
    assert data.image_shape("photographs") == found.shape == data.ImageShape(192, 2, 2, 1)

    payload = arrays["payload"].copy()
    payload[len(rest[0]) : -len(rest[2])] = 0
    np.savez(tmp_path / "spoilt.npz", **{**arrays, "payload": payload})
    with pytest.raises(SweepError, match=r"payload must hold JPEG images, but image 1 is none.*spoilt\.npz"):
        data.require_trainable("spoilt", 0, 1)
    np.savez(tmp_path / "short.npz", **{**arrays, "payload": payload[:-1]})
    with pytest.raises(SweepError, match=r"one JPEG per label.*labels=3.*short\.npz"):
        data.image_shape("short")


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
    return pa.table({"x": images, "y": [1, 0, 1], "test": [True, False, False], **columns})


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.list_(pa.uint8()), pa.list_(pa.uint8(), 4)], ids=str)
def test_images_may_be_lists_in_a_parquet_file(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    parquet.write_table(table(x=table()["x"].cast(kind)), tmp_path / "listed.parquet")
    data.images.cache_clear()
    data.image_shape.cache_clear()
    found = data.images("listed")
    assert found.x.tolist() == [[9, 9, 9, 9], [4, 5, 6, 7], [0, 1, 2, 255]]  # those for training first
    assert found.x.dtype == np.uint8
    assert (found.y.tolist(), found.classes, found.train) == ([0, 1, 1], 2, 2)
    assert data.image_shape("listed") == data.ImageShape(4, 2, 2, 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [[0, 1], [2, 3, 4, 5, 6, 7], [8, 9, 0, 1]]}, "must have the columns x .*lists of x have 3 lengths"),
        ({"x": [1, 2, 3]}, "must have the columns x "),
        ({"x": [[0, 1, 2, None], [0] * 4, [0] * 4]}, "must have the columns x .*hold 1 nulls"),
        ({"test": [True, False, None]}, r"must have the columns x .*nulls: {'test': 1}"),
        ({"test": ["true", "false", "false"]}, "must have the columns x .*test is object"),
        ({"test": [False] * 3}, "none with test = true"),
        ({"test": [True] * 3}, "none with test = false"),
        ({"x": [[0, 256, 0, 0], [0] * 4, [0] * 4]}, "x where test = true must hold whole numbers from 0 to 255 .*256"),
        ({"x": [[0.5] * 4] * 3}, "x where test = false must hold whole numbers .*float64, 0.5 to 0.5"),
        ({"x": [[1] * 5] * 3}, r"must have the shape .*\[2, 5\]"),
        ({"y": [1.5, 0.0, 2.0]}, "y where test = false must hold classes, .*float64"),
        ({"y": [0, 1, 1]}, "class 0 of .* has none"),
        ({"y": [1, 0, 2]}, r"class 1 of .* has none \(classes=3, .*=2, images of class 1 for testing=1\)"),
    ],
)
def test_a_parquet_file_that_holds_no_images_is_refused(tmp_path, columns, message):
    parquet.write_table(table(**columns), tmp_path / "odd.parquet")
    with pytest.raises(SweepError, match=rf"(?s)^data: (?=.*odd\.parquet).*{message}"):
        image_file.shape_in(tmp_path / "odd.parquet")


def test_a_parquet_file_with_broken_pages_is_refused(tmp_path):
    file = tmp_path / "odd.parquet"
    parquet.write_table(table(), file, compression="zstd")
    content = bytearray(file.read_bytes())
    content[4:120] = b"\xff" * 116
    file.write_bytes(content)
    with pytest.raises(SweepError, match=r"must have the columns x .*odd\.parquet has not"):
        image_file.shape_in(file)


X, Y = np.random.default_rng(1).integers(0, 256, (12, 8, 8), dtype=np.uint8), np.arange(12) % 3


def arrays(**changed):
    return {"x_train": X, "y_train": Y, "x_test": X[:6], "y_test": Y[:6], **changed}


@pytest.mark.parametrize(
    "changed",
    [
        {"x_train": X[..., None], "x_test": X[:6].astype(int)},
        {"x_train": X.reshape(12, 64), "x_test": X[:6]},
        {"y_train": Y[:, None].astype(np.uint8)},
    ],
)
def test_arrays_of_one_meaning_are_the_same_images(tmp_path, changed):
    for name, some in (("plain", arrays()), ("changed", arrays(**changed))):
        np.savez(tmp_path / f"{name}.npz", **some)
    one, other = (image_file.images_in(tmp_path / f"{name}.npz") for name in ("plain", "changed"))
    np.testing.assert_array_equal(one.x, np.concatenate([X, X[:6]]).reshape(18, 64))
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.y, other.y)
    assert one.shape == other.shape == image_file.shape_in(tmp_path / "changed.npz") == data.ImageShape(64, 3, 12, 6)
    assert other.x.dtype == np.uint8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": X.astype(int) + 100}, "x_train must hold whole numbers from 0 to 255 .*int64, .* to 355"),
        ({"x_test": X[:6].astype(np.int16) - 1}, "x_test must hold whole numbers .*int16, -1 to"),
        ({"x_train": X / 255}, "x_train must hold whole numbers .*float64, 0 to 1 in .*astype"),
        ({"x_train": X > 9}, "x_train must hold whole numbers .*bool"),
        ({"x_train": X.astype(str)}, "x_train must hold whole numbers .*<U3"),
        ({"x_train": X.astype(object)}, "x_train cannot be read .*Object arrays"),
        ({"x_train": np.zeros((12, 8, 8, 4), np.uint8)}, r"x_train must have the shape .*\[12, 8, 8, 4\]"),
        ({"x_train": np.zeros((12, 3, 8, 8), np.uint8)}, r"x_train must have the shape .*\[12, 3, 8, 8\].*moveaxis"),
        ({"x_train": np.zeros((12, 4, 16), np.uint8)}, r"x_train must have the shape .*\[12, 4, 16\]"),
        ({"x_train": np.zeros((12, 0, 0), np.uint8)}, r"x_train must have the shape .*\[12, 0, 0\]"),
        ({"x_train": np.zeros((12, 65), np.uint8)}, r"x_train must have the shape .*\[12, 65\]"),
        ({"x_train": np.uint8(3)}, r"x_train must have the shape .*\[\]"),
        ({"x_test": X[:6, :7, :7]}, r"x_train and x_test must have one size, but they are \(8, 8\) and \(7, 7\)"),
        ({"x_test": np.zeros((6, 8, 8, 3), np.uint8)}, "must have one size"),
        ({"x_test": X[:0], "y_test": Y[:0]}, "x_test must hold images, but there are none"),
        ({"y_train": Y[:5]}, "one label per image, but there are 12 images and 5 labels"),
        ({"y_train": np.eye(3, dtype=int)[Y]}, r"y_train must have the shape \[n\].*\[12, 3\].*argmax"),
        ({"y_test": Y[:6] - 1}, "y_test must hold classes, .*-1 to 1"),
        ({"y_train": Y.astype(float)}, "y_train must hold classes, .*float64"),
        ({"y_train": Y.astype(str)}, "y_train must hold classes, .*<U"),
        ({"y_train": Y * 10, "y_test": Y[:6] * 10}, "class 1 of .* has none .classes=21, .*=3, .*without gaps"),
        ({"y_test": Y[:6] + 1}, "class 3 of .* has none"),
        ({"y_train": Y * 0, "y_test": Y[:6] * 0}, "two classes or more, .*classes=1"),
        ({"y_train": np.full(12, 2**64 - 1, np.uint64)}, "y_train must hold classes"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(tmp_path, changed, message):
    np.savez(tmp_path / "odd.npz", **arrays(**changed))
    with pytest.raises(SweepError, match=rf"(?s)^data: (?=.*odd\.npz).*{message}"):
        image_file.shape_in(tmp_path / "odd.npz")


def flipped(content):
    at = content.index(X.tobytes()) + 100
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda content: content[: len(content) // 2], "BadZipFile"),
        (flipped, "x_train cannot be read .*Bad CRC-32"),
        (lambda content: b"some text", "the file cannot be read"),
        (lambda content: b"", "EOFError"),
        (lambda content: content[content.index(b"\x93NUMPY") :], "the file cannot be read"),
    ],
    ids=["truncated", "flipped", "text", "empty", "no zip"],
)
def test_broken_files_of_arrays_are_refused(tmp_path, spoil, why):
    file = tmp_path / "odd.npz"
    np.savez(file, **arrays())
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(SweepError, match=f"an .npz must hold arrays of numbers .*{why}"):
        image_file.shape_in(file)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path))
    np.savez(tmp_path / "locked.npz", **arrays())
    denied = PermissionError(13, "Permission denied", "locked.npz")
    with (
        patch("builtins.open", side_effect=denied),
        pytest.raises(SweepError, match=r"every file of 'locked' must be readable, .*Permission denied: 'locked\.npz'"),
    ):
        data.fingerprint("locked")
