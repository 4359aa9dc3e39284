"""The second stage of `sweeps/oracle_scaling.yaml`: the best learning rate of every model and size, with fresh seeds.

    raysweep run sweeps/oracle_scaling.yaml --store STORE       # first stage: all rates, seeds 0 and 1
    python analysis/oracle_rates.py STORE                       # writes STORE/chosen.yaml
    raysweep run STORE/chosen.yaml --store STORE                # second stage: the chosen rates, seeds 2 to 6

A rate's score is the mean over the first stage's seeds of the smallest epistemic error on the selection sample over
times; a rate at which a seed diverged has none. The evaluation sample is not looked at. Needs neither Polars nor a GPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.errors import RaysweepError, SweepError
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.sweep.stored import stored_sweep
from raysweep.yamlfile import dump_yaml

Rates = dict[str, dict[int, float]]


def chosen(rows: Iterable[Mapping[str, Any]]) -> tuple[Rates, list[str]]:
    """{model: {N: rate}}, and a sentence for every rate at the end of its list, beyond which a better one may lie."""
    best: dict[tuple[str, int, float, int], float] = defaultdict(lambda: np.inf)
    for row in rows:
        run = row["model"], row["n_train"], row["lr"], row["seed"]
        value = row["epistemic_select"] if row["status"] == "ok" else None
        best[run] = min(best[run], np.inf if value is None else value)
    scores: dict[tuple[str, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (model, n, lr, _), value in sorted(best.items()):
        scores[model, n][lr].append(value)
    found: Rates = defaultdict(dict)
    ends = []
    for (model, n), by_rate in scores.items():
        means = {lr: float(np.mean(values)) for lr, values in by_rate.items()}
        lr = min(means, key=means.__getitem__)
        if not np.isfinite(means[lr]):
            raise ValueError(
                f"{model} at N = {n}: one rate must train every seed, but none of {list(means)} does. Add smaller rates"
            )
        found[model][n] = lr
        if len(means) > 1 and lr in (min(means), max(means)):
            ends.append(f"{model} at N = {n:,}: {lr:g} is at the end of the rates")
    return dict(found), ends


def first_stage(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The grid of the first stage.

    Raises:
        SweepError: the sweep is another one.
    """
    match sweep:
        case {"experiment": "classifier", "grid": {"n_train": _, "seed": {"range": int()}, "concat": [*parts]}} if all(
            isinstance(part.get("model"), list) for part in parts
        ):
            return dict(sweep["grid"])
    raise SweepError(
        "STORE must be that of the first stage of sweeps/oracle_scaling.yaml, whose grid has n_train, seed: {range: N} "
        f"and `concat` with lists of models, but the sweep last run into it is {sweep['name']}: {sweep['grid']}. Give "
        "another store"
    )


def second(sweep: Mapping[str, Any], rates: Rates, seeds: int) -> dict[str, Any]:
    """The sweep of the second stage.

    Raises:
        SweepError: the sweep is not the first stage, or a model has no rates.
    """
    grid = first_stage(sweep)
    if lacking := {model for part in grid["concat"] for model in part["model"]} - rates.keys():
        raise SweepError(
            f"the first stage must have rows of every model, but has none of {', '.join(sorted(lacking))}. Run it first"
        )
    first = range(grid["seed"]["range"])
    del grid["n_train"]
    grid.pop("lr", None)  # where all models have the same
    parts = []
    for part in grid["concat"]:
        for model in part["model"]:
            sizes, own = rates[model], {key: value for key, value in part.items() if key != "lr"}
            parts.append({**own, "model": model, "zip": {"n_train": list(sizes), "lr": list(sizes.values())}})
    grid |= {"seed": {"range": [first.stop, first.stop + seeds]}, "concat": parts}
    return {**{key: value for key, value in sweep.items() if key != "presets"}, "grid": grid}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="fresh ones")
    given = parser.parse_args()
    try:
        store = Store(str(given.store))
        sweep = stored_sweep(store)[0].model_dump(mode="json", exclude_unset=True)
        first_stage(sweep)
        rates, ends = chosen(cells(store)[0].to_pylist())
        next_stage = second(sweep, rates, given.seeds)
    except (RaysweepError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    for line in ends:
        print(line)
    for model, by_size in rates.items():
        print(model, ", ".join(f"{n:,}: {lr:g}" for n, lr in by_size.items()))
    (given.store / "chosen.yaml").write_text(dump_yaml(next_stage), encoding="utf-8")


if __name__ == "__main__":
    main()
