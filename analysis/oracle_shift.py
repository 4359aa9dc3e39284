"""Does the kind of a distribution shift matter more than its distance? Claims H9 and H10 of arXiv 2602.00315 at equal
exact distances, on the digits' world.

    raysweep run sweeps/oracle_shift.yaml
    python analysis/oracle_shift.py [--results results] [--out results/oracle]

The learning rate and the training time are those with the smallest mean epistemic error on the selection sample without
any shift; all shifts use them. A drop is the accuracy without a shift minus that with it, on test items of the same
seeds' classifiers, so it is paired. R^2 of the distance: of a straight line in KL through all drops of a setting (kinds
x distances x seeds); of the kind: of one mean per kind. Intervals draw whole seeds, with all their shifts together.

Writes the claims analysis/claims/oracle_shift.csv (or --claims), shift.csv with every mean, and a figure.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from common import Array, arguments, measured, over_seeds, save
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule, summary, write_claims
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells

SOURCE = "raysweep run sweeps/oracle_shift.yaml; python analysis/oracle_shift.py"
H9 = "the kind of a shift matters more than its size"
REVERSED = (
    "in the paper noise hurts most and imbalance hardly, but its noise is at a KL of 10^4 nats and more; this row was "
    "added after the figure had been seen"
)
H10 = "the KL of a shift hardly predicts the loss of accuracy"
KINDS = ("imbalance", "translation", "scale", "pixel")
METRICS = ("accuracy", "bayes_accuracy", "epistemic", "epistemic_base")


def chosen(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows at the learning rate and time that are best without a shift."""
    plain = frame.filter((pl.col("test_shift") == "none") & (pl.col("train_shift") == "none"))
    means = plain.group_by("lr", "steps").agg(pl.col("epistemic_select").mean(), pl.len())
    best = means.filter(pl.col("len") == pl.col("len").max()).sort("epistemic_select", "lr", "steps").row(0, named=True)
    return frame.filter((pl.col("lr") == best["lr"]) & (pl.col("steps") == best["steps"])).sort("seed")


def of(frame: pl.DataFrame, when: str, kind: str, kl: float, metric: str) -> Array:
    """[seeds] of one setting; `none` for no shift."""
    other = "train" if when == "test" else "test"
    own = frame.filter(
        (pl.col(f"{when}_shift") == kind) & (pl.col(f"{when}_kl") == kl) & (pl.col(f"{other}_shift") == "none")
    )
    return own[metric].cast(pl.Float64).to_numpy()


def distances(frame: pl.DataFrame, when: str) -> list[float]:
    return sorted(v for v in frame[f"{when}_kl"].unique().to_list() if v > 0)


def drops(frame: pl.DataFrame, when: str) -> Array:
    """[kinds, distances, seeds] loss of accuracy."""
    plain = of(frame, when, "none", 0.0, "accuracy")
    return np.stack(
        [[plain - of(frame, when, kind, kl, "accuracy") for kl in distances(frame, when)] for kind in KINDS]
    )


def explained_by_distance(drop: Array, kl: Array) -> float:
    """R^2 of a straight line in KL."""
    x = np.broadcast_to(kl[None, :, None], drop.shape).ravel()
    return float(np.corrcoef(x, drop.ravel())[0, 1] ** 2)


def explained_by_kind(drop: Array) -> float:
    """R^2 of one mean per kind."""
    own = drop.mean((1, 2), keepdims=True)
    return float(1 - ((drop - own) ** 2).sum() / ((drop - drop.mean()) ** 2).sum())


