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
    example = "1e10" if len(x) == 1 else ",".join(f"{name}=1e10" for name in x)
    found: dict[str, float] = {}
    for part in text.split(","):
        name, mark, value = (each.strip() for each in part.rpartition("="))
        if not mark and len(x) == 1:
            name = x[0]
        if name not in x or name in found:
            wrong = f"names {name!r}{' twice' if name in x else ''}" if mark else "names no scale"
            raise FitError(
                f"{option} must give a value for {' and for '.join(x)}, once, but {text!r} {wrong}. Write it as "
                f"{example}."
            )
        found[name] = _number(value)
    if missing := [name for name in x if name not in found]:
        raise FitError(
            f"{option} must give a value for {' and for '.join(x)}, but {text!r} has none for {' and '.join(missing)}. "
            f"Write it as {example}."
        )
    if bad := [name for name, value in found.items() if not 0 < value < math.inf]:
        raise FitError(
            f"{option} must give a positive number for {' and '.join(bad)}, but got {text!r}. Write it as {example}."
        )
    return {name: found[name] for name in x}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
