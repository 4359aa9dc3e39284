"""What a sweep file says of tuning, checked against the axes and the experiment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.experiment import Experiment
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.axes import Axis
from raysweep.grid.formula import is_formula
from raysweep.grid.values import Value
from raysweep.ledger.rows import COLUMNS, STAMPS
from raysweep.sweep.halved import ladder_of
from raysweep.sweep.schema import SweepFile, Tuner
from raysweep.sweep.tuned import Tuning
from raysweep.tuning import SEARCH, check_sampler, parse_space

__all__ = ["probe", "tuning_of", "whole_ends"]

_CONDITIONS = ("when", "exclude")


def whole_ends(tuning: Tuning) -> list[str]:
    """Notes on ranges of a plain function's axes that hold whole numbers because their ends are written as such."""
    return [
        f"tune.{d.axis.name}: takes whole numbers from {d.low:g} to {d.high:g}, as both ends are written as such. For "
        f"real numbers write {d.low:.1f}"
        for d in tuning.space
        if d.axis.inferred and d.whole and not d.choices
    ]


def probe(file: SweepFile) -> dict[str, Any]:
    """The grid with the tuned axes at the ends of their ranges, from which a plain function's axes are inferred."""
    ends = {name: _ends(entry) for name, entry in (file.tune or {}).items()}
    return {**file.grid, **ends}


def _ends(entry: Any) -> Any:
    return next(iter(entry.values())) if isinstance(entry, Mapping) and entry else entry


def tuning_of(file: SweepFile, axes: Mapping[str, Axis], experiment: Experiment | None = None) -> Tuning | None:
    """How a sweep tunes; None where it does not.

    Args:
        experiment: Whose metrics are known; None to read a store, where the metric does not matter.

    Raises:
        SweepError: a tuned axis is in the grid, too, or cannot be tuned; or there is no metric or seed.
    """
    if not file.tune:
        if file.tuner != Tuner():
            raise SweepError("tuner: must go with `tune`, which names the axes to tune, but there is none. Add it")
        return None
    space = parse_space(file.tune, axes)
    for name in file.tune:
        if place := _named(file.grid, name, axes):
            raise SweepError(f"tune.{name}: must be left out of the grid, but {place} has it. Remove one of the two")
    tuner = file.tuner
    if experiment is not None:
        check_sampler(tuner.sampler, space, tuner.candidates)
    _check_search(tuner, experiment)
    metrics, sign = ((), 1.0) if experiment is None else _metrics(file, experiment, axes)
    return Tuning(
        space,
        metrics,
        sign,
        tuner.sampler,
        _seeds(file, axes),
        tuner.rounds,
        tuner.candidates,
        tuner.seeds,
        ladder_of(tuner.halving, axes, file.resources.checkpoint_seconds),
        tuner.scheduler,
        _transfer(file, axes),
    )


def _transfer(file: SweepFile, axes: Mapping[str, Axis]) -> dict[str, Value]:
    """The values at which candidates are tried, as the grid would hold them."""
    found: dict[str, Value] = {}
    for name, raw in (file.tuner.transfer or {}).items():
        place = f"tuner.transfer.{name}"
        if name not in axes or not _named(file.grid, name, axes):
            given = [known for known in axes if _named(file.grid, known, axes)]
            raise SweepError(f"{place}: must be an axis of the grid, but got {name!r}. {nearest(name, given)}")
        axis = axes[name]
        if name in (file.tune or {}) or axis.role == "seed" or axis.kind == "observed":
            what = "tuned" if name in (file.tune or {}) else "a seed" if axis.role == "seed" else "observed"
            raise SweepError(
                f"{place}: must be an axis along which settings differ, but {name} is {what}. Name another one"
            )
        found[name] = axis.parse(raw, place)
    return found


