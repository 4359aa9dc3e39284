"""The sweep file: its schema, how it is loaded and overridden, and the `Sweep` it resolves to.

Every error names the file, the key, the rule broken and the value given.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydantic import ValidationError

from raysweep import __version__
from raysweep.code import Code, of_files, of_object
from raysweep.errors import SweepError, nearest
from raysweep.experiment import DividedExperiment, Experiment, display_of
from raysweep.experiments import BUILT_IN, Own, imported, load_experiment
from raysweep.experiments.command import Command
from raysweep.experiments.function import FunctionExperiment
from raysweep.experiments.inferred import axis_names, infer_axes
from raysweep.grid.axes import TYPES, Axis, described, index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.grid.lineage import Lineage
from raysweep.grid.runs import Runs
from raysweep.grid.terms import Term
from raysweep.grid.values import canonical, unwrapped
from raysweep.ledger.rows import RESERVED, row_schema
from raysweep.oracle.recipe import kinds, recipe_hash
from raysweep.sweep.fits import check_fits
from raysweep.sweep.override import read_overrides, with_until
from raysweep.sweep.places import replaced
from raysweep.sweep.schema import FitSpec, SweepFile, explain
from raysweep.sweep.tuned import Layout, Study, Tuning
from raysweep.sweep.tuner import probe, tuning_of, whole_ends
from raysweep.sweep.until import check_until
from raysweep.yamlfile import dump_yaml, read_yaml

__all__ = ["Sweep", "from_mapping", "load_sweep"]


@dataclass(frozen=True)
class Sweep:
    """A sweep file resolved: one experiment, its axes, and the terms of its grid.

    Attributes:
        folders: Folders in which a user's module is looked for.
        given: The user's function itself, where it was given in Python.
        notes: What the user should know about how the file was read.
        tuning: How it tunes, if it does; `terms` then hold one value of each tuned axis.
        studies: What was asked so far for each setting of a sweep that tunes.
    """

    file: SweepFile
    path: str
    folders: tuple[Path, ...]
    experiment: Experiment
    axes: Mapping[str, Axis]
    terms: tuple[Term, ...]
    given: Any = None
    notes: tuple[str, ...] = ()
    tuning: Tuning | None = None
    studies: Mapping[str, Study] = field(default_factory=dict)

    @cached_property
    def code(self) -> Code:
        """The code that makes its rows. A built-in experiment's code is identified by its version."""
        if self.file.experiment in BUILT_IN:
            return Code(sha=f"raysweep-{__version__}")
        code = self.experiment.code if isinstance(self.experiment, FunctionExperiment) else self.experiment
        if isinstance(code, Command):
            return of_files(code.files, self.folders)
        return of_object(code, self.folders, "" if self.given else self.file.experiment.partition(":")[0])

    @property
    def name(self) -> str:
        return self.file.name

    @cached_property
    def identity(self) -> str:
        """The contents of every run key besides the axes: experiment, version, world recipe (with its data's hash)."""
        world = recipe_hash(self.file.world) if self.file.world else ""
        return f"experiment={self.experiment.name}\nversion={self.experiment.version}\nworld={world}"

    @cached_property
    def runs(self) -> Runs:
        """Every run of the grid; of a sweep that tunes, those asked for so far, and before any its first round's."""
        layout = self.layout
        try:
            runs = self._grid if layout is None else layout.runs
            world = self.file.world.shape if self.file.world else None
            self.experiment.check(runs, world, self.file.resources.gpus)
            _check_workers(self.experiment, runs, self.file.resources.workers_per_run)
            return runs
        except SweepError as error:
            raise SweepError(f"{self.path}: {error}") from error

    def only(self, index: npt.NDArray[Any]) -> Sweep:
        """The same sweep with some of its runs, by position or mask."""
        return self.of(self.runs.take(index))

    def of(self, runs: Runs) -> Sweep:
        """The same sweep with these of its runs, each asked for some of its cells."""
        part = replace(self)
        part.__dict__["runs"] = runs  # as `cached_property` keeps it
        return part

    @cached_property
    def _grid(self) -> Runs:
        return enumerate_runs(self.terms, self.axes, self.identity)

    @cached_property
    def lineage(self) -> Lineage | None:
        """Where the runs of a sweep that tunes come from."""
        return None if self.tuning is None else self.tuning.lineage(self._grid, self.axes, self.identity)

    @cached_property
    def layout(self) -> Layout | None:
        """The runs of a sweep that tunes, by setting and candidate."""
        lineage = self.lineage
        if self.tuning is None or lineage is None:
            return None
        try:
            return self.tuning.layout(self._grid, lineage, self.studies)
        except SweepError as error:
            raise SweepError(f"{self.path}: {error}") from error

    @cached_property
    def text(self) -> str:
        """The resolved file as YAML: what a store keeps under `sweeps/<hash>.yaml`."""
        return dump_yaml(self.file.model_dump(mode="json", exclude_unset=True))

    @property
    def declaration(self) -> dict[str, Any]:
        """What is needed besides the file to count and show this sweep's cells, as plain data, so that nobody need
        import the experiment.
        """
        axes = [described(axis) for axis in self.axes.values()]
        return {"identity": self.identity, "axes": axes, "display": display_of(self.experiment).to_json()}

    @cached_property
    def hash(self) -> str:
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()


