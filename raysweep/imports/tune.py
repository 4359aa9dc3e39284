"""A Ray Tune experiment's folder: `params.json` and `result.json` (or `progress.csv`) of each trial.

Tune's pickles (`tuner.pkl`, `params.pkl`, `error.pkl`) are not opened.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysweep.errors import StudyError, tail
from raysweep.imports.files import MOST_TRIALS, folders, json_lines, json_of, plural, read, whole_lines
from raysweep.imports.trial import State, Study, Trial, flat

__all__ = ["read_tune"]

_RESULT, _PARAMS, _PROGRESS, _ERROR = "result.json", "params.json", "progress.csv", "error.txt"
_BOOKKEEPING = frozenset((  # what Tune adds to each result
    "timestamp", "checkpoint_dir_name", "done", "training_iteration", "trial_id", "date", "time_this_iter_s",
    "time_total_s", "pid", "hostname", "node_ip", "time_since_restore", "iterations_since_restore", "timesteps_total",
    "timesteps_since_restore", "episodes_total", "experiment_tag", "experiment_id", "should_checkpoint", "trial_name",
))  # fmt: skip
_ID = re.compile(r"_([0-9a-f]{5,8}_[0-9]{5})(?:_|$)")  # a trial's id in its folder's name
_MOST_ROWS = 5_000_000
_UNFINISHED = ("RUNNING", "PENDING", "PAUSED")


def read_tune(path: Path) -> Study:
    """The trials of an experiment.

    Raises:
        StudyError: the path is no experiment's folder, or a file in it is damaged.
    """
    if not path.is_dir():
        raise StudyError(f"{path}: must be the folder of a Ray Tune experiment, with one folder per trial, but is none")
    found = [path, *folders(path)]
    found = [folder for folder in found if any((folder / name).is_file() for name in (_RESULT, _PROGRESS, _PARAMS))]
    if not found:
        raise StudyError(
            f"{path}: must hold folders of trials with {_RESULT} or {_PROGRESS}, but holds none. Name the folder of "
            "one experiment, not the storage path that holds several"
        )
    if len(found) > MOST_TRIALS:
        raise StudyError(f"{path}: at most {MOST_TRIALS:,} trials can be imported at once, but it has {len(found):,}")
    states = _states(path)
    trials, running, rows = [], 0, 0
    for folder in found:
        trial = _trial(folder, states)
        if trial is None:
            running += 1
        else:
            trials.append(trial)
            rows += len(trial.rows)
        if rows > _MOST_ROWS:
            raise StudyError(f"{path}: at most {_MOST_ROWS:,} results can be imported at once, but it has more")
    notes = (f"{plural(running, 'trial')} had not ended: left out.",) if running else ()
    return Study("tune", path.resolve().name, tuple(trials), notes, _BOOKKEEPING, "time_total_s", "timestamp")


def _states(path: Path) -> dict[str, str]:
    """Trial -> state, according to the newest `experiment_state-*.json`; empty where there is none."""
    files = sorted(p for p in path.glob("experiment_state-*.json") if p.is_file() and not p.is_symlink())
    if not files:
        return {}
    whole = json_of(read(files[-1]), str(files[-1]))
    states: dict[str, str] = {}
    for pair in whole.get("trial_data", ()) if isinstance(whole, dict) else ():
        trial = (
            json_of(pair[0], str(files[-1])) if isinstance(pair, list) and pair and isinstance(pair[0], str) else None
        )
        if isinstance(trial, dict):
            states[str(trial.get("trial_id"))] = str(trial.get("status"))
    return states


def _trial(folder: Path, states: Mapping[str, str]) -> Trial | None:
    """One trial; None where it has not ended."""
    rows = list(json_lines(folder / _RESULT)) if (folder / _RESULT).is_file() else []
    rows = rows or (_progress(folder / _PROGRESS) if (folder / _PROGRESS).is_file() else [])
    last = rows[-1] if rows else {}
    params: Any = last.get("config", {})
    if (folder / _PARAMS).is_file():
        params = json_of(read(folder / _PARAMS), str(folder / _PARAMS))
    if not isinstance(params, Mapping):
        raise StudyError(f"{folder / _PARAMS}: must hold a JSON object, but holds {type(params).__name__}")
    if not params:  # progress.csv has them as `config/lr`
        params = {k.removeprefix("config/"): v for k, v in last.items() if k.startswith("config/")}
    found = _ID.search(folder.name)
    name = str(last.get("trial_id") or (found[1] if found else folder.name))
    state: State = "complete"
    reason = ""
    status = states.get(name, "")
    if (folder / _ERROR).is_file() or status == "ERROR":
        state, reason = "failed", "it failed in Ray Tune"
        if (folder / _ERROR).is_file():
            reason = tail(read(folder / _ERROR)) or reason
    elif status in _UNFINISHED:
        return None
    elif not rows:
        state, reason = "failed", "it gave no result in Ray Tune"
    kept = tuple(flat({k: v for k, v in row.items() if k != "config" and not k.startswith("config/")}) for row in rows)
    final = kept[-1] if kept else {}
    times = [float(t) for row in rows if isinstance(t := row.get("timestamp"), int | float)]
    taken = last.get("time_total_s")
    seconds = float(taken) if isinstance(taken, int | float) else None
    began = times[0] if times else None
    return Trial(name, flat(params), kept, final, state, reason, began, times[-1] if times else None, seconds)


def _progress(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, with numbers parsed. An unterminated last line is left out: half of a number is also a
    number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(whole_lines(read(path)))))
    except csv.Error as error:
        raise StudyError(f"{path}: must be CSV, but is not: {error}") from error
    return [{k: _number(v) for k, v in row.items() if isinstance(k, str) and v not in ("", None)} for row in rows]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
