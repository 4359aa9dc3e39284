"""Groups that are fitted as one law, because they share parameters, and fits with priors.

Least squares on log y, to which a normal prior adds `sigma^2 ((parameter - mean) / sd)^2`: the log posterior, where
sigma is the residual scale, that of the fit without priors. Draws move each prior's mean by its own sd, as they move
the data by the residuals: for a linear law they are draws of the posterior (randomised maximum a posteriori), so that
an interval holds both. Groups that share parameters are drawn together, by clusters that they may share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws import caveats
from raysweep.laws.batch import Group, problems_of, weights_of
from raysweep.laws.bootstrap import Bootstrap, resample
from raysweep.laws.choice import Evidence, evidence, held_out
from raysweep.laws.definition import Law
from raysweep.laws.dependence import clustered
from raysweep.laws.determined import undetermined
from raysweep.laws.estimate import Status, distinct, solve
from raysweep.laws.fitting import Drawn, begin, effective, fit_groups, intervals_of, outcome, scored
from raysweep.laws.group import Data, GroupFit, Holdout
from raysweep.laws.joint import Joint
from raysweep.laws.noise import ignored
from raysweep.laws.posterior import Pulls, beside_data
from raysweep.laws.prior import Prior
from raysweep.laws.refusal import RequestError
from raysweep.laws.request import Options

__all__ = ["fit_coupled"]

_MOST = 100  # parameters of a joint law
_MOST_POINTS = 20_000
_ROUNDS = 3  # alternations of weights and fit
_RELATIVE = 1e-6  # see `estimate`: draws are polished as far as those of one group
_DIFFERENT = 0.01  # p-value below which groups do not share a parameter
_OF_A_LINE = 2  # parameters of a straight line in logs


def fit_coupled(
    law: Law,
    groups: Sequence[Data],
    x: Sequence[str],
    y: str,
    options: Options,
    shared: tuple[str, ...] = (),
    priors: tuple[Prior, ...] = (),
) -> list[GroupFit]:
    """Fit `law` to each group's points, with parameters that all groups share, or with priors, or with both.

    Raises:
        RequestError: Parameters are shared, but there is one group, or there are too many parameters in all.
    """
    if shared and len(groups) == 1:
        raise RequestError(
            "shared",
            f"must have groups to share {', '.join(shared)}, but there is one. Name the column of groups (by).",
        )
    plain: Sequence[GroupFit | None] = [None] * len(groups)
    if priors and shared:
        plain = fit_coupled(law, groups, x, y, options, shared)
    elif priors:
        plain = fit_groups(law, groups, x, y, options)
    eased = _eased(law, shared, priors)
    begun = [effective(replace(begin(eased, data, options), law=law), y, options.huber) for data in groups]
    out = {
        i: outcome(group, x, y, options, Drawn(None, {}, {}), None, ())
        for i, group in enumerate(begun)
        if group.error is not None
    }
    sound = [i for i in range(len(begun)) if i not in out]
    for index in ([sound] if shared else [[i] for i in sound]) if sound else []:
        some = _Coupled([begun[i] for i in index], tuple(x), y, options, shared, priors, [plain[i] for i in index])
        out |= dict(zip(index, some.outcomes(), strict=True))
    return [out[i] for i in range(len(begun))]


def _eased(law: Law, shared: tuple[str, ...], priors: tuple[Prior, ...]) -> Law:
    """The law with as few scales as a group needs: others, or a prior, determine the rest."""
    given = {*shared, *(prior.name for prior in priors)}
    own = sum(name not in given for name in law.names)
    fewest = min(law.fewest_scales, own + 1) if shared else max(2, law.fewest_scales - len(priors))
    return replace(law, fewest_scales=fewest, levels=tuple(min(level, fewest) for level in law.levels))


@dataclass(frozen=True)
class _Coupled:
    """Groups that are fitted together.

    Attributes:
        groups: Sound groups, of one law.
        plain: Their fits without priors; None for each where there are no priors.
    """

    groups: Sequence[Group]
    x: tuple[str, ...]
    y: str
    options: Options
    shared: tuple[str, ...]
    priors: tuple[Prior, ...]
    plain: Sequence[GroupFit | None]

    @property
    def law(self) -> Law:
        return self.groups[0].law

    @property
    def _given(self) -> bool:
        """Whether a group's own parameters are no more than any straight line determines."""
        given = {*self.shared, *(prior.name for prior in self.priors)}
        return sum(p.low < p.high and p.name not in given for p in self.law.parameters) <= _OF_A_LINE

    def outcomes(self) -> list[GroupFit]:
        """The fit of each group."""
        joint = Joint(self.law, self.shared, len(self.groups), tuple((one.name, one.mean) for one in self.priors))
        count = len(joint.law.parameters)
        if self.shared and count > _MOST:
            raise RequestError(
                "shared",
                f"must leave at most {_MOST} parameters in all, but {len(self.groups)} groups make {count}. Share more "
                "of them, or choose groups with where.",
            )
        whole, pulls = self._estimated(joint)
        error = None
        points = distinct(whole.data.x) + pulls.index.size
        if points < count:
            error = f"{count} parameters in all need at least as many points, but there are {points}. Add scales."
        elif not self.law.proved:
            logs = np.log(whole.data.x)[None], np.log(whole.data.y)[None]
            u, *_ = pulls.beside(*logs, whole.weights[None], pulls.mean[None])
            error = undetermined(joint.law, np.exp(u[0]), whole.values)
        each = [clustered(group, self.x) for group in self._apart(joint, whole)]
        if error is not None:
            none = Drawn(None, {}, {})
            return [outcome(replace(g, error=error), self.x, self.y, self.options, none, None, ()) for g in each]
        whole = replace(whole, data=_combined(joint, each))
        drawn = self._split(joint, *self._drawn(joint, whole, pulls))
        second = self._held_out(joint, each) if self.options.holdout else [None] * len(each)
        rivals, said = self._compared(each)
        made = []
        for group, sample, holdout, plain in zip(each, drawn, second, self.plain, strict=True):
            one = outcome(group, self.x, self.y, self.options, sample, holdout, ())
            dropped, intervals = {"no_rivals"}, one.intervals
            if "no_trend" in one.details and self._given:  # what is shared, or known, determines a flat group, too
                dropped, intervals = {"no_rivals", "no_trend", "no_interval"} - {*sample.notes}, sample.intervals
            details = {code: text for code, text in one.details.items() if code not in dropped}
            details |= said | ignored(group)
            one = replace(
                one, details=details, rivals=rivals, intervals=intervals, shared=self.shared, priors=self.priors
            )
            made.append(one if plain is None else beside_data(one, plain, self.priors))
        return made

    def _estimated(self, joint: Joint) -> tuple[Group, Pulls]:
        """All groups as one, with its values, and the priors."""
        none = Pulls.of(joint, (), 1.0)
        whole = self._solved(joint, self.groups, none)
        for _ in range(_ROUNDS if any(group.data.se is not None for group in self.groups) else 0):
            each = self._apart(joint, whole)
            each = [group if group.data.se is None else replace(group, weights=weights_of(group)) for group in each]
            whole = self._solved(joint, each, none)
        if not self.priors:
            return whole, none
        pulls = Pulls.of(joint, self.priors, self._variance(joint, whole))
        return self._solved(joint, self._apart(joint, whole), pulls), pulls

    def _variance(self, joint: Joint, whole: Group) -> float:
        """The residual variance of the fit without priors, or with priors that hold where that has no freedom left."""
        spare = whole.data.y.size - joint.law.free
        if spare < 1:
            spare += len(self.priors)
            whole = self._solved(joint, self._apart(joint, whole), Pulls.of(joint, self.priors, 1e6))
        residual = np.log(joint.law.predict(whole.data.x, whole.values)) - np.log(whole.data.y)
        return float((whole.weights * residual**2).sum() / max(spare, 1))

    def _solved(self, joint: Joint, groups: Sequence[Group], pulls: Pulls) -> Group:
        """All groups as one, solved."""
        data = _combined(joint, groups)
        w = np.concatenate([group.weights for group in groups])
        points = pulls.beside(np.log(data.x)[None], np.log(data.y)[None], w[None], pulls.mean[None])
        fitted = solve(joint.law, *points, self.options.huber)
        run = np.arange(data.y.size)
        return Group(joint.law, data, run, w, fitted.values[0], int(fitted.status[0]), {})

    def _apart(self, joint: Joint, whole: Group) -> list[Group]:
        """Each group with its values and weights."""
        ends = np.cumsum([group.data.y.size for group in self.groups])[:-1]
        low, high = ([getattr(p, end) for p in self.law.parameters] for end in ("low", "high"))
        out = []
        for group, values, w in zip(
            self.groups, joint.gathered(whole.values), np.split(whole.weights, ends), strict=True
        ):
            bound = Status.BOUND_HIT if ((values <= low) | (values >= high)).any() else Status.CONVERGED
            status = whole.status if whole.status == Status.MAX_ITER else bound
            out.append(replace(group, values=values, weights=w, status=int(status)))
        return out

    def _drawn(self, joint: Joint, whole: Group, pulls: Pulls) -> tuple[Bootstrap | None, str]:
        """The draws of the joint law; or why there are none."""
        options, data = self.options, whole.data
        if not options.draws:
            return None, ""
        if data.y.size > _MOST_POINTS:
            return (
                None,
                f"An interval is drawn for at most {_MOST_POINTS:,} points, but there are more. Average points.",
            )
        precision = np.zeros(whole.values.size)
        precision[pulls.index] = pulls.weight
        try:
            sample = resample(
                joint.law, data.x, data.y, whole.values, data.run, whole.weights, options.draws, options.seed,
                precision=precision if self.priors else None,
            )  # fmt: skip
        except FitError as error:
            return None, str(error)
        points = problems_of(whole, sample, whole.weights, options)
        log = np.array([p.log for p in joint.law.parameters])[pulls.index]
        centre = whole.values[pulls.index]
        centre = np.where(log, np.log(np.where(log, centre, 1.0)), centre)
        normal = np.random.default_rng([options.seed, 1]).standard_normal((options.draws, pulls.index.size))
        moved = pulls.beside(points.u, points.t, points.w, centre + pulls.sd * normal)
        drawn = solve(joint.law, *moved, options.huber, whole.values[None], _RELATIVE)
        return sample.solved(joint.law, whole.values, drawn.values), ""

    def _split(self, joint: Joint, sample: Bootstrap | None, why: str) -> list[Drawn]:
        """The draws of each group."""
        if sample is None:
            return [Drawn(None, {}, {"no_interval": why} if why else {}) for _ in self.groups]
        out = []
        for values, draws in zip(
            joint.gathered(sample.values), np.moveaxis(joint.gathered(sample.draws), -2, 0), strict=True
        ):
            own = replace(sample, law=self.law, values=values, draws=draws)
            out.append(Drawn(own, intervals_of(own, self.options.level), {}))
        return out

    def _held_out(self, joint: Joint, groups: Sequence[Group]) -> list[Holdout | None]:
        """The second fit, without the largest scales of each group that keeps enough."""
        need, left = _eased(self.law, self.shared, self.priors), []
        for group in groups:
            out, x = held_out(group.data.x, self.options.holdout), group.data.x
            enough = distinct(x[:, ~out]) >= need.fewest_scales and all(
                np.unique(scale).size >= level for scale, level in zip(x[:, ~out], need.levels, strict=True)
            )
            left.append(out if enough else np.zeros(out.size, dtype=bool))
        kept = [
            replace(group, data=group.data.take(~out), run=group.run[~out], weights=group.weights[~out])
            for group, out in zip(groups, left, strict=True)
        ]
        few = distinct(_combined(joint, kept).x) + len(self.priors) <= len(joint.law.parameters)
        if few or not any(out.any() for out in left):
            return [None] * len(groups)
        part = replace(self, groups=kept)
        whole, pulls = part._estimated(joint)
        drawn = part._split(joint, *part._drawn(joint, whole, pulls))
        values = joint.gathered(whole.values)
        return [
            scored(replace(group, values=own), out, sample.sample, self.options) if out.any() else None
            for group, own, out, sample in zip(groups, values, left, drawn, strict=True)
        ]

    def _compared(self, groups: Sequence[Group]) -> tuple[tuple[Evidence, ...], dict[str, str]]:
        """The shared law beside the law whose parameters are all each group's own, and what is to be said of it."""
        if not self.shared:
            return (), {}
        names = " and ".join(self.shared)
        said = f"{names} {'are' if len(self.shared) > 1 else 'is'} the same in {len(self.groups)} groups"
        if len(groups) == 1:
            return (), {"shared": f"No other group could be fitted, so {names} is of this one alone."}
        able = [group for group in groups if distinct(group.data.x) >= self.law.fewest_scales]
        if len(able) < 2:
            text = f"{said}; no two of them have enough scales to be fitted by themselves, so this was not tested."
            return (), {"shared": text}
        joint = Joint(self.law, self.shared, len(able))
        data = _combined(joint, able)
        rows = tuple(evidence(joint.law, data.x, data.y, np.concatenate([group.weights for group in able]), 0.0))
        p_value = next(row.p_value for row in rows if row.law == joint.law.inside)
        notes = {**caveats.of_rivals(joint.law, rows), **caveats.of_comparison(True, self.options)}
        notes.pop("constraint_contradicted", None)
        some = "" if len(able) == len(groups) else f" (of the {len(able)} that can be fitted by themselves)"
        shown = "too few points to test it" if p_value is None else f"F test that they differ: p = {p_value:.2g}{some}"
        notes["shared"] = f"{said} ({shown})."
        if p_value is not None and p_value < _DIFFERENT:
            notes["shared_contradicted"] = (
                f"The groups differ in {names} (F test, p = {p_value:.1g}): the common value averages what disagrees, "
                "and its interval is of that average. Fit the groups separately, or find what sets them apart."
            )
        return rows, notes


def _combined(joint: Joint, groups: Sequence[Group]) -> Data:
    """All groups' points, in the order of the groups; clusters that groups have in common remain so."""
    x = np.concatenate([joint.scales(group.data.x, g) for g, group in enumerate(groups)], axis=1)
    y = np.concatenate([group.data.y for group in groups])
    return Data(x, y, run=_units(groups))


def _units(groups: Sequence[Group]) -> npt.NDArray[np.int64] | None:
    """The cluster of each point, [points]; None where every point is its own.

    Clusters of one column are the same in every group, as a seed is; those that a group's residuals show are its own.
    """
    if all(group.data.run is None for group in groups):
        return None
    known: dict[tuple[object, ...], int] = {}
    out = []
    for g, group in enumerate(groups):
        one = group.data
        for i in range(one.y.size):
            if one.run is None:
                key: tuple[object, ...] = (g, i)
            elif "correlated_rows" in group.details:
                key = (g, one.cluster, one.run[i])
            else:
                key = (one.cluster, one.run[i])
            out.append(known.setdefault(key, len(known)))
    return np.array(out, dtype=np.int64)
