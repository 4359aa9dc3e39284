"""Saved fits: results in a JSON file, draws included, that predict as the fits themselves do.

A file holds numbers and names, no code, and may come from anywhere: it is read up to a limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep.errors import FitError
from raysweep.laws.choice import Evidence
from raysweep.laws.covariance import draws_of
from raysweep.laws.form import law_of, written
from raysweep.laws.group import GroupFit, Holdout
from raysweep.laws.prior import Prior
from raysweep.laws.remains import Remains
from raysweep.laws.result import Fit
from raysweep.laws.window import Bounds, Window
from raysweep.replacing import replaceable

__all__ = ["check_save", "load_fits", "save_fits"]

_FORMAT = 1  # of the file; a later one is refused
_KEY = "raysweep_fits"
_MOST = 1 << 28  # bytes that are read
_SAME = (
    *("y", "group", "status", "n_points", "n_clusters", "cluster", "n_scales", "level", "rmse_log", "huber"),
    "details",
)


def save_fits(path: str | Path, fits: Sequence[Fit]) -> None:
    """Write fits with their draws to a JSON file, which `load_fits` reads.

    Raises:
        FitError: The file cannot be written, holds anything but saved fits, or a law cannot be written as data, see
            `form.written`.
    """
    check_save(path)
    text = json.dumps({_KEY: _FORMAT, "fits": [[_record(group) for group in fit] for fit in fits]}, default=str)
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise FitError(
            f"A fit is saved to a file in a folder that exists, but {path} cannot be written: {error}. Name another."
        ) from error


def check_save(path: str | Path) -> None:
    """Refuse a file that fits may not be saved to, before they are made.

    Raises:
        FitError: It lies in no folder, or holds anything but saved fits.
    """
    try:
        if Path(path).is_dir() or not Path(path).parent.is_dir():
            raise FitError(f"A fit is saved to a file in a folder that exists, but got {str(path)!r}. Name another.")
        if not replaceable(path, lambda content: content.lstrip().startswith(f'{{"{_KEY}"'.encode())):
            raise FitError(
                f"A fit is saved to a new file, or in place of saved fits, but {path} holds something else. Name "
                "another, or remove it first."
            )
    except OSError as error:
        raise FitError(
            f"A fit is saved to a file that can be read, but {path} is not: {error}. Name another."
        ) from error


def load_fits(path: str | Path) -> tuple[Fit, ...]:
    """The fits of a file that `save_fits` wrote, with their draws: they predict without their data.

    Raises:
        FitError: The file cannot be read, is none of saved fits, or is one of a later version.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST + 1)
        if len(text) > _MOST:
            raise FitError(f"A saved fit has at most {_MOST:,} bytes, but {path} is longer. Save fewer groups.")
        found = json.loads(text)
        version = found[_KEY]
        if version != _FORMAT:
            raise FitError(f"Saved fits of format {_FORMAT} are read, but {path} has {version!r}. Upgrade raysweep.")
        fits = tuple(_fit([_group(record) for record in records]) for records in found["fits"])
    except OSError as error:
        raise FitError(
            f"A saved fit must be a file that can be read, but {path} is not: {error}. Name one that `raysweep fit "
            "--save` wrote."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise FitError(
            f"{path} must be a file that `raysweep fit --save` wrote, but it is not ({type(error).__name__}: {error}). "
            "Fit and save again."
        ) from error
    if not fits:
        raise FitError(f"{path} must hold a fit, but holds none. Fit and save again.")
    return fits


def _record(group: GroupFit) -> dict[str, Any]:
    left = None if group.left is None else group.left.to_json()
    form = written(group.law, group.x)
    record = {**group.to_json(draws=True), "x": list(group.x), "form": form, "left": left}
    if group.bounds is not None:
        rule = group.bounds.window
        record["bounds"] = {**group.bounds.to_json(), "window": {"low": rule.low, "high": rule.high, "x": rule.x}}
    return record


def _fit(groups: Sequence[GroupFit]) -> Fit:
    return Fit(groups[0].x, groups[0].y, tuple(groups))


def _group(record: Mapping[str, Any]) -> GroupFit:
    form = law_of(record.get("form", {"law": record["law"]}), record["x"])
    params, derived = ({one["name"]: one["value"] for one in record[key]} for key in ("params", "derived"))
    if params and set(params) != set(form.names):
        raise ValueError(f"the parameters of {form.name} are {', '.join(form.names)}, not {', '.join(params)}")
    ends = {one["name"]: (one["ci_low"], one["ci_high"]) for one in (*record["params"], *record["derived"])}
    spans = record["window"] if len(record["x"]) > 1 else [record["window"]]
    held, draws, error = record["holdout"], record["draws"], record.get("error")
    left = record.get("left")  # earlier files have none
    return GroupFit(
        law=form,
        x=tuple(record["x"]),
        params=params,
        derived=derived,
        intervals={name: both for name, both in ends.items() if None not in both},
        window=tuple((_number(low, math.nan), _number(high, math.nan)) for low, high in spans),
        holdout=None if held is None else Holdout(**held),
        rivals=tuple(Evidence(**{**one, "aicc": _number(one["aicc"], math.inf)}) for one in record["rivals"]),
        draws=None if draws is None else draws_of(draws, form, params),
        error=error,
        envelope=record.get("envelope"),
        shared=tuple(record.get("shared", ())),
        priors=tuple(Prior(**one) for one in record.get("priors", ())),
        bounds=None if "bounds" not in record else _bounds(record["bounds"]),
        left=None if left is None else Remains.of(left),
        **{name: record[name] for name in _SAME},
    )


def _bounds(record: Mapping[str, Any]) -> Bounds:
    low, high = _number(record["low"], -math.inf), _number(record["high"], math.inf)
    return Bounds(Window(**record["window"]), record["x"], low, high, record["kept"], record["rows"])


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)
