"""A user's function on Ray: whatever a run does, the others finish, and the reason is in its row."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raysweep.errors import PackError
from raysweep.executors import make_executor
from raysweep.executors.hosts import is_bad
from raysweep.executors.tasks import _guarded
from raysweep.ledger.log import CELLS
from raysweep.logs import read_log
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping

TOY = """
import asyncio, os, signal, time, warnings
from pathlib import Path
import raysweep

HELD = []

def train(config):
    how, n = config["how"], config["n"]
    print("this is", how)
    warnings.warn("careful", stacklevel=1)
    Path("model.ckpt").write_text(f"{how} {n}")  # relative: in a folder of its own
    time.sleep(0.05)
    if how == "panic":
        raise type("Panic", (BaseException,), {})("of Rust")
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "tasks":
        import ray
        task = ray.remote(lambda: 1)
        if n == 2:  # as ray.data starts its own
            task = task.options(num_cpus=1, scheduling_strategy="SPREAD")
        ray.get(task.remote())
    if how == "exit":
        os._exit(7)
    while how == "endless":
        time.sleep(0.1)
    start = 0
    if saved := raysweep.checkpoint.load():
        start = int((saved / "epoch").read_text())
    for epoch in range(start + 1, 4):
        if how == "killed" and epoch == 3 and start == 0:
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "killed" and epoch == 2:
            time.sleep(1.1)  # a checkpoint is kept once a second
        with raysweep.checkpoint.save() as folder:
            (folder / "epoch").write_text(str(epoch))
        raysweep.report(epoch=epoch, loss=1.0 / epoch, start=start)
    assert Path("model.ckpt").read_text() == f"{how} {n}"


def leaks(config):
    HELD.append(config["n"])
    if len(HELD) > 4:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if config["n"] == 3 and len(HELD) > 1:
        raise ValueError("a cache of an earlier run")  # fails in a used process alone
    return {"loss": 1.0}
"""
THERE = object()  # a scheduling strategy that is no word
HOWS = ["fine", "panic", "cancelled", "interrupt", "tasks", "exit", "endless", "killed"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toy_on_ray.py").write_text(TOY)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "toy_on_ray", raising=False)
    return "toy_on_ray"


@pytest.mark.usefixtures("ray_up")
def test_each_way_to_fail_is_a_row_with_its_reason_and_the_others_finish(tmp_path: Path, toy: str) -> None:
    raw: dict[str, Any] = {
        "name": "t",
        "experiment": f"{toy}:train",
        "observed": ["epoch"],
        "grid": {
            "concat": [{"how": HOWS, "n": 1}, {"how": ["fine", "panic", "tasks"], "n": 2}],
            "epoch": [1, 3],
        },
        "resources": {"timeout": 20, "attempts": 2},
    }
    store = Store(str(tmp_path / "store"))
    outcome = run(from_mapping(raw, "t.yaml", [tmp_path]), store, make_executor("ray"))
    frame = pl.read_parquet(tmp_path / "store" / CELLS)
    assert outcome.counts.total == 2 * (len(HOWS) + 3)
    state = {how: set(frame.filter(pl.col("how") == how)["status"]) for how in HOWS}
    assert state == {how: {"ok"} if how in ("fine", "killed") else {"failed"} for how in HOWS}
    reasons = {how: frame.filter(pl.col("how") == how)["error"][0] for how in HOWS}
    assert "of Rust" in reasons["panic"]
    assert "CancelledError" in reasons["cancelled"]
    assert "KeyboardInterrupt" in reasons["interrupt"]
    for error in frame.filter(pl.col("how") == "tasks")["error"]:
        assert "resources.child_cpus: a run that starts Ray tasks" in error
    assert "its worker died" in reasons["exit"]
    assert "took longer than 20 s" in reasons["endless"]
    assert "time.sleep(0.1)" in reasons["endless"]  # where it was
    killed = frame.filter(pl.col("how") == "killed").sort("epoch")
    assert killed["start"].to_list() == [0, 2]  # it went on from its checkpoint
    for run_key in set(frame.filter(pl.col("how") == "exit")["run"]):
        assert "this is exit" in read_log(store, run_key)[1]  # what it printed did not die with it
    for run_key in set(frame.filter(pl.col("how") == "fine")["run"]):
        text = read_log(store, run_key)[1]
        assert text.startswith("this is fine\n")
        assert "UserWarning: careful" in text


@pytest.mark.usefixtures("ray_up")
def test_what_fails_in_a_used_worker_is_tried_in_a_fresh_one_before_it_counts(tmp_path: Path, toy: str) -> None:
    raw = {"name": "l", "experiment": f"{toy}:leaks", "grid": {"n": {"range": [1, 13]}}}
    outcome = run(from_mapping(raw, "l.yaml", [tmp_path]), Store(str(tmp_path / "store")), make_executor("ray"))
    assert (outcome.counts.ok, outcome.counts.failed) == (12, 0)


def test_a_function_of_a_script_itself_runs_on_ray(tmp_path: Path) -> None:
    script = """
        from raysweep.executors import make_executor
        from raysweep.run import run
        from raysweep.store import Store
        from raysweep.sweep import from_mapping

        HALF = 0.5

        def train(config):
            return {"loss": config["n"] ** -HALF}

        sweep = from_mapping({"name": "m", "experiment": train, "grid": {"n": [1, 4]}})
        print(run(sweep, Store("store"), make_executor("ray")).counts.ok)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.stdout.strip() == "2", done.stderr
    frame = pl.read_parquet(tmp_path / "store" / CELLS)
    assert sorted(frame["loss"]) == [0.5, 1.0]
    assert set(frame["experiment"]) == {"__main__:train"}


@pytest.mark.parametrize(
    ("options", "refused", "with_room"),
    [
        ({}, True, {}),
        ({"num_cpus": 0.5}, True, {"num_cpus": 0.5}),
        ({"num_cpus": 0}, False, {"num_cpus": 0}),
        ({"scheduling_strategy": "SPREAD"}, True, {"scheduling_strategy": None}),
        ({"scheduling_strategy": "DEFAULT", "num_cpus": 0}, False, {"scheduling_strategy": None, "num_cpus": 0}),
        ({"scheduling_strategy": THERE}, False, {"scheduling_strategy": THERE}),  # a place of its own choice
    ],
)
def test_a_task_is_refused_where_it_would_wait_for_ever_and_else_stays_in_its_runs_reservation(
    options: dict[str, Any], refused: bool, with_room: dict[str, Any]
) -> None:
    def submit(kind: Any, *arguments: Any, **given: Any) -> dict[str, Any]:
        return given

    if refused:
        with pytest.raises(PackError, match=r"resources\.child_cpus: .*would wait for ever.*child_cpus: 2"):
            _guarded(submit, room=False)(None, **options)
    else:
        assert _guarded(submit, room=False)(None, **options) == options
    assert _guarded(submit, room=True)(None, **options) == with_room


def test_a_host_is_bad_only_beside_good_ones() -> None:
    assert is_bad((0, 6), (20, 1))
    assert not is_bad((0, 6), (0, 6))  # the sweep is bad
    assert not is_bad((10, 6), (20, 1))  # some runs are bad
    assert not is_bad((0, 4), (20, 0))  # too few to tell
    assert not is_bad((0, 6), (2, 0))
