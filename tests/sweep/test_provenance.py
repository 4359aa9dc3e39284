"""The code that made a store's rows: changed, renamed or accepted; and defaults that changed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from function_tools import GRID, codes, edited, halves, store_of, table, wholes
from polars.testing import assert_frame_equal

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.laws import fit
from raysweep.ledger.log import CELLS, OTHERS
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.sweep.provenance import accepted_codes


def test_an_axis_added_later_is_a_question_that_a_default_answers(work: Any, tmp_path: Path) -> None:
    calls: list[Any] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        calls.append(config)
        return {"loss": config.get("dropout", 0.0)}

    work(train, {"lr": [0.1, 0.01]})
    with pytest.raises(SweepError, match=r"axis dropout is new to the store .*`defaults: \{dropout: \.\.\.\}`"):
        work(train, {"lr": [0.1, 0.01], "dropout": [0.0, 0.1]})
    with pytest.raises(SweepError, match=r"axis lrr is new .*Is it a misspelling of lr\?"):
        work(train, {"lrr": [0.1, 0.01]})
    work(train, {"lr": [0.1, 0.01], "dropout": [0.0, 0.1]}, defaults={"dropout": 0})
    assert len(calls) == 4
    assert sorted(table(tmp_path)["dropout"].to_list()) == [0, 0, 0.1, 0.1]


def test_a_default_in_a_signature_is_one(work: Any, tmp_path: Path) -> None:
    calls: list[Any] = []

    def train(lr: float, dropout: float = 0.0) -> dict[str, float]:
        calls.append((lr, dropout))
        return {"loss": lr}

    work(train, {"lr": [0.1, 0.01]})
    work(train, {"lr": [0.1, 0.01], "dropout": [0.0, 0.5]})
    assert calls == [(0.1, 0.0), (0.01, 0.0), (0.1, 0.5), (0.01, 0.5)]
    with pytest.raises(SweepError, match=r"takes no 'droput'\. Did you mean 'dropout'\?"):
        work(train, {"lr": [0.1], "droput": [0.5]})


def test_a_changed_helper_is_said_and_its_rows_stay_apart_until_accepted(work: Any, tmp_path: Path) -> None:
    text = edited(tmp_path, "helper_a", "def scale():\n    return 1.0\n")
    work(text, {"n": [1, 2, 4]})
    edited(tmp_path, "helper_a", '"""Only words."""\n\ndef scale():  # a comment\n    return (1.0)\n')
    said = io.StringIO()
    work(text, {"n": [1, 2, 4, 8]}, said)
    assert "changed" not in said.getvalue()
    assert table(tmp_path)["code_sha"].n_unique() == 1

    edited(tmp_path, "helper_a", "def scale():\n    return 7.0\n")
    work(text, {"n": [1, 2, 4, 8, 16]}, said)
    assert "warning: the code of " in said.getvalue()
    assert "(helper_a.py changed)" in said.getvalue()
    assert table(tmp_path)["code_sha"].n_unique() == 2
    again = io.StringIO()
    work(text, {"n": [1, 2, 4, 8, 16]}, again)
    assert "4 finished cells were made by other code than there is now (helper_a.py changed)" in again.getvalue()
    assert "pass --accept-code; otherwise set `version: 2`" in again.getvalue()

    store = Store(str(tmp_path / "store"))
    rows, _ = cells(store)
    assert b"accepted" not in (rows.schema.field("code_sha").metadata or {})
    answered = io.StringIO()
    work(text, {"n": [1, 2, 4, 8, 16]}, accept_code=True)
    work(text, {"n": [1, 2, 4, 8, 16]}, answered)
    assert "warning" not in answered.getvalue()
    rows, _ = cells(store)
    accepted = rows.schema.field("code_sha").metadata[b"accepted"].decode().split(",")
    assert set(rows["code_sha"].to_pylist()) <= set(accepted)


def test_a_renamed_function_is_adopted(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    with pytest.raises(SweepError, match=r"--same-as other:name: the store .* must hold rows of other:name"):
        work(wholes, GRID, same_as="other:name")
    said = io.StringIO()
    outcome = work(wholes, GRID, said, same_as=f"{halves.__module__}:halves")
    assert (outcome.counts.ok, "9 rows of" in said.getvalue()) == (9, True)
    assert table(tmp_path)["loss"].min() == pytest.approx(1000**-0.5)  # not run again


def test_an_experiment_whose_default_changed_is_refused(work: Any, tmp_path: Path) -> None:
    text = (
        "import pyarrow as pa\nfrom raysweep.grid.axes import Axis\nfrom raysweep.experiment import Cost, Metric\n"
        "class Exp:\n    name, version, needs_world = 'mine', 1, False\n    metrics = (Metric('loss'),)\n"
        "    axes = (Axis('n', int, 'lane'), Axis('wd', float, 'lane', default=DEFAULT))\n"
        "    def cost(self, run, observed, world): return Cost()\n    def check(self, runs, world, gpus): pass\n"
        "    def run(self, pack, context):\n"
        "        yield pa.RecordBatch.from_pylist([{'lane': i, 'loss': 1.0} for i in range(len(pack))])\n"
    )
    for default, refused in (("0.1", False), ("0.5", True), ("0.1", False)):
        name = f"exp_{default.replace('.', '_')}"
        (tmp_path / f"{name}.py").write_text(text.replace("DEFAULT", default))
        sweep = from_mapping({"name": "s", "experiment": f"{name}:Exp", "grid": {"n": [1, 2]}}, "s.yaml", [tmp_path])
        if refused:
            with pytest.raises(SweepError, match=r"axis wd: its default was 0\.1 .* but is now 0\.5"):
                run(sweep, Store(str(tmp_path / "store")), make_executor("inline"))
        else:
            run(sweep, Store(str(tmp_path / "store")), make_executor("inline"), stream=io.StringIO)


def test_a_renamed_function_does_not_replace_what_was_measured_under_its_new_name(work: Any, tmp_path: Path) -> None:
    ran: list[int] = []

    def after(config: dict[str, Any]) -> dict[str, float]:
        ran.append(config["size"])
        return {"loss": math.nan if config["size"] == 1000 else 7.0}

    work(halves, GRID)
    own = {"size": [100, 1000], "seed": 0}
    assert (work(after, own).counts.ok, len(ran)) == (1, 2)
    said = io.StringIO()
    outcome = work(after, GRID, said, same_as=f"{halves.__module__}:halves")
    assert len(ran) == 2  # nothing was trained again
    assert "7 rows of" in said.getvalue()
    assert (outcome.counts.ok, outcome.counts.diverged) == (8, 1)
    frame = table(tmp_path)
    mine = frame.filter((pl.col("seed") == 0) & (pl.col("size") > 10)).sort("size")
    assert (mine["loss"][0], mine["status"].to_list()) == (7.0, ["ok", "diverged"])
    rest = frame.join(mine.select("cell"), on="cell", how="anti")
    assert rest["loss"].to_list() == pytest.approx((rest["size"] ** -0.5).to_list())
    said = io.StringIO()
    work(after, GRID, said, same_as=f"{halves.__module__}:halves")
    assert "0 rows of" in said.getvalue()  # a second time there is nothing left to take over
    assert_frame_equal(table(tmp_path), frame)


def test_a_renamed_function_joins_the_last_code_of_the_old_name_and_no_other(work: Any, tmp_path: Path) -> None:
    def written(value: float) -> str:
        return edited(tmp_path, "helper_r", f"def scale():\n    return {value}\n")

    work(written(1.0), {"n": 1})
    (one,) = codes(tmp_path).values()
    work(written(2.0), {"n": [1, 2]})
    ((old, two),) = codes(tmp_path).items()
    moved = written(2.0) + "\n\ndef other():\n    pass\n"
    work(moved, {"n": [1, 2, 4, 8]}, same_as=old)
    (now,) = (sha for name, sha in codes(tmp_path).items() if name != old)
    assert len({one, two, now}) == 3
    assert accepted_codes(Store(str(tmp_path / "store"))) == [sorted([two, now])]
    fitted = fit(tmp_path / "store" / CELLS, x="n", y="loss", bootstrap=0)
    assert sorted(group.n_points for group in fitted) == [1, 3]  # the run of the code before the last stays apart


@pytest.mark.parametrize(
    ("steps", "joined"),
    [
        (["1", "2+", "3+"], ["123"]),
        (["1", "2", "3+"], ["23"]),
        (["1", "2+", "3"], ["12"]),
        (["1", "2", "3", "3+"], ["23"]),  # asked for in a run of its own
        (["1", "2", "3", "1+"], ["13"]),  # back to the first: the code as it was is the third
        (["1", "2", "1", "1+"], ["12"]),
        (["1", "2+", "3", "4+"], ["12", "34"]),
    ],
)
def test_an_accepted_code_joins_the_one_before_it_and_what_that_was_joined_to(
    work: Any, tmp_path: Path, steps: list[str], joined: list[str]
) -> None:
    """`2+` is a run of the second code with --accept-code; each run adds three sizes of its own."""
    sha: dict[str, str] = {}
    for i, step in enumerate(steps):
        text = edited(tmp_path, "helper_c", f"def scale():\n    return {step[0]}.0\n")
        grid = {"n": [2**k for k in range(3 * (i + 1))]}
        work(text, grid, accept_code=step.endswith("+"))
        sha.setdefault(step[0], *codes(tmp_path).values())
    groups = {"".join(name for name in sha if sha[name] in group) for group in accepted_codes(store_of(tmp_path))}
    assert groups == set(joined)
    alone = set(sha) - set("".join(joined))
    fitted = fit(tmp_path / "store" / CELLS, x="n", y="loss", bootstrap=0)
    assert len(fitted) == len(joined) + len(alone)
    assert len(status(store_of(tmp_path))["codes"]) == len(fitted)
    assert sum(group.n_points for group in fitted) == 3 * len(steps)


def test_a_changed_default_of_an_argument_that_is_no_axis_is_a_question(work: Any, tmp_path: Path) -> None:
    def function(default: Any) -> Callable[..., dict[str, float]]:
        def train(lr: float, dropout: Any = default) -> dict[str, float]:
            return {"loss": lr}

        return train

    work(function(0.0), {"lr": [0.1, 0.01]})
    before = table(tmp_path)
    work(function(0), {"lr": [0.1, 0.01]})  # an equal number is no change
    for default, shown in ((0.5, "0.5"), (None, "null"), ("low", "'low'")):
        with pytest.raises(
            SweepError, match=rf"argument dropout: its default was 0 .* but is now {shown}: .*version 2"
        ):
            work(function(default), {"lr": [0.1, 0.01, 0.001]})
    with pytest.raises(SweepError, match=r"axis dropout: its default was 0 .* but is now 0\.5"):
        work(function(0.5), {"lr": [0.1, 0.01], "dropout": [0.0, 0.5]})
    assert_frame_equal(table(tmp_path), before)  # a question runs nothing
    assert work(function(0.5), {"lr": [0.1, 0.01]}, version=2).counts.ok == 2
    assert work(function(0.0), {"lr": [0.1, 0.01], "dropout": [0.0, 0.5]}).counts.ok == 4
    assert len(table(tmp_path, OTHERS)) == 2


CHECKPOINTED = """
import raysweep
import {helper}

