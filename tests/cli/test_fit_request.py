"""A fit that no table could answer is refused alike by a call, a command line and a sweep file, which name the key."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import polars as pl
import pytest
from conftest import FUNCTION_SWEEP, Cli

from raysweep.errors import FitError, SweepError
from raysweep.laws import Window, fit
from raysweep.laws.constraint import Constraints
from raysweep.laws.prior import Prior
from raysweep.laws.request import FitRequest, Options, RequestError
from raysweep.sweep import from_mapping
from raysweep.sweep.schema import FitSpec

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("law", {"law": "powr"}),
    ("x", {"law": "chinchilla"}),
    ("x", {"law": "chinchilla", "x": ["size", "size"]}),
    ("y", {"y": "size"}),
    ("by", {"by": ["epoch", "epoch"]}),
    ("at", {"at": "frist"}),
    ("window", {"window": {"low": 100, "hihg": 10}}),
    ("window", {"window": {"low": "epoch.real"}}),
    ("window", {"window": {"high": "2 * size"}}),
    ("x_se", {"x_se": ["epoch", "epoch"]}),
    ("huber", {"huber": -1.0}),
    ("holdout", {"holdout": 0.95}),
    ("envelope", {"envelope": 1.5}),
    ("shared", {"shared": "beta"}),
]


@pytest.mark.parametrize(("key", "fault"), FAULTS)
def test_three_doors_one_check(cli: Cli, key: str, fault: dict[str, Any]) -> None:
    asked = {"x": ["size"], "y": "loss", **fault}
    with pytest.raises(RequestError) as caught:
        fit(pl.DataFrame({"size": [1], "epoch": [1], "loss": [1.0]}), **asked)
    assert caught.value.key == key
    with pytest.raises(SweepError) as refused:
        from_mapping({**FUNCTION_SWEEP, "fit": [asked]}, "my.yaml")
    assert str(refused.value) == f"my.yaml: fit.0.{key}: {caught.value.rule}"
    options = [
        part
        for name, value in asked.items()
        for one in (value if isinstance(value, list) else [value])
        for part in (f"--{name.replace('_', '-')}", json.dumps(one) if isinstance(one, dict) else str(one))
    ]
    code, out, err = cli("fit", "no.csv", *options)  # before a table is looked for
    assert (code, out, err) == (2, "", f"error: fit: --{key.replace('_', '-')}: {caught.value.rule}\n")


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": float("nan")}, {"draws": -1}, {"draws": 39}])
def test_an_interval_needs_a_level_and_enough_draws_for_it(options: dict[str, Any]) -> None:
    with pytest.raises(FitError, match=r"level|bootstrap"):
        Options(**options)
    assert Options(level=0.9, draws=20).draws == 20


def test_every_key_of_a_sweep_files_fit_reaches_the_request() -> None:
    plain = FitSpec(x="size", y="loss")
    values: dict[str, Any] = {
        "law": "power+floor", "x": "width", "y": "error", "by": ("seed",), "where": "size > 1", "at": "last",
        "se": "error_se", "x_se": ("width_se",), "huber": 1e-3, "holdout": 0.0,
        "window": {"low": 10, "high": "seed + 5"},
    }  # fmt: skip
    constraints = {"fix": {"alpha": 0.5}, "tie": {"beta": "alpha"}, "bound": {"alpha": [0, 1]}}
    coupling = {"shared": ("alpha",), "prior": {"alpha": [0.5, 0.1]}, "envelope": 0.1}
    own = {"formula": "E + A * size**-a", "positive": ("A",)}
    steps = {"then": "sigmoid", "metric": "accuracy"}
    assert {*values, *constraints, *coupling, *own, *steps} == set(FitSpec.model_fields)
    for key, value in values.items():
        changed = plain.model_copy(update={key: value}).request
        place = changed.options if key in {one.name for one in fields(Options)} else changed
        wanted = {"x": (value,), "window": Window(10, "seed + 5")}.get(key, value)
        assert getattr(place, key) == wanted
        assert changed != plain.request
    joint = FitSpec(law="chinchilla", x=("size", "width"), y="loss")
    for key, value in constraints.items():
        changed = joint.model_copy(update={key: value}).request
        assert changed.constraints == Constraints.of_mappings(**{"fix": None, "tie": None, "bound": None, key: value})
        assert changed != joint.request
    requests = {key: plain.model_copy(update={key: value}).request for key, value in coupling.items()}
    assert requests["shared"].shared == ("alpha",)
    assert requests["prior"].priors == (Prior("alpha", 0.5, 0.1),)
    assert requests["envelope"].options.envelope == 0.1
    asked = FitSpec(x="size", y="loss", **own).request  # type: ignore[arg-type]
    assert (asked.law, asked.formula, asked.positive) == ("formula", own["formula"], own["positive"])
    stepped = plain.model_copy(update=steps).request
    assert (stepped.then, stepped.metric) == ("sigmoid", "accuracy")
    assert plain.request == FitRequest(("size",), "loss")
