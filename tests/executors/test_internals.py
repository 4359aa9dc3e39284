"""Tune has what `executors/internals.py` uses of it beyond its public interface, under the same names."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import ray
import torch
from ray import tune
from ray.air._internal import usage
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.execution.failure_handling.default import RETRYABLE_CONTROLLER_ERRORS
from ray.tune.execution.tune_controller import TrialRunnerWrapper, TuneController
from ray.tune.experiment import Trial

from raysweep.executors.internals import forget, had_no_room, inside, own_logs, own_resources, uncounted

OTHER = (
    f"Ray {ray.__version__} is not the Tune that raysweep/executors/internals.py was written for (2.60.0): "
    "read that file against its source, then correct it, this test, and the upper bound in pyproject.toml"
)


def test_this_tune_has_the_names_that_are_used() -> None:
    assert list(inspect.signature(TuneController._cleanup_cached_actors).parameters) == ["self", "force_all"], OTHER
    assert "_actor_manager" in inspect.getsource(TuneController.__init__), OTHER
    assert isinstance(RayActorManager.num_total_actors, property), OTHER
    assert list(inspect.signature(RayActorManager.next).parameters) == ["self", "timeout"], OTHER
    assert "air_usage.tag_callbacks(callbacks)" in inspect.getsource(ray.tune.tune), OTHER
    counts = usage.tag_callbacks
    with uncounted():
        assert usage.tag_callbacks([tune.Callback()]) is False
    assert usage.tag_callbacks is counts
    marker = object()
    assert inside(TrialRunnerWrapper(marker, None)) is marker, OTHER


def test_a_trial_that_ended_is_emptied() -> None:
    trial = Trial("none", config={"pack": 1}, stub=True)
    trial.run_metadata.metric_analysis["loss"] = {"last": 1.0}
    trial.run_metadata.metric_n_steps["loss"] = {"5": [1.0]}
    assert trial.get_json_state() != ("{}", "{}"), OTHER
    forget(trial)
    assert trial.config == trial.evaluated_params == {}
    assert trial.run_metadata.metric_analysis == trial.run_metadata.metric_n_steps == {}, OTHER
    assert trial.get_json_state() == ("{}", "{}"), OTHER


def test_a_trainer_without_room_is_distinguished_from_one_that_failed() -> None:
    failed, no_room = (ControllerError(kind(2)) for kind in RETRYABLE_CONTROLLER_ERRORS)  # type: ignore[arg-type]
    assert had_no_room(no_room), OTHER
    assert not any(map(had_no_room, (failed, WorkerGroupError("died", {}), None)))


def test_what_ray_will_have_here_is_known_before_it_starts() -> None:
    found = own_resources()
    assert 1 <= found["CPU"] <= (os.cpu_count() or 1), OTHER
    assert found["GPU"] == torch.cuda.device_count(), OTHER


@pytest.mark.usefixtures("ray_up")
def test_the_logs_of_the_drivers_own_node_and_of_no_other() -> None:
    logs = Path(own_logs(ray.get_runtime_context().get_node_id()))
    assert (logs / "raylet.out").exists(), OTHER
    assert own_logs("ab" * 28) == ""
