"""Samples that a store keeps beside their world: a sweep's workers, and the next run, read what one of them drew.

A sample is a function of its world, size, stream and temperature, so a file is as good as a draw. Workers that want the
same sample at the same time each draw it, and the first complete file stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from raysweep.errors import OracleError
from raysweep.experiment import Sample, World
from raysweep.store import Store

__all__ = ["Kept"]

_FIRST = 16  # items whose posterior is computed again when a sample is read
_TOLERANCE = 1e-6  # of their log-probabilities; devices differ by rounding
_MOST = 1 << 36  # bytes of a sample


@dataclass(frozen=True)
class Kept:
    """Where a world's samples are kept.

    Attributes:
        folder: The world's own, in the store.
    """

    store: Store
    folder: str

    def sample(self, world: World, n: int, stream: str, temperature: float, draw: Callable[[], Sample]) -> Sample:
        """The sample that is kept; where there is none, it is drawn and kept.

        Raises:
            OracleError: the file does not hold such a sample of this world.
        """
        name = f"{self.folder}/samples/{quote(stream, safe='')}-{n}-{temperature!r}-{world.sha}.safetensors"
        if self.store.exists(name):
            return self._read(world, n, temperature, name)
        sample = draw()
        arrays = {"x": sample.x, "y": sample.y, "log_posterior": sample.log_posterior}
        self.store.create(name, save({key: np.ascontiguousarray(array) for key, array in arrays.items()}))
        return sample

    def _read(self, world: World, n: int, temperature: float, name: str) -> Sample:
        wanted = {
            "x": ((n, world.dim), np.float32),
            "y": ((n,), np.int64),
            "log_posterior": ((n, world.classes), np.float64),
        }
        try:
            arrays = load(self.store.read(name, _MOST))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise self._unfit(name, " ".join(str(error).split())[:200]) from error
        if {key: (array.shape, array.dtype) for key, array in arrays.items()} != wanted:
            raise self._unfit(name, f"it holds {', '.join(f'{k} {a.dtype}{a.shape}' for k, a in arrays.items())}")
        sample = Sample(**arrays)
        if not np.isfinite(sample.x).all() or np.isnan(sample.log_posterior).any():
            raise self._unfit(name, "its numbers are not finite")
        if sample.y.min() < 0 or sample.y.max() >= world.classes:
            raise self._unfit(name, f"its classes are {sample.y.min()} to {sample.y.max()} of {world.classes}")
        with np.errstate(invalid="ignore"):  # both may be -inf
            gap = sample.log_posterior[:_FIRST] - world.log_posterior(sample.x[:_FIRST], temperature)
        if not (np.abs(np.nan_to_num(gap)) <= _TOLERANCE * (1 + np.abs(sample.log_posterior[:_FIRST]))).all():
            raise self._unfit(name, f"its log-posterior is off by {np.nanmax(np.abs(gap)):.2g}")
        return sample

    def _unfit(self, name: str, why: str) -> OracleError:
        return OracleError(
            f"{self.store.uri}/{name}: must hold x, y and log_posterior of items of this world, but {why}. "
            "Delete the file, and it is drawn again"
        )
