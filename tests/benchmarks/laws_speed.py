"""Fits that were slow: `auto` on 10^6 rows, and kaplan under Huber's loss on 10^3 points; and the same with SciPy."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from laws_data import Array
from scipy.optimize import curve_fit, minimize

__all__ = ["run"]

_POINTS, _DRAWS, _DELTA = 1000, 1000, 1e-3
_CUTS = (0.0, 0.2, 0.5)  # shares of the largest scales that `auto` leaves out in turn


def run(args: argparse.Namespace) -> dict[str, Any]:
    return {"auto": _auto(args.auto_rows, args.naive_rows), "kaplan": _kaplan(args.naive_draws)}


def _timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}, found


def _auto(rows: int, naive_rows: int) -> dict[str, Any]:
    """`--law auto` on rows at as many scales, and at 1,000, also under Huber's loss; naive: curve_fit of two of its
    three laws at each cut.
    """
    from raysweep.laws import fit

    entry: dict[str, Any] = {"rows": rows}
    for scales, huber in ((rows, None), (1000, None), (rows, _DELTA), (1000, _DELTA)):
        x, y = _curve(rows, scales)
        frame = pl.DataFrame({"x": x, "y": y})
        took, found = _timed(lambda frame=frame, huber=huber: fit(frame, law="auto", x="x", y="y", huber=huber))
        took |= {"law": found.law.name, "params": dict(found.params)}
        name = f"{scales} scales" + ("" if huber is None else f", huber {huber:g}")
        entry[name] = took
        print(f"auto, {rows:,} rows at {name}: {took['cpu_s']:.1f} CPU-s, {took['wall_s']:.1f} s", flush=True)
    naive, _ = _timed(lambda: [_curve_fits(*_curve(naive_rows, naive_rows), cut) for cut in _CUTS])
    cpu = naive["cpu_s"] * rows / naive_rows
    entry["naive"] = {"rows": naive_rows, **naive, "cpu_s_all": cpu}
    print(f"auto, naive: curve_fit of shifted and broken at three cuts: {cpu:.0f} CPU-s (from {naive_rows:,} rows)")
    return entry


def _curve(rows: int, scales: int) -> tuple[Array, Array]:
    """Rows of .3 + 4 x^-.3 with 2 % noise, at so many scales."""
    x = np.repeat(np.geomspace(1e2, 1e8, scales), rows // scales)
    return x, (0.3 + 4 * x**-0.3) * np.exp(0.02 * np.random.default_rng(0).standard_normal(x.size))


def _shifted(u: Array, e: float, a: float, alpha: float, s: float) -> Array:
    return np.logaddexp(e, a - alpha * np.logaddexp(u, s))


def _broken(u: Array, e: float, a: float, alpha: float, beta: float, d: float, f: float) -> Array:
    return np.logaddexp(e, a - alpha * u - (beta - alpha) * np.exp(f) * np.logaddexp(0.0, (u - d) * np.exp(-f)))


def _curve_fits(x: Array, y: Array, cut: float) -> None:
    kept = x <= np.quantile(np.unique(x), 1 - cut)
    u, t = np.log(x[kept]), np.log(y[kept])
    for form, start in ((_shifted, (-2.0, 1.0, 0.4, 0.0)), (_broken, (-2.0, 1.0, 0.4, 0.2, 12.0, 0.0))):
        with contextlib.suppress(RuntimeError):  # it gave up; the time counts
            curve_fit(form, u, t, p0=start)


def _kaplan(naive_draws: int) -> dict[str, Any]:
    """`--law kaplan --huber 1e-3` with 1,000 draws and its hold-out; naive: L-BFGS from three starts for each draw."""
    from raysweep.laws import fit

    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 10, _POINTS), 10 ** rng.uniform(8, 12, _POINTS)
    y = 1.7 + 3 * ((n / 1e7) ** -0.3 + 1.2 * (d / 1e8) ** -0.3) ** 0.9
    y = y * np.exp(0.01 * rng.standard_normal(_POINTS))
    frame = pl.DataFrame({"n": n, "d": d, "y": y})
    took, found = _timed(lambda: fit(frame, law="kaplan", x=["n", "d"], y="y", huber=_DELTA, bootstrap=_DRAWS))
    took |= {"params": dict(found.params), "intervals": {k: list(v) for k, v in found.only.intervals.items()}}
    print(
        f"kaplan under Huber's loss, {_POINTS:,} points: {took['cpu_s']:.1f} CPU-s, {took['wall_s']:.1f} s", flush=True
    )

    def naive() -> None:
        for _ in range(naive_draws):
            some = rng.integers(0, _POINTS, _POINTS)
            u, v, t = np.log(n[some]), np.log(d[some]), np.log(y[some])
            for gamma in (-1.0, 0.0, 1.0):
                start = [t.min() - 0.5, 0.0, 0.3, 0.3, gamma, 0.0]
                minimize(_huber_of_kaplan, start, args=(u - u.mean(), v - v.mean(), t), method="L-BFGS-B")

    cost, _ = _timed(naive)
    cpu = cost["cpu_s"] / naive_draws * 2 * _DRAWS
    print(f"kaplan, naive: L-BFGS from three starts for {2 * _DRAWS:,} draws: {cpu:.0f} CPU-s (from {naive_draws})")
    return {**took, "naive": {"draws": naive_draws, **cost, "cpu_s_all": cpu}}


def _huber_of_kaplan(q: Array, u: Array, v: Array, t: Array) -> float:
    e, a, alpha, beta, gamma, r = q
    r_log = np.logaddexp(e, a + np.exp(gamma) * np.logaddexp(-alpha * u, r - beta * v)) - t
    size = np.abs(r_log)
    return float(np.where(size <= _DELTA, 0.5 * size**2, _DELTA * (size - 0.5 * _DELTA)).sum())
