"""Enumeration: the runs of a grid, each with its key and its observed set, without a Python object per run."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.runs import KEY_LENGTH, Observed, Runs, fragment
from raysweep.grid.terms import Table, Term, split
from raysweep.grid.values import Value

__all__ = ["MAX_RUNS", "enumerate_runs", "run_keys"]

MAX_RUNS = 20_000_000  # about 100 bytes each
_MAX_SETS = 100_000
_CHUNK = 1 << 17


def enumerate_runs(terms: Sequence[Term], axes: Mapping[str, Axis], identity: str) -> Runs:
    """Every run of a grid, with its key and its observed set.

    Args:
        terms: The result of `expand`.
        identity: The other contents of a run's key: experiment, version, world, data; one line each.

    Raises:
        SweepError: an axis without default is missing, or the grid has more than `MAX_RUNS` runs.
    """
    terms = [part for term in terms for part in _fixed_kinds(term, axes)]
    size = sum(_run_count(t, axes) for t in terms)
    if size > (most := _max_runs()):
        raise SweepError(
            f"grid: at most {most:,} runs can be planned, but got {size:,}. Make axes shorter, split the sweep, or set "
            "the environment variable RAYSWEEP_MAX_RUNS if memory allows (about 100 bytes per run)"
        )
    parts = [_term_runs(t, axes, identity) for t in terms]
    return parts[0] if len(parts) == 1 else _union(parts)


def _max_runs() -> int:
    given = os.environ.get("RAYSWEEP_MAX_RUNS", str(MAX_RUNS))
    if not given.isdecimal() or len(given) > 12:
        raise SweepError(f"RAYSWEEP_MAX_RUNS must be a whole number of runs, but got {given!r}")
    return int(given)


def _fixed_kinds(term: Term, axes: Mapping[str, Axis]) -> Iterator[Term]:
    """Split a term until each axis whose kind depends on another has one kind."""
    present = {n for t in term for n in t.names}
    for name in sorted(axes):  # an axis at its default has a kind, too
        kind = axes[name].kind
        if isinstance(kind, KindBy) and kind.axis in present:
            control = next(t for t in term if kind.axis in t.names)
            kinds: dict[str, set[Value]] = {}
            for (value,) in control.project([kind.axis]):
                kinds.setdefault(axes[name].kind_for({kind.axis: value}), set()).add(value)
            if len(kinds) > 1:
                for wanted in kinds.values():
                    yes, _ = split(term, axes[kind.axis], wanted, axes)
                    for part in yes:
                        yield from _fixed_kinds(part, axes)
                return
    yield term


def _observed_names(term: Term, axes: Mapping[str, Axis]) -> set[str]:
    first: dict[str, Value] = {n: a.default for n, a in axes.items() if a.default is not None}
    for table in term:
        first.update(zip(table.names, table.rows[0], strict=True))
    return {n for n, a in axes.items() if a.kind_for(first) == "observed"}


def _run_count(term: Term, axes: Mapping[str, Axis]) -> int:
    observed = _observed_names(term, axes)
    return math.prod(len(set(t.project([n for n in t.names if n not in observed]))) for t in term)


def _term_runs(term: Term, axes: Mapping[str, Axis], identity: str) -> Runs:
    observed = _observed_names(term, axes)
    plain: list[Table] = []  # factors a run is enumerated over
    free: list[Table] = []  # factors of observed axes alone: the same for every run
    tied: list[tuple[int, list[Table]]] = []  # (index in plain, its observed rows per plain row)
    for table in term:
        runs_by = [n for n in table.names if n not in observed]
        seen_by = tuple(n for n in table.names if n in observed)
        if not runs_by:
            free.append(table)
            continue
        groups: dict[tuple[Value, ...], list[tuple[Value, ...]]] = {}
        for row, seen in zip(table.project(runs_by), table.project(seen_by), strict=True):
            groups.setdefault(row, []).append(seen)
        if seen_by:
            tied.append((len(plain), [Table(seen_by, tuple(rows)) for rows in groups.values()]))
        plain.append(Table(tuple(runs_by), tuple(groups)))
    _check_sets([tables for _, tables in tied])
    sizes = [len(t.rows) for t in plain]
    n = math.prod(sizes)

    def spread(small: npt.NDArray[np.integer[Any]], i: int) -> npt.NDArray[np.integer[Any]]:
        """[n] what each row of a table stands for, at every run; the last table varies fastest."""
        line = small.reshape([-1 if j == i else 1 for j in range(len(sizes))])
        return np.broadcast_to(line, sizes).reshape(n)

    values: dict[str, tuple[Value | None, ...]] = {}
    codes: dict[str, npt.NDArray[np.integer[Any]]] = {}
    for i, table in enumerate(plain):
        for at_name, name in enumerate(table.names):
            lookup: dict[Value | None, int] = {}
            places = [lookup.setdefault(row[at_name], len(lookup)) for row in table.rows]
            values[name] = tuple(lookup)
            small = np.array(places, dtype=np.min_scalar_type(len(lookup)))
            del lookup, places  # a million values: hundreds of MB
            codes[name] = spread(small, i)
    given = {n for t in term for n in t.names}
    for name, axis in axes.items():
        if axis.optional and axis.default is None and name not in given:
            values[name], codes[name] = (None,), np.broadcast_to(np.uint8(0), (n,))  # these cells lack it
        elif axis.default is None and axis.follows is None and name not in given:
            note = f" ({axis.help})" if axis.help else ""
            raise SweepError(f"grid: axis {name} has no default and must be given in every branch{note}")
        if axis.default is not None and name not in values and name not in observed:
            values[name] = (axis.default,)
            codes[name] = np.broadcast_to(np.uint8(0), (n,))
    for name, axis in axes.items():
        if axis.follows is not None and name not in values:
            values[name], codes[name] = values[axis.follows], codes[axis.follows]

    defaults = tuple((name, axis.default) for name, axis in axes.items() if name in observed)
    distinct: list[Observed] = []
    code: npt.NDArray[np.integer[Any]] = np.zeros(n, dtype=np.int32)
    for i, tables in tied:
        code = code * np.int32(len(tables)) + spread(np.arange(len(tables), dtype=np.int32), i)
    for combo in itertools.product(*(range(len(tables)) for _, tables in tied)):
        own = tuple(tables[row] for (_, tables), row in zip(tied, combo, strict=True))
        distinct.append(Observed((tuple(free) + own,), defaults))
    sets, code = _merge_equal(distinct, code)
    return Runs(run_keys(values, codes, axes, identity, n), values, codes, sets, code)


def _check_sets(tied: Sequence[Sequence[Table]]) -> None:
    """Refuse more distinct observed sets than can be packed: runs with different sets cannot share a pack."""
    sets = math.prod(len(set(tables)) for tables in tied)
    if sets > _MAX_SETS:
        raise SweepError(
            f"grid.zip: at most {_MAX_SETS:,} different sets of observed values can be planned, but got {sets:,}. "
            "Zip observed axes with shorter ones, or split the sweep"
        )


def _merge_equal(
    observed: Sequence[Observed], code: npt.NDArray[np.integer[Any]]
) -> tuple[tuple[Observed, ...], npt.NDArray[np.int32]]:
    """Merge equal observed sets, so that their runs may share a pack; and the runs' codes into them."""
    place: dict[Observed, int] = {}
    recode = np.array([place.setdefault(o, len(place)) for o in observed], dtype=np.int32)
    return tuple(place), recode[code]


