"""Latent instance difficulty: closed forms of training and of attempts (arXiv 2601.03764).

Every instance has a precision tau with P(tau <= t) ~ t^(beta / 2) near 0 (a small one is hard); its targets scatter
with variance sigma^2 / tau. A ridge regression is trained on one noisy target per input; an attempt succeeds when a
fresh target lies within delta of the prediction. Notation: D = delta / sigma, r = L_gen / sigma^2, c = sqrt(2 / pi) D.

The paper's theorem makes the exponent in k the smaller of beta and gamma ~ 1 / L_gen. That holds where tau is bounded
(`bounded_exponent`); the Gamma prior's upper tail makes the second mechanism slower than every power
(`gamma_exponent`), so that its exponent depends on the window of k.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported when they are first used

__all__ = [
    "amplitude",
    "bounded_exponent",
    "crossover",
    "excess_risk",
    "gamma_exponent",
    "generalisation",
    "noise_variance",
    "perfect_failure",
    "saturation",
]

Array: TypeAlias = npt.NDArray[np.float64]


def noise_variance(beta: float, sigma: float = 1.0, prior: str = "gamma") -> float:
    """Variance of a training target about its mean, sigma^2 E[1 / tau]; infinite for beta <= 2.

    Args:
        beta: Tail exponent of the difficulty.
        sigma: sigma_eta.
        prior: `gamma`: 2 sigma^2 / (beta - 2). `bounded`, tau = U^(2 / beta): beta sigma^2 / (beta - 2).
    """
    if beta <= 2:
        return float("inf")
    return (2.0 if prior == "gamma" else beta) * sigma**2 / (beta - 2)


def generalisation(n: npt.ArrayLike, dim: int, noise: float) -> Array:
    """Expected excess risk of least squares on n > dim + 1 Gaussian inputs: noise d / (n - d - 1); NaN below.

    Exact for every covariance; at large n the paper's noise d / n.
    """
    n = np.asarray(n, dtype=np.float64)
    return np.where(n > dim + 1, noise * dim / np.where(n > dim + 1, n - dim - 1, 1.0), np.nan)


def excess_risk(n: float, dim: int, alpha: float, noise: float, ridge: float = 0.0) -> float:
    """Expected excess risk of ridge regression on n inputs, to leading order in 1 / n: every regime of n in one form.

    With w_j = lambda_j / (lambda_j + kappa), where kappa solves sum w_j + n ridge / kappa = n, and g = sum w_j^2 / n:

        L = (sum lambda_j (1 - w_j)^2 + noise g) / (1 - g)

    for eigenvalues lambda_j = j^-(1 + alpha) and a target of unit power in every direction (Canatar, Bordelon and
    Pehlevan 2021; Hastie et al. 2022). Below d it is the spectrum's tail with its factor, at d the peak that a ridge
    limits, beyond it noise d / (n - d), of which `generalisation` is the exact form. For alpha <= 1 and d = 50, means
    over data sets exceed it by up to 5 % from n = 5 to .7 d and 4 % at 2 d, and less beyond
    (tests/benchmarks/excess_risk.py). They exceed it by more where few inputs meet a steep spectrum (14 % at alpha 2, n
    = 5; more than twofold at alpha 5, n = 3) and, without a ridge to speak of, by up to a half within a tenth of d.

    Args:
        n: Training inputs, > 0.
        dim: d.
        alpha: Exponent of the spectrum.
        noise: Variance of a target about its mean, finite.
        ridge: lambda of |theta|^2 beside the mean square; without one the expectation at n = d is infinite.
    """
    spectrum = np.arange(1, dim + 1, dtype=np.float64) ** -(1 + alpha)
    kappa = _effective_ridge(spectrum, n, ridge)
    kept, lost = spectrum / (spectrum + kappa), kappa / (spectrum + kappa)
    # 1 - g = (n - sum w^2) / n, and n = sum w + n ridge / kappa: no digits are lost where g is nearly 1.
    spare = (kept * lost).sum() + n * ridge / kappa if kappa else n - dim
    if spare <= 0:
        return float("inf")
    return float(n * ((spectrum * lost**2).sum() + noise * (kept**2).sum() / n) / spare)


def _effective_ridge(spectrum: Array, n: float, ridge: float) -> float:
    """kappa of sum lambda / (lambda + kappa) + n ridge / kappa = n; 0 without a ridge from n = d on."""
    if ridge == 0 and n >= spectrum.size:
        return 0.0
    # Every term is at least that of the smallest eigenvalue, and at most lambda / kappa.
    low = max(ridge, spectrum[-1] * (spectrum.size - n) / n)
    high = spectrum.sum() / n + ridge

    def excess(log_kappa: float) -> float:
        kappa = np.exp(
            log_kappa
        )  # sum w = d - sum kappa / (lambda + kappa), which loses no digits where kappa is small
        return float(n * ridge / kappa + (spectrum.size - n) - (kappa / (spectrum + kappa)).sum())

    return float(np.exp(scipy.optimize.brentq(excess, np.log(low) - 1e-6, np.log(high) + 1e-6, xtol=1e-14)))


def amplitude(beta: float, tolerance: float) -> float:
    """P of a perfect predictor's failure P k^-beta: 2 Gamma(beta) / Gamma(beta / 2) c^-beta."""
    c = np.sqrt(2 / np.pi) * tolerance
    return float(2 * np.exp(scipy.special.gammaln(beta) - scipy.special.gammaln(beta / 2)) * c**-beta)


