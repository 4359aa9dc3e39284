"""Arms are compared with bands that hold, pairs cancel what they share, and sets of crossings say what the bands do."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.arms import arms_of
from raysweep.laws.attempt_arms import compare_attempts, compare_counts
from raysweep.laws.comparison import compare_arms, contrasted
from raysweep.laws.contrast import contrast, crossings
from raysweep.laws.differences import Deviations
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.request import FitRequest, Options

N = np.geomspace(1e2, 1e6, 6)
REQUEST = FitRequest(("n",), "loss", "power", options=Options(draws=200, holdout=0))


def table(shared: float = 0.05, own: float = 0.005, seeds: int = 5, factor: float = 1.1) -> pl.DataFrame:
    """Arms hard = 3 n^-.4 and soft = factor times as much; seeds share their errors."""
    rng = np.random.default_rng(0)
    frames = []
    both = shared * rng.standard_normal(seeds)
    for arm, scale in (("hard", 3.0), ("soft", 3.0 * factor)):
        for seed in range(seeds):
            y = scale * N**-0.4 * np.exp(both[seed] + own * rng.standard_normal(N.size))
            frames.append(pl.DataFrame({"n": N, "loss": y}).with_columns(labels=pl.lit(arm), seed=seed))
    return pl.concat(frames)


def compared(frame: pl.DataFrame, **options):
    return compare_arms(frame, REQUEST, arms_of(frame, "labels", ["hard", "soft"]), **options)[0]


def test_pairs_cancel_what_they_share() -> None:
    frame = table()
    one, free = compared(frame, pair="seed"), compared(frame)
    assert (one.paired, one.unit, one.units) == (True, "seed", (5, 5))
    assert (free.paired, free.units) == (False, (30, 30))
    assert "independent_arms" in free.details
    np.testing.assert_allclose(one.shown(one.contrast.value), 1 / 1.1, rtol=0.02)
    sharp, wide = (np.ptp(c.contrast.simultaneous, axis=1).mean() for c in (one, free))
    assert sharp < 0.5 * wide
    (amplitude, alpha) = one.parameters
    assert (amplitude.kind, alpha.kind) == ("ratio", "difference")
    assert amplitude.low < 1 / 1.1 < amplitude.high
    assert alpha.low < 0 < alpha.high


def test_arms_that_are_resampled_by_different_units_say_by_which() -> None:
    """Rows of one arm are checkpoints of 3 runs in an unnamed column, those of the other are independent."""
    rng, n = np.random.default_rng(0), np.geomspace(1e2, 1e6, 20)
    frames = []
    for labels, walk in (("hard", 0.95), ("soft", 0.0)):
        for c in range(3):
            e = rng.standard_normal(n.size)
            for i in range(1, n.size):
                e[i] += walk * e[i - 1]
            frames.append(pl.DataFrame({"n": n, "loss": 3 * n**-0.4 * np.exp(0.03 * e), "labels": labels, "c": c}))
    found = compared(pl.concat(frames))
    assert (found.unit, found.units) == ("c and row", (3, 60))
    assert "hard by 3 values of c, soft by 60 rows. Name the column of both with" in found.details["units_differ"]
    assert "units_differ" not in compared(table()).details


def test_the_other_order_is_the_reciprocal() -> None:
    frame = table()
    one = compared(frame, pair="seed")
    (back,) = compare_arms(frame, REQUEST, arms_of(frame, "labels", ["soft", "hard"]), pair="seed")
    np.testing.assert_allclose(back.contrast.value, -one.contrast.value)
    np.testing.assert_allclose(back.contrast.simultaneous, -one.contrast.simultaneous[:, ::-1], atol=1e-12)


def test_seeds_of_one_arm_only_are_left_out() -> None:
    frame = table(seeds=6)
    less = frame.filter(~((pl.col("labels") == "soft") & (pl.col("seed") == 3)))
    one = compared(less, pair="seed")
    assert one.units == (5, 5)
    assert one.details["unpaired_left_out"].startswith("1 of 6 values of seed")
    assert one.contrast.value == pytest.approx(compared(frame.filter(pl.col("seed") != 3), pair="seed").contrast.value)


def test_a_comparison_is_plain_data() -> None:
    one = compared(table(), pair="seed", at=[1e8], ratio=False)
    record = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert record["compared"] == "difference"
    assert record["points"][0]["x"] == 1e8
    assert record["curve"][-1]["x"] == pytest.approx(1e8)
    assert record["crossings"]["words"] == one.words
    assert "extrapolated" in record["notes"]


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"seed": pl.lit(0)}, {"pair": "seed"}, "Pairs need 2 values"),
        ({"n": pl.col("n") * pl.when(pl.col("labels") == "soft").then(1e5).otherwise(1)}, {}, "common range of n"),
        ({}, {"at": [1e300]}, r"comparison's n must lie within a factor of 1e\+12 of the scales that were fitted"),
        ({"k": pl.when(pl.col("labels") == "soft").then(1).otherwise(2)}, {"by": ("k",)}, None),
        ({"k": pl.col("seed") + 10 * (pl.col("labels") == "soft")}, {"by": ("k",)}, "no group in common"),
    ],
    ids=["one pair", "no common x", "far beyond", "column that follows the arm", "no common group"],
)
def test_arms_without_anything_in_common_are_refused(change, options, said) -> None:
    frame = table().with_columns(**change)
    by = options.pop("by", ())
    request = FitRequest(("n",), "loss", "power", by, options=REQUEST.options)
    arm = arms_of(frame, "labels", ["hard", "soft"])
    if said is None:
        assert "differs_k" in compare_arms(frame, request, arm)[0].details
        return
    with pytest.raises(FitError, match=said):
        compare_arms(frame, request, arm, **options)


def test_a_group_that_cannot_be_compared_is_named() -> None:
    frame = table()
    both = pl.concat([frame.with_columns(w=1), frame.with_columns(w=2).filter(pl.col("n") < 1e3)])
    request = FitRequest(("n",), "loss", "power", ("w",), options=REQUEST.options)
    (one,) = compare_arms(both, request, arms_of(both, "labels", ["hard", "soft"]), pair="seed")
    assert one.group == {"w": 1}
    assert "w=2" in one.details["groups_left_out"]


def test_pairs_are_matched_though_a_column_follows_the_arm() -> None:
    frame = table().with_columns(lr=pl.when(pl.col("labels") == "hard").then(0.1).otherwise(0.3))
    request = FitRequest(("n",), "loss", "power", ("lr",), options=REQUEST.options)
    (one,) = compare_arms(frame, request, arms_of(frame, "labels", ["hard", "soft"]), pair="seed")
    assert (one.paired, one.units, dict(one.group)) == (True, (5, 5), {})
    assert one.details["differs_lr"].startswith("lr differs between the arms, too (0.1 and 0.3)")


def test_the_simultaneous_band_holds_whole_curves_and_the_pointwise_one_does_not() -> None:
    """Lines with normal errors of intercept and slope: Scheffe-like coverage, known by simulation of the lines."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 40)
    u = np.log(x) - np.log(x).mean()
    draws = rng.standard_normal((4000, 2)) @ np.stack([np.ones(40), u])
    found = contrast(x, Deviations(np.zeros(40), draws), 0.9)
    fresh = rng.standard_normal((4000, 2)) @ np.stack([np.ones(40), u])

    def whole(band: np.ndarray) -> float:
        return float(((band[:, 0] <= fresh) & (fresh <= band[:, 1])).all(axis=1).mean())

    assert whole(found.simultaneous) == pytest.approx(0.9, abs=0.02)
    assert whole(found.pointwise) < 0.85
    assert (found.simultaneous[:, 0] <= found.pointwise[:, 0]).all()


