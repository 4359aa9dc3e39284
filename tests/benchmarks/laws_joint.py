"""The joint law of N and D: how fast the optimum and its draws are found, and what it predicts on real tables."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from laws_data import Array, Table, joint_points, tables
from laws_rivals import STARTS, joint_objective, search, spread
from scipy.optimize import minimize

from raysweep.errors import FitError
from raysweep.laws.bootstrap import bootstrap, resample
from raysweep.laws.estimate import Status, estimate
from raysweep.laws.forms import law

__all__ = ["run", "run_tables"]

DELTA = 1e-3  # of Huber's loss, as Hoffmann et al. 2022 have it
DRAWS = 4000
_REPEATS = 20
_CHECKED = 400  # draws whose optimum is searched anew, to see what warm starts lose
_HELD_OUT = 0.3  # of the distinct compute budgets, the largest


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time to the optimum and for the draws; the classical search beside it, on a subsample of its starts."""
    table, form = joint_points(), law("chinchilla")
    x = np.stack([table.n, table.d])
    estimate(form, x, table.loss, huber=DELTA)  # what only the first call pays is no part of a fit
    seconds = []
    for _ in range(_REPEATS):
        begin = time.process_time()
        found = estimate(form, x, table.loss, huber=DELTA)
        seconds.append(time.process_time() - begin)
    values = found.values[0]
    logs = np.log(table.n), np.log(table.d), np.log(table.loss)
    q = np.concatenate([np.log(np.maximum(values[:3], 1e-300)), values[3:]])
    cpu_s = float(np.median(seconds))
    reached = joint_objective(q, *logs, DELTA)[0]  # in the rival's terms, not in ours
    ours = {
        "cpu_s": cpu_s,
        "objective": reached,
        "params": dict(zip(form.names, values.tolist(), strict=True)),
        "status": Status(found.status[0]).name,
    }
    runs = len(table.loss)
    begin = time.process_time()
    sample = bootstrap(form, x, table.loss, draws=DRAWS, huber=DELTA)
    spread_of = sample.draws.std(axis=0)
    draws = {
        "draws": DRAWS,
        "cpu_s": time.process_time() - begin,
        "sd": dict(zip(form.names, spread_of.tolist(), strict=True)),
        "checked": _CHECKED,
    }
    # A draw is polished only as far as its interval needs: how far is it from its own optimum, searched anew?
    weights = resample(form, x, table.loss, sample.values, draws=DRAWS).weights
    assert weights is not None
    begin = time.process_time()
    anew = estimate(form, x, table.loss, weights[:_CHECKED], huber=DELTA)
    draws["cpu_s_searched_anew"] = (time.process_time() - begin) * DRAWS / _CHECKED
    off = (sample.draws[:_CHECKED] - anew.values) / spread_of
    draws["off_rms_sd"] = float(np.sqrt((off**2).mean()))
    draws["off_most_sd"] = float(np.abs(off).max())
    rivals = {}
    for name, analytic, starts in (("numeric", False, args.numeric), ("analytic", True, args.analytic)):
        one = search(table.n, table.d, table.loss, spread(starts), analytic, DELTA)
        one["cpu_s_all_starts"] = one["cpu_s"] / starts * len(STARTS)
        one["ratio"] = one["cpu_s_all_starts"] / cpu_s
        rivals[name] = one
    best = _best_known(logs, [np.array(r["params"]) for r in (*rivals.values(), {"params": values})])
    excess = reached / best - 1
    _show_joint(ours, draws, rivals, best, excess)
    return {
        "runs": runs,
        "huber": DELTA,
        "ours": ours,
        "bootstrap": draws,
        "rivals": rivals,
        "starts_of_the_search": len(STARTS),
        "best_objective_known": best,
        "excess_over_best": excess,
    }


