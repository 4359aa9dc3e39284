"""Export: what trackers then hold is what the ledger holds, once, also when it grows between two exports."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP

from raysweep.errors import ExportError, LedgerError
from raysweep.executors import make_executor
from raysweep.export import export
from raysweep.export.records import Record, read_records
from raysweep.ledger.log import Ledger
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep

FRAGILE = {"name": "fragile", "experiment": "toy_experiment:fragile", "grid": {"run_id": {"range": 3}}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def toy(make_sweep: Callable[..., Sweep], store: Store) -> Callable[..., list[Record]]:
    """Runs the toy sweep with some epochs into the store; returns the records it then has."""

    def grow(*epochs: int) -> list[Record]:
        assert (
            run(make_sweep(FUNCTION_SWEEP, {"epoch": list(epochs)}), store, make_executor("inline")).counts.failed == 0
        )
        return read_records(store)[1]

    return grow


def rows_of(store: Store) -> pl.DataFrame:
    return pl.from_arrow(Ledger(store).scan().table)  # type: ignore[return-value]


def expected(store: Store) -> dict[tuple[str, int], float]:
    """(run, epoch) -> loss, straight from the ledger."""
    return {(r["run"], r["epoch"]): r["loss"] for r in rows_of(store).to_dicts()}


def test_a_record_is_a_run_with_its_axes_and_its_metrics_in_time(
    toy: Callable[..., list[Record]], store: Store
) -> None:
    records = toy(1, 2, 3)
    assert len(records) == 6
    assert all(set(r.params) == {"size", "seed"} for r in records)
    found = {(r.run, p.step): p.value for r in records for p in r.points if p.name == "loss"}
    assert found == expected(store)
    assert {p.name for r in records for p in r.points} == {"loss", "seconds"}
    assert all([p.step for p in r.points] == sorted(p.step for p in r.points) for r in records)
    assert {r.tags["raysweep.sweep"] for r in records} == {"toy"}
    again = read_records(store)[1]
    assert [r.digest for r in again] == [r.digest for r in records]
    assert len({r.digest for r in records}) == 6
    only = read_records(store, ["loss"])[1]
    assert {p.name for r in only for p in r.points} == {"loss"}
    with pytest.raises(ExportError, match=r"got .los.\. Did you mean .loss."):
        read_records(store, ["los"])


def test_only_metrics_that_depend_on_a_budget_are_told_apart_by_it(
    make_sweep: Callable[..., Sweep], store: Store
) -> None:
    run(make_sweep(CLASSIFIER_SWEEP), store, make_executor("inline"))
    _, records = read_records(store)
    assert len(records) == 8
    names = {p.name for r in records for p in r.points}
    assert {"pass_at_k.k-1", "pass_at_k.k-10", "epistemic", "flops"} <= names
    assert not {"pass_at_k", "epistemic.k-1"} & names
    assert all("k" not in r.params and "steps" not in r.params and r.params["width"] in (4, 8) for r in records)
    for record in records:
        for name, k in (("pass_at_k.k-10", 10), ("epistemic", 1)):
            rows = rows_of(store).filter((pl.col("run") == record.run) & (pl.col("k") == k)).sort("steps")
            found = [(p.step, p.value) for p in record.points if p.name == name]
            assert found == list(rows.select("steps", name.split(".")[0]).iter_rows())


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow wants to be told that its file store is meant."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def mlflow_runs(dest: str, name: str) -> tuple[Any, list[Any]]:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=dest)
    return client, list(client.search_runs([client.get_experiment_by_name(name).experiment_id], max_results=1000))


@pytest.mark.usefixtures("allowed")
def test_mlflow_holds_each_run_once_and_what_is_new_is_added(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    dest = f"file://{tmp_path / 'mlruns'}"
    toy(1, 2)
    first = export(store, "mlflow", dest)
    assert (first.runs, first.written, first.points) == (6, 6, 24)
    again = export(store, "mlflow", dest)
    assert (again.written, again.points) == (0, 0)
    toy(1, 2, 3)
    grown = export(store, "mlflow", dest)
    assert (grown.written, grown.points) == (6, 12)
    client, runs = mlflow_runs(dest, "toy")
    assert len(runs) == 6
    found = {}
    for one in runs:
        assert one.info.status == "FINISHED"
        key = one.data.tags["raysweep.run"]
        history = client.get_metric_history(one.info.run_id, "loss")
        assert len(history) == 3  # none twice
        found |= {(key, m.step): m.value for m in history}
        row = rows_of(store).filter(pl.col("run") == key).row(0, named=True)
        assert one.data.params == {"size": str(row["size"]), "seed": str(row["seed"])}
        assert one.data.tags["raysweep.status"] == "ok"
        assert len(one.data.tags["raysweep.sweep_hash"]) == 16
    assert found == expected(store)


@pytest.mark.usefixtures("allowed")
def test_failures_are_failed_runs_with_their_reason_until_they_succeed(
    make_sweep: Callable[..., Sweep], store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    dest = f"file://{tmp_path / 'mlruns'}"
    sweep = make_sweep(FRAGILE, {"how": "raise", "markers": str(tmp_path)})
    (tmp_path / "raise-1").touch()
    run(sweep, store, make_executor("inline"))
    export(store, "mlflow", dest)
    by_id = {r.data.params["run_id"]: r for r in mlflow_runs(dest, "fragile")[1]}
    assert [by_id[i].info.status for i in "012"] == ["FINISHED", "FAILED", "FINISHED"]
    assert "run 1 was told to fail" in by_id["1"].data.tags["raysweep.reason"]
    run(sweep, store, make_executor("inline"))
    assert export(store, "mlflow", dest).written == 1
    by_id = {r.data.params["run_id"]: r for r in mlflow_runs(dest, "fragile")[1]}
    assert [by_id[i].info.status for i in "012"] == ["FINISHED"] * 3
    assert by_id["1"].data.tags["raysweep.reason"] == ""
    assert by_id["1"].data.metrics["loss"] == 0.5


@pytest.mark.usefixtures("allowed")
def test_an_export_that_was_cut_off_is_completed_without_doubles(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    dest = f"file://{tmp_path / 'mlruns'}"
    toy(1, 2, 3)
    real = mlflow.MlflowClient.log_batch

    def broken(self: Any, run_id: str, *given: Any, tags: Any = (), **more: Any) -> Any:
        real(self, run_id, *given, **more)
        raise mlflow.exceptions.MlflowException("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", broken)
        with pytest.raises(ExportError, match="the server is gone"):
            export(store, "mlflow", dest)
    export(store, "mlflow", dest)
    client, runs = mlflow_runs(dest, "toy")
    assert len(runs) == 6
    assert all(len(client.get_metric_history(r.info.run_id, "loss")) == 3 for r in runs)


def test_mlflow_without_leave_for_its_file_store_says_how(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    toy(1)
    with pytest.raises(ExportError, match="MLFLOW_ALLOW_FILE_STORE"):
        export(store, "mlflow", f"file://{tmp_path / 'mlruns'}")


def read_events(folder: Path) -> list[Any]:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return [e for file in sorted(folder.iterdir()) for e in loader.LegacyEventFileLoader(str(file)).Load()]


def test_tensorboard_holds_each_value_once_with_hyper_parameters(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path
) -> None:
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    dest = tmp_path / "logs"
    toy(1, 2)
    first = export(store, "tensorboard", str(dest))
    assert (first.runs, first.written, first.points) == (6, 6, 24)
    assert export(store, "tensorboard", str(dest)).written == 0
    toy(1, 2, 3)
    assert export(store, "tensorboard", str(dest)).points == 12
    assert export(store, "tensorboard", str(dest)).written == 0
    found: dict[tuple[str, int], float] = {}
    for folder in dest.iterdir():
        starts = 0
        for event in read_events(folder):
            for value in event.summary.value:
                if value.tag == "loss":
                    assert (folder.name, event.step) not in found
                    found[folder.name, event.step] = value.simple_value
                elif value.tag == "_hparams_/session_start_info":
                    starts += 1
                    told = plugin.HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
                    row = rows_of(store).filter(pl.col("run") == folder.name).row(0, named=True)
                    assert told.hparams["size"].number_value == row["size"]
                    assert told.hparams["raysweep.sweep"].string_value == "toy"
        assert starts == 1
    assert found.keys() == expected(store).keys()
    assert np.allclose([found[k] for k in found], [expected(store)[k] for k in found], rtol=1e-6)


def test_tensorboard_itself_reads_scalars_failures_and_reasons(
    make_sweep: Callable[..., Sweep], store: Store, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    (tmp_path / "raise-1").touch()
    sweep = make_sweep(FRAGILE, {"how": "raise", "markers": str(tmp_path)})
    run(sweep, store, make_executor("inline"))
    export(store, "tensorboard", str(tmp_path / "logs"))
    for record in read_records(store)[1]:
        seen = accumulator.EventAccumulator(str(tmp_path / "logs" / record.run)).Reload()
        scalars = seen.Tags()["scalars"]
        assert ("loss" in scalars) == (record.status == "ok")
        (end,) = (
            v
            for e in read_events(tmp_path / "logs" / record.run)
            for v in e.summary.value
            if v.tag == "_hparams_/session_end_info"
        )
        info = plugin.HParamsPluginData.FromString(end.metadata.plugin_data.content).session_end_info
        assert info.status == (2 if record.status == "failed" else 1)  # STATUS_FAILURE, STATUS_SUCCESS
        if record.status == "failed":
            (told,) = seen.Tensors("reason/text_summary")
            assert b"run 1 was told to fail" in told.tensor_proto.string_val[0]


class FakeWandb(types.ModuleType):
    """What wandb is asked for, written down; folders as its offline mode makes them."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__("wandb")
        self.logged: dict[str, list[dict[str, Any]]] = {}
        self.config: dict[str, Any] = {}
        self.codes: dict[str, int] = {}

    def Settings(self, **given: Any) -> dict[str, Any]:
        return given

    def init(self, id: str, dir: str, config: dict[str, Any], **given: Any) -> Any:
        assert given["resume"] == "allow"
        self.config[id] = config
        folder = Path(dir) / "wandb" / f"offline-run-{len(list(Path(dir).glob('wandb/*'))):03d}-{id}" / "files"
        folder.mkdir(parents=True)
        return types.SimpleNamespace(
            dir=str(folder),
            summary={},
            define_metric=lambda *a, **k: None,
            log=lambda row: self.logged.setdefault(id, []).append(row),
            finish=lambda exit_code: self.codes.__setitem__(id, exit_code),
        )


