"""Files of other tools, written by hand in the forms that they have: Ray Tune 2.60, W&B 0.31, Optuna 5.0."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOSS = 0.5  # exponent of every made-up loss here


def loss(size: float) -> float:
    return float(size**-LOSS)


def tune(folder: Path, trials: Sequence[Mapping[str, Any]]) -> Path:
    """An experiment's folder; a trial is {config, results, error?, status?, csv?}."""
    states = []
    for i, trial in enumerate(trials):
        id_ = f"b123c_{i:05d}"
        place = folder / f"train_{id_}_{i}_2026-11-28_10-15-54"
        place.mkdir(parents=True)
        (place / "params.json").write_text(json.dumps(trial["config"], indent=2))
        (place / "params.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        rows = [
            {
                **row, "timestamp": 1795860957 + step, "checkpoint_dir_name": None, "done": False,
                "training_iteration": step, "trial_id": id_, "date": "2026-11-28_10-15-57",
                "time_this_iter_s": 0.5, "time_total_s": 0.5 * step, "pid": 9919, "hostname": "vm",
                "node_ip": "192.0.2.2", "config": trial["config"], "time_since_restore": 0.5 * step,
                "iterations_since_restore": step,
            }
            for step, row in enumerate(trial["results"], 1)
        ]  # fmt: skip
        if trial.get("csv"):
            names = [n for n in rows[0] if n != "config"]
            lines = [",".join(names), *(",".join("" if r[n] is None else str(r[n]) for n in names) for r in rows)]
            (place / "progress.csv").write_text("\n".join(lines) + "\n")
        else:
            (place / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if "error" in trial:
            (place / "error.txt").write_text(f"Failure # 1\nTraceback (most recent call last):\n{trial['error']}\n")
        status = "ERROR" if "error" in trial else trial.get("status", "TERMINATED")
        states.append([json.dumps({"trial_id": id_, "status": status, "results": "80054e2e"}), "{}"])
    (folder / "experiment_state-2026-11-28_10-15-54.json").write_text(json.dumps({"trial_data": states}))
    return folder


def wandb_runs(path: Path, runs: Sequence[Mapping[str, Any]]) -> Path:
    """An export as docs/importing.md makes it."""
    made = [
        {"id": f"3swc0l{i}", "name": f"run-{i}", "state": "finished", **run, "config": {**run["config"], "_wandb": {}}}
        for i, run in enumerate(runs)
    ]
    path.write_text(json.dumps(made))
    return path


def wandb_folders(folder: Path, runs: Sequence[Mapping[str, Any]]) -> Path:
    """Run folders as an online run leaves them."""
    for i, run in enumerate(runs):
        files = folder / f"run-20261128_10154{i}-3swc0l{i}" / "files"
        files.mkdir(parents=True)
        lines = [
            "_wandb:",
            "    value:",
            "        cli_version: 0.31.0",
            "        t:",
            '            "3":',
            "                - 13",
        ]
        for name, value in run["config"].items():
            lines += [f"{name}:", f"    value: {json.dumps(value)}"]
        (files / "config.yaml").write_text("\n".join(lines) + "\n")
        (files / "wandb-summary.json").write_text(json.dumps({**run["summary"], "_wandb": {"runtime": 3}}))
    return folder


FLOAT = {"name": "FloatDistribution", "attributes": {"step": None, "low": 0.001, "high": 1.0, "log": True}}
INT = {"name": "IntDistribution", "attributes": {"log": True, "step": 1, "low": 1, "high": 100000}}


def words(*choices: Any) -> dict[str, Any]:
    return {"name": "CategoricalDistribution", "attributes": {"choices": list(choices)}}


def internal(value: Any) -> tuple[float, dict[str, Any]]:
    """A value as Optuna stores it: a number, and what it is of."""
    if isinstance(value, str) or value is None:
        return 1.0, words("other", value)
    return float(value), INT if isinstance(value, int) else FLOAT


_SCHEMA = """
CREATE TABLE studies (study_id INTEGER NOT NULL, study_name VARCHAR(512) NOT NULL, PRIMARY KEY (study_id));
CREATE TABLE version_info (version_info_id INTEGER NOT NULL, schema_version INTEGER, library_version VARCHAR(256));
CREATE TABLE study_system_attributes (study_system_attribute_id INTEGER NOT NULL, study_id INTEGER, "key" VARCHAR(512),
    value_json TEXT, PRIMARY KEY (study_system_attribute_id));
CREATE TABLE trials (trial_id INTEGER NOT NULL, number INTEGER, study_id INTEGER, state VARCHAR(8) NOT NULL,
    datetime_start DATETIME, datetime_complete DATETIME, PRIMARY KEY (trial_id));
CREATE TABLE trial_user_attributes (trial_user_attribute_id INTEGER NOT NULL, trial_id INTEGER, "key" VARCHAR(512),
    value_json TEXT, PRIMARY KEY (trial_user_attribute_id));
CREATE TABLE trial_params (param_id INTEGER NOT NULL, trial_id INTEGER, param_name VARCHAR(512), param_value FLOAT,
    distribution_json TEXT, PRIMARY KEY (param_id));
CREATE TABLE trial_values (trial_value_id INTEGER NOT NULL, trial_id INTEGER NOT NULL, objective INTEGER NOT NULL,
    value FLOAT, value_type VARCHAR(7) NOT NULL, PRIMARY KEY (trial_value_id));
CREATE TABLE trial_intermediate_values (trial_intermediate_value_id INTEGER NOT NULL, trial_id INTEGER NOT NULL,
    step INTEGER NOT NULL, intermediate_value FLOAT, intermediate_value_type VARCHAR(7) NOT NULL,
    PRIMARY KEY (trial_intermediate_value_id));
"""


def optuna_sqlite(path: Path, trials: Sequence[Mapping[str, Any]], studies: Sequence[str] = ("s",)) -> Path:
    """A database; a trial is {params, value?, steps?, state?, study?, attributes?}."""
    base = sqlite3.connect(path)
    base.executescript(_SCHEMA)
    base.execute("INSERT INTO version_info VALUES (1, 12, '5.0.0')")
    base.executemany("INSERT INTO studies VALUES (?, ?)", list(enumerate(studies, 1)))
    numbers = dict.fromkeys(range(1, len(studies) + 1), -1)
    for id_, trial in enumerate(trials, 1):
        of = int(trial.get("study", 1))
        numbers[of] += 1
        times = (f"2026-11-28 10:15:{id_:02d}.253524", f"2026-11-28 10:15:{id_ + 1:02d}.253524")
        base.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?)",
                     (id_, numbers[of], of, trial.get("state", "COMPLETE"), *times))  # fmt: skip
        for name, value in trial["params"].items():
            number, kind = internal(value)
            base.execute("INSERT INTO trial_params VALUES (NULL, ?, ?, ?, ?)", (id_, name, number, json.dumps(kind)))
        if "value" in trial:
            base.execute("INSERT INTO trial_values VALUES (NULL, ?, 0, ?, 'FINITE')", (id_, trial["value"]))
        for step, value in trial.get("steps", {}).items():
            kind_of = "NAN" if value is None else "FINITE"
            base.execute("INSERT INTO trial_intermediate_values VALUES (NULL, ?, ?, ?, ?)", (id_, step, value, kind_of))
    base.commit()
    base.close()
    return path


