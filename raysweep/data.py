"""Real data, as arrays with a content hash. The built-in default is scikit-learn's digits.

Other images are in the folder that the environment variable RAYSWEEP_DATA names: NAME.npz with x_train, y_train, x_test
and y_test (whole numbers from 0 to 255, [n, side, side], [n, side, side, 1 or 3] or [n, numbers]; classes [n]), or
with images as JPEG (header, payload, lengths, labels; the last 10,000 are for testing); NAME.parquet with the columns x
(a list of numbers per image, channel by channel), y (its class) and test (whether it is for testing); or a folder NAME
with a folder of image files per class. `hf:NAME` is a data set of Hugging Face. Every class has images for training.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep import hub, image_folder
from raysweep.errors import SweepError, nearest
from raysweep.image_arrays import LEVELS, Images, ImageShape, channels_and_side, require_classes
from raysweep.image_file import images_in, shape_in
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
    "require_trainable",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]

DATASETS = ("digits",)
_DIGITS_TRAIN = 1400


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


def levels(name: str) -> int:
    """Grey levels of `images(name)`."""
    return load(name).levels if name == "digits" else LEVELS


@cache
def fingerprint(name: str) -> str:
    """The SHA-256 of `images(name)`: of the file, or of the digits' own arrays.

    Raises:
        SweepError: there is no such file, or it may not be read.
    """
    if name == "digits":
        return load(name).sha256
    try:
        if files := _listed(name):
            return image_folder.digest(files)
        with open(_file(name), "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SweepError(
            f"data: every file of {name!r} must be readable, but one is not: {error}. Change its permissions, or "
            "take it out"
        ) from error


@cache
def image_shape(name: str, side: int = 0) -> ImageShape:
    """What a plan must know about `images(name, side)`, without decoding all of them. Unreadable files are counted.

    Raises:
        SweepError: as for `images`.
    """
    if files := _files(name, side):
        require_classes(name, files.y[: files.train], files.y[files.train :], len(files.classes))
        return ImageShape(
            image_folder.channels(files) * side**2, len(files.classes), files.train, len(files.y) - files.train
        )
    return images(name).shape if name == "digits" else shape_in(_file(name))


def require_trainable(name: str, side: int, batch: int) -> None:
    """Refuse images that training would stumble over; of files of their own, no more are decoded than it takes.

    Args:
        batch: Images for training that there must be.

    Raises:
        SweepError: an image as JPEG in an .npz cannot be decoded; or of images in files of their own, fewer than a
            batch can be read, or none of a class for training, or none for testing.
    """
    if files := _files(name, side):
        image_folder.require_readable(files, side, batch)
    else:
        images(name)


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


def _digits() -> Path:
    """The file that scikit-learn bundles; its own loader would add most of a second of imports to each plan."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise SweepError("data: scikit-learn, which bundles the digits, must be installed. pip install scikit-learn")
    return Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