def _check_workers(experiment: Experiment, runs: Runs, workers: int) -> None:
    """Check that several workers can train the experiment's packs together, and that each has something to do.

    Raises:
        SweepError: they cannot.
    """
    if workers == 1:
        return
    if not isinstance(experiment, DividedExperiment):
        raise SweepError(
            "resources.workers_per_run: the experiment must be one whose runs several workers can train together, as "
            f"`classifier` is, but got (experiment={experiment.name}, workers_per_run={workers}). Leave gpus_per_run "
            "and workers_per_run out: several packs run at the same time"
        )
    axis = experiment.divided
    if (least := min(int(value or 0) for value in runs.values[axis])) < workers:
        raise SweepError(
            f"resources.workers_per_run: `workers_per_run <= {axis}` must hold, but got (workers_per_run={workers}, "
            f"{axis}={least}). Use fewer workers or a larger {axis}"
        )


def load_sweep(
    path: str | Path, overrides: Sequence[str] = (), preset: str | None = None, known: Collection[str] = ()
) -> Sweep:
    """A sweep from its file.

    Args:
        overrides: `axis=values` of `--set`, e.g. `width=64,128`, `seed=0..4` or `items=geom(64, 4096, 7)`; also
            `until.ci95.alpha=0.02`, a key of `until`, and `until=null`, which runs the whole grid.
        preset: A key of the file's `presets`, applied before the overrides; `resources`, `world`, `tune`, `tuner` and
            `until` in it replace the file's.
        known: Axes that a plain function may be given by an override, besides those of the file.

    Raises:
        SweepError: anything wrong with the file, an override or the preset.
    """
    path = Path(path)
    raw = read_yaml(path)
    if not isinstance(raw, Mapping) or not isinstance(raw.get("grid", {}), Mapping):
        raise SweepError(f"{path}: a sweep must be a mapping with a `grid` mapping, but got {raw!r}"[:300])
    if "grid" not in raw:
        return from_mapping(_with_world(raw, path), str(path))  # it reports what is missing
    grid = dict(raw["grid"])
    if preset is not None:
        named = raw.get("presets") or {}
        if not isinstance(named, Mapping) or not all(isinstance(p, Mapping) for p in named.values()):
            raise SweepError(
                f"{path}: presets: must be a mapping from names to parts of a grid, but got {named!r}"[:300]
            )
        presets = {"full": {}, **named}  # `full` is the grid as written, unless the file defines it
        if preset not in presets:
            raise SweepError(f"{path}: presets has no {preset!r}. {nearest(preset, map(str, presets))}")
        own = dict(presets[preset])
        for name in ("resources", "world", "tune", "tuner", "until"):
            if name in own and name not in grid:  # else it is an axis
                raw = {**raw, name: own.pop(name)}
        grid |= own
    grid_of_preset = dict(grid)
    raw, overrides = with_until(raw, overrides)
    given = read_overrides(overrides, grid)
    for name in given.keys() - axis_names(grid):
        if "." in name and (top := name.partition(".")[0]) in raw.keys() - {"grid"}:
            raise SweepError(
                f"--set {name}: must be an axis or a key of until, but got a key of {top}. Change it in {path}, or in "
                "a preset"
            )
    grid = replaced(grid, given)
    sweep = from_mapping({**_with_world(raw, path), "grid": grid}, str(path), [path.parent.absolute(), Path.cwd()])
    if isinstance(sweep.experiment, FunctionExperiment):
        of_file = _axes_of_file(sweep.file, raw["grid"], grid_of_preset)
        for name in sorted(set(given) & set(of_file)):
            was, now = of_file[name].type, sweep.axes[name].type
            changed = given[name] is not None and given[name] != grid_of_preset.get(name)  # null is of any type
            if changed and was is not now and not {was, now} <= {int, float}:
                raise SweepError(
                    f"--set {name}: must be {TYPES[was]}, as in {path}, but got {given[name]!r}. To change what the "
                    "axis is, write it into the file's grid"
                )
        before = {*axis_names(raw["grid"]), *axis_names(grid_of_preset), *sweep.file.defaults, *known}
        for name in given:
            if name not in before and name in sweep.axes and not _in_signature(sweep.experiment, name):
                raise SweepError(
                    f"--set {name}: must be an axis of {path}, but its grid has none of that name. "
                    f"{nearest(name, before)}. To add an axis, write it into the file's grid"
                )
    return sweep


