"""Each reader on its tool's files: states, kinds of values, damage, and what comes from an attacker."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from studies import optuna_journal, optuna_sqlite, tune, wandb_folders, wandb_runs

from raysweep.errors import RaysweepError
from raysweep.imports import read_study
from raysweep.imports.trial import Study

TRIALS: list[dict[str, Any]] = [
    {"params": {"size": 10, "lr": 0.1, "opt": "adam"}, "value": 1.0, "steps": {1: 2.0, 2: 1.0}},
    {"params": {"size": 20, "lr": 0.2, "opt": None}, "value": 2.0, "state": "PRUNED", "steps": {1: 2.0}},
    {"params": {"size": 30, "lr": 0.3, "opt": "sgd"}, "state": "FAIL"},
    {"params": {}, "state": "RUNNING"},
]


@pytest.mark.parametrize("write", [optuna_sqlite, optuna_journal])
def test_optuna(write: Any, tmp_path: Path) -> None:
    before = (path := write(tmp_path / "o", TRIALS)).read_bytes()
    study = read_study("optuna", [str(path)])
    assert [t.state for t in study.trials] == ["complete", "pruned", "failed"]
    assert [dict(t.params) for t in study.trials] == [t["params"] for t in TRIALS[:3]]
    assert isinstance(study.trials[0].params["size"], int)
    assert study.trials[0].rows == ({"step": 1, "value": 2.0}, {"step": 2, "value": 1.0})
    assert study.trials[0].final == {"value": 1.0}
    assert [t.reason for t in study.trials[1:]] == ["it was pruned by Optuna after step 1", "it failed in Optuna"]
    assert [t.id for t in study.trials] == ["s/0", "s/1", "s/2"]
    assert study.trials[0].started is not None
    assert study.notes == ("1 trial had not ended: left out.",)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["o"]


def test_optuna_itself_writes_what_is_read_here(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")

    def objective(trial: Any) -> float:
        return 1.0 / float(trial.suggest_int("size", 1, 9))

    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'o.db'}", study_name="real")
    study.optimize(objective, n_trials=3)
    found = read_study("optuna", [str(tmp_path / "o.db")])
    assert [(t.params, t.final["value"]) for t in found.trials] == [(t.params, t.value) for t in study.trials]


def test_optuna_with_several_studies(tmp_path: Path) -> None:
    path = str(optuna_sqlite(tmp_path / "o.db", [{"params": {"x": 1}, "value": 1.0, "study": 2}], ["first", "second"]))
    with pytest.raises(RaysweepError, match=r"holds 2 \(first, second\); name one by --study"):
        read_study("optuna", [path])
    with pytest.raises(RaysweepError, match="Did you mean 'second'"):
        read_study("optuna", [path], "secnd")
    assert len(read_study("optuna", [path], "second").trials) == 1


def test_tune_reads_results_or_progress_and_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trials: list[dict[str, Any]] = [
        {"config": {"lr": 0.1, "model": {"width": 64}}, "results": [{"loss": 2.0}, {"loss": 1.0}]},
        {"config": {"lr": 0.2, "model": {"width": 64}}, "results": [{"loss": 3.0}], "csv": True},
        {"config": {"lr": 0.3, "model": {"width": 64}}, "results": [], "error": "ValueError: boom"},
    ]
    study = read_study("tune", [str(tune(tmp_path / "exp", trials))])
    assert [t.final.get("loss") for t in study.trials] == [1.0, 3.0, None]
    assert [dict(t.params) for t in study.trials] == [{"lr": lr, "model/width": 64} for lr in (0.1, 0.2, 0.3)]
    assert [t.id for t in study.trials] == ["b123c_00000", "b123c_00001", "b123c_00002"]
    assert study.trials[2].state == "failed"
    assert "ValueError: boom" in study.trials[2].reason
    assert not (tmp_path / "pwned").exists()


def test_a_torn_last_line_is_left_out_and_another_is_named(tmp_path: Path) -> None:
    folder = tune(tmp_path / "exp", [{"config": {"lr": 0.1}, "results": [{"loss": 2.0}, {"loss": 1.0}]}])
    (file,) = folder.glob("*/result.json")
    text = file.read_text()
    file.write_text(text[:-20])
    assert len(read_study("tune", [str(folder)]).trials[0].rows) == 1
    file.write_text("{broken\n" + text)
    with pytest.raises(RaysweepError, match="line 1: must be JSON"):
        read_study("tune", [str(folder)])


@pytest.mark.parametrize("cut", [2, 10, 100, 1000])
def test_what_is_left_of_a_torn_line_of_tune_is_no_result(tmp_path: Path, cut: int) -> None:
    """Half of a number is a number: a CSV file's last line counts only if it has an end."""
    for csv in (True, False):
        results = [{"loss": 2.0}, {"loss": 1.25}]
        folder = tune(tmp_path / f"{csv}", [{"config": {"lr": 0.1}, "results": results, "csv": csv}])
        (file,) = folder.glob("*/progress.csv" if csv else "*/result.json")
        file.write_text(file.read_text()[:-cut])
        (trial,) = read_study("tune", [str(folder)]).trials
        whole = max(0, file.read_text().count("\n") - csv)  # a header is no result
        assert [row["loss"] for row in trial.rows] == [2.0, 1.25][:whole]
        assert trial.final.get("loss") == (2.0 if whole else None)
        assert trial.state == ("complete" if whole else "failed")


