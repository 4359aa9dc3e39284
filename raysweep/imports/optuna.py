"""Optuna's storages: an SQLite file, opened for reading only, and a journal file. Optuna itself is not needed."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from raysweep.errors import StudyError, nearest
from raysweep.imports.files import MOST_TRIALS, json_lines, json_of, plural
from raysweep.imports.trial import State, Study, Trial, flat

__all__ = ["read_optuna"]

_STATES: tuple[str, ...] = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")  # by the numbers of a journal
_ENDED: Mapping[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
_METRICS = "study:metric_names"
_HEADER = b"SQLite format 3\0"
_MOST_VALUES = 20_000_000
_MOST_STEPS = 50_000  # millions of steps of SQLite's machine: a crafted file must not keep it busy for ever
_LONGEST = 1 << 24  # bytes of a text in a database
_TABLES = ("studies", "trials", "trial_params", "trial_values", "trial_intermediate_values")


@dataclass
class _Kept:
    """A trial as a storage holds it."""

    number: int
    state: str = "RUNNING"
    params: dict[str, Any] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    steps: dict[int, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    finished: float | None = None


def read_optuna(path: Path, study: str | None = None) -> Study:
    """The trials of a study.

    Args:
        study: Its name; not needed where the storage holds one.

    Raises:
        StudyError: the file is no storage of Optuna, is damaged, or holds no such study.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StudyError(f"{path}: must be the file of an Optuna storage, but is no regular file")
        with path.open("rb") as stream:
            head = stream.read(len(_HEADER))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from error
    name, trials, metrics = _of_sqlite(path, study) if head == _HEADER else _of_journal(path.resolve(), study)
    ended = [_trial(name, trial, metrics) for trial in trials if trial.state in _ENDED]
    left = len(trials) - len(ended)
    notes = (f"{plural(left, 'trial')} had not ended: left out.",) if left else ()
    return Study("optuna", name, tuple(ended), notes)


def _trial(study: str, kept: _Kept, metrics: list[str]) -> Trial:
    """Steps are the rows of the first objective; the final row has all of them, and the user's attributes."""
    names = metrics or (["value"] if len(kept.values) < 2 else [])
    values = {names[i] if i < len(names) else f"values_{i}": v for i, v in sorted(kept.values.items())}
    first = names[0] if names else "values_0"
    rows = tuple({"step": step, first: value} for step, value in sorted(kept.steps.items()))
    state = _ENDED[kept.state]
    last = f" after step {max(kept.steps)}" if kept.steps else ""
    reason = {"complete": "", "pruned": f"it was pruned by Optuna{last}", "failed": f"it failed in Optuna{last}"}[state]
    seconds = None if kept.started is None or kept.finished is None else kept.finished - kept.started
    final = {**flat(kept.attributes), **values}
    return Trial(
        f"{study}/{kept.number}", kept.params, rows, final, state, reason, kept.started, kept.finished, seconds
    )


def _chosen(names: list[str], study: str | None, path: Path) -> str:
    if study is None and len(names) == 1:
        return names[0]
    if study is None:
        held = f"{len(names)} ({', '.join(names[:20])})" if names else "none"
        raise StudyError(f"{path}: must hold one study, but holds {held}; name one by --study")
    if study not in names:
        raise StudyError(f"{path}: --study must be one that it holds, but got {study!r}. {nearest(study, names)}")
    return study


def _external(value: Any, distribution: str, where: str) -> Any:
    """A parameter's value from the number that Optuna stores."""
    described = json_of(distribution, where)
    try:
        attributes, kind = described["attributes"], str(described["name"])
        if kind == "CategoricalDistribution":
            return attributes["choices"][int(value)]
        return int(value) if kind.startswith("Int") else float(value)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise StudyError(
            f"{where}: must hold a distribution of Optuna and a value of it, but holds {value!r}"
        ) from error


# --- journals ---------------------------------------------------------------------------------------------


def _of_journal(path: Path, study: str | None) -> tuple[str, list[_Kept], list[str]]:
    """Replay the log as Optuna does: changes to a finished trial do not count."""
    names: dict[int, str] = {}
    deleted: set[int] = set()
    metrics: dict[int, list[str]] = {}
    trials: list[tuple[int, _Kept]] = []
    counted: dict[int, int] = {}
    for line, entry in enumerate(json_lines(path), 1):
        where = f"{path}: entry {line}"
        try:
            code, of = int(entry["op_code"]), int(entry.get("study_id", -1))
            if code == 0:
                if entry["study_name"] not in [n for i, n in names.items() if i not in deleted]:
                    names[len(names)] = str(entry["study_name"])
            elif code == 1:
                deleted.add(of)
            elif code == 3 and _METRICS in entry["system_attr"]:
                metrics[of] = [str(name) for name in entry["system_attr"][_METRICS]]
            elif code == 4 and of in names and of not in deleted:
                number = counted[of] = counted.get(of, -1) + 1
                trials.append((of, _created(entry, number, where)))
            elif code in (5, 6, 7, 8) and 0 <= int(entry["trial_id"]) < len(trials):
                trial = trials[int(entry["trial_id"])][1]
                if trial.state not in _ENDED:
                    _apply(trial, code, entry, where)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise StudyError(f"{where}: must be an entry of an Optuna journal, but is not ({error!r})"[:500]) from error
        if len(trials) > MOST_TRIALS:
            raise StudyError(f"{path}: at most {MOST_TRIALS:,} trials can be imported at once, but it has more")
    there = {i: n for i, n in names.items() if i not in deleted}
    if not names:
        raise StudyError(f"{path}: must be an SQLite file or a journal of Optuna, but creates no study")
    name = _chosen(list(there.values()), study, path)
    of = next(i for i, n in there.items() if n == name)
    return name, [trial for i, trial in trials if i == of], metrics.get(of, [])


