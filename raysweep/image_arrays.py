"""Images as arrays of a file, .npz or .parquet, and what they must be: checked before anything is trained on them."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError

__all__ = [
    "LEVELS",
    "ImageShape",
    "Images",
    "channels_and_side",
    "images_in",
    "require_classes",
    "shape_in",
    "unreadable",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Integers: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = npt.NDArray[Any]

LEVELS = 256  # grey levels of a file of images
_JPEG_TEST = 10_000
_JPEG = ("header", "payload", "lengths", "labels")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_BROKEN = (
    OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError, SyntaxError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


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
    y: Integers
    classes: int
    train: int
    levels: int = LEVELS
    skipped: tuple[str, ...] = ()

    @property
    def shape(self) -> ImageShape:
        return ImageShape(self.x.shape[1], self.classes, self.train, len(self.y) - self.train)

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


@dataclass(frozen=True)
class _Part:
    """The images for training, or those for testing, as a file has them, and what the file calls the two arrays."""

    x_name: str
    x: Array
    y_name: str
    y: Array


def images_in(file: Path) -> Images:
    """The images of a file.

    Raises:
        SweepError: it cannot be read, or its arrays are no labelled images.
    """
    if file.suffix == ".parquet":
        return _in_parquet(file)
    arrays = _arrays(file)
    if "labels" not in arrays:
        return _checked(file, *(_Part(x, arrays[x], y, arrays[y]) for x, y in (_ARRAYS[:2], _ARRAYS[2:])))
    train, y = _require_jpeg(file, arrays), arrays["labels"]
    x = _decoded(file, arrays, len(y))
    return _checked(
        file, *(_Part("payload", x[part], "labels", y[part]) for part in (slice(train), slice(train, None)))
    )


def shape_in(file: Path) -> ImageShape:
    """What a plan must know about `images_in(file)`. Of JPEG images only the first is decoded.

    Raises:
        SweepError: as for `images_in`.
    """
    if file.suffix == ".parquet" or "labels" not in (arrays := _arrays(file)):
        return images_in(file).shape
    train, y = _require_jpeg(file, arrays), _labels(file, "labels", arrays["labels"])
    inputs = _pixels(file, "payload", _decoded(file, arrays, 1)).shape[1]
    return ImageShape(inputs, _require_parts(file, y[:train], y[train:]), train, len(y) - train)


def channels_and_side(inputs: int) -> tuple[int, int]:
    """Channels, 1 or 3, and side of a square image of so many numbers.

    Raises:
        SweepError: no square image has so many.
    """
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if side and channels * side**2 == inputs:
            return channels, side
    raise SweepError(f"data: images must be square, with 1 or 3 channels, but got (numbers={inputs}). Crop them")


def require_classes(where: str, train: Integers, test: Integers, classes: int) -> None:
    """
    Args:
        train, test: [n] labels, 0 or more.
        classes: How many there are.

    Raises:
        SweepError: there are no two classes, or one has no image for training.
    """
    if classes < 2:
        raise SweepError(
            f"data: images must have two classes or more, but those of {where} have (classes={classes}). Add images of "
            "another class"
        )
    present = np.unique(train)
    if len(present) < classes:
        expected = np.arange(len(present))
        absent = int(expected[present != expected][0]) if (present != expected).any() else len(present)
        held = int((test == absent).sum())
        raise SweepError(
            f"data: every class from 0 to the largest label must have an image for training, but class {absent} of "
            f"{where} has none (classes={classes}, with images for training={len(present)}, images of class {absent} "
            f"for testing={held}). Number the classes 0, 1, 2, ... without gaps, and give each some images for training"
        )


def unreadable() -> tuple[type[Exception], ...]:
    """What Pillow raises for files that it cannot read."""
    from PIL import Image

    return (*_BROKEN, ArithmeticError, Image.DecompressionBombError)


def _fault(file: Path, rule: str, found: str, remedy: str) -> SweepError:
    return SweepError(f"data: {rule}, but {found} in {file}. {remedy}")


def _arrays(file: Path) -> dict[str, Array]:
    """The arrays of an .npz that make up its images, those of JPEG if it has them.

    Raises:
        SweepError: the file is broken, or lacks them.
    """
    reading = ""
    try:
        found = np.load(file)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("it is one array without a name")
        with found as arrays:
            names = next((names for names in (_JPEG, _ARRAYS) if set(names) <= set(arrays)), None)
            if names is None:
                raise SweepError(
                    f"data: images must be x_train, y_train, x_test and y_test, but {file} has {sorted(arrays)[:20]}. "
                    "Save the arrays by those names"
                )
            return {(reading := name): arrays[name] for name in names}
    except _BROKEN as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise SweepError(
            f"data: an .npz must hold arrays of numbers as numpy.savez writes them, but {reading or 'the file'} cannot "
            f"be read in {file} ({why}). Write it again, without objects"
        ) from error


def _checked(file: Path, train: _Part, test: _Part) -> Images:
    """The images of two parts, those for training first.

    Raises:
        SweepError: a part is empty or holds no labelled images, the parts differ in size, or a class is missing.
    """
    x, y = [], []
    for part in (train, test):
        x.append(_pixels(file, part.x_name, part.x))
        y.append(_labels(file, part.y_name, part.y))
        if len(x[-1]) != len(y[-1]):
            raise _fault(
                file,
                f"{part.x_name} and {part.y_name} must have one label per image",
                f"there are {len(x[-1]):,} images and {len(y[-1]):,} labels",
                "Save the labels of these images",
            )
    if x[0].shape[1] != x[1].shape[1]:
        raise _fault(
            file,
            f"images of {train.x_name} and {test.x_name} must have one size",
            f"they are {train.x.shape[1:]} and {test.x.shape[1:]}",
            "Scale them to one size",
        )
    classes = _require_parts(file, *y)
    return Images(np.concatenate(x), np.concatenate(y), classes, len(y[0]))


def _is_of_images(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape may hold square images."""
    if len(shape) == 2:
        try:
            channels_and_side(shape[1])
        except SweepError:
            return False
        return True
    return len(shape) in (3, 4) and shape[1] == shape[2] > 0 and shape[3:] in ((), (1,), (3,))


