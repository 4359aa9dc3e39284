"""The audit passes for a true posterior and for nothing else."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raysweep.errors import OracleError
from raysweep.oracle.audit import audit
from raysweep.oracle.audits import require_audit
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.flows.coupling import coupling_net
from raysweep.oracle.flows.shared import ClassFlow
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.recipe import recipe_hash
from raysweep.oracle.shared_flow import FlowRecipe, fresh_flow
from raysweep.store import Store
from raysweep.theory.gaussian import truth

TEMPERATURES = [0.5, 1.0, 2.0]
WORLDS = {
    "two classes": GaussianRecipe(separation=2.0),
    "unequal prior": GaussianRecipe(separation=1.5, prior=(0.8, 0.2)),
    "five classes": GaussianRecipe(classes=5, dim=6, separation=2.5),
    "nearly separable": GaussianRecipe(separation=7.0),
}


def world_of(recipe, sha="good"):
    """A world whose sha is new, so that no cached sample of another is used."""
    flow = gaussian_flow(recipe).requires_grad_(False)
    return FlowWorld(flow, recipe, f"{recipe_hash(recipe)}-{sha}")


def failed(found):
    return {check.name for check in found.checks if not check.passed}


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", WORLDS)
def test_a_good_world_passes_at_every_temperature(name, temperature):
    found = audit(world_of(WORLDS[name]), temperature)
    assert found.passed, found.checks
    assert {c.name for c in found.checks} == {"inverse", "log_det", "normalised", "self_calibration", "bayes_error"}


def test_a_flow_trained_hardly_at_all_passes_too():
    """Exactness is by construction: it does not need a good fit."""
    recipe = FlowRecipe(layers=3, hidden=16, blocks=1)
    flow = fresh_flow(recipe).double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    assert audit(FlowWorld(flow.requires_grad_(False), recipe, "untrained"), items=2000).passed


def test_a_flow_of_many_dimensions_passes_on_several_threads():
    torch.set_num_threads(2)
    flow = ClassFlow(coupling_net(192, 2, 8, 1, 0), 192, torch.full((3,), -math.log(3))).double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    found = audit(FlowWorld(flow.requires_grad_(False), FlowRecipe(), "wide"), items=2000)
    assert not {"log_det", "inverse"} & failed(found), found.checks


def test_what_is_reported_is_the_truth_and_its_reliability_diagonal():
    found, true = audit(world_of(WORLDS["two classes"])), truth(2.0)
    assert found.aleatoric == pytest.approx(true.aleatoric, abs=0.02)
    assert found.bayes_error == pytest.approx(true.bayes_error, abs=0.01)
    assert sum(n for *_, n in found.reliability) == 2 * found.items
    for stated, seen, n in found.reliability:
        assert abs(stated - seen) < 5 * (0.25 / n) ** 0.5


def swapped(flow):
    right = flow.log_posterior
    return lambda x, temperature=1.0: right(x, temperature).flip(-1)


def tempered(flow):
    right = flow.log_posterior
    return lambda x, temperature=1.0: right(x, 2 * temperature)


def unnormalised(flow):
    right = flow.log_posterior
    return lambda x, temperature=1.0: right(x, temperature) + 1e-3


def smoothed(flow):
    """The paper's T: the log-posterior divided, which is not the posterior of any temperature of the latent space."""
    right = flow.log_posterior
    return lambda x, temperature=1.0: torch.log_softmax(right(x, temperature) / 2, -1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("wrong", "fails"),
    [
        (swapped, {"self_calibration", "bayes_error"}),
        (tempered, {"self_calibration", "bayes_error"}),
        (smoothed, {"self_calibration", "bayes_error"}),
        (unnormalised, {"normalised"}),
    ],
)
def test_a_posterior_of_another_world_fails(monkeypatch, wrong, fails, temperature):
    world = world_of(WORLDS["two classes"], wrong.__name__)
    monkeypatch.setattr(world.flow, "log_posterior", wrong(world.flow))
    assert failed(audit(world, temperature)) == fails


def test_an_inverse_that_is_slightly_off_fails(monkeypatch):
    world = world_of(WORLDS["five classes"], "inverse")
    right = world.flow.net.inverse
    monkeypatch.setattr(world.flow.net, "inverse", lambda z: (right(z)[0] + 1e-6, right(z)[1]))
    assert "inverse" in failed(audit(world))


def test_a_log_det_that_is_slightly_off_fails(monkeypatch):
    world = world_of(WORLDS["five classes"], "log_det")
    right = world.flow.net.forward
    monkeypatch.setattr(world.flow.net, "forward", lambda x: (right(x)[0], right(x)[1] + 1e-5))
    assert failed(audit(world)) == {"log_det"}


def test_a_calibration_score_is_finite_where_labels_are_certain():
    found = audit(world_of(GaussianRecipe(separation=60.0)))
    assert found.passed
    assert all(np.isfinite(c.value) for c in found.checks)


# --- the gate ---------------------------------------------------------------------------------------------


def gate(store, world, *temperatures):
    return require_audit(store, "oracle/w", world.recipe, world, [{"temperature": t} for t in temperatures])


def test_the_gate_raises_with_check_value_and_limit_and_keeps_the_evidence(monkeypatch, tmp_path):
    store, world = Store(str(tmp_path)), world_of(WORLDS["two classes"], "gate")
    monkeypatch.setattr(world.flow, "log_posterior", swapped(world.flow))
    text = (
        r"oracle/w: audit failed at temperature 1: self_calibration must be within 4, but is [\d.e+]+ .*standard errors"
    )
    with pytest.raises(OracleError, match=text):
        gate(store, world, 1.0)
    (kept,) = store.read_json("oracle/w/audit.json")
    assert not kept["passed"]
    assert {c["name"]: c["passed"] for c in kept["checks"]}["self_calibration"] is False
    with pytest.raises(OracleError, match="self_calibration"):  # a kept failure still stops the sweep
        gate(store, world, 1.0)


def test_the_gate_keeps_its_audits_and_repeats_none(monkeypatch, tmp_path):
    store, world = Store(str(tmp_path)), world_of(WORLDS["two classes"])
    first = gate(store, world, 1.0, 0.5)
    assert [a["temperature"] for a in first] == [1.0, 0.5]
    assert [a["temperature"] for a in store.read_json("oracle/w/audit.json")] == [0.5, 1.0]
    audited = []
    monkeypatch.setattr(GaussianRecipe, "audit", lambda r, w, at, n: audited.append(at) or audit(w, at["temperature"]))
    again = gate(store, world, 1.0, 2.0)
    assert audited == [{"temperature": 2.0}]
    assert again[0] == {**first[0], "checks": list(first[0]["checks"]), "reliability": again[0]["reliability"]}
    assert len(store.read_json("oracle/w/audit.json")) == 3


def test_audits_of_other_weights_do_not_count(tmp_path):
    store, world = Store(str(tmp_path)), world_of(WORLDS["two classes"])
    gate(store, world, 1.0)
    gate(store, replace(world, sha="other weights"), 1.0)
    assert [a["sha"] for a in store.read_json("oracle/w/audit.json")] == ["other weights"]
