"""What laws.py is compared with: the classical searches, written anew from their papers' descriptions.

* `bnsl`: one smooth break by a brute grid and the least squares of `curve_fit` (Caballero et al. 2023, 2210.14891).
* `search`: the joint law in log-sum-exp form by L-BFGS from 4,500 starts (Hoffmann et al. 2022, 2203.15556, D.3;
  Besiroglu et al. 2024, 2404.10102, which sums the objective instead of averaging it).
* `naive_groups`: one `curve_fit` a group in a Python loop.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from laws_data import Array
from scipy.optimize import OptimizeWarning, brute, curve_fit, leastsq, minimize

__all__ = ["STARTS", "bnsl", "joint_objective", "naive_groups", "search", "spread"]

# e, a, b, alpha, beta: 5 x 6 x 6 x 5 x 5 = 4,500.
STARTS = np.array(
    list(
        product(
            np.arange(-1.0, 1.5, 0.5),
            np.arange(0.0, 30.0, 5.0),
            np.arange(0.0, 30.0, 5.0),
            np.arange(0.0, 2.5, 0.5),
            np.arange(0.0, 2.5, 0.5),
        )
    )
)


def _bnsl_log(u: Array, floor: float, b: float, c0: float, c1: float, d: float, f: float) -> Array:
    """log of E + B x^-c0 (1 + (x/d)^(1/f))^(-c1 f), with u = log x, B = exp b, d = exp d, f = exp f and E >= 0."""
    sharp = np.exp(f)
    with np.errstate(over="ignore", invalid="ignore"):
        bent = np.exp(b - c0 * u - c1 * sharp * np.logaddexp(0.0, (u - d) / sharp))
        return np.asarray(np.log(np.abs(floor) + bent))


def bnsl(x: Array, y: Array) -> Callable[[Array], Array]:
    """Fit one smooth break by a brute grid and a least-squares polish, both on log y; returns the law.

    Raises:
        RuntimeError: The polish found nothing finite.
    """
    u0, t0 = np.log(x).mean(), np.log(y).mean()
    u, t = np.log(x) - u0, np.log(y) - t0
    least = float(np.exp(t.min()))

    def loss(q: Array) -> float:
        value = float(((_bnsl_log(u, *q) - t) ** 2).sum())
        return value if np.isfinite(value) else 1e9

    def residual(q: Array) -> Array:
        return np.asarray(np.nan_to_num(_bnsl_log(u, *q) - t, nan=1e9, posinf=1e9, neginf=-1e9))

    ranges: list[Any] = [
        slice(0.0, least, least / 4.99),  # E, up to just below the least y
        slice(-3.0, 1.1, 0.8),  # log B, about centred y
        slice(0.0, 1.25, 0.25),  # c0
        slice(-0.5, 1.5, 0.25),  # c1
        slice(u.min(), u.max(), float(np.ptp(u)) / 6),  # log d
        slice(-2.5, 0.6, 1.0),  # log f
    ]
    start = brute(loss, ranges, finish=None)
    # What curve_fit calls; it would raise where 20,000 evaluations are too few, here the last point is taken.
    with np.errstate(all="ignore"):
        q = leastsq(residual, start, maxfev=20_000)[0]
    if not np.isfinite(q).all():
        raise RuntimeError("the polish ended at parameters that are not finite")
    return lambda new: np.exp(t0 + _bnsl_log(np.log(new) - u0, *q))


def _huber(r: Array, delta: float) -> tuple[Array, Array]:
    """The Huber loss, r^2/2 inside delta, and its derivative."""
    inside = np.abs(r) <= delta
    return np.where(inside, 0.5 * r * r, delta * (np.abs(r) - 0.5 * delta)), np.clip(r, -delta, delta)


def joint_objective(q: Array, log_n: Array, log_d: Array, log_y: Array, delta: float) -> tuple[float, Array]:
    """Summed Huber loss of log residuals and its gradient in (e, a, b, alpha, beta)."""
    e, a, b, alpha, beta = q
    terms = np.stack([np.full_like(log_y, e), a - alpha * log_n, b - beta * log_d])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    value, slope = _huber(top + np.log(total) - log_y, delta)
    share = parts / total * slope
    g = share.sum(axis=1)
    return float(value.sum()), np.array([g[0], g[1], g[2], -(share[1] @ log_n), -(share[2] @ log_d)])


def search(n: Array, d: Array, y: Array, starts: Array, analytic: bool, delta: float = 1e-3) -> dict[str, Any]:
    """L-BFGS from every one of `starts`: CPU-seconds, and the least objective with its parameters (E, A, B, ...)."""
    args = (np.log(n), np.log(d), np.log(y), delta)

    def value(q: Array) -> float:
        return joint_objective(q, *args)[0]

    def both(q: Array) -> tuple[float, Array]:
        return joint_objective(q, *args)

    best, where = np.inf, np.full(5, np.nan)
    begin = time.process_time()
    with np.errstate(over="ignore", invalid="ignore"):
        for start in starts:
            found = minimize(both if analytic else value, start, jac=analytic, method="L-BFGS-B")
            if found.fun < best:
                best, where = float(found.fun), found.x
    return {
        "starts": len(starts),
        "cpu_s": time.process_time() - begin,
        "objective": best,
        "params": [*np.exp(where[:3]).tolist(), *where[3:].tolist()],
    }


def spread(count: int, seed: int = 0) -> Array:
    """`count` of the 4,500 starts, drawn without replacement."""
    return STARTS[np.random.default_rng(seed).choice(len(STARTS), size=count, replace=False)]


_NAIVE: dict[str, tuple[Callable[..., Array], Sequence[float]]] = {
    "power": (lambda u, a, alpha: a - alpha * u, (0.0, 0.5)),
    "power+floor": (lambda u, a, alpha, e: np.logaddexp(e, a - alpha * u), (0.0, 0.5, -3.0)),
}


def naive_groups(law: str, x: Array, y: Array) -> dict[str, float]:
    """One `curve_fit` on log y for each row of x and y, [groups, points]: CPU-seconds a group, and failures."""
    form, start = _NAIVE[law]
    failed, begin = 0, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        for u, t in zip(np.log(x), np.log(y), strict=True):
            try:
                curve_fit(form, u - u.mean(), t - t.mean(), p0=start)
            except RuntimeError:
                failed += 1
    return {"groups": len(x), "cpu_s_a_group": (time.process_time() - begin) / len(x), "failed": failed}