def _with_world(raw: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """A sweep with the recipe in place of the name of its file, which is relative to the sweep's."""
    world = raw.get("world")
    return {**raw, "world": read_yaml(path.parent / world)} if isinstance(world, str) else raw


def _axes_of_file(file: SweepFile, *grids: Mapping[str, Any]) -> dict[str, Axis]:
    """The axes of a plain function by the file's own grids, where these determine them."""
    found: dict[str, Axis] = {}
    for grid in grids:
        with contextlib.suppress(SweepError):
            found |= {axis.name: axis for axis in infer_axes(_plain_grid(grid), file.observed, "", file.defaults)}
    return found


def _in_signature(experiment: FunctionExperiment, name: str) -> bool:
    try:
        return name in inspect.signature(experiment.code).parameters
    except (TypeError, ValueError):
        return False


def from_mapping(raw: Mapping[str, Any], path: str = "sweep", folders: Sequence[Path] = (), given: Any = None) -> Sweep:
    """A sweep from what its file holds (or from a dict, in Python).

    Args:
        raw: The mapping, as in a file. In Python `experiment` may be the function or class itself, also one of
            `__main__`.
        path: The file's name for errors.
        folders: Folders in which a user's module is looked for.
        given: The user's function, where `experiment` is its name.

    Raises:
        SweepError: as `load_sweep`.
    """
    if not isinstance(raw.get("experiment", ""), str) and given is None:
        given = raw["experiment"]
        raw = {**raw, "experiment": _reference(given)}
    if isinstance(raw.get("grid"), Mapping):
        raw = {**raw, "grid": _plain_grid(raw["grid"])}
    folders = tuple(folders) or (Path.cwd(),)
    reference, world = raw.get("experiment"), raw.get("world")
    if isinstance(world, Mapping) and str(world.get("kind")) not in kinds() and ":" in str(reference) and given is None:
        imported(str(reference), folders, path)  # the module of a user's experiment may register kinds of its own
    try:
        file = SweepFile.model_validate(raw)
    except ValidationError as error:
        raise SweepError(explain(error, raw, path)) from error
    script = f"command:{file.name}"
    if bool(file.experiment not in ("", script)) == bool(file.command):
        both = "both" if file.command else "neither"
        raise SweepError(f"{path}: a sweep must have either `experiment` or `command`, but has {both}")
    if file.command:
        file = file.model_copy(update={"experiment": script})
    notes: list[str] = []
    own = Own(
        probe(file),
        file.observed,
        file.version,
        file.defaults,
        frozenset(spec.y for spec in file.fit),
        folders[0],
        file.command,
        file.result,
    )
    experiment = load_experiment(file.experiment, own, folders, path, given)
    if isinstance(experiment, FunctionExperiment):
        file = file.model_copy(update={"fit": tuple(_of_function(spec, notes) for spec in file.fit)})
    try:
        axes = index_axes(list(experiment.axes))
        row_schema(experiment)  # refuses an axis called `seconds` before anything is spent
        display_of(experiment)
        if file.tune:  # whose metric is by default that of the fits: a wrong name in one of them is theirs
            check_fits(file.fit, axes, experiment)
        tuning = tuning_of(file, axes, experiment)
        terms = expand(file.grid if tuning is None else {**file.grid, **tuning.stand_in}, axes)
        notes += check_fits(file.fit, axes, experiment, terms)
        if file.until is not None and tuning is not None:
            raise SweepError(
                "until: must not come with `tune`, whose rounds end by their number, but the file has both. Tune "
                "first, and write the winners into the grid of the sweep that stops itself"
            )
        if file.until is not None:
            check_until(
                file.until,
                [fit.request for fit in file.fit],
                axes,
                file.resources.gpus * file.resources.workers_per_run,
            )
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from error
    if file.world is None and experiment.needs_world:
        raise SweepError(f"{path}: experiment {experiment.name} needs a `world:` (a recipe, or a file holding one)")
    notes += [*_near_equal(file.grid), *(whole_ends(tuning) if tuning is not None else [])]
    return Sweep(file, path, folders, experiment, axes, terms, given, tuple(notes), tuning)


def _reference(code: Any) -> str:
    """`module:name` of a function or class."""
    name = getattr(code, "__qualname__", type(code).__qualname__)
    return f"{getattr(code, '__module__', None) or '__main__'}:{name}"


def _plain_grid(entry: Any) -> Any:
    """A grid with NumPy's scalars and arrays as plain values."""
    if isinstance(entry, Mapping):
        return {key: _plain_grid(value) for key, value in entry.items()}
    if isinstance(entry, list | tuple | range):
        return [_plain_grid(value) for value in entry]
    if getattr(entry, "ndim", 0):
        return [_plain_grid(value) for value in entry]
    return unwrapped(entry)


def _of_function(spec: FitSpec, notes: list[str]) -> FitSpec:
    """A fit to a metric whose name is a column of every ledger, under the name that it is stored by."""
    if spec.y not in RESERVED or spec.y == "seconds":
        return spec
    kept = f"metric_{spec.y}"
    notes.append(
        f"fit: `{spec.y}` is a column of every ledger; what the function returns as {spec.y} is kept as {kept}"
    )
    return spec.model_copy(update={"y": kept})


def _near_equal(grid: Any, name: str = "grid") -> list[str]:
    """Notes on numbers of one list that are the same value to 12 digits, though not equal."""
    found: list[str] = []
    if isinstance(grid, Mapping):
        for key, entry in grid.items():
            found += _near_equal(entry, f"{name}.{key}")
    elif isinstance(grid, list | tuple):
        first: dict[Any, float] = {}
        for value in grid:
            if isinstance(value, float) and first.setdefault(canonical(value), value) != value:
                found.append(f"{name}: {first[canonical(value)]!r} and {value!r} are one value: numbers keep 12 digits")
            elif isinstance(value, Mapping):
                found += _near_equal(value, name)
    return found