def test_a_trial_whose_only_result_is_torn_is_read_from_the_other_file(tmp_path: Path) -> None:
    results = [{"loss": 2.0}]
    folder = tune(tmp_path / "exp", [{"config": {"lr": 0.1}, "results": results, "csv": True}])
    (table,) = folder.glob("*/progress.csv")
    (table.parent / "result.json").write_text('{"loss": 2.')
    (trial,) = read_study("tune", [str(folder)]).trials
    assert (trial.final["loss"], dict(trial.params)) == (2.0, {"lr": 0.1})


RUNS = [
    {
        "config": {"lr": 0.1, "model": {"width": 64}},
        "summary": {"loss": 1.0, "_runtime": 3.0, "_timestamp": 1795860957.5},
    },
    {"config": {"lr": 0.2, "model": {"width": 64}}, "summary": {"loss": 2.0}, "state": "crashed"},
    {"config": {"lr": 0.3, "model": {"width": 64}}, "summary": {"loss": 3.0}, "state": "running"},
]


def test_wandb_exports(tmp_path: Path) -> None:
    def check(study: Study) -> None:
        assert [(t.params["lr"], t.params["model/width"], t.final["loss"]) for t in study.trials] == [
            (0.1, 64, 1.0),
            (0.2, 64, 2.0),
        ]
        assert [t.state for t in study.trials] == ["complete", "failed"]
        assert study.trials[1].reason == "it is crashed in W&B"

    path = wandb_runs(tmp_path / "export.json", RUNS)
    check(read_study("wandb", [str(path)]))
    runs = json.loads(path.read_text())
    (tmp_path / "export.jsonl").write_text("\n".join(map(json.dumps, runs)))
    check(read_study("wandb", [str(tmp_path / "export.jsonl")]))
    # What the snippet of W&B's documentation writes: cells hold dicts as Python prints them.
    lines = [f'"{r["config"]}","{r["summary"]}",{r["name"]},{r["state"]}' for r in runs]
    (tmp_path / "project.csv").write_text("\n".join(["config,summary,name,state", *lines]))
    check(read_study("wandb", [str(tmp_path / "project.csv")]))
    # What its page exports: a flat table.
    flat = ["Name,State,ID,lr,loss", "a,finished,1,0.1,1.0", "b,crashed,2,0.2,2.0", "c,running,3,0.3,3.0"]
    (tmp_path / "page.csv").write_text("\n".join(flat))
    study = read_study("wandb", [str(tmp_path / "page.csv")])
    assert [(t.id, t.state) for t in study.trials] == [("1", "complete"), ("2", "failed")]


def test_wandb_folders_and_binary_logs(tmp_path: Path) -> None:
    folder = wandb_folders(tmp_path / "wandb", RUNS[:1])
    offline = folder / "offline-run-20261128_101549-abc"
    offline.mkdir()
    (offline / "run-abc.wandb").write_bytes(b":W&B")
    study = read_study("wandb", [str(tmp_path)])
    assert [t.id for t in study.trials] == ["3swc0l0"]
    assert study.trials[0].params == {"lr": 0.1, "model/width": 64}
    assert "1 run with a binary log only" in study.notes[0]
    for path in (offline / "run-abc.wandb", offline):
        with pytest.raises(RaysweepError, match="binary log"):
            read_study("wandb", [str(path)])


def test_what_is_no_study_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "array.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe\n")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    (tmp_path / "torn.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    (tmp_path / "entry.log").write_text('{"op_code": 0}\n')
    (tmp_path / "code.log").write_text('{"op_code": 4, "study_id": 0}\n{"op_code": 6, "trial_id": 0}\n')
    os.mkfifo(tmp_path / "pipe")
    cases = [
        (tool, name)
        for tool in ("tune", "wandb", "optuna", "csv")
        for name in [*sorted(p.name for p in tmp_path.iterdir()), "missing", "nul\0"]
    ]
    for tool, name in cases:
        with pytest.raises(RaysweepError):
            read_study(tool, [str(tmp_path / name)])


def test_links_are_not_followed(tmp_path: Path) -> None:
    inside = tune(tmp_path / "exp", [{"config": {"lr": 0.1}, "results": [{"loss": 1.0}]}])
    outside = tune(tmp_path / "elsewhere", [{"config": {"lr": 9.0}, "results": [{"loss": 1.0}]}])
    (inside / "linked").symlink_to(next(outside.glob("train_*")))
    assert [t.params["lr"] for t in read_study("tune", [str(inside)]).trials] == [0.1]
    (file,) = inside.glob("train_*/params.json")
    file.unlink()
    file.symlink_to(next(outside.glob("train_*/params.json")))
    with pytest.raises(RaysweepError, match="links are not followed"):
        read_study("tune", [str(inside)])


def test_a_database_that_keeps_its_reader_busy_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.imports.optuna._MOST_STEPS", 2)
    path = optuna_sqlite(tmp_path / "o.db", [])
    base = sqlite3.connect(path)
    base.executescript(
        "DROP TABLE trial_params; CREATE TABLE hold (x); ALTER TABLE trials ADD COLUMN y AS (1);"
        "CREATE TABLE trial_params (trial_id, param_name, param_value, distribution_json, param_id);"
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300000) "
        "INSERT INTO trials (number, study_id, state) SELECT i, 1, 'COMPLETE' FROM c;"
    )
    base.close()
    with pytest.raises(RaysweepError, match="interrupted"):
        read_study("optuna", [str(path)])
