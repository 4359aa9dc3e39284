"""`raysweep audit` looks at what a store's sweeps used, and says what it is doing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CLASSIFIER_SWEEP
from typer.testing import CliRunner

from raysweep.cli import app
from raysweep.cli.audit import used_settings
from raysweep.errors import OracleError
from raysweep.oracle.gaussian import GaussianRecipe
from raysweep.oracle.recipe import folder_of
from raysweep.oracle.world import prepare
from raysweep.progress import Progress
from raysweep.run import open_store
from raysweep.store import Store
from raysweep.sweep import Sweep


def no_training(flow: object) -> object:
    raise AssertionError("a Gaussian world is not trained")


@pytest.fixture
def store(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> Store:
    """The store of a sweep at two temperatures, with its world and that of an earlier sweep."""
    made = Store(str(tmp_path / "store"))
    sweep = make_sweep(CLASSIFIER_SWEEP, {"temperature": [2.5, 1.75]})
    open_store(made, sweep, Progress(io.StringIO))
    assert sweep.file.world is not None
    for recipe in (sweep.file.world, GaussianRecipe(dim=3)):
        prepare(made, recipe, no_training)  # type: ignore[arg-type]
    return made


def audited(*arguments: str) -> tuple[list[float], list[str]]:
    """The temperatures of an audit, and the lines that it said on the way."""
    result = CliRunner().invoke(app, ["audit", *arguments, "--items", "500", "--json"])
    assert result.exit_code == 0, result.output
    return [one["temperature"] for one in json.loads(result.stdout)], result.stderr.splitlines()


def test_each_world_is_audited_at_the_temperatures_that_were_used(store: Store) -> None:
    (other,) = {f"oracle/{f}" for f in store.folders("oracle")} - {mine(store)}
    found, said = audited(store.uri)
    assert sorted(found) == [1.0, 1.75, 2.5]
    assert sorted(line.partition(": ")[2] for line in said) == sorted(
        [f"{mine(store)} at temperature 2.5", f"{mine(store)} at temperature 1.75", f"{other} at temperature 1"]
    )
    assert [line.partition(":")[0] for line in said] == ["audit 1 of 3", "audit 2 of 3", "audit 3 of 3"]


def used(store: Store, folder: str) -> list[float]:
    return [at["temperature"] for at in used_settings(store, folder, own_recipe())]


def mine(store: Store) -> str:
    """The folder of the sweep's world."""
    return folder_of(own_recipe())


def own_recipe() -> GaussianRecipe:
    return GaussianRecipe(**CLASSIFIER_SWEEP["world"])


def test_what_is_asked_for_goes_first(store: Store) -> None:
    assert audited(store.uri, "--at", "temperature=2", "--at", "temperature=3")[0] == [2.0, 3.0, 2.0, 3.0]
    assert audited(f"{store.uri}/{mine(store)}")[0] == [1.0]


def test_temperatures_of_earlier_audits_count_as_used(store: Store) -> None:
    check = {"name": "inverse", "value": 0.0, "limit": 1.0, "about": "", "passed": True}
    kept = {
        "sha": "x", "items": 1, "checks": [check], "aleatoric": 1.0, "bayes_error": 0.1,
        "reliability": [[0.5, 0.5, 1]], "passed": True,
    }  # fmt: skip
    store.write_json(f"{mine(store)}/audit.json", [{**kept, "temperature": 4.0}])
    assert used(store, mine(store)) == [1.75, 2.5, 4.0]
    assert used(Store(f"{store.uri}/{mine(store)}"), "") == [4.0]


def test_a_sweep_that_names_no_temperature_used_1(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    store = Store(str(tmp_path))
    open_store(store, make_sweep(CLASSIFIER_SWEEP), Progress(io.StringIO))
    assert used(store, mine(store)) == [1.0]


def test_an_axis_that_the_audit_does_not_depend_on_is_refused(store: Store) -> None:
    for asked, told in (
        ("tempreature=2", "Did you mean 'temperature'"),
        ("temperature=warm", "with a number"),
    ):
        result = CliRunner().invoke(app, ["audit", store.uri, "--at", asked])
        assert isinstance(result.exception, OracleError)
        assert told in str(result.exception)
    result = CliRunner().invoke(app, ["audit", store.uri, "--breaks", "--at", "temperature=2"])
    assert "--breaks must be without --at" in str(result.exception)
