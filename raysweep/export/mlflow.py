"""Export to MLflow: one MLflow run per run, in an experiment named after the sweep; logged in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raysweep.errors import ExportError
from raysweep.export.records import Exported, Point, Record, package

__all__ = ["write"]

_METRICS, _PARAMS = 800, 100  # per request; MLflow accepts 1,000 items, at most 100 of them parameters and 100 tags
_TEXT = 5000  # characters of a tag
_THREADS = 8  # runs at a time: a remote server answers slowly
_RUN, _ROWS = "raysweep.run", "raysweep.rows"


def write(records: Sequence[Record], sweep: str, dest: str | None) -> Exported:
    """Bring MLflow up to date. The tag `raysweep.run` identifies a run; `raysweep.rows` is the hash of its content.

    Raises:
        ExportError: MLflow is not installed, or refuses.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by default a dead server is asked for minutes
    mlflow = package("mlflow", "mlflow")
    try:
        client = mlflow.MlflowClient(tracking_uri=dest)
        found = client.get_experiment_by_name(sweep)
        experiment = str(found.experiment_id if found else client.create_experiment(sweep))
        known = {run.data.tags[_RUN]: run for run in _runs(client, experiment) if _RUN in run.data.tags}
        new = [r for r in records if r.run not in known or known[r.run].data.tags.get(_ROWS) != r.digest]
        with ThreadPoolExecutor(_THREADS) as pool:
            points = sum(pool.map(lambda r: _write(mlflow, client, experiment, r, known.get(r.run)), new))
    except mlflow.exceptions.MlflowException as error:
        raise ExportError(f"export: MLflow at {dest or mlflow.get_tracking_uri()} refuses: {error}") from error
    return Exported(dest or str(mlflow.get_tracking_uri()), len(records), len(new), points)


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _write(mlflow: Any, client: Any, experiment: str, record: Record, known: Any) -> int:
    """Create or complete one run; returns how many points were added. The tag that marks it complete is set last."""
    points: Sequence[Point] = record.points
    if known is None:
        known = client.create_run(experiment, int(record.began * 1000), {_RUN: record.run}, run_name=record.run)
        params = [mlflow.entities.Param(n, str(v)) for n, v in record.params.items()]
    else:
        there_already = known.data.params  # a run's axes are its identity; MLflow does not allow changes
        params = [mlflow.entities.Param(n, str(v)) for n, v in record.params.items() if n not in there_already]
        there = {(n, m.step) for n in known.data.metrics for m in client.get_metric_history(known.info.run_id, n)}
        points = [p for p in points if (p.name, p.step) not in there]
    run = known.info.run_id
    metrics = [mlflow.entities.Metric(p.name, p.value, int(p.made * 1000), p.step) for p in points]
    about = {**record.tags, "raysweep.status": record.status, "raysweep.reason": record.reason[-_TEXT:]}
    tags = [mlflow.entities.RunTag(k, v) for k, v in {**about, _ROWS: record.digest}.items()]
    while len(metrics) > _METRICS or len(params) > _PARAMS:
        client.log_batch(run, metrics=metrics[:_METRICS], params=params[:_PARAMS])
        metrics, params = metrics[_METRICS:], params[_PARAMS:]
    client.log_batch(run, metrics=metrics, params=params, tags=tags)
    client.set_terminated(run, "FAILED" if record.status == "failed" else "FINISHED", int(record.ended * 1000))
    return len(points)
