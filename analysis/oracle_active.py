"""Active learning against the exact posterior (arXiv 2602.00315, section 4.4): claims H11 and H12 on the digits' world.

    raysweep run sweeps/oracle_active.yaml
    python analysis/oracle_active.py [--results results] [--out results/oracle]

A curve is the mean accuracy over seeds against the number of labelled items. Its area is over the logarithm of that
number, as a share of the width of the range. Queries to a target: where the curve first reaches the accuracy that
`entropy` has at half of the items, interpolated in the logarithm. All strategies of a seed begin with the same items
and initial parameters, so intervals draw whole seeds, with all strategies of a seed together.

Writes the claims analysis/claims/oracle_active.csv (or --claims), active.csv with every strategy's numbers, and a
figure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from common import Array, arguments, measured, over_seeds, save
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule, summary, write_claims
from raysweep.experiments.active import STRATEGIES
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells

SOURCE = "raysweep run sweeps/oracle_active.yaml; python analysis/oracle_active.py"
H11 = "acquisition by exact KL wins"
H12 = "all acquisition rules end alike"
WORTH = ("random", "entropy", "margin", "bald", "core_set")  # that a user could run: they read no posterior


def curves(frame: pl.DataFrame, metric: str) -> tuple[Array, dict[str, Array]]:
    """Labelled items, and {strategy: [items, seeds]}."""
    x = np.array(sorted(frame["labelled"].unique().to_list()), dtype=float)
    found = {}
    for strategy in STRATEGIES:
        wide = frame.filter(pl.col("strategy") == strategy).pivot(on="seed", index="labelled", values=metric)
        found[strategy] = wide.sort("labelled").drop("labelled").to_numpy()
    return x, found


def area(x: Array, y: Array) -> float:
    """Mean height over log x of the mean curve; y [items, seeds]."""
    return float(np.trapezoid(y.mean(1), np.log(x)) / np.log(x[-1] / x[0]))


def queries(x: Array, y: Array, target: float) -> float:
    """Where the mean curve first reaches a target; infinite if it never does."""
    mean = y.mean(1)
    at = int(np.argmax(mean >= target))
    if mean[at] < target:
        return float("inf")
    if at == 0:
        return float(x[0])
    share = (target - mean[at - 1]) / (mean[at] - mean[at - 1])
    return float(np.exp(np.log(x[at - 1]) + share * np.log(x[at] / x[at - 1])))


def ratio(x: Array, both: Array) -> float:
    """Queries of the first of two strategies to the accuracy that the second has at half of the items, over its own.

    Args:
        both: [2, items, seeds].
    """
    half = int(np.argmin(np.abs(x - x[-1] / 2)))
    return queries(x, both[0], float(both[1].mean(1)[half])) / x[half]


def gain(both: Array, random: Array, x: Array) -> float:
    """Area gained over random by the first of two strategies, as a multiple of the second's gain."""
    base = area(x, random)
    return (area(x, both[0]) - base) / (area(x, both[1]) - base)


def gains(x: Array, both: Array) -> bool:
    """Whether the first of two strategies has a larger area than the second, with the whole interval."""
    _, (low, _) = over_seeds(both, lambda v: area(x, v[0]) - area(x, v[1]))
    return bool(low > 0)


