"""The contract of an experiment, as a test of what planning, packing, the ledger and fits take for granted.

Call it in a test of your own, with a small sweep (seconds of work) that varies what matters: several lanes, sizes with
different costs, two times if time is an axis, and a run that diverges or fails if there is such a run:

    def test_my_experiment() -> None:
        sweep = from_mapping({"name": "t", "experiment": "my_module:MyExperiment", "grid": {...}})
        check_experiment(sweep.experiment, sweep)

Everything runs in this process, as under the inline executor, except for one fresh process that plans the sweep, and a
fork of this one that prices its runs in another order.

Out of reach is what the sweep does not vary or the rows do not report:

* values of axes that the sweep does not contain, other devices and other precisions;
* work that no column `flops` states; of a run that is read at several times, work before its last time, within the
  bounds below; memory and parameters, which no row reports, so that cost() is believed;
* faults between saved states, parts of packs and choices of cells that were not tried: six states per pack, six runs
  and two halves, and the cheapest and the most expensive cell of each run;
* metrics that are declared with `deterministic=False`, whose values are not compared;
* an axis or a seed that has no effect, which may be meant;
* whether a theory is true.
"""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from raysweep.errors import ContractError, RaysweepError, tail
from raysweep.executors.inline import threads
from raysweep.experiment import Experiment
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.testing.measured import isolation, packing, resume, rows
from raysweep.testing.planned import cost, imports
from raysweep.testing.trial import Trial
from raysweep.testing.understood import display, kind, theory

__all__ = ["check_experiment"]


def check_experiment(experiment: Experiment, sweep: Sweep, tolerance: float = 1e-9) -> None:
    """Check an experiment against everything that raysweep takes for granted.

    * display: what it says about how it is shown names columns that it has.
    * cost: a plan's cost of a mixed pack is the sum of the costs of its runs, in whatever order they are priced. A run
      of one cell costs what its row reports as `flops` and `flops_eval`, and every run that ends ok is also asked for
      one cell only. A run of several cells costs no less than its last row reports, and no more than its rows report
      together: a training for each cell. Rows that report no `flops` are not compared. A run that may stop before its
      longest time must report none: cost() states the work to that time, whether or not it is reached.
    * imports: planning imports neither torch nor Ray nor Polars (for an experiment that the sweep names; a Python
      object is not imported again).
    * rows: every cell asked for comes back exactly once, with a number or null for each declared metric, and nothing
      else does: no values that no cell asks for, no columns that are not declared. The pack stays as it is.
    * isolation: a run that raises or diverges does not affect the others of its pack.
    * packing: a run gives the same rows alone, in a pack and in a halved pack, and where only its cheapest or its most
      expensive cell is asked for: a value that is added to an axis later trains only what is new.
    * resume: where an experiment saves states, whole packs and parts of them that are resumed from one (of up to six
      per pack) give the same rows.
    * kind: the ledger records the kind of an axis in each cell, and no fit pools values of an axis that is not named.
    * theory: if there is one, every row gets a value or a reason (not both), and the same one whatever other cells and
      other metrics are asked for: in another order, half of the cells, single ones or none; one metric, a set or a
      list.

    A fault that breaks several parts is reported once per condition, with their number.

    Args:
        experiment: An instance, not its class.
        sweep: A small sweep of it, e.g. from `raysweep.sweep.from_mapping`.
        tolerance: Largest difference between two readings of a metric, relative to the larger of them and of the
            metric's median. 1e-9 suits float64; single precision needs about 1e-4.

    Raises:
        ContractError: the rules that are broken, with the values and what to do about each.
    """
    if isinstance(experiment, type) or not isinstance(experiment, Experiment):
        raise ContractError(
            "check_experiment: the experiment must be an instance with all parts of an Experiment, but is "
            f"{repr(experiment)[:200]}. Pass `sweep.experiment`, or make an instance"
        )
    if not isinstance(sweep, Sweep):
        raise ContractError(
            "check_experiment: the sweep must be a Sweep, but is "
            f"{repr(sweep)[:200]}. Make it by `from_mapping` or `load_sweep` of raysweep.sweep"
        )
    if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise ContractError(
            f"check_experiment: the tolerance must be a finite number, 0 or more, but is {tolerance!r}. 1e-9 suits "
            "float64, 1e-4 single precision"
        )
    if (sweep.experiment.name, sweep.experiment.version) != (experiment.name, experiment.version):
        raise ContractError(
            f"check_experiment: the sweep must be of the experiment, but is of {sweep.experiment.name} (version "
            f"{sweep.experiment.version}), not of {experiment.name} (version {experiment.version})"
        )
    with tempfile.TemporaryDirectory(prefix="raysweep-") as folder:
        trial = Trial(experiment, replace(sweep, experiment=experiment), Store(folder), tolerance)
        try:
            trial.reversed_costs  # noqa: B018  (before anything else is priced)
            trial.packs  # noqa: B018  (what cannot be planned breaks every rule)
        except Exception as error:
            raised = str(error) if isinstance(error, RaysweepError) else tail(traceback.format_exc(), 6)
            raise ContractError(
                f"check_experiment: it must be possible to plan the sweep, but that raised\n{raised}"
            ) from error
        checks = (display, cost, imports, rows, isolation, packing, resume, kind, theory)
        with threads(sweep.file.resources.cpus):
            broken = {check.__name__: _folded(_said(check, trial)) for check in checks}
    lines = [f"- {rule}: {said}" for rule, found in broken.items() for said in found]
    if lines:
        rules = ", ".join(rule for rule, found in broken.items() if found)
        raise ContractError("\n".join([f"experiment {experiment.name} breaks rules of an Experiment: {rules}", *lines]))


def _folded(findings: Iterable[str]) -> list[str]:
    """The first finding of each condition, with the number of those that follow it: one fault breaks many packs."""
    groups: dict[str, list[str]] = {}
    for finding in dict.fromkeys(findings):
        groups.setdefault(finding.partition(", but ")[0], []).append(finding)
    return [f"{first}{f' ({len(more)} more like it)' if more else ''}" for first, *more in groups.values()]


def _said(check: Callable[[Trial], Iterable[str]], trial: Trial) -> Iterator[str]:
    """The findings of a check; an exception that the experiment raises is a finding, too."""
    try:
        yield from check(trial)
    except Exception:
        yield f"must not raise, but did:\n{tail(traceback.format_exc(), 6)}"