def _pixels(file: Path, name: str, x: Array) -> Bytes:
    """[n, channels * side^2], channel by channel, of grey levels in one of the accepted shapes."""
    if not _is_of_images(x.shape):
        raise _fault(
            file,
            f"{name} must have the shape [n, side, side], [n, side, side, 1 or 3], or [n, numbers] of square images, "
            "channel by channel",
            f"it is {list(x.shape)}",
            "Crop the images to squares, and put the channels last: numpy.moveaxis(x, 1, 3)",
        )
    if not len(x):
        raise _fault(file, f"{name} must hold images", "there are none", "Add some")
    if x.dtype.kind not in "iu" or x.min() < 0 or x.max() >= LEVELS:
        held = f", {x.min():g} to {x.max():g}" if x.dtype.kind in "iuf" else ""
        raise _fault(
            file,
            f"{name} must hold whole numbers from 0 to {LEVELS - 1} (uint8)",
            f"it is {x.dtype}{held}",
            "Scale the grey levels to 0 to 255, and convert them: astype(numpy.uint8)",
        )
    first = np.moveaxis(x, 3, 1) if x.ndim == 4 else x
    return np.ascontiguousarray(first, dtype=np.uint8).reshape(len(x), -1)


def _labels(file: Path, name: str, y: Array) -> Integers:
    """[n] classes."""
    if y.ndim != 1 and (y.ndim != 2 or y.shape[1] != 1):
        raise _fault(
            file,
            f"{name} must have the shape [n], the class of each image",
            f"it is {list(y.shape)}",
            "Of one-hot labels, take y.argmax(1)",
        )
    if not len(y):
        raise _fault(file, f"{name} must hold labels", "there are none", "Add some")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= 2**63:
        held = f", {y.min()} to {y.max()}" if y.dtype.kind in "iuf" else ""
        raise _fault(
            file,
            f"{name} must hold classes, whole numbers from 0 on",
            f"it is {y.dtype}{held}",
            "Number the classes: numpy.unique(y, return_inverse=True)[1]",
        )
    return y.astype(np.int64).ravel()


