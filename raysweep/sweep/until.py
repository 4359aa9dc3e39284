"""`until:` of a sweep file: how sure the answer must be, and what it may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from raysweep.errors import SweepError, nearest
from raysweep.grid.axes import Axis
from raysweep.laws.request import FitRequest

__all__ = ["Count", "Number", "Target", "Until", "check_targets", "check_until", "read_target"]

_AT = re.compile(r"([A-Za-z_]\w*)\(([^()]+)\)")


@dataclass(frozen=True)
class Target:
    """A 95 % interval that is wanted.

    Attributes:
        text: As given: a parameter such as `alpha`, or y at a scale, such as `loss(1e9)`.
        width: How wide it may be from end to end; that of y is relative to y.
        name: The parameter, or y.
        at: The scales; None for a parameter.
    """

    text: str
    width: float
    name: str
    at: tuple[float, ...] | None


def read_target(text: str, width: float) -> Target:
    """A target as a sweep file or a command line gives it.

    Raises:
        ValueError: It is neither a name nor a name with scales above 0, or its width is not above 0.
    """
    found = _AT.fullmatch(text.strip())
    at = None
    try:
        if found:
            at = tuple(float(one) for one in found[2].split(","))
    except ValueError:
        found = None
    if (not found and not re.fullmatch(r"[A-Za-z_]\w*", text.strip())) or (at and min(at) <= 0):
        raise ValueError(f"must name a parameter, or y at scales above 0 such as loss(1e9), but got {text!r}")
    if not 0 < width < float("inf"):
        raise ValueError(f"must be the width of an interval, above 0 and finite, but got ({text}={width:g})")
    return Target(text.strip(), width, found[1] if found else text.strip(), at)


def _readable(given: Mapping[str, float]) -> Mapping[str, float]:
    if not given:
        raise ValueError("must name at least one parameter and the width of its interval, as in {alpha: 0.02}")
    for text, width in given.items():
        read_target(text, width)
    return given


def _number(given: Any) -> Any:
    if isinstance(given, bool):  # pydantic would take it for 0 or 1
        raise ValueError("must be a number")
    return given


Number: TypeAlias = Annotated[float, BeforeValidator(_number)]
Count: TypeAlias = Annotated[int, BeforeValidator(_number)]


class Until(BaseModel):
    """Run only as much of the grid as these intervals need."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ci95: Annotated[Mapping[str, Number], AfterValidator(_readable)] = Field(
        description="widths of 95 % intervals: {alpha: 0.02}; of y at a scale, relative: {loss(1e9): 0.1}"
    )
    fit: Count = Field(0, ge=0, description="which of the sweep's fits they are intervals of, counted from 0")
    coarse: Count | None = Field(None, ge=1, description="seeds of every setting in the first round")
    max_flops: Number | None = Field(None, gt=0)
    max_gpu_hours: Number | None = Field(None, gt=0, description="GPUs of a pack times its wall time")
    max_hours: Number | None = Field(None, gt=0, description="wall time of packs, added up")
    max_rounds: Count | None = Field(None, ge=1)

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(read_target(text, width) for text, width in self.ci95.items())

    @property
    def limits(self) -> str:
        """The limits in words."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("max_flops", "max_gpu_hours", "max_hours")}
        return ", ".join(f"{name}={value:g}" for name, value in given.items() if value is not None) or "no limits"


def check_until(until: Until, fits: Sequence[FitRequest], axes: Mapping[str, Axis], gpus: float) -> None:
    """Refuse, before anything is spent, what no sweep could come to.

    Args:
        fits: The fits of the sweep file.
        gpus: That a pack holds.

    Raises:
        SweepError: There is no such fit, its law lacks what is wanted, its scale is read along the way, or a limit in
            GPU hours is set for packs without GPUs.
    """
    if until.fit >= len(fits):
        raise SweepError(
            f"until.fit: must be one of the sweep's fits, counted from 0, but got (fit={until.fit}, fits={len(fits)}). "
            "Add `fit: [{law: power, x: ..., y: ...}]`"
        )
    request = fits[until.fit]
    check_targets(until.targets, request, "until.ci95")
    for name in request.x:
        if name in axes and axes[name].kind == "observed":
            raise SweepError(
                f"until.fit: x must be a scale that each run has one value of, but {name} is observed: every run is "
                "read at all of its values. Fit another scale"
            )
    if until.max_gpu_hours is not None and not gpus:
        raise SweepError(
            f"until.max_gpu_hours: packs must hold GPUs, but got (max_gpu_hours={until.max_gpu_hours:g}, "
            "resources.gpus=0). Give resources.gpus, or max_hours for hours of packs"
        )


def check_targets(targets: Sequence[Target], request: FitRequest, place: str) -> None:
    """Raise a SweepError unless a fit's law has these parameters, or y at this number of scales.

    Args:
        place: Where the targets were given, for errors.
    """
    law = request.form
    if law is None:
        raise SweepError(
            f"{place}: the law of the fit must be named, but it is `auto`: which law holds would change between "
            "rounds. Name one, such as power"
        )
    if request.options.envelope is not None:
        raise SweepError(
            f"{place}: the law of the fit must be that of all runs, but it is an envelope (envelope="
            f"{request.options.envelope:g}): what a further run does to it depends on where it will lie. "
            "Leave envelope out"
        )
    for one in targets:
        if one.at is None and one.name not in law.names:
            raise SweepError(
                f"{place}: must name a parameter of the law, or {request.y} at a scale such as {request.y}(1e9), but "
                f"got {one.text!r}. {nearest(one.name, law.names)}"
            )
        if one.at is not None and (one.name != request.y or len(one.at) != len(request.x)):
            raise SweepError(
                f"{place}: must give {request.y} a value of each of {', '.join(request.x)}, separated by commas, but "
                f"got {one.text!r}"
            )
