"""Real data, as arrays with a content hash. The built-in default is scikit-learn's digits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError, nearest

__all__ = ["DATASETS", "Dataset", "load"]

DATASETS = ("digits",)


@dataclass(frozen=True)
class Dataset:
    """Labelled items.

    Attributes:
        x: [n, d] integer grey levels, 0 to `levels` - 1.
        y: [n] class of each item, 0 to `classes` - 1.
        levels: Number of grey levels, the range of uniform dequantisation.
        sha256: Hash of x and y, part of the key of everything trained on them.
    """

    x: npt.NDArray[np.uint8]
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


def _digits() -> Path:
    """The file that scikit-learn bundles; its own loader would add most of a second of imports to each plan."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise SweepError("data: scikit-learn, which bundles the digits, must be installed. pip install scikit-learn")
    return Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
