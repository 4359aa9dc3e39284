"""The compute-optimal frontier: exact where theory is, honest where it is not, refused where nothing is bracketed."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.draws import Draws
from raysweep.laws.envelope import envelope
from raysweep.laws.estimate import estimate
from raysweep.laws.frontier import compare_approaches, joint
from raysweep.laws.isoflop import _least, isoflop

CHINCHILLA = law("chinchilla")
# E, A, B, alpha, beta: Hoffmann's surface; the same with alpha = 3 beta; and with alpha = beta.
SURFACES = {
    "hoffmann": np.array([1.69, 406.4, 410.7, 0.34, 0.28]),
    "skewed": np.array([1.69, 406.4, 410.7, 0.465, 0.155]),
    "symmetric": np.array([1.69, 400.0, 400.0, 0.31, 0.31]),
}
BUDGETS = np.geomspace(1e17, 1e21, 5)


def truth(values, compute):
    """a, and N* at a budget."""
    _, a, b, alpha, beta = values
    exponent = beta / (alpha + beta)
    return exponent, (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (np.asarray(compute) / 6) ** exponent


def world(values, sizes=9, width=16.0, centre=1.0, sigma=0.0, seed=0, budgets=BUDGETS):
    """Runs of `sizes` sizes at each budget, over a factor `width` about `centre` times the optimum."""
    ladder = centre * np.geomspace(width**-0.5, width**0.5, sizes)
    n = (truth(values, budgets)[1][:, None] * ladder).ravel()
    compute = np.repeat(budgets, sizes)
    noise = sigma * np.random.default_rng(seed).standard_normal(n.size)
    return compute, n, CHINCHILLA.predict(np.stack([n, compute / 6 / n]), values) * np.exp(noise)


def coverage(worlds, degree, sizes, width, centre, sigma, surface="skewed", draws=200, ahead=10.0):
    """How often 95 % intervals hold a, N* at `ahead` times the largest budget, and N* of each valley."""
    values, hits = SURFACES[surface], []
    a, far = truth(values, ahead * BUDGETS[-1])
    for seed in range(worlds):
        found = isoflop(*world(values, sizes, width, centre, sigma, seed), degree=degree, draws=draws, seed=seed)
        exponent, n = found.frontier.interval(), found.frontier.n_interval(ahead * BUDGETS[-1])
        valleys = [(v.interval(), truth(values, v.budget)[1]) for v in found.valleys if v.n is not None]
        inside = np.mean([low <= n_true <= high for (low, high), n_true in valleys])
        hits.append((exponent[0] <= a <= exponent[1], n[0] <= far <= n[1], inside))
    return np.mean(hits, axis=0)


@pytest.mark.parametrize("degree", [2, 3])
def test_valleys_of_a_symmetric_law_are_found_exactly(degree):
    values = SURFACES["symmetric"]
    frontier = isoflop(*world(values), degree=degree).frontier
    assert frontier.a == pytest.approx(0.5, rel=1e-9)
    assert frontier.n(BUDGETS) == pytest.approx(truth(values, BUDGETS)[1], rel=1e-7)


# What a cubic leaves of the optimum's error without noise, and how much less that is than a parabola's.
@pytest.mark.parametrize(
    ("surface", "width", "centre", "error", "gain"),
    [
        ("hoffmann", 16.0, 1.0, 5e-4, 40),
        ("hoffmann", 16.0, 1.5, 5e-3, 2),
        ("skewed", 16.0, 1.0, 2e-3, 50),
        ("skewed", 64.0, 1.0, 1e-2, 25),
        ("skewed", 16.0, 1.5, 5e-3, 15),
    ],
)
def test_a_cubic_recovers_optima_that_a_parabola_misses(surface, width, centre, error, gain):
    values = SURFACES[surface]
    worst = {}
    for degree in (2, 3):
        found = isoflop(*world(values, width=width, centre=centre), degree=degree)
        worst[degree] = max(abs(np.log(v.n / truth(values, v.budget)[1])) for v in found.valleys)
    assert worst[3] < error
    assert worst[2] > gain * worst[3]


def test_a_polynomial_is_least_where_a_mesh_says():
    rng = np.random.default_rng(0)
    for degree in (2, 3):
        coefficients = rng.standard_normal((500, degree + 1))
        found, inside = _least(coefficients, -1.0, 1.5)
        mesh = np.linspace(-1.0, 1.5, 5001)
        values = np.polynomial.polynomial.polyval(mesh, coefficients.T)
        assert found == pytest.approx(mesh[values.argmin(axis=1)], abs=5e-4)
        interior = (found > -1.0) & (found < 1.5)
        assert (inside == interior).all()
        powers = np.arange(1, degree + 1)
        slope = (powers * coefficients[:, 1:] * found[:, None] ** (powers - 1)).sum(axis=1)
        assert np.abs(slope[inside]).max() < 1e-9


def test_a_cubic_that_is_a_parabola_is_solved_as_one():
    flat = np.array([1.0, -0.6, 1.0, 0.0])
    assert _least(flat, -1.0, 1.0)[0] == pytest.approx(0.3, rel=1e-15)
    assert _least(flat + np.array([0, 0, 0, 1e-14]), -1.0, 1.0)[0] == pytest.approx(0.3, rel=1e-12)


# Wide, and off centre, with alpha = 3 beta: the noise of log loss is what seeds of language models show.
@pytest.mark.parametrize(("sizes", "width", "centre", "sigma"), [(7, 64.0, 1.0, 0.002), (11, 32.0, 1.5, 0.004)])
def test_intervals_of_cubic_valleys_cover_where_those_of_parabolas_fail(sizes, width, centre, sigma):
    cubic = coverage(100, 3, sizes, width, centre, sigma)
    assert (cubic >= 0.9).all(), cubic
    parabola = coverage(100, 2, sizes, width, centre, sigma)
    assert parabola[1:].min() < 0.5, parabola


def test_intervals_of_parabolas_cover_where_they_hold():
    covered = coverage(100, 2, 9, 8.0, 1.0, 0.003, surface="symmetric")
    assert (covered >= 0.9).all(), covered


def test_a_budget_without_a_bracketed_minimum_is_left_out_and_named():
    compute, n, loss = world(SURFACES["hoffmann"])
    kept = (compute < BUDGETS[-1]) | (n > truth(SURFACES["hoffmann"], BUDGETS[-1])[1] * 1.1)
    found = isoflop(compute[kept], n[kept], loss[kept], degree=2)
    assert found.valleys[-1].n is None
    assert found.frontier.notes == ("isoflop_minimum_not_bracketed",)
    assert "1e+21 (add sizes below" in found.frontier.details["isoflop_minimum_not_bracketed"]
    assert found.frontier.window == (BUDGETS[0], BUDGETS[-2])


def test_a_budget_of_too_few_sizes_is_left_out_and_says_what_to_add():
    compute, n, loss = world(SURFACES["hoffmann"])
    kept = (compute > BUDGETS[0]) | (np.arange(n.size) < 4)
    found = isoflop(compute[kept], n[kept], loss[kept])
    assert len(found.valleys) == 4
    assert "needs 5 distinct sizes; left out with fewer: 1e+17 (4)" in found.frontier.details["too_few_scales"]


def test_fewer_than_three_minima_are_refused():
    compute, n, loss = world(SURFACES["hoffmann"], centre=8.0)
    with pytest.raises(FitError, match=r"3 budgets with a bracketed minimum, but there are 0.*add sizes below"):
        isoflop(compute, n, loss)
    few = compute < BUDGETS[2]
    with pytest.raises(FitError, match=r"but there are 2\. Add budgets"):
        isoflop(*(v[few] for v in world(SURFACES["hoffmann"])))
    with pytest.raises(FitError, match="positive, finite loss"):
        isoflop(compute, n, -loss)
    with pytest.raises(FitError, match="of one length"):
        isoflop(compute, n[1:], loss)
    with pytest.raises(FitError, match="degree=4"):
        isoflop(compute, n, loss, degree=4)


def test_neither_the_order_of_rows_nor_units_matter():
    compute, n, loss = world(SURFACES["hoffmann"], sigma=0.003)
    reference = isoflop(compute, n, loss).frontier
    order = np.random.default_rng(1).permutation(n.size)
    shuffled = isoflop(compute[order], n[order], loss[order]).frontier
    assert shuffled.interval() == reference.interval()
    billions = isoflop(compute / 1e18, n / 1e9, 3.0 * loss).frontier
    assert [billions.a, *billions.interval()] == pytest.approx([reference.a, *reference.interval()], rel=1e-9)
    assert 1e9 * billions.n_interval(10.0) == pytest.approx(reference.n_interval(1e19), rel=1e-9)


def test_optima_that_stray_from_a_power_law_widen_the_interval():
    compute, n, loss = world(SURFACES["hoffmann"], sizes=15, sigma=1e-4)
    straight = isoflop(compute, n, loss).frontier
    # Every second budget moves its valley by a third.
    bent = isoflop(compute, n * np.where(np.searchsorted(BUDGETS, compute) % 2, 1.3, 1.0), loss).frontier
    assert "lack_of_fit" in bent.notes
    assert "lack_of_fit" not in straight.notes
    assert np.ptp(bent.interval()) > 5 * np.ptp(straight.interval())


def curves(values, sigma=0.0, seed=0, sizes=15, checkpoints=60):
    """Training curves of the optimal sizes of 1e17 to 1e21 FLOPs, each from a hundredth to 100 times its own D*."""
    n = np.geomspace(*truth(values, BUDGETS[[0, -1]])[1], sizes)
    a, one = truth(values, 1.0)
    optimal = (n / one) ** (1 / a)
    compute = (optimal[:, None] * np.geomspace(0.01, 100.0, checkpoints)).ravel()
    run, n = np.repeat(np.arange(sizes), checkpoints), np.repeat(n, checkpoints)
    noise = sigma * np.random.default_rng(seed).standard_normal(n.size)
    return run, n, compute, CHINCHILLA.predict(np.stack([n, compute / 6 / n]), values) * np.exp(noise)


def test_the_envelope_of_curves_follows_the_frontier():
    for values in SURFACES.values():
        a, n = truth(values, 1e19)
        frontier = envelope(*curves(values), draws=200)
        assert frontier.a == pytest.approx(a, abs=2e-3)
        assert frontier.n(1e19) == pytest.approx(n, rel=2e-3)
        assert frontier.interval()[0] < a < frontier.interval()[1]
        low, high = frontier.n_interval(1e19)
        assert low < n < high
        assert frontier.d(1e19) == pytest.approx(1e19 / 6 / frontier.n(1e19))


def test_smoothing_steadies_the_envelope_of_noisy_curves():
    values, errors = SURFACES["hoffmann"], []
    a = truth(values, 1.0)[0]
    for smooth in (0.0, 1.0):
        found = [envelope(*curves(values, 0.01, seed), smooth=smooth, draws=1).a for seed in range(20)]
        errors.append(np.sqrt(np.mean((np.array(found) - a) ** 2)))
    assert errors[1] < 0.6 * errors[0]
    assert envelope(*curves(values), smooth=1.0, draws=1).a == pytest.approx(a, abs=0.01)


def test_an_envelope_of_too_few_sizes_is_refused():
    run, n, compute, loss = curves(SURFACES["hoffmann"])
    with pytest.raises(FitError, match=r"An envelope needs 3 sizes .* Add sizes"):
        envelope(run[run < 4], n[run < 4], compute[run < 4], loss[run < 4])


def around(values, spread=0.003, draws=400):
    """Draws of a joint law as a bootstrap would give them."""
    noise = np.random.default_rng(0).standard_normal((draws, values.size))
    return Draws(values, values * np.exp(spread * noise), 40.0)


def test_the_joint_frontier_is_where_the_law_is_least_along_a_budget():
    for values in SURFACES.values():
        frontier = joint(CHINCHILLA, around(values), BUDGETS)
        a, n = truth(values, 1e22)
        assert (frontier.a, float(frontier.n(1e22))) == pytest.approx((a, n), rel=1e-12)
        assert frontier.g == pytest.approx(truth(values, 1.0)[1], rel=1e-12)
        step = np.exp([-1e-3, 0.0, 1e-3])
        along = CHINCHILLA.predict(np.stack([n * step, 1e22 / 6 / (n * step)]), values)
        assert along[1] < along[0]
        assert along[1] < along[2]
        assert (along[2] - along[0]) / 2e-3 == pytest.approx(0.0, abs=1e-6)
        low, high = frontier.d_interval([1e22])[0]
        assert low < frontier.d(1e22) < high
        assert 6 * frontier.n(1e22) * frontier.d(1e22) == pytest.approx(1e22)


def test_a_joint_law_that_does_not_fall_has_no_frontier():
    with pytest.raises(FitError, match="no_interior_optimum"):
        joint(CHINCHILLA, around(np.array([1.69, 406.4, 410.7, 0.0, 0.28])), BUDGETS)
    with pytest.raises(FitError, match="allocate"):
        joint(law("kaplan"), around(np.array([1.7, 400.0, 0.3, 0.28, 1.0, 1.0])), BUDGETS)


def test_approaches_that_disagree_are_flagged_in_words():
    values = SURFACES["skewed"]
    runs = world(values, sizes=11, width=64.0, sigma=0.002)
    exact = joint(CHINCHILLA, around(values), BUDGETS)
    right = compare_approaches([isoflop(*runs).frontier, exact], 1e21)
    assert right.notes == ()
    with pytest.raises(FitError, match=r"within .* of the compute of isoflop that was fitted"):
        compare_approaches([isoflop(*runs).frontier, exact], 1e40)
    wrong = compare_approaches([isoflop(*runs, degree=2).frontier, exact], 1e22)
    assert wrong.notes == ("approaches_disagree", "extrapolated")
    assert "isoflop" in wrong.details["approaches_disagree"]
    assert "disjoint" in wrong.details["approaches_disagree"]
    assert "isoflop by 10 times" in wrong.details["extrapolated"]
    assert set(wrong.n) == {"isoflop", "joint"}
    # Intervals may overlap and the estimates still be far apart.
    loose = joint(CHINCHILLA, around(values, spread=0.3), BUDGETS)
    assert (
        "overlapping"
        in compare_approaches([isoflop(*runs, degree=2).frontier, loose], 1e22, factor=1.01).details[
            "approaches_disagree"
        ]
    )


def real_valleys():
    """Budgets, parameters, tokens and loss of each experiment, outliers dropped as marked."""
    data = Path(os.environ.get("RAYSWEEP_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "scaling_runs" / "isoflops_compiled.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there; set RAYSWEEP_DATA to the folder of the real data.")
    experiments = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["outlier"] == "False":
                point = [float(row[key]) for key in ("budget", "params", "tokens", "loss")]
                experiments.setdefault(row["experiment"], []).append(point)
    return {name: np.array(points).T for name, points in experiments.items()}


def test_real_valleys_give_known_exponents():
    found = {}
    for name, (compute, n, d, loss) in real_valleys().items():
        sizes, tokens = isoflop(compute, n, loss).frontier, isoflop(compute, d, loss).frontier
        values = estimate(CHINCHILLA, np.stack([n, d]), loss).values[0]
        found[name] = sizes.interval(), tokens.interval(), values[4] / (values[3] + values[4])
        # N* D* ~ C up to what tokens and budgets were rounded by.
        assert sizes.a + tokens.a == pytest.approx(1.0, abs=0.05)
    # Llama 3 (arXiv 2407.21783, section 3.2.1) reports D* ~ C^0.53 from parabolas.
    sizes, tokens, joint_a = found["llama_3__exp_loss"]
    assert tokens[0] < 0.53 < tokens[1]
    assert sizes[0] < 0.47 < sizes[1]
    assert sizes[0] < joint_a < sizes[1]
