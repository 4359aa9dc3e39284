"""Files of images: .npz, of arrays or of JPEG images that share a header, and .parquet."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.image_arrays import Images, ImageShape, Part, checked, fault, labels_of, pixels, require_parts

__all__ = ["images_in", "shape_in", "unreadable"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Array: TypeAlias = npt.NDArray[Any]

_JPEG_TEST = 10_000
_JPEG = ("header", "payload", "lengths", "labels")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_BROKEN = (
    OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError, SyntaxError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def images_in(file: Path) -> Images:
    """The images of a file.

    Raises:
        SweepError: it cannot be read, or its arrays are no labelled images.
    """
    if file.suffix == ".parquet":
        return _in_parquet(file)
    arrays = _arrays(file)
    if "labels" not in arrays:
        return checked(file, *(Part(x, arrays[x], y, arrays[y]) for x, y in (_ARRAYS[:2], _ARRAYS[2:])))
    train, y = _require_jpeg(file, arrays), arrays["labels"]
    x = _decoded(file, arrays, len(y))
    return checked(file, *(Part("payload", x[part], "labels", y[part]) for part in (slice(train), slice(train, None))))


def shape_in(file: Path) -> ImageShape:
    """What a plan must know about `images_in(file)`. Of JPEG images only the first is decoded.

    Raises:
        SweepError: as for `images_in`.
    """
    if file.suffix == ".parquet" or "labels" not in (arrays := _arrays(file)):
        return images_in(file).shape
    train, y = _require_jpeg(file, arrays), labels_of(file, "labels", arrays["labels"])
    inputs = pixels(file, "payload", _decoded(file, arrays, 1)).shape[1]
    return ImageShape(inputs, require_parts(file, y[:train], y[train:]), train, len(y) - train)


def unreadable() -> tuple[type[Exception], ...]:
    """What Pillow raises for files that it cannot read."""
    from PIL import Image

    return (*_BROKEN, ArithmeticError, Image.DecompressionBombError)


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
        parts.append(Part(f"x where test = {which}", shaped[rows], f"y where test = {which}", labels[rows]))
    return checked(file, *parts)


def _require_jpeg(file: Path, arrays: Mapping[str, Array]) -> int:
    """How many images are for training.

    Raises:
        SweepError: payload, lengths and labels do not belong together, or there are too few.
    """
    payload, lengths, labels = (arrays[name] for name in _JPEG[1:])
    whole = lengths.dtype.kind in "iu" and lengths.ndim == 1 and (lengths >= 0).all()
    total = int(lengths.sum(dtype=np.int64)) if whole else -1
    if not whole or len(lengths) != labels.size or total != payload.nbytes:
        raise fault(
            file,
            "payload must hold one JPEG per label, of `lengths` bytes each",
            f"there are (labels={labels.size}, lengths={lengths.dtype} {list(lengths.shape)}, their sum={total}, "
            f"bytes={payload.nbytes})",
            "Write it again",
        )
    if len(lengths) <= _JPEG_TEST:
        raise fault(
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
            raise fault(file, "payload must hold JPEG images", why, remedy) from error
        if found[i].shape != found[0].shape:
            raise fault(
                file,
                "payload must hold images of one size",
                f"image 0 is {list(found[0].shape)} and image {i} is {list(found[i].shape)}",
                "Scale them to one size",
            )
    return np.stack(found)
