"""Two Gaussians of unit variance: every quantity of the oracle sweeps, by a closed form or by quadrature.

Class 1 has prior p and mean +d/2, class 0 has prior 1 - p and mean -d/2, on one line. A bijection applied to them
changes nothing here, and a latent temperature t is the distance d / t. All entropies and divergences are in nats.

Sources: definitions of arXiv 2602.00315, equations 1 to 4 (posterior,
aleatoric, epistemic) and 8 (prior shift); for invariance under bijections Theisen et al. 2021, arXiv 2106.03357.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt
from scipy.special import entr, log_expit, ndtr

__all__ = ["PriorShift", "Truth", "prior_shift", "truth"]

_Array = npt.NDArray[np.float64]
_TAIL = 12.0  # standard deviations beyond the means: what is left out is below 1e-32


@dataclass(frozen=True)
class Truth:
    """The true values of two Gaussians, and of their smoothed posterior r^T = softmax(log(w f) / T).

    Attributes:
        aleatoric: A = E[H(r(x))], nats: the cross-entropy no classifier beats.
        mutual_information: H(prior) - A, nats.
        bayes_error: 1 - E max_k r_k.
        tempered_entropy: E[H(r^T(x))], nats; equal to `aleatoric` at T = 1.
        tempered_nll: E[-log r^T_y(x)] over labelled items, nats; equal to `tempered_entropy` at T = 1 only.
    """

    aleatoric: float
    mutual_information: float
    bayes_error: float
    tempered_entropy: float
    tempered_nll: float


@dataclass(frozen=True)
class PriorShift:
    """The cost of training at one prior and testing at another, for the best possible classifier.

    Attributes:
        epistemic: E_test KL(posterior at the test prior || posterior at the training prior), nats.
        accuracy: Accuracy of the training prior's Bayes classifier on test items.
        joint_kl: KL(training || test) over pairs (x, y), nats; equal to that of the priors, at every distance.
        marginal_kl: KL(training || test) over x alone, nats; never above `joint_kl`.
    """

    epistemic: float
    accuracy: float
    joint_kl: float
    marginal_kl: float


def truth(distance: float, prior: float = 0.5, temperature: float = 1.0) -> Truth:
    """The true values of two Gaussians.

    Args:
        distance: d > 0 between the means, in standard deviations.
        prior: Probability of class 1, strictly between 0 and 1.
        temperature: T > 0 by which the log-posterior is divided (smoothing: r^T is not the posterior of this world).

    Example:
        >>> round(truth(2.0).aleatoric, 6)
        0.356316
    """
    x, weight = _nodes(distance, slope=distance / min(1.0, temperature))
    log_odds = _logit(prior) + distance * x
    p1, p0 = prior * _normal(x - distance / 2), (1 - prior) * _normal(x + distance / 2)
    aleatoric = _integral((p0 + p1) * _entropy(log_odds), weight)
    smooth = log_odds / temperature
    nll = -(p1 * log_expit(smooth) + p0 * log_expit(-smooth))
    return Truth(
        aleatoric=aleatoric,
        mutual_information=float(entr(prior) + entr(1 - prior)) - aleatoric,
        bayes_error=_error(distance, prior, prior),
        tempered_entropy=_integral((p0 + p1) * _entropy(smooth), weight),
        tempered_nll=_integral(nll, weight),
    )


def prior_shift(distance: float, trained: float, prior: float = 0.5) -> PriorShift:
    """The optimum of training at prior `trained`, tested at `prior` (both: probability of class 1).

    Args:
        distance: d > 0 between the means, in standard deviations.
        trained, prior: Strictly between 0 and 1.
    """
    x, weight = _nodes(distance, slope=distance)
    f1, f0 = _normal(x - distance / 2), _normal(x + distance / 2)
    r, q = _logit(prior) + distance * x, _logit(trained) + distance * x
    test, train = prior * f1 + (1 - prior) * f0, trained * f1 + (1 - trained) * f0
    kl = np.exp(log_expit(r)) * (log_expit(r) - log_expit(q)) + np.exp(log_expit(-r)) * (log_expit(-r) - log_expit(-q))
    # log f0 is common to both mixtures; the rest never underflows
    ratio = np.logaddexp(log(trained) + distance * x, log(1 - trained)) - np.logaddexp(
        log(prior) + distance * x, log(1 - prior)
    )
    return PriorShift(
        epistemic=_integral(test * kl, weight),
        accuracy=1 - _error(distance, trained, prior),
        joint_kl=trained * log(trained / prior) + (1 - trained) * log((1 - trained) / (1 - prior)),
        marginal_kl=_integral(train * ratio, weight),
    )


def _nodes(distance: float, slope: float) -> tuple[_Array, float]:
    """Nodes [m] and their common weight: the trapezoid rule, where log-odds grow by at most `slope` per unit of x.

    It converges geometrically: the integrands are analytic up to pi / slope off the real line, and the step is a
    twelfth of that (error below exp(-2 pi * 12)).
    """
    step = 0.25 / max(1.0, slope)
    count = int(np.ceil((distance / 2 + _TAIL) / step))
    x: _Array = np.arange(-count, count + 1, dtype=np.float64) * step
    return x, step


def _integral(values: _Array, weight: float) -> float:
    return float(values.sum() * weight)


def _normal(x: _Array) -> _Array:
    density: _Array = np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi)
    return density


def _logit(p: float) -> float:
    return log(p) - log(1 - p)


def _entropy(log_odds: _Array) -> _Array:
    """[m] entropy of a coin with these log-odds, nats."""
    total: _Array = -(
        np.exp(log_expit(log_odds)) * log_expit(log_odds) + np.exp(log_expit(-log_odds)) * log_expit(-log_odds)
    )
    return total


def _error(distance: float, trained: float, prior: float) -> float:
    """Error rate of deciding at the boundary of prior `trained`, on items of `prior`."""
    boundary = -_logit(trained) / distance
    return float(prior * ndtr(boundary - distance / 2) + (1 - prior) * ndtr(-boundary - distance / 2))
