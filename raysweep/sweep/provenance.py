"""What a store records about the code that filled it: hashes, what they were made of, axes and their defaults.

A change of code without a new version is reported, with what changed; rows of both codes are kept, and fits keep
them apart until the user accepts them as equal. A change that would silently give a cell another meaning (a default, a
new axis of a plain function) is a question, and nothing is run until it is answered.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from raysweep.code import changes
from raysweep.errors import SweepError
from raysweep.experiments import BUILT_IN
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.values import Json, as_whole
from raysweep.store import Store
from raysweep.sweep import Sweep

__all__ = ["accepted_codes", "ask", "equal_codes", "joined", "last_code", "parts_of", "remember"]

_FILE = "code.json"
_MOST = 200  # codes that are remembered


def _key(name: str, version: int) -> str:
    return f"{name}@{version}"


def _read(store: Store) -> dict[str, Any]:
    found = store.read_json(_FILE) if store.exists(_FILE) else {}
    return found if isinstance(found, dict) else {}


def _entry(known: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = known.get(key)
    found = found if isinstance(found, dict) else {}
    parts = {name: found.get(name) for name in ("codes", "defaults")}
    accepted, axes = found.get("accepted"), found.get("axes")
    return {
        **{name: dict(part) if isinstance(part, dict) else {} for name, part in parts.items()},
        "last": str(found.get("last", "")),
        "before": str(found.get("before", "")),
        "accepted": [sorted(map(str, group)) for group in accepted if isinstance(group, list)]
        if isinstance(accepted, list)
        else [],
        "axes": [str(axis) for axis in axes] if isinstance(axes, list) else [],
    }


def ask(store: Store, sweep: Sweep) -> None:
    """Refuse a sweep whose cells would be mistaken for others that the store holds.

    Raises:
        SweepError: an axis or an argument has another default than the store's rows were made with, or an axis is new
            to a plain function.
    """
    name = _key(sweep.experiment.name, sweep.experiment.version)
    known = _read(store)
    if name not in known:
        return
    entry = _entry(known, name)
    defaults = _defaults(sweep)
    version = sweep.experiment.version
    for axis, before in entry["defaults"].items():
        if axis in defaults and defaults[axis] != before:
            what = "axis" if axis in sweep.axes else "argument"
            raise SweepError(
                f"{sweep.path}: {what} {axis}: its default was {_shown(before)} when the store {store.uri} was "
                f"written, but is now {_shown(defaults[axis])}: cells that do not name it would count as done. "
                f"Give version {version + 1} and all cells are new; or put the old default back and name {axis} in the "
                "grid"
            )
    if not isinstance(sweep.experiment, FunctionExperiment):
        return
    own = {name: axis for name, axis in sweep.axes.items() if axis.kind != "observed"}
    new = [a for a in own if a not in entry["axes"] and own[a].default is None]
    runs = sweep.runs
    new = [a for a in new if a not in runs.values or None not in runs.values[a]]
    if new and entry["axes"]:
        gone = [a for a in entry["axes"] if a not in sweep.axes]
        misspelt = f" Is it a misspelling of {' or '.join(gone)}?" if gone else ""
        example = ", ".join(f"{axis}: ..." for axis in new)
        raise SweepError(
            f"{sweep.path}: axis {', '.join(new)} is new to the store {store.uri}, whose finished cells do not have it."
            f"{misspelt} State what value they had by a default, `defaults: {{{example}}}`, and they are kept; or give "
            f"`version: {version + 1}` and all cells are new"
        )


def remember(store: Store, sweep: Sweep, accept: bool = False, renamed: str = "") -> list[str]:
    """Record the sweep's code in its store; returns what the user should know about it, in one sentence each.

    Args:
        accept: The code as it was gives the same results as the code as it is now.
        renamed: The name that the function had: the code that was last seen under it gives the same results, too.
    """
    code, name = sweep.code, _key(sweep.experiment.name, sweep.experiment.version)
    known = _read(store)
    entry, said = _entry(known, name), []
    is_new = code.sha not in entry["codes"]
    if code.sha and is_new and entry["codes"]:
        last = entry["codes"].get(entry["last"])
        differ = changes(last if isinstance(last, dict) else {}, code.parts)
        what = "; ".join(differ[:5]) + (f"; and {len(differ) - 5} more" if len(differ) > 5 else "")
        if not accept and sweep.file.experiment not in BUILT_IN:
            said.append(
                f"warning: the code of {sweep.experiment.name} changed since this store was written ({what}). Finished "
                "cells are kept, and fits keep the rows of each code apart; a run that lacks some cells is trained "
                "again by the new code. If results are unchanged, pass --accept-code; otherwise set "
                f"`version: {sweep.experiment.version + 1}` to rerun everything"
            )
    # Whether the store was filled by a raysweep that did not record the code of each row.
    if not entry["codes"] and not store.exists(_FILE) and store.list("ledger"):
        said += _of_old_store(store, sweep, entry, accept)
    if sweep.file.experiment in BUILT_IN:  # its version says when its results change
        entry["accepted"] = joined(entry["accepted"], {*entry["codes"], code.sha, "none"})
    elif accept:  # the code last seen, or rows without a code; not every code there ever was
        before = _before(entry, code.sha)
        entry["accepted"] = joined(entry["accepted"], {before, code.sha})
        said.append(f"rows of the code as it was ({before[:8]}) and as it is now ({code.sha[:8]}) count as one")
    if renamed:
        theirs = _entry(known, _key(renamed, sweep.experiment.version))["last"] or "none"
        entry["accepted"] = joined(entry["accepted"], {theirs, code.sha})
    if code.sha:
        if code.sha != entry["last"]:
            entry["before"] = entry["last"]
        entry["codes"][code.sha], entry["last"] = dict(code.parts), code.sha
        while len(entry["codes"]) > _MOST:
            entry["codes"].pop(next(iter(entry["codes"])))
    axes = [n for n, a in sweep.axes.items() if a.kind != "observed"]
    entry["axes"] = list(dict.fromkeys([*entry["axes"], *axes]))
    entry["defaults"] = {**entry["defaults"], **_defaults(sweep)}
    if known.get(name) != entry:
        store.write_json(_FILE, {**known, name: entry})
    return said


def _of_old_store(store: Store, sweep: Sweep, entry: dict[str, Any], accept: bool) -> list[str]:
    """Old rows do not record their code; the store has a hash of the text of the function's module."""
    environment = store.read_json("env.json") if store.exists("env.json") else {}
    source = environment.get("source") if isinstance(environment, dict) else None
    before = source.get(_key(sweep.experiment.name, sweep.experiment.version)) if isinstance(source, dict) else None
    if before is None or before == _text_sha(sweep):
        entry["accepted"] = joined(entry["accepted"], {sweep.code.sha, "none"})
        return []
    if accept:
        return []
    return [
        f"warning: the source of {sweep.experiment.name} changed since this store was written. Finished cells are "
        "kept, and fits keep the rows of each code apart. If results are unchanged, pass --accept-code; otherwise "
        "set a new version"
    ]


