"""Proposals of hyper-parameters: a scrambled design first, then Optuna's samplers.

Every function here is pure: the same arguments give the same candidates in every process, so a driver that was killed
asks for the same ones again. Scores are minimised; a candidate that diverged or failed has the score infinity.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from raysweep.errors import SweepError, nearest
from raysweep.grid.axes import TYPES, Axis
from raysweep.grid.values import Value

if TYPE_CHECKING:
    import optuna

__all__ = [
    "SAMPLERS", "SEARCH", "Dimension", "History", "Point", "Space",
    "check_sampler", "design", "distributions", "parameters", "parse_space", "point_of", "propose",
    "quiet_optuna", "require", "seed_of", "size",
]  # fmt: skip

Point: TypeAlias = tuple[Value, ...]  # one value per dimension
History: TypeAlias = Sequence[Sequence[tuple[Point, float]]]  # the scored candidates of each round, in the order asked

SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "tpe": ("optuna",),
    "cmaes": ("optuna", "cmaes"),
    "qmc": (),
    "optuna_search": ("optuna",),
}
SEARCH = "optuna_search"  # Ray Tune's class, which proposes a candidate whenever another one ends, not in rounds
_SCALES = ("log", "linear")
_LEAST_POPULATION = 4  # of CMA-ES, which updates a covariance by the better half
_TRIES = 6  # doublings of a design in search of points that are distinct
_SOURCE = 10  # trials below which their best tenth is none: CMA-ES then begins in the middle of the space
_SHARE = 4  # of a round, one candidate in so many may be the best of a neighbouring scale


@dataclass(frozen=True)
class Dimension:
    """One tuned axis: a range, or a list of choices.

    Attributes:
        low, high: Ends of the range, inclusive.
        log: Whether the logarithm is searched evenly.
        choices: The values of an axis without a range.
    """

    axis: Axis
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.axis.type is int

    def at(self, share: float) -> Value:
        """The value at a share in [0, 1) of the way from its low end to its high one."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        margin = 0.5 if self.whole else 0.0  # so that each whole number gets its share
        low, high = self.low - margin, self.high + margin
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        return self.parse(min(max(round(value) if self.whole else value, self.low), self.high))

    def share(self, value: Value) -> float:
        """The share of the way from the low end to the high one at which a value lies."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        x, low, high = float(value), self.low, self.high
        return math.log(x / low) / math.log(high / low) if self.log else (x - low) / (high - low)

    def holds(self, value: Value) -> bool:
        """Whether it is one of the values searched."""
        return value in self.choices if self.choices else self.low <= float(value) <= self.high

    def parse(self, raw: Any) -> Value:
        """A value as the grid would hold it."""
        return self.axis.parse(raw, "tune")

    @property
    def text(self) -> str:
        """What is searched, for hashes."""
        return f"{self.axis.name}={self.choices or (self.low, self.high, self.log)}"

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The same for Optuna. Choices go by their position."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(tuple(range(len(self.choices))))
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


Space: TypeAlias = tuple[Dimension, ...]


def parse_space(spec: Mapping[str, Any], axes: Mapping[str, Axis], where: str = "tune") -> Space:
    """The space that a sweep's `tune` describes.

    Args:
        spec: Per axis `{log: [low, high]}`, `{linear: [low, high]}` or a list of choices.
        axes: The experiment's, by name.

    Raises:
        SweepError: an unknown axis, one that cannot be tuned, or a range that is not valid.
    """
    found = []
    for name, entry in spec.items():
        place = f"{where}.{name}"
        if name not in axes:
            raise SweepError(f"{place}: must be an axis of the experiment, but got {name!r}. {nearest(name, axes)}")
        _check_axis(axes[name], axes, place)
        found.append(_dimension(axes[name], entry, place))
    return tuple(found)


def _check_axis(axis: Axis, axes: Mapping[str, Axis], where: str) -> None:
    kinds = {axis.kind} if isinstance(axis.kind, str) else {*axis.kind.kinds.values(), axis.kind.otherwise}
    if "observed" in kinds:
        raise SweepError(
            f"{where}: must be an axis that changes a run, but {axis.name} is observed: a run is read at all of its "
            "values. Put it into the grid"
        )
    if axis.role == "seed":
        raise SweepError(f"{where}: must be a hyper-parameter, but {axis.name} is a seed. Put it into the grid")
    tied = [a.name for a in axes.values() if axis.name in (a.follows, getattr(a.kind, "axis", None))]
    if tied or axis.follows:
        other = axis.follows or tied[0]
        raise SweepError(
            f"{where}: must be an axis that stands alone, but {axis.name} and {other} depend on each other. Put "
            f"{axis.name} into the grid"
        )


def _dimension(axis: Axis, entry: Any, where: str) -> Dimension:
    if isinstance(entry, list | tuple):
        choices = tuple(dict.fromkeys(axis.parse(value, where) for value in entry))
        if len(choices) < 2:
            raise SweepError(f"{where}: must have two choices or more, but got {list(entry)!r}. Put it into the grid")
        return Dimension(axis, choices=choices)
    rule = "must be {log: [low, high]}, {linear: [low, high]} or a list of choices"
    if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in _SCALES:
        key = next(iter(entry), "") if isinstance(entry, Mapping) else ""
        raise SweepError(f"{where}: {rule}, but got {entry!r}." + (f" {nearest(str(key), _SCALES)}" if key else ""))
    scale, ends = next(iter(entry.items()))
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(map(_is_number, ends)):
        raise SweepError(f"{where}: {scale} takes two numbers, [low, high], but got {ends!r}")
    if axis.type not in (int, float):
        raise SweepError(f"{where}: {axis.name} is {TYPES[axis.type]} and takes a list of choices, but got {entry!r}")
    low, high = (float(axis.parse(end, where)) for end in ends)
    if low >= high or (scale == "log" and low <= 0):
        order = "0 < low < high" if scale == "log" else "low < high"
        raise SweepError(f"{where}: `{order}` must hold in {scale}, but got (low={low:g}, high={high:g})")
    return Dimension(axis, low, high, scale == "log")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_sampler(sampler: str, space: Space, candidates: int) -> None:
    """Refuse a sampler that cannot search the space.

    Raises:
        SweepError: it cannot.
    """
    listed = [d.axis.name for d in space if d.choices]
    if sampler == "cmaes" and listed:
        raise SweepError(
            f"tuner.sampler: cmaes must have ranges, but tune.{listed[0]} is a list of choices. Use tpe, or a range"
        )
    if sampler == "cmaes" and candidates < _LEAST_POPULATION:
        raise SweepError(
            f"tuner.candidates: cmaes must have {_LEAST_POPULATION} or more, the population of a round, but got "
            f"{candidates}. Ask for more, or use tpe"
        )


def require(sampler: str) -> None:
    """Refuse a sampler that is not installed here.

    Raises:
        SweepError: it is not.
    """
    lacking = [name for name in SAMPLERS[sampler] if find_spec(name) is None]
    if lacking:
        raise SweepError(
            f"tuner.sampler: {sampler} must have the package {lacking[0]}, but it is not installed here. Install it by "
            "`pip install 'raysweep[tune]'`, or use the sampler qmc, which needs nothing"
        )


def seed_of(*parts: object) -> int:
    """A seed below 2^31 for whatever the parts name, the same in every process."""
    text = "\n".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) >> 1


def size(space: Space) -> float:
    """How many points a space has."""
    return math.prod(len(d.choices) or (int(d.high - d.low) + 1 if d.whole else math.inf) for d in space)


def design(space: Space, count: int, seed: int) -> list[Point]:
    """The first `count` distinct points of a scrambled Sobol sequence; fewer where the space has fewer. A longer design
    begins with the shorter one.
    """
    from scipy.stats import qmc

    most = size(space)
    exponent, found = max(0, math.ceil(math.log2(max(count, 1)))), list[Point]()
    for extra in range(_TRIES):
        shares = qmc.Sobol(len(space), scramble=True, seed=seed).random_base2(exponent + extra)
        points = (tuple(d.at(float(u)) for d, u in zip(space, row, strict=True)) for row in shares)
        found = list(dict.fromkeys(points))
        if len(found) >= min(count, most):
            break
    return found[:count]


def propose(
    space: Space, sampler: str, count: int, seed: int, history: History, neighbours: Sequence[History] = ()
) -> list[Point]:
    """The candidates of the round that follows those of `history`.

    Args:
        sampler: A key of `SAMPLERS`.
        count: How many.
        seed: Of the study; the round's own is derived from it.
        history: The study's rounds so far, at least the design.
        neighbours: The same rounds of studies at neighbouring scales, where this one is started from theirs: TPE tries
            the best of each, CMA-ES begins at the distribution of the good ones.

    Returns:
        At most `count` points: none that was tried before (CMA-ES may repeat some), and none at all where every point
        of the space was.

    Raises:
        SweepError: the sampler is not installed, or earlier candidates of CMA-ES cannot be reproduced.
    """
    require(sampler)
    tried = {point for scored in history for point, _ in scored}
    neighbours = [[*each][: len(history)] for each in neighbours]
    if sampler == "cmaes":
        with quiet_optuna():
            return _cmaes(space, count, seed, history, neighbours)
    found: dict[Point, None] = {}
    if sampler == "tpe":
        found = dict.fromkeys(p for p in _best(neighbours) if p not in tried)
        found = dict.fromkeys([*found][: count // _SHARE])
        with quiet_optuna():
            found |= dict.fromkeys(p for p in _tpe(space, count, seed, history, [*found]) if p not in tried)
    spare = design(space, len(tried) + 2 * count, seed)
    found |= dict.fromkeys(p for p in spare if p not in tried)  # also where a discrete space is nearly exhausted
    return [*found][:count]


def _best(histories: Sequence[History]) -> list[Point]:
    """The best candidate of each study that has one."""
    best = [min((score, point) for scored in each for point, score in scored) for each in histories if any(each)]
    return [point for score, point in best if math.isfinite(score)]


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna without its lines for every study, and without its warnings that an option may change."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _tpe(space: Space, count: int, seed: int, history: History, first: Sequence[Point]) -> list[Point]:
    """`first`, and what a tree-structured Parzen estimator proposes beside them, all at once: a candidate that is not
    scored yet counts as a bad one (constant liar), so that the others keep away from it.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(
        seed=seed_of(seed, len(history)), multivariate=True, constant_liar=True, n_startup_trials=1
    )
    study = optuna.create_study(sampler=sampler)
    study.add_trials([_trial(space, p, s) for scored in history for p, s in sorted(scored, key=_order)])
    for point in first:
        study.enqueue_trial(parameters(space, point))
    return [point_of(space, study.ask(distributions(space)).params) for _ in range(count)]


