"""The exponents of the features model by regime: in time, in width and data, of what bottlenecks add; compute-optimal.

Equations 8 and 9 of arXiv 2409.17858 (Bordelon, Atanasov and Pehlevan) write the loss as a sum of four terms: one in
time, a plateau of the width N, a transient of the width, and the noise of minibatches of size B at a step size eta:

    lazy:  t^-beta + N^(-alpha min(1, beta)) + N^-1 t^-(1 - 1/alpha) + (eta / B) t^-(2 - 1/alpha)
    rich:  t^(-beta max(1, 2 / (1 + beta))), and on hard tasks t^(2 / (1 + beta)) in place of t in the transient

Here alpha > 1 is the capacity and beta > 0 the source (see `theory.features`); `rich` is any gamma > 0, past the
crossover. These forms are as others quote the paper. What the functions return was checked against the model, by
random-matrix theory and its exact flow (tests/theory/test_exponents.py), the transient of rich hard tasks only by the
sweep in docs/features.md. Where a larger term was found they return that one: in the transient on hard tasks, and in
the noise on tasks that are not super-easy.
"""

from __future__ import annotations

from math import inf

__all__ = [
    "clock_exponent",
    "compute_optimal",
    "crossover_exponent",
    "data_plateau_exponent",
    "mode_exponent",
    "noise_exponent",
    "phase",
    "time_exponent",
    "transient_exponent",
    "width_plateau_exponent",
]


def phase(alpha: float, beta: float) -> str:
    """`hard` (beta < 1), `easy`, or `super-easy` (beta > 2 - 1 / alpha, where the noise of SGD overtakes)."""
    return "hard" if beta < 1 else "easy" if beta < 2 - 1 / alpha else "super-easy"


def clock_exponent(beta: float, rich: bool) -> float:
    """c of tau ~ t^c, the lazy training time that equals a time t: max(1, 2 / (1 + beta)) with feature learning, or 1.

    The kernel grows as the derivative of tau, t^(c - 1).
    """
    return max(1.0, 2 / (1 + beta)) if rich else 1.0


def time_exponent(beta: float, rich: bool) -> float:
    """chi of L ~ t^-chi at infinite width: beta, or beta max(1, 2 / (1 + beta)) with feature learning."""
    return beta * clock_exponent(beta, rich)


def mode_exponent(alpha: float, beta: float, rich: bool) -> float:
    """p of t ~ k^p, the time at which mode k is learned; a width N reaches its plateau at about N^p."""
    return alpha / clock_exponent(beta, rich)


def crossover_exponent(beta: float) -> float:
    """p of t_c ~ gamma^-p, the time from which a small richness changes the exponent; inf where it never does."""
    return 1 / (1 - beta) if beta < 1 else inf


def width_plateau_exponent(alpha: float, beta: float) -> float:
    """p of L ~ N^-p after long training on fresh data, lazy or rich: alpha min(1, beta).

    The cap is that of a single model, as a random matrix of width N shows (`kernel_limit.width_plateau`); the mean over
    models of that width has alpha min(2, beta).
    """
    return alpha * min(1.0, beta)


def data_plateau_exponent(alpha: float, beta: float) -> float:
    """p of L ~ P^-p after long lazy training on P items that are used again: alpha min(2, beta)."""
    return alpha * min(2.0, beta)


def transient_exponent(alpha: float, beta: float, rich: bool) -> float:
    """p of N^-1 t^-p, the largest part of what a width N adds to the loss before its plateau.

    1 - 1/alpha for beta >= 1, as the paper has it. On hard tasks a larger term is beta - 1/alpha (derived for this
    package), times the exponent of the clock. Where that is negative, what the width adds grows until the plateau.
    """
    return (min(1.0, beta) - 1 / alpha) * clock_exponent(beta, rich)


def noise_exponent(alpha: float, beta: float, rich: bool) -> float:
    """p of (eta / B) t^-p, the largest part of what the noise of small steps on minibatches adds to the loss.

    2 - 1/alpha on super-easy tasks, as the paper has it. On others noise is a share of the loss that does not change
    lazily or for beta >= 1, and that grows with the kernel on rich hard ones (the Volterra form of `features.flow`; it
    holds while noise does not change the features).
    """
    share = clock_exponent(beta, rich) - 1
    return min(time_exponent(beta, rich) - share, 2 - 1 / alpha)


def compute_optimal(alpha: float, beta: float, rich: bool) -> tuple[float, float]:
    """(x, y) of the compute-optimal laws L* ~ C^-x and N* ~ C^y, with C = N t and alpha > 1.

    Hard: the time term against N^(-alpha beta). Easy: t^-beta against the transient N^-1 t^-(1 - 1/alpha). Super-easy:
    that transient against the noise of SGD, t^-(2 - 1/alpha) / B.
    """
    name = phase(alpha, beta)
    if name == "hard":
        if rich:
            return 2 * alpha * beta / (alpha * (1 + beta) + 2), 2 / (alpha * (1 + beta) + 2)
        return alpha * beta / (alpha + 1), 1 / (1 + alpha)
    if name == "easy":
        return alpha * beta / (alpha * beta + 1), (alpha * beta - alpha + 1) / (alpha * beta + 1)
    return 1 - 1 / (2 * alpha), 0.5
