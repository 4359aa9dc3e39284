"""A kind of recipe joins by registering itself: it is made, kept, loaded and swept without a change elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from conftest import CLASSIFIER_SWEEP
from safetensors.numpy import load, save

from raysweep.errors import OracleError, SweepError
from raysweep.executors import make_executor
from raysweep.experiment import Dist, Sample
from raysweep.oracle import recipe as room
from raysweep.oracle.audits import Audit, Check, settings
from raysweep.oracle.recipe import Point, Recipe, Shape, Train, folder_of, parse_recipe, recipe_hash, register
from raysweep.oracle.world import load_world, prepare
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping


@dataclass(frozen=True)
class Line:
    """Two classes on a line, at -gap and gap, under noise of the logistic density."""

    gap: float
    sha: str
    classes: int = 2
    dim: int = 1

    def sample(self, n: int, stream: str, temperature: float = 1.0) -> Sample:
        rng = np.random.default_rng([n, len(stream), ord(stream[0])])
        y = rng.integers(2, size=n)
        x = (self.gap * (2 * y - 1) + temperature * rng.logistic(size=n)).astype(np.float32)[:, None]
        centred = (x.astype(float) - self.gap * np.array([-1.0, 1.0])) / temperature
        joint = -centred - 2 * np.logaddexp(0, -centred)
        return Sample(x, y, joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def fitted(gap: float, steps: int, dist: Dist | None, point: Point, device: str) -> dict[str, bytes]:
    """Halves the distance to the gap at every step."""
    for step in range(1, steps + 1):
        point({"epoch": step, "epochs": steps, "start": 0, "off": gap / 2**step})
    return {"line": save({"gap": np.array(gap * (1 - 2.0**-steps))})}


class LineRecipe(Recipe):
    """Trained by a function that an executor runs."""

    version: ClassVar[int] = 3
    kind: Literal["line"] = "line"
    gap: float = 1.0
    steps: int = 5

    @property
    def shape(self) -> Shape:
        return Shape(1, 2)

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {"noise": "logistic"}

    def make(self, train: Train) -> bytes:
        return train(partial(fitted, self.gap, self.steps))["line"]

    def load(self, data: bytes, sha: str) -> Line:
        return Line(float(load(data)["gap"]), sha)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> type[LineRecipe]:
    """The kind, registered for one test."""
    monkeypatch.setattr(room, "_KINDS", room.kinds())
    return register(LineRecipe)


WORLD = {"kind": "line", "gap": 2.0}


@pytest.mark.usefixtures("known")
def test_it_is_made_kept_loaded_and_swept(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    store, sweep = Store(str(tmp_path)), make_sweep(CLASSIFIER_SWEEP, world=WORLD)
    recipe = sweep.file.world
    assert recipe == LineRecipe(gap=2.0)
    assert run(sweep, store, make_executor("inline")).counts.ok == sweep.runs.cells
    assert store.read_json(f"{folder_of(recipe)}/recipe.json") == {"kind": "line", "gap": 2.0, "steps": 5}
    assert [p["off"] for p in store.read_json(f"{folder_of(recipe)}/curve.json")] == [1, 0.5, 0.25, 0.125, 0.0625]
    world = load_world(store, folder_of(recipe))
    assert world == Line(2.0 - 0.0625, world.sha)
    assert not store.exists(f"{folder_of(recipe)}/audit.json")  # this kind has none
    assert status(store)["worlds"] == [{"recipe": recipe_hash(recipe), "ready": True, "audited": [], "passed": None}]

    def never(function: object) -> Any:
        raise AssertionError("it is there")

    assert prepare(store, recipe, never) == (world, False)


@pytest.mark.usefixtures("known")
def test_its_hash_has_its_fields_its_version_and_what_else_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    base = recipe_hash(LineRecipe())
    assert base == recipe_hash(LineRecipe(gap=1.0))
    assert base != recipe_hash(LineRecipe(gap=1.5))
    with monkeypatch.context() as patch:
        patch.setattr(LineRecipe, "version", 4)
        assert recipe_hash(LineRecipe()) != base
    monkeypatch.setattr(LineRecipe, "ingredients", {"noise": "normal"})
    assert recipe_hash(LineRecipe()) != base


@pytest.mark.usefixtures("known")
def test_its_parameters_are_checked_under_their_own_names(make_sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(SweepError, match=r"world\.gaps: unknown key\. Did you mean 'gap'\?"):
        make_sweep(CLASSIFIER_SWEEP, world={"kind": "line", "gaps": 1})
    with pytest.raises(SweepError, match=r"world\.steps: must be a whole number, but got 'many'"):
        make_sweep(CLASSIFIER_SWEEP, world={"kind": "line", "steps": "many"})


def test_an_unknown_kind_is_refused_by_those_that_are_known(make_sweep: Callable[..., Sweep]) -> None:
    told = r"kind must be the name of a kind of world, but got 'line'\. .*Valid names: flow, gaussian"
    with pytest.raises(SweepError, match=f"sweep.yaml: world: {told}"):
        make_sweep(CLASSIFIER_SWEEP, world=WORLD)
    with pytest.raises(OracleError, match=f"here: must hold a recipe: {told}"):
        parse_recipe(json.dumps(WORLD), "here")


def test_a_store_of_a_kind_that_is_not_known_here_can_be_read(
    tmp_path: Path, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(room, "_KINDS", room.kinds())
        register(LineRecipe)
        run(make_sweep(CLASSIFIER_SWEEP, world=WORLD), store, make_executor("inline"))
    assert status(store)["pending"] == 0
    with pytest.raises(OracleError, match=r"recipe\.json: .* kind must be the .*imports no code\. `raysweep run`"):
        load_world(store, f"oracle/{store.folders('oracle')[0]}")


def test_what_has_no_kind_or_another_s_is_not_registered(known: type[LineRecipe]) -> None:
    class Nameless(Recipe):
        pass

    class Second(Recipe):
        kind: Literal["line"] = "line"

    with pytest.raises(OracleError, match="Nameless: `kind` must be a Literal of one word"):
        register(Nameless)
    with pytest.raises(OracleError, match="Second: kinds must have distinct names, but 'line'"):
        register(Second)
    assert register(known) is known  # the same again


class Audited(LineRecipe):
    """Audited along two axes of a sweep."""

    audited: ClassVar[Mapping[str, float] | None] = {"temperature": 1.0, "shift": 0.0}

    def audit(self, world: Any, at: Mapping[str, float], items: int) -> Audit:
        check = Check("shift", at["shift"], 1.0, "the shift itself")
        return Audit(world.sha, at, items, (check,), 0.5, 0.1, ((0.5, 0.5, items),))


def test_an_audit_is_made_at_every_combination_of_its_axes_and_kept_with_it(
    tmp_path: Path, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"temperature": (2.0, 1.0), "width": (4, 8)}
    assert settings(Audited(), grid) == [{"temperature": 1.0, "shift": 0.0}, {"temperature": 2.0, "shift": 0.0}]
    assert settings(LineRecipe(), grid) == []
    monkeypatch.setattr(room, "_KINDS", room.kinds())
    register(Audited)
    store = Store(str(tmp_path))
    run(make_sweep(CLASSIFIER_SWEEP, {"temperature": [2.0, 1.0], "k": 1}, world=WORLD), store, make_executor("inline"))
    (world,) = status(store)["worlds"]
    assert (world["audited"], world["passed"]) == (settings(Audited(), grid), True)
    monkeypatch.setattr(Audited, "audited", {"shift": 2.0})
    with pytest.raises(OracleError, match="audit failed at shift 2: shift must be within 1, but is 2"):
        run(make_sweep(CLASSIFIER_SWEEP, {"seed": 9}, world=WORLD), store, make_executor("inline"))
    monkeypatch.setattr(Audited, "audited", {"items": 2.0})
    with pytest.raises(OracleError, match="an audit has fields of its own named items"):
        settings(Audited(), {})


MODULE = """
from typing import Literal
from test_kinds import LineRecipe
from raysweep.experiments.classifier import EXPERIMENT
from raysweep.oracle.recipe import register

@register
class Bent(LineRecipe):
    kind: Literal["bent"] = "bent"
"""


def test_the_module_of_a_user_s_experiment_registers_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_KINDS", room.kinds())
    (tmp_path / "my_bent_world.py").write_text(MODULE)
    raw = {**CLASSIFIER_SWEEP, "experiment": "my_bent_world:EXPERIMENT", "world": {"kind": "bent", "gap": 3.0}}
    sweep = from_mapping(raw, "sweep.yaml", [tmp_path])
    assert sweep.file.world is not None
    assert (sweep.file.world.kind, sweep.file.world.shape) == ("bent", Shape(1, 2))
