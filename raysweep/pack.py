"""Runs -> packs. A pack is a set of runs of one shape, trained as one program by one trial."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.cost import CostOf, run_costs
from raysweep.errors import PackError
from raysweep.experiment import Cost
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.runs import KEY_LENGTH, Observed, Runs, number
from raysweep.grid.values import Value

__all__ = [
    "MIN_LANES",
    "Group",
    "Pace",
    "Pack",
    "build_packs",
    "halve",
    "lanes_per_pack",
    "make_pack",
    "serial_groups",
    "serial_packs",
    "shape_groups",
    "singles",
]

_TRIAL = 0.5  # duration of a trial of several runs, in seconds
_MOST_RUNS = 256  # runs per trial
MIN_LANES = 32  # below this, a step of a pack costs about the same with fewer lanes: splitting gains nothing


@dataclass(frozen=True)
class Pack:
    """Runs of equal shape and equal observed set; lane i is run i."""

    id: str
    runs: Runs = field(repr=False)  # Tune prints configurations
    attempt: int = 1
    fresh: bool = False  # to be run in a fresh process

    def __len__(self) -> int:
        return len(self.runs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pack:
        """Return itself: it never changes, and Tune copies a configuration several times."""
        return self

    @property
    def run_keys(self) -> set[str]:
        """The keys of its runs, which a claim on the pack covers."""
        return {k.decode() for k in self.runs.keys.tolist()}


@dataclass(frozen=True)
class Group:
    """All pending runs of one shape, and their cost.

    Attributes:
        shape: The values of its shape axes.
        index: [n] positions of its runs; where their work differs, the most expensive come first.
        observed: The requested observed values of each.
        cost: The mean over its runs; for bytes, the maximum.
        mixed: Whether their work differs: each pack then gets its share of the expensive ones.
    """

    shape: Mapping[str, Value]
    index: npt.NDArray[np.int64]
    observed: Observed
    cost: Cost
    mixed: bool = False

    def cut(self, count: int) -> list[npt.NDArray[np.int64]]:
        """Its runs in a number of parts of about equal size and work."""
        if self.mixed:  # dealt like cards: contiguous parts would leave all expensive runs to the first
            return [self.index[i::count] for i in range(count)]
        return np.array_split(self.index, count) if count > 1 else [self.index]


@dataclass
class Pace:
    """How long runs of a user's function take, one after another, and how many of them make up one trial.

    Attributes:
        slots: Packs that run at a time.
        seconds: Duration of a run; None while unknown.
        left: Runs that are not in a pack yet.
    """

    slots: int = 1
    seconds: float | None = None
    left: int = 0

    def took(self, seconds: float, runs: int) -> None:
        """Update by a pack that ended."""
        one = seconds / max(runs, 1)
        self.seconds = one if self.seconds is None else (self.seconds + one) / 2

    @property
    def size(self) -> int:
        """Number of runs of the next pack: a trial costs tens of milliseconds, so it should last longer than that."""
        if self.seconds is None:
            return 1
        fair = math.ceil(self.left / (2 * self.slots))
        return max(1, min(int(_TRIAL / max(self.seconds, 1e-6)), _MOST_RUNS, fair))


def serial_packs(runs: Runs, groups: Sequence[Group], attempts: npt.NDArray[np.int32], pace: Pace) -> Iterator[Pack]:
    """Packs of runs that are executed one after another, each sized for one trial when it is made."""
    pace.left = sum(len(group.index) for group in groups)
    for group in groups:
        start = 0
        while start < len(group.index):
            index = group.index[start : start + pace.size]
            start += len(index)
            pace.left -= len(index)
            yield make_pack(runs.take(index), int(attempts[index].max()) + 1)


def serial_groups(runs: Runs) -> list[Group]:
    """Groups of runs of a user's function: those with the same request may follow one another in one trial."""
    codes = runs.observed_code
    return [Group({}, np.flatnonzero(codes == code), runs.observed[code], Cost()) for code in np.unique(codes).tolist()]