def _best_known(logs: tuple[Array, Array, Array], ends: list[Array]) -> float:
    """The least objective after polishing every end by BFGS to the last digit, ours among them."""
    best = np.inf
    for end in ends:
        q = np.concatenate([np.log(np.maximum(end[:3], 1e-300)), end[3:]])
        for _ in range(3):
            found = minimize(joint_objective, q, args=(*logs, DELTA), jac=True, method="BFGS", options={"gtol": 1e-12})
            q = found.x
        best = min(best, float(found.fun))
    return best


def _show_joint(
    ours: dict[str, Any], draws: dict[str, Any], rivals: dict[str, Any], best: float, excess: float
) -> None:
    print(f"{'way':44}{'CPU-s':>12}{'objective':>16}{'ratio':>10}")
    print(f"{'ours, to the optimum (' + ours['status'] + ')':44}{ours['cpu_s']:12.4f}{ours['objective']:16.9f}{1:10}")
    for name, one in rivals.items():
        label = f"{len(STARTS):,} L-BFGS starts, {name} gradient, from {one['starts']}"
        print(f"{label:44}{one['cpu_s_all_starts']:12.1f}{one['objective']:16.9f}{one['ratio']:10,.0f}")
    print(f"best known objective {best:.9f}; ours exceeds it by {excess:.1e} of it")
    anew = f"{draws['cpu_s_searched_anew']:.1f} if each is searched anew, from {_CHECKED}"
    apart = f"{draws['off_rms_sd']:.1e} sd, at most {draws['off_most_sd']:.1e}"
    print(f"{DRAWS:,} draws: {draws['cpu_s']:.2f} CPU-s ({anew}; they differ by {apart})")


def run_tables(args: argparse.Namespace) -> dict[str, Any]:
    """The joint law, fitted without the largest budgets of each real table, predicts them."""
    results = {}
    print("mean relative error at the held-out budgets, and the share its 95 % prediction interval covers")
    print(f"{'table':40}{'fitted':>7}{'held out':>9}{'squares':>17}{'Huber 1e-3':>17}  status")
    for table in tables():
        entry = _hold_out(table)
        results[table.name] = entry
        cells = [
            one.get("error") or f"{100 * one['mean_relative_error']:8.2f} %{100 * one['covered']:5.0f} %"
            for one in (entry["squares"], entry["huber"])
        ]
        status = entry["squares"].get("status", "")
        print(f"{table.name:40}{entry['fitted']:7}{entry['held_out']:9}" + "  ".join(cells) + f"  {status}", flush=True)
    return {"held_out_share": _HELD_OUT, "law": "chinchilla", "results": results}


def _hold_out(table: Table) -> dict[str, Any]:
    form, budgets = law("chinchilla"), np.unique(table.budget)
    cut = budgets[len(budgets) - int(np.ceil(_HELD_OUT * len(budgets)))]
    held = table.budget >= cut
    x = np.stack([table.n, table.d])
    entry: dict[str, Any] = {
        "fitted": int((~held).sum()),
        "held_out": int(held.sum()),
        "budgets": len(budgets),
        "largest_fitted": float(budgets[budgets < cut].max()),
        "largest": float(budgets[-1]),
        "remark": table.remark,
    }
    for name, huber in (("squares", None), ("huber", DELTA)):
        try:
            found = estimate(form, x[:, ~held], table.loss[~held], huber=huber)
            sample = bootstrap(form, x[:, ~held], table.loss[~held], huber=huber)
        except FitError as error:
            entry[name] = {"error": str(error)}
            continue
        miss = form.predict(x[:, held], found.values[0]) / table.loss[held] - 1
        low, high = sample.prediction(x[:, held]).T
        entry[name] = {
            "mean_relative_error": float(np.abs(miss).mean()),
            "bias": float(miss.mean()),
            "covered": float(((low <= table.loss[held]) & (table.loss[held] <= high)).mean()),
            "width": float(np.median(high / low - 1)),
            "status": Status(found.status[0]).name,
            "params": dict(zip(form.names, found.values[0].tolist(), strict=True)),
        }
    return entry
