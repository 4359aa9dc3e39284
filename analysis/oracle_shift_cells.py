"""The ten settings of arXiv 2602.00315 (appendix G, table 6), computed as there: claims H9 and H10 with the distance of
the class frequencies alone, whatever noise comes with it.

    raysweep run sweeps/oracle_shift_cells.yaml
    python analysis/oracle_shift_cells.py [--results results] [--out results/oracle]

The learning rate and time are those with the smallest mean epistemic error on the selection sample where training is
not shifted; all settings use them. A drop is the accuracy of that setting minus a setting's, with the same seeds.
`oracle_shift.py` compares shifts at equal exact distances instead, which this table does not.

Writes the claims analysis/claims/oracle_shift_cells.csv (or --claims) and shift_cells.csv with every setting.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from common import Array, arguments, measured, over_seeds

from raysweep.claims import Claim, Rule, summary, write_claims
from raysweep.store import Store
from raysweep.sweep.current import cells

SOURCE = "raysweep run sweeps/oracle_shift_cells.yaml; python analysis/oracle_shift_cells.py"
SETTING = "digits' world, ten settings of training items, tested without a shift"
H9 = "the kind of a shift matters more than its size"
H10 = "the KL of a shift hardly predicts the loss of accuracy"
DIGITS = "an MLP on a world of digits; the paper's ResNet-50 was pretrained on ImageNet"


def chosen(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows at the learning rate and time that are best without a shift."""
    plain = frame.filter((pl.col("train_kl") == 0) & (pl.col("train_noise") == 0))
    best = plain.group_by("lr", "steps").agg(pl.col("epistemic_select").mean()).sort("epistemic_select", "lr", "steps")
    return frame.join(best.head(1).select("lr", "steps"), on=["lr", "steps"])


def accuracies(frame: pl.DataFrame) -> dict[tuple[float, float], Array]:
    """[seeds] accuracy, by (KL of the class frequencies, noise)."""
    own = frame.sort("seed").group_by("train_kl", "train_noise", maintain_order=True).agg("accuracy")
    return {
        (kl, noise): np.array(values, dtype=float)
        for kl, noise, values in own.sort("train_kl", "train_noise").iter_rows()
    }


def claims(found: dict[tuple[float, float], Array]) -> list[Claim]:
    plain = found[0.0, 0.0]
    drops = np.stack([plain - values for values in found.values()])  # [settings, seeds]
    kl = np.array([one for one, _ in found])
    at = {setting: i for i, setting in enumerate(found)}
    seeds, window = len(plain), f"KL of the class frequencies 0 to {kl.max():g} nats, noise 0 to .15"

    def line(values: Array) -> tuple[float, float]:
        x = np.broadcast_to(kl[:, None], values.shape).ravel()
        slope = np.polyfit(x, values.ravel(), 1)[0]
        return float(np.corrcoef(x, values.ravel())[0, 1] ** 2), float(slope)

    def claim(
        id_: str, statement: str, what: str, paper: float | str, statistic: object, rule: Rule, why: str = ""
    ) -> Claim:
        bounds = (0.0, 1.0) if what.startswith("R^2") else (-np.inf, np.inf)
        value, ends = over_seeds(drops, statistic, bounds=bounds)  # type: ignore[arg-type]
        where = f"{SETTING}: {what}"
        return Claim(
            id_, statement, where, "", paper, measured(window, seeds, value, ends), rule, why=why, source=SOURCE
        )

    noisiest, rarest = at[0.0, 0.15], at[0.293, 0.0]
    return [
        claim("H10", H10, "R^2 of a line in the KL of the class frequencies", 0.042,
              lambda v: line(v)[0], Rule("near paper", 0.1)),
        claim("H9", H9, "drop by noise of .15 minus drop by the strongest imbalance", 0.2047,
              lambda v: float((v[noisiest] - v[rarest]).mean()), Rule("above", 0.0), DIGITS),
        claim("H9", H9, "drop by the strongest imbalance", 0.0029,
              lambda v: float(v[rarest].mean()), Rule("near paper", 0.01), DIGITS),
        claim("H9", H9, "slope of the drop in the KL of the class frequencies", "-0.127 per nat: the wrong sign",
              lambda v: line(v)[1], Rule("below", 0.0),
              "this axis leaves out the KL of noise: the paper's noisiest setting lies at 0"),
    ]  # fmt: skip


def table(found: dict[tuple[float, float], Array]) -> pl.DataFrame:
    """Accuracy and its drop in every setting, with intervals."""
    rows, plain = [], found[0.0, 0.0]
    for (kl, noise), values in found.items():
        row: dict[str, float] = {"kl": kl, "noise": noise}
        for name, own in (("accuracy", values), ("drop", plain - values)):
            value, (low, high) = over_seeds(own, np.mean)
            row |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
        rows.append(row)
    return pl.DataFrame(rows)


def main() -> None:
    given = arguments(__doc__, Path("results/oracle"))
    frame = pl.DataFrame(cells(Store(str(given.results / "oracle_shift_cells")))[0]).filter(pl.col("status") == "ok")
    found = accuracies(chosen(frame))
    rows = claims(found)
    write_claims(given.claims / "oracle_shift_cells.csv", rows)
    table(found).write_csv(given.out / "shift_cells.csv", float_precision=5)
    print(summary(rows))


if __name__ == "__main__":
    main()
