"""Predictions of fitted laws: the points that a command line asks for, and the command that reads saved fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import typer

from raysweep.cli.asking import Json
from raysweep.cli.fitted import Printed, Table, WithDraws
from raysweep.errors import FitError

__all__ = ["Predict", "add_to", "places"]

_FORM = "1e10, or n=1e10,width=64 for several scales"
Predict = Annotated[
    list[str] | None,
    typer.Option("--predict", metavar="X", help=f"Also predict y at this scale: {_FORM}; may be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(predict)


def predict(
    fit: Annotated[str, typer.Argument(metavar="FIT", help="A file that `raysweep fit --save` wrote.")],
    x: Annotated[
        list[str] | None,
        typer.Argument(metavar="X...", help=f"Scales to predict at: {_FORM}.", show_default=False),
    ] = None,
    table: Table = None,
    draws: WithDraws = False,
    json: Json = False,
) -> None:
    """Predict from saved fits, without their data. Without X: show the fits."""
    printed = Printed(json, table, draws)
    from raysweep.laws.saved import load_fits

    fits = load_fits(fit)
    printed.show(fits, [places(x or (), one.x, "predict: X") for one in fits])


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
