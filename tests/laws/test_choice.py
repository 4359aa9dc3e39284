"""The law that predicts the largest scales is chosen, and rivals are judged by known tests."""

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.choice import choose, evidence, f_test, held_out
from raysweep.laws.chosen import chosen
from raysweep.laws.estimate import estimate

X = np.geomspace(10, 1e6, 24)


def noisy(form, values, x=X, sigma=0.01, seed=0):
    noise = np.random.default_rng(seed).standard_normal(x.shape[-1])
    return law(form).predict(x, np.array(values)) * np.exp(sigma * noise)


@pytest.mark.parametrize(
    ("truth", "values"),
    [("shifted", [0.1, 30, 0.5, 300]), ("broken", [0, 3, 0.05, 0.6, 300, 0.1]), ("m4", [0.05, 2.3, 80, 0.8, 1.5])],
)
def test_the_chosen_law_predicts_scales_nobody_showed_it(truth, values):
    y = noisy(truth, values)
    choice = choose(x=X, y=y)
    far = np.geomspace(1e6, 1e7, 5)
    assert choice.predict(far) == pytest.approx(law(truth).predict(far, np.array(values)), rel=0.1)
    assert choice.scores[choice.law.name] <= 1.05 * min(choice.scores.values())
    assert choice.estimate.values.shape == (1, len(choice.law.parameters))


def test_a_break_at_the_end_of_the_window_is_no_candidate():
    y = X**-0.1 * np.where(X > 3e5, 0.5, 1.0)  # the last scales fall off a cliff
    assert choose(X, y, ("broken",)).law.name == "power+floor"


def test_few_scales_fall_back_to_simple_laws():
    assert choose(x=X[:4], y=X[:4] ** -0.5).law.name == "power+floor"
    assert choose(x=X[:3], y=X[:3] ** -0.5).law.name == "power"
    with pytest.raises(FitError, match="at least 3 distinct scales, but got 2"):
        choose(x=X[:2], y=X[:2])


def test_the_top_scales_are_held_out_by_share_of_distinct_values():
    x = np.repeat(np.arange(1.0, 11.0), 3)[None]
    assert set(x[0, held_out(x, 0.3)]) == {8, 9, 10}
    assert set(x[0, held_out(x, 0.01)]) == {10}
    assert set(x[0, held_out(x, 1.0)]) == set(range(2, 11))


def test_two_scales_are_held_out_by_their_product():
    n, d = (a.ravel() for a in np.meshgrid([1.0, 3.0, 9.0], [1.0, 3.0, 9.0]))
    left = held_out(np.stack([n, d]), 0.2)
    assert sorted(zip(n[left], d[left], strict=True)) == [(9.0, 9.0)]
    left = held_out(np.stack([n, d]), 0.4)  # 3 x 9 and 9 x 3 are one compute
    assert sorted(zip(n[left], d[left], strict=True)) == [(3.0, 9.0), (9.0, 3.0), (9.0, 9.0)]


def test_the_f_test_of_no_floor_has_its_nominal_size():
    """Without a floor, P(p < 0.05) is 0.05: half of the time the floor is estimated at 0 (Self & Liang 1987)."""
    worlds = np.stack([noisy("power", [3, 0.5], sigma=0.05, seed=seed) for seed in range(2000)])
    small, large = (estimate(law(name), X, worlds).objective for name in ("power", "power+floor"))
    p = np.array([f_test(a, b, X.size - 3, 1) for a, b in zip(small, large, strict=True)])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.025)  # 24 points: the chi-squared limit is not reached
    assert (p > 0.49).mean() == pytest.approx(0.5, abs=0.05)


def test_a_true_floor_is_seen_by_every_measure():
    rows = {e.law: e for e in evidence(law("power+floor"), X[None], noisy("power+floor", [0.3, 4, 0.4]))}
    assert rows["power"].p_value < 1e-6
    assert rows["power"].aicc > 20
    assert rows["power"].holdout > 5 * rows["power+floor"].holdout
    assert min(rows.values(), key=lambda e: e.aicc).aicc == 0.0


def test_a_joint_law_is_compared_with_itself_without_a_floor():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    x = np.stack([n, d])
    y = noisy("chinchilla", [1.7, 400, 410, 0.34, 0.28], x, 0.005)
    rows = {e.law: e for e in evidence(law("chinchilla"), x, y)}
    assert rows["chinchilla, E = 0"].parameters == 4
    assert rows["chinchilla, E = 0"].p_value < 1e-3
    without = noisy("chinchilla", [0.0, 400, 410, 0.34, 0.28], x, 0.005)
    assert {e.law: e for e in evidence(law("chinchilla"), x, without)}["chinchilla, E = 0"].p_value > 0.01


def test_a_choice_at_a_bound_says_so_and_names_what_to_compare_it_with() -> None:
    x = np.geomspace(1e3, 1e6, 10)
    noise = np.exp(0.01 * np.random.default_rng(14).standard_normal(10))
    taken, text = chosen(x[None], law("power+floor").predict(x, np.array([1.8, 30, 0.4])) * noise, None)
    assert taken.name == "broken"
    assert "Its f lies on a bound" in text
    assert text.endswith("compare it with `law='power+floor'`.")