def _cmaes(space: Space, count: int, seed: int, history: History, neighbours: Sequence[History]) -> list[Point]:
    """The next population of CMA-ES, whose earlier ones are asked for and told again.

    Its first distribution covers the good points of the design, the study's own and its neighbours' (warm start).
    Losses of different scales cannot be compared, so each design enters by the ranks of its points.
    """
    import optuna

    source = []
    for scored in (history[0], *(each[0] for each in neighbours if each)):
        ranked = sorted(scored, key=_order)
        source += [_trial(space, point, i / len(ranked)) for i, (point, s) in enumerate(ranked) if math.isfinite(s)]
    sampler = optuna.samplers.CmaEsSampler(
        seed=seed,
        popsize=count,
        source_trials=source if len(source) >= _SOURCE else None,
        with_margin=any(d.whole for d in space),
        warn_independent_sampling=False,
    )
    study = optuna.create_study(sampler=sampler)
    study.add_trials([_trial(space, point, score) for point, score in sorted(history[0], key=_order)])
    for scored in history[1:]:
        trials = [study.ask(distributions(space)) for _ in scored]
        if [point_of(space, trial.params) for trial in trials] != [point for point, _ in scored]:
            raise SweepError(
                "tune: CMA-ES must continue with the grid, Optuna and cmaes that it was begun with, but its earlier "
                "candidates differ now. Use them again, or another store"
            )
        for trial, (_, score) in zip(trials, scored, strict=True):
            study.tell(trial, score)
    return [point_of(space, study.ask(distributions(space)).params) for _ in range(count)]


def _order(scored: tuple[Point, float]) -> tuple[float, str]:
    point, score = scored
    return score, repr(point)


def distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    """A space as Optuna describes it."""
    return {d.axis.name: d.distribution for d in space}


def parameters(space: Space, point: Point) -> dict[str, Any]:
    """A point as Optuna's parameters."""
    return {d.axis.name: d.choices.index(v) if d.choices else v for d, v in zip(space, point, strict=True)}


def point_of(space: Space, params: Mapping[str, Any]) -> Point:
    """Optuna's parameters as a point."""
    return tuple(d.choices[params[d.axis.name]] if d.choices else d.parse(params[d.axis.name]) for d in space)


def _trial(space: Space, point: Point, score: float) -> optuna.trial.FrozenTrial:
    import optuna

    return optuna.trial.create_trial(
        params=parameters(space, point), distributions=distributions(space), value=float(score)
    )
