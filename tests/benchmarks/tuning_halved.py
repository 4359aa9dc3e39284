"""Tuning with and without successive halving, side by side: regret and training FLOPs. `tuning.py` runs it.

* `simulated`: the made-up loss of `tuning.py`, to which training adds a part that falls as a power of time, while the
  best rate drifts: at a tenth of the time it is 1.6 times as large, so that a rung misleads. Cost is in trainings to
  the end, per setting; regret is the loss without noise at the end at the winner over the least one, minus 1.
* `trained`: the MLPs of `tuning.py`, read at 4 times. FLOPs are those of all candidates, by the rows of the ledger;
  regret is the epistemic error on fresh seeds over that of the dense grid's winner, minus 1.

* `wide`: one round of 16 candidates of an MLP whose arithmetic, unlike that of the small ones, takes most of the time.

In each of 3 rounds, `plain` has 16 candidates and `fewer` has 5, without halving. Of 16 each, `early`, `middle` and
`late` have their first rung at the first, the second and the third time; `wider` has 48 and is early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.selection import passed, ranked
from raysweep.sweep.halved import Ladder
from raysweep.tuning import Point, Space, design, propose

Execute = Callable[[Mapping[str, Any], str, str], tuple[list[dict[str, Any]], float]]
Surface = Callable[[npt.NDArray[np.float64], int, npt.NDArray[np.float64]], npt.NDArray[np.float64]]

FACTOR = 3.0
TIMES = (32, 96, 288, 864)  # of a training, the last being its end
ARMS: dict[str, tuple[int, int | None]] = {  # candidates of a round, and the time of the first rung
    "plain": (16, None),
    "fewer": (5, None),
    "early": (16, TIMES[0]),
    "middle": (16, TIMES[1]),
    "late": (16, TIMES[2]),
    "wider": (48, TIMES[0]),
}
ROUNDS = 3
DRIFT = 0.2  # decades by which the best rate falls in a decade of time
TRANSIENT = (0.3, 0.5)  # of the loss at the end, and the exponent by which it falls
NOISE = 0.02
FRESH = 20


# --- simulated --------------------------------------------------------------------------------------------


def at(
    time: int, logs: npt.NDArray[np.float64], scale: int, world: npt.NDArray[np.float64], surface: Surface
) -> npt.NDArray[np.float64]:
    """[points] the loss at a time."""
    share = time / TIMES[-1]
    moved = logs + np.array([DRIFT * np.log10(share), 0.0])
    return surface(moved, scale, world) + TRANSIENT[0] * (share ** -TRANSIENT[1] - 1)


def search(
    space: Space, world: npt.NDArray[np.float64], seed: int, scales: int, arm: str, surface: Surface
) -> tuple[list[float], float]:
    """The regret at each scale, and the trainings that it took at one."""
    count, first = ARMS[arm]
    rng, ladder = np.random.default_rng([seed, 2]), Ladder("steps", FACTOR, first or TIMES[-1])
    points: list[list[list[Point]]] = [[] for _ in range(scales)]
    scores, until = [np.zeros(0)] * scales, [np.zeros(0)] * scales
    cost = 0.0
    for round_ in range(ROUNDS):
        known = [_history(*each) for each in zip(points, scores, until, strict=True)]
        for scale in range(scales):
            own = seed * scales + scale
            near = [known[s] for s in (scale - 1, scale + 1) if 0 <= s < scales]
            asked = propose(space, "tpe", count, own, known[scale], near) if round_ else design(space, count, own)
            logs = np.log10(np.array(asked, dtype=float))
            noise = 1 + NOISE * rng.standard_normal((2, len(asked))).mean(0)
            score, end, left = np.full(len(asked), np.inf), np.full(len(asked), np.inf), np.arange(len(asked))
            for time in [t for t in TIMES if t >= (first or TIMES[-1])]:
                score[left] = at(time, logs[left], scale, world, surface) * noise[left]
                if time < TIMES[-1]:
                    on = left[passed(score[left], ladder.passing(len(left)))]
                    end[np.setdiff1d(left, on)] = time
                    left = on
            cost += np.minimum(end, TIMES[-1]).sum() / TIMES[-1]
            points[scale].append(asked)
            scores[scale], until[scale] = np.append(scores[scale], score), np.append(until[scale], end)
    found = []
    for scale in range(scales):
        flat = [point for asked in points[scale] for point in asked]
        best = flat[int(ranked(scores[scale], until[scale]).argmin())]
        logs = np.log10(np.array([best], dtype=float))
        found.append(float(at(TIMES[-1], logs, scale, world, surface)[0]) - 1)
    return found, cost / scales


def _history(
    asked: list[list[Point]], scores: npt.NDArray[np.float64], until: npt.NDArray[np.float64]
) -> list[list[tuple[Point, float]]]:
    rank = iter(ranked(scores, until).tolist())
    return [[(point, next(rank)) for point in each] for each in asked]


def simulated(
    space: Space, worlds: list[npt.NDArray[np.float64]], scales: int, surface: Surface
) -> dict[str, dict[str, float]]:
    found = {}
    for arm in ARMS:
        each = [search(space, world, seed, scales, arm, surface) for seed, world in enumerate(worlds)]
        regret = np.array([one for one, _ in each])
        error = regret.mean(1).std(ddof=1) / np.sqrt(len(worlds))  # the scales of a world are not independent
        found[arm] = {
            "candidates": ROUNDS * ARMS[arm][0],
            "trainings": round(float(np.mean([cost for _, cost in each])), 2),
            "regret": round(float(regret.mean()), 5),
            "regret_standard_error": round(float(error), 5),
            "regret_90": round(float(np.quantile(regret, 0.9)), 5),
        }
    return found


# --- trained ----------------------------------------------------------------------------------------------


def trained(
    base: Mapping[str, Any], tune: Mapping[str, Any], dense: Mapping[str, list[float]], folder: str, execute: Execute
) -> dict[str, Any]:
    """The MLPs, tuned in each of the ways.

    Args:
        base: The sweep without `tune`.
        dense: The values of the tuned axes in the dense grid.
    """
    base = {**base, "grid": {**base["grid"], "steps": list(TIMES)}}
    sizes = base["grid"]["n_train"]
    rows, _ = execute({**base, "grid": {**base["grid"], **dense}}, folder, "halved-dense")
    score = _errors(rows, "epistemic_select")
    winner = {n: min((s, key) for key, s in score.items() if key[0] == n)[1] for n in sizes}
    names = [*dense]
    zipped = {"n_train": sizes, **{name: [winner[n][1 + i] for n in sizes] for i, name in enumerate(names)}}
    again = {k: v for k, v in base["grid"].items() if k != "n_train"} | {"seed": {"range": [2, 2 + FRESH]}}
    rows, _ = execute({**base, "grid": {**again, "zip": zipped}}, folder, "halved-fresh")
    best = {key[0]: value for key, value in _errors(rows, "epistemic").items()}
    found: dict[str, Any] = {}
    for arm, (count, first) in ARMS.items():
        tuner: dict[str, Any] = {"rounds": ROUNDS, "candidates": count, "seeds": FRESH}
        tuner |= {"halving": {"reduction_factor": FACTOR, "min_resource": first}} if first else {}
        rows, seconds = execute({**base, "tune": tune, "tuner": tuner}, folder, f"halved-{arm}")
        mine = {key[0]: v for key, v in _errors([r for r in rows if r["role"] == "selected"], "epistemic").items()}
        found[arm] = {
            "candidates": ROUNDS * count,
            "training_flops": _spent([row for row in rows if row["role"] == "candidate"]),
            "packs": len({row["pack"] for row in rows}),
            "cpu_seconds": round(seconds, 1),
            "regret": {n: round(mine[n] / best[n] - 1, 4) for n in sizes},
        }
    for one in found.values():
        one["share_of_flops"] = round(one["training_flops"] / found["plain"]["training_flops"], 3)
    return found


def wide(base: Mapping[str, Any], tune: Mapping[str, Any], folder: str, execute: Execute) -> dict[str, Any]:
    """CPU time and training FLOPs of an MLP of width 256, the winner's included."""
    grid = {**base["grid"], "n_train": 512, "width": 256, "batch": 128, "steps": list(TIMES)}
    base = {**base, "grid": {**grid, "eval_items": 512, "select_items": 512}}
    found: dict[str, Any] = {}
    for arm in ("plain", "late", "early"):
        tuner: dict[str, Any] = {"sampler": "qmc", "rounds": 1, "candidates": ARMS[arm][0], "seeds": 1}
        tuner |= {"halving": {"reduction_factor": FACTOR, "min_resource": first}} if (first := ARMS[arm][1]) else {}
        rows, seconds = execute({**base, "tune": tune, "tuner": tuner}, folder, f"wide-{arm}")
        found[arm] = {"training_flops": _spent(rows), "cpu_seconds": round(seconds, 1)}
    return found


def _spent(rows: list[dict[str, Any]]) -> float:
    """Training FLOPs of runs; those of a row are the run's so far."""
    spent: dict[str, float] = {}
    for row in rows:
        spent[row["run"]] = max(spent.get(row["run"], 0.0), row["flops"] or 0.0)
    return sum(spent.values())


def _errors(rows: list[dict[str, Any]], metric: str) -> dict[tuple[int, float, float], float]:
    """By items, rate and decay: the mean over seeds of the metric at the time that is best on the selection sample."""
    best: dict[tuple[Any, ...], tuple[float, float]] = {}
    for row in rows:
        run = row["n_train"], row["lr"], row["weight_decay"], row["seed"]
        value = (row["epistemic_select"], row[metric]) if row["status"] == "ok" else (np.inf, np.inf)
        best[run] = min(best.get(run, (np.inf, np.inf)), value)
    found: dict[tuple[int, float, float], list[float]] = {}
    for (n, lr, decay, _), values in best.items():
        found.setdefault((n, lr, decay), []).append(values[1])
    return {key: float(np.mean(values)) for key, values in found.items()}
