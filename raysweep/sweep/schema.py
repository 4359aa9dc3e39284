"""The sweep file as written: its schema, and what is wrong with a file that does not fit it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from raysweep.errors import nearest
from raysweep.laws.constraint import Constraints
from raysweep.laws.prior import of_mapping
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.window import Window
from raysweep.oracle.recipe import Recipe, kinds, recipe_of
from raysweep.sweep.until import Count, Number, Until
from raysweep.sweep.wandb import in_our_form
from raysweep.validation import first_fault

__all__ = ["Budget", "FitSpec", "Halving", "Resources", "SweepFile", "Tuner", "explain"]


def _of_folder(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            "names a folder: it must begin with a letter or digit, followed by at most 63 letters, digits, dots, "
            "hyphens or underscores"
        )
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _listed(names: Any) -> Any:
    """One name stands for a list of one, as in `x`."""
    return [names] if isinstance(names, str) else names


def _names(given: Any) -> Any:
    """Names in one text, separated by commas, or in a list."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _filled(given: Any) -> Any:
    """A mapping that says something: one without entries would pass for what its key turns on."""
    if isinstance(given, Mapping) and not given:
        raise ValueError("must have an entry, but got {}. Leave the key out where nothing is meant")
    return given


def _window(given: Any) -> Any:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError("must be a mapping such as {low: 10, high: 1000}")
    return given


_Entries: TypeAlias = Annotated[dict[str, Any] | None, BeforeValidator(_filled)]


class FitSpec(_Strict):
    """One law to fit and draw in the report, as written in the file; `request` checks it."""

    law: str = Field("power", description="a key of LAWS, auto, bnsl, or formula")
    x: str | tuple[str, ...] = Field(description="one column for each scale of the law")
    y: str
    by: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    where: str | None = Field(None, description="rows to keep, a Polars SQL expression")
    window: Annotated[Mapping[str, Any] | None, BeforeValidator(_window)] = Field(
        None, description="bounds of x, low and high: numbers, or formulas of other columns"
    )
    at: float | str = Field("best", description="the snapshot of a run that is fitted: best, last, or a time")
    se: str | None = Field(None, description="standard error of y; <y>_se if there is one")
    x_se: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="standard errors of x as measured, one for each of x"
    )
    huber: float | None = Field(None, description="Huber's loss on log residuals, linear beyond this")
    holdout: float = Field(0.3, description="share of the largest scales a second fit is judged on")
    formula: str | None = Field(None, description='a law of your own: what y equals, as in "E + A * x**-a"')
    positive: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="parameters of the formula that are above 0"
    )
    fix: _Entries = Field(None, description="parameters and their values, as in {alpha: 0.5}")
    tie: _Entries = Field(None, description="parameters that are equal, as in {beta: alpha}")
    bound: _Entries = Field(None, description="lowest and highest values, as in {alpha: [0, 1]}")
    then: str | None = Field(None, description="a second step from y, a loss, to the metric: sigmoid or exponential")
    metric: str | None = Field(None, description="what the second step predicts")
    shared: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="parameters that are the same in all groups"
    )
    prior: _Entries = Field(None, description="mean and standard deviation, as in {alpha: [0.5, 0.1]}")
    envelope: float | None = Field(
        None, description="weight of residuals above the law, in (0, 1); 0.1: a lower envelope"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """A formula is a law by itself."""
        if isinstance(given, Mapping) and given.get("formula") is not None:
            return {"law": "formula", **given}
        return given

    @property
    def scales(self) -> tuple[str, ...]:
        """The columns of x."""
        return (self.x,) if isinstance(self.x, str) else self.x

    @property
    def request(self) -> FitRequest:
        """The requested fit.

        Raises:
            RequestError: No table could answer it.
        """
        options = Options(huber=self.huber, holdout=self.holdout, envelope=self.envelope)
        window = None if self.window is None else Window.of_mapping(self.window)
        return FitRequest(
            self.scales,
            self.y,
            self.law,
            self.by,
            self.where,
            self.at,
            se=self.se,
            options=options,
            window=window,
            formula=self.formula,
            positive=self.positive,
            constraints=Constraints.of_mappings(self.fix, self.tie, self.bound),
            then=self.then,
            metric=self.metric,
            shared=self.shared,
            priors=of_mapping(self.prior),
            x_se=self.x_se,
        )


class Resources(_Strict):
    """The resources of one pack."""

    cpus: float = Field(1.0, gt=0, description="CPU cores per pack; of several workers, each one's")
    gpus: float = Field(0.0, ge=0, description="GPUs per pack; of several workers, each one's")
    gpus_per_run: int | None = Field(
        None, ge=1, description="GPUs that train a pack together: short for workers_per_run and gpus: 1"
    )
    workers_per_run: int = Field(1, ge=1, description="data-parallel workers that train a pack together")
    memory_gib: float | None = Field(
        None, gt=0, description="device memory a pack may fill, in each worker; measured by default"
    )
    lanes: int | None = Field(None, ge=1, description="at most this many runs per pack")
    attempts: int = Field(3, ge=1, le=100, description="tries of a pack whose worker dies")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="least time between saves of a pack's training state; 0 for none"
    )
    oracle_workers: int = Field(2, ge=1, description="data-parallel workers that train a world")
    minutes: float | None = Field(None, gt=0, description="wall time that a run may take; a pack, of other experiments")
    timeout: float | None = Field(None, gt=0, description="the same in seconds")
    child_cpus: float = Field(0.0, ge=0, description="CPU cores kept free for Ray tasks that a run starts itself")
    max_failures: int = Field(
        5, ge=1, description="runs that may fail for one and the same reason before any succeeds; then the sweep stops"
    )

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        """`gpus_per_run: n` stands for n workers of one GPU each."""
        if not isinstance(given, Mapping) or type(count := given.get("gpus_per_run")) is not int or count < 1:
            return given
        for name, meant in (("workers_per_run", count), ("gpus", 1)):
            if given.get(name, meant) != meant:
                raise ValueError(
                    f"must agree: gpus_per_run={count} means {name}={meant}, but got ({name}={given[name]!r}). "
                    f"Leave {name} out"
                )
        return {**given, "workers_per_run": count, "gpus": 1.0}

    @model_validator(mode="after")
    def _whole_gpus(self) -> Resources:
        if self.workers_per_run > 1 and self.gpus not in (0.0, 1.0):
            raise ValueError(
                "must give each of several workers one GPU or none, but got "
                f"(workers_per_run={self.workers_per_run}, gpus={self.gpus:g}). Use gpus_per_run"
            )
        return self

    @property
    def seconds(self) -> float | None:
        """Wall time that a run may take."""
        return self.timeout if self.minutes is None else 60.0 * self.minutes