def train(config):
    saved = raysweep.checkpoint.load()
    start = int((saved / "epoch").read_text()) if saved else 0
    for epoch in range(start + 1, max(config["epoch"]) + 1):
        with raysweep.checkpoint.save() as folder:
            (folder / "epoch").write_text(str(epoch))
        yield {{"epoch": epoch, "loss": 1.0 / epoch, "start": start}}
"""


@pytest.mark.parametrize(("accepts", "start"), [(False, 0), (True, 2)])
def test_a_checkpoint_of_other_code_is_none_until_that_code_is_accepted(
    work: Any, tmp_path: Path, accepts: bool, start: int
) -> None:
    edited(tmp_path, "helper_k", "def scale():\n    return 1.0\n")
    text = CHECKPOINTED.format(helper="helper_k")
    work(text, {"n": 1, "epoch": [1, 2]}, observed=["epoch"])
    edited(tmp_path, "helper_k", "def scale():\n    return 2.0\n")
    work(text, {"n": 1, "epoch": [1, 2, 4]}, observed=["epoch"], accept_code=accepts)
    frame = table(tmp_path).sort("epoch")
    assert frame["start"].to_list() == [0 if accepts else start] * 2 + [start]
    assert frame["training_id"].n_unique() == 1  # no curve of two trainings
    assert frame["code_sha"].n_unique() == (2 if accepts else 1)
    work(text, {"n": 1, "epoch": [1, 2, 4, 5]}, observed=["epoch"])
    assert table(tmp_path).sort("epoch")["start"].to_list()[-1] == 4  # its own checkpoint is gone on from
