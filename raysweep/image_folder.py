"""Images in folders, a folder per class, of any size and format that Pillow reads.

Either FOLDER/train/CLASS/... and FOLDER/test/CLASS/... (or `val`), or FOLDER/CLASS/..., of which a sixth, by a hash of
the file's name, is for testing. Each image is scaled so that its shorter side fits, and its middle is cut out. Grey
levels of 16 bits become 8 bits; images whose levels have no known range (32 bits, floating point) count as unreadable.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.image_file import unreadable

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["TESTS", "Encoded", "Files", "channels", "decoded", "digest", "listed", "require_readable"]

Bytes: TypeAlias = npt.NDArray[np.uint8]

_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
_NAMED = 5  # files in a message
_TEST_SHARE = 6  # one in so many, where nobody says which are for testing
TESTS = ("test", "val", "valid", "validation")  # names of a part for testing
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes: 16 bits
_GREY = ("1", "L", "LA", "I", "F", *_DEEP)
_BYTES_OF_16 = 257  # 65,535 / 255


class Encoded(io.BytesIO):
    """A file of an image in memory, with a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class Files:
    """The files of a folder, those for training first, each in the order of their names.

    Attributes:
        paths: Where they are, or the files themselves.
        y: [n] the class of each.
        train: How many are for training.
        classes: Names of the classes.
    """

    paths: Sequence[Path | Encoded]
    y: npt.NDArray[np.int64]
    train: int
    classes: tuple[str, ...]


def listed(folder: Path) -> Files:
    """The files of a folder; nothing is opened.

    Raises:
        SweepError: it has no classes, or a class of the one part that the other lacks.
    """
    parts = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    test = next((parts[name] for name in TESTS if name in parts), None)
    if "train" in parts and test is not None:
        names = _classes(parts["train"])
        if extra := sorted({*_classes(test)} - {*names}):
            raise SweepError(f"data: classes for testing must be among those for training, but {test} also has {extra}")
        train, held = (list(_files(where, names)) for where in (parts["train"], test))
    else:
        names, train, held = _classes(folder), [], []
        for path, label in _files(folder, names):
            (held if _is_held(path, folder) else train).append((path, label))
    if len(names) < 2 or not train or not held:
        raise SweepError(
            f"data: a folder of images must hold a folder with files per class, for two classes or more, but {folder} "
            f"has (classes={len(names)}, training={len(train)}, testing={len(held)}). Put images into "
            f"{folder}/CLASS/, or into {folder}/train/CLASS/ and {folder}/test/CLASS/"
        )
    both = [*train, *held]
    return Files(tuple(p for p, _ in both), np.array([y for _, y in both], dtype=np.int64), len(train), tuple(names))


def digest(files: Files) -> str:
    """The SHA-256 of all files: names, classes, contents."""
    whole = hashlib.sha256(f"{files.train} {files.classes}".encode())
    for path, label in zip(files.paths, files.y.tolist(), strict=True):
        whole.update(f"\n{label} {path.name} ".encode())
        with open(path, "rb") if isinstance(path, Path) else path as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def channels(files: Files) -> int:
    """1 where the first file that can be read is grey, else 3; all others are made so.

    Raises:
        SweepError: none can be read.
    """
    from PIL import Image

    for path in files.paths:
        with contextlib.suppress(*unreadable()), Image.open(path) as opened:
            if _bits(opened.mode, opened.format):
                return 1 if opened.mode in _GREY else 3
    raise SweepError(
        f"data: images must be readable, but none of {len(files.paths)} is; the first is {files.paths[0].name}"
    )


def decoded(files: Files, side: int) -> tuple[Bytes, npt.NDArray[np.int64], int, tuple[str, ...]]:
    """x [n, channels * side^2] channel by channel, y [n], how many are for training, and the names of the files that
    are unreadable, which are left out.

    Raises:
        SweepError: none can be read.
    """
    planes = channels(files)
    mode = "L" if planes == 1 else "RGB"
    x, good = np.empty((len(files.y), planes * side**2), np.uint8), np.zeros(len(files.y), bool)
    with ThreadPoolExecutor() as pool:
        for i, one in enumerate(pool.map(lambda i: _decoded(files.paths[i], mode, side), range(len(files.y)))):
            if one is not None:  # [side, side], or with channels last
                x[i], good[i] = np.moveaxis(np.atleast_3d(one), 2, 0).ravel(), True
    skipped = tuple(files.paths[i].name for i in np.flatnonzero(~good).tolist())
    return (x[good] if skipped else x), files.y[good], int(good[: files.train].sum()), skipped


def require_readable(files: Files, side: int, batch: int) -> None:
    """Decode images until there are enough of them for training.

    Args:
        batch: Images for training that there must be.

    Raises:
        SweepError: fewer than a batch can be read, or none of a class for training, or none for testing.
    """
    mode = "L" if channels(files) == 1 else "RGB"
    bad: set[int] = set()

    def good(at: Iterable[int]) -> Iterator[int]:
        for i in at:
            if _decoded(files.paths[i], mode, side) is not None:
                yield i
            else:
                bad.add(i)

    def refuse(rule: str, found: int, of: int) -> SweepError:
        names = ", ".join(files.paths[i].name for i in sorted(bad)[:_NAMED])
        return SweepError(
            f"data: {rule}, but {found} of {of} can be read; not {names}{' and others' if len(bad) > _NAMED else ''}. "
            "Replace these files or delete them"
        )

    train, held = range(files.train), range(files.train, len(files.y))
    firsts: set[int] = set()
    for label, name in enumerate(files.classes):
        own = np.flatnonzero(files.y[: files.train] == label).tolist()
        if (first := next(good(own), None)) is None:
            raise refuse(f"an image of class {name!r} for training must be readable", 0, len(own))
        firsts.add(first)
    found = len(firsts) + sum(1 for _ in islice(good(i for i in train if i not in firsts), max(0, batch - len(firsts))))
    if found < batch:
        raise refuse(f"as many images for training as a batch (batch={batch}) must be readable", found, len(train))
    if next(good(held), None) is None:
        raise refuse("an image for testing must be readable", 0, len(held))


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(classes):
        for path in sorted((folder / name).rglob("*")) if (folder / name).is_dir() else ():
            if path.suffix.lower() in _ENDINGS and path.is_file():
                yield path, label


def _is_held(path: Path, folder: Path) -> bool:
    name = path.relative_to(folder).as_posix()
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % _TEST_SHARE == 0


def _decoded(path: Path | Encoded, mode: str, side: int) -> Bytes | None:
    """[side, side], or [side, side, 3] under RGB; None for a file that is no image."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            turned = _of_bytes(ImageOps.exif_transpose(opened), opened.format).convert(mode)
            return np.asarray(ImageOps.fit(turned, (side, side), Image.Resampling.LANCZOS), dtype=np.uint8)
    except unreadable():
        return None


def _of_bytes(image: Picture, form: str | None) -> Picture:
    """The image with levels of 8 bits; Pillow would clip deeper ones.

    Raises:
        ValueError: the range of its levels is not known.
    """
    from PIL import Image

    bits = _bits(image.mode, form)
    if bits == 8:
        return image
    if not bits:
        raise ValueError(f"levels of mode {image.mode} have no known range")
    return Image.fromarray(np.rint(np.asarray(image) / _BYTES_OF_16).astype(np.uint8))


def _bits(mode: str, form: str | None) -> int:
    """Of a level, in one of Pillow's modes, of a file of this format: 8 or 16; 0 where the range is not known."""
    if mode in _DEEP or (mode == "I" and form in ("PNG", "PPM")):
        return 16
    return 0 if mode in ("I", "F") else 8
