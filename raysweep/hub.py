"""Data sets of Hugging Face, through the optional package `datasets`.

`hf:NAME`, or `hf:NAME:CONFIG` where a data set has several configurations. It must have a part `train` and one for
testing, a column of images and one of class labels; the first of each kind is taken. No code of a data set is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, overload

import numpy as np

from raysweep.errors import SweepError
from raysweep.image_folder import TESTS, Encoded, Files

__all__ = ["PREFIX", "listed"]

PREFIX = "hf:"


@dataclass(frozen=True)
class _Column(Sequence[Path | Encoded]):
    """The images of the parts of a data set, one after another, each read when it is asked for."""

    parts: Mapping[str, Any]
    name: str

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @overload
    def __getitem__(self, at: int) -> Encoded: ...
    @overload
    def __getitem__(self, at: slice) -> list[Path | Encoded]: ...
    def __getitem__(self, at: int | slice) -> Encoded | list[Path | Encoded]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        row = range(len(self))[at]
        for part, rows in self.parts.items():
            if row < len(rows):
                return Encoded(_bytes(rows[row][self.name]), f"{part}/{row}")
            row -= len(rows)
        raise IndexError(at)

    def __iter__(self) -> Iterator[Path | Encoded]:
        return (self[i] for i in range(len(self)))


@cache
def listed(name: str) -> Files:
    """The images of a data set, as files; they are downloaded, if they are not in its cache.

    Raises:
        SweepError: `datasets` is not installed, the data set cannot be had, or it has other parts or columns.
    """
    package = _package(name)
    path, _, config = name.removeprefix(PREFIX).partition(":")
    try:
        loaded = package.load_dataset(path, config or None)
    except (OSError, ValueError, RuntimeError) as error:  # its own errors derive from these, and so do its network's
        raise SweepError(
            f"data: hf:NAME must be a data set that can be had from Hugging Face, but {name!r} cannot: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    test = next((part for part in TESTS if part in loaded), None)
    if "train" not in loaded or test is None:
        raise SweepError(
            f"data: must have a part train and one of {', '.join(TESTS)}, but {name!r} has {sorted(loaded)}"
        )
    features = loaded["train"].features
    image, label = (_first(name, features, kind) for kind in (package.Image, package.ClassLabel))
    parts = {part: loaded[part].cast_column(image, package.Image(decode=False)) for part in ("train", test)}
    if empty := [part for part, rows in parts.items() if not len(rows)]:
        raise SweepError(f"data: must have images for training and for testing, but {name!r} has none in {empty}")
    labels = [-1 if one is None else one for rows in parts.values() for one in rows[label]]
    y = np.asarray(labels, dtype=np.int64)
    if y.min() < 0:
        raise SweepError(f"data: every image must have a class, but {int((y < 0).sum())} of {name!r} have none")
    return Files(_Column(parts, image), y, len(parts["train"]), tuple(features[label].names))


def _bytes(image: Mapping[str, Any] | None) -> bytes:
    """The file of an image; empty, so that it counts as unreadable, where there is none."""
    if image is None:
        return b""
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    return Path(image["path"]).read_bytes() if image["path"] and Path(image["path"]).is_file() else b""


def _package(name: str) -> ModuleType:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise SweepError(
            f"data: hf:NAME needs the package datasets, but it is not installed (data={name!r}). "
            "pip install 'raysweep[hf]'"
        ) from error
    return datasets  # type: ignore[no-any-return]


def _first(name: str, features: Mapping[str, Any], kind: type) -> str:
    for column, feature in features.items():
        if isinstance(feature, kind):
            return column
    raise SweepError(f"data: must have a column of kind {kind.__name__}, but {name!r} has {dict(features)}"[:400])
