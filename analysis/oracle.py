"""Scaling and limits (arXiv 2602.00315, sections 2 to 4.1): claims H1 to H7, in every world whose sweep was run.

    raysweep run sweeps/oracle_scaling.yaml --store results/oracle_scaling                       # the digits' world
    raysweep run sweeps/oracle_scaling.yaml --preset fashion --store results/oracle_scaling_fashion      # on a GPU
    raysweep run sweeps/oracle_scaling.yaml --preset cifar --store results/oracle_scaling_cifar          # on a GPU
    python analysis/oracle_rates.py STORE; raysweep run STORE/chosen.yaml --store STORE  # the second stage of each
    python analysis/oracle.py [--results results] [--out results/oracle]

Reported are the second stage's fresh seeds, at the rate that the first stage chose, each at the time with the smallest
epistemic error on the selection sample; every number is from the evaluation sample. Intervals draw whole seeds. Two
seeds share N / pool of their items, so that their mean varies more than their spread says: intervals are widened by
sqrt(1 + S r / (1 - r)) for S seeds and r = N / pool at the largest N in use, as if all spread came from the items.

Writes the claims analysis/claims/oracle.csv (or --claims), scaling.csv (a row per world, model and N),
scaling_fits.csv (a row per world, model and law), and a figure.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import arguments, measured
from oracle_curves import FLAT, METRICS, Curves, crossing, curves, exponent, flat_from, local_slopes, missed, widened
from oracle_figure import draw

from raysweep.claims import Claim, Rule, summary, write_claims
from raysweep.laws import fit
from raysweep.store import Store
from raysweep.sweep.current import cells

SOURCE = "raysweep run sweeps/oracle_scaling.yaml; python analysis/oracle_rates.py STORE; python analysis/oracle.py"
H1 = "cross-entropy is aleatoric plus epistemic error, exactly"
H2 = "floor of AFHQ: entropy, Bayes error, mutual information"
H3 = "floor of ImageNet-64: entropy and Bayes error; no matter which N and architecture, it dominates at large N"
H4 = "classifiers come near the Bayes accuracy at 50,000 samples"
H5 = "the epistemic error falls as a power of N"
H6 = "ImageNet-64: the epistemic error falls slowly, but still where the total loss is flat"
H7 = "ResNet-18 improves with N where ViT stalls"
STORES = {"digits": "oracle_scaling", "fashion": "oracle_scaling_fashion", "cifar": "oracle_scaling_cifar"}
NAMES = {"digits": "digits' world", "fashion": "Fashion-MNIST world", "cifar": "CIFAR-10 world"}
GAPS = {"resnet": 2.05, "vit": 2.80, "convnext": 1.75, "swin": 2.10, "mobilenet": 2.12}  # points, AFHQ, table 1
AFHQ = {"resnet": 0.039, "vit": 0.032, "convnext": 0.030, "swin": 0.030, "mobilenet": 0.135}  # exponents, figure 2d
IMAGENET = {"resnet": 0.019, "vit": 0.018, "convnext": 0.003, "swin": 0.027}  # figure 6
SIMULATED = "a small world, whose numbers need not be those of AFHQ or ImageNet"


def of_theory() -> list[Claim]:
    """H1 to H3 by calculation."""
    rng = np.random.default_rng(0)
    r, q = rng.dirichlet(np.full(10, 0.3), 1000), rng.dirichlet(np.full(10, 0.3), 1000)
    log_r, log_q = np.log(r + 1e-300), np.log(q + 1e-300)
    split = -(r * log_q).sum(-1) - (-(r * log_r).sum(-1) + (r * (log_r - log_q)).sum(-1))
    gap = measured("1,000 pairs of random distributions over 10 classes", 0, np.abs(split).max())
    rows = [Claim("H1", H1, "largest gap over random posteriors and predictions", "identity", "identity", gap,
                  Rule("below", 1e-12), source=SOURCE)]  # fmt: skip
    for id_, statement, entropy, error, classes in (("H2", H2, 0.012, 0.0023, 3), ("H3", H3, 0.10, 0.04031, 1000)):
        least = 2 * math.log(2) * error
        most = -error * math.log(error) - (1 - error) * math.log(1 - error) + error * math.log(classes - 1)
        for what, bound, side in (("least", least, "below"), ("largest", most, "above")):
            setting = f"{what} entropy in nats that a Bayes error of {100 * error:g} % and {classes:,} classes allow"
            rows.append(
                Claim(id_, statement, setting, "", entropy, measured("computed", 0, bound), Rule(side, entropy),  # type: ignore[arg-type]
                      why="so the paper's entropy and error are compatible", source=SOURCE)
            )  # fmt: skip
    bits = math.log2(3) - 0.012 / math.log(2)
    rows.append(
        Claim("H2", H2, "mutual information in bits that an entropy of .012 nats implies", bits, 1.577,
              measured("computed", 0, bits), Rule("near paper", 0.001),
              why="1.577 bits are an entropy of .0055 nats: the paper's numbers contradict each other", source=SOURCE)
    )  # fmt: skip
    for id_, statement, paper in (
        ("H2", H2, "0.012 nats, 0.23 %, 1.577 bits"),
        ("H3", H3, "0.10 nats, 4.031 %"),
    ):
        why = "neither the data nor the paper's flow are included"
        rows.append(Claim(id_, statement, "the paper's own world", "", paper, why=why, source=SOURCE))
    return rows


def of_world(rows: pl.DataFrame, found: list[Curves]) -> list[Claim]:
    """H1, and H3 to H7, in one world."""
    world = NAMES[found[0].world]
    split = (rows["total"] - rows["aleatoric"] - rows["epistemic"]).abs().max()
    window = f"{rows.height:,} rows"
    claims = [Claim("H1", H1, f"{world}: largest gap over all classifiers and times", "identity", "identity",
                    measured(window, 0, split), Rule("below", 1e-12), source=SOURCE)]  # fmt: skip
    spread = float(np.ptp(np.concatenate([c.values["aleatoric"].ravel() for c in found])))
    claims.append(Claim("H3", H3, f"{world}: spread of the floor over N, models and seeds, in nats", 0.0, "",
                        measured(window, 0, spread), Rule("near theory", 1e-9),
                        why="by construction", source=SOURCE))  # fmt: skip
    for one in found:
        claims += of_model(one)
    by_model = {c.model: c for c in found}
    for model, paper, tolerance in (("resnet", 6.15, 2.0), ("vit", 1.12, 0.2)):
        if model in by_model:
            one = by_model[model]
            value, ends = one.over_seeds(
                one.values["epistemic"], lambda v: v[0].mean() / v[-1].mean(), one.sizes[-1], log=True
            )
            what, rule = "epistemic error at the smallest N over that at the largest", Rule("near paper", tolerance)
            claims.append(claim(one, "H7", H7, what, paper, value, ends, rule, SIMULATED))
    if {"resnet", "vit"} <= set(by_model) and by_model["resnet"].frame["seed"].equals(by_model["vit"].frame["seed"]):
        a, b = by_model["resnet"], by_model["vit"]
        both = np.stack([a.values["epistemic"], b.values["epistemic"]])
        value, ends = a.over_seeds(
            both, lambda v: exponent(a.sizes, v[0]) - exponent(a.sizes, v[1]), a.sizes[-1]
        )  # fmt: skip
        claims.append(
            claim(a, "H7", H7, "exponent with E = 0 minus that of vit", 0.284, value, ends, Rule("above", 0.0))
        )
    return claims


def claim(
    one: Curves, id_: str, statement: str, what: str, paper: float | str, value: Any, ends: Any, rule: Rule,
    why: str = "",
) -> Claim:  # fmt: skip
    window = f"N {one.sizes[0]:,.0f} to {one.sizes[-1]:,.0f}, at most {one.horizon:,} steps"
    if one.still_falls:
        why = "; ".join(filter(None, [why, "not converged: at the largest N the last step is the best"]))
    found = measured(window, one.seeds, value, ends)
    setting = f"{NAMES[one.world]}, {one.model}: {what}"
    theory = 0.0 if rule.kind == "near theory" else ""
    return Claim(id_, statement, setting, theory, paper, found, rule, why=why, source=SOURCE)


def of_model(one: Curves) -> list[Claim]:
    """H3 to H6 of one model."""
    sizes, values, last = one.sizes, one.values, one.sizes[-1]
    rows = []
    value, ends = one.over_seeds(
        np.stack([values["epistemic"], values["total"]]),
        lambda v: v[0, -1].mean() / v[1, -1].mean(),
        last,
        within=(0, 1),
    )
    rows.append(claim(one, "H3", H3, "share of the epistemic error in the total loss at the largest N",
                      "below .5 in words; .68 (ResNet-18) and .91 (ViT) by its table 2", value, ends,
                      Rule("below", 0.5)))  # fmt: skip
    value, ends = one.over_seeds(100 * values["excess_error"], lambda v: v[-1].mean(), last)
    gap, what = GAPS.get(one.model), "accuracy below the Bayes classifier's at the largest N, in points"
    rule = Rule("near paper", 1.0) if gap else Rule("below", max(GAPS.values()))
    rows.append(claim(one, "H4", H4, what, gap or "", value, ends, rule, SIMULATED))
    value, ends = one.over_seeds(values["epistemic"], lambda v: exponent(sizes, v), last)
    id_, statement, papers = ("H6", H6, IMAGENET) if one.world == "cifar" else ("H5", H5, AFHQ)
    paper = papers.get(one.model)
    rows.append(claim(one, id_, statement, "exponent with E = 0", paper or "", value, ends,
                      Rule("near paper", 0.02) if paper else Rule("above", 0.0), SIMULATED))  # fmt: skip
    value, ends = one.over_seeds(values["epistemic"], lambda v: missed(sizes, v), last)
    what = "log of measured over predicted at the largest N, by a power of the smaller ones"
    rows.append(claim(one, id_, statement, what, "", value, ends, Rule("near theory", 0.1)))
    flat = flat_from(sizes, values["total"])
    if flat is None:
        value, ends = one.over_seeds(values["total"], lambda v: local_slopes(sizes, v).min(), last)
        rows.append(claim(one, "H6", H6, "smallest local slope of the total loss", "", value, ends, Rule("below", FLAT),
                          "no slope of the mean loss is below it, so there is no flat part to test"))  # fmt: skip
    else:
        value, ends = one.over_seeds(values["epistemic"], lambda v: local_slopes(sizes, v)[flat], last)
        at = f"N {sizes[flat]:,.0f} to {sizes[flat + 1]:,.0f}"
        what = f"local slope of the epistemic error at {at}, where the total loss's first is below {FLAT}"
        rows.append(claim(one, "H6", H6, what, "exponents .003 to .027", value, ends, Rule("above", FLAT)))
    return rows


def not_run(world: str) -> list[Claim]:
    why = f"`raysweep run sweeps/oracle_scaling.yaml --preset {world}` was not run, or only its first stage"
    return [
        Claim(id_, statement, NAMES[world], why=why, source=SOURCE)
        for id_, statement in (("H3", H3), ("H4", H4), ("H5", H5), ("H6", H6), ("H7", H7))
    ]


def table(found: list[Curves]) -> pl.DataFrame:
    """A row per world, model and N."""
    rows: list[dict[str, Any]] = []
    for one in found:
        slopes = {m: [*local_slopes(one.sizes, one.values[m]), None] for m in ("total", "epistemic")}
        falls = crossing(one.sizes, one.values["epistemic"].mean(1), one.values["aleatoric"].mean(1))
        for i, n in enumerate(one.sizes):
            row: dict[str, Any] = {"world": one.world, "model": one.model, "n_train": int(n), "lr": one.rates[i]}
            row |= {"steps": one.steps[i], "seeds": one.seeds}
            for metric in METRICS:
                value, (low, high) = one.over_seeds(one.values[metric][i], np.mean, n)
                row |= {metric: float(value), f"{metric}_low": float(low), f"{metric}_high": float(high)}
            row["dominates"] = "epistemic" if row["epistemic"] > row["aleatoric"] else "aleatoric"
            row["epistemic_below_aleatoric_from"] = falls
            row |= {f"{metric}_slope_to_next": slope[i] for metric, slope in slopes.items()}
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def fits(found: list[Curves]) -> pl.DataFrame:
    """A row per world, model and law (E = 0 and E >= 0), with the hold-out of the largest N."""
    frame = pl.concat([one.frame.with_columns(world=pl.lit(one.world), model=pl.lit(one.model)) for one in found])
    by = {(one.world, one.model): one for one in found}
    rows = []
    for law in ("power", "power+floor"):
        share = 1 / max(len(one.sizes) for one in found)
        for done in fit(frame, law, x="n_train", y="epistemic", by=["world", "model"], run="seed", holdout=share):
            one = by[done.group["world"], done.group["model"]]
            row: dict[str, Any] = {"world": one.world, "model": one.model, "law": law, "error": done.error}
            for name, value in done.params.items():
                ends = done.intervals.get(name, (math.nan, math.nan))
                within = None if name == "alpha" else (0.0, math.inf)
                low, high = widened(value, ends, one.widening(one.sizes[-1]), within=within)
                row |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
            row |= {"rmse_log": done.rmse_log, "aicc_above_best": {e.law: e.aicc for e in done.rivals}.get(law)}
            row |= {"holdout_rmse_log": done.holdout.rmse_log if done.holdout else None}
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def main() -> None:
    given = arguments(__doc__, Path("results/oracle"))
    claims, found = of_theory(), []
    for world, name in STORES.items():
        own: list[Curves] = []
        if (given.results / name / "env.json").is_file():
            rows = pl.DataFrame(cells(Store(str(given.results / name)))[0]).filter(pl.col("status") == "ok")
            try:
                own = curves(world, rows)
            except ValueError as error:
                print(error)
        claims += of_world(rows, own) if own else not_run(world)
        found += own
    write_claims(given.claims / "oracle.csv", claims)
    if found:
        table(found).write_csv(given.out / "scaling.csv", float_precision=5)
        fits(found).write_csv(given.out / "scaling_fits.csv", float_precision=5)
        draw(found, NAMES, given.out / "scaling.png")
    print(summary(claims))


if __name__ == "__main__":
    main()