def singles(pack: Pack, fresh: bool = False) -> list[Pack]:
    """Each run of a pack as a pack of its own."""
    alone = (make_pack(pack.runs.take(np.array([i])), pack.attempt) for i in range(len(pack)))
    return [replace(one, fresh=fresh) for one in alone]


def make_pack(runs: Runs, attempt: int = 1) -> Pack:
    """A pack whose id is the hash of its runs, whatever their order."""
    lines = np.sort(runs.keys).astype(f"S{KEY_LENGTH + 1}").view(np.uint8).reshape(len(runs), -1)
    lines[:, -1] = ord("\n")
    digest = hashlib.blake2b(lines.tobytes()[:-1], digest_size=6).hexdigest()
    return Pack(digest, _slim(runs), attempt)


def shape_groups(runs: Runs, axes: Mapping[str, Axis], cost: CostOf) -> list[Group]:
    """Runs grouped by what must be equal in a pack: every shape axis and the observed set."""
    columns = [(runs.observed_code, len(runs.observed))]
    for name, code in runs.codes.items():
        if _can_be_shape(axes[name]):
            size = len(runs.values[name])
            if isinstance(kind := axes[name].kind, KindBy):  # where it is a lane, it does not distinguish shapes
                is_shape = [
                    v is not None and axes[name].kind_for({kind.axis: v}) == "shape" for v in runs.values[kind.axis]
                ]
                code, size = np.where(np.array(is_shape)[runs.codes[kind.axis]], code, size), size + 1
            columns.append((code, size))
    group = number(columns, len(runs))
    order = np.argsort(group.astype(np.min_scalar_type(int(group.max(initial=0)))), kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-1))
    groups = []
    for index in np.split(order, bounds[1:]) if len(order) else []:
        row = runs.row(int(index[0]))
        observed = runs.observed[int(runs.observed_code[index[0]])]
        shape = {n: v for n, v in row.items() if axes[n].kind_for(row) == "shape"}
        lanes = [n for n in row if n not in shape and len(runs.values[n]) > 1]
        index, mean, mixed = _priced(runs, index, lanes, cost)
        groups.append(Group(shape, index, observed, mean, mixed))
    return groups


def _priced(
    runs: Runs, index: npt.NDArray[np.int64], lanes: Sequence[str], cost: CostOf
) -> tuple[npt.NDArray[np.int64], Cost, bool]:
    """The runs of a group, the most expensive first if their work differs; the cost of one; whether work differs."""
    code, each = run_costs(runs, index, lanes, cost)
    work = np.array([c.flops + c.flops_eval for c in each])
    share = np.bincount(code, minlength=len(each)) / len(index)
    mean = {f: float(share @ [getattr(c, f) for c in each]) for f in ("parameters", "flops", "flops_eval")}
    mixed = bool((work != work[0]).any())
    order = index[np.argsort(-work[code], kind="stable")] if mixed else index
    return order, Cost(**mean, bytes=max(c.bytes for c in each)), mixed


def _can_be_shape(axis: Axis) -> bool:
    if isinstance(axis.kind, KindBy):
        return "shape" in (*axis.kind.kinds.values(), axis.kind.otherwise)
    return axis.kind == "shape"


