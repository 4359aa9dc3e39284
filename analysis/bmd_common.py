"""Shared by the analyses of networks' mean dimension: curves over seeds, their peaks and rises, claims, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from bmd import STATEMENTS
from common import Array, measured, over_seeds

from raysweep.claims import Claim, Measured, Rule
from raysweep.errors import FitError
from raysweep.laws.maximum import Peak, find_peak
from raysweep.store import Store
from raysweep.sweep.current import cells

NEEDED = ("bmd", "test_error")
THRESHOLD = 0.01  # not fitted


@dataclass(frozen=True)
class Curves:
    """Some metrics along a scale, of the seeds that have all of them.

    Attributes:
        name: The setting in words.
        x: [scales].
        of: Each metric, [scales, seeds].
    """

    name: str
    x: Array
    of: dict[str, Array]

    @staticmethod
    def along(frame: pl.DataFrame, x: str, metrics: Sequence[str], name: str = "") -> Curves:
        """Curves of a frame with one row per scale and seed."""
        full = frame.filter(pl.all_horizontal(pl.col(m).is_not_null().all().over(x) for m in metrics if m in NEEDED))
        wide = {m: full.pivot(on="seed", index=x, values=m).sort(x) for m in metrics}
        scales = next(iter(wide.values()))[x].to_numpy().astype(float)
        return Curves(name, scales, {m: one.drop(x).to_numpy().astype(float) for m, one in wide.items()})

    @property
    def seeds(self) -> int:
        return int(next(iter(self.of.values())).shape[1])

    @property
    def window(self) -> str:
        return f"{self.x[0]:g} to {self.x[-1]:g}"

    def beyond(self) -> Curves:
        """The curves from the smallest error below the threshold on; whole where there is none."""
        if "unfitted" not in self.of:
            return self
        below = np.flatnonzero(self.x < self.threshold(self.of["unfitted"]))
        start = int(self.of["test_error"].mean(1)[below].argmin()) if len(below) else 0
        return Curves(self.name, self.x[start:], {name: values[start:] for name, values in self.of.items()})

    def summit(self, metric: str) -> Peak:
        """The highest point of the mean over seeds, whether or not it stands out; FitError if it is an end."""
        x, seed = np.repeat(self.x, self.seeds), np.tile(np.arange(self.seeds), len(self.x))
        return find_peak(x, self.of[metric].ravel(), seed)

    def peak(self, metric: str) -> Peak | str:
        """The peak of the mean over seeds; or why there is none."""
        try:
            found = self.summit(metric)
        except FitError:
            return f"its highest mean from {self.x[0]:g} on is at {self.x[self.of[metric].mean(1).argmax()]:g}, an end"
        if found.prominence_interval[0] <= 0:
            low, high = found.prominence_interval
            return f"no peak is shown: its prominence is {found.prominence:.3g} [{low:.2g}, {high:.2g}]"
        return found

    def threshold(self, unfitted: Array) -> float:
        """The scale at which what is not fitted, [scales, seeds], first falls below THRESHOLD in the mean."""
        mean = np.maximum(unfitted.mean(1), 1e-6)
        below = np.flatnonzero(mean < THRESHOLD)
        if not len(below) or not below[0]:
            return float(self.x[below[0]]) if len(below) else np.nan
        i = int(below[0])
        share = np.log(mean[i - 1] / THRESHOLD) / np.log(mean[i - 1] / mean[i])
        return float(np.exp(np.log(self.x[i - 1]) + share * np.log(self.x[i] / self.x[i - 1])))

    def rise(self, metric: str) -> Measured:
        """The largest rise with the scale, chosen on even seeds and measured on odd ones."""
        values = self.of[metric]
        mean = values[:, ::2].mean(1)
        pairs = [(i, j) for i in range(len(mean)) for j in range(i + 1, len(mean))]
        i, j = max(pairs, key=lambda pair: mean[pair[1]] - mean[pair[0]])
        odd = values[j, 1::2] - values[i, 1::2]
        return measured(f"{self.x[i]:g} to {self.x[j]:g}", len(odd), *over_seeds(odd, np.mean))


def read(results: Path, name: str) -> pl.DataFrame:
    """The finished cells of one sweep."""
    folder = results / name
    if not (folder / "ledger").is_dir():
        raise SystemExit(f"{folder} does not exist: run `raysweep run sweeps/{name}.yaml` first")
    frame = pl.from_arrow(cells(Store(str(folder)))[0])
    assert isinstance(frame, pl.DataFrame)
    square = pl.col("loss") == "square"  # predicting 0 of one-hot or signed targets loses 1/2
    unfitted = pl.when(square).then(2 * pl.col("train_loss")).otherwise(pl.col("train_error"))
    return frame.filter(pl.col("status") == "ok").with_columns(unfitted=unfitted)


def table(one: Curves, x: str) -> pl.DataFrame:
    """Means over seeds with intervals: a row per scale."""
    columns: dict[str, list[object]] = {x: [f"{v:g}" for v in one.x]}
    for name, values in one.of.items():
        if name == "unfitted":
            continue
        columns[name] = [
            shown(*over_seeds(row, np.mean, bounds=(0, np.inf))) if np.isfinite(row).all() else "" for row in values
        ]
    return pl.DataFrame(columns)


def shown(value: Array, ends: Array) -> str:
    """A mean and its interval."""
    return f"{float(value):.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


def claim_of(
    id_: str, setting: str, theory: float | str, one: Measured, rule: Rule, sweep: str, why: str = ""
) -> Claim:
    """A claim with its statement and command, which names the sweep and, after a space, its preset."""
    return Claim(id_, STATEMENTS[id_], setting, theory, "", one, rule, why=why, source=source_of(sweep))


def unsupported(id_: str, setting: str, theory: float | str, one: Measured, why: str, sweep: str) -> Claim:
    """A claim that is judged `not supported` by hand, with the reason."""
    statement, source = STATEMENTS[id_], source_of(sweep)
    return Claim(id_, statement, setting, theory, "", one, judged="not supported", why=why, source=source)


def source_of(sweep: str) -> str:
    name, _, preset = sweep.partition(" ")
    how = f" --preset {preset} --store results/{name}_{preset}" if preset else ""
    return f"raysweep run sweeps/{name}.yaml{how}; python analysis/bmd_networks.py"


def printed(title: str, frame: pl.DataFrame) -> None:
    """A table as markdown."""
    print(f"\n{title}\n\n| " + " | ".join(frame.columns) + " |\n|" + "---|" * frame.width)
    for row in frame.rows():
        print("| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |")