def test_few_clusters_widen_the_simultaneous_band() -> None:
    """As much as Hotelling's T^2 exceeds a chi-squared: of two free directions with 4 degrees, sqrt(2 4/3 F(2, 3))."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, np.pi, 60)  # every direction of a plane
    away = rng.standard_normal((20_000, 2)) @ np.stack([np.cos(angle), np.sin(angle)])
    away *= np.sqrt(4 / rng.chisquare(4, (20_000, 1)))
    found = Deviations(np.zeros(60), away)
    many, few = (contrast(np.exp(angle), found, 0.95, freedom).stretch for freedom in (math.inf, 4))
    t, f_common, f_own = 2.776, 6.944, 9.552  # tables of t(4), F(2, 4) and F(2, 3)
    assert many == pytest.approx(math.sqrt(2 * f_common) / t, rel=0.03)
    assert few == pytest.approx(math.sqrt(2 * 4 / 3 * f_own) / t, rel=0.06)


X = np.geomspace(1, 1e4, 401)
RISING = np.linspace(-2, 2, 401)


@pytest.mark.parametrize(
    ("value", "half", "sets", "words"),
    [
        (RISING, 0.5, [(10**1.5, 10**2.5)], "they cross between x = 31.62 and 316.2: below, a is below b"),
        (-RISING, 3, [(0.0, math.inf)], "they may cross anywhere, or nowhere"),
        (RISING + 3, 0.5, [], "they do not cross: a is above b at every x from 1 to 1e"),
        (RISING + 2, 1.0, [(0.0, 10.0)], "at or below x = 10 (a set that is unbounded below); above, a is above b"),
        (RISING - 2, 1.0, [(1000.0, math.inf)], "at or above x = 1000 (a set that is unbounded above); below, a"),
        (np.abs(RISING) + 0.1, 0.6, [(10**1.5, 10**2.5)], "they may touch or cross twice between x = 31.62"),
        (np.sign(RISING - 0.005), 0.5, [(100.0, 10**2.01)], "they cross between"),
    ],
)
def test_a_set_of_crossings_inverts_the_band(value, half, sets, words) -> None:
    found = crossings(X, value, np.stack([value - half, value + half], axis=1))
    np.testing.assert_allclose(np.array(found.sets).reshape(-1, 2), np.array(sets).reshape(-1, 2))
    assert words in found.words("x", "a", "b")


def test_pass_at_k_is_compared_over_k() -> None:
    rng = np.random.default_rng(0)
    rate = rng.beta(0.4, 2, 150)
    counts = [rng.binomial(64, p) for p in (rate, 0.8 * rate)]
    trials = np.full(150, 64)
    sides = [(c, trials) for c in counts]
    both, free = (compare_attempts(*sides, together=one, draws=200) for one in (True, False))
    assert both.x[[0, -1]].tolist() == [1, 64]
    np.testing.assert_allclose(both.value[0], (counts[0].mean() - counts[1].mean()) / 64)
    np.testing.assert_array_equal(both.value, free.value)
    assert np.ptp(both.pointwise, axis=1).mean() < 0.7 * np.ptp(free.pointwise, axis=1).mean()
    ratio = compare_attempts(*sides, ratio=True, together=True, draws=200)
    failing = [1 - c.mean() / 64 for c in counts]
    assert ratio.value[0] == pytest.approx(math.log(failing[0] / failing[1]))
    with pytest.raises(FitError, match="whole numbers from 1 to 64"):
        compare_attempts(*sides, k=[100])


def test_problems_are_matched_by_name() -> None:
    rng = np.random.default_rng(1)
    frames = [
        pl.DataFrame({"p": names, "c": rng.integers(0, 9, len(names)), "n": 8.0, "model": model})
        for model, names in (("a", [3, 1, 2, 4, 5]), ("b", [5, 4, 3, 2, 9]))
    ]
    frame = pl.concat(frames).with_columns(pl.col("c").clip(0, 8).cast(pl.Float64))
    arm = arms_of(frame, "model", ["a", "b"])
    (one,) = compare_counts(frame, "c", "n", arm, "p", draws=100)
    assert one.units == (4, 4)
    assert one.details["unpaired_left_out"].startswith("2 problems")
    kept = [f.filter(pl.col("p").is_in([2, 3, 4, 5])).sort("p")["c"].to_numpy() for f in frames]
    assert one.contrast.value[0] == pytest.approx((kept[0].mean() - kept[1].mean()) / 8)
    with pytest.raises(FitError, match="one row in each arm"):
        compare_counts(pl.concat([frame, frame]), "c", "n", arm, "p")


def test_five_pairs_cover_a_whole_ratio_and_where_it_is_one() -> None:
    """60 worlds of two power laws that cross at x = e^4: seeds share errors, and the band of their ratio holds it."""
    u = np.linspace(0, 8, 6)
    true = -0.1 * (u - 4)  # log ratio
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(60):
        shared = 0.1 * rng.standard_normal((5, 1)) + np.zeros(6)
        for curve in (true - 0.4 * u, -0.4 * u):
            y = np.exp(curve + shared + 0.02 * rng.standard_normal((5, 6)))
            run = np.repeat(np.arange(5), 6)
            groups.append(Data(np.exp(np.tile(u, 5))[None], y.ravel(), run=run, cluster="seed"))
    fits = fit_groups(law("power"), groups, ["x"], "y", Options(draws=1000, holdout=0))
    grid = np.exp(np.linspace(0, 8, 41))
    found = [contrasted(one, other, grid) for one, other in zip(fits[::2], fits[1::2], strict=True)]
    truth = -0.1 * (np.log(grid) - 4)
    held = [((c.simultaneous[:, 0] <= truth) & (truth <= c.simultaneous[:, 1])).all() for c in found]
    at = math.exp(4)
    inside = [any(low <= at <= high for low, high in c.crossings(False).sets) for c in found]
    assert np.mean(held) > 0.87
    assert np.mean(inside) > 0.87
    assert all(c.crossings().words("x", "a", "b").startswith("they cross between") for c in found)
