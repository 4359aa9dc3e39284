"""What is left of runs once cells are done, computed by whole columns, so that 10^7 cells take seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.grid.runs import KEY_LENGTH, Runs

__all__ = ["among", "locate", "marks", "run_marks", "subtract"]

_HEX = np.zeros(256, dtype=np.uint8)
_HEX[list(b"0123456789abcdef")] = range(16)
_CHUNK = 1 << 20
Texts: TypeAlias = "pa.ChunkedArray | Sequence[str]"


def locate(runs: Runs, cells: Texts) -> npt.NDArray[np.int64]:
    """[m] the position in `runs` of each cell's run, or -1 where it belongs to none of them."""
    short = _short(runs.keys)
    order = np.argsort(short)
    short = short[order]
    at = [np.zeros(0, dtype=np.int64)]
    for chunk in _chunks(cells):
        wanted = _keys(chunk)
        found = order[np.minimum(np.searchsorted(short, _short(wanted)), len(order) - 1)]
        at.append(np.where(runs.keys[found] == wanted, found, -1))
    return np.concatenate(at)


def marks(cells: Texts) -> npt.NDArray[np.uint64]:
    """[m] a number for each cell: equal cells have equal ones; different cells nearly never have."""
    _, code = _suffixes(cells)
    found = _words(int(code.max(initial=0)) + 1)[code]
    start = 0
    for chunk in _chunks(cells):
        found[start : start + len(chunk)] += _short(_keys(chunk))
        start += len(chunk)
    return found


def run_marks(cells: Texts) -> npt.NDArray[np.uint64]:
    """[m] a number for the run of each cell."""
    found = [_short(_keys(chunk)) for chunk in _chunks(cells)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)


def among(runs: Runs, cells: Texts) -> npt.NDArray[np.bool_]:
    """[m] whether each cell is one of these runs'."""
    if not len(cells) or not len(runs):
        return np.zeros(len(cells), dtype=bool)
    return _placed(runs, cells)[3]


def _placed(
    runs: Runs, cells: Texts
) -> tuple[npt.NDArray[np.int64], list[str], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """For m cells: [m] positions of their runs; distinct suffixes, [m] indices into them; [m] whether asked for."""
    run = locate(runs, cells)
    names, suffix = _suffixes(cells)
    asked = np.array([[name in observed.cells for name in names] for observed in runs.observed])
    hit = run >= 0
    hit[hit] = asked[runs.observed_code[run[hit]], suffix[hit]]
    return run, names, suffix, hit


def subtract(runs: Runs, cells: Texts) -> Runs:
    """The runs that have cells outside `cells`, each with its observed set reduced to those."""
    if not len(cells) or not len(runs):
        return runs
    run, names, suffix_code, hit = _placed(runs, cells)
    done = np.unique(run[hit] * len(names) + suffix_code[hit])  # each (run, suffix) once, in order
    run, have = np.divmod(done, len(names))
    count = np.bincount(run, minlength=len(runs))
    size = np.array([o.count for o in runs.observed])[runs.observed_code]

    partial = np.flatnonzero((count > 0) & (count < size))
    code, extra = runs.observed_code.astype(np.int32), []
    if len(partial):
        # Runs with the same cells done share one reduced set. Equal sums of random 64-bit words: equal cells.
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_words(len(names))[have])])
        first = np.searchsorted(run, partial)
        stop = first + count[partial]
        same = np.unique(total[stop] - total[first], return_inverse=True)[1] * len(runs.observed) + code[partial]
        _, leaders, group = np.unique(same, return_index=True, return_inverse=True)
        for i in leaders.tolist():
            observed = runs.observed[code[partial[i]]]
            gone = {names[c] for c in have[first[i] : stop[i]].tolist()}
            extra.append(observed.only([s for s in observed.cells if s not in gone]))
        code[partial] = len(runs.observed) + group
    left = Runs(runs.keys, runs.values, runs.codes, (*runs.observed, *extra), code)
    return left.take(np.flatnonzero(count < size))


def _words(count: int) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)


def _chunks(texts: Texts) -> Iterator[pa.Array]:
    """Pieces of a column: processed whole, temporaries would take as much memory again."""
    if not isinstance(texts, pa.ChunkedArray):
        texts = pa.chunked_array([texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())])
    for chunk in texts.chunks:
        for start in range(0, len(chunk), _CHUNK):
            yield pc.fill_null(chunk.slice(start, _CHUNK), "")


def _suffixes(cells: Texts) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The distinct suffixes of cells, and [m] the cells' indices into them."""
    names: dict[str, int] = {}
    codes = [np.zeros(0, dtype=np.int32)]
    for chunk in _chunks(cells):
        found = pc.dictionary_encode(pc.utf8_slice_codeunits(chunk, KEY_LENGTH))
        place = [names.setdefault(name, len(names)) for name in found.dictionary.to_pylist()]
        codes.append(np.array(place, dtype=np.int32)[found.indices.to_numpy()])
    return list(names), np.concatenate(codes)


def _keys(cells: pa.Array) -> npt.NDArray[np.bytes_]:
    """[m] the run key that each cell starts with; zeros where a text is too short for one."""
    key = pc.utf8_slice_codeunits(cells, 0, KEY_LENGTH)
    key = pc.if_else(pc.equal(pc.binary_length(key), KEY_LENGTH), key, "0" * KEY_LENGTH)
    fixed = key.cast(pa.binary()).cast(pa.binary(KEY_LENGTH))
    return np.frombuffer(fixed.buffers()[1], f"S{KEY_LENGTH}", len(fixed), fixed.offset * KEY_LENGTH)


def _short(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """[m] the first 64 of a key's 80 bits as a number: it sorts and compares many times faster than text."""
    found = np.empty(len(keys), dtype=np.uint64)
    for start in range(0, len(keys), _CHUNK):
        digits = _HEX[np.frombuffer(keys[start : start + _CHUNK].tobytes(), np.uint8).reshape(-1, KEY_LENGTH)[:, :16]]
        found[start : start + _CHUNK] = (digits[:, ::2] << 4 | digits[:, 1::2]).view(">u8").reshape(-1)
    return found
