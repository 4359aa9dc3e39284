"""Runs: the trainings a grid stands for, one array of codes per axis; and the keys of runs and cells.

Observed axes stay as they were declared, attached to each run as one of a few distinct `Observed` sets, so a million
runs with a thousand inference budgets each cost a million keys, not a billion.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.grid.terms import Table, Term
from raysweep.grid.values import Json, Value

__all__ = ["KEY_LENGTH", "Observed", "Runs", "fragment", "number"]

KEY_LENGTH = 20  # hex digits of a run key: 80 bits, so 10^7 runs collide with probability 4e-11
MAX_OBSERVED = 1_000_000  # cells of one run that can be listed, rather than only counted
_SUFFIX_BYTES = 8


def fragment(name: str, value: Value | None) -> bytes:
    """The bytes by which one axis value enters a key: canonical JSON, the same in every Python version."""
    if isinstance(value, Json):
        text = value.text
    else:
        text = repr(value) if type(value) in (int, float) else json.dumps(value)  # the same for numbers, and faster
    return f"{name}={text}\n".encode()


@dataclass(frozen=True)
class Observed:
    """The observed values requested of one run: a union of products of tables, enumerated only on demand."""

    blocks: tuple[Term, ...]
    defaults: tuple[tuple[str, Value | None], ...]  # every observed axis of the experiment, and its default

    @property
    def names(self) -> tuple[str, ...]:
        """The observed axes, in the order of a cell's values."""
        return tuple(name for name, _ in self.defaults)

    @cached_property
    def count(self) -> int:
        """How many cells a run with this set has."""
        if len(self.blocks) == 1:
            return math.prod(len(t.rows) for t in self.blocks[0])
        return len(self.cells)

    @cached_property
    def cells(self) -> dict[str, tuple[Value, ...]]:
        """Key suffix -> values in the order of `names`, for every cell of a run.

        Raises:
            SweepError: there are more than `MAX_OBSERVED`.
        """
        self.listable()
        found: dict[str, tuple[Value, ...]] = {}
        for block in self.blocks:
            for rows in itertools.product(*(t.rows for t in block)):
                named = dict(self.defaults)
                for table, row in zip(block, rows, strict=True):
                    named.update(zip(table.names, row, strict=True))
                values = tuple(v for n in self.names if (v := named[n]) is not None)
                found.setdefault(self.suffix(values), values)
        return found

    def suffixes(self, names: tuple[str, ...]) -> Mapping[tuple[Value, ...], str]:
        """Mapping from values of some of its axes to key suffixes; made once and used for every match of rows."""
        known = self.__dict__.setdefault("_suffixes", {})
        if names not in known:
            place = [self.names.index(name) for name in names]
            known[names] = {tuple(values[i] for i in place): s for s, values in self.cells.items()}
        return known[names]  # type: ignore[no-any-return]

    def listable(self) -> None:
        """Raise a SweepError where a run has too many cells to list."""
        cells = sum(math.prod(len(t.rows) for t in block) for block in self.blocks)
        if cells > MAX_OBSERVED:
            raise SweepError(
                f"grid: at most {MAX_OBSERVED:,} cells can be read off one run, but got {cells:,}. "
                f"Shorten one of its observed axes: {', '.join(self.names)}"
            )

    def suffix(self, values: Sequence[Value]) -> str:
        """The suffix that a cell's key adds to its run's: empty where all observed axes are at their default."""
        text = b"".join(
            fragment(name, value)
            for (name, default), value in sorted(zip(self.defaults, values, strict=True))
            if value != default
        )
        return hashlib.blake2b(text, digest_size=_SUFFIX_BYTES).hexdigest() if text else ""

    def values(self, name: str) -> tuple[Value, ...]:
        """The distinct values of one observed axis, sorted, without enumerating the product."""
        tables = [t for block in self.blocks for t in block if name in t.names]
        found = {row[0] for t in tables for row in t.project([name])}
        default = dict(self.defaults)[name]
        if default is not None and any(all(name not in t.names for t in block) for block in self.blocks):
            found.add(default)
        return tuple(sorted(found))

    def only(self, suffixes: Sequence[str]) -> Observed:
        """The same set restricted to these cells."""
        return replace(self, blocks=((Table(self.names, tuple(self.cells[s] for s in suffixes)),),))


