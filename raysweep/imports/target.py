"""The sweep that the trials belong to: one whose file is given, or one whose grid is made from the trials."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raysweep.errors import StudyError, SweepError
from raysweep.experiments.function import FunctionExperiment
from raysweep.imports.matching import SEED, Matched, Wanted, common, distinct, grouped, match, numbered, sources
from raysweep.imports.rows import observed_of
from raysweep.imports.trial import Study
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.stored import stored_sweep
from raysweep.yamlfile import MAX_BYTES, parse_yaml

__all__ = ["of_sweep", "own_sweep"]

_PREFIX = "imported:"


def of_sweep(study: Study, wanted: Wanted, sweep: Sweep, notes: list[str]) -> list[Matched]:
    """The trials with the axes of a sweep file."""
    if wanted.axes or wanted.observed:
        raise StudyError("--axes and --observed are for an import without --sweep, whose file says both")
    if sweep.tuning is not None:
        raise StudyError(
            f"{sweep.path}: must have every axis in its grid, but tunes {', '.join(sweep.file.tune or ())}, whose "
            "values it chooses itself. Import into a sweep without `tune`"
        )
    seen = observed_of(sweep).names
    axes = [n for n in sweep.axes if n not in seen]
    trials = [_without_null(one, sweep) for one in match(study, axes, wanted)]
    if study.table and seen:
        trials = grouped(trials, seen, wanted)
    _check_observed(study, seen, wanted)
    lacking = [n for n in axes if not any(n in one.values for one in trials)]
    seeds = [n for n in lacking if sweep.axes[n].role == "seed" and sweep.axes[n].default is None]
    for name in lacking:
        axis = sweep.axes[name]
        absent = axis.default is not None or axis.follows is not None or None in sweep.runs.values.get(name, ())
        if name not in seeds and not absent:
            raise StudyError(
                f"{study.name}: must have the parameter {name}, an axis of {sweep.path}, but no trial has it. Give its "
                f"name there by --rename {name}=NAME, or the value that all trials had by --set {name}=VALUE"
            )
    _check_ignored(study, axes, wanted, sweep.path)
    groups, said = distinct(trials)
    notes += said
    if seeds:
        notes.append(
            f"The trials have no {seeds[0]}: it numbers those with equal parameters, in the order of their start."
        )
        for other in seeds[1:]:
            raise StudyError(f"{study.name}: must have the parameter {other}; say what it was by --set {other}=VALUE")
        values = [v for v in sweep.runs.values[seeds[0]] if v is not None]
        return numbered(groups, seeds[0], values)
    _check_twice(study, groups, f"add an axis `seed` to {sweep.path} and they are numbered by it")
    return [group[0] for group in groups]


def _without_null(one: Matched, sweep: Sweep) -> Matched:
    """A trial without its null axes, unless null is a value of the axis."""
    return replace(one, values={n: v for n, v in one.values.items() if v is not None or sweep.axes[n].nullable})


def _check_ignored(study: Study, axes: Sequence[str], wanted: Wanted, path: str) -> None:
    """Refuse to drop a parameter that differs between trials: their results would count as replicates."""
    seen: dict[str, set[str]] = {}
    for trial in study.trials:
        for name, value in trial.params.items():
            seen.setdefault(name, set()).add(repr(value))
    used = sources(study, axes, wanted) | wanted.ignore
    for name, values in seen.items():
        if len(values) > 1 and name not in used and re.split(r"[/.]", name)[-1] not in wanted.ignore:
            raise StudyError(
                f"{study.name}: parameter {name} has {len(values)} values, e.g. {', '.join(sorted(values)[:2])}, but "
                f"{path} has no such axis; add it to the grid, name the axis by --rename AXIS={name}, or give --ignore "
                f"{name} if it makes no difference"
            )


def _check_observed(study: Study, observed: Sequence[str], wanted: Wanted) -> None:
    names = {n for t in study.trials for row in (*t.rows, t.final) for n in wanted.here(row)}
    for name in observed:
        if name not in names:
            raise StudyError(
                f"{study.name}: must have the observed axis {name} in its results, but has only "
                f"{', '.join(sorted(names)[:20])}. Give its name there by --rename {name}=COLUMN"
            )


def _check_twice(study: Study, groups: Sequence[Sequence[Matched]], remedy: str) -> None:
    for group in groups:
        if len(group) > 1:
            one, other = group[0], group[1]
            raise StudyError(
                f"{study.name}: two trials must differ in an axis, but {one.trial.id} and {other.trial.id} are both "
                f"{', '.join(f'{n} = {v}' for n, v in one.values.items())}; {remedy}"
            )


def own_sweep(store: Store, study: Study, wanted: Wanted, notes: list[str]) -> tuple[Sweep, list[Matched]]:
    """A sweep whose grid is the trials, and the trials with its axes."""
    axes = [n for n in wanted.axes if n not in wanted.given]
    if not axes:
        axes, some = common(study, wanted)
        axes = [n for n in axes if n not in wanted.observed and n not in wanted.given]
        if some:
            notes.append(f"Not all trials have {', '.join(some)}: left out; --axes names the parameters to keep.")
    trials = match(study, [*axes, *wanted.given], wanted)
    for name in axes:
        if not any(name in one.values for one in trials):
            raise StudyError(f"{study.name}: --axes must name parameters of it, but no trial has {name!r}")
    if study.table and wanted.observed:
        trials = grouped(trials, wanted.observed, wanted)
    _check_observed(study, wanted.observed, wanted)
    groups, said = distinct(trials)
    notes += said
    if any(len(group) > 1 for group in groups):
        seeds = [n for n in axes if n == SEED or n.endswith("_seed")]
        if seeds:
            _check_twice(study, groups, "leave one out")
        notes.append("Some trials have equal parameters: an axis `seed` numbers them, in the order of their start.")
        trials = numbered(groups, SEED, ())
    else:
        trials = [group[0] for group in groups]
    name = _name(store, study, wanted)
    grid = _grid(trials, wanted)
    raw = {"name": name, "experiment": f"{_PREFIX}{name}", "grid": grid, "observed": list(wanted.observed)}
    try:
        sweep = from_mapping(raw, study.name, given=_never)
    except SweepError as error:
        raise StudyError(f"{error}. --axes names the parameters to keep") from error
    assert isinstance(sweep.experiment, FunctionExperiment)
    sweep = replace(sweep, experiment=replace(sweep.experiment, code=None), given=None)
    try:
        parse_yaml(sweep.text, study.name)
        fits = len(sweep.text) <= 4 * MAX_BYTES
    except SweepError:
        fits = False
    if not fits:
        raise StudyError(
            f"{study.name}: {len(trials):,} trials with {len(sweep.axes)} axes are too many for a sweep file of their "
            "own; give --sweep FILE with a grid, or fewer --axes"
        )
    return sweep, trials


def _never(config: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("what was imported cannot be run; give `raysweep run` the sweep file of its function")


def _name(store: Store, study: Study, wanted: Wanted) -> str:
    """The sweep's name: the user's choice, or the study's name.

    Raises:
        StudyError: the store holds another sweep.
    """
    name = wanted.name or re.sub(r"[^A-Za-z0-9._-]+", "-", study.name).strip("-._")[:64] or "study"
    if store.exists("env.json"):
        held, _ = stored_sweep(store)
        if held.experiment != f"{_PREFIX}{name}":
            raise StudyError(
                f"store {store.uri}: holds the sweep {held.name} of {held.experiment}; give --sweep FILE to add rows "
                f"to it, or import {name} into a store of its own"
            )
    return name


def _grid(trials: Sequence[Matched], wanted: Wanted) -> dict[str, Any]:
    """Trials as a grid: zipped axes and observed values, with one part for the trials that share both sets of names."""
    groups: dict[tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]], list[Matched]] = {}
    seen = {one.trial.id: _times(one, wanted) for one in trials}
    every = tuple(dict.fromkeys(row for rows in seen.values() for row in rows))
    for one in trials:
        rows = seen[one.trial.id] if one.trial.state == "complete" and seen[one.trial.id] else every
        groups.setdefault((tuple(one.values), rows), []).append(one)
    parts = []
    for (names, rows), members in groups.items():
        part = _zipped(names, [tuple(one.values[n] for n in names) for one in members])
        times = _zipped(wanted.observed, rows) if wanted.observed else {}
        parts.append({"zip": part, **times} if len(names) > 1 and len(wanted.observed) < 2 else _both(part, times))
    return parts[0] if len(parts) == 1 else {"concat": parts}


def _zipped(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _both(part: dict[str, list[Any]], times: dict[str, list[Any]]) -> dict[str, Any]:
    zips = [one for one in (part, times) if len(one) > 1]
    plain = {k: v for one in (part, times) if len(one) == 1 for k, v in one.items()}
    return {**plain, **({"zip": zips if len(zips) > 1 else zips[0]} if zips else {})}


def _times(one: Matched, wanted: Wanted) -> tuple[tuple[Any, ...], ...]:
    """The observed values in a trial's rows, in order."""
    if not wanted.observed:
        return ()
    rows = [wanted.here(row) for row in one.trial.rows or (one.trial.final,)]
    found = [tuple(row.get(n) for n in wanted.observed) for row in rows]
    return tuple(dict.fromkeys(values for values in found if None not in values))
