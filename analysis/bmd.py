"""Boolean mean dimension and double descent (arXiv 2401.12610): its claims on random features, with theory beside.

    raysweep run sweeps/bmd_twin_peaks.yaml          (and bmd_data, bmd_logistic, bmd_dimension)
    python analysis/bmd.py [--results results] [--out docs/bmd]

Writes the table of claims analysis/claims/bmd.csv (or --claims), which docs/papers.md shows, and the curves with
intervals beside the theory as twin_peaks.csv. From it bmd_figure.py draws twin_peaks.png and makes the tables of
docs/bmd.md, which are printed. Peaks are those of `raysweep.laws.peak`, with intervals over seeds; other intervals draw
whole seeds. The theory is the replica calculation at the sizes of the sweep, on whose grid its peaks are read off in
the same way. "Without a ridge" is at 1e-6. The best ridge of each width is chosen on half of the seeds and used on the
others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from bmd_figure import ITEMS, METRICS, WIDTH, rows_of, save, tables
from common import CLAIMS, Array, measured, over_seeds

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.errors import FitError
from raysweep.experiments.bmd import EXPERIMENT
from raysweep.laws.maximum import Peak, find_peak, shift
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.theory.bmd import activation
from raysweep.theory.replica import square

STATEMENTS = {
    "H1": "the Boolean mean dimension (BMD) peaks at the interpolation threshold, together with the test error",
    "H2": "far above the threshold BMD decays slowly to a low value",
    "H3": "replica theory gives a formula for BMD",
    "H4": "at the best regularisation the error is monotone, but BMD still peaks",
    "H5": "other models and set-ups behave alike",
    "H6": "BMD peaks against the size of the training set, too",
    "H7": "adversarial initialisation gives a higher BMD and worse generalisation",
    "H8": "models that are more robust to attacks have a lower BMD",
    "H9": "contributions of single pixels to BMD",
    "H10": "BMD under other distributions of inputs",
    "H11": "BMD alone locates the double descent",
}
RIDGELESS, FIXED = 1e-6, 0.01


class Curves:
    """Means and seeds of one setting along a scale.

    Attributes:
        x: [scales].
        of: Each metric, [scales, seeds].
        theory: Each metric, [scales].
        ridge: [scales].
    """

    def __init__(self, frame: pl.DataFrame, x: str) -> None:
        wide = {name: frame.pivot(on="seed", index=x, values=name).sort(x) for name in METRICS}
        self.x = wide["bmd"][x].to_numpy().astype(float)
        self.of = {name: one.drop(x).to_numpy().astype(float) for name, one in wide.items()}
        first = frame.group_by(x).agg(pl.col("^.*_theory$", "ridge").first()).sort(x)
        self.ridge = first["ridge"].to_numpy().astype(float)
        self.theory = {name: first[f"{name}_theory"].to_numpy().astype(float) for name in METRICS}

    @property
    def seeds(self) -> int:
        return int(self.of["bmd"].shape[1])

    def peak(self, name: str) -> Peak:
        """The peak of the mean over seeds.

        Raises:
            FitError: It lies at an end.
        """
        values = self.of[name]
        x, seed = np.repeat(self.x, self.seeds), np.tile(np.arange(self.seeds), len(self.x))
        return find_peak(x, values.ravel(), seed)

    def expected_peak(self, name: str) -> tuple[float, float, float]:
        """Location, height and prominence of the theory's peak on the same grid."""
        both = np.repeat(self.theory[name], 2)
        found = find_peak(np.repeat(self.x, 2), both, np.tile([0, 1], len(self.x)))
        return found.location, found.height, found.prominence

    @property
    def window(self) -> str:
        return f"{self.x[0]:g} to {self.x[-1]:g}"


def read(results: Path, name: str) -> pl.DataFrame:
    """The finished cells of one sweep, with the theory of each."""
    folder = results / f"bmd_{name}"
    if not (folder / "ledger").is_dir():
        raise SystemExit(f"{folder} does not exist: run `raysweep run sweeps/bmd_{name}.yaml` first")
    frame = pl.from_arrow(cells(Store(str(folder)))[0])
    assert isinstance(frame, pl.DataFrame)
    frame = frame.filter(pl.col("status") == "ok")
    settings = frame.select(axis.name for axis in EXPERIMENT.axes if axis.name != "seed").unique()
    theory = pl.from_arrow(EXPERIMENT.theory(settings.to_arrow(), set(METRICS)))
    assert isinstance(theory, pl.DataFrame)
    keyed = settings.hstack(theory.select(pl.col(METRICS).name.suffix("_theory")))
    return frame.join(keyed, on=settings.columns, how="left")


