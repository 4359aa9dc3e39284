"""Items with targets, as a word names them: digits, a file of arrays, or a target on the circle whose beta is known."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.data import Images, images, images_in
from raysweep.errors import SweepError
from raysweep.theory.circle import amplitudes

__all__ = ["Task", "task_of"]

Array = npt.NDArray[np.float64]

_IMAGES = ({"x_train", "y_train", "x_test", "y_test"}, {"header", "payload", "lengths", "labels"})  # names of arrays
_NAMED = 8  # names in a message
_ANGLES, _HARMONICS = 2048, 8192  # of a task on the circle
_ROUNDING = 1e-12  # spread over size of numbers that differ by rounding alone


@dataclass(frozen=True)
class Task:
    """Items with targets.

    Attributes:
        name: What the data set is called.
        x: [items, numbers].
        y: [items, outputs]; one-hot for classes.
    """

    name: str
    x: npt.NDArray[np.float32]
    y: Array


def task_of(data: str, seed: int = 0) -> Task:
    """The task that a word names.

    Args:
        data: `digits`; NAME of NAME.npz in the folder RAYSWEEP_DATA; the path of an .npz of images, as `raysweep.data`
            describes them, or of `x` [items, ...] and `y` [items] classes or [items, outputs] numbers; or
            `circle:BETA`, a target of that beta for a ReLU network, on angles drawn by the seed.

    Raises:
        SweepError: There are no such data, or they are of another kind.
    """
    if data.startswith("circle:"):
        return _circle(data, seed)
    if Path(data).suffix in (".csv", ".json", ".jsonl", ".parquet", ".npy", ".pt"):
        raise SweepError(
            "data: DATA must be digits, circle:BETA, NAME of NAME.npz in the folder RAYSWEEP_DATA, or an .npz of x "
            f"[items, ...] and y, but got {data}. Save its arrays: numpy.savez('{Path(data).stem}.npz', x=x, y=y); a "
            "table of what was trained is given by --against"
        )
    if data.endswith(".npz") and not Path(data).is_file():
        raise SweepError(f"data: must be digits, circle:BETA, NAME or an .npz that exists, but there is no file {data}")
    try:
        with np.errstate(all="ignore"):
            name, x, y = _read(data)
    except (OSError, EOFError, ValueError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise SweepError(
            f"data: {data} must be a file of arrays of numbers, as numpy.savez writes it, but it cannot be read as one "
            f"({type(error).__name__}). Arrays are x [items, ...] and y [items] or [items, outputs], or x_train, "
            "y_train, x_test and y_test"
        ) from error
    if not np.isfinite(x).all():
        raise SweepError(f"data: {data} must hold finite images that vary in each channel, but they do not")
    return Task(name, x, y)


def _read(data: str) -> tuple[str, npt.NDArray[np.float32], Array]:
    """(name, x, y) of a file, standardised and one-hot."""
    if not data.endswith(".npz"):
        return data, *_of_images(data, images(data))
    name = Path(data).name
    found = np.load(data)
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise SweepError(f"data: {data} must be an .npz, several arrays with names, but it is one array without a name")
    with found as arrays:
        if not {"x", "y"} <= set(arrays):
            if not any(pair <= set(arrays) for pair in _IMAGES):
                raise SweepError(
                    f"data: {data} must hold x and y, or x_train, y_train, x_test and y_test, but holds "
                    f"{', '.join(sorted(arrays)[:_NAMED]) or 'no arrays'}. Save the arrays by those names"
                )
            return name, *_of_images(data, images_in(Path(data)))
        x, y = arrays["x"], arrays["y"]
    shaped = x.ndim >= 2 and y.ndim in (1, 2) and len(x) == len(y) and x.size and y.size
    if not shaped or not all(v.dtype.kind in "biuf" for v in (x, y)):
        raise SweepError(
            f"data: {data} must hold x [items, ...] and y [items] or [items, outputs], numbers, but got "
            f"{x.dtype} {x.shape} and {y.dtype} {y.shape}. Reshape or convert them"
        )
    for letter, values in (("x", x), ("y", y)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            raise SweepError(
                f"data: {data} must hold finite numbers, but {letter} has {len(bad):,} that are NaN or infinite, the "
                f"first of them {letter}[{', '.join(map(str, bad[0]))}]. Leave those items out, or fill them in"
            )
    if y.ndim == 1 and y.dtype.kind in "biu":
        wanted = _one_hot(data, len(np.unique(y)), np.unique(y, return_inverse=True)[1])
    else:
        wanted = y.reshape(len(y), -1).astype(np.float64)
    if x.ndim == 4 and x.shape[3] in (1, 3):
        x = np.moveaxis(x, 3, 1)
    axes = (0,) if x.ndim == 2 else (0, *range(x.ndim - 2, x.ndim))
    x = x.astype(np.float64)
    sd = x.std(axes, keepdims=True)
    varies = sd > _ROUNDING * np.abs(x).max(axes, keepdims=True)
    x = np.where(varies, (x - x.mean(axes, keepdims=True)) / np.where(varies, sd, 1), 0)
    return name, x.reshape(len(x), -1).astype(np.float32), wanted


def _of_images(data: str, found: Images) -> tuple[npt.NDArray[np.float32], Array]:
    x, y = found.standardised()[: found.train], found.y[: found.train]
    if len(x) != len(y) or found.train < 1 or y.min() < 0:
        raise SweepError(
            f"data: {data} must hold as many images as labels, which are integers from 0 on, but got {len(x)} images "
            f"and {len(y)} labels from {y.min() if len(y) else 0} on"
        )
    return x, _one_hot(data, found.classes, y)


def _one_hot(data: str, classes: int, label: npt.NDArray[np.integer[Any]]) -> Array:
    if 2 * classes > len(label):
        raise SweepError(
            f"data: {data} must hold at least two items per class, but got {len(label):,} items of {classes:,} "
            "classes. If y is not a class but a number, store it as floating point"
        )
    return np.asarray(label[:, None] == np.arange(classes), dtype=np.float64)


def _circle(data: str, seed: int) -> Task:
    try:
        beta = float(data.partition(":")[2])
    except ValueError:
        beta = 0.0
    if not 0 < beta < 10:
        raise SweepError(f"data: circle:BETA must have a beta between 0 and 10, but got {data!r}")
    angle = 2 * np.pi * np.random.default_rng(seed).random(_ANGLES)
    y = np.cos(np.outer(angle, np.arange(1, _HARMONICS + 1))) @ amplitudes("relu", beta, _HARMONICS)
    x = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Task(data, x.astype(np.float32), y[:, None])
