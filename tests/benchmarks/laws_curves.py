"""The 92 learning curves: each form is fitted to the smaller scales and scored on the larger ones."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from laws_data import DOMAINS, Array, Curve, curves
from laws_rivals import bnsl

from raysweep.errors import FitError
from raysweep.laws.choice import choose
from raysweep.laws.estimate import estimate
from raysweep.laws.forms import LAWS, law

__all__ = ["run"]

# What anchors.md section B5 measured: mean log RMSE on IC, NMT, LM, BB, and CPU-seconds a fit.
REFERENCES = {
    "reference M1 (power)": ((0.1046, 0.2217, 0.0140, 0.0148), "0.001"),
    "reference M2 (power+floor)": ((0.0725, 0.0482, 0.0011, 0.0100), "0.005-0.04"),
    "reference shifted": ((0.0521, 0.0247, 0.0009, 0.0084), "0.013-0.02"),
}

Predict = Callable[[Array], Array]


def _by_law(name: str) -> Callable[[Array, Array], Predict]:
    form = law(name)

    def fit(x: Array, y: Array) -> Predict:
        values = estimate(form, x, y).values[0]
        return lambda new: form.predict(new, values)

    return fit


def _chosen(x: Array, y: Array) -> Predict:
    return choose(x, y).predict


def run(args: argparse.Namespace) -> dict[str, Any]:
    found = curves()[:: args.every]
    methods = {name: _by_law(name) for name, form in LAWS.items() if form.axes == ("x",)}
    methods["chosen"] = _chosen
    if not args.no_rivals:
        methods["rival: BNSL procedure"] = bnsl
    print(f"{len(found)} curves; mean/median RMSE of log loss beyond the fitted scales")
    print(f"{'':28}" + "".join(f"{d:>16}" for d in DOMAINS) + f"{'failed':>8}{'CPU-s a fit':>13}")
    for name, (means, seconds) in REFERENCES.items():
        print(f"{name:28}" + "".join(f"{m:9.4f}/ -    " for m in means) + f"{'':8}{seconds:>13}")
    results = {name: _score(name, method, found) for name, method in methods.items()}
    references = {n: dict(zip(DOMAINS, means, strict=True)) for n, (means, _) in REFERENCES.items()}
    names = [f"{c.domain}: {c.name}" for c in found]
    return {"curves": len(found), "results": results, "references": references, "names": names}


def _score(name: str, method: Callable[[Array, Array], Predict], found: list[Curve]) -> dict[str, Any]:
    first = found[0]
    method(first.x[first.fitted], first.y[first.fitted])  # what only the first call pays is no part of a fit
    errors, seconds, failed = [], [], []
    for curve in found:
        begin = time.process_time()
        try:
            predict: Predict | None = method(curve.x[curve.fitted], curve.y[curve.fitted])
        except (FitError, RuntimeError) as error:
            predict, reason = None, str(error).splitlines()[0]
        seconds.append(time.process_time() - begin)
        with np.errstate(all="ignore"):
            far = math.nan if predict is None else _rmse_log(predict(curve.x[~curve.fitted]), curve.y[~curve.fitted])
        errors.append(far)
        if not math.isfinite(far):
            failed.append(f"{curve.domain}: {curve.name}: {'not finite' if predict else reason}")
    domains = {}
    for domain in DOMAINS:
        own = [e for e, c in zip(errors, found, strict=True) if c.domain == domain and math.isfinite(e)]
        domains[domain] = {"mean": float(np.mean(own)), "median": float(np.median(own))} if own else {}
    cells = "".join(f"{d['mean']:9.4f}/{d['median']:.4f}" if d else f"{'-':>16}" for d in domains.values())
    print(f"{name:28}{cells}{len(failed):8}{np.mean(seconds):13.4f}", flush=True)
    return {
        "domains": domains,
        "failed": failed,
        "cpu_s_mean": round(float(np.mean(seconds)), 5),
        "cpu_s_median": round(float(np.median(seconds)), 5),
        "cpu_s_most": round(max(seconds), 5),
        "errors": [round(e, 6) if math.isfinite(e) else None for e in errors],
    }


def _rmse_log(predicted: Array, measured: Array) -> float:
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(measured)) ** 2)))
