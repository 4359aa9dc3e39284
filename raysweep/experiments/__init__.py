"""Experiments by name. Each module exports one `EXPERIMENT`; a user's own joins as `my_module:name`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.experiment import Experiment
from raysweep.experiments.function import FunctionExperiment, infer_axes

__all__ = ["BUILT_IN", "built_in", "load_experiment"]

BUILT_IN = {"classifier": "raysweep.experiments.classifier", "lid": "raysweep.experiments.lid"}


def built_in(name: str) -> Experiment | None:
    """The experiment that comes with raysweep under this name, if there is one."""
    if name not in BUILT_IN:
        return None
    found: Experiment = importlib.import_module(BUILT_IN[name]).EXPERIMENT
    return found


def load_experiment(
    reference: str, grid: Mapping[str, Any], observed: Sequence[str], version: int, folders: Sequence[Path], where: str
) -> Experiment:
    """The experiment a sweep file names.

    Args:
        reference: A built-in name, or `module:attribute` for a user's Experiment or plain function.
        grid: The sweep's grid, from which a plain function's axes are inferred.
        observed, version: Of a plain function.
        folders: Where the user's module may lie.
        where: Named in errors.

    Raises:
        SweepError: unknown name, module or attribute, or the attribute is neither.
    """
    if ":" not in reference:
        known = built_in(reference)
        if known is None:
            raise SweepError(
                f"{where}: experiment must be built in or `module:name`, but got {reference!r}. "
                + nearest(reference, BUILT_IN)
            )
        return _own(known, observed, version, where)
    module_name, _, attribute = reference.partition(":")
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        looked = ", ".join(map(str, folders))
        told = "" if isinstance(error, ModuleNotFoundError) and error.name == module_name else f" ({error!r})"
        raise SweepError(
            f"{where}: experiment's module must be importable, but got {module_name!r}{told}; looked in {looked}"
        ) from error
    if not hasattr(module, attribute):
        raise SweepError(
            f"{where}: {module_name} must define {attribute!r}, but does not. {nearest(attribute, vars(module))}"
        )
    found = getattr(module, attribute)
    if isinstance(found, type):  # `module:MyExperiment`
        try:
            found = found()
        except TypeError as error:
            raise SweepError(f"{where}: {reference} must be a class that takes no arguments: {error}") from error
        if not isinstance(found, Experiment):
            raise SweepError(f"{where}: {reference} must have every member of raysweep.experiment.Experiment")
    if isinstance(found, Experiment):
        return _own(found, observed, version, where)
    if not callable(found):
        raise SweepError(f"{where}: experiment must be an Experiment or `def train(config)`, but got {found!r}")
    return FunctionExperiment(reference, found, infer_axes(grid, observed, where), version)


def _own(experiment: Experiment, observed: Sequence[str], version: int, where: str) -> Experiment:
    if observed or version != 1:
        raise SweepError(
            f"{where}: `observed` and `version` are for plain functions, but {experiment.name} declares its own; "
            f"got observed={list(observed)}, version={version}"
        )
    return experiment
