"""What a sweep that tunes has asked for, as its store records it: readers then need not propose it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep.errors import LedgerError, SweepError, plain
from raysweep.grid.lineage import Lineage
from raysweep.grid.values import Json
from raysweep.store import Store
from raysweep.sweep.tuned import Study, Tuning
from raysweep.tuning import Point, Space

__all__ = ["keep_studies", "kept_studies", "said_of"]

_FOLDER = "tuning"


def keep_studies(
    store: Store,
    sweep_hash: str,
    tuning: Tuning,
    lineage: Lineage,
    found: Mapping[str, Study],
    said: Sequence[str] = (),
) -> None:
    """Record what was asked, so that a store's readers know its runs without proposing them again.

    A file for each sweep: what another sweep asked stays.

    Args:
        said: Sentences on a sweep that has ended.
    """
    studies = {name: _recorded(study, tuning.ladder is not None) for name, study in found.items()}
    record = {"of": tuning.digest, "until": _until(tuning, lineage), "studies": studies, "said": list(said)}
    store.write_json(f"{_FOLDER}/{sweep_hash}.json", record)


def _recorded(study: Study, halved: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rounds": [[_plain(point) for point in asked] for asked in study.rounds],
        "winner": None if study.winner is None else _plain(study.winner),
    }
    if halved:
        found["retired"] = [(_plain(point), time) for point, time in study.retired.items()]
        found["reached"] = study.reached if math.isfinite(study.reached) else None
    return found


def _until(tuning: Tuning, lineage: Lineage) -> list[Any]:
    """What decides besides candidates which of them wins."""
    return [tuning.rounds, sorted(map(str, lineage.known))]


def kept_studies(store: Store, sweep_hash: str, tuning: Tuning, lineage: Lineage | None = None) -> dict[str, Study]:
    """What was asked before, by setting, of the sweep with this hash, and of others that tune in the same way: so a
    value that is added to an axis leaves the other settings as they are.

    Args:
        lineage: A winner is kept if the seeds of candidates and the rounds are the same. None to read the sweep's own
            file as it is.

    Raises:
        LedgerError: a file is damaged.
    """
    own = f"{sweep_hash}.json"
    names = [name for name, _ in store.list(_FOLDER) if name == own or lineage is not None]
    found: dict[str, Study] = {}
    for name in sorted(names, key=lambda name: name == own):  # the sweep's own counts most
        path = f"{_FOLDER}/{name}"
        record = store.read_json(path)
        try:
            if lineage is not None and record["of"] != tuning.digest:
                continue
            ended = lineage is None or record["until"] == _until(tuning, lineage)
            for setting, study in record["studies"].items():
                rounds = tuple(tuple(_parsed(point, tuning.space) for point in asked) for asked in study["rounds"])
                winner = _parsed(study["winner"], tuning.space) if study["winner"] is not None and ended else None
                reached = study.get("reached")
                found[setting] = Study(
                    rounds[: tuning.rounds],
                    winner,
                    {_parsed(point, tuning.space): float(time) for point, time in study.get("retired", ())},
                    math.inf if reached is None or len(rounds) > tuning.rounds else float(reached),
                )
        except (KeyError, TypeError, ValueError, AttributeError, SweepError) as error:
            raise LedgerError(f"store {store.uri}: {path} must hold candidates of its sweep: {error}") from error
    return found


def said_of(store: Store, sweep_hash: str) -> list[str]:
    """The sentences on a sweep that has ended; none before."""
    path = f"{_FOLDER}/{sweep_hash}.json"
    record = store.read_json(path) if store.exists(path) else {}
    said = record.get("said") if isinstance(record, dict) else None
    return [plain(line) for line in said if isinstance(line, str)] if isinstance(said, list) else []


def _plain(point: Point) -> list[Any]:
    """A point as plain data: a list or a mapping as it was written."""
    return [value.plain if isinstance(value, Json) else value for value in point]


def _parsed(raw: Sequence[Any], space: Space) -> Point:
    point = tuple(d.parse(value) for d, value in zip(space, raw, strict=True))
    if outside := [d.axis.name for d, value in zip(space, point, strict=True) if not d.holds(value)]:
        raise ValueError(f"{outside[0]} lies outside of its range")
    return point