def _created(entry: Mapping[str, Any], number: int, where: str) -> _Kept:
    trial = _Kept(number, _STATES[int(entry.get("state") or 0)])
    trial.started, trial.finished = _time(entry.get("datetime_start")), _time(entry.get("datetime_complete"))
    for name, value in (entry.get("params") or {}).items():
        trial.params[name] = _external(value, entry["distributions"][name], where)
    values = entry.get("values") or ([entry["value"]] if entry.get("value") is not None else [])
    trial.values = {i: float(v) for i, v in enumerate(values)}
    trial.steps = {int(k): float(v) for k, v in (entry.get("intermediate_values") or {}).items()}
    trial.attributes = dict(entry.get("user_attrs") or {})
    return trial


def _apply(trial: _Kept, code: int, entry: Mapping[str, Any], where: str) -> None:
    if code == 5:
        trial.params[str(entry["param_name"])] = _external(entry["param_value_internal"], entry["distribution"], where)
    elif code == 6:
        trial.state = _STATES[int(entry["state"])]
        trial.started = _time(entry.get("datetime_start")) or trial.started
        trial.finished = _time(entry.get("datetime_complete")) or trial.finished
        if entry.get("values") is not None:
            trial.values = {i: float(v) for i, v in enumerate(entry["values"])}
    elif code == 7:
        trial.steps[int(entry["step"])] = float(entry["intermediate_value"])
    else:
        trial.attributes |= entry["user_attr"]


def _time(text: str | None, zone: str = "") -> float | None:
    """Seconds since 1970 of an ISO time; a time without a zone is in this machine's."""
    return None if text is None else datetime.fromisoformat(f"{text}{zone}").timestamp()


# --- SQLite -----------------------------------------------------------------------------------------------


def _of_sqlite(path: Path, study: str | None) -> tuple[str, list[_Kept], list[str]]:
    with _database(path) as ask:
        tables = {name for (name,) in ask("SELECT name FROM sqlite_master WHERE type = 'table'")}
        lacks = [name for name in _TABLES if name not in tables]
        if lacks:
            raise StudyError(f"{path}: must be an Optuna storage, but has no table {', '.join(lacks)}")
        names = {str(name): id_ for id_, name in ask("SELECT study_id, study_name FROM studies")}
        name = _chosen(list(names), study, path)
        of = names[name]
        zone = _zone(ask) if "version_info" in tables else ""
        trials = {
            id_: _Kept(int(number), str(state), started=_time(start, zone), finished=_time(end, zone))
            for id_, number, state, start, end in ask(
                "SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials WHERE study_id = ? "
                "ORDER BY number",
                of,
            )
        }
        chosen = "WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = ?)"
        for id_, key, value, distribution in ask(
            f"SELECT trial_id, param_name, param_value, distribution_json FROM trial_params {chosen} ORDER BY param_id",
            of,
        ):
            trials[id_].params[str(key)] = _external(value, distribution, f"{path}: trial {trials[id_].number}, {key}")
        for id_, i, value, kind in ask(f"SELECT trial_id, objective, value, value_type FROM trial_values {chosen}", of):
            trials[id_].values[int(i)] = _number(value, kind)
        for id_, step, value, kind in ask(
            "SELECT trial_id, step, intermediate_value, intermediate_value_type FROM trial_intermediate_values "
            f"{chosen}",
            of,
        ):
            trials[id_].steps[int(step)] = _number(value, kind)
        if "trial_user_attributes" in tables:
            for id_, key, text in ask(f"SELECT trial_id, key, value_json FROM trial_user_attributes {chosen}", of):
                trials[id_].attributes[str(key)] = json_of(text, f"{path}: attribute {key}")
        metrics: list[str] = []
        if "study_system_attributes" in tables:
            found = list(ask("SELECT key, value_json FROM study_system_attributes WHERE study_id = ?", of))
            metrics = [str(n) for key, text in found if key == _METRICS for n in json_of(text, str(path))]
        return name, list(trials.values()), metrics


def _zone(ask: Callable[..., Iterator[tuple[Any, ...]]]) -> str:
    """The missing zone of stored times: Optuna's databases use UTC since version 5, and used local time before."""
    versions = [str(version).split(".")[0] for (version,) in ask("SELECT library_version FROM version_info")]
    return "+00:00" if any(v.isdecimal() and int(v) >= 5 for v in versions) else ""


@contextlib.contextmanager
def _database(path: Path) -> Iterator[Callable[..., Iterator[tuple[Any, ...]]]]:
    """A query function for a database that may come from anybody: it cannot write, run extensions, or run for ever."""
    steps = 0

    def busy() -> bool:
        nonlocal steps
        steps += 1
        return steps > _MOST_STEPS

    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as opened:
            opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
            opened.execute("PRAGMA query_only = ON")
            opened.execute("PRAGMA trusted_schema = OFF")
            opened.set_progress_handler(busy, 1_000_000)

            def ask(query: str, *given: Any) -> Iterator[tuple[Any, ...]]:
                for count, row in enumerate(opened.execute(query, given)):
                    if count > _MOST_VALUES:
                        raise StudyError(f"{path}: at most {_MOST_VALUES:,} values can be imported, but it has more")
                    yield row

            yield ask
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{path}: must be a sound Optuna storage, but cannot be read: {error!r}"[:500]) from error


def _number(value: Any, kind: str) -> float:
    """A stored value; infinities and NaN are stored as words."""
    special = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
    return special[kind] if kind in special else float(value)
