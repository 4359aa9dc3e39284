"""The rows of a sweep as it is now: other versions, grids, defaults and spellings are kept apart, and counted."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from raysweep.errors import FitError, LedgerError, SweepError
from raysweep.executors import make_executor
from raysweep.laws import fit
from raysweep.ledger.log import CELLS, OTHERS, Ledger
from raysweep.run import Outcome, run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells, current
from raysweep.sweep.provenance import accepted_codes


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a function of this text over a grid, into the same store each time."""

    def work_(
        text: str | Callable[..., Any], grid: Mapping[str, Any], said: io.StringIO | None = None, **more: Any
    ) -> Outcome:
        options = {key: more.pop(key) for key in ("accept_code", "same_as") if key in more}
        code: Any = text
        if isinstance(text, str):
            name = f"made_{abs(hash((text, str(tmp_path))))}"
            (tmp_path / f"{name}.py").write_text(text)
            code = f"{name}:train"
        sweep = from_mapping({"name": "s", "experiment": code, "grid": grid, **more}, "s.yaml", [tmp_path])
        return run(
            sweep,
            Store(str(tmp_path / "store")),
            make_executor("inline"),
            stream=lambda: said or io.StringIO(),
            **options,
        )

    return work_


def table(tmp_path: Path, name: str = CELLS) -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "store" / name)


def halves(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["size"] ** -0.5}


def wholes(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["size"] ** -1.0}


GRID = {"size": [10, 100, 1000], "seed": {"range": 3}}


