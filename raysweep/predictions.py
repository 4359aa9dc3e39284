"""Predictions that are kept to their word: made before larger scales are run, kept in the store, scored afterwards.

Before a sweep runs scales beyond all that a fit has measured, what the fit says of them is written to
`predictions/<key>.json`: the loss, the law's own interval of a new run, and two others. When runs of that scale
have ended, `<key>-scored.json` says how it came out. The prediction is never rewritten; its score only where rows are
forgotten, or count again.

Besides the law's own interval of a new run there is that of a law that may bend (`laws.deviation`): it is the one to go
by where the law may be wrong.

The third is conformal (`conformal.py`): the record of this law on these data. Where the law is wrong it held .34 to .75
of runs in place of .95, the interval of a law that may bend .68 to .95 (`tests/benchmarks/predictions.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.conformal import Record, conformal
from raysweep.errors import FitError, LedgerError
from raysweep.grid.runs import Runs
from raysweep.laws.reach import ABSURD
from raysweep.laws.request import FitRequest
from raysweep.store import Store, UnreachableError
from raysweep.sweep.current import cells, current

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit
    from raysweep.laws.points import Points

__all__ = ["Kept", "drop_scores", "kept", "predict_ahead", "score", "sentences"]

_FOLDER = "predictions"
_SAME = 1e-9  # relative difference of scales that are one


@dataclass(frozen=True)
class Kept:
    """A prediction, and how it came out.

    Attributes:
        fit: Law, columns and group, as plain data.
        x: Value of each scale by its column.
        value: The predicted y.
        own: The law's own 95 % interval of a new run; None where it has none.
        conformal: The conformal one, and `level`, the share that as many errors can stand for.
        bent: That of a new run if the law may bend; None where it is unknown.
        beyond: How many times the largest scale that was fitted this is.
        scales, runs: That it was fitted to.
        at: When it was made, ISO 8601.
        score: `measured`, the geometric mean of y; `runs`; `in_own`, `in_bent` and `in_conformal`, the shares of runs
            inside. None until runs have ended.
    """

    key: str
    fit: Mapping[str, Any]
    x: Mapping[str, float]
    value: float
    own: Sequence[float] | None
    conformal: Sequence[float] | None
    level: float | None
    beyond: float
    scales: int
    runs: int
    at: str
    bent: Sequence[float] | None = None
    score: Mapping[str, Any] | None = None


def kept(store: Store) -> list[Kept]:
    """The predictions of a store, oldest first, those made at once by fit and scale; files that are none are left out.

    Raises:
        UnreachableError: The store does not answer.
    """
    names = {name for name, _ in store.list(_FOLDER)}
    found = []
    for name in sorted(names):
        key = name.removesuffix(".json")
        if name.endswith("-scored.json"):
            continue
        try:
            plain = store.read_json(f"{_FOLDER}/{name}")
            scored = f"{key}-scored.json"
            score = store.read_json(f"{_FOLDER}/{scored}") if scored in names else None
            found.append(Kept(**{**plain, "key": key, "score": score}))
        except UnreachableError:
            raise
        except (LedgerError, TypeError):
            continue
    return sorted(found, key=lambda one: (one.at, str(one.fit), *one.x.values(), one.key))


def predict_ahead(
    store: Store, requests: Sequence[FitRequest], runs: Runs, pending: npt.NDArray[np.bool_]
) -> list[Kept]:
    """Predict the pending scales that lie beyond all that was measured, and keep what is new.

    Where no run of the grid has ended, the rows of other grids of the same experiment and version are fitted.

    Args:
        requests: The fits of the sweep.
        pending: [runs] whether a run is still to be done.

    Raises:
        LedgerError: The store cannot be written.
    """
    made, whole = [], bool(pending.all())
    ahead = [
        one for one in requests if _of_runs(one, runs) and (whole or _goes_beyond(one, runs, pending))
    ]  # else, nothing is read
    for request, taken, fits in _fitted(store, ahead, runs, whole=whole):
        for group in fits:
            larger = _larger(group, request, runs, pending)
            record = _record(group, request, taken) if larger else None
            for x in larger:
                if (one := _predicted(group, request, x, record)) is not None:
                    plain = {name: value for name, value in asdict(one).items() if name not in ("key", "score")}
                    if store.create(f"{_FOLDER}/{one.key}.json", json.dumps(plain, indent=1).encode()):
                        made.append(one)
    return made


def score(store: Store, requests: Sequence[FitRequest], runs: Runs) -> list[Kept]:
    """Score the predictions whose runs have ended, and keep the scores; returns what was scored now.

    Raises:
        LedgerError: The store cannot be written.
    """
    open_ = [one for one in kept(store) if one.score is None]
    if not open_:
        return []
    done = _scored(store, requests, runs, open_)
    if len(done) < len(open_):  # some may have been made from the rows of other grids
        scored = {one.key for one in done}
        done += _scored(store, requests, runs, [one for one in open_ if one.key not in scored], whole=True)
    return done


def _scored(
    store: Store, requests: Sequence[FitRequest], runs: Runs, open_: Sequence[Kept], whole: bool = False
) -> list[Kept]:
    """The predictions that some rows can score, with their scores, which are kept; `whole` as of `_fitted`."""
    done = []
    for request, taken, fits in _fitted(store, requests, runs, draws=0, whole=whole):
        for group in fits:
            frame = taken.of(group.group)
            y = frame[request.y].to_numpy().astype(np.float64)
            x = np.stack([frame[name].to_numpy().astype(np.float64) for name in request.x])
            about = _about(group, request)
            for one in open_:
                if one.fit != about:
                    continue
                wanted = np.array([one.x[name] for name in request.x])[:, None]
                here = y[(np.abs(x / wanted - 1) < _SAME).all(axis=0)]
                if len(here):
                    found = {
                        "measured": float(np.exp(np.log(here).mean())),
                        "runs": len(here),
                        "in_own": _share(here, one.own),
                        "in_bent": _share(here, one.bent),
                        "in_conformal": _share(here, one.conformal),
                        "at": datetime.now(UTC).isoformat(timespec="seconds"),
                    }
                    if store.create(f"{_FOLDER}/{one.key}-scored.json", json.dumps(found, indent=1).encode()):
                        done.append(replace(one, score=found))
    return done


def drop_scores(store: Store) -> None:
    """Delete all scores, so that predictions are scored by the rows that count now."""
    for name, _ in store.list(_FOLDER):
        if name.endswith("-scored.json"):
            store.delete(f"{_FOLDER}/{name}")


def sentences(found: Sequence[Kept]) -> list[str]:
    """Predictions in one sentence each, after one that counts how they came out."""
    if not found:
        return []
    scored = [one for one in found if one.score is not None]
    said = [f"predictions made before the runs: {len(found)}, of which {len(scored)} are scored."]
    for name, key in (
        ("the law's own 95 % interval", "in_own"),
        ("that of a law that may bend", "in_bent"),
        ("the conformal interval", "in_conformal"),
    ):
        with_it = [one.score for one in scored if one.score and one.score.get(key) is not None]
        if with_it:
            total = sum(int(one["runs"]) for one in with_it)
            inside = sum(float(one[key]) * int(one["runs"]) for one in with_it)
            said[0] += f" {inside:.0f} of {total} runs lie inside {name}."
    if any(one.own or one.conformal for one in found):
        said[0] += " Where a law is wrong, its own interval and the conformal one hold far fewer runs than they say."
    return said + [_sentence(one) for one in found]


def _sentence(one: Kept) -> str:
    at = ", ".join(f"{name} = {value:.4g}" for name, value in one.x.items())
    group = ", ".join(f"{name}={value}" for name, value in one.fit["group"].items())
    own = f" [{one.own[0]:.4g}, {one.own[1]:.4g}]" if one.own else ""
    bent = f", if the law may bend [{one.bent[0]:.4g}, {one.bent[1]:.4g}]" if one.bent else ""
    other = ""
    if one.conformal and one.level:
        other = f", conformal at {100 * one.level:.0f} % [{one.conformal[0]:.4g}, {one.conformal[1]:.4g}]"
    text = f"{one.fit['y']} at {at}{group and f' ({group})'}: predicted {one.value:.4g}{own}{bent}{other}"
    if one.score is None:
        return f"{text}; not measured yet."
    error = 100 * (float(one.score["measured"]) / one.value - 1)
    return f"{text}; measured {float(one.score['measured']):.4g} over {one.score['runs']} runs ({error:+.1f} %)."


def _fitted(
    store: Store, requests: Sequence[FitRequest], runs: Runs, draws: int | None = None, whole: bool = False
) -> Iterator[tuple[FitRequest, Points, Sequence[GroupFit]]]:
    """The fits whose scales are axes that each run has one value of, as far as they can be made here and now.

    Args:
        whole: To the rows of all grids of the sweep's experiment and version, instead of its own.
    """
    wanted = [one for one in requests if _of_runs(one, runs)]
    if not wanted:
        return
    try:
        from raysweep.laws.points import points
        from raysweep.laws.table import fit_points

        table = _of_all_grids(store) if whole else cells(store)[0]
    except ModuleNotFoundError:  # fits need Polars, which a driver may lack
        return
    except UnreachableError:
        raise
    except LedgerError:  # nothing was measured yet
        return
    for request in wanted:
        options = replace(request.options, draws=request.options.draws if draws is None else draws, holdout=0.0)
        plain = replace(request, options=options)
        try:
            taken = points(table, plain)
            fits = fit_points(taken, plain)
        except FitError:
            continue
        yield request, taken, [group for group in fits if group.error is None]


def _of_all_grids(store: Store) -> pa.Table:
    """The rows of a store that are of the experiment and version of its sweep.

    Raises:
        LedgerError: There are none.
    """
    table, own = cells(store, "all")[0], current(store).own
    if "experiment" in table.schema.names and "experiment_version" in table.schema.names:
        same = pc.and_(
            pc.equal(table.column("experiment"), own.experiment),
            pc.equal(table.column("experiment_version"), own.version),
        )
        table = table.filter(same)
    if not len(table):
        raise LedgerError(f"store {store.uri}: must hold rows of its sweep's experiment, but holds none")
    return table


def _of_runs(request: FitRequest, runs: Runs) -> bool:
    """Whether all scales are axes of numbers that each run has one value of."""
    return all(
        name in runs.codes and all(isinstance(value, int | float) for value in runs.values[name]) for name in request.x
    )


def _goes_beyond(request: FitRequest, runs: Runs, pending: npt.NDArray[np.bool_]) -> bool:
    """Whether some pending scale is larger than that of every run that has ended."""
    for name in request.x:
        x = np.array(runs.values[name], dtype=np.float64)[runs.codes[name]]
        if pending.any() and not pending.all() and x[pending].max() > x[~pending].max():
            return True
    return False


def _larger(
    group: GroupFit, request: FitRequest, runs: Runs, pending: npt.NDArray[np.bool_]
) -> list[tuple[float, ...]]:
    """The pending points of scales of a group that lie beyond its window."""
    mine = pending.copy()
    for name, value in group.group.items():
        if name in runs.codes:
            same = np.array([one is not None and _equal(one, value) for one in runs.values[name]])
            mine &= same[runs.codes[name]]
    if not mine.any():
        return []
    x = np.array([np.array(runs.values[name], dtype=np.float64)[runs.codes[name][mine]] for name in request.x])
    low, high = np.array(group.window).T[..., None]
    beyond = (x > high * (1 + _SAME)).any(axis=0) & (x >= low * (1 - _SAME)).all(axis=0)
    beyond &= (x < high * ABSURD).all(axis=0)
    return [tuple(map(float, point)) for point in np.unique(x[:, beyond], axis=1).T]


def _equal(one: Any, value: Any) -> bool:
    if isinstance(one, bool) or isinstance(value, bool) or not isinstance(value, int | float):
        return str(one) == str(value)
    return isinstance(one, int | float) and float(one) == float(value)


def _record(group: GroupFit, request: FitRequest, taken: Points) -> Record | None:
    frame = taken.of(group.group)
    scales = np.stack([frame[name].to_numpy().astype(np.float64) for name in request.x])
    return conformal(scales, frame[request.y].to_numpy().astype(np.float64), request)


def _predicted(group: GroupFit, request: FitRequest, x: tuple[float, ...], record: Record | None) -> Kept | None:
    from raysweep.laws.misfit import bent_band
    from raysweep.laws.predicted import predicted

    point = dict(zip(request.x, x, strict=True))
    (one,) = predicted(group, [point]) or (None,)
    if one is None or not math.isfinite(one.value) or one.value <= 0:
        return None
    bent = bent_band(group, np.array(x)[:, None], new_run=True)
    about, wide = _about(group, request), None
    if record is not None and one.own_new is not None:
        wide = record.widened(one.own_new, x)
    text = json.dumps([about, point], sort_keys=True)
    return Kept(
        key=hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        fit=about,
        x=point,
        value=one.value,
        own=None if one.own_new is None else list(one.own_new),
        conformal=wide,
        level=record.level if record is not None and wide is not None else None,
        beyond=one.beyond,
        scales=group.n_scales,
        runs=group.n_points,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        bent=None if bent is None or not np.isfinite(bent).all() else bent[0].tolist(),
    )


def _about(group: GroupFit, request: FitRequest) -> dict[str, Any]:
    """A fit and a group of it, as plain data, the same whatever was measured since."""
    named = {"law": request.law, "x": list(request.x), "y": request.y, "where": request.where, "at": request.at}
    if request.formula is not None:
        named["formula"] = request.formula
    if request.window is not None:
        named["window"] = str(request.window)
    found: dict[str, Any] = json.loads(json.dumps({**named, "group": dict(group.group)}, default=str))
    return found


def _share(y: npt.NDArray[np.float64], ends: Sequence[float] | None) -> float | None:
    return None if ends is None else float(np.mean((y >= ends[0]) & (y <= ends[1])))
