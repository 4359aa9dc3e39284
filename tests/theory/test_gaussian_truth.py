"""The quadrature truths reproduce the vectors of science/oracle.md section 7.2, and the laws that bind them."""

import numpy as np
import pytest
from scipy.stats import norm

from raysweep.theory.gaussian import prior_shift, truth

PRINTED = {
    # d: A, MI, Bayes error, A of the posterior tempered by 2, NLL of the true label under it
    1.0: (0.581726, 0.111421, 0.308538, 0.657930, 0.605853),
    2.0: (0.356316, 0.336831, 0.158655, 0.532178, 0.406856),
    4.0: (0.060427, 0.632720, 0.022750, 0.167919, 0.085946),
}
SHIFTED = {
    1.0: (0.070279, 0.637621, 0.016511),
    2.0: (0.040211, 0.820268, 0.044973),
    4.0: (0.006201, 0.974818, 0.076571),
}


@pytest.mark.parametrize("d", PRINTED)
def test_printed_truths_to_six_digits(d):
    found = truth(d, temperature=2.0)
    values = (found.aleatoric, found.mutual_information, found.bayes_error, found.tempered_entropy, found.tempered_nll)
    assert values == pytest.approx(PRINTED[d], abs=5.01e-7)


@pytest.mark.parametrize("d", SHIFTED)
def test_printed_prior_shift_to_six_digits(d):
    found = prior_shift(d, trained=0.7)
    assert (found.epistemic, found.accuracy, found.marginal_kl) == pytest.approx(SHIFTED[d], abs=5.01e-7)
    assert found.joint_kl == pytest.approx(0.082283, abs=5.01e-7)


@pytest.mark.parametrize("d", [0.01, 0.3, 1.0, 3.0, 8.0, 40.0])
@pytest.mark.parametrize("p", [0.5, 0.3, 0.01])
def test_laws_that_bind_the_truths(d, p):
    found = truth(d, p)
    prior_entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    b = found.bayes_error
    assert found.tempered_nll == pytest.approx(found.tempered_entropy, abs=1e-12)  # calibrated at T = 1 only
    assert 0 <= found.mutual_information + 1e-12 <= prior_entropy + 2e-12
    assert 0 <= b <= min(p, 1 - p) + 1e-15
    # Hellman-Raviv below, Fano above
    assert 2 * np.log(2) * b <= found.aleatoric + 1e-12
    assert found.aleatoric <= -(b * np.log(max(b, 1e-300)) + (1 - b) * np.log1p(-b)) + 1e-12


@pytest.mark.parametrize("d", [1.0, 2.0, 4.0])
def test_bayes_error_of_a_uniform_prior_is_a_half_distance_tail(d):
    assert truth(d).bayes_error == pytest.approx(norm.sf(d / 2), rel=1e-12)


@pytest.mark.parametrize("d", [0.5, 2.0, 6.0])
@pytest.mark.parametrize(("v", "w"), [(0.7, 0.5), (0.2, 0.6), (0.5, 0.5)])
def test_chain_rule_of_a_prior_shift(d, v, w):
    """KL over pairs = KL over x + mean KL of the posteriors over training items; here from the other side."""
    forward, back = prior_shift(d, trained=v, prior=w), prior_shift(d, trained=w, prior=v)
    assert forward.joint_kl == pytest.approx(forward.marginal_kl + back.epistemic, abs=1e-12)
    assert -1e-15 <= forward.marginal_kl <= forward.joint_kl + 1e-15
    assert forward.accuracy <= 1 - truth(d, w).bayes_error + 1e-15


@pytest.mark.parametrize(("d", "p", "t"), [(1.0, 0.5, 2.0), (3.0, 0.2, 0.7)])
def test_quadrature_agrees_with_adaptive_quadrature(d, p, t):
    from scipy.integrate import quad

    def log_odds(x):
        return np.log(p / (1 - p)) + d * x

    def mixture(x):
        return p * norm.pdf(x - d / 2) + (1 - p) * norm.pdf(x + d / 2)

    def entropy(x, temperature):
        s = 1 / (1 + np.exp(-log_odds(x) / temperature))
        return -mixture(x) * (s * np.log(s) + (1 - s) * np.log(1 - s))

    found = truth(d, p, t)
    assert found.aleatoric == pytest.approx(quad(entropy, -8, 8, (1.0,), epsabs=1e-12)[0], abs=1e-9)
    assert found.tempered_entropy == pytest.approx(quad(entropy, -8, 8, (t,), epsabs=1e-12)[0], abs=1e-9)