def lanes_per_pack(
    groups: Sequence[Group],
    memory: float,
    slots: int = 1,
    lanes: int | None = None,
) -> list[int]:
    """For each group, the largest number of lanes of a pack: by capacity, and so that `slots` workers finish together.

    Args:
        groups: `shape_groups(...)`.
        memory: Bytes that a pack may use on its device.
        slots: Packs that run at the same time.
        lanes: At most this many lanes per pack.

    Raises:
        PackError: one lane alone does not fit in `memory`.
    """
    total = sum(len(g.index) * (g.cost.flops + g.cost.flops_eval) for g in groups)
    most = []
    for group in groups:
        fits = math.inf if group.cost.bytes <= 0 else memory // group.cost.bytes
        if fits < 1:
            raise PackError(
                f"pack: one lane must fit in {memory / 2**30:.2f} GiB, but {dict(group.shape)} needs "
                f"{group.cost.bytes / 2**30:.2f} GiB. Raise resources.memory_gib, or make the run smaller"
            )
        # Whole groups are the fastest per lane; one is cut only into as many slots as it would fill alone.
        own = len(group.index) * (group.cost.flops + group.cost.flops_eval)
        pieces = max(1, round(own * slots / total)) if total else 1
        balanced = max(MIN_LANES, math.ceil(len(group.index) / pieces))
        most.append(int(min(fits, balanced, lanes or math.inf, len(group.index))))
    return most


def build_packs(
    runs: Runs, groups: Sequence[Group], most: Sequence[int], attempts: npt.NDArray[np.int32] | None = None
) -> Iterator[Pack]:
    """The packs of each group, expensive ones first: the cheap ones fill the gaps at the end.

    Args:
        runs: The pending runs that `groups` indexes.
        groups, most: `shape_groups(...)` and its `lanes_per_pack(...)`.
        attempts: [n] attempts so far of each run; a pack's rows carry one more than the maximum over its runs.
    """
    order = sorted(range(len(groups)), key=lambda i: -(groups[i].cost.flops + groups[i].cost.flops_eval))
    for i in order:
        count = math.ceil(len(groups[i].index) / most[i])
        for index in groups[i].cut(count):
            tried = 0 if attempts is None else int(attempts[index].max())
            yield make_pack(runs.take(index), tried + 1)


def halve(pack: Pack) -> tuple[Pack, Pack]:
    """Both halves of a pack that ran out of memory, for the same attempt.

    Raises:
        PackError: it has one lane.
    """
    if len(pack) < 2:
        raise PackError(f"pack {pack.id}: a pack must have 2 lanes or more to be halved, but it has {len(pack)}")
    middle = len(pack) // 2
    index = np.arange(len(pack))
    return make_pack(pack.runs.take(index[:middle]), pack.attempt), make_pack(
        pack.runs.take(index[middle:]), pack.attempt
    )


def _slim(runs: Runs) -> Runs:
    """The same runs without unused values and observed sets, as a pack is sent to a worker."""
    values: dict[str, tuple[Any, ...]] = {}
    codes: dict[str, npt.NDArray[np.integer[Any]]] = {}
    done: dict[tuple[int, int], str] = {}  # axes that follow one another share values and codes
    for name, code in runs.codes.items():
        twin = done.setdefault((id(code), id(runs.values[name])), name)
        if twin != name:
            values[name], codes[name] = values[twin], codes[twin]
        elif len(code) == 1:
            values[name], codes[name] = (runs.values[name][int(code[0])],), np.zeros(1, dtype=np.uint8)
        elif len(runs.values[name]) == 1:
            values[name], codes[name] = runs.values[name], code
        else:
            used, codes[name] = _used(code, len(runs.values[name]))
            values[name] = tuple(runs.values[name][i] for i in used.tolist())
    if len(runs.observed) == 1:
        return replace(runs, values=values, codes=codes)
    used, observed_code = _used(runs.observed_code, len(runs.observed))
    return replace(
        runs, values=values, codes=codes, observed=tuple(runs.observed[i] for i in used), observed_code=observed_code
    )


def _used(code: npt.NDArray[np.integer[Any]], size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.integer[Any]]]:
    """The codes below `size` that occur, in order, and `code` as indices into them, as small as they can be."""
    if size > 4 * len(code):  # few values out of many: sorting beats a table of all of them
        used, place = np.unique(code, return_inverse=True)
        return used, place.astype(np.min_scalar_type(len(used)))
    seen = np.zeros(size, dtype=bool)
    seen[code] = True
    used = np.flatnonzero(seen)
    return used, (np.cumsum(seen) - 1).astype(np.min_scalar_type(len(used)))[code]
