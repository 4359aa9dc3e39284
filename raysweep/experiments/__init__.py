"""Experiments by name. Each module exports one `EXPERIMENT`; a user's own is named `my_module:name`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.experiment import Experiment
from raysweep.experiments.calling import calling
from raysweep.experiments.command import check_command, make_command
from raysweep.experiments.function import FunctionExperiment
from raysweep.experiments.inferred import infer_axes
from raysweep.experiments.returned import renamed

__all__ = ["BUILT_IN", "Own", "built_in", "imported", "load_experiment"]

BUILT_IN = {
    "active_learning": "raysweep.experiments.active",
    "bmd": "raysweep.experiments.bmd",
    "classifier": "raysweep.experiments.classifier",
    "double_descent": "raysweep.experiments.double_descent",
    "features": "raysweep.experiments.features",
    "lid": "raysweep.experiments.lid",
    "richness": "raysweep.experiments.richness",
}


def built_in(name: str) -> Experiment | None:
    """The experiment that comes with raysweep under this name, if there is one."""
    if name not in BUILT_IN:
        return None
    experiment: Experiment = importlib.import_module(BUILT_IN[name]).EXPERIMENT
    return experiment


@dataclass(frozen=True)
class Own:
    """What a sweep says about a user's experiment that is a plain function, class or script.

    Attributes:
        grid: The grid, from which the axes are inferred.
        observed, version, defaults: As in the sweep file.
        watched: Metrics that the sweep's fits use.
        folder: The sweep file's folder.
        command, result: The command of a script and the file of its result.
    """

    grid: Mapping[str, Any]
    observed: Sequence[str] = ()
    version: int = 1
    defaults: Mapping[str, Any] = field(default_factory=dict)
    watched: frozenset[str] = frozenset()
    folder: Path = Path()
    command: str | Sequence[str] | None = None
    result: str = ""


def load_experiment(reference: str, own: Own, folders: Sequence[Path], where: str, code: Any = None) -> Experiment:
    """The experiment a sweep file names.

    Args:
        reference: A built-in name, or `module:attribute` for a user's Experiment, function or class.
        own: What the sweep says about a user's function.
        folders: Where the user's module may be.
        where: Place named in errors.
        code: The function or class itself, where it was given in Python.

    Raises:
        SweepError: unknown name, module or attribute, or the attribute is none of these.
    """
    if own.command is not None:
        command = make_command(own.command, own.result, own.folder, own.observed, where)
        axes = infer_axes(own.grid, own.observed, where, own.defaults)
        check_command(command, [axis.name for axis in axes], where)
        return FunctionExperiment(
            reference, command, axes, own.version, code=command, watched=frozenset(map(renamed, own.watched))
        )
    if code is None:
        if ":" not in reference:
            known = built_in(reference)
            if known is None:
                raise SweepError(
                    f"{where}: experiment must be built in or `module:name`, but got {reference!r}. "
                    + (
                        f"Did you mean {':'.join(reference.rsplit('.', 1))!r}?"
                        if "." in reference
                        else nearest(reference, BUILT_IN)
                    )
                )
            return _whole(known, own, where)
        code = imported(reference, folders, where)
    if isinstance(code, type) and not _is_plain(code):
        try:
            code = code()
        except TypeError as error:
            raise SweepError(f"{where}: {reference} must be a class that takes no arguments: {error}") from error
        if not isinstance(code, Experiment):
            raise SweepError(f"{where}: {reference} must have every member of raysweep.experiment.Experiment")
    if isinstance(code, Experiment):
        return _whole(code, own, where)
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise SweepError(
            f"{where}: {reference} must be a plain function, but is `async def`. Wrap it: `def train(config): return "
            "asyncio.run(main(config))`"
        )
    names = [axis.name for axis in infer_axes(own.grid, own.observed, where)]
    way = calling(code, [*names, *(n for n in own.defaults if n not in names)], reference, where)
    for name in own.defaults:
        if way.names is not None and name not in way.names:
            raise SweepError(f"{where}: defaults: {reference} takes no {name!r}. {nearest(name, way.names)}")
    of_signature = {n: v for n, v in _of_observed(way.defaults, own).items() if n in names or n in own.defaults}
    axes = infer_axes(own.grid, own.observed, where, {**of_signature, **own.defaults})
    watched = frozenset(map(renamed, own.watched))
    signature = {n: v for n, v in way.defaults.items() if v is None or isinstance(v, bool | int | float | str)}
    return FunctionExperiment(reference, way.call, axes, own.version, code=code, watched=watched, signature=signature)


def _of_observed(defaults: Mapping[str, Any], own: Own) -> dict[str, Any]:
    """A signature's defaults that the grid's axes may take; that of an observed axis is not one of its values."""
    kept = {n: v for n, v in defaults.items() if n not in own.observed}
    return {n: v for n, v in kept.items() if v is None or isinstance(v, bool | int | float | str | list | tuple | dict)}


def _is_plain(code: type) -> bool:
    """Whether a class is one with `train` or `__call__`, rather than an Experiment."""
    members = ("name", "version", "axes", "metrics", "cost", "run")
    return sum(hasattr(code, member) for member in members) < len(members) // 2


def imported(reference: str, folders: Sequence[Path], where: str) -> Any:
    """The object that a user's `module:attribute` names.

    Raises:
        SweepError: there is no such module or attribute.
    """
    module_name, _, attribute = reference.partition(":")
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        looked = ", ".join(dict.fromkeys(map(str, folders)))
        absent = isinstance(error, ModuleNotFoundError) and error.name == module_name
        detail = "" if absent else f" ({type(error).__name__}: {error})"
        if "/" in module_name or module_name.endswith(".py"):
            name = Path(module_name).stem
            detail = f", which is a file. Name the module: {name}:{attribute}, beside the sweep file or on PYTHONPATH"
        raise SweepError(
            f"{where}: experiment's module must be importable, but got {module_name!r}{detail}; looked in {looked}"
        ) from error
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = [known for known in vars(found) if not known.startswith("_")] if hasattr(found, "__dict__") else []
            raise SweepError(f"{where}: {module_name} must define {attribute!r}, but does not. {nearest(name, public)}")
        found = getattr(found, name)
    return found


def _whole(experiment: Experiment, own: Own, where: str) -> Experiment:
    if own.observed or own.version != 1 or own.defaults:
        raise SweepError(
            f"{where}: `observed`, `defaults` and `version` are for plain functions, but {experiment.name} "
            f"declares its own; got observed={list(own.observed)}, defaults={dict(own.defaults)}, version={own.version}"
        )
    return experiment
