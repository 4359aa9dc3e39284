"""Trials matched to axes by name: the values that each trial was given, and a seed for each replicate."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raysweep.errors import StudyError, nearest
from raysweep.grid.values import canonical
from raysweep.imports.files import plural
from raysweep.imports.trial import Study, Trial

__all__ = ["SEED", "Matched", "Wanted", "common", "distinct", "grouped", "match", "numbered", "parameters", "sources"]

SEED = "seed"
_WRAPPERS = ("config/", "config.", "params/", "params.", "params_")


@dataclass(frozen=True)
class Wanted:
    """What the user said about the results.

    Attributes:
        axes: Names of parameters; empty for all that the trials have in common.
        observed: Axes whose values were logged along the way.
        metrics: Columns to keep; empty for every numeric column.
        rename: Name here -> name there.
        given: Axes that had one value in all trials.
        ignore: Parameters that make no difference.
        name: Name of the imported sweep; empty for the study's name.
    """

    axes: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    name: str = ""

    def here(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of results under the names used here."""
        back = {there: name for name, there in self.rename.items()}
        return {back.get(name, name): value for name, value in row.items()}


@dataclass(frozen=True)
class Matched:
    """A trial and the values of its axes, without the axes that it lacks."""

    trial: Trial
    values: Mapping[str, Any]


def common(study: Study, wanted: Wanted) -> tuple[list[str], list[str]]:
    """Names of all parameters that the trials have in common, and of those that only some have.

    Raises:
        StudyError: parameters cannot be distinguished from results.
    """
    if any(not trial.params for trial in study.trials):
        raise StudyError(
            f"{study.name}: a table does not say which columns are parameters; name them by --axes, e.g. --axes "
            f"size,lr, or give --sweep FILE. {nearest('', _names(study))}"
        )
    back = {there: name for name, there in wanted.rename.items()}
    sets = [{n for n in t.params if n not in wanted.ignore} for t in study.trials]
    every, some = set.intersection(*sets), set.union(*sets)
    order = [n for n in dict.fromkeys(n for t in study.trials for n in t.params) if n in some]
    return [back.get(n, n) for n in order if n in every], [n for n in order if n not in every]


def match(study: Study, axes: Iterable[str], wanted: Wanted) -> list[Matched]:
    """Each trial with its values of these axes.

    An axis `lr` is the parameter `lr`, `config/lr` or `params_lr`, or else the only one that ends in `/lr` or `.lr`.

    Raises:
        StudyError: `rename` or `given` names something that does not exist, or a name fits several parameters.
    """
    known = _names(study)
    for here, there in wanted.rename.items():
        if there not in known:
            raise StudyError(
                f"{study.name}: --rename {here}={there} must name a column of it after the `=`, but got {there!r}. "
                f"{nearest(there, known)}"
            )
    axes = list(axes)
    for name in wanted.given:
        if name not in axes:
            raise StudyError(f"--set {name} must name an axis. {nearest(name, axes)}")
    taken = {axis: _source(axis, study, known, wanted) for axis in axes if axis not in wanted.given}
    found = []
    for trial in study.trials:
        held = {**trial.final, **trial.params} if not trial.params else trial.params
        values = {axis: held[source] for axis, source in taken.items() if source and source in held}
        values = {n: v for n, v in values.items() if not (isinstance(v, float) and math.isnan(v))}
        found.append(Matched(trial, {**wanted.given, **values}))
    return found


def _names(study: Study) -> set[str]:
    return {n for trial in study.trials for part in (trial.params, trial.final, *trial.rows) for n in part}


def _source(axis: str, study: Study, known: set[str], wanted: Wanted) -> str:
    """The study's name for an axis; "" where there is none."""
    if axis in wanted.rename:
        return wanted.rename[axis]
    params = {n for trial in study.trials for n in trial.params} or known
    for name in (axis, *(f"{wrapper}{axis}" for wrapper in _WRAPPERS)):
        if name in params:
            return name
    ending = sorted(n for n in params if re.split(r"[/.]", n)[-1] == axis)
    if len(ending) > 1:
        raise StudyError(
            f"{study.name}: axis {axis} must fit one parameter, but fits {', '.join(ending)}; say which by --rename "
            f"{axis}={ending[0]}"
        )
    return ending[0] if ending else ""


def parameters(study: Study, axes: Iterable[str], wanted: Wanted) -> frozenset[str]:
    """Columns of results that are no metrics: axes, and others whose names mark them as parameters."""
    if any(trial.params for trial in study.trials):
        return frozenset()
    taken = sources(study, axes, wanted)
    return frozenset(n for n in _names(study) if n in taken or n.startswith(_WRAPPERS))


def sources(study: Study, axes: Iterable[str], wanted: Wanted) -> frozenset[str]:
    """The study's names for axes; raises StudyError as `match`."""
    known = _names(study)
    return frozenset(_source(axis, study, known, wanted) for axis in axes) - {""}


def grouped(trials: Sequence[Matched], observed: Sequence[str], wanted: Wanted) -> list[Matched]:
    """Rows of a table as trials: rows with equal parameters are one history, unless two have the same time."""
    found: dict[str, list[list[Matched]]] = {}
    seen: dict[str, set[str]] = {}  # times in the last history of each
    for one in trials:
        row = wanted.here(one.trial.final)
        who, time = _identity(one.values), repr([row.get(name) for name in observed])
        if who not in found or time in seen[who]:
            found.setdefault(who, []).append([])
            seen[who] = set()
        found[who][-1].append(one)
        seen[who].add(time)
    return [
        replace(h[0], trial=replace(h[0].trial, rows=tuple(m.trial.final for m in h), final=h[-1].trial.final))
        for histories in found.values()
        for h in histories
    ]


def _identity(values: Mapping[str, Any]) -> str:
    """A text that is the same for equal values, however numbers are written."""
    return repr(sorted((n, repr(_number(v))) for n, v in values.items()))


def _number(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else canonical(value)
    return value


def distinct(trials: Sequence[Matched]) -> tuple[list[list[Matched]], list[str]]:
    """Trials grouped by equal parameters, and a note on the trials left out.

    A group with a complete trial loses its incomplete ones. Trials are in the order of their start, so that a later
    import numbers old trials as before.
    """
    order = sorted(trials, key=lambda m: math.inf if m.trial.started is None else m.trial.started)
    groups: dict[str, list[Matched]] = {}
    for one in order:
        groups.setdefault(_identity(one.values), []).append(one)
    left, kept = 0, []
    for group in groups.values():
        done = [m for m in group if m.trial.state == "complete"] or group[-1:]
        left += len(group) - len(done)
        kept.append(done)
    said = f"{plural(left, 'trial')} did not complete, but a trial with equal parameters did or came later: left out."
    return kept, [said] if left else []


def numbered(groups: Sequence[Sequence[Matched]], axis: str, values: Sequence[Any]) -> list[Matched]:
    """Give each trial of a group a seed: these values in order, then the following whole numbers."""
    most = max((len(group) for group in groups), default=0)
    numbers = list(values)
    following = 1 + max((int(v) for v in numbers if isinstance(v, int | float)), default=-1)
    numbers += range(following, following + max(0, most - len(numbers)))
    return [Matched(one.trial, {**one.values, axis: numbers[i]}) for group in groups for i, one in enumerate(group)]
