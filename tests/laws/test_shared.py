"""Parameters that groups share: one joint fit, which is the plain fit where there is nothing to share."""

import numpy as np
import polars as pl
import pytest
from scipy.optimize import least_squares

from raysweep.laws import fit, law
from raysweep.laws.joint import Joint
from raysweep.laws.refusal import RequestError

X = np.geomspace(1e2, 1e6, 8)
ARMS = {"a": (0.3, 5.0), "b": (0.5, 9.0), "c": (0.8, 3.0)}
ALPHA = 0.4


def arms(alphas=(ALPHA, ALPHA, ALPHA), noise=0.02, runs=2, seed=0, how=ARMS):
    rng, frames = np.random.default_rng(seed), []
    for (arm, (floor, size)), alpha in zip(how.items(), alphas, strict=True):
        x = np.repeat(X, runs)
        y = (floor + size * x**-alpha) * np.exp(noise * rng.standard_normal(x.size))
        frames.append(pl.DataFrame({"arm": arm, "x": x, "y": y}))
    return pl.concat(frames)


def fitted(frame, shared="alpha", **how):
    return fit(frame, **{"law": "power+floor", "x": "x", "y": "y", "by": "arm", "shared": shared, "bootstrap": 0} | how)


def test_shared_and_own_parameters_are_recovered_without_noise():
    found = fitted(arms(noise=0.0), holdout=0)
    for group, (floor, size) in zip(found, ARMS.values(), strict=True):
        assert group.params == pytest.approx({"E": floor, "A": size, "alpha": ALPHA}, rel=1e-6)


def test_the_joint_optimum_is_that_of_an_independent_optimiser():
    frame = arms(alphas=(0.35, 0.4, 0.5))
    arm, x, y = (frame[name].to_numpy() for name in ("arm", "x", "y"))

    def residual(q):
        return np.concatenate(
            [
                np.log(q[1 + g] + np.exp(q[4 + g]) * x[arm == a] ** -q[0]) - np.log(y[arm == a])
                for g, a in enumerate(ARMS)
            ]
        )

    best = least_squares(residual, [0.4, 0.3, 0.5, 0.8, 1.6, 2.2, 1.1], xtol=1e-14, ftol=1e-14, gtol=1e-14)
    found = fitted(frame)
    for g, group in enumerate(found):
        assert group.params["alpha"] == pytest.approx(best.x[0], rel=1e-5)
        assert group.params["E"] == pytest.approx(best.x[1 + g], rel=1e-5)
        assert group.params["A"] == pytest.approx(np.exp(best.x[4 + g]), rel=1e-5)


def test_groups_that_are_alike_have_the_fit_of_each():
    alike = pl.concat([arms(how={name: ARMS["a"]}, alphas=[ALPHA]) for name in ("a", "b")])
    together, alone = fitted(alike), fitted(alike, shared=())
    for one, other in zip(together, alone, strict=True):
        assert one.params == pytest.approx(other.params, rel=1e-6)
        assert one.holdout.params == pytest.approx(other.holdout.params, rel=1e-5)
    assert "p = 1)" in together.groups[0].details["shared"]


def test_nothing_but_sharing_narrows_the_interval_of_an_exponent():
    frame = arms(seed=1)
    together, alone = fitted(frame, bootstrap=300), fitted(frame, shared=(), bootstrap=300)
    widths = [np.ptp(group.interval("alpha")) for group in (*together, *alone)]
    assert widths[:3] == pytest.approx([widths[0]] * 3)
    assert widths[0] < min(widths[3:])
    low, high = together.groups[0].interval("alpha")
    assert low < ALPHA < high
    assert "shared_contradicted" not in together.groups[0].notes


def test_the_test_of_sharing_is_uniform_and_sees_a_difference():
    names = ("power+floor, alpha shared", "power+floor, nothing shared")
    below = []
    for seed in range(24):
        rivals = {one.law: one for one in fitted(arms(seed=seed, runs=1), holdout=0).groups[0].rivals}
        assert [rivals[name].parameters for name in names] == [7, 9]
        below.append(rivals[names[1]].p_value < 0.5)
    assert 0.25 < np.mean(below) < 0.75
    other = fitted(arms(alphas=(0.4, 0.5, 0.3)))
    assert all("shared_contradicted" in group.notes for group in other)


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("power", ("alpha",)),
        ("shifted", ("alpha", "s")),
        ("exponential", ("scale",)),
        ("m4", ("alpha", "gamma", "I")),
    ],
)
def test_other_units_leave_a_joint_fit_as_it_is(name, shared):
    frame = arms()
    one = fitted(frame, law=name, shared=shared, holdout=0)
    other = fitted(frame.with_columns(pl.col("x") * 1e3, pl.col("y") * 7), law=name, shared=shared, holdout=0)
    for a, b in zip(one, other, strict=True):
        assert b.rmse_log == pytest.approx(a.rmse_log, rel=1e-4)
        assert [a.params[k] for k in ("alpha",) if k in a.params] == pytest.approx(
            [b.params[k] for k in ("alpha",) if k in b.params], rel=1e-3
        )