def claims(frame: pl.DataFrame) -> list[Claim]:
    """H9 and H10, for shifts at training and at test time."""
    rows = []
    for when in ("train", "test"):
        kl, drop = np.array(distances(frame, when)), drops(frame, when)
        seeds, window = drop.shape[2], f"KL {kl[0]:g} to {kl[-1]:g} nats"
        setting = f"digits' world, shift at {when} time, 4 kinds x {len(kl)} distances"

        def add(
            id_: str, statement: str, what: str, paper: float | str, statistic: object, rule: Rule, why: str = "",
            *, bounds: tuple[float, float] = (-np.inf, np.inf), drop: Array = drop, window: str = window,
            seeds: int = seeds, setting: str = setting,
        ) -> None:  # fmt: skip
            value, ends = over_seeds(drop, statistic, bounds=bounds)  # type: ignore[arg-type]
            where = f"{setting}: {what}"
            found = measured(window, seeds, value, ends)
            rows.append(Claim(id_, statement, where, "", paper, found, rule, why=why, source=SOURCE))

        add("H10", H10, "R^2 of a line in KL", 0.042, lambda v, kl=kl: explained_by_distance(v, kl),
            Rule("near paper", 0.1), bounds=(0.0, 1.0))  # fmt: skip
        add("H9", H9, "R^2 of the kind minus R^2 of a line in KL", "",
            lambda v, kl=kl: explained_by_kind(v) - explained_by_distance(v, kl), Rule("above", 0.0))  # fmt: skip
        most = f"drop of accuracy by pixel noise minus that by imbalance, at KL = {kl[-1]:g}"
        imbalance, pixel = KINDS.index("imbalance"), KINDS.index("pixel")
        add("H9", H9, most, "noise is the worst kind, imbalance the mildest",
            lambda v, a=imbalance, b=pixel: float((v[b, -1] - v[a, -1]).mean()),
            Rule("above", 0.0), REVERSED)  # fmt: skip
        for i, one in enumerate(kl):
            what = f"largest minus smallest mean drop of accuracy over kinds at KL = {one:g}"
            add(
                "H9",
                H9,
                what,
                "",
                lambda v, i=i: float(np.ptp(v[:, i].mean(-1))),
                Rule("above", 0.01),
                bounds=(0.0, 1.0),
            )
    return rows


def table(frame: pl.DataFrame) -> pl.DataFrame:
    """Mean and interval of every metric in every setting."""
    rows = []
    settings = [("test", "none", 0.0)] + [
        (when, kind, kl) for when in ("train", "test") for kind in KINDS for kl in distances(frame, when)
    ]
    for when, kind, kl in settings:
        row: dict[str, object] = {"when": when, "kind": kind, "kl": kl}
        for metric in METRICS:
            values = of(frame, when, kind, kl, metric)
            if np.isfinite(values).all():
                value, (low, high) = over_seeds(values, np.mean)
                row |= {metric: float(value), f"{metric}_low": float(low), f"{metric}_high": float(high)}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def draw(frame: pl.DataFrame, file: Path) -> None:
    """Drop of accuracy against distance, by kind; under test shifts also the drop of the Bayes classifier."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axis, when in zip(axes, ("train", "test"), strict=True):
        kl, drop = distances(frame, when), drops(frame, when)
        plain = of(frame, when, "none", 0.0, "bayes_accuracy").mean()
        for colour, kind, own in zip(COLOURS, KINDS, drop, strict=False):
            mean, ends = over_seeds(own, lambda v: v.mean(-1))
            axis.errorbar(kl, mean, np.abs(ends - mean), color=colour, marker="o", ms=4, label=kind)
            if when == "test" and kind != "pixel":
                bayes = [plain - of(frame, when, kind, one, "bayes_accuracy").mean() for one in kl]
                axis.plot(kl, bayes, color=colour, ls=":")
        axis.set_xscale("log")
        axis.set_xlabel("KL(shifted || world), nats")
        axis.set_title(f"shift at {'training' if when == 'train' else 'test'} time")
        axis.axhline(0, color="0.6", lw=0.8)
    axes[0].set_ylabel("drop of accuracy")
    axes[1].legend(fontsize=8, title="dotted: the Bayes classifier's", title_fontsize=7)
    save(fig, file)


def main() -> None:
    given = arguments(__doc__, Path("results/oracle"))
    frame = pl.DataFrame(cells(Store(str(given.results / "oracle_shift")))[0]).filter(pl.col("status") == "ok")
    frame = chosen(frame)
    rows = claims(frame)
    write_claims(given.claims / "oracle_shift.csv", rows)
    table(frame).write_csv(given.out / "shift.csv", float_precision=5)
    with mpl.rc_context(STYLE):
        draw(frame, given.out / "shift.png")
    print(summary(rows))


if __name__ == "__main__":
    main()