def test_a_new_version_has_rows_of_its_own(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    outcome = work(wholes, GRID, version=1)  # another function: not its version 2
    assert fit(cells(Store(str(tmp_path / "store")))[0], x="size", y="loss").params["alpha"] == pytest.approx(1.0)
    assert outcome.counts.ok == 9
    (tmp_path / "store").rename(tmp_path / "first")
    work(halves, GRID)
    outcome = work(halves, GRID, version=2)
    assert outcome.counts.ok == 9
    assert outcome.notes == ("9 rows of version 1 are left out.",)
    assert set(table(tmp_path)["experiment_version"]) == {2}
    assert set(table(tmp_path, OTHERS)["experiment_version"]) == {1}
    found = status(Store(str(tmp_path / "store")))
    assert (found["cells"]["ok"], found["total"], found["left_out"]) == (9, 9, ["9 rows of version 1 are left out."])
    both, _ = cells(Store(str(tmp_path / "store")), "all")
    assert len(both) == 18
    apart = fit(both, x="size", y="loss")  # asked for all, a fit still does not mix them
    assert [group.group for group in apart] == [{"experiment_version": 1}, {"experiment_version": 2}]
    for source in (tmp_path / "store" / CELLS, table(tmp_path), table(tmp_path).lazy()):
        assert fit(source, x="size", y="loss").only.n_points == 9
    work(halves, GRID)  # and back again: nothing is lost, nothing is run
    assert set(table(tmp_path)["experiment_version"]) == {1}


def test_a_reduced_grid_leaves_out_what_it_dropped_and_finds_it_again(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    outcome = work(halves, {"size": [10, 100], "seed": {"range": 3}})
    assert (outcome.counts.ok, outcome.notes) == (6, ("3 rows of other grids are left out.",))
    assert sorted(set(table(tmp_path)["size"])) == [10, 100]
    ran: list[int] = []
    work(halves, GRID)
    assert len(table(tmp_path)) == 9
    assert not ran
    assert not Store(str(tmp_path / "store")).exists(OTHERS)


def test_two_functions_in_one_store_are_not_mixed(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    outcome = work(wholes, GRID)
    assert outcome.notes == (f"9 rows of {__name__}:halves are left out.",)
    assert table(tmp_path)["loss"].min() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("first", "second", "runs"),
    [
        ([1, 2, 4], [0.5, 1, 2, 4], 4),
        ([1, 2, 4], [1.0, 2.0, 4.0], 3),
        ([1.0, 2.0], [1, 2, 3], 3),
        ([0.0, 1.0], [-0.0, 1], 2),
        ([100, 200], [1e2, 2e2, 250.5], 3),
        (list(np.array([0.1, 0.5], dtype=np.float32)), [0.1, 0.5], 2),
        (np.array([64, 128], dtype=np.int16), [64, 128, 256], 3),
        ([2**40, 1], [float(2**40), 1.5, 1], 3),
        ({"linear": [0, 1, 3]}, [0, 0.5, 1], 3),
    ],
)
def test_equal_numbers_are_one_value_whatever_their_spelling(
    work: Any, tmp_path: Path, first: Any, second: Any, runs: int
) -> None:
    calls: list[Any] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        calls.append(config["x"])
        return {"loss": 1.0}

    before = work(train, {"x": first}).counts.ok
    work(train, {"x": second})
    assert len(calls) == runs, calls
    assert len(table(tmp_path)) == len(second)
    assert before + (runs - before) == len(calls)


def test_numbers_that_are_one_to_12_digits_are_said(work: Any) -> None:
    said = io.StringIO()
    outcome = work(lambda config: {"loss": 1.0}, {"x": [0.3, 0.1 + 0.2]}, said)
    assert outcome.counts.ok == 1
    assert "grid.x: 0.3 and 0.30000000000000004 are one value" in said.getvalue()


def test_a_store_with_both_spellings_is_healed_when_it_is_read(work: Any, tmp_path: Path) -> None:
    """As an older raysweep wrote it: 1 and 1.0 under two keys, and rows that say nothing of their version."""
    calls: list[Any] = []

    def train(config: dict[str, Any]) -> Any:
        calls.append(config["x"])
        return [{"epoch": e, "loss": 1.0 / e} for e in config["epoch"]]

    grid = {"x": [1, 2, 4], "epoch": [1, 2]}
    work(train, grid, observed=["epoch"])
    store = Store(str(tmp_path / "store"))
    sweep = current(store)
    assert sweep.runs is not None
    from raysweep.sweep.current import respelled
    from raysweep.sweep.stored import stored_declaration

    declaration = stored_declaration(store)
    assert declaration is not None
    old = respelled(sweep.runs, declaration.axes, declaration.identity)
    assert old is not None
    back = {new: before for before, new in old.runs.items()}
    for name in list((tmp_path / "store/ledger").iterdir()):
        part = pq.read_table(name)
        runs = [back[run] for run in part["run"].to_pylist()]
        keys = [back[c[:20]] + c[20:] for c in part["cell"].to_pylist()]
        twice = part.set_column(0, part.schema.field(0), [keys]).set_column(1, part.schema.field(1), [runs])
        kept = [
            n for n in twice.column_names if n not in ("experiment", "experiment_version", "code_sha", "training_id")
        ]
        pq.write_table(twice.select(kept), name.with_name(f"part-{'0' * 16}-7.parquet"))
    environment = json.loads((tmp_path / "store/env.json").read_text())
    del environment["respelled"]
    (tmp_path / "store/env.json").write_text(json.dumps(environment))
    found = status(store)
    assert (found["cells"]["ok"], found["total"], found["left_out"]) == (6, 6, [])
    work(train, {**grid, "x": [0.5, 1, 2, 4]}, observed=["epoch"])
    assert len(calls) == 4
    assert table(tmp_path).sort("x", "epoch")["x"].to_list() == [0.5, 0.5, 1, 1, 2, 2, 4, 4]


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


FIRST = "import {helper}\ndef train(config):\n    return {{'loss': {helper}.scale() / config['n']}}\n"


def edited(tmp_path: Path, helper: str, text: str) -> str:
    (tmp_path / f"{helper}.py").write_text(text)
    return FIRST.format(helper=helper)


def test_a_changed_helper_is_said_once_and_its_rows_stay_apart_until_accepted(work: Any, tmp_path: Path) -> None:
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
    assert "changed" not in again.getvalue()  # said once

    store = Store(str(tmp_path / "store"))
    rows, _ = cells(store)
    assert b"accepted" not in (rows.schema.field("code_sha").metadata or {})
    work(text, {"n": [1, 2, 4, 8, 16]}, accept_code=True)
    rows, _ = cells(store)
    accepted = rows.schema.field("code_sha").metadata[b"accepted"].decode().split(",")
    assert set(rows["code_sha"].to_pylist()) <= set(accepted)


def test_a_renamed_function_is_adopted(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    with pytest.raises(SweepError, match=r"--same-as other:name: the store .* must hold rows of other:name"):
        work(wholes, GRID, same_as="other:name")
    said = io.StringIO()
    outcome = work(wholes, GRID, said, same_as=f"{__name__}:halves")
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


def test_a_table_without_its_ledger_is_taken_over(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    work(halves, GRID, version=2)
    for part in (tmp_path / "store/ledger").iterdir():
        part.unlink()
    store = Store(str(tmp_path / "store"))
    assert status(store)["cells"]["ok"] == 9
    assert len(cells(store, "all")[0]) == 18
    said = io.StringIO()
    outcome = work(halves, {**GRID, "size": [10, 100, 1000, 10000]}, said, version=2)
    assert outcome.counts.ok == 12
    assert "18 rows of cells.parquet that the ledger did not have were taken over" in said.getvalue()
    assert len(table(tmp_path, OTHERS)) == 9


def test_a_ledger_that_lost_some_parts_keeps_what_its_table_has(work: Any, tmp_path: Path) -> None:
    for size in (10, 100, 1000):
        work(halves, {"size": [10, 100, 1000][: [10, 100, 1000].index(size) + 1], "seed": 0})
    parts = sorted((tmp_path / "store/ledger").iterdir())
    parts[0].unlink()
    Ledger(Store(str(tmp_path / "store"))).compact()
    assert len(table(tmp_path)) == 3


def test_a_store_of_nothing_current_says_what_it_holds(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)

    def fails(config: dict[str, Any]) -> None:
        raise RuntimeError("never")

    outcome = work(fails, GRID)
    assert 5 <= outcome.counts.failed < 9  # then it stops
    assert "runs failed for one reason and none succeeded: RuntimeError: never" in outcome.stopped
    rows, notes = cells(Store(str(tmp_path / "store")))
    assert set(rows["status"].to_pylist()) == {"failed"}
    assert notes == [f"9 rows of {__name__}:halves are left out."]
    with pytest.raises(LedgerError, match="rows must be one of current, all"):
        cells(Store(str(tmp_path / "store")), "some")


def test_a_hostile_table_is_no_reason_to_believe_it(work: Any, tmp_path: Path) -> None:
    """Without a ledger its table is read: no further than a part would be."""
    work(halves, GRID)
    for part in (tmp_path / "store/ledger").iterdir():
        part.unlink()
    store, path = Store(str(tmp_path / "store")), tmp_path / "store" / CELLS
    whole = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert status(store)["cells"]["ok"] == 0
    at = whole.schema.get_field_index("status")
    pq.write_table(whole.set_column(at, "status", [["won"] * len(whole)]), path)
    with pytest.raises(LedgerError, match=r"cells\.parquet cannot be read as a table of cells: .*unknown status.*won"):
        status(store)
    pq.write_table(whole.append_column("long", [["x" * 2**20] * len(whole)]), path, use_dictionary=True)
    assert status(store)["cells"]["ok"] == 9


# --- renamed functions, accepted codes, defaults of arguments -----------------------------------------------


def test_a_renamed_function_does_not_replace_what_was_measured_under_its_new_name(work: Any, tmp_path: Path) -> None:
    ran: list[int] = []

    def after(config: dict[str, Any]) -> dict[str, float]:
        ran.append(config["size"])
        return {"loss": math.nan if config["size"] == 1000 else 7.0}

    work(halves, GRID)
    own = {"size": [100, 1000], "seed": 0}
    assert (work(after, own).counts.ok, len(ran)) == (1, 2)
    said = io.StringIO()
    outcome = work(after, GRID, said, same_as=f"{__name__}:halves")
    assert len(ran) == 2  # nothing was trained again
    assert "7 rows of" in said.getvalue()
    assert (outcome.counts.ok, outcome.counts.diverged) == (8, 1)
    frame = table(tmp_path)
    mine = frame.filter((pl.col("seed") == 0) & (pl.col("size") > 10)).sort("size")
    assert (mine["loss"][0], mine["status"].to_list()) == (7.0, ["ok", "diverged"])
    rest = frame.join(mine.select("cell"), on="cell", how="anti")
    assert rest["loss"].to_list() == pytest.approx((rest["size"] ** -0.5).to_list())
    said = io.StringIO()
    work(after, GRID, said, same_as=f"{__name__}:halves")
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


def codes(tmp_path: Path) -> dict[str, str]:
    """The hash of the code that was last seen of each function."""
    entries = json.loads((tmp_path / "store/code.json").read_text())
    return {key.partition("@")[0]: entry["last"] for key, entry in entries.items()}


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


def store_of(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_frame_of_a_store_says_as_much_as_its_file(work: Any, tmp_path: Path) -> None:
    """Its text leaves the ledger's own columns out, by which failed rows, codes and runs are told apart."""
    body = (
        "import helper_f\ndef train(config):\n    for t in config['t']:\n"
        "        yield {'t': t, 'loss': 1 / t / config['n'] + 0 / (config['n'] - 64)}\n"
    )
    for value, sizes in ((1, [1, 2, 4]), (2, [1, 2, 4, 8, 16, 32, 64])):
        edited(tmp_path, "helper_f", f"def scale():\n    return {value}\n")
        work(body, {"n": sizes, "seed": [0, 1], "t": [1, 2]}, observed=["t"])
    path = tmp_path / "store" / CELLS
    wanted = fit(path, x="n", y="loss", bootstrap=40)
    assert [(group.group["t"], group.n_points) for group in wanted] == [(1, 6), (2, 6)] * 2
    assert any("dropped_failed" in group.details for group in wanted)
    frame = pl.read_parquet(path)
    for data in (frame, frame.lazy(), frame.drop("cell"), frame.to_pandas()):
        assert fit(data, x="n", y="loss", bootstrap=40).to_json() == wanted.to_json()
    with pytest.raises(FitError, match=r"observed axis t, which its column `columns` names.*28 rows are of 14 cells"):
        fit(frame.drop("t"), x="n", y="loss")
    assert len(fit(frame.filter(pl.col("t") == 1).drop("t"), x="n", y="loss", bootstrap=0)) == 2


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