def _require_parts(file: Path, train: Integers, test: Integers) -> int:
    """How many classes there are, each of which must have an image for training."""
    classes = int(max(train.max(), test.max())) + 1
    require_classes(str(file), train, test, classes)
    return classes


@cache
def _in_parquet(file: Path) -> Images:
    from pyarrow import ArrowException, compute, parquet

    try:
        table = parquet.read_table(file, columns=["x", "y", "test"], page_checksum_verification=True)
        x, y, test = (table[name].combine_chunks() for name in ("x", "y", "test"))
        if nulls := {name: table[name].null_count for name in table.column_names if table[name].null_count}:
            raise ValueError(f"there are nulls: {nulls}")
        sizes = compute.unique(compute.list_value_length(x)).to_pylist()
        if len(sizes) > 1:
            raise ValueError(f"lists of x have {len(sizes)} lengths")
        flat = x.flatten()
        if flat.null_count:
            raise ValueError(f"lists of x hold {flat.null_count} nulls")
        levels, labels = flat.to_numpy(zero_copy_only=False), y.to_numpy(zero_copy_only=False)
        held = test.to_numpy(zero_copy_only=False)
        if held.dtype.kind not in "biu" or not np.isin(held, (0, 1)).all():
            raise ValueError(f"test is {held.dtype}")
    except (ArrowException, *_BROKEN, AttributeError) as error:
        raise SweepError(
            f"data: a parquet file of images must have the columns x (for each image a list of as many numbers, 0 to "
            f"255), y (integers) and test (booleans), without nulls, but {file} has not: "
            f"{' '.join(str(error).split())[:400]}. Write it so"
        ) from error
    shaped = levels.reshape(len(labels), sizes[0] if sizes else 0)
    parts = []
    for rows, which in ((held == 0, "false"), (held == 1, "true")):
        if not rows.any():
            raise SweepError(
                f"data: {file} must have rows with test = false, for training, and with test = true, for testing, but "
                f"has none with test = {which} (rows={len(held)}). Hold some images out"
            )
        parts.append(_Part(f"x where test = {which}", shaped[rows], f"y where test = {which}", labels[rows]))
    return _checked(file, *parts)


def _require_jpeg(file: Path, arrays: Mapping[str, Array]) -> int:
    """How many images are for training.

    Raises:
        SweepError: payload, lengths and labels do not belong together, or there are too few.
    """
    payload, lengths, labels = (arrays[name] for name in _JPEG[1:])
    whole = lengths.dtype.kind in "iu" and lengths.ndim == 1 and (lengths >= 0).all()
    total = int(lengths.sum(dtype=np.int64)) if whole else -1
    if not whole or len(lengths) != labels.size or total != payload.nbytes:
        raise _fault(
            file,
            "payload must hold one JPEG per label, of `lengths` bytes each",
            f"there are (labels={labels.size}, lengths={lengths.dtype} {list(lengths.shape)}, their sum={total}, "
            f"bytes={payload.nbytes})",
            "Write it again",
        )
    if len(lengths) <= _JPEG_TEST:
        raise _fault(
            file,
            f"images as JPEG must be more than the {_JPEG_TEST:,} that are for testing",
            f"there are {len(lengths):,}",
            "Add images, or save them as arrays",
        )
    return len(lengths) - _JPEG_TEST


def _decoded(file: Path, arrays: Mapping[str, Array], count: int) -> Bytes:
    """The first JPEG images, which share a header: [count, height, width] or [count, height, width, channels].

    Raises:
        SweepError: one is no image, or of another size.
    """
    from PIL import Image

    ends = np.cumsum(arrays["lengths"][:count], dtype=np.int64).tolist()
    first, rest = arrays["header"].tobytes(), arrays["payload"].tobytes()
    found: list[Bytes] = []
    for i, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        try:
            found.append(np.asarray(Image.open(io.BytesIO(first + rest[a:b]))))
        except unreadable() as error:
            why = f"image {i} is none ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            remedy = "Leave it out, with its length and label"
            raise _fault(file, "payload must hold JPEG images", why, remedy) from error
        if found[i].shape != found[0].shape:
            raise _fault(
                file,
                "payload must hold images of one size",
                f"image 0 is {list(found[0].shape)} and image {i} is {list(found[i].shape)}",
                "Scale them to one size",
            )
    return np.stack(found)
