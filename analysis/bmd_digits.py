"""Boolean mean dimension and double descent (arXiv 2401.12610): random features of digits, with an output per class.

    raysweep run sweeps/bmd_twin_peaks.yaml --preset digits --store results/bmd_twin_peaks_digits
    python analysis/bmd_digits.py [--results results] [--out docs/bmd]

Writes the table of claims analysis/claims/bmd_digits.csv (in the folder --claims), which docs/papers.md shows, and
prints the table of docs/bmd.md: means over seeds with 95 % intervals, beside the reference that notes on the paper give
(T8, a simulation). Peaks are those of `raysweep.laws.peak`, with intervals over seeds. The theory has no images: its
column holds the interpolation threshold, N = P. "Without a ridge" is at 1e-7.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from bmd import STATEMENTS
from bmd_common import Curves, shown
from common import Array, arguments, measured, over_seeds

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.laws.maximum import Peak, shift
from raysweep.store import Store
from raysweep.sweep.current import cells

STORE = "bmd_twin_peaks_digits"
SOURCE = (
    f"raysweep run sweeps/bmd_twin_peaks.yaml --preset digits --store results/{STORE}; python analysis/bmd_digits.py"
)
METRICS = {
    "test_error": "the test error",
    "bmd": "the BMD over -1 and +1",
    "bmd_marginal": "the mean dimension over the pixels' marginals",
}
RIDGELESS, RIDGE = 1e-7, 0.01
# T8, by activation, ridge, metric and N / P.
REFERENCE: dict[tuple[str, float, str, float], float] = {
    ("tanh", RIDGELESS, "test_error", 0.1): 0.173,
    ("tanh", RIDGELESS, "test_error", 0.8): 0.500,
    ("tanh", RIDGELESS, "test_error", 1): 0.819,
    ("tanh", RIDGELESS, "test_error", 1.25): 0.531,
    ("tanh", RIDGELESS, "test_error", 10): 0.238,
    ("tanh", RIDGELESS, "bmd", 0.1): 1.24,
    ("tanh", RIDGELESS, "bmd", 1.1): 1.57,
    ("tanh", RIDGELESS, "bmd", 10): 1.24,
    ("tanh", RIDGELESS, "bmd_marginal", 0.1): 1.15,
    ("tanh", RIDGELESS, "bmd_marginal", 1): 1.93,
    ("tanh", RIDGELESS, "bmd_marginal", 10): 1.33,
    ("tanh", RIDGE, "test_error", 0.1): 0.171,
    ("tanh", RIDGE, "test_error", 10): 0.097,
    ("tanh", RIDGE, "bmd", 0.2): 1.316,
    ("relu", RIDGELESS, "bmd", 2): 1.62,
}
SHOWN = {RIDGELESS: (0.1, 0.2, 0.5, 0.8, 1, 1.1, 1.25, 2, 10), RIDGE: (0.1, 0.2, 0.5, 1, 10)}  # N / P


def claim(id_: str, setting: str, theory: float | str, one: Measured, rule: Rule, why: str = "") -> Claim:
    return Claim(id_, STATEMENTS[id_], setting, theory, "", one, rule, why=why, source=SOURCE)


def claims(curves: dict[tuple[str, float], Curves], items: float) -> list[Claim]:
    """What T8 says: peaks without a ridge, and with one the error's fall and the peak of BMD."""
    rows = []
    for name in ("tanh", "relu"):
        free, ridged = curves[name, RIDGELESS], curves[name, RIDGE]
        how, window = f"{name} features of digits with 20 % random labels", f"N {free.window}"
        peaks = {metric: free.summit(metric) for metric in METRICS}
        for metric, what in METRICS.items():
            setting = f"{how}, without a ridge: location of the peak of {what}, N / P"
            peak = peaks[metric]
            found = measured(window, peak.units, peak.location / items, [v / items for v in peak.location_interval])
            why = "beyond N = P, as in the reference" if (name, metric) == ("relu", "bmd") else ""
            rows.append(claim("H5", setting, 1.0, found, Rule("near theory", 0.1), why))
            if metric != "test_error":
                rows.append(_detector(f"{how}, without a ridge: location of the peak of {what}", peak, peaks, window))
        rise = measured(window, ridged.seeds, *over_seeds(ridged.of["test_error"], _rise, bounds=(0, 1)))
        setting = f"{how}, ridge {RIDGE:g}: largest rise of the test error with N"
        rows.append(claim("H4", setting, "", rise, Rule("below", 0.01)))
        for metric in ("bmd", "bmd_marginal"):
            top = ridged.summit(metric)
            found = measured(window, top.units, top.prominence, top.prominence_interval)
            setting = f"{how}, ridge {RIDGE:g}: height of the peak of {METRICS[metric]} above the ends"
            why = f"at N / P = {top.location / items:.2g}"
            rows.append(claim("H4", setting, "", found, Rule("above", 0.0), why))
    return rows


def _detector(what: str, peak: Peak, peaks: dict[str, Peak], window: str) -> Claim:
    apart = shift(peak, peaks["test_error"])
    found = measured(window, peak.units, apart.ratio, apart.interval)
    return claim("H11", f"{what} over that of the test error", 1.0, found, Rule("near theory", 0.1))


def _rise(values: Array) -> float:
    mean = values.mean(1)
    return float((mean - np.minimum.accumulate(mean)).max())


def table(curves: dict[tuple[str, float], Curves], items: float) -> str:
    """The table of docs/bmd.md: mean [95 % interval] / reference."""
    lines = [["activation", "ridge", "N / P", "test error", "BMD, -1 and +1", "mean dimension, marginals"], ["---"] * 6]
    for (name, ridge), one in curves.items():
        for i, x in enumerate(one.x):
            if (at := x / items) not in SHOWN[ridge]:
                continue
            row = [name, "none" if ridge == RIDGELESS else f"{ridge:g}", f"{at:g}"]
            for metric in METRICS:
                known = REFERENCE.get((name, ridge, metric, at))
                mean = shown(*over_seeds(one.of[metric][i], np.mean, bounds=(0, np.inf)))
                row.append(mean if known is None else f"{mean} / {known:.4g}")
            lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Read the sweep, and write the claims."""
    asked = arguments(__doc__, Path("docs/bmd"))
    folder = asked.results / STORE
    if not (folder / "ledger").is_dir():
        raise SystemExit(f"{folder} does not exist: run `{SOURCE.partition(';')[0]}` first")
    frame = pl.from_arrow(cells(Store(str(folder)))[0])
    assert isinstance(frame, pl.DataFrame)
    frame = frame.filter(pl.col("status") == "ok")
    curves = {
        (name, ridge): Curves.along(frame.filter(activation=name, ridge=ridge), "width", list(METRICS))
        for name in ("tanh", "relu")
        for ridge in (RIDGELESS, RIDGE)
    }
    items = float(frame["n_train"][0])
    rows = sorted(claims(curves, items), key=lambda one: (int(one.id[1:]), one.setting))
    write_claims(asked.claims / "bmd_digits.csv", rows)
    print(markdown(rows))
    print(summary(rows))
    print(table(curves, items))


if __name__ == "__main__":
    main()