def located(peak: Peak, unit: float, window: str) -> Measured:
    return measured(window, peak.units, peak.location / unit, [end / unit for end in peak.location_interval])


def of_width(frame: pl.DataFrame, rows: list[Claim]) -> list[pl.DataFrame]:
    """H1 to H4 and H11 against width; the rows of the table."""
    found = []
    for name, part in _split(frame, "activation"):
        items = float(part["n_train"][0])
        by_ridge = {ridge: Curves(one, "width") for ridge, one in _split(part, "ridge")}
        free, fixed, best = by_ridge[RIDGELESS], by_ridge[FIXED], chosen(part)
        _free(f"{name}, square loss without a ridge", free, items, rows)
        _formula(str(name), [free, fixed], rows)
        for how, one in ((f"ridge {FIXED:g}", fixed), ("best ridge of each width", best)):
            _ridged(f"{name}, square loss, {how}", one, items, rows)
        for setting, one in (("no ridge", free), (f"ridge {FIXED:g}", fixed), ("best ridge", best)):
            found.append(rows_of(one, WIDTH, "square", str(name), setting, items))
    return found


def chosen(part: pl.DataFrame) -> Curves:
    """Curves at the ridge of least test error, chosen for each width on even seeds, of odd seeds."""
    even = part.filter(pl.col("seed") % 2 == 0)
    best = even.group_by("width", "ridge").agg(pl.col("test_error").mean()).sort("test_error")
    best = best.group_by("width", maintain_order=True).first().select("width", "ridge")
    return Curves(part.filter(pl.col("seed") % 2 == 1).join(best, on=["width", "ridge"]), "width")


def _free(name: str, free: Curves, items: float, rows: list[Claim]) -> None:
    """H1, H2 and H11 without a ridge."""
    window = f"N {free.window}"
    bmd, error = free.peak("bmd"), free.peak("test_error")
    for what, peak in (("BMD", bmd), ("the test error", error)):
        setting = f"{name}: location of the peak of {what}, N / P"
        rows.append(_claim("H1", setting, 1.0, located(peak, items, window), Rule("near theory", 0.03)))
    at = int(np.flatnonzero(free.x == items)[0])
    for metric, what, near in (("bmd", "BMD", 0.1), ("test_error", "test error", 0.03)):
        value = measured(f"N = {items:g}", free.seeds, *over_seeds(free.of[metric][at], np.mean))
        known = float(free.theory[metric][at])
        rows.append(_claim("H1", f"{name}: {what} at N = P", known, value, Rule("near theory", near)))
    last = measured(f"N = {free.x[-1]:g}", free.seeds, *over_seeds(free.of["bmd"][-1], np.mean))
    setting = f"{name}: BMD at N / P = {free.x[-1] / items:g}"
    rows.append(_claim("H2", setting, float(free.theory["bmd"][-1]), last, Rule("near theory", 0.02)))
    keep = free.x >= 2 * items

    def slope(values: Array) -> float:
        return -float(np.polyfit(np.log(free.x[keep]), np.log(values.mean(1) - 1), 1)[0])

    found = measured(
        f"N {free.x[keep][0]:g} to {free.x[-1]:g}", free.seeds, *over_seeds(free.of["bmd_formula"][keep], slope)
    )
    known = slope(free.theory["bmd_formula"][keep][:, None])
    setting = f"{name}: exponent of BMD - 1 (by the formula on trained weights) in N"
    rows.append(_claim("H2", setting, known, found, Rule("near theory", 0.05)))
    _detector(f"{name}, against N", bmd, error, window, rows)


def _detector(name: str, bmd: Peak, error: Peak, window: str, rows: list[Claim]) -> None:
    """H11: the location of BMD's peak over that of the error's, seeds paired."""
    apart = shift(bmd, error)
    ratio = measured(window, bmd.units, apart.ratio, apart.interval)
    setting = f"{name}: location of the peak of BMD over that of the test error"
    rows.append(_claim("H11", setting, 1.0, ratio, Rule("near theory", 0.03)))