class Budget(_Strict):
    """The sweep's budget; a more expensive plan is refused before anything is spent."""

    flops: float | None = Field(None, gt=0, description="training and evaluation together")
    cells: int | None = Field(None, gt=0)


class Halving(_Strict):
    """Successive halving of a round's candidates; its keys have the names that they have in Optuna."""

    min_resource: Number = Field(gt=0, description="least time of the first rung")
    reduction_factor: Number = Field(3.0, gt=1, le=1000, description="one in so many candidates passes a rung")


class Tuner(_Strict):
    """How the axes of `tune` are searched, for each setting of the others."""

    metric: str | None = Field(None, description="by which candidates are compared; <y>_select of the fit by default")
    better: Literal["low", "high"] | None = Field(None, description="which values are better; as declared by default")
    sampler: Literal["tpe", "cmaes", "qmc", "optuna_search"] = Field(
        "tpe", description="what proposes the rounds after the first"
    )
    scheduler: Literal["asha", "median"] | None = Field(
        None, description="of Ray Tune, with optuna_search: stops bad candidates early"
    )
    candidates: Count = Field(16, ge=2, le=4096, description="candidates of one round")
    rounds: Count = Field(3, ge=1, le=100, description="rounds; the first is a scrambled Sobol design")
    halving: Halving | None = Field(None, description="retire the worse candidates of a round along the way")
    transfer: _Entries = Field(None, description="tune only at these values of axes, and take the winner along them")
    seeds: Count = Field(5, ge=1, le=10_000, description="fresh seeds on which a winner is measured again")


class SweepFile(_Strict):
    """The YAML file as written."""

    name: Annotated[str, AfterValidator(_of_folder)] = Field(description="names the default store, results/<name>")
    experiment: str = ""
    grid: Mapping[str, Any]
    world: Annotated[SerializeAsAny[Recipe], BeforeValidator(recipe_of)] | None = None
    version: int = Field(1, ge=1, le=2**31 - 1, description="for a plain function: raise it and all cells are new")
    observed: tuple[str, ...] = Field((), description="for a plain function: axes it reports along the way")
    defaults: Mapping[str, Any] = Field(
        default_factory=dict, description="for a plain function: axes a cell need not name"
    )
    tune: Annotated[Mapping[str, Any] | None, BeforeValidator(_filled)] = Field(
        None, description="axes that are optimised for every setting of the others, and their ranges"
    )
    tuner: Tuner = Tuner()
    command: str | tuple[str, ...] | None = Field(None, description="a script in place of `experiment`")
    result: str = Field("", description="for a script: the file it writes its result to, in the run's folder")
    workdir: Literal["own", "shared"] = Field("own", description="for a plain function on Ray: its working folder")
    fit: tuple[FitSpec, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict, description="named overrides of the grid, resources, world, tune, tuner and until"
    )
    resources: Resources = Resources()
    budget: Budget = Budget()
    until: Until | None = Field(None, description="run only as much of the grid as an answer needs")


def explain(error: ValidationError, raw: Any, path: str) -> str:
    """The first validation error in one line: file, key, rule, value, nearest valid keys."""
    fault = first_fault(error.errors(), raw)
    key = ".".join(map(str, fault.place))
    hint = ""
    if ours := in_our_form(raw):
        return (
            f"{path}: parameters: a sweep file of W&B must be written otherwise here. Its axes are `{ours}`; beside "
            "them stand a `name`, and as `experiment` a function (`train.py:train`) that takes a config and returns "
            "its metrics, or a `command` with the `result` file it writes"
        )
    if fault.kind == "unknown":
        hint = f". {nearest(str(fault.place[-1]), _keys_at(fault.place[:-1], raw))}"
    return f"{path}: {key}: {fault.broken}{hint}"


def _keys_at(place: Sequence[Any], raw: Any) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "fit": FitSpec, "resources": Resources, "budget": Budget, "tuner": Tuner, "until": Until, "halving": Halving,
    }  # fmt: skip
    if not place:
        return list(SweepFile.model_fields)
    if place[0] == "world":
        return list(kinds()[raw["world"]["kind"]].model_fields)
    own = next((str(key) for key in reversed(place) if str(key) in models), str(place[0]))
    return list(models[own].model_fields)
