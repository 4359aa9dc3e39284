"""Latent difficulty in human labels: CIFAR-10H, heads on frozen features (arXiv 2601.03764, section 6).

    python analysis/features.py patches --data cifar10_jpeg_60k.npz
    python analysis/features.py resnet --data cifar10_jpeg_60k.npz --device cuda
    python analysis/lid_cifar.py --votes cifar10h.npz [--results results/lid_cifar]

A linear head (ridge 1e-9) learns one human vote an image on N of 8,000 test images; the other 2,000 test it. An attempt
is a fresh human vote and hits if it equals the head's answer; an image's chance q of that is known by some fifty votes.
The excess risk is the mean squared distance of the head's ten outputs to the votes' shares. The exponent is that of
1 - pass@k = mean (1 - q)^k over k = 1 to 100 with q as counted (`raw`) and with half a vote for every class
(`smoothed`), and over k = 1 to 40 without bias (`unbiased`, k votes drawn without replacement). 16 splits; medians with
95 % intervals over splits. Writes exponents.csv and cifar10h.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from common import Array, over_seeds, save, slope
from matplotlib import pyplot as plt
from scipy.optimize import nnls

from raysweep.laws.attempts import unbiased_failure
from raysweep.laws.tail import Tail
from raysweep.reports.style import COLOURS, STYLE

COMPONENTS = 256  # at most; of a feature set
SIZES = [16, 32, 64, 96, 128, 160, 200, 256, 320, 400, 600, 1000, 2000, 4000, 8000]
SEEDS = 16
TEST = 2000
RIDGE = 1e-9
WINDOW, FEW = (1, 100), (1, 40)  # of k; the second is within every image's votes
RARE = (0.05, 0.5)  # of the share of votes that an image's label has
KINDS = ("raw", "smoothed", "unbiased")


def whitened(features: Array) -> Array:
    """[images, d] principal components of variance 1 and a constant."""
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.argsort(values)[::-1][:COMPONENTS]
    parts = centred @ vectors[:, kept] / np.sqrt(values[kept])
    return np.column_stack([parts, np.ones(len(parts))])


def head(x: Array, y: Array) -> Array:
    """[d, classes] ridge regression, in the smaller of its two forms."""
    n, d = x.shape
    if n < d:
        return np.asarray(x.T @ np.linalg.solve(x @ x.T / n + RIDGE * np.eye(n), y) / n)
    return np.asarray(np.linalg.solve(x.T @ x / n + RIDGE * np.eye(d), x.T @ y / n))


def measured(name: str, x: Array, counts: npt.NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    """A row a size: excess risk, accuracy, and exponents."""
    rng = np.random.default_rng(seed)
    test, pool = np.split(rng.permutation(len(x)), [TEST])
    share = counts / counts.sum(1, keepdims=True)
    votes = np.eye(10)[(share.cumsum(1) < rng.random((len(x), 1))).sum(1)]
    trials = counts[test].sum(1)
    k, few = (np.unique(np.geomspace(*window, 15).round()) for window in (WINDOW, FEW))
    rows = []
    for n in SIZES:
        said = x[test] @ head(x[pool[:n]], votes[pool[:n]])
        hits = counts[test, said.argmax(1)]
        curves = {
            "raw": (k, (1 - (hits / trials)[:, None]) ** k),
            "smoothed": (k, (1 - ((hits + 0.5) / (trials + 5))[:, None]) ** k),
            "unbiased": (few, unbiased_failure(hits, trials, few)),
        }
        rows.append(
            {
                "features": name,
                "n_train": n,
                "seed": seed,
                "l_gen": float(((said - share[test]) ** 2).sum(1).mean()),
                "hit": float((hits / trials).mean()),
                "never": float((hits == 0).mean()),
                **{kind: float(slope(at, each.mean(0))) for kind, (at, each) in curves.items()},
            }
        )
    return rows


def noise_law(l_gen: Array, d: int) -> tuple[Array, float]:
    """(E, A) of E + A d / (N - d - 1) fitted to excess risks of sizes beyond 1.5 d, and the rms relative error.

    d / (N - d - 1) is what label noise adds to least squares on Gaussian features; ~ 1 / N once N >> d.
    """
    n = np.array(SIZES, dtype=float)
    far = n > 1.5 * d
    columns = np.stack([np.ones(far.sum()), d / (n[far] - d - 1)], axis=1) / l_gen[far, None]
    found = nnls(columns, np.ones(len(columns)))[0]
    return found, float(np.sqrt(np.mean((columns @ found - 1) ** 2)))


def difficulty(counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> None:
    """The tail of human difficulty: how often few votes name the label, and how a perfect head's pass@k goes on."""
    hits, trials = counts[np.arange(len(counts)), labels], counts.sum(1)
    rng = np.random.default_rng(0)
    few = np.unique(np.geomspace(*FEW, 15).round())
    edges = np.geomspace(*RARE, 12)

    def tails(at: npt.NDArray[np.int64]) -> Array:
        q = hits[at] / trials[at]
        below = np.array([max((q <= e).mean(), 0.5 / len(q)) for e in edges])
        return np.array(
            [
                np.polyfit(np.log(edges), np.log(below), 1)[0],
                float(Tail.fitted(hits[at], trials[at]).a[0]),
                float(slope(few, unbiased_failure(hits[at], trials[at], few).mean(0))),
            ]
        )

    found = tails(np.arange(len(counts)))
    drawn = np.array([tails(rng.integers(0, len(counts), len(counts))) for _ in range(200)])
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    told = (
        f"P(q <= e) over e = {RARE[0]} to {RARE[1]} grows as e^",
        "tail a of a Beta",
        f"exponent of a perfect head over k = {FEW[0]} to {FEW[1]}:",
    )
    for word, value, low, high in zip(told, found, *ends, strict=True):
        print(f"human votes: {word} {value:.2f} [{low:.2f}, {high:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("results/lid_cifar"))
    given = parser.parse_args()
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    votes = np.load(given.votes)
    counts = votes["counts"].astype(np.int64)
    difficulty(counts, votes["labels"].astype(np.int64))
    files = [given.results / f"{name}.npz" for name in ("patches", "resnet")]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise SystemExit(f"{missing[0]} is not there: run `python analysis/features.py {Path(missing[0]).stem}` first")
    rows, dims = [], {}
    for file in files:
        x = whitened(np.load(file)["features"].astype(np.float64))
        dims[file.stem] = x.shape[1]
        rows += [row for seed in range(SEEDS) for row in measured(file.stem, x, counts, seed)]
    frame = pl.DataFrame(rows)
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4))
    table = []
    for (name, d), colour in zip(dims.items(), COLOURS, strict=False):
        wide = {
            value: frame.filter(pl.col("features") == name)
            .pivot(on="seed", index="n_train", values=value)
            .sort("n_train")
            .drop("n_train")
            .to_numpy()
            for value in ("l_gen", "hit", "never", *KINDS)
        }
        told = {value: over_seeds(of, lambda v: np.median(v, axis=-1)) for value, of in wide.items()}
        for i, n in enumerate(SIZES):
            columns = {v: mid[i] for v, (mid, _) in told.items()}
            columns |= {f"{v}_low": both[0][i] for v, (_, both) in told.items()}
            columns |= {f"{v}_high": both[1][i] for v, (_, both) in told.items()}
            table.append({"features": name, "d": d, "n_train": n, **columns})
        left.plot(SIZES, told["l_gen"][0], "o-", ms=3.5, color=colour, label=f"{name} (d = {d})")
        left.fill_between(SIZES, *told["l_gen"][1], color=colour, alpha=0.2, lw=0)
        left.axvline(d, color=colour, lw=0.8, ls=":")
        for kind, line in (("smoothed", "-"), ("raw", "--")):
            right.plot(SIZES, told[kind][0], "o" + line, ms=3.5, color=colour, label=f"{name}, {kind}")
            right.fill_between(SIZES, *told[kind][1], color=colour, alpha=0.2, lw=0)
        mid = told["l_gen"][0]
        (floor, noise), off = noise_law(mid, d)
        peak = f"{mid.max():.3g} at its peak, N = {SIZES[int(mid.argmax())]} (d = {d})"
        print(f"{name}: L_gen {mid[0]:.2f} at N = 16; {peak}; {mid[-1]:.3f} at 8,000")
        print(f"  beyond 1.5 d it is {floor:.3f} + {noise:.3f} d / (N - d - 1), to {off:.1%} (rms)")
        for kind in KINDS:
            (mid, (low, high)), window = told[kind], FEW if kind == "unbiased" else WINDOW
            at = [SIZES.index(n) for n in (16, 128, 1000, 4000, 8000)]
            each = ", ".join(f"{SIZES[i]}: {mid[i]:.3f} [{low[i]:.3f}, {high[i]:.3f}]" for i in at)
            print(f"{name}: exponent over k = {window[0]} to {window[1]}, {kind}, at N = {each}")
    left.set(xscale="log", yscale="log", xlabel="images N", ylabel="excess risk (median, 95 % of 16 splits)")
    left.legend(title="dotted: N = d")
    right.set(xscale="log", xlabel="images N", ylabel="exponent over k = 1 to 100")
    right.legend()
    pl.DataFrame(table).write_csv(given.results / "exponents.csv")
    save(fig, given.results / "cifar10h.png")


if __name__ == "__main__":
    main()
