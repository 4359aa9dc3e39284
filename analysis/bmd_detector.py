"""The peak of the test error located by the Boolean mean dimension alone, over many worlds of random features.

    raysweep run sweeps/bmd_detector.yaml
    python analysis/bmd_detector.py [--results results] [--out results/bmd]

A world is a setting of loss, activation, teacher, noise, sizes and ridge. The detector is `raysweep.laws.peak` of BMD
against the width, as any user has it: it sees no test labels. The truth is where the theory's test error peaks, which
for the square loss without a ridge is N = P; an error that nowhere rises by more than .01 with the width has no peak.
Seeds are used alone (the highest point, without an interval), and in groups of 3, 6, 12 and 24. A group whose highest
mean is at an end of the grid has missed the peak; that counts as an error of the grid's whole span, log 25. Beside the
detector stands a baseline that always answers the centre of the grid, in the logarithm.

Writes the claims analysis/claims/bmd_detector.csv (or --claims), a table of all worlds and groups, detector.csv, and a
figure. Intervals of shares and medians draw whole worlds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from bmd import STATEMENTS
from bmd_common import printed
from common import CLAIMS, Array, measured, over_seeds, save
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule, markdown, summary, write_claims
from raysweep.errors import FitError
from raysweep.experiments.bmd import EXPERIMENT
from raysweep.laws.maximum import find_peak
from raysweep.laws.summit import vertices
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells

WORLD = ("loss", "activation", "teacher", "dim", "n_train", "label_noise", "target_noise", "ridge")
GROUPS = (1, 3, 6, 12, 24)  # seeds
RISE = 0.01  # of the test error with the width, that makes a peak
MISSED = 0.01  # of the training items, below which they count as separable
FINE = 300  # widths at which the theory is asked
DRAWS = 300
FEW = 5  # worlds, below which an interval over worlds says little
SPAN = float(np.log(25))  # of a grid of widths: the error of a detector that finds no peak
SOURCE = "raysweep run sweeps/bmd_detector.yaml; python analysis/bmd_detector.py"
KINDS = (
    ("square loss without a ridge", pl.col("ridge") < 1e-5),
    ("square loss, ridge 0.01", (pl.col("loss") == "square") & (pl.col("ridge") == 0.01)),
    ("square loss, ridge 0.1", (pl.col("loss") == "square") & (pl.col("ridge") == 0.1)),
    ("logistic loss, ridge 0.001", pl.col("loss") == "logistic"),
)


def located(frame: pl.DataFrame) -> pl.DataFrame:
    """A row for each world and group of seeds: the truth, and what the detector says."""
    rows: list[dict[str, Any]] = []
    for key, part in frame.group_by(WORLD, maintain_order=True):
        world = dict(zip(WORLD, key, strict=True))
        wide = {name: part.pivot(on="seed", index="width", values=name).sort("width") for name in ("bmd", "test_error")}
        x = wide["bmd"]["width"].to_numpy().astype(float)
        bmd, error = (one.drop("width").to_numpy() for one in wide.values())
        theory = expected(world, x) | {"centre": float(np.sqrt(x[0] * x[-1]))}
        for size, group, seeds in groups(bmd.shape[1]):
            row = {**world, "seeds": size, "group": group, **theory, **found(x, bmd[:, seeds])}
            if theory["truth"] is not None and size > 1:  # only beyond its dip is the peak of the error the highest
                beyond = x >= theory["dip"]
                own = found(x[beyond], error[beyond][:, seeds])
                row |= {f"error_{name}": own[name] for name in ("location", "low", "high")}
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def groups(seeds: int) -> Iterator[tuple[int, int, slice]]:
    for size in GROUPS:
        for group in range(seeds // size):
            yield size, group, slice(group * size, (group + 1) * size)


def expected(world: dict[str, Any], x: Array) -> dict[str, float | None]:
    """What the theory says within the range of x, None where there is nothing.

    `truth`, where the test error peaks; `dip`, its least before that; `rise`, by how much it rises; and `separable`,
    from where fewer than 1 % of training items are missed.
    """
    widths = np.unique(np.round(np.geomspace(x[0], x[-1], FINE)).astype(int))
    settings = pl.DataFrame({**{name: [value] * len(widths) for name, value in world.items()}, "width": widths})
    theory = pl.from_arrow(EXPERIMENT.theory(settings.to_arrow(), {"test_error", "train_error"}))
    assert isinstance(theory, pl.DataFrame)
    error, missed = (theory[name].cast(pl.Float64).to_numpy() for name in ("test_error", "train_error"))
    rise = error - np.minimum.accumulate(error)
    top = int(rise.argmax())
    inside, fitted = rise[top] > RISE and top < len(widths) - 1, np.flatnonzero(missed < MISSED)
    return {
        "truth": float(widths[top]) if inside else None,
        "dip": float(widths[error[: top + 1].argmin()]),
        "rise": float(rise[top]),
        "separable": float(widths[fitted[0]]) if len(fitted) else None,
    }


def found(x: Array, values: Array) -> dict[str, float | None]:
    """The peak of curves [scales, seeds]; None for what there is not."""
    seeds = values.shape[1]
    nothing = dict.fromkeys(("location", "low", "high", "prominence", "least"))
    if seeds == 1:
        inside = 0 < values[:, 0].argmax() < len(x) - 1
        return nothing | {"location": float(np.exp(vertices(np.log(x), values.T, 1)[0, 0])) if inside else None}
    try:
        one = find_peak(np.repeat(x, seeds), values.ravel(), np.tile(np.arange(seeds), len(x)), DRAWS)
    except FitError:
        return nothing
    return {
        "location": one.location,
        "low": one.location_interval[0],
        "high": one.location_interval[1],
        "prominence": one.prominence,
        "least": one.prominence_interval[0],
    }


def claims(table: pl.DataFrame) -> list[Claim]:
    """H11: how far off, how well covered, and how often without a peak."""
    rows: list[Claim] = []
    for kind, chosen in KINDS:
        part = table.filter(chosen)
        peaked, flat = part.filter(pl.col("truth").is_not_null()), part.filter(pl.col("truth").is_null())
        for size in (1, 6, 24):
            own = peaked.filter(pl.col("seeds") == size)
            if not len(own):
                continue
            name = f"{kind}, {_number(own)} with a peak of the error, {_seeds(size)}"
            what = f"{name}: median of |log(location of the peak of BMD / of the error)|"
            missed = f"{own['location'].null_count()} of {len(own)} found no peak, which counts as log 25"
            rows.append(_claim(what, own, _off, Rule("below", 0.1), why=missed, bounds=(0, np.inf)))
            why = f"for the centre the median is {_centred(_values(own)):.3g}"
            what = f"{name}: that median minus the one for the centre of the grid"
            rows.append(_claim(what, own, _gained, Rule("below", 0.0), why=why, bounds=(-np.inf, np.inf)))
            if size == 6:
                what = f"{name}: share of 95 % intervals of the location by BMD that hold the error's"
                rows.append(_claim(what, own, _covered, Rule("above", 0.85)))
        own = flat.filter(pl.col("seeds") == max(GROUPS))
        if len(own):
            what = f"{kind}, {_number(own)} without a peak of the error, {_seeds(max(GROUPS))}: share where BMD has one"
            why = "a peak of BMD alone does not show that the error has one"
            rows.append(_claim(what, own, _alarms, Rule("below", 0.1), why=why))
    own = table.filter((pl.col("loss") == "logistic") & (pl.col("seeds") == max(GROUPS)))
    what = f"{KINDS[-1][0]}, {_number(own)}: location of the peak of BMD over the width from which items are separable"
    why = "below 1 % of training items are missed there, by the theory; BMD peaks before"
    rows.append(_claim(what, own, _before, Rule("near theory", 0.1), 1.0, why, bounds=(0, np.inf)))
    return rows


def _errors(values: dict[str, Array]) -> Array:
    off = np.abs(np.log(values["location"] / values["truth"]))
    return np.where(np.isnan(off), SPAN, off)


def _off(values: dict[str, Array]) -> float:
    return float(np.median(_errors(values)))


def _centred(values: dict[str, Array]) -> float:
    return float(np.median(np.abs(np.log(values["centre"] / values["truth"]))))


def _gained(values: dict[str, Array]) -> float:
    return _off(values) - _centred(values)


def _before(values: dict[str, Array]) -> float:
    return float(np.nanmedian(values["location"] / values["separable"]))


def _covered(values: dict[str, Array]) -> float:
    held = (values["low"] <= values["truth"]) & (values["truth"] <= values["high"])
    return float(held.mean())


def _alarms(values: dict[str, Array]) -> float:
    return float((values["least"] > 0).mean())


def _claim(
    setting: str,
    rows: pl.DataFrame,
    statistic: Callable[[dict[str, Array]], float],
    rule: Rule,
    theory: float | str = "",
    why: str = "",
    bounds: tuple[float, float] = (0, 1),
) -> Claim:
    """A statistic over worlds and groups, with an interval from draws of whole worlds."""
    number = rows.select(pl.struct(WORLD).rank("dense")).to_series().to_numpy() - 1
    values = _values(rows)
    worlds = [np.flatnonzero(number == one) for one in range(int(number.max()) + 1)]

    if len(worlds) < FEW:
        why = "; ".join(part for part in (why, f"only {len(worlds)} worlds: the interval is rough") if part)

    def of_worlds(taken: npt.NDArray[np.int64]) -> float:
        at = np.concatenate([worlds[one] for one in taken])
        return statistic({name: value[at] for name, value in values.items()})

    value = measured("25 widths", int(max(GROUPS)), *over_seeds(np.arange(len(worlds)), of_worlds, bounds=bounds))
    return Claim("H11", STATEMENTS["H11"], setting, theory, "", value, rule, why=why, source=SOURCE)


def _values(rows: pl.DataFrame) -> dict[str, Array]:
    """Columns, NaN where there is nothing."""
    names = ("location", "low", "high", "least", "truth", "separable", "centre")
    return {name: rows[name].cast(pl.Float64).to_numpy() for name in names}


def overview(table: pl.DataFrame) -> pl.DataFrame:
    """The table of docs/bmd.md: worlds whose error has a peak."""
    rows: list[dict[str, Any]] = []
    for kind, chosen in KINDS:
        part = table.filter(chosen, pl.col("truth").is_not_null())
        for (size,), own in part.group_by("seeds", maintain_order=True):
            values = _values(own)
            rows.append(
                {
                    "worlds": f"{kind}, {_number(own)}",
                    "seeds": size,
                    "median": f"{_off(values):.3f}",
                    "9 in 10 below": f"{np.quantile(_errors(values), 0.9):.2g}",
                    "no peak found": f"{own['location'].null_count()} of {len(own)}",
                    "intervals that hold the truth": f"{_covered(values):.0%}" if size > 1 else "",
                    "median, centre of the grid": f"{_centred(values):.2f}",
                }
            )
    return pl.DataFrame(rows)


def _number(rows: pl.DataFrame) -> str:
    return f"{rows.select(pl.struct(WORLD).n_unique()).item()} worlds"


def _seeds(size: int) -> str:
    return "single seeds" if size == 1 else f"groups of {size} seeds" if size < max(GROUPS) else f"{size} seeds"


def draw(table: pl.DataFrame, file: Path) -> None:
    """Locations by BMD against the true ones; and the prominences of peaks with and without one of the error."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4))
    for colour, (kind, chosen) in zip(COLOURS, KINDS, strict=False):
        part = table.filter(chosen & (pl.col("seeds") == 6) & pl.col("location").is_not_null())
        own = part.filter(pl.col("truth").is_not_null())
        if len(own):
            x, y = own["truth"].to_numpy(), own["location"].to_numpy()
            ends = np.abs(np.stack([own["low"].to_numpy(), own["high"].to_numpy()]) - y)
            spread = np.exp(0.06 * np.random.default_rng(0).uniform(-1, 1, len(x)))
            left.errorbar(x * spread, y, yerr=ends, fmt="o", ms=3, lw=0.6, color=colour, label=kind)
        for peaked, style in ((True, "-"), (False, "--")):
            prominence = np.sort(part.filter(pl.col("truth").is_not_null() == peaked)["prominence"].to_numpy())
            if len(prominence):
                right.step(prominence, 1 - np.arange(len(prominence)) / len(prominence), style, color=colour)
    ends = np.array(left.get_xlim())
    left.plot(ends, ends, "k-", lw=0.6)
    left.set(xscale="log", yscale="log", xlabel="peak of the test error (theory), N", ylabel="peak of BMD, N")
    left.legend(fontsize=7, title="groups of 6 seeds, 95 % intervals", title_fontsize=7)
    right.set(xscale="log", xlabel="prominence of the peak of BMD", ylabel="share above")
    right.set_title("solid: the error has a peak; dashed: it has none", fontsize=8)
    save(fig, file)


def main() -> None:
    """Read the sweep, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/bmd"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "bmd_detector.csv")
    asked = parser.parse_args()
    folder = asked.results / "bmd_detector"
    if not (folder / "ledger").is_dir():
        raise SystemExit(f"{folder} does not exist: run `raysweep run sweeps/bmd_detector.yaml` first")
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    frame = pl.from_arrow(cells(Store(str(folder)))[0])
    assert isinstance(frame, pl.DataFrame)
    table = located(frame.filter(pl.col("status") == "ok"))
    table.write_csv(asked.out / "detector.csv")
    with mpl.rc_context(STYLE):
        draw(table, asked.out / "detector.png")
    rows = claims(table)
    write_claims(asked.claims, rows)
    print(markdown(rows))
    print(summary(rows))
    printed("worlds with a peak of the error", overview(table))


if __name__ == "__main__":
    main()
