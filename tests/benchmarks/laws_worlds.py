"""Noise-free data from every form: a fit must give back what made them."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from laws_data import Array

from raysweep.errors import FitError
from raysweep.laws.definition import Law
from raysweep.laws.estimate import Status, estimate
from raysweep.laws.forms import LAWS

__all__ = ["run"]

GOAL = 1e-8
_PERTURBED = 30  # further truths around each one below

# Truths by law, and the range of each axis. Laws of one axis are seen at 16 scales, of two at 5 x 5.
_LONG = ((1e2, 1e6),)
TRUTHS: dict[str, list[tuple[dict[str, float], tuple[tuple[float, float], ...]]]] = {
    "power": [({"A": 12.0, "alpha": 0.43}, _LONG)],
    "power+floor": [({"E": 1.7, "A": 40.0, "alpha": 0.35}, _LONG)],
    "shifted": [({"E": 0.3, "A": 50.0, "alpha": 0.5, "s": 3e3}, _LONG)],
    "m4": [({"E": 0.1, "I": 1.0, "A": 250.0, "alpha": 0.6, "gamma": 1.5}, _LONG)],
    "broken": [({"E": 0.2, "A": 5.0, "alpha": 0.15, "beta": 0.65, "d": 8e3, "f": 0.4}, _LONG)],
    "exponential": [({"E": 0.3, "A": 2.0, "scale": 4e3}, ((1e2, 2e4),))],
    "chinchilla": [
        ({"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}, ((1e8, 1e10), (1e9, 1e12))),
        ({"E": 1.69, "A": 400.0, "B": 400.0, "alpha": 0.31, "beta": 0.31}, ((1e8, 1e10), (1e9, 1e12))),
        ({"E": 1.69, "A": 400.0, "B": 40.0, "alpha": 0.465, "beta": 0.155}, ((1e6, 1e8), (1e8, 1e11))),
    ],
    "kaplan": [
        (
            {"E": 1.0, "A": 50.0, "alpha": 0.5, "beta": 0.4, "gamma": 0.6, "R": 1.0},
            ((1e6, 1e9), (1e8, 1e11)),
        )
    ],
    "time": [({"E": 0.5, "A": 20.0, "alpha": 0.4, "B": 3.0, "gamma": 0.5}, ((1e2, 1e5), (1e1, 1e4)))],
    "passk": [({"C": 0.9, "beta": 0.3}, ((1.0, 1e4),))],
    "passk+training": [
        ({"C": 0.9, "beta": 0.5, "delta": 0.3, "N0": 1e4, "gamma": 0.8}, ((1.0, 1e4), (1e2, 1e6))),
    ],
}


def scales(ranges: tuple[tuple[float, float], ...]) -> Array:
    """Geometric scales, [points] or [axes, points]."""
    if len(ranges) == 1:
        return np.geomspace(*ranges[0], 16)
    mesh = np.meshgrid(*(np.geomspace(*r, 5) for r in ranges), indexing="ij")
    return np.stack([m.ravel() for m in mesh])


def run(args: argparse.Namespace) -> dict[str, Any]:
    columns = f"{f'worst of {_PERTURBED} near':>18}{f'beyond {GOAL}':>14}{'MAX_ITER':>10}"
    print(f"{'law':16}{'parameter':>11}{'worst':>10}{columns}")
    results = {}
    for name, form in LAWS.items():
        if name not in TRUTHS:
            print(f"{name:16} has no truth here")
            continue
        results[name] = _recover(form)
    return {"goal": GOAL, "results": results}


def _recover(form: Law) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    worst, where, far, beyond, failed, unsettled = 0.0, "", 0.0, 0, [], 0
    for truth, ranges in TRUTHS[form.name]:
        base = np.array([truth[name] for name in form.names])
        for k in range(1 + _PERTURBED):
            values = base if k == 0 else base * np.exp(0.2 * rng.standard_normal(base.size))
            try:
                error, settled = _errors(form, values, scales(ranges))
            except FitError as refusal:
                failed.append(str(refusal))
                continue
            unsettled += not settled
            most = float(error.max())
            if k == 0 and most >= worst:
                worst, where = most, form.names[int(error.argmax())]
            far, beyond = max(far, most), beyond + (most > GOAL)
    print(f"{form.name:16}{where:>11}{worst:10.1e}{far:18.1e}{beyond:14}{unsettled:10}", *failed[:1], flush=True)
    total = len(TRUTHS[form.name]) * (1 + _PERTURBED)
    return {
        "worst": worst,
        "at": where,
        "worst_near": far,
        "beyond": beyond,
        "max_iter": unsettled,
        "of": total,
        "failed": failed,
    }


def _errors(form: Law, values: Array, x: Array) -> tuple[Array, bool]:
    """Relative error of each parameter, and whether the fit says that it settled."""
    found = estimate(form, x, form.predict(x, values))
    return np.asarray(np.abs(found.values[0] / values - 1)), bool(found.status[0] != Status.MAX_ITER)