def optuna_journal(path: Path, trials: Sequence[Mapping[str, Any]], metric: str = "") -> Path:
    """A journal's log, an operation a line."""
    lines: list[dict[str, Any]] = [{"op_code": 0, "study_name": "s", "directions": [1]}]
    if metric:
        lines.append({"op_code": 3, "study_id": 0, "system_attr": {"study:metric_names": [metric]}})
    for id_, trial in enumerate(trials):
        lines.append({"op_code": 4, "study_id": 0, "datetime_start": f"2026-11-28T10:15:{id_:02d}.253524+00:00"})
        for name, value in trial["params"].items():
            number, kind = internal(value)
            told = {"param_name": name, "param_value_internal": number, "distribution": json.dumps(kind)}
            lines.append({"op_code": 5, "trial_id": id_, **told})
        for step, value in trial.get("steps", {}).items():
            lines.append({"op_code": 7, "trial_id": id_, "step": step, "intermediate_value": value})
        state = ["RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING"].index(trial.get("state", "COMPLETE"))
        if state:
            ended = {"state": state, "values": [trial["value"]] if "value" in trial else None}
            lines.append({"op_code": 6, "trial_id": id_, **ended, "datetime_complete": "2026-11-28T10:16:00+00:00"})
    path.write_text("".join(json.dumps({"worker_id": "058a-1", **line}) + "\n" for line in lines))
    return path
