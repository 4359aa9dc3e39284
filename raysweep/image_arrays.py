"""Labelled images as arrays, and what arrays must be to count as such: checked before anything is trained on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError

__all__ = [
    "LEVELS",
    "ImageShape",
    "Images",
    "Part",
    "channels_and_side",
    "checked",
    "fault",
    "labels_of",
    "pixels",
    "require_classes",
    "require_parts",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Integers: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = npt.NDArray[Any]

LEVELS = 256  # grey levels of a file of images


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
class Part:
    """The images for training, or those for testing, as a file has them, and what the file calls the two arrays."""

    x_name: str
    x: Array
    y_name: str
    y: Array


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
    """Refuse a class that has no image for training.

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


def fault(file: Path, rule: str, found: str, remedy: str) -> SweepError:
    """The error for a file that breaks a rule: the rule, what was found instead, what to do."""
    return SweepError(f"data: {rule}, but {found} in {file}. {remedy}")


def checked(file: Path, train: Part, test: Part) -> Images:
    """The images of two parts, those for training first.

    Raises:
        SweepError: a part is empty or holds no labelled images, the parts differ in size, or a class is missing.
    """
    x, y = [], []
    for part in (train, test):
        x.append(pixels(file, part.x_name, part.x))
        y.append(labels_of(file, part.y_name, part.y))
        if len(x[-1]) != len(y[-1]):
            raise fault(
                file,
                f"{part.x_name} and {part.y_name} must have one label per image",
                f"there are {len(x[-1]):,} images and {len(y[-1]):,} labels",
                "Save the labels of these images",
            )
    if x[0].shape[1] != x[1].shape[1]:
        raise fault(
            file,
            f"images of {train.x_name} and {test.x_name} must have one size",
            f"they are {train.x.shape[1:]} and {test.x.shape[1:]}",
            "Scale them to one size",
        )
    classes = require_parts(file, *y)
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


def pixels(file: Path, name: str, x: Array) -> Bytes:
    """[n, channels * side^2], channel by channel, of grey levels in one of the accepted shapes.

    Args:
        name: What the file calls the array.

    Raises:
        SweepError: the array has another shape, is empty, or holds other numbers.
    """
    if not _is_of_images(x.shape):
        raise fault(
            file,
            f"{name} must have the shape [n, side, side], [n, side, side, 1 or 3], or [n, numbers] of square images, "
            "channel by channel",
            f"it is {list(x.shape)}",
            "Crop the images to squares, and put the channels last: numpy.moveaxis(x, 1, 3)",
        )
    if not len(x):
        raise fault(file, f"{name} must hold images", "there are none", "Add some")
    if x.dtype.kind not in "iu" or x.min() < 0 or x.max() >= LEVELS:
        held = f", {x.min():g} to {x.max():g}" if x.dtype.kind in "iuf" else ""
        raise fault(
            file,
            f"{name} must hold whole numbers from 0 to {LEVELS - 1} (uint8)",
            f"it is {x.dtype}{held}",
            "Scale the grey levels to 0 to 255, and convert them: astype(numpy.uint8)",
        )
    first = np.moveaxis(x, 3, 1) if x.ndim == 4 else x
    return np.ascontiguousarray(first, dtype=np.uint8).reshape(len(x), -1)


def labels_of(file: Path, name: str, y: Array) -> Integers:
    """[n] the class of each image.

    Args:
        name: What the file calls the array.

    Raises:
        SweepError: the array has another shape than [n] or [n, 1], is empty, or holds other numbers.
    """
    if y.ndim != 1 and (y.ndim != 2 or y.shape[1] != 1):
        raise fault(
            file,
            f"{name} must have the shape [n], the class of each image",
            f"it is {list(y.shape)}",
            "For one-hot labels, save y.argmax(1)",
        )
    if not len(y):
        raise fault(file, f"{name} must hold labels", "there are none", "Add some")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= 2**63:
        held = f", {y.min()} to {y.max()}" if y.dtype.kind in "iuf" else ""
        raise fault(
            file,
            f"{name} must hold classes, whole numbers from 0 on",
            f"it is {y.dtype}{held}",
            "Number the classes: numpy.unique(y, return_inverse=True)[1]",
        )
    return y.astype(np.int64).ravel()


def require_parts(file: Path, train: Integers, test: Integers) -> int:
    """How many classes there are.

    Raises:
        SweepError: as for `require_classes`.
    """
    classes = int(max(train.max(), test.max())) + 1
    require_classes(str(file), train, test, classes)
    return classes
