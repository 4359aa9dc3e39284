"""What a sweep file may say under `tune` and `tuner`, and the keys of what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSIFIER_SWEEP, HERE

from raysweep.cli import main
from raysweep.errors import LedgerError, StudyError, SweepError
from raysweep.executors import make_executor
from raysweep.imports import read_study
from raysweep.imports.matching import Wanted
from raysweep.imports.target import of_sweep
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells
from raysweep.sweep.tuned import Study

LR = {"lr": {"log": [1e-3, 1.0]}}
FIT = [{"law": "power", "x": "n_train", "y": "epistemic"}]


def classifier(grid: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    base = {**CLASSIFIER_SWEEP, "tune": LR, "fit": FIT, "tuner": {"sampler": "qmc"}}
    return from_mapping({**base, **changes, "grid": {**CLASSIFIER_SWEEP["grid"], **(grid or {})}}, "t.yaml")


def function(**changes: Any) -> Sweep:
    raw = {
        "name": "t",
        "experiment": "toy_experiment:flat",
        "grid": {"size": [1, 2], "seed": 0},
        "tune": LR,
        "tuner": {"sampler": "qmc", "metric": "loss"},
    }
    return from_mapping({**raw, **changes}, "t.yaml", [HERE])


def halving(how: dict[str, Any]) -> dict[str, Any]:
    return {"tuner": {"sampler": "qmc", "halving": how}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"tune": {"lrr": LR["lr"]}},
            r"tune\.lrr: must be an axis of .*, but got 'lrr'. Did you mean 'lr'",
        ),
        ({"grid": {"lr": [0.1]}}, r"tune\.lr: must be left out of the grid, but grid has it"),
        ({"grid": {"zip": {"momentum": [0, 1], "lr": [1, 2]}}}, "left out of the grid, but grid.zip has it"),
        ({"grid": {"momentum": "1 - lr"}}, "left out of the grid, but grid.momentum has it"),
        ({"grid": {"when": {"if": {"lr": 1}, "then": {"momentum": 0}}}}, "left out of the grid, but grid.when has it"),
        (
            {"tune": {"lr": {"log": [1, 0.1]}}},
            r"tune\.lr: `0 < low < high` must hold in log, .* \(low=1, high=0.1\)",
        ),
        ({"tune": {"lr": {"log": [0, 1]}}}, "`0 < low < high` must hold"),
        ({"tune": {"lr": {"linear": [1, 1]}}}, "`low < high` must hold in linear"),
        ({"tune": {"lr": {"log": [1, 2, 3]}}}, r"log takes two numbers, \[low, high\], but got \[1, 2, 3\]"),
        ({"tune": {"lr": {"geom": [1, 2]}}}, r"must be \{log: \[low, high\]\}.* but got \{'geom': \[1, 2\]\}"),
        ({"tune": {"lr": 0.1}}, r"must be \{log: \[low, high\]\}, \{linear: \[low, high\]\} or a list of choices"),
        ({"tune": {"lr": [0.1, 0.1]}}, "must have two choices or more"),
        ({"tune": {"lr": {"linear": [-1, 1]}}}, r"tune\.lr: lr must be a number in \[0, inf\]"),
        ({"tune": {"optimiser": {"log": [1, 2]}}}, "optimiser is a word and takes a list of choices"),
        ({"tune": {"k": {"log": [1, 2]}}}, "must be an axis that changes a run, but k is observed"),
        ({"tune": {"seed": {"linear": [0, 9]}}}, "must be a hyper-parameter, but seed is a seed"),
        ({"tune": {"schedule": ["wsd", "cosine"]}}, "must be an axis that stands alone, but schedule and steps depend"),
        ({"tune": "lr"}, "tune: must be a mapping"),
        ({"tune": None, "tuner": {"rounds": 2}}, "tuner: must go with `tune`"),
        ({"tune": {}}, r"t\.yaml: tune: must have an entry, but got \{\}\. Leave the key out"),
        ({"tuner": {"sampler": "qmc", "transfer": {}}}, r"t\.yaml: tuner\.transfer: must have an entry, but got \{\}"),
        (
            {"tuner": {"sampler": "grid"}},
            r"tuner\.sampler: must be 'tpe', 'cmaes', 'qmc' or 'optuna_search', but got 'grid'",
        ),
        ({"tuner": {"round": 2}}, r"tuner\.round: unknown key. Did you mean 'rounds'"),
        ({"tuner": {"candidates": 1}}, r"tuner\.candidates: must be at least 2, but got 1"),
        ({"tuner": {"sampler": "qmc", "metric": "los"}}, r"tuner\.metric: must be a metric of the experiment, but got"),
        (
            halving({"eta": 3, "min_resource": 4}),
            "halving.eta: unknown key. Valid names: min_resource, reduction_factor",
        ),
        (halving({}), r"tuner\.halving\.min_resource: must be given"),
        (
            halving({"reduction_factor": 1, "min_resource": 4}),
            r"tuner\.halving\.reduction_factor: must be greater than 1, but got 1",
        ),
        (
            halving({"min_resource": 16}),
            r"t\.yaml: tuner\.halving: a time of steps must lie at or above min_resource and",
        ),
        (
            {**halving({"min_resource": 4}), "grid": {"schedule": "cosine"}},
            "tuner.halving: steps must be observed, .* but it is each run's own length here",
        ),
        (
            {**halving({"min_resource": 4}), "resources": {"checkpoint_seconds": 0}},
            r"t\.yaml: resources\.checkpoint_seconds: must be above 0 with tuner\.halving",
        ),
        (
            {"tuner": {"sampler": "optuna_search", "halving": {"min_resource": 4}}},
            r"tuner\.halving: must go with a sampler that proposes in rounds .* Use `scheduler: asha` instead",
        ),
        ({"fit": [], "tuner": {"sampler": "qmc"}}, r"tuner\.metric: must name the metric .* but the sweep has no fit"),
        ({"fit": [*FIT, {**FIT[0], "y": "nll"}]}, r"tuner\.metric: .* but the sweep fits epistemic, nll"),
        # A wrong name in a fit is the fit's, though candidates are compared by it, too.
        (
            {"fit": [{**FIT[0], "y": "epistemc"}]},
            r"t\.yaml: fit\.0\.y: must be .* got 'epistemc'. Did you mean 'epistem",
        ),
        ({"fit": [*FIT, {**FIT[0], "y": "epistemc"}]}, r"t\.yaml: fit\.1\.y: must be .* but got 'epistemc'"),
        ({"fit": [{**FIT[0], "y": "flops"}]}, r"fit\.0\.y: .* Candidates are compared by it: .*give tuner: \{metric:"),
    ],
)
def test_a_wrong_entry_is_named_with_a_remedy(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SweepError, match=said):
        len(classifier(**changes).runs)


def test_what_cannot_be_tuned_ends_with_2_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.yaml").write_text(
        "{name: t, experiment: 'toy_experiment:flat', grid: {size: 1, seed: 0, lr: 1}, tune: {lr: {log: [1, 2]}}}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["raysweep", "run", "t.yaml", "--executor", "inline"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "tune.lr: must be left out of the grid" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "results").exists()


def test_a_function_needs_a_seed_and_a_sampler_its_package(
    monkeypatch: pytest.MonkeyPatch, memory_store: Store
) -> None:
    with pytest.raises(SweepError, match=r"must have a seed of whole numbers.*Add `seed: \{range: 2\}`"):
        function(grid={"size": [1, 2]})
    with pytest.raises(SweepError, match=r"tuner\.halving: a sweep must have one observed axis .* but has none"):
        function(tuner={"metric": "loss", "halving": {"min_resource": 1}})
    with pytest.raises(SweepError, match=r"must have ranges, but tune\.how is a list of choices"):
        function(tune={"how": ["a", "b"]}, tuner={"metric": "loss", "sampler": "cmaes"})
    monkeypatch.setattr("raysweep.tuning.find_spec", lambda name: None)
    sweep = function(tuner={"metric": "loss"})
    with pytest.raises(SweepError, match=r"tpe must have the package optuna.*pip install 'raysweep\[tune\]'"):
        run(sweep, memory_store, make_executor("inline"))
    assert not memory_store.exists("store.json")
    assert len(sweep.runs) == 2 * 16  # it can be planned


def test_ends_written_as_whole_numbers_make_whole_numbers_and_the_user_is_told() -> None:
    sweep = function(tune={"lr": {"linear": [0, 3]}, "decay": {"linear": [0.0, 3]}})
    assert set(map(type, sweep.runs.values["lr"])) == {int}
    assert any(type(value) is float for value in sweep.runs.values["decay"])
    assert [note for note in sweep.notes if "lr: takes whole numbers from 0 to 3" in note]
    assert not [note for note in sweep.notes if "decay" in note]


def test_candidates_of_one_setting_share_a_parent_whatever_their_seed_rate_and_role() -> None:
    sweep = classifier({"data_seed": [5, 6]})
    first = sweep.layout
    assert first is not None
    assert sweep.lineage is not None
    won = {name: Study(((point := sweep.tuning.first(name))[:2],), point[0]) for name in first.settings}  # type: ignore[union-attr]
    later = replace(sweep, studies=won)
    assert later.layout is not None
    runs, parents = later.layout.runs, sweep.lineage.parents(later.layout.runs)
    assert len(first.settings) == 4 == len(set(parents))  # n_train x width
    np.testing.assert_array_equal(parents.astype(str), np.array(first.settings)[later.layout.setting])
    roles = sweep.lineage.roles(runs)
    assert roles.count("candidate") == 4 * 2 * 4  # two candidates at 2 x 2 seeds
    assert roles.count("selected") == 4 * 5
    fresh = [runs.row(i) for i, role in enumerate(roles) if role == "selected"]
    assert {(row["seed"], row["data_seed"], row["init_seed"]) for row in fresh} == {
        (2 + i, 7 + i, 2 + i) for i in range(5)
    }
    assert len(set(runs.keys)) == len(runs)


def test_a_damaged_record_of_candidates_is_named_and_a_lost_one_is_not_missed(memory_store: Store) -> None:
    sweep = function(tuner={"metric": "loss", "sampler": "qmc", "candidates": 2, "rounds": 1, "seeds": 1})
    outcome = run(sweep, memory_store, make_executor("inline"))
    path = f"tuning/{sweep.hash}.json"
    whole = memory_store.read_json(path)
    for damaged in (
        [],
        {**whole, "studies": {"a": {"rounds": [[[2.0]]], "winner": None}}},  # beyond the range
        {**whole, "studies": {"a": {"rounds": [[[0.1, 0.2]]], "winner": None}}},
    ):
        memory_store.write_json(path, damaged)
        with pytest.raises(LedgerError, match="must hold candidates of its sweep"):
            status(memory_store)
    memory_store.delete(path)
    assert cells(memory_store)[0].num_rows == outcome.counts.ok == 2 * (2 + 1)
    assert run(sweep, memory_store, make_executor("inline")).counts == outcome.counts
    assert memory_store.read_json(path) == whole


def test_a_candidate_has_the_key_of_the_same_run_in_a_grid(make_sweep: Callable[..., Sweep]) -> None:
    runs = classifier().runs
    row = runs.row(3)
    plain = make_sweep(CLASSIFIER_SWEEP, {name: row[name] for name in ("n_train", "width", "seed", "lr")})
    assert runs.key(3) == plain.runs.key(0)


def test_finished_trials_are_not_imported_into_a_sweep_that_tunes(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("size,seed,lr,loss\n1,0,0.1,1.0\n")
    study = read_study("csv", [str(tmp_path / "runs.csv")])
    with pytest.raises(StudyError, match="must have every axis in its grid, but tunes lr, whose values it chooses"):
        of_sweep(study, Wanted(), function(), [])