def claims(frame: pl.DataFrame) -> list[Claim]:
    """H11 and H12 at every temperature."""
    rows: list[Claim] = []
    for temperature in sorted(frame["temperature"].unique().to_list()):
        own = frame.filter(pl.col("temperature") == temperature)
        x, accuracy = curves(own, "accuracy")
        seeds, bits = accuracy["random"].shape[1], own["aleatoric"].mean()
        world = f"digits' world, aleatoric {bits:.2f} nats"
        window = f"{x[0]:.0f} to {x[-1]:.0f} labelled items"

        def add(
            id_: str,
            statement: str,
            setting: str,
            paper: float | str,
            values: Array,
            statistic: Callable[[Array], float],
            rule: Rule,
            why: str = "",
            theory: float | str = "",
            *,
            log: bool = False,
            bounds: tuple[float, float] = (-np.inf, np.inf),
            world: str = world,
            window: str = window,
            seeds: int = seeds,
        ) -> None:
            found = measured(window, seeds, *over_seeds(values, statistic, log=log, bounds=bounds))
            rows.append(
                Claim(id_, statement, f"{world}: {setting}", theory, paper, found, rule, why=why, source=SOURCE)
            )

        pair = np.stack([accuracy["epistemic"], accuracy["entropy"]])
        what = "queries of exact KL over those of entropy to the accuracy that entropy has at half of the items"
        add("H11", H11, what, 0.522, pair, lambda both, x=x: ratio(x, both), Rule("near paper", 0.1), log=True)
        three = np.stack([accuracy["epistemic"], accuracy["entropy"], accuracy["random"]])
        if gains(x, three[1:]):  # else the ratio divides by what may be 0
            what = "gain in area over random, exact KL over entropy"
            add("H11", H11, what, 1.6, three, lambda v, x=x: gain(v[:2], v[2], x), Rule("near paper", 0.2))
        what = "area of exact KL minus the best of the rules that read no posterior"
        rest = np.stack([accuracy["epistemic"], *(accuracy[s] for s in WORTH)])
        best = lambda v, x=x: area(x, v[0]) - max(area(x, one) for one in v[1:])  # noqa: E731
        add("H11", H11, what, "", rest, best, Rule("above", 0.0), "a bound that knows the posterior")
        what = "negative control: area of maximal aleatoric entropy minus random"
        control = np.stack([accuracy["aleatoric"], accuracy["random"]])
        less = lambda v, x=x: area(x, v[0]) - area(x, v[1])  # noqa: E731
        add("H11", H11, what, "", control, less, Rule("below", 0.0), "ambiguous items teach little")
        what = "spread of final accuracies, the best rule minus the worst, without the negative control"
        ends = np.stack([accuracy[s] for s in (*WORTH, "epistemic")])
        spread = lambda v: float(np.ptp(v[:, -1].mean(-1)))  # noqa: E731
        add("H12", H12, what, 0.01, ends, spread, Rule("below", 0.02), bounds=(0, 1))
    return rows


def table(frame: pl.DataFrame) -> pl.DataFrame:
    """Area, final accuracy and queries to the target of every strategy, with intervals; empty where not every draw of
    seeds reaches the target.
    """
    rows = []
    for temperature in sorted(frame["temperature"].unique().to_list()):
        x, accuracy = curves(frame.filter(pl.col("temperature") == temperature), "accuracy")
        for strategy, values in accuracy.items():
            row: dict[str, object] = {"temperature": temperature, "strategy": strategy}
            pair = np.stack([values, accuracy["entropy"]])
            for name, of, statistic in (
                ("area", values, lambda v, x=x: area(x, v)),
                ("final_accuracy", values, lambda v: float(v[-1].mean())),
                ("queries_over_entropy", pair, lambda v, x=x: ratio(x, v)),
            ):
                if not np.isfinite(statistic(of)):  # the target is never reached
                    row |= dict.fromkeys((name, f"{name}_low", f"{name}_high"))
                    continue
                value, ends = over_seeds(of, statistic, log=name == "queries_over_entropy")
                known = [float(v) if np.isfinite([value, *ends]).all() else None for v in (value, *ends)]
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), known, strict=True))
            rows.append(row)
    return pl.DataFrame(rows)


def draw(frame: pl.DataFrame, file: Path) -> None:
    """Accuracy and epistemic error against labelled items, one column per temperature."""
    temperatures = sorted(frame["temperature"].unique().to_list())
    fig, axes = plt.subplots(2, len(temperatures), figsize=(3.4 * len(temperatures), 6), sharex=True, squeeze=False)
    for column, temperature in enumerate(temperatures):
        own = frame.filter(pl.col("temperature") == temperature)
        for row, metric in enumerate(("accuracy", "epistemic")):
            x, found = curves(own, metric)
            for colour, (strategy, values) in zip(COLOURS, found.items(), strict=False):
                reads = strategy in ("epistemic", "aleatoric")
                axes[row, column].plot(x, values.mean(1), color=colour, ls="--" if reads else "-", label=strategy)
            axes[row, column].set_xscale("log")
        axes[0, column].axhline(own["bayes_accuracy"].mean(), color="0.5", lw=0.8)
        axes[1, column].set_yscale("log")
        axes[0, column].set_title(f"aleatoric {own['aleatoric'].mean():.2f} nats")
        axes[1, column].set_xlabel("labelled items")
    axes[0, 0].set_ylabel("accuracy (grey: Bayes)")
    axes[1, 0].set_ylabel("epistemic error (nats)")
    axes[0, -1].legend(fontsize=7, title="dashed: reads the posterior", title_fontsize=7)
    save(fig, file)


def main() -> None:
    given = arguments(__doc__, Path("results/oracle"))
    frame = pl.DataFrame(cells(Store(str(given.results / "oracle_active")))[0]).filter(pl.col("status") == "ok")
    rows = claims(frame)
    write_claims(given.claims / "oracle_active.csv", rows)
    table(frame).write_csv(given.out / "active.csv", float_precision=4)
    with plt.rc_context(STYLE):
        draw(frame, given.out / "active.png")
    print(summary(rows))


if __name__ == "__main__":
    main()