def _formula(name: str, curves: Sequence[Curves], rows: list[Claim]) -> None:
    """H3: flips beside the formula on the same weights, and beside the theory."""
    for how, one in zip(("without a ridge", f"ridge {FIXED:g}"), curves, strict=True):
        ratio = one.of["bmd"] / one.of["bmd_formula"]
        corrected = one.theory["bmd"] / one.theory["bmd_formula"]
        found = measured(f"N {one.window}", one.seeds, *over_seeds(ratio, lambda v: np.exp(np.log(v).mean()), log=True))
        setting = f"{name}, {how}: BMD by flips over the formula on the trained weights, mean over N"
        known = float(np.exp(np.log(corrected).mean()))
        rows.append(
            _claim("H3", setting, known, found, Rule("near theory", 0.03), "the theory has the flips of D = 100")
        )
        beyond = one.of["bmd"] / one.theory["bmd"][:, None]
        found = measured(f"N {one.window}", one.seeds, *over_seeds(beyond, _geometric, log=True))
        setting = f"{name}, {how}: BMD by flips over the replica theory with the flips of D = 100, mean over N"
        rows.append(_claim("H3", setting, 1.0, found, Rule("near theory", 0.03)))


def _ridged(name: str, one: Curves, items: float, rows: list[Claim]) -> None:
    """H4: the error's rise, and BMD's peak."""
    window = f"N {one.window}"

    def rise(values: Array) -> float:
        mean = values.mean(1)
        return float((mean - np.minimum.accumulate(mean)).max())

    found = measured(window, one.seeds, *over_seeds(one.of["test_error"], rise, bounds=(0, 1)))
    setting = f"{name}: largest rise of the test error with N"
    rows.append(_claim("H4", setting, rise(one.theory["test_error"][:, None]), found, Rule("below", 0.01)))
    try:
        peak, (at, height, above) = one.peak("bmd"), one.expected_peak("bmd")
    except FitError as error:
        rows.append(Claim("H4", STATEMENTS["H4"], f"{name}: peak of BMD", why=str(error)))
        return
    found = measured(window, peak.units, peak.prominence, peak.prominence_interval)
    setting = f"{name}: height of the peak of BMD above the ends"
    rows.append(_claim("H4", setting, above, found, Rule("above", 0.0), f"the theory's peak is {height:.3f} high"))
    setting = f"{name}: location of the peak of BMD, N / P"
    why = "below N = P, where the error without a ridge peaks" if at < 0.9 * items else ""
    rows.append(_claim("H4", setting, at / items, located(peak, items, window), Rule("near theory", 0.1), why))
    _alarm(name, one, peak, items, "twin_peaks", rows)


def _alarm(name: str, one: Curves, bmd: Peak, items: float, sweep: str, rows: list[Claim]) -> None:
    """H11 where the error has no peak that BMD could locate."""
    if _peak_or_none(one, "test_error") is None:
        setting, why = f"{name}: location of the peak of BMD, N / P", "BMD peaks, but the test error does not"
        found, source = located(bmd, items, f"N {one.window}"), _source(sweep)
        rows.append(
            Claim("H11", STATEMENTS["H11"], setting, "none", "", found, judged="not supported", why=why, source=source)
        )


def of_items(frame: pl.DataFrame, rows: list[Claim]) -> list[pl.DataFrame]:
    """H6 and H11 against the size of the training set; the rows of the table."""
    width, curves = float(frame["width"][0]), []
    heights: dict[float | str, tuple[Array, float]] = {}
    for noise, part in _split(frame, "label_noise"):
        name = f"tanh, square loss, label noise {noise:g}"
        for ridge, one in ((ridge, Curves(own, "n_train")) for ridge, own in _split(part, "ridge")):
            bmd, (at, _, _) = one.peak("bmd"), one.expected_peak("bmd")
            how = "without a ridge" if ridge == RIDGELESS else f"ridge {ridge:g}"
            setting = f"{name}, {how}: location of the peak of BMD, P / N"
            near = 0.03 if ridge == RIDGELESS else 0.15
            known = 1.0 if ridge == RIDGELESS else at / width
            rows.append(
                _claim(
                    "H6",
                    setting,
                    known,
                    located(bmd, width, f"P {one.window}"),
                    Rule("near theory", near),
                    sweep="data",
                )
            )
            if ridge == RIDGELESS:
                top = int(np.flatnonzero(one.x == width)[0])
                heights[noise] = one.of["bmd"][top], float(one.theory["bmd"][top])
                error = _peak_or_none(one, "test_error")
                if error is not None:
                    _detector(f"{name}, {how}, against P", bmd, error, f"P {one.window}", rows)
            setting = f"label noise {noise:g}" + (f", ridge {ridge:g}" if ridge != RIDGELESS else "")
            curves.append(rows_of(one, ITEMS, "square", "tanh", setting, width))
    (low, (values, expected)), (high, (noisy, expected_noisy)) = sorted(heights.items())[:: len(heights) - 1]
    both = np.stack([noisy, values])
    found = measured("P = N", both.shape[1], *over_seeds(both, lambda v: v[0].mean() - v[1].mean()))
    setting = f"tanh, without a ridge: BMD at P = N under label noise {high:g} minus that under {low:g}"
    why = "0 in the limit of no ridge, where the closed form depends on neither labels nor noise"
    rows.append(_claim("H6", setting, expected_noisy - expected, found, Rule("near theory", 0.1), why, "data"))
    return curves