def perfect_failure(k: npt.ArrayLike, beta: float, tolerance: float) -> Array:
    """1 - pass@k of a perfect predictor under the Gamma prior, where k s << 1 or s << 1.

    Gamma((beta + 1) / 2) / sqrt(pi) U(beta / 2, 1 / 2, (k c)^2 / 4), from E exp(-k c sqrt(tau)); 4 % off at k D = 100
    for D = 1, 0.4 % at 1000.
    """
    z = (np.asarray(k, dtype=np.float64) * np.sqrt(2 / np.pi) * tolerance) ** 2 / 4
    return np.asarray(scipy.special.gamma((beta + 1) / 2) / np.sqrt(np.pi) * scipy.special.hyperu(beta / 2, 0.5, z))


def bounded_exponent(risk: npt.ArrayLike, beta: float) -> Array:
    """Exponent in k as k grows, for tau <= 1: min(beta, 1 / r) (the paper's theorem).

    Args:
        risk: r = L_gen / sigma^2.
        beta: Tail exponent of the difficulty.
    """
    with np.errstate(divide="ignore"):
        return np.minimum(beta, 1 / np.asarray(risk, dtype=np.float64))


def gamma_exponent(k: npt.ArrayLike, risk: npt.ArrayLike, tolerance: float) -> Array:
    """Local exponent of the second mechanism under the Gamma prior: 1 / sqrt(r ln(c k)); it falls to 0 as k grows.

    It dominates beyond the `crossover`.
    """
    u = np.log(np.sqrt(2 / np.pi) * tolerance * np.asarray(k, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(u > 0, 1 / np.sqrt(np.asarray(risk, dtype=np.float64) * u), np.nan)


def crossover(risk: npt.ArrayLike, beta: float, tolerance: float) -> Array:
    """k beyond which predictor error, not difficulty, dominates failures under the Gamma prior: exp(4/(beta^2 r)) / c.

    Only the order of magnitude is right: the slope has fallen to beta / 2 at 6 to 16 times this k.
    """
    with np.errstate(over="ignore", divide="ignore"):
        grown = np.exp(4 / (beta**2 * np.asarray(risk, dtype=np.float64)))
        return np.asarray(grown / (np.sqrt(2 / np.pi) * tolerance))


def saturation(k: float, beta: float, tolerance: float, dim: int, prior: str = "gamma") -> float:
    """Training items from which the exponent is beta for all attempts up to k; infinite for beta <= 2.

    Gamma: beta^2 ln(c k) / (2 (beta - 2)) d. Bounded: beta^2 / (beta - 2) d, whatever k.
    """
    if beta <= 2:
        return float("inf")
    if prior == "gamma":
        return float(beta**2 * np.log(np.sqrt(2 / np.pi) * tolerance * k) / (2 * (beta - 2)) * dim)
    return beta**2 / (beta - 2) * dim
