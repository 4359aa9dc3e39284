"""The contract of an experiment, as a test of what planning, packing, the ledger and fits take for granted.

Call it in a test of your own, with a small sweep (seconds of work) that varies what matters: several lanes, sizes with
different costs, two times if time is an axis, and a run that diverges or fails if there is such a run:

    def test_my_experiment() -> None:
        sweep = from_mapping({"name": "t", "experiment": "my_module:MyExperiment", "grid": {...}})
        check_experiment(sweep.experiment, sweep)

Everything runs in this process, as under the inline executor, except for one fresh process that plans the sweep.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from raysweep.errors import ContractError, tail
from raysweep.experiment import Experiment
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.testing.measured import isolation, packing, resume, rows
from raysweep.testing.planned import cost, imports
from raysweep.testing.trial import Trial
from raysweep.testing.understood import kind, theory

__all__ = ["check_experiment"]


def check_experiment(experiment: Experiment, sweep: Sweep, tolerance: float = 1e-9) -> None:
    """Check an experiment against everything that raysweep takes for granted.

    * cost: a plan's cost of a mixed pack is the sum of the costs of its runs, and no less than its rows report.
    * imports: planning imports neither torch nor Ray nor Polars (for an experiment that the sweep names; a Python
      object is not imported again).
    * rows: every cell asked for comes back exactly once, with a number or null for each declared metric.
    * isolation: a run that raises or diverges does not affect the others of its pack.
    * packing: a run gives the same rows alone, in a pack and in a halved pack.
    * resume: a run resumed from a saved state gives the same rows, where the experiment saves one.
    * kind: the ledger records the kind of an axis in each cell, and no fit pools values of an axis that is not named.
    * theory: if there is one, every row gets a value or a reason, whatever the order of the rows.

    Args:
        experiment: The experiment to check.
        sweep: A small sweep of it, e.g. from `raysweep.sweep.from_mapping`.
        tolerance: Largest difference between two readings of a metric, relative to the larger of them and of the
            metric's median. 1e-9 suits float64; single precision needs about 1e-4.

    Raises:
        ContractError: the rules that are broken, with the values and what to do about each.
    """
    if (sweep.experiment.name, sweep.experiment.version) != (experiment.name, experiment.version):
        raise ContractError(
            f"check_experiment: the sweep must be of the experiment, but is of {sweep.experiment.name} (version "
            f"{sweep.experiment.version}), not of {experiment.name} (version {experiment.version})"
        )
    with tempfile.TemporaryDirectory(prefix="raysweep-") as folder:
        trial = Trial(experiment, replace(sweep, experiment=experiment), Store(folder), tolerance)
        try:
            trial.packs  # noqa: B018  (what cannot be planned breaks every rule)
        except Exception as error:
            raised = tail(traceback.format_exc(), 6)
            raise ContractError(
                f"check_experiment: it must be possible to plan the sweep, but that raised\n{raised}"
            ) from error
        checks = {
            "cost": cost,
            "imports": imports,
            "rows": rows,
            "isolation": isolation,
            "packing": packing,
            "resume": resume,
            "kind": kind,
            "theory": theory,
        }
        broken = {rule: list(dict.fromkeys(_said(check, trial))) for rule, check in checks.items()}
    lines = [f"- {rule}: {said}" for rule, found in broken.items() for said in found]
    if lines:
        rules = ", ".join(rule for rule, found in broken.items() if found)
        raise ContractError("\n".join([f"experiment {experiment.name} breaks rules of an Experiment: {rules}", *lines]))


def _said(check: Callable[[Trial], Iterable[str]], trial: Trial) -> Iterator[str]:
    """The findings of a check; an exception that the experiment raises is a finding, too."""
    try:
        yield from check(trial)
    except Exception:
        yield f"must not raise, but did:\n{tail(traceback.format_exc(), 6)}"
