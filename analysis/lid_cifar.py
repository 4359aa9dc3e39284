"""Latent difficulty in human labels: CIFAR-10H, heads on frozen features (arXiv 2601.03764, section 6).

    python analysis/cifar_features.py patches --data cifar10_jpeg_60k.npz
    python analysis/cifar_features.py resnet --data cifar10_jpeg_60k.npz --device cuda
    python analysis/lid_cifar.py --votes cifar10h.npz [--results results/lid_cifar]

A linear head (ridge 1e-9) learns one human vote per image on N of 8,000 test images; the other 2,000 test it. An
attempt is a fresh human vote and succeeds if it equals the head's answer; its chance q is estimated from some fifty
votes. The excess risk is the mean squared distance of the head's ten outputs to the votes' shares. The exponent is that
of 1 - pass@k = mean (1 - q)^k over k = 1 to 100 with q as counted (`raw`) and with half a vote for every class
(`smoothed`), and over k = 1 to 40 without bias (`unbiased`, k votes drawn without replacement). 16 splits; medians with
95 % intervals over splits. Writes exponents.csv and cifar10h.png, and the table of claims analysis/claims/lid_cifar.csv
(or --claims). Either set of features may be missing: its claims are then `not run`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from common import CLAIMS, Array, measured, over_seeds, save, slope
from matplotlib import pyplot as plt
from scipy.optimize import nnls

from raysweep.claims import Claim, Rule, markdown, write_claims
from raysweep.laws.attempts import unbiased_failure
from raysweep.laws.tail import Tail
from raysweep.reports.style import COLOURS, STYLE

COMPONENTS = 256  # at most, per feature set
SIZES = [16, 32, 64, 96, 128, 160, 200, 256, 320, 400, 600, 1000, 2000, 4000, 8000]
SEEDS = 16
TEST = 2000
RIDGE = 1e-9
WINDOW, FEW = (1, 100), (1, 40)  # windows of k; no image has fewer votes than the second
RARE = (0.05, 0.5)  # window of the share of votes for an image's label
KINDS = ("raw", "smoothed", "unbiased")
FEATURES = ("patches", "resnet")
STATEMENTS = {
    "H9": "CIFAR-10H: L_gen turns at N = d",
    "H9-2": "CIFAR-10H: beyond d, L_gen falls as 1 / N",
    "H9-3": "CIFAR-10H: the exponent of 1 - pass@k rises with N from .16 to .27",
    "H9-4": "CIFAR-10H: the exponent saturates",
}


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


def heads(name: str, x: Array, counts: npt.NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    """One row per size: excess risk, accuracy, and exponents."""
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


def claims(name: str, d: int, values: dict[str, Array]) -> list[Claim]:
    """H9 for one set of features, from excess risks and exponents [sizes, splits]."""
    peak = over_seeds(values["l_gen"], lambda v: SIZES[int(np.median(v, 1).argmax())] / d, log=True)
    off = over_seeds(values["l_gen"], lambda v: noise_law(np.median(v, 1), d)[1], bounds=(0, np.inf))
    found = [
        ("H9", "N of the peak over d", 1.0, 1.0, "N = 16 to 8,000", peak, Rule("near paper", 0.1), ""),
        ("H9-2", "rms error of E + A d / (N - d - 1), relative", 0.0, "1 / N", "N > 1.5 d", off, Rule("below", 0.05),
         "a floor E is left, which a linear head cannot pass"),
    ]  # fmt: skip
    at = [SIZES.index(n) for n in (16, 4000, 8000)]
    for kind in ("raw", "smoothed"):
        v, window = values[kind][at], f"k = {WINDOW[0]} to {WINDOW[1]}"
        level = "the level depends on how votes that were never cast are counted"
        for end, n, paper in ((0, "16", 0.16), (2, "8,000", 0.27)):
            one = over_seeds(v[end], np.median)
            setting = f"exponent at N = {n}, {kind} shares"
            found.append(("H9-3", setting, "", paper, window, one, Rule("near paper", 0.02), level))
        rise = over_seeds(v, lambda w: np.median(w[2] - w[0]))
        found.append(
            ("H9-3", f"rise from N = 16 to 8,000, {kind} shares", "", 0.11, window, rise, Rule("above", 0.0), "")
        )
        late = over_seeds(v, lambda w: np.median(w[2] - w[1]) / np.median(w[2] - w[0]))
        setting = f"share of that rise beyond N = 4,000, {kind} shares"
        found.append(("H9-4", setting, 0.0, 0.0, window, late, Rule("below", 0.1), ""))
    return [
        Claim(i, STATEMENTS[i], f"{setting} ({name}, d = {d})", theory, paper,
              measured(window, SEEDS, *value), rule, why=why, source=source(name))
        for i, setting, theory, paper, window, value, rule, why in found
    ]  # fmt: skip


def source(name: str) -> str:
    """The commands that measure the claims of one set of features."""
    return f"python analysis/cifar_features.py {name} --data FILE; python analysis/lid_cifar.py --votes FILE"


def not_run(name: str) -> list[Claim]:
    """H9 for features that are missing."""
    why = f"{name} features were not made: `python analysis/cifar_features.py {name}` on a GPU"
    return [Claim(i, said, f"{name} features", why=why, source=source(name)) for i, said in STATEMENTS.items()]


def difficulty(counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> None:
    """Print the tail of human difficulty: how often few votes name the label, and a perfect head's exponent."""
    hits, trials = counts[np.arange(len(counts)), labels], counts.sum(1)
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

    found, ends = over_seeds(np.arange(len(counts)), tails)
    shown = (
        f"P(q <= e) over e = {RARE[0]} to {RARE[1]} grows as e^",
        "tail a of a Beta",
        f"exponent of a perfect head over k = {FEW[0]} to {FEW[1]}:",
    )
    for word, value, low, high in zip(shown, found, *ends, strict=True):
        print(f"human votes: {word} {value:.2f} [{low:.2f}, {high:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("results/lid_cifar"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "lid_cifar.csv")
    given = parser.parse_args()
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    votes = np.load(given.votes)
    counts = votes["counts"].astype(np.int64)
    difficulty(counts, votes["labels"].astype(np.int64))
    files = [file for name in FEATURES if (file := given.results / f"{name}.npz").is_file()]
    if not files:
        raise SystemExit(f"No features in {given.results}: run `python analysis/cifar_features.py patches` first")
    said: list[Claim] = []
    rows, dims = [], {}
    for file in files:
        x = whitened(np.load(file)["features"].astype(np.float64))
        dims[file.stem] = x.shape[1]
        rows += [row for seed in range(SEEDS) for row in heads(file.stem, x, counts, seed)]
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
        said += claims(name, d, wide)
        medians = {value: over_seeds(of, lambda v: np.median(v, axis=-1)) for value, of in wide.items()}
        for i, n in enumerate(SIZES):
            columns = {v: mid[i] for v, (mid, _) in medians.items()}
            columns |= {f"{v}_low": both[0][i] for v, (_, both) in medians.items()}
            columns |= {f"{v}_high": both[1][i] for v, (_, both) in medians.items()}
            table.append({"features": name, "d": d, "n_train": n, **columns})
        left.plot(SIZES, medians["l_gen"][0], "o-", ms=3.5, color=colour, label=f"{name} (d = {d})")
        left.fill_between(SIZES, *medians["l_gen"][1], color=colour, alpha=0.2, lw=0)
        left.axvline(d, color=colour, lw=0.8, ls=":")
        for kind, line in (("smoothed", "-"), ("raw", "--")):
            right.plot(SIZES, medians[kind][0], "o" + line, ms=3.5, color=colour, label=f"{name}, {kind}")
            right.fill_between(SIZES, *medians[kind][1], color=colour, alpha=0.2, lw=0)
        mid = medians["l_gen"][0]
        (floor, noise), off = noise_law(mid, d)
        peak = f"{mid.max():.3g} at its peak, N = {SIZES[int(mid.argmax())]} (d = {d})"
        print(f"{name}: L_gen {mid[0]:.2f} at N = 16; {peak}; {mid[-1]:.3f} at 8,000")
        print(f"  beyond 1.5 d it is {floor:.3f} + {noise:.3f} d / (N - d - 1), to {off:.1%} (rms)")
        for kind in KINDS:
            (mid, (low, high)), window = medians[kind], FEW if kind == "unbiased" else WINDOW
            at = [SIZES.index(n) for n in (16, 128, 1000, 4000, 8000)]
            each = ", ".join(f"{SIZES[i]}: {mid[i]:.3f} [{low[i]:.3f}, {high[i]:.3f}]" for i in at)
            print(f"{name}: exponent over k = {window[0]} to {window[1]}, {kind}, at N = {each}")
    left.set(xscale="log", yscale="log", xlabel="images N", ylabel="excess risk (median, 95 % of 16 splits)")
    left.legend(title="dotted: N = d")
    right.set(xscale="log", xlabel="images N", ylabel="exponent over k = 1 to 100")
    right.legend()
    said += [claim for name in FEATURES if name not in dims for claim in not_run(name)]
    said.sort(key=lambda claim: claim.id)
    write_claims(given.claims, said)
    print(markdown(said))
    pl.DataFrame(table).write_csv(given.results / "exponents.csv")
    save(fig, given.results / "cifar10h.png")


if __name__ == "__main__":
    main()
