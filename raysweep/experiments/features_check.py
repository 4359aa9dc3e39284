"""What the features experiment refuses before it runs: contradictory axes, runs that are the same, steps too large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raysweep.errors import SweepError
from raysweep.experiments.idle import refuse_duplicates
from raysweep.grid.runs import Runs
from raysweep.grid.values import Value
from raysweep.theory.features import flow, power_law_modes

__all__ = ["MOST_LOSS", "STABLE", "check_runs"]

STABLE = 2.0  # what the step size times an eigenvalue must stay below
MOST_LOSS = 100.0  # over that of the zero function: beyond it the noise grows, or steps have left the flow


def check_runs(runs: Runs, model: Sequence[str], size: Callable[[Mapping[str, Value]], tuple[int, int]]) -> None:
    """Refuse runs that have no meaning, steps known to be too large, and runs that would be the same one.

    Args:
        model: The axes of a model: all but the seed and the time.
        size: (modes, inputs) of a run.

    Raises:
        SweepError: there is such a run.
    """
    seen = set()
    for i in range(len(runs)):
        row = runs.row(i)
        times = runs.observed[int(runs.observed_code[i])].values("t")
        key = (*(row[name] for name in model), min(times), max(times))
        if key not in seen:
            seen.add(key)
            _check(row, times, *size(row))
    refuse_duplicates(runs, _idle)


def _idle(row: Mapping[str, Any]) -> dict[str, str]:
    """The axes without an effect on a run, and why."""
    idle = {}
    steps = row["method"] == "steps"
    if not steps and not row["batch"]:
        idle["eta"] = "the exact flow has a step size only in the noise of a batch"
    if not (row["width"] or row["target"] == "random" or (steps and (row["batch"] or row["n_train"]))):
        idle["seed"] = "nothing is drawn without a width, a random target, or batch or n_train by steps"
    return idle


def _check(row: Mapping[str, Any], times: Sequence[Any], width: int, inputs: int) -> None:
    if row["n_train"] and row["batch"]:
        raise SweepError(
            "grid.n_train: a data set is used whole, or fresh items are drawn, but got "
            f"(n_train={row['n_train']}, batch={row['batch']}). Set one of them to 0"
        )
    if row["n_train"] and row["method"] == "exact":
        raise SweepError(
            f"grid.n_train: a data set must be used by method: steps, but got (n_train={row['n_train']}, "
            "method=exact). Give method: steps, or n_train: 0"
        )
    if row["target"] == "random" and row["method"] == "steps":
        raise SweepError(
            "grid.target: a random one must be learned by method: exact, as the stable step size depends on it, but "
            "got (target=random, method=steps). Give method: exact, or target: power"
        )
    if width > inputs:
        raise SweepError(
            f"grid.inputs: must be at least the width, but got (width={width}, inputs={inputs}). "
            "Take more inputs, or leave them out"
        )
    if row["method"] == "exact":
        return
    eta, last = float(row["eta"]), float(max(times))
    if min(times) < eta:
        raise SweepError(
            f"grid.t: must be a step at least, but got (t={min(times):g}, eta={eta:g}). "
            "Take a later time, or a smaller step size"
        )
    growth = 1.0  # of the kernel, whose largest eigenvalue is 1 without a width: what is drawn is judged as it runs
    if row["gamma"]:
        modes = power_law_modes(row["alpha"], row["beta"])
        growth += float(row["gamma"]) * float(flow([modes], row["gamma"], [last]).rho[0, 0])
    if not eta * growth < STABLE:
        raise SweepError(
            f"grid.eta: eta (1 + gamma rho) must stay below {STABLE:g} up to t = {last:g}, but got (eta={eta:g}, "
            f"gamma={row['gamma']:g}, eta (1 + gamma rho)={eta * growth:.3g}): gradient descent would leave the flow "
            f"for the edge of stability. Take eta <= {1 / growth:.2g}"
        )
