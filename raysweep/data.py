"""Real data, as arrays with a content hash. The built-in default is scikit-learn's digits.

Other images are in the folder that the environment variable RAYSWEEP_DATA names: NAME.npz with x_train, y_train, x_test
and y_test (uint8, [n, height, width] or [n, height, width, 3]), or with images as JPEG (header, payload, lengths,
labels; the last 10,000 are for testing); NAME.parquet with the columns x (a list of numbers per image, channel by
channel), y (its class) and test (whether it is for testing); or a folder NAME with a folder of image files per class.
`hf:NAME` is a data set of Hugging Face.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep import hub, image_folder
from raysweep.errors import SweepError, nearest
from raysweep.image_folder import Files

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageShape",
    "Images",
    "channels_and_side",
    "fingerprint",
    "image_shape",
    "images",
    "images_in",
    "levels",
    "load",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]

DATASETS = ("digits",)
_DIGITS_TRAIN, _JPEG_TEST = 1400, 10_000
_GREY = 256  # levels of a file of images


@dataclass(frozen=True)
class Dataset:
    """Labelled items.

    Attributes:
        x: [n, d] integer grey levels, 0 to `levels` - 1.
        y: [n] class of each item, 0 to `classes` - 1.
        levels: Number of grey levels, the range of uniform dequantisation.
        sha256: Hash of x and y, part of the key of everything trained on them.
    """

    x: Bytes
    y: npt.NDArray[np.int64]
    classes: int
    levels: int
    sha256: str


@dataclass(frozen=True)
class Images:
    """Labelled images, those for training first.

    Attributes:
        x: [n, channels * height * width] grey levels, channel by channel.
        y: [n] class of each image, 0 to `classes` - 1.
        train: How many are for training; the others are for testing.
        levels: Number of grey levels, the range of uniform dequantisation.
        skipped: Names of files that could not be read.
    """

    x: Bytes
    y: npt.NDArray[np.int64]
    classes: int
    train: int
    levels: int = _GREY
    skipped: tuple[str, ...] = ()

    def standardised(self) -> npt.NDArray[np.float32]:
        """[n, ...] each channel with mean 0 and variance 1 over the training images."""
        side = math.isqrt(self.x.shape[1])
        channels = 1 if side * side == self.x.shape[1] else 3
        x = self.x.reshape(len(self.x), channels, -1).astype(np.float32)
        mean, sd = (f(x[: self.train], axis=(0, 2), keepdims=True) for f in (np.mean, np.std))
        return np.asarray((x - mean) / sd).reshape(len(x), -1)


@dataclass(frozen=True)
class ImageShape:
    """Numbers per image, classes, and how many images are for training and for testing."""

    inputs: int
    classes: int
    train: int
    test: int


@cache
def load(name: str) -> Dataset:
    """A data set by name.

    Raises:
        SweepError: no such data set, or scikit-learn is not installed.
    """
    if name != "digits":
        raise SweepError(f"data: must be a known data set, but got {name!r}. {nearest(name, DATASETS)}")
    table = np.loadtxt(_digits(), delimiter=",", dtype=np.uint8)
    x, y = np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)
    sha = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    return Dataset(x=x, y=y, classes=10, levels=17, sha256=sha)


@cache
def images(name: str, side: int = 0) -> Images:
    """Images by name: `digits`, a file or folder in the folder RAYSWEEP_DATA, or `hf:NAME`.

    Args:
        side: Height and width, of images in files of their own; others have theirs.

    Raises:
        SweepError: there is no such file, it is of another kind, or has other images than of this side.
    """
    if files := _files(name, side):
        x, y, train, skipped = image_folder.decoded(files, side)
        return Images(x, y, len(files.classes), train, skipped=skipped)
    if name == "digits":
        found = load(name)
        return Images(found.x, found.y, found.classes, _DIGITS_TRAIN, found.levels)
    return images_in(_file(name))


def images_in(file: Path) -> Images:
    """The images of a file.

    Raises:
        SweepError: it is of another kind.
    """
    if file.suffix == ".parquet":
        return _in_parquet(file)
    with np.load(file) as arrays:
        if _of_jpeg(arrays):
            x, y = _decoded(arrays["header"], arrays["payload"], arrays["lengths"]), arrays["labels"]
            train = len(y) - _JPEG_TEST
        else:
            x, y = (np.concatenate([arrays[f"{k}_train"], arrays[f"{k}_test"]]) for k in "xy")
            train = len(arrays["y_train"])
    flat = np.moveaxis(x, 3, 1) if x.ndim == 4 else x
    labels = y.astype(np.int64).ravel()
    return Images(np.ascontiguousarray(flat).reshape(len(x), -1), labels, int(labels.max()) + 1, train)


def channels_and_side(inputs: int) -> tuple[int, int]:
    """Channels, 1 or 3, and side of a square image of so many numbers.

    Raises:
        SweepError: no square image has so many.
    """
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if channels * side**2 == inputs:
            return channels, side
    raise SweepError(f"data: images must be square, with 1 or 3 channels, but got (numbers={inputs}). Crop them")


def levels(name: str) -> int:
    """Grey levels of `images(name)`."""
    return load(name).levels if name == "digits" else _GREY


@cache
def fingerprint(name: str) -> str:
    """The SHA-256 of `images(name)`: of the file, or of the digits' own arrays.

    Raises:
        SweepError: there is no such file.
    """
    if name == "digits":
        return load(name).sha256
    if files := _listed(name):
        return image_folder.digest(files)
    with open(_file(name), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def image_shape(name: str, side: int = 0) -> ImageShape:
    """What a plan must know about `images(name, side)`, without decoding all of them. Unreadable files are counted.

    Raises:
        SweepError: as for `images`.
    """
    if files := _files(name, side):
        return ImageShape(
            image_folder.channels(files) * side**2, len(files.classes), files.train, len(files.y) - files.train
        )
    if name == "digits":
        found = images(name)
        return ImageShape(found.x.shape[1], found.classes, found.train, len(found.y) - found.train)
    file = _file(name)
    if file.suffix == ".parquet":
        found = _in_parquet(file)
        return ImageShape(found.x.shape[1], found.classes, found.train, len(found.y) - found.train)
    with np.load(file) as arrays:
        if _of_jpeg(arrays):
            one = _decoded(arrays["header"], arrays["payload"], arrays["lengths"][:1])
            y = arrays["labels"]
            return ImageShape(one.size, int(y.max()) + 1, len(y) - _JPEG_TEST, _JPEG_TEST)
        train, test = arrays["y_train"], arrays["y_test"]
        size = math.prod(arrays["x_test"].shape[1:])
        return ImageShape(size, int(max(train.max(), test.max())) + 1, len(train), len(test))


def _place(name: str) -> Path:
    return Path(os.environ.get("RAYSWEEP_DATA", "")) / name


def _is_folder(name: str) -> bool:
    return bool(os.environ.get("RAYSWEEP_DATA")) and name.isidentifier() and _place(name).is_dir()


def _listed(name: str) -> Files | None:
    """The files of a name, if each of its images is a file."""
    if name.startswith(hub.PREFIX):
        return hub.listed(name)
    return image_folder.listed(_place(name)) if _is_folder(name) else None


def _files(name: str, side: int) -> Files | None:
    """As `_listed`.

    Raises:
        SweepError: a side is missing, or given for what has its own.
    """
    files = _listed(name)
    if files is None and side:
        if name != "digits":
            _file(name)  # refuses what is not there at all
        raise SweepError(
            f"side: is given for images in files of their own, which are scaled to it, but got (side={side}) for "
            f"{name!r}, whose images have theirs. Leave it out"
        )
    if files and side < 1:
        raise SweepError(
            f"side: must be given for images in files of their own, but got (data={name!r}, side={side}). Say 64"
        )
    return files


def _file(name: str) -> Path:
    """The file of a name in the folder RAYSWEEP_DATA."""
    folder = os.environ.get("RAYSWEEP_DATA", "")
    for ending in ("npz", "parquet") if name.isidentifier() and folder else ():
        if (file := Path(folder) / f"{name}.{ending}").is_file():
            return file
    wanted = (
        "data: must be digits or NAME for a file NAME.npz or NAME.parquet in the folder RAYSWEEP_DATA, or for a folder "
        "NAME of images there"
    )
    if not name.isidentifier():
        raise SweepError(
            f"{wanted}, and NAME must be letters, digits and underscores, the first of them no digit, but got "
            f"(data={name!r}). Rename the file"
        )
    absent = ", which is no folder" if folder and not Path(folder).is_dir() else ""
    raise SweepError(
        f"{wanted}, but got (data={name!r}, RAYSWEEP_DATA={folder!r}{absent}). Set the variable to the folder that "
        "holds it"
    )


@cache
def _in_parquet(file: Path) -> Images:
    from pyarrow import ArrowException, compute, parquet

    try:
        table = parquet.read_table(file, columns=["x", "y", "test"])
        x, y, test = (table[name].combine_chunks() for name in ("x", "y", "test"))
        if len(sizes := compute.unique(compute.list_value_length(x))) != 1:
            raise ValueError(f"lists of x have {len(sizes)} lengths")
        flat, labels = x.flatten().to_numpy(zero_copy_only=False), y.to_numpy(zero_copy_only=False)
        if flat.dtype.kind not in "iu" or flat.min() < 0 or flat.max() >= _GREY or labels.dtype.kind not in "iu":
            raise ValueError(f"x holds {flat.dtype} from {flat.min()} to {flat.max()}, y {labels.dtype}")
        held = test.to_numpy(zero_copy_only=False).astype(bool)
    except (ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SweepError(
            f"data: a parquet file of images must have the columns x (for each image a list of as many numbers, 0 to "
            f"255), y (integers) and test (booleans), but {file} has not: {' '.join(str(error).split())}. Write it so"
        ) from error
    order = np.argsort(held, kind="stable")
    shaped = flat.astype(np.uint8).reshape(len(labels), -1)
    return Images(shaped[order], labels[order].astype(np.int64), int(labels.max()) + 1, int((~held).sum()))


def _of_jpeg(arrays: Mapping[str, Any]) -> bool:
    """Whether a file holds images as JPEG; else it holds arrays."""
    if {"header", "payload", "lengths", "labels"} <= set(arrays):
        return True
    if not {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        raise SweepError(f"data: images must be x_train, y_train, x_test and y_test, but the file has {sorted(arrays)}")
    return False


def _decoded(header: Bytes, payload: Bytes, lengths: npt.NDArray[np.integer[Any]]) -> Bytes:
    """JPEG images that share a header, [n, height, width, 3]."""
    from PIL import Image

    ends = np.cumsum(lengths.astype(np.int64)).tolist()
    first, rest = header.tobytes(), payload.tobytes()
    parts = zip([0, *ends[:-1]], ends, strict=True)
    return np.stack([np.asarray(Image.open(io.BytesIO(first + rest[a:b]))) for a, b in parts])


def _digits() -> Path:
    """The file that scikit-learn bundles; its own loader would add most of a second of imports to each plan."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise SweepError("data: scikit-learn, which bundles the digits, must be installed. pip install scikit-learn")
    return Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
