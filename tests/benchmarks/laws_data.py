"""What laws.py fits: the 92 learning curves and tables of real training runs; and where its JSON is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from packing_meter import installed, where

__all__ = [
    "DOMAINS",
    "Array",
    "Curve",
    "MissingData",
    "Table",
    "curves",
    "folder",
    "here",
    "joint_points",
    "save",
    "tables",
]

Array = npt.NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ("IC", "NMT", "LM", "BB")
_CURVE_COLUMNS = ["Domain", "Task", "Model", "Seen Examples", "Loss", "Training"]


class MissingData(Exception):
    """A file this benchmark needs is not here; the message says where it was looked for."""


@dataclass(frozen=True)
class Curve:
    """One learning curve: `fitted` marks the points a form may see, the rest are further out and only score it."""

    domain: str
    name: str
    x: Array
    y: Array
    fitted: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """Training runs of one recipe: parameters N, tokens D, and a loss."""

    name: str
    n: Array
    d: Array
    loss: Array
    budget: Array  # nominal compute where the table states it, else 6 N D
    remark: str = ""


def folder() -> Path:
    """Where the data lies."""
    return Path(os.environ.get("RAYSWEEP_DATA") or ROOT.parent / "shared" / "data")


def _read(relative: str) -> pl.DataFrame:
    path = folder() / relative
    if not path.is_file():
        raise MissingData(f"{relative} is not in {folder()}. Set RAYSWEEP_DATA to the folder that holds it.")
    return pl.read_csv(path, infer_schema_length=None)


def curves() -> list[Curve]:
    """The 92 curves of Alabdulmohsin et al. 2022, in the order of the files.

    The language file repeats rows (1,399 lines, 712 unique). A repeated point would count twice in a fit and in the
    score, so rows are made unique first.
    """
    found = []
    for name in ("benchmark.vision.csv.gz", "benchmark.lang.csv"):
        frame = _read(f"curves92/{name}").select(_CURVE_COLUMNS).unique(maintain_order=True)
        for (domain, task, model), part in frame.group_by(_CURVE_COLUMNS[:3], maintain_order=True):
            part = part.sort("Seen Examples")
            x, y = (part[column].cast(pl.Float64).to_numpy() for column in ("Seen Examples", "Loss"))
            found.append(Curve(str(domain), f"{task}, {model}", x, y, (part["Training"] == 1).to_numpy()))
    return found


def joint_points() -> Table:
    """The 261 runs of Li et al. 2025, "(Mis)fitting scaling laws": N with embeddings, D, loss."""
    frame = _read("scaling_runs/misfitting_final.csv")
    return _table("misfitting", frame, "N", "D", "loss")


def tables() -> Iterator[Table]:
    """Every table of scaling_runs, one recipe at a time."""
    yield joint_points()
    frame = _read("scaling_runs/gadre_overtraining.csv")
    for (dataset,), part in frame.group_by(["train_set"], maintain_order=True):
        yield _table(f"gadre {dataset}", part, "N", "D", "loss_c4_val")
    # StepLaw scans learning rate and batch at each (N, D): the law is of the best of them.
    frame = _read("scaling_runs/steplaw_dense.csv.gz").filter(pl.col("smooth_loss").is_finite())
    best = frame.group_by("N", "D", maintain_order=True).agg(pl.col("smooth_loss").min(), pl.len().alias("tried"))
    yield _table("steplaw dense", best, "N", "D", "smooth_loss", "best of the learning rates and batches tried")
    frame = _read("scaling_runs/isoflops_compiled.csv")
    for (experiment,), part in frame.group_by(["experiment"], maintain_order=True):
        kept = part.filter(~pl.col("outlier"))
        dropped = part.height - kept.height
        yield _table(str(experiment), kept, "params", "tokens", "loss", f"{dropped} rows marked outlier were dropped")


def _table(name: str, frame: pl.DataFrame, n: str, d: str, loss: str, remark: str = "") -> Table:
    frame = frame.drop_nulls([n, d, loss])
    sizes, tokens, losses = (frame[column].cast(pl.Float64).to_numpy() for column in (n, d, loss))
    stated = frame["budget"].cast(pl.Float64).to_numpy() if "budget" in frame.columns else 6.0 * sizes * tokens
    return Table(name, sizes, tokens, losses, stated, remark)


def here() -> dict[str, Any]:
    """When and where laws are fitted: date, machine and versions."""
    place = where("cpu")
    del place["versions"]["torch"], place["versions"]["ray"]
    place["versions"] |= {name: installed(name) for name in ("scipy", "polars", "pyarrow")}
    return place


def save(path: Path, verb: str, results: dict[str, Any]) -> None:
    """Replace the part `verb` of the JSON at `path`; every part says by itself when and where it was measured."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[verb] = {"where": here(), **results}
    path.write_text(json.dumps({name: known[name] for name in sorted(known)}, indent=1) + "\n")
    print(f"wrote {verb} to {path}")
