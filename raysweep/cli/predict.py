"""Predictions of fitted laws: the points that a command line asks for, and how the answers are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep.errors import FitError

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit
    from raysweep.laws.predicted import Prediction

__all__ = ["Predict", "places", "sentences"]

Predict = Annotated[
    list[str] | None,
    typer.Option(
        "--predict",
        metavar="X",
        help="Also predict y at this scale: 1e10, or n=1e10,width=64 for several scales; may be repeated.",
    ),
]


def places(texts: Sequence[str], x: Sequence[str], option: str) -> list[dict[str, float]]:
    """The points of scales that `texts` name, each a value by its column.

    Args:
        texts: `1e10`, or `n=1e10,width=64`.
        x: Columns of the fit's scales.
        option: What to call the option in an error.

    Raises:
        FitError: A text does not give one positive number for each scale.
    """
    return [_place(text, x, option) for text in texts]


def _place(text: str, x: Sequence[str], option: str) -> dict[str, float]:
    parts = [part.rpartition("=") for part in text.split(",")]
    found = {name.strip() or (x[0] if len(x) == 1 else ""): _number(value) for name, _, value in parts}
    if set(found) != set(x) or len(parts) != len(x) or not all(0 < value < math.inf for value in found.values()):
        example = "1e10" if len(x) == 1 else ",".join(f"{name}=1e10" for name in x)
        raise FitError(
            f"{option} must give a positive number for {' and '.join(x)}, but got {text!r}. Write it as {example}."
        )
    return {name: found[name] for name in x}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def sentences(group: GroupFit, found: Sequence[Prediction]) -> list[str]:
    """A line for each prediction of a group."""
    return [_sentence(group, one) for one in found]


def _sentence(group: GroupFit, one: Prediction) -> str:
    where = ", ".join(f"{name} = {value:.6g}" for name, value in one.x.items())
    text = f"  predicted at {where}: {group.y} = {one.value:.4g}"
    if one.interval is not None:
        text += f" [{one.interval[0]:.4g}, {one.interval[1]:.4g}]"
    if one.new_run is not None:
        text += f", of a new run [{one.new_run[0]:.4g}, {one.new_run[1]:.4g}]"
    return text + (f"; {one.beyond:.3g} times beyond the range that was fitted" if one.beyond > 1 else "")
