"""The training state of long packs, kept in the store so that a later attempt continues where a worker died.

A file holds one pack's lanes at one step (safetensors); its header names their runs, so that any later pack of these
runs, halved or planned again, finds it. Losing a file costs compute, never a row.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raysweep.errors import LedgerError
from raysweep.experiment import Saved
from raysweep.grid.runs import Runs
from raysweep.pack import Pack, make_pack
from raysweep.store import Store

__all__ = ["FOLDER", "Keeping", "Kept", "find", "parts", "sweep_up"]

FOLDER = "checkpoints"
_SHARE = 0.02  # largest share of the time between two saves that a save may take
_BYTES_PER_SECOND = 2e8  # assumed of the first save, until one was timed
_HEADER = 2**26  # bytes; a longer header is not ours


@dataclass(frozen=True)
class Kept:
    """A file of states.

    Attributes:
        name: Name within the store.
        step: Steps done in its stage.
        runs: Keys of its runs, in the file's order.
        world: Hash of the weights of the world they train in, or "".
        stage: Number of the training, within the run, whose state this is.
    """

    name: str
    step: int
    runs: tuple[str, ...]
    world: str
    stage: int = 0


def find(store: Store, world: str | None = None) -> list[Kept]:
    """The saved states (of this world), the most advanced first; other files are ignored."""
    names = [name for name, _ in store.list(FOLDER) if name.endswith(".safetensors")]
    if not names:
        return []
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: _look(store, f"{FOLDER}/{name}"), names)
    return sorted(
        (k for k in found if k is not None and world in (None, k.world)), key=lambda k: (-k.stage, -k.step, k.name)
    )


def parts(pack: Pack, kept: Sequence[Kept]) -> list[tuple[Pack, Kept | None]]:
    """The pack, split by the state its runs continue from (None: from the start) and by the cells asked of them."""
    source = np.full(len(pack), len(kept))
    for i, key in enumerate(k.decode() for k in pack.runs.keys.tolist()):
        source[i] = next((j for j, one in enumerate(kept) if key in one.runs), len(kept))
    groups = np.stack([source, pack.runs.observed_code])
    if (groups == groups[:, :1]).all():
        return [(pack, kept[source[0]] if source[0] < len(kept) else None)]
    found = []
    for at, code in np.unique(groups, axis=1).T.tolist():
        part = pack.runs.take(np.flatnonzero((groups == [[at], [code]]).all(axis=0)))
        found.append((make_pack(part, pack.attempt), kept[at] if at < len(kept) else None))
    return found


def sweep_up(store: Store, runs: Runs, pending: Callable[[Runs], Runs]) -> None:
    """Delete the states whose runs all belong to these and are finished, or have a later state."""
    with contextlib.suppress(LedgerError):  # a file that stays does no harm
        kept = find(store)
        if not kept:
            return
        own = {k.decode() for k in runs.keys.tolist()}
        unfinished = {k.decode() for k in pending(runs).keys.tolist()}
        later: set[tuple[str, str]] = set()  # (run, world) of the files before, which are further advanced
        for one in kept:
            if own.issuperset(one.runs) and all(k not in unfinished or (k, one.world) in later for k in one.runs):
                store.delete(one.name)
            later |= {(key, one.world) for key in one.runs}


class Keeping:
    """The `experiment.Keep` of one pack: saves every `every` seconds, and less often where a save is slow.

    Args:
        world: Hash of its world's weights, or "".
        start: The state it continues from.
        every: Least seconds between saves; 0 for none.
        before: Called before a save: earlier rows must be in the ledger first, as only later cells can be computed
            from the state.
        lasting: Whether the state at the end is saved, for later cells of the same runs.
    """

    def __init__(
        self,
        store: Store,
        pack: Pack,
        world: str,
        start: Kept | None,
        every: float,
        before: Callable[[], None],
        lasting: bool = False,
    ) -> None:
        self._store, self._pack, self._world, self._start = store, pack, world, start
        self._every, self._before, self.lasting = every, before, lasting and every > 0
        self._last, self._cost, self._name = time.monotonic(), 0.0, ""

    @property
    def saved(self) -> Saved | None:
        """The state to continue from; None, too, if it was deleted in the meantime."""
        if self._start is None:
            return None
        rows = {key: i for i, key in enumerate(self._start.runs)}
        with contextlib.suppress(LedgerError):
            data = self._store.read(self._start.name)
            return Saved(data, [rows[k.decode()] for k in self._pack.runs.keys.tolist()], len(rows), self._start.stage)
        return None

    def due(self, size: int) -> bool:
        """Whether to save a state of `size` bytes now."""
        cost = self._cost or size / _BYTES_PER_SECOND
        return self._every > 0 and time.monotonic() - self._last >= max(self._every, cost / _SHARE)

    def save(self, step: int, state: Callable[[dict[str, str]], bytes], stage: int = 0) -> None:
        """Save the state at a step of a stage in place of the last one; a store that refuses is no reason to stop.

        Args:
            state: Returns the file's content, given its header's metadata.
        """
        started = time.monotonic()
        name = f"{FOLDER}/{self._pack.id}-{f'{stage}-' if stage else ''}{step}.safetensors"
        keys = [k.decode() for k in self._pack.runs.keys.tolist()]
        with contextlib.suppress(LedgerError):
            self._before()
            about = {"step": str(step), "runs": json.dumps(keys), "world": self._world, "stage": str(stage)}
            self._store.write(name, state(about), patience=0.0)  # training does not wait for a store
            if self._name != name:
                self.forget()
            self._name = name
        self._last = time.monotonic()
        self._cost = self._last - started

    def forget(self) -> None:
        """Delete the last state, and the one it continued from unless other packs may need it."""
        with contextlib.suppress(LedgerError):
            if self._name:
                self._store.delete(self._name)
            if self._start is not None and set(self._start.runs) <= {k.decode() for k in self._pack.runs.keys.tolist()}:
                self._store.delete(self._start.name)
                self._start = None


def _look(store: Store, name: str) -> Kept | None:
    """Describe a file from its header alone; None if it is no saved state."""
    try:
        with store.fs.open_input_file(store.path(name)) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _HEADER:
                return None
            metadata = json.loads(file.read(size))["__metadata__"]
        runs = json.loads(metadata["runs"])
        if not all(isinstance(key, str) for key in runs):
            return None
        return Kept(name, int(metadata["step"]), tuple(runs), str(metadata["world"]), int(metadata.get("stage", 0)))
    except (LedgerError, OSError, ValueError, TypeError, KeyError, struct.error, RecursionError):
        return None
