"""W&B's results: an export of runs (JSON, JSON lines, CSV), or run folders with `config.yaml` and `wandb-summary.json`.

The `.wandb` file of an offline run is a binary log of W&B's own and is not read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep.errors import StudyError, SweepError
from raysweep.imports.files import MOST_TRIALS, folders, json_lines, json_of, plural, read
from raysweep.imports.tables import read_tables, rows_of
from raysweep.imports.trial import State, Study, Trial, flat
from raysweep.yamlfile import parse_yaml

__all__ = ["read_wandb"]

_BOOKKEEPING = frozenset({"_step", "_runtime", "_timestamp", "_wandb", "Name", "ID", "State", "name", "id", "state"})
_ENDED: Mapping[str, State] = {"finished": "complete", "failed": "failed", "crashed": "failed", "killed": "failed"}
_CONFIG, _SUMMARY, _HISTORY = "config.yaml", "wandb-summary.json", "wandb-history.jsonl"
_LONGEST = 1 << 20  # characters of a mapping in a cell of a CSV file
_EXPORT = (
    "Export its runs as JSON, a list of {id, name, state, config, summary, history}, or as a CSV file: "
    "docs/importing.md has the lines for it"
)


def read_wandb(path: Path) -> Study:
    """The runs of an export's file, of a folder of runs, or of one run's folder.

    Raises:
        RaysweepError: the path is none of these, or damaged.
    """
    if path.is_dir():
        return _of_folders(path)
    if path.suffix in (".json", ".jsonl", ".ndjson"):
        return _study(path, list(_objects(path)))
    if path.suffix == ".wandb":
        raise StudyError(f"{path}: is W&B's own binary log and cannot be imported. {_EXPORT}")
    rows = rows_of([str(path)])
    if {"config", "summary"} <= set(rows[0]):
        rows = [{k: _mapping(v, path) if k in ("config", "summary") else v for k, v in row.items()} for row in rows]
        return _study(path, rows)
    read_as = read_tables([str(path)])  # W&B's page exports a flat table, which does not separate config from summary
    kept = [(t, _state(t.final)) for t in read_as.trials]
    trials = [
        Trial(str(t.final.get("ID", t.final.get("id", t.id))), {}, t.rows, t.final, s, _why(t.final, s))
        for t, s in kept
        if s is not None
    ]
    return Study(
        "wandb",
        read_as.name,
        tuple(trials),
        _notes(len(kept) - len(trials)),
        _BOOKKEEPING,
        "_runtime",
        "_timestamp",
        True,
    )


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix != ".json":
        yield from json_lines(path)
        return
    whole = json_of(read(path), str(path))
    for run in whole if isinstance(whole, list) else [whole]:
        if not isinstance(run, dict):
            raise StudyError(f"{path}: must hold a list of runs, objects, but holds {type(run).__name__}")
        yield run


def _study(path: Path, runs: Sequence[Mapping[str, Any]]) -> Study:
    if len(runs) > MOST_TRIALS:
        raise StudyError(f"{path}: at most {MOST_TRIALS:,} runs can be imported at once, but it has {len(runs):,}")
    trials, running = [], 0
    for number, run in enumerate(runs, 1):
        where = f"{path}: run {run.get('id') or run.get('name') or number}"
        state = _state(run)
        if state is None:
            running += 1
            continue
        config, summary = run.get("config"), run.get("summary", run.get("summary_metrics", {}))
        config = json_of(config, where) if isinstance(config, str) else config
        summary = json_of(summary, where) if isinstance(summary, str) else summary
        history = run.get("history") or []
        if not isinstance(config, Mapping) or not isinstance(summary, Mapping) or not isinstance(history, list):
            raise StudyError(
                f"{where}: must have a mapping `config`, a mapping `summary` and may have a list `history`, but has "
                f"{', '.join(map(str, run)) or 'nothing'}"[:500]
            )
        if not all(isinstance(row, Mapping) for row in history):
            raise StudyError(f"{where}: history must be a list of objects, one per logged step")
        id_ = str(run.get("id") or run.get("name") or number)
        trials.append(_trial(id_, config, summary, history, state, _why(run, state)))
    name = path.resolve().name.split(".")[0]
    return Study("wandb", name, tuple(trials), _notes(running), _BOOKKEEPING, "_runtime", "_timestamp")


def _of_folders(path: Path) -> Study:
    found = [path, *folders(path), *folders(path / "wandb")] if (path / "wandb").is_dir() else [path, *folders(path)]
    runs, binary = [], 0
    for folder in found:
        files = folder / "files" if (folder / "files").is_dir() and not (folder / "files").is_symlink() else folder
        if not (files / _CONFIG).is_file():
            binary += any(folder.glob("*.wandb"))
            continue
        try:
            config = parse_yaml(read(files / _CONFIG, 1 << 20), str(files / _CONFIG))
        except SweepError as error:
            raise StudyError(str(error)) from error
        summary = json_of(read(files / _SUMMARY), str(files / _SUMMARY)) if (files / _SUMMARY).is_file() else {}
        history = list(json_lines(files / _HISTORY)) if (files / _HISTORY).is_file() else []
        id_ = re.sub(r"^(offline-)?run-\d{8}_\d{6}-", "", folder.name)
        runs.append({"id": id_, "config": config or {}, "summary": summary, "history": history})
    if not runs:
        what = f"{plural(binary, 'offline run')} as binary logs only" if binary else "none"
        raise StudyError(f"{path}: must hold run folders with files/{_CONFIG}, but holds {what}. {_EXPORT}")
    study = _study(path, runs)
    if not binary:
        return study
    note = f"{plural(binary, 'run')} with a binary log only: left out. {_EXPORT}."
    return Study(study.tool, study.name, study.trials, (*study.notes, note), _BOOKKEEPING, study.clock, study.made)


def _trial(
    id_: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    state: State,
    reason: str,
) -> Trial:
    params = {k: _unwrapped(v) for k, v in config.items() if not str(k).startswith("_") and k != "wandb_version"}
    final = flat({k: v for k, v in summary.items() if k != "_wandb"})
    rows = tuple(flat(row) for row in history)
    made = [float(t) for row in (*rows, final) if isinstance(t := row.get("_timestamp"), int | float)]
    ran = final.get("_runtime", final.get("_wandb/runtime"))
    seconds = float(ran) if isinstance(ran, int | float) else None
    ended = max(made, default=None)
    began = min(made) if rows and made else None if ended is None or seconds is None else ended - seconds
    return Trial(id_, flat(params), rows, final, state, reason, began, ended, seconds)


def _unwrapped(value: Any) -> Any:
    """A value of `config.yaml`, which wraps each as `{value: ..., desc: ...}`."""
    wrapped = isinstance(value, Mapping) and "value" in value and set(value) <= {"value", "desc"}
    return value["value"] if wrapped else value


def _state(run: Mapping[str, Any]) -> State | None:
    """How a run ended; None where it has not."""
    state = str(run.get("state", run.get("State", "finished"))).lower()
    return _ENDED.get(state)


def _why(run: Mapping[str, Any], state: State | None) -> str:
    return "" if state == "complete" else f"it is {run.get('state', run.get('State'))} in W&B"


def _notes(running: int) -> tuple[str, ...]:
    return (f"{plural(running, 'run')} had not ended: left out.",) if running else ()


def _mapping(cell: Any, path: Path) -> Any:
    """A mapping in a cell of a CSV file, as JSON or as Python prints a dict of plain values."""
    if not isinstance(cell, str) or len(cell) > _LONGEST:
        return cell
    try:
        return json_of(cell, str(path))
    except StudyError:
        try:
            return ast.literal_eval(re.sub(r"(?<=[:,\[] )(nan|inf|-inf)\b", r"'\1'", cell))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise StudyError(
                f"{path}: a cell of config or summary must hold a mapping, but holds {cell[:80]!r}"
            ) from error