def test_wandb_is_asked_for_each_run_once(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    toy(1, 2)
    assert export(store, "wandb", str(tmp_path / "w")).points == 24
    assert export(store, "wandb", str(tmp_path / "w")).written == 0
    toy(1, 2, 3)
    assert export(store, "wandb", str(tmp_path / "w")).points == 12
    found = {(run, row["step"]): row["loss"] for run, rows in fake.logged.items() for row in rows}
    assert found == expected(store)
    assert sum(map(len, fake.logged.values())) == 18
    assert set(fake.codes.values()) == {0}
    assert all(config["size"] in (10, 100, 1000) for config in fake.config.values())


def test_wandb_offline(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if getattr(pytest.importorskip("wandb"), "__file__", None) is None:
        pytest.skip("a folder named wandb is no package")
    monkeypatch.setenv("WANDB_MODE", "offline")
    toy(1, 2)
    assert export(store, "wandb", str(tmp_path)).written == 6
    assert export(store, "wandb", str(tmp_path)).written == 0
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))) == 6


@pytest.mark.parametrize(
    ("tracker", "module"), [("mlflow", "mlflow"), ("tensorboard", "tensorboard"), ("wandb", "wandb")]
)
def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(
    tracker: str, module: str, toy: Callable[..., list[Record]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy(1)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExportError, match=rf"pip install 'raysweep\[{tracker}\]'"):
        export(store, tracker)


def test_a_folder_of_a_tracker_s_name_is_no_package(
    toy: Callable[..., list[Record]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackers leave such folders where they are run, which Python imports as empty namespaces."""
    toy(1)
    for name in ("mlflow", "tensorboard", "wandb"):
        (tmp_path / name).mkdir()
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "site-packages" not in p)])
    for name in ("mlflow", "tensorboard", "wandb"):
        with pytest.raises(ExportError, match=rf"pip install 'raysweep\[{name}\]'"):
            export(store, name)


def test_what_cannot_be_exported_says_why(
    make_sweep: Callable[..., Sweep], toy: Callable[..., list[Record]], store: Store, tmp_path: Path
) -> None:
    with pytest.raises(LedgerError, match=r"must hold env\.json"):
        export(store, "tensorboard")
    toy(1)
    with pytest.raises(ExportError, match=r"--to must be one of .* Did you mean 'tensorboard'"):
        export(store, "tensorbord")
    with pytest.raises(ExportError, match="local folder, but --dest is s3://b/x"):
        export(store, "tensorboard", "s3://b/x")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        export(store, "tensorboard", str(tmp_path / "file"))
    for name, _ in store.list("ledger"):
        store.delete(f"ledger/{name}")
    store.delete("cells.parquet")
    with pytest.raises(LedgerError, match="its ledger is empty"):
        export(store, "tensorboard", str(tmp_path / "logs"))
    assert json.loads(store.read("env.json"))["cells"] == 6