def of_logistic(frame: pl.DataFrame, rows: list[Claim]) -> list[pl.DataFrame]:
    """H1 and H3 under the logistic loss, whose threshold is separability; the rows of the table."""
    curves = []
    for name, part in _split(frame, "activation"):
        one, items = Curves(part, "width"), float(part["n_train"][0])
        ridge = float(part["ridge"][0])
        bmd, (at, _, _) = one.peak("bmd"), one.expected_peak("bmd")
        window, near = f"N {one.window}", Rule("near theory", 0.05)
        how = f"{name}, logistic loss, ridge {ridge:g}"
        why = "training items become separable there, and not at N = P"
        setting = f"{how}: location of the peak of BMD, N / P"
        rows.append(_claim("H1", setting, at / items, located(bmd, items, window), near, why, "logistic"))
        _alarm(how, one, bmd, items, "logistic", rows)
        beyond = one.of["bmd"] / one.theory["bmd"][:, None]
        found = measured(window, one.seeds, *over_seeds(beyond, _geometric, log=True))
        setting = f"{how}: BMD by flips over the replica theory with the flips of D = 100, mean over N"
        rows.append(_claim("H3", setting, 1.0, found, Rule("near theory", 0.03), sweep="logistic"))
        curves.append(rows_of(one, WIDTH, "logistic", str(name), f"ridge {ridge:g}", items))
    return curves


def of_dimension(frame: pl.DataFrame, rows: list[Claim]) -> None:
    """H3 at finite D: what the part of degree 2 adds to BMD far above the threshold."""
    for dim, part in _split(frame.filter(pl.col("ridge") == RIDGELESS), "dim"):
        setting = {name: part[name][0] for name in ("width", "n_train", "dim", "ridge")}
        of = activation(part["activation"][0])
        slope = of.slope_at(int(dim))
        limit, finite = (float(square(of, **setting, finite=how).bmd(slope)) for how in (False, True))
        values = part["bmd"].to_numpy() - limit
        found = measured(f"N = {setting['width']}", len(values), *over_seeds(values, np.mean))
        name = f"{of.name}, square loss without a ridge, N / P = 10, D = {dim}"
        why = "of order N / D^2: N features share D (D - 1) / 2 coefficients of degree 2"
        what = f"{name}: BMD minus the theory for infinitely many coefficients of degree 2"
        rows.append(_claim("H3", what, finite - limit, found, Rule("near theory", 0.005), why, "dimension"))


def _geometric(values: Array) -> float:
    """Geometric mean over scales of the mean over seeds, [scales, seeds]."""
    return float(np.exp(np.log(values.mean(1)).mean()))


def _peak_or_none(curves: Curves, name: str) -> Peak | None:
    try:
        return curves.peak(name)
    except FitError:
        return None


def _split(frame: pl.DataFrame, by: str) -> list[tuple[float | str, pl.DataFrame]]:
    """The rows of each value of a column, in their order."""
    return [(value, frame.filter(pl.col(by) == value)) for value in frame[by].unique().sort().to_list()]


def _claim(
    id_: str, setting: str, theory: float, one: Measured, rule: Rule, why: str = "", sweep: str = "twin_peaks"
) -> Claim:
    return Claim(id_, STATEMENTS[id_], setting, round(float(theory), 4), "", one, rule, why=why, source=_source(sweep))


def _source(sweep: str) -> str:
    return f"raysweep run sweeps/bmd_{sweep}.yaml; python analysis/bmd.py"


def main() -> None:
    """Read the sweeps, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs/bmd"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "bmd.csv")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    rows: list[Claim] = []
    curves = of_width(read(asked.results, "twin_peaks"), rows)
    curves += of_items(read(asked.results, "data"), rows)
    curves += of_logistic(read(asked.results, "logistic"), rows)
    of_dimension(read(asked.results, "dimension"), rows)
    table = pl.concat(curves)
    save(table, asked.out)
    rows.sort(key=lambda claim: (int(claim.id[1:]), claim.setting))
    write_claims(asked.claims, rows)
    print(markdown(rows))
    print(summary(rows))
    print(*tables(table), sep="\n\n")


if __name__ == "__main__":
    main()