def number(codes: Iterable[tuple[npt.NDArray[np.integer[Any]], int]], n: int) -> npt.NDArray[np.int64]:
    """[n] the rows of several columns of codes, each below its size, as one column of numbers, equal for equal rows."""
    group, groups = np.zeros(n, dtype=np.int64), 1
    for code, size in codes:
        if size == 1 or not n:
            continue
        group, groups = group * size + code, groups * size
        if groups <= max(n, 1 << 16):  # a table of the values that occur takes one pass; sorting takes many
            seen = np.zeros(groups, dtype=bool)
            seen[group] = True
            place = np.cumsum(seen) - 1
            group, groups = place[group], int(place[-1]) + 1
        else:
            found, group = np.unique(group, return_inverse=True)
            groups = len(found)
    return group


@dataclass(frozen=True)
class Runs:
    """Many runs, column by column.

    Attributes:
        keys: [n] run keys, bytes of `KEY_LENGTH` hex digits.
        values: Per axis that is not observed, its distinct values; None marks runs where it is observed.
        codes: Per axis, [n] indices into `values`.
        observed: The distinct observed sets.
        observed_code: [n] indices into `observed`.
    """

    keys: npt.NDArray[np.bytes_]
    values: Mapping[str, tuple[Value | None, ...]]
    codes: Mapping[str, npt.NDArray[np.integer[Any]]]
    observed: tuple[Observed, ...]
    observed_code: npt.NDArray[np.integer[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def cells(self) -> int:
        """The number of cells: runs times their observed values."""
        counts = np.array([o.count for o in self.observed], dtype=np.int64)
        return int(np.bincount(self.observed_code, minlength=len(counts)) @ counts) if len(self) else 0

    def take(self, index: npt.NDArray[Any]) -> Runs:
        """The runs at these positions (or where this mask is true)."""
        keys = self.keys[index]
        count = len(keys)
        taken: dict[int, npt.NDArray[np.integer[Any]]] = {}  # axes that follow one another share their codes
        for code in self.codes.values():
            if id(code) not in taken:
                taken[id(code)] = code[index] if code.strides != (0,) else np.broadcast_to(code[:1], (count,))
        return Runs(
            keys=keys,
            values=self.values,
            codes={name: taken[id(code)] for name, code in self.codes.items()},
            observed=self.observed,
            observed_code=self.observed_code[index],
        )

    def examples(self, names: Iterable[str]) -> list[int]:
        """The first run of each combination of values that these axes take."""
        group = number([(self.codes[name], len(self.values[name])) for name in names], len(self))
        first = np.empty(group.max(initial=-1) + 1, dtype=np.int64)
        first[group[::-1]] = np.arange(len(self))[::-1]  # where several are written to one place, the last one stays
        return [int(i) for i in first]

    def column(self, name: str) -> list[Any]:
        """[n] values of one axis."""
        values = self.values[name]
        return [values[c] for c in self.codes[name].tolist()]

    def value(self, name: str) -> Any:
        """The value of an axis that is the same in every run here (a shape axis inside a pack)."""
        first = int(self.codes[name][0])
        if not (self.codes[name] == first).all():
            raise ValueError(f"{name} must be the same in all runs, but got {sorted(set(map(str, self.column(name))))}")
        return self.values[name][first]

    def row(self, i: int) -> dict[str, Value]:
        """The resolved axes of one run, observed ones left out."""
        row = {name: self.values[name][int(code[i])] for name, code in self.codes.items()}
        return {name: value for name, value in row.items() if value is not None}

    def key(self, i: int) -> str:
        return bytes(self.keys[i]).decode()
