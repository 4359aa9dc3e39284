"""A user's own data: arrays to train on, to test on and to choose by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.experiment import Items

__all__ = ["Examples", "OwnData", "own_data"]

_PARTS = ("train", "test", "select")
_EXACT = 2**24  # whole numbers below it survive float32
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """Items to try a module on, equal where their numbers are.

    Attributes:
        content: Their bytes, float64 or int64.
        shape: [items, ...].
        whole: Whether they are whole numbers.
    """

    content: bytes
    shape: tuple[int, ...]
    whole: bool

    @property
    def array(self) -> npt.NDArray[Any]:
        """A copy that may be written to."""
        return np.frombuffer(self.content, np.int64 if self.whole else np.float64).reshape(self.shape).copy()


@dataclass(frozen=True)
class OwnData:
    """Items as the packed engine takes them: x flat, y classes or [n, outputs] real numbers.

    Attributes:
        select: Items to choose hyper-parameters by, if there are any.
        item: Shape of one item of x.
        whole: Whether x holds whole numbers, such as tokens.
        classes: 1 + the largest class, or 0 where y is real.
    """

    train: Items
    test: Items
    select: Items | None
    item: tuple[int, ...]
    whole: bool
    classes: int

    @property
    def real(self) -> bool:
        """Whether y is real."""
        return not self.classes

    @cached_property
    def examples(self) -> Examples:
        """Four items like those of the data: real numbers of train, each a little smaller, so that no two are equal;
        of whole numbers the largest and the smallest of each place, which an embedding must know, and two of train.
        """
        x = self.train.x
        some = x[np.linspace(0, len(x) - 1, 4).astype(int)]
        if self.whole:
            everything = [part.x for part in (self.train, self.test, self.select) if part is not None]
            some = np.stack(
                [np.max([x.max(0) for x in everything], 0), np.min([x.min(0) for x in everything], 0), *some[1:3]]
            )
        else:
            some = some * np.random.default_rng(0).uniform(0.8, 1.0, some.shape)
        some = some.astype(np.int64 if self.whole else np.float64)
        return Examples(some.tobytes(), (4, *self.item), self.whole)

    @property
    def targets(self) -> int:
        """Numbers in a real target."""
        return 0 if self.classes else int(self.train.y.shape[1])


def own_data(found: Any, where: str) -> OwnData:
    """Check what a data function returned: {"train": (x, y), "test": (x, y)}, and "select" where there is one.

    Args:
        where: The function, named in errors.

    Raises:
        SweepError: a part is missing or unknown, no pair of arrays, empty, not finite, or unlike the part `train`.
    """
    if not isinstance(found, Mapping) or not {"train", "test"} <= set(found) <= set(_PARTS):
        got = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise SweepError(
            f'{where}: must return {{"train": (x, y), "test": (x, y)}}, and may add "select", but returned {got}'
        )
    parts = {name: _pair(found[name], f"{where}: {name}") for name in _PARTS if found.get(name) is not None}
    x, y = parts["train"]
    for name, (other_x, other_y) in parts.items():
        if (other_x.shape[1:], other_x.dtype) != (x.shape[1:], x.dtype):
            raise SweepError(
                f"{where}: x must have one shape of items and one type in all parts, but train has {list(x.shape[1:])} "
                f"{x.dtype} and {name} has {list(other_x.shape[1:])} {other_x.dtype}"
            )
        if (other_y.shape[1:], other_y.dtype) != (y.shape[1:], y.dtype):
            raise SweepError(
                f"{where}: y must be of one kind in all parts, but train has {list(y.shape[1:])} {y.dtype} and {name} "
                f"has {list(other_y.shape[1:])} {other_y.dtype}"
            )
    of_classes = np.issubdtype(y.dtype, np.integer)
    items = {name: Items(x=a.reshape(len(a), -1), y=b) for name, (a, b) in parts.items()}
    return OwnData(
        train=items["train"],
        test=items["test"],
        select=items.get("select"),
        item=tuple(x.shape[1:]),
        whole=bool(np.issubdtype(x.dtype, np.integer)),
        classes=1 + max(int(b.max()) for _, b in parts.values()) if of_classes else 0,
    )


def _pair(part: Any, where: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise SweepError(f"{where}: must be a pair (x, y), but is {type(part).__name__}")
    x, y = (_array(one, f"{where}: {name}") for name, one in zip("xy", part, strict=True))
    if len(x) != len(y) or not len(x):
        raise SweepError(f"{where}: x and y must have one row per item, at least one, but got {len(x)} and {len(y)}")
    if x.ndim < 2:
        raise SweepError(f"{where}: x must have shape [items, ...], but got {list(x.shape)}. Use x[:, None]")
    if y.ndim > 2:
        raise SweepError(f"{where}: y must have shape [items] or [items, outputs], but got {list(y.shape)}")
    if np.issubdtype(y.dtype, np.integer):
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.ndim != 1 or y.min() < 0:
            raise SweepError(
                f"{where}: y of whole numbers must be classes from 0, one per item, but got shape {list(y.shape)} and "
                f"a least value of {y.min()}. Give real targets as floating-point numbers"
            )
    elif y.ndim == 1:
        y = y[:, None]
    if np.issubdtype(x.dtype, np.integer) and np.abs(x).max() >= _EXACT:
        raise SweepError(f"{where}: whole numbers of x must be below {_EXACT:,}, but got {np.abs(x).max():,}")
    return x, y


def _array(one: Any, where: str) -> npt.NDArray[Any]:
    """A numpy array or torch tensor as float32, float64 or int64; truth values are 0 and 1, whole for y."""
    if hasattr(one, "detach"):
        one = one.detach().cpu()
        one = one.float() if str(one.dtype) == "torch.bfloat16" else one  # a type that NumPy has not
    try:
        values: npt.NDArray[Any] = np.asarray(one)
    except (ValueError, TypeError) as error:
        raise SweepError(f"{where}: must be an array of numbers, but is {type(one).__name__}: {error}") from error
    if np.issubdtype(values.dtype, np.integer) or (values.dtype == bool and where.endswith("y")):
        return values.astype(np.int64)
    if not (np.issubdtype(values.dtype, np.floating) or values.dtype == bool):
        raise SweepError(f"{where}: must be an array of numbers, but has type {values.dtype}")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise SweepError(f"{where}: must be finite, but {bad} of its {values.size} numbers are not")
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)
