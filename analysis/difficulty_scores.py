"""Difficulty before training, scored against what was trained (`raysweep difficulty`, docs/difficulty.md).

    RAYSWEEP_DATA=FOLDER python analysis/difficulty_scores.py predict [--device cuda] [--memory-gib 60]
    python analysis/difficulty_scores.py score [--results results]

`predict` measures the kernels of the networks that sweeps/richness_circle.yaml and richness_images.yaml train, and
writes analysis/difficulty.json (no polars, no matplotlib). `score` sets those predictions beside the exponents of the
two stores, in the windows of analysis/richness.py, and writes analysis/difficulty.csv and a table for a page.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CIRCLE = [(f"circle:{beta:g}", "mlp", 1024, 3) for beta in (0.25, 0.5, 0.75, 1.0, 1.5)]
IMAGES = [
    (data, *network)
    for data in ("mnist", "fashion_mnist", "cifar10_jpeg_60k")
    for network in (("cnn", 16, 4), ("resnet", 16, 1))
]


def predict(asked: argparse.Namespace) -> None:
    """Before training."""
    import torch

    from raysweep.forecast import forecast
    from raysweep.task import task_of

    rows = []
    for data, model, width, depth in CIRCLE + IMAGES:
        memory = int(asked.memory_gib * 2**30)
        made = forecast(task_of(data), model, width, depth, items=asked.items, device=asked.device, memory=memory)
        record = made.to_json()
        for name in ("spectrum", "data_limit", "compute_optimal"):
            del record[name]
        rows.append(record)
        print(f"{data} {model}: beta {made.beta.value:.3f} [{made.beta.low:.3f}, {made.beta.high:.3f}]", flush=True)
    device = torch.cuda.get_device_name() if asked.device == "cuda" else platform.machine()
    whole = {"date": date.today().isoformat(), "device": device, "torch": torch.__version__, "rows": rows}
    asked.file.write_text(json.dumps(whole) + "\n")


def predicted_slope(row: dict[str, Any], curve: str, low: float, high: float) -> float:
    """The exponent of a predicted curve between two times."""
    t, loss = np.array(row["curves"]["t"]), np.array(row["curves"][curve])
    at = np.linspace(np.log(low), np.log(high), 50)
    return -float(np.polyfit(at, np.interp(at, np.log(t), np.log(loss)), 1)[0])


def score(asked: argparse.Namespace) -> None:
    """After training."""
    import polars as pl
    from common import over_seeds
    from richness import IMAGES as LATER
    from richness import SGD

    on_circle, on_images = (tuple(map(float, rule.bounds({}))) for rule in (SGD, LATER))
    cells = {
        name: pl.read_parquet(asked.results / f"richness_{name}" / "cells.parquet").filter(pl.col("status") == "ok")
        for name in ("circle", "images")
    }

    def measured(frame: pl.DataFrame, window: tuple[float, float]) -> tuple[float, float, float]:
        wide = frame.filter(pl.col("t").is_between(*window)).pivot(on="seed", index="t", values="loss").sort("t")
        u = np.log(wide["t"].to_numpy())
        u -= u.mean()
        losses = np.log(wide.drop("t").to_numpy())
        value, ends = over_seeds(losses, lambda v: -(u @ v.mean(1)) / (u @ u))
        return float(value), float(ends[0]), float(ends[1])

    rows = []
    for row in json.loads(asked.file.read_text())["rows"]:
        model = row["model"]
        if row["data"].startswith("circle"):
            window, all_cells = on_circle, cells["circle"].filter(
                (pl.col("beta") == float(row["data"].partition(":")[2])) & (pl.col("activation") == "relu")
            )  # fmt: skip
            lazy = measured(all_cells.filter(pl.col("method") == "ntk"), window)
            rich = measured(
                all_cells.filter(
                    (pl.col("method") == "train") & (pl.col("optimiser") == "sgd")
                    & (pl.col("momentum") == 0) & (pl.col("gamma") == 1)
                ), window,
            )  # fmt: skip
        else:
            window = on_images
            mine = cells["images"].filter((pl.col("data") == row["data"]) & (pl.col("model") == model["kind"]))
            lazy, rich = (measured(mine.filter(pl.col("gamma") == gamma), window) for gamma in (0.03, 1.0))
        beta, exponent = row["beta"], row["time_exponent"]["rich"]
        rows.append(
            {
                "task": row["data"],
                "network": f"{model['kind']} {model['width']} x {model['depth']}",
                "beta": beta["value"],
                "beta_low": beta["low"],
                "beta_high": beta["high"],
                "verdict": row["verdict"],
                "lazy_predicted": predicted_slope(row, "lazy", *window),
                **dict(zip(("lazy", "lazy_low", "lazy_high"), lazy, strict=True)),
                "rich_predicted": exponent["value"],
                "rich_predicted_low": exponent["low"],
                "rich_predicted_high": exponent["high"],
                **dict(zip(("rich", "rich_low", "rich_high"), rich, strict=True)),
                "window": f"t {window[0]:g} to {window[1]:g}",
            }
        )
    frame = pl.DataFrame(rows)
    frame.write_csv(asked.table, float_precision=4)
    print("| task | network | beta before training | can features help? | lazy slope, predicted | measured "
          "| rich exponent, predicted | measured at gamma = 1 |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for r in rows:
        print(
            f"| {r['task']} | {r['network']} | {r['beta']:.2f} [{r['beta_low']:.2f}, {r['beta_high']:.2f}] "
            f"| {r['verdict']} | {r['lazy_predicted']:.3f} "
            f"| {r['lazy']:.3f} [{r['lazy_low']:.3f}, {r['lazy_high']:.3f}] "
            f"| {r['rich_predicted']:.2f} [{r['rich_predicted_low']:.2f}, {r['rich_predicted_high']:.2f}] "
            f"| {r['rich']:.3f} [{r['rich_low']:.3f}, {r['rich_high']:.3f}] |"
        )


def main() -> None:
    """One of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("predict", "score"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--memory-gib", type=float, default=8.0)
    parser.add_argument("--file", type=Path, default=HERE / "difficulty.json", help="the predictions")
    parser.add_argument("--table", type=Path, default=HERE / "difficulty.csv", help="the scores")
    parser.add_argument("--results", type=Path, default=Path("results"))
    asked = parser.parse_args()
    {"predict": predict, "score": score}[asked.step](asked)


if __name__ == "__main__":
    main()
