"""Ray Tune's own search: an OptunaSearch proposes candidates, each of which is one trial, and a scheduler may stop it.

A trial runs its candidate at every seed, one after another, and reports the score so far after each row, so that
schedulers compare candidates at the same place: the same seed and the same time of a run.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pyarrow as pa
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from raysweep.executors.search import Search
from raysweep.executors.trial import PackTrial, result
from raysweep.executors.work import Job
from raysweep.ledger.causes import alike, cause
from raysweep.ledger.rows import STATUSES, Counts
from raysweep.pack import Pack, singles
from raysweep.tuning import Point, distributions, parameters, point_of, quiet_optuna

__all__ = ["run_search"]

_SCORE = "score"
_TRIES = 20  # proposals in a row that were tried before, after which a spare candidate is taken
_LEAST = 3  # other candidates that must have come as far before the median stops one
_REASON = 500  # characters of a failure's cause that travel with a report


class CandidateSearch(Searcher):  # type: ignore[misc]
    """Ray's OptunaSearch behind its limit of concurrency, with candidates as packs of runs."""

    def __init__(self, search: Search, at_once: int, on_counts: Callable[[Counts], None]) -> None:
        import optuna

        super().__init__(metric=_SCORE, mode="min")
        with quiet_optuna():
            sampler = optuna.samplers.TPESampler(
                seed=search.seed, multivariate=True, constant_liar=True, n_startup_trials=search.startup
            )
            self.optuna = OptunaSearch(
                distributions(search.space),
                metric=_SCORE,
                mode="min",
                points_to_evaluate=[parameters(search.space, point) for point in search.first],
                sampler=sampler,
            )
        for point, score in search.known.items():
            self.optuna.add_evaluated_point(parameters(search.space, point), score)
        for point in search.stopped:
            self.optuna.add_evaluated_point(parameters(search.space, point), math.inf, pruned=True)
        self.inner = ConcurrencyLimiter(self.optuna, max_concurrent=at_once)
        self.search, self.on_counts = search, on_counts
        self.left, self.spare = search.count, deque(search.spare)
        self.asked: dict[str, tuple[str, Point]] = {}  # by Tune's trial: OptunaSearch's name of it, and the candidate
        self.trainings: dict[str, dict[str, str]] = {}
        self.names = 0
        self.counts, self.failures, self.stopped = Counts(), dict[str, set[str]](), ""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    @property
    def ended(self) -> bool:
        """Whether no candidate is left to run, or running."""
        return not self.asked and (self.left == 0 or bool(self.stopped))

    def suggest(self, trial_id: str) -> Any:
        for _ in range(_TRIES):
            if not self.left or self.stopped:
                return Searcher.FINISHED
            self.names += 1
            name = str(self.names)
            proposed = self.inner.suggest(name)
            if proposed is None:  # as many run as may
                return None
            point = point_of(self.search.space, proposed)
            if (config := self._begin(trial_id, name, point)) is not None:
                return config
        while self.spare and self.left:
            self.names += 1
            if (config := self._begin(trial_id, str(self.names), self.spare.popleft())) is not None:
                return config
        return Searcher.FINISHED

    def _begin(self, trial_id: str, name: str, point: Point) -> dict[str, Any] | None:
        begun = self.search.begin(point)
        if begun is None:
            self.inner.on_trial_complete(name)  # tried before: no further score of it
            return None
        self.left -= 1
        if begun.pack is None:
            self.inner.on_trial_complete(name, result={_SCORE: _mean(begun.before)})
            return None
        self.asked[trial_id] = name, point
        return {
            "pack": begun.pack,
            "before": begun.before,
            "metrics": self.search.metrics,
            "sign": self.search.sign,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._take(trial_id, result)
        if trial_id in self.asked and (name := self.asked[trial_id][0]) in self.inner.live_trials:
            self.inner.on_trial_result(name, result)

    def _take(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if STATUSES[0] not in result:
            return
        counts = Counts(*(int(result[status]) for status in STATUSES))
        self.counts += counts
        self.on_counts(counts)
        if "training" in result:
            self.trainings.setdefault(trial_id, {})[result["run"]] = result["training"]
        if "fatal" in result:
            self.stopped = f"a worker cannot start: {result['fatal']}"
        if reason := result.get("reason"):
            runs = self.failures.setdefault(reason, set())
            runs.add(result["run"])
            if len(runs) >= self.search.most and not self.counts.ok and not self.stopped:
                self.stopped = f"{len(runs)} runs failed for one reason and none succeeded: {reason}"

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A candidate ended. What it left undone because its worker failed is run again when the search has ended."""
        name, point = self.asked.pop(trial_id)
        if result:
            self._take(trial_id, result)
        trainings = self.trainings.pop(trial_id, {})
        if error or not result or "left" in result:
            self.inner.on_trial_complete(name, error=True)
        elif result.get("whole"):
            self.inner.on_trial_complete(name, result={_SCORE: result[_SCORE]})
        elif not self.stopped:  # by the scheduler; for Optuna a trial that was pruned
            self.inner.on_trial_complete(name)
            self.on_counts(self.search.retire(point, trainings))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger says what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> CandidateSearch:
        return self


class CandidateTrial(PackTrial):
    """One candidate at all of its seeds; a `step` is a row."""

    def _reports(self, config: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        pack: Pack = config["pack"]
        best: dict[str, float] = {str(i): score for i, score in enumerate(config["before"])}
        bad, left, fatal = False, False, ""
        for one in singles(pack):
            came: deque[pa.Table] = deque()
            for report in self.bench.reports({"pack": one}, came.append):
                left = left or "out_of_memory" in report or "again" in report
                fatal = report.get("fatal", fatal)
                while came:
                    for row in came.popleft().to_pylist():
                        run, status = row["run"], row["status"]
                        bad = bad or status in ("diverged", "failed")
                        best[run] = min(best.get(run, math.inf), _value(row, config["metrics"], config["sign"]))
                        score = math.inf if bad else _mean(best.values())
                        yield {**result(Counts(**{status: 1})), _SCORE: score, "done": False, **_about(row)}
            if fatal:
                yield {**result(Counts()), _SCORE: math.inf, "fatal": fatal, "left": True, "done": True}
                return
        ending = {"left": True} if left else {"whole": True}
        score = math.inf if bad else _mean(best.values())
        yield {**result(Counts()), _SCORE: score, **ending, "done": True}


def _value(row: Mapping[str, Any], metrics: tuple[str, ...], sign: float) -> float:
    """What a row adds to the score of its run."""
    value = next((v for name in metrics if isinstance(v := row.get(name), int | float)), None)
    return sign * value if row["status"] == "ok" and value is not None and math.isfinite(value) else math.inf


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver must know of a row."""
    about = {"run": row["run"]} | ({} if row["training_id"] is None else {"training": row["training_id"]})
    return about | ({"reason": alike(cause(str(row["error"])))[:_REASON]} if row["status"] == "failed" else {})


def _mean(scores: Any) -> float:
    values = list(scores)
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.inf


def _scheduler(search: Search) -> TrialScheduler:
    """Tune's scheduler. Candidates end by themselves, after their last row."""
    place: dict[str, Any] = {"time_attr": "training_iteration", "metric": _SCORE, "mode": "min"}
    if search.scheduler == "asha":
        return ASHAScheduler(**place, max_t=search.cells + 2)
    if search.scheduler == "median":
        return MedianStoppingRule(**place, grace_period=1, min_samples_required=_LEAST)
    return FIFOScheduler()


def run_search(job: Job, search: Search, at_once: int, resources: Any, on_counts: Callable[[Counts], None]) -> str:
    """One Tuner for the candidates of one setting; returns why it ended early, or "".

    Args:
        at_once: Candidates that run at a time.
        resources: Of a trial.

    Raises:
        KeyboardInterrupt: Ctrl-C, which ends the Tuner.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)  # by default a searcher's trials start one after another
    candidates = CandidateSearch(search, at_once, on_counts)
    with tempfile.TemporaryDirectory(prefix="raysweep-tune-") as scratch:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(CandidateTrial, job=job), resources),
            tune_config=tune.TuneConfig(
                search_alg=candidates, scheduler=_scheduler(search), num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(name="candidates", storage_path=scratch, verbose=0),
        ).fit()
    if not candidates.ended:
        raise KeyboardInterrupt
    return candidates.stopped