def _check_search(tuner: Tuner, experiment: Experiment | None) -> None:
    if tuner.scheduler is not None and tuner.sampler != SEARCH:
        raise SweepError(
            f"tuner.scheduler: must go with `sampler: {SEARCH}`, whose candidates are trials of their own, but got "
            f"(sampler={tuner.sampler}, scheduler={tuner.scheduler}). Leave one of the two out"
        )
    if tuner.halving is not None and tuner.sampler == SEARCH:
        raise SweepError(
            "tuner.halving: must go with a sampler that proposes in rounds (tpe, cmaes, qmc), of which the worse "
            f"candidates are retired together, but got (sampler={SEARCH}). Use `scheduler: asha` instead of halving"
        )
    if tuner.sampler == SEARCH and experiment is not None and not isinstance(experiment, FunctionExperiment):
        raise SweepError(
            f"tuner.sampler: {SEARCH} makes each candidate a trial of its own and must be used with a function of your "
            f"own, but got (experiment={experiment.name}), whose candidates are trained in one pack. Use tpe"
        )


def _named(grid: Any, name: str, axes: Mapping[str, Axis], place: str = "grid") -> str:
    """Where a grid gives an axis, conditions on it or computes with it; "" where it does not."""
    if not isinstance(grid, Mapping):
        return ""
    for key, entry in grid.items():
        if key == name:
            return place
        where = f"{place}.{key}"
        parts = entry if isinstance(entry, list | tuple) else [entry]
        for part in parts:
            inner = part
            if key == "when" and isinstance(part, Mapping):
                if isinstance(part.get("if"), Mapping) and name in part["if"]:
                    return where
                inner = part.get("then")
            if key in ("zip", "concat", *_CONDITIONS) and (found := _named(inner, name, axes, where)):
                return found
            if isinstance(part, str) and is_formula(part, axes) and _uses(part, name):
                return where
    return ""


def _uses(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _seeds(file: SweepFile, axes: Mapping[str, Axis]) -> tuple[str, ...]:
    """The seeds that are fresh when a winner is run again: the leading one, and others that the grid gives."""
    seeds = [a for a in axes.values() if a.role == "seed" and a.kind != "observed"]
    leads = [a.name for a in seeds if a.follows is None]
    lead = "seed" if "seed" in leads else next(iter(leads), None)
    given = [a.name for a in seeds if a.name != lead and _named(file.grid, a.name, axes)]
    if lead is None or any(axes[name].type is not int for name in (lead, *given)):
        raise SweepError(
            "tune: an experiment must have a seed of whole numbers, so that the winners can be measured again with "
            f"fresh ones, but has {', '.join(a.name for a in seeds) or 'none'}. Add `seed: {{range: 2}}` to the grid"
        )
    return (lead, *given)


def _metrics(file: SweepFile, experiment: Experiment, axes: Mapping[str, Axis]) -> tuple[tuple[str, ...], float]:
    """The metric that selects, and its sign: by default that of the fit on the selection sample, where there is one.
    What a plain function returns is not known yet.

    Raises:
        SweepError: There is no such metric. Where the default is at fault, the error names the fit that it comes from.
    """
    known = {metric.name: metric for metric in experiment.metrics}
    name, fitted = file.tuner.metric, list(dict.fromkeys(spec.y for spec in file.fit))
    if name is None and len(fitted) != 1:
        raise SweepError(
            "tuner.metric: must name the metric that candidates are compared by, unless all fits are of one, but the "
            f"sweep {'fits ' + ', '.join(fitted) if fitted else 'has no fit'}. Give tuner: {{metric: NAME}}"
        )
    wanted = (name,) if name is not None else (f"{fitted[0]}_select", fitted[0])
    place = "tuner.metric" if name is not None else "fit.0.y"
    remedy = "" if name is not None else " Candidates are compared by it: correct it, or give tuner: {metric: NAME}."
    found = tuple(metric for metric in wanted if metric in known or not known)
    if not found:
        raise SweepError(
            f"{place}: must be a metric of the experiment, but got {wanted[-1]!r}.{remedy} {nearest(wanted[-1], known)}"
        )
    if not known and (taken := wanted[-1]) in {"", *STAMPS, COLUMNS, *axes}:
        what = "an axis" if taken in axes else "a column of every ledger" if taken else "no name"
        raise SweepError(
            f"{place}: must be a metric that the function reports, but {taken!r} is {what}. "
            f"{'Name the metric by which candidates are compared' if name is not None else remedy.strip()}"
        )
    better = file.tuner.better or (known[found[0]].better if known else "") or "low"
    return found[: 1 if known else None], -1.0 if better == "high" else 1.0