def run_keys(
    values: Mapping[str, tuple[Value | None, ...]],
    codes: Mapping[str, npt.NDArray[np.integer[Any]]],
    axes: Mapping[str, Axis],
    identity: str,
    n: int,
) -> npt.NDArray[np.bytes_]:
    """[n] run keys: BLAKE2b over the identity and every axis not at its default, sorted by name."""
    head = hashlib.blake2b(identity.encode() + b"\n", digest_size=KEY_LENGTH // 2)
    columns: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    for name in sorted(values):
        axis = axes[name]
        if axis.follows is not None and codes[name] is codes[axis.follows]:
            continue  # equal to the axis it follows = at its default
        parts = np.array([fragment(name, v) if v != axis.default else b"" for v in values[name]] + [b""], dtype=object)
        code = codes[name]
        if axis.follows is not None:
            place = {v: i for i, v in enumerate(values[axis.follows])}
            shared = np.array([place.get(v, -1) for v in values[name]])
            code = np.where(shared[code] == codes[axis.follows], len(values[name]), code)
        if len(values[name]) > 1 or parts[0]:
            columns.append((parts, code))
    keys = np.empty(n, dtype=f"S{KEY_LENGTH}")
    for start in range(0, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        texts = (
            zip(*(parts[code[start:stop]].tolist() for parts, code in columns), strict=True) if columns else [()] * n
        )
        digests = []
        for text in texts:
            state = head.copy()
            state.update(b"".join(text))
            digests.append(state.hexdigest())
        keys[start:stop] = digests
    return keys


def _union(parts: Sequence[Runs]) -> Runs:
    """Merge the `Runs` of several terms: equal keys are one run, whose observed sets are joined."""
    values: dict[str, dict[Value | None, int]] = {n: {} for p in parts for n in p.values}
    codes: dict[str, list[npt.NDArray[Any]]] = {n: [] for n in values}
    for part in parts:
        for name, table in values.items():
            column = part.values.get(name, (None,))  # None: observed in this part's runs
            recode = np.array([table.setdefault(v, len(table)) for v in column], dtype=np.int32)
            codes[name].append(recode[part.codes.get(name, np.zeros(len(part), dtype=np.uint8))])
    keys = np.concatenate([p.keys for p in parts])
    offsets = np.cumsum([0] + [len(p.observed) for p in parts])
    observed = [o for p in parts for o in p.observed]
    code = np.concatenate([p.observed_code.astype(np.int32) + o for p, o in zip(parts, offsets, strict=False)])
    unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # keep the order of declaration
    merged_code = code[first]
    if len(unique) < len(keys):
        members: dict[int, list[int]] = {}
        counts = np.bincount(inverse)
        for i in np.flatnonzero(counts[inverse] > 1):
            members.setdefault(int(inverse[i]), []).append(int(code[i]))
        joined: dict[tuple[int, ...], int] = {}
        for run, sets in members.items():
            which = tuple(sorted(set(sets)))
            if which not in joined:
                joined[which] = len(observed)
                observed.append(replace(observed[which[0]], blocks=sum((observed[s].blocks for s in which), ())))
            merged_code[run] = joined[which]
    used, merged_code = np.unique(merged_code[order], return_inverse=True)
    distinct, merged_code = _merge_equal([observed[i] for i in used], merged_code)
    return Runs(
        keys=unique[order],
        values={n: tuple(v) for n, v in values.items()},
        codes={n: np.concatenate(c)[first[order]] for n, c in codes.items()},
        observed=distinct,
        observed_code=merged_code,
    )