def test_slopes_of_a_joint_law_are_those_of_differences():
    joint = Joint(law("chinchilla"), ("alpha", "E"), 2, (("alpha", 0.3),))
    values = np.array([0.34, 1.7, 400, 410, 0.28, 300, 500, 0.3])
    u = np.array([[17.0, 18, 19, 20], [20.0, 22, 21, 20], [0, 1, -1, -1 - joint.law.names.index("A[1]")]])
    log, rows = joint.law.evaluate(u, values)
    assert log[2] == pytest.approx(0.34)
    assert log[3] == pytest.approx(np.log(values[joint.law.names.index("A[1]")]))
    for j, row in enumerate(rows):
        step = np.zeros(8)
        step[j] = 1e-6 * values[j]
        ends = [joint.law.evaluate(u, values + side * step)[0] for side in (-1, 1)]
        assert np.broadcast_to(row, 4) == pytest.approx((ends[1] - ends[0]) / (2 * step[j]), rel=1e-5, abs=1e-9)


def test_a_formula_and_a_law_of_two_scales_share_too():
    own = fitted(arms(), law=None, formula="E + A*x**-a", positive="A", shared="a", holdout=0)
    named = fitted(arms(), holdout=0)
    assert own.groups[1].params["a"] == pytest.approx(named.groups[1].params["alpha"], rel=1e-5)
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    frames = [
        pl.DataFrame({"arm": arm, "N": n, "D": d, "y": 1.7 + a * n**-0.34 + b * d**-0.28})
        for arm, a, b in (("a", 400, 410), ("b", 300, 900))
    ]
    found = fitted(pl.concat(frames), law="chinchilla", x=["N", "D"], shared=["alpha", "beta", "E"], holdout=0)
    truth = {"E": 1.7, "A": 300, "B": 900, "alpha": 0.34, "beta": 0.28}
    assert found.groups[1].params == pytest.approx(truth, rel=1e-5)


def test_a_group_needs_scales_for_its_own_parameters_only():
    frame = arms(runs=1, noise=0)
    small, one = (frame.filter((pl.col("arm") != "b") | pl.col("x").is_in(X[:k])) for k in (3, 1))
    found = fitted(small).groups[1]
    assert found.params == pytest.approx({"E": 0.5, "A": 9.0, "alpha": ALPHA}, rel=1e-6)
    assert "of the 2 that can be fitted by themselves" in found.details["shared"]
    groups = fitted(one).groups
    assert "needs at least 3 distinct scales, but got 1" in groups[1].error
    assert "alpha is the same in 2 groups" in groups[0].details["shared"]


def test_a_flat_group_keeps_the_interval_that_others_give_it():
    flat = arms(how={"a": (0.3, 5.0), "flat": (1.0, 0.05)}, alphas=(ALPHA, ALPHA), runs=1)
    low, high = fitted(flat, bootstrap=200).groups[1].interval("alpha")
    assert low < ALPHA < high


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shared": "gamma"}, "shared: must name parameters of y = E .* but got 'gamma'. Valid names: A, E, alpha"),
        ({"shared": ["alpha", "alpha"]}, "shared: must name each parameter once"),
        ({"by": (), "shared": "alpha"}, "shared: must have groups to share alpha, but there is one"),
        ({"law": "auto"}, "shared: must come with one law, but got 'auto'"),
        ({"fix": {"alpha": 0.4}}, "shared: must name parameters of y = E . A x.-0.4, but got 'alpha'"),
        ({"envelope": 0.1}, "shared: must not come with envelope, but got envelope=0.1"),
    ],
)
def test_what_cannot_be_shared_is_refused(how, message):
    with pytest.raises(RequestError, match=message):
        fitted(arms(runs=1), **how)


def test_too_many_parameters_in_all_are_refused():
    many = pl.concat([pl.DataFrame({"arm": g, "x": X[:4], "y": X[:4] ** -0.4 + 1}) for g in range(60)])
    with pytest.raises(RequestError, match="at most 100 parameters in all, but 60 groups make 121"):
        fitted(many)


@pytest.mark.parametrize("how", [{}, {"shared": (), "prior": {"alpha": [0.4, 0.1]}}])
def test_a_seed_that_changes_nothing_makes_no_runs(how):
    once = arms(runs=1).with_columns(seed=pl.lit(0))
    idle = pl.concat([once, once.with_columns(seed=pl.lit(1))])
    for one, both in zip(
        fitted(once, bootstrap=100, **how), fitted(idle, bootstrap=100, run="seed", **how), strict=True
    ):
        assert both.intervals == one.intervals
        assert ("no_effect" in one.notes, "no_effect" in both.notes) == (False, True)
