"""Peaks of curves: known ones are found, intervals cover them, and a maximum at an end of the range is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.special import ndtri, stdtrit

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import peaks_coverage

from raysweep import laws
from raysweep.errors import FitError
from raysweep.laws.maximum import Peak, find_peak, shift

Array = npt.NDArray[np.float64]
X = np.geomspace(30, 3000, 30)
AT = 280.0
CURVES: dict[str, Callable[[Array], Array]] = {
    "smooth": lambda t: np.exp(-2 * t**2),
    "broad": lambda t: np.exp(-(t**2) / 3),
    "cusp": lambda t: np.exp(-2 * np.abs(t)),
    "lopsided": lambda t: np.exp(1 - 2 * t - np.exp(-2 * t)),
}


def curve(kind: str, x: Array = X) -> Array:
    return CURVES[kind](np.log(x / AT))


def sample(kind: str, seeds: int, noise: float, draw: int) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """x, y and seed of rows with errors of each row and of each seed."""
    rng = np.random.default_rng(draw)
    y = curve(kind) + noise * (rng.standard_normal((seeds, len(X))) + rng.standard_normal((seeds, 1)))
    return np.tile(X, seeds), y.ravel(), np.repeat(np.arange(seeds), len(X))


@pytest.mark.parametrize("kind", sorted(CURVES))
@pytest.mark.parametrize(("seeds", "noise"), [(5, 0.1), (20, 0.02), (20, 0.2)])
def test_intervals_cover_the_peak(kind: str, seeds: int, noise: float) -> None:
    """At 95 %, at least 9 in 10 of 150 data sets: binomial, 3 standard errors below .95; heights a little less."""
    found = [find_peak(*sample(kind, seeds, noise, i), draws=200, seed=i) for i in range(150)]
    low, high = np.array([one.location_interval for one in found]).T
    assert ((low <= AT) & (high >= AT)).mean() >= 0.9
    below, above = np.array([one.height_interval for one in found]).T
    assert ((below <= 1) & (above >= 1)).mean() >= 0.85
    assert np.median(high / low) < 3 if kind == "broad" else np.median(high / low) < 1.6  # and is not covered by width


def test_a_parabola_is_found_exactly_and_in_all_of_its_points() -> None:
    x = np.array([1.0, 3.0, 4.0, 10.0, 30.0])
    y = 2 - (np.log(x / 5)) ** 2
    found = find_peak(np.tile(x, 3), np.concatenate([y - 0.1, y, y + 0.1]), np.repeat([0, 1, 2], 5))
    assert (found.location, found.height) == pytest.approx((5, 2))
    assert found.prominence == pytest.approx(2 - y[0] if y[0] > y[-1] else 2 - y[-1])
    assert (found.points, found.scales, found.window, found.units) == (5, 5, (1.0, 30.0), 3)
    assert found.height_interval[0] < 2 - 0.1  # what seeds share moves the height, but not the location
    assert np.log(found.location_interval[1] / found.location_interval[0]) < 0.25


@pytest.mark.parametrize(("kept", "end"), [(slice(0, 12), "largest"), (slice(18, 30), "smallest")])
def test_a_maximum_at_an_end_is_refused(kept: slice, end: str) -> None:
    x = X[kept]
    with pytest.raises(FitError, match=f"must lie inside the range of x, but lies at the {end} of 12 values"):
        find_peak(np.tile(x, 2), np.tile(curve("smooth", x), 2), np.repeat([0, 1], 12))


def test_a_curve_that_only_falls_has_no_peak_above_its_ends() -> None:
    rng = np.random.default_rng(2)
    x, y = np.tile(X, 8), np.tile(1 / X * 0.01, 8) + 0.1 * rng.standard_normal(240)
    found = find_peak(x, y, np.repeat(np.arange(8), 30))
    assert "no_prominence" in found.notes
    assert found.location_interval[1] / found.location_interval[0] > 3


@pytest.mark.parametrize(
    ("shape", "design", "location", "height"),
    [
        ("rational", "20 scales, 10 seeds", 0.9, 0.9),
        ("skewed", "30 scales, 20 seeds, heavy tails", 0.86, 0.9),  # its curvature jumps ninefold at the peak
        ("error of random features", "30 scales, 20 seeds, heavy tails", 0.9, 0.86),  # pointed: higher between scales
    ],
)
def test_intervals_cover_peaks_of_other_shapes(shape: str, design: str, location: float, height: float) -> None:
    """A reduced tests/benchmarks/peaks_coverage.py, whose JSON has all shapes and designs."""
    found = peaks_coverage.covered(shape, peaks_coverage.DESIGNS[design], 100, 200, seed=5)
    assert found["location"] >= location
    assert found["height"] >= height
    assert found["alarm"] > 0.9
    assert found["width"] < 0.5


@pytest.mark.parametrize("shape", ["constant", "stairs"])
def test_curves_that_do_not_rise_rarely_have_a_peak_above_their_ends(shape: str) -> None:
    """The highest of twenty noisy means is no peak, though it lies inside: at most 1 in 40, 3 standard errors above."""
    found = peaks_coverage.covered(shape, peaks_coverage.DESIGNS["20 scales, 10 seeds"], 100, 200, seed=5)
    assert found["found"] > 0.7
    assert found["alarm"] <= 0.07


def test_a_peak_that_its_scales_hardly_resolve_is_located_to_about_their_distance() -> None:
    x = np.geomspace(1, 1000, 7)
    y = np.exp(-((np.log(x / 40) / 0.8) ** 2))
    found = find_peak(np.tile(x, 3), np.concatenate([y - 0.01, y, y + 0.01]), np.repeat([0, 1, 2], 7))
    assert "coarse" in found.notes
    assert np.log(found.location_interval[1] / found.location_interval[0]) > np.log(x[1] / x[0])
    fine = np.geomspace(1, 1000, 31)
    y = np.exp(-((np.log(fine / 40) / 0.8) ** 2))
    resolved = find_peak(np.tile(fine, 3), np.concatenate([y - 0.01, y, y + 0.01]), np.repeat([0, 1, 2], 31))
    assert "coarse" not in resolved.notes


def test_units_that_share_no_scale_are_drawn_within_their_scale() -> None:
    x, y, _ = sample("smooth", 6, 0.05, 3)
    found = find_peak(x, y)
    assert found.units == 6
    low, high = found.location_interval
    assert low < AT < high < 1.3 * low
    with pytest.raises(FitError, match="2 runs at each scale, but there is 1 over 30 scales"):
        find_peak(X, curve("smooth"))


@pytest.mark.parametrize(
    ("x", "y", "draws", "message"),
    [
        ([1.0, 2.0], [0.0, 1.0], 200, "at least 3 values of x, but there are 2"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 0.0], 200, "one positive x and one finite y per point, but got x = 0 at 2 of 6"),
        ([1.0, 2.0, 3.0], [0.0, np.nan, 0.0], 200, "but got y = nan at 2 of 6 points"),
        ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], 200, r"mean of y must vary, but is 0\.1 at all 3 values of x.*Choose"),
        ([1.0, 2.0, 3.0], [0.0, 1.0, 0.0], 50, r"at least 100 draws.*Give `bootstrap=1000`"),
    ],
)
def test_what_makes_no_sense_is_refused(x: list[float], y: list[float], draws: int, message: str) -> None:
    with pytest.raises(FitError, match=message):
        find_peak(x * 2, y * 2, np.repeat([0, 1], len(x)), draws)


def test_a_shift_of_paired_curves_is_narrower_and_covers_its_value() -> None:
    """What a seed does to the location of both peaks cancels in the ratio."""
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for draw in range(40):
        moved = 0.15 * rng.standard_normal((12, 1))
        t = np.log(X / AT) - moved
        first, second = (
            CURVES["smooth"](t - np.log(ratio)) + 0.02 * rng.standard_normal((12, 30)) for ratio in (1.25, 1.0)
        )
        unit, x = np.repeat(np.arange(12), 30), np.tile(X, 12)
        one, other = (find_peak(x, y.ravel(), unit, 200, seed=draw) for y in (first, second))
        paired, apart = shift(one, other), shift(one, find_peak(x, second.ravel(), unit + 1, 200, seed=draw))
        assert paired.paired
        assert not apart.paired
        covered += paired.interval[0] <= 1.25 <= paired.interval[1]
        widths.append(np.log([paired.interval[1] / paired.interval[0], apart.interval[1] / apart.interval[0]]))
    assert covered >= 36
    narrow, wide = np.mean(widths, axis=0)
    assert narrow < 0.8 * wide


def test_the_interval_of_what_seeds_add_to_a_curve_is_students() -> None:
    """Six seeds, an offset each, on an exact parabola: quantiles of draws alone would be a tenth narrower."""
    offsets = 0.1 * ndtri((np.arange(6) + 0.5) / 6)
    y = 2 - np.log(X / AT) ** 2 + offsets[:, None]
    low, high = find_peak(np.tile(X, 6), y.ravel(), np.repeat(np.arange(6), 30), 2000).height_interval
    assert (high - low) / 2 == pytest.approx(stdtrit(5, 0.975) * offsets.std(ddof=1) / np.sqrt(6), rel=0.04)


def test_a_shift_allows_for_what_parabolas_miss_and_for_the_fewer_units() -> None:
    noise = 1e-6 * np.random.default_rng(1).standard_normal((3, 30))
    cusps = (np.exp(-2 * np.abs(np.log(X / at))) + noise for at in (280, 310))
    one, other = (find_peak(np.tile(X, 3), y.ravel(), np.repeat(np.arange(3), 30), 200) for y in cusps)
    apart = shift(one, other)
    assert apart.interval[0] < 280 / 310 < apart.interval[1]  # the location between two scales is not seen
    assert abs(apart.ratio * 310 / 280 - 1) > 0.01

    few, many = (find_peak(*sample("smooth", seeds, 0.1, 4), 400) for seeds in (3, 20))
    widths = [np.log(found.interval[1] / found.interval[0]) for found in (shift(few, many), shift(many, few))]
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_notes_say_where_draws_reach_an_end_and_where_they_were_drawn_again() -> None:
    rng, x = np.random.default_rng(4), X[13:]
    y = np.exp(-(np.log(x / AT) ** 2) / 3) + 0.1 * rng.standard_normal((4, len(x)))
    notes = find_peak(np.tile(x, 4), y.ravel(), np.repeat(np.arange(4), len(x)), 400).notes
    assert "highest mean is at the smallest x: the interval of the location is open" in notes["edge_smallest"]
    assert "edge_largest" not in notes
    x, y, seed = sample("smooth", 4, 0.05, 0)
    kept = (seed == 0) | (x < X[-1])  # the last scale has one seed
    assert "not every unit reaches every scale" in find_peak(x[kept], y[kept], seed[kept], 200).notes["redrawn"]
    assert not {"redrawn", "edge_smallest"} & set(find_peak(x, y, seed, 200).notes)


def table() -> pl.DataFrame:
    """Two groups with peaks of a and b at 280 and 350, times 1 and 1.5, and a third without."""
    rows = []
    for depth, factor in ((1, 1.0), (2, 1.5)):
        for seed in range(6):
            noise = np.random.default_rng([depth, seed]).standard_normal((2, 30))
            for i, x in enumerate(X):
                a = CURVES["smooth"](np.log(X / (AT * factor)))[i] + 0.02 * noise[0, i]
                b = CURVES["smooth"](np.log(X / (1.25 * AT * factor)))[i] + 0.02 * noise[1, i]
                rows.append({"depth": depth, "seed": seed, "width": x, "a": a, "b": b, "c": x})
    return pl.DataFrame(rows)


def test_tables_have_peaks_by_group() -> None:
    found = laws.peak(table(), x="width", y=["b", "a", "c"], by="depth", run="seed", bootstrap=200)
    for one, factor in zip(found, (1.0, 1.5), strict=True):
        a, b = one.peaks["a"], one.peaks["b"]
        assert isinstance(a, Peak)
        assert isinstance(b, Peak)
        assert a.location_interval[0] < factor * AT < a.location_interval[1]
        assert one.shifts["a"].ratio == pytest.approx(1.25, rel=0.1)
        assert one.shifts["a"].paired
        assert "c" not in one.shifts
        assert "must lie inside the range" in str(one.peaks["c"])
        record = one.to_json()
        assert [peak["y"] for peak in record["peaks"]] == ["b", "a", "c"]
        assert record["peaks"][0]["location"]["value"] == b.location
        assert record["shifts"][0]["interval"] == list(one.shifts["a"].interval)
    with pytest.raises(FitError, match="must lie inside the range"):
        laws.peak(table(), x="width", y="c", run="seed")
    with pytest.raises(FitError, match="y must be one or more different columns, but got a, a"):
        laws.peak(table(), x="width", y=["a", "a"])
    with pytest.raises(FitError, match=r"one positive width and one finite a.*width = -1 at 12 of 360"):
        laws.peak(table().with_columns(width=pl.col("width").replace(X[0], -1.0)), x="width", y="a", run="seed")


def test_a_second_hump_within_the_interval_is_named() -> None:
    rng = np.random.default_rng(3)
    u = np.log(X / X[0])

    def seen(second: float, noise: float = 0.02) -> Peak:
        y = np.exp(-((u - u[7]) ** 2)) + second * np.exp(-((u - u[22]) ** 2))
        y = y + noise * rng.standard_normal((6, 30))
        return find_peak(np.tile(X, 6), y.ravel(), np.repeat(np.arange(6), 30), 200)

    equal = seen(1.0)
    assert equal.location_interval[0] < X[8]
    assert equal.location_interval[1] > X[21]
    assert "either may be the higher one" in equal.notes["second"]
    assert "second" not in seen(0.5).notes  # it is lower for sure, and outside of the interval
    broad = [find_peak(*sample("broad", 6, 0.3, draw), 200) for draw in range(20)]
    assert sum("second" in one.notes for one in broad) <= 2  # noise has maxima, too, but no deep valleys