def _text_sha(sweep: Sweep) -> str:
    code = sweep.experiment.code if isinstance(sweep.experiment, FunctionExperiment) else None
    try:
        text = inspect.getsource(inspect.getmodule(code) or code)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def joined(groups: Sequence[Collection[str]], more: Collection[str]) -> list[list[str]]:
    """Groups of equal codes with one added; groups that share a code are merged."""
    whole, apart = {sha for sha in more if sha}, []
    for group in map(set, groups):
        if group & whole:
            whole |= group
        else:
            apart.append(sorted(group))
    return [*apart, sorted(whole)] if len(whole) > 1 else apart


def accepted_codes(store: Store) -> list[list[str]]:
    """Groups of hashes of code that the user declared to give equal results; `none` stands for rows without one."""
    groups: list[list[str]] = []
    for key, entry in _read(store).items():
        for group in _entry({key: entry}, key)["accepted"]:
            groups = joined(groups, group)
    return groups


def equal_codes(store: Store, sha: str) -> frozenset[str]:
    """The hashes of code that were declared equal to this one, and itself."""
    return frozenset({sha}.union(*(group for group in accepted_codes(store) if sha in group)))


def last_code(store: Store, sweep: Sweep) -> str:
    """The code whose rows `remember(..., accept=True)` would declare equal to those of the code as it is now."""
    name = _key(sweep.experiment.name, sweep.experiment.version)
    return _before(_entry(_read(store), name), sweep.code.sha)


def _before(entry: Mapping[str, Any], sha: str) -> str:
    return str((entry["last"] if sha != entry["last"] else entry["before"]) or "none")


def parts_of(store: Store, sweep: Sweep, sha: str) -> dict[str, str]:
    """What a code of the sweep's experiment was made of, as `Code.parts`; empty where it is not remembered."""
    name = _key(sweep.experiment.name, sweep.experiment.version)
    found = _entry(_read(store), name)["codes"].get(sha)
    return dict(found) if isinstance(found, dict) else {}


def _defaults(sweep: Sweep) -> dict[str, Any]:
    """By axis, the default that cells which do not name it have, or the axis that it follows."""
    found: dict[str, Any] = {}
    for name, axis in sweep.axes.items():
        if axis.follows is not None:
            found[name] = {"follows": axis.follows}
        elif axis.default is not None:
            found[name] = {"json": axis.default.text} if isinstance(axis.default, Json) else axis.default
    signature = sweep.experiment.signature if isinstance(sweep.experiment, FunctionExperiment) else {}
    for name, value in signature.items():
        if name not in found and name not in sweep.axes:
            found[name] = {"json": "null"} if value is None else as_whole(value)
    return found


def _shown(default: Any) -> str:
    if isinstance(default, dict):
        return str(default.get("json", f"that of {default.get('follows')}"))
    return repr(default)
