"""What a store's table says of its columns: frames that lost it and have it as a text, and which code made a row."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_table import COLUMNS, fit, ledger, rows, timed

from raysweep.errors import FitError
from raysweep.laws.column import Column, of_schema, of_text
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest
from raysweep.laws.source import scan

STAMPS = {"experiment": {"role": "stamp"}, "experiment_version": {"role": "stamp"}, "code_sha": {"role": "stamp"}}


def store(records, **metadata):
    """A table as a store's cells.parquet is: metadata, and the column `columns` that says the same."""
    meta = {**COLUMNS, **STAMPS, **metadata}
    table = pa.Table.from_pylist(records)
    meta = {name: meta[name] for name in table.schema.names}
    table = table.cast(pa.schema([field.with_metadata(meta[field.name]) for field in table.schema]))
    text = pa.array([json.dumps(meta)] * len(records)).dictionary_encode()
    return table.append_column(pa.field("columns", text.type), text)


def several():
    """Snapshots, arms, a failed cell: a table that a plain reading would get wrong."""
    records = timed() + [
        {**r, "labels": "soft", "epistemic": r["epistemic"] * 2, "run": r["run"] + "s"} for r in timed()
    ]
    for i, row in enumerate(records):
        row["cell"] = f"c{i}"
    records[3]["status"], records[5]["epistemic"], records[7]["epistemic_select"] = "failed", None, None
    return records


# Frames without metadata


def test_a_frame_of_a_store_is_fitted_as_the_store_is(tmp_path):
    table = store(several())
    pq.write_table(table, tmp_path / "cells.parquet")
    frame = pl.read_parquet(tmp_path / "cells.parquet")
    frame.write_csv(tmp_path / "cells.csv")
    frame.write_ndjson(tmp_path / "cells.jsonl")
    expected = fit(table, bootstrap=40).to_json()
    assert expected == fit(ledger(several()), bootstrap=40).to_json()
    assert [record["n_points"] for record in expected] == [10, 10]
    files = [tmp_path / "cells.parquet", tmp_path / "cells.csv", tmp_path / "cells.jsonl"]
    bare = table.replace_schema_metadata().cast(pa.schema([f.remove_metadata() for f in table.schema]))
    frames = [
        frame,
        frame.lazy(),
        pl.scan_csv(tmp_path / "cells.csv"),
        bare,
        pd.read_parquet(files[0]),
        table.to_pandas(),
    ]
    for data in [*files, *frames, frame.sample(fraction=1.0, shuffle=True, seed=1)]:
        assert fit(data, bootstrap=40).to_json() == expected


def test_two_stores_below_each_other_are_one_table(tmp_path):
    records = several()
    one, other = store(records[:30]), store([{k: v for k, v in r.items() if k != "k"} for r in records[30:]])
    frames = [pl.DataFrame(pl.from_arrow(t)).with_columns(pl.col("columns").cast(pl.String)) for t in (one, other)]
    both = pl.concat(frames, how="diagonal_relaxed")
    for i, table in enumerate((one, other)):
        pq.write_table(table, tmp_path / f"{i}.parquet")
    expected = [(g.group["labels"], g.n_points, g.params) for g in fit(store(records), by="labels", bootstrap=0)]
    for data in (both, [tmp_path / "0.parquet", tmp_path / "1.parquet"], str(tmp_path / "*.parquet")):
        assert [(g.group["labels"], g.n_points, g.params) for g in fit(data, by="labels", bootstrap=0)] == expected


def test_keys_and_hashes_of_digits_stay_words(tmp_path):
    records = rows(seed=[0, 1, 2])
    for i, row in enumerate(records):
        row |= {"run": f"{i:04d}", "cell": f"00{i}e1", "code_sha": "0012"}
    table = store(records, code_sha={"role": "stamp", "accepted": "0012,12"})
    pl.DataFrame(pl.from_arrow(table)).write_csv(tmp_path / "cells.csv")
    assert (
        fit(tmp_path / "cells.csv", bootstrap=40, run="run").to_json() == fit(table, bootstrap=40, run="run").to_json()
    )
    assert fit(tmp_path / "cells.csv", by="code_sha", bootstrap=0).only.group == {"code_sha": "0012"}


def test_a_store_that_has_lost_all_of_it_is_refused(tmp_path):
    frame = pl.DataFrame(pl.from_arrow(store(several()))).drop("columns")
    frame.write_csv(tmp_path / "t.csv")
    for data in (frame, frame.lazy(), frame.to_arrow(), tmp_path / "t.csv", frame.to_pandas()):
        with pytest.raises(FitError, match=r"60 rows of 20 runs look like a store's.*keep its column `columns`"):
            fit(data)
    # One row a run, or a table of somebody's own, is what it seems.
    assert fit(frame, where="step = 100 and labels = 'hard'", bootstrap=0).params["alpha"] == pytest.approx(
        0.5, abs=0.1
    )
    assert fit(frame.drop("cell"), where="step = 100", bootstrap=0).only.n_points == 20


def keyed():
    """`several` with the keys that a store gives its runs: 20 digits, base 16."""
    records = several()
    names = {name: f"{i:020x}" for i, name in enumerate(dict.fromkeys(row["run"] for row in records))}
    return [{**row, "run": names[row["run"]], "cell": names[row["run"]] + row["cell"]} for row in records]


def test_some_columns_of_a_store_are_fitted_where_each_run_has_one_row_and_refused_where_not(tmp_path):
    frame = pl.DataFrame(pl.from_arrow(store(keyed())))
    some = frame.select("run", "n_train", "epistemic")
    some.write_csv(tmp_path / "some.csv")
    for data in (some, some.lazy(), some.to_arrow(), some.to_pandas(), tmp_path / "some.csv"):
        with pytest.raises(FitError, match=r"60 rows of 20 runs look like a store's"):
            fit(data)
    last = some.with_columns(frame["step"]).drop_nulls().group_by("run").agg(pl.all().sort_by("step").last())
    only = fit(last.drop("step"), bootstrap=0).only
    assert (only.n_points, only.group) == (20, {})
    assert fit(some.drop("run"), bootstrap=0).only.n_points == 30  # nothing says it is a store's: copies


def test_an_observed_axis_that_a_table_has_lost_is_named_where_its_rows_need_it(tmp_path):
    frame = pl.DataFrame(pl.from_arrow(store(keyed())))
    names = ["run", "cell", "n_train", "epistemic", "labels", "columns"]
    frame.select(names).write_csv(tmp_path / "some.csv")
    frame.select(names).write_parquet(tmp_path / "some.parquet")
    arrow = store(keyed()).drop_columns(["step", "k"])  # which keeps its metadata
    by_cell = frame.select(names).drop("run")
    for data in (frame.select(names), arrow, tmp_path / "some.csv", tmp_path / "some.parquet", by_cell):
        with pytest.raises(FitError, match=r"observed axis step, k, which.* lost it: its 60 rows now belong to 20"):
            fit(data)
    with pytest.raises(FitError, match=r"observed axis step, which.*its 60 rows now belong to 20 cells"):
        fit(frame.drop("step"))
    assert [group.n_points for group in fit(frame.drop("k"), bootstrap=0)] == [10, 10]  # it has one value
    one = frame.filter(pl.col("step") == 100)
    assert [(group.group["labels"], group.n_points) for group in fit(one.select(names))] == [("hard", 10), ("soft", 10)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "7",
        "[]",
        '{"run": 7}',
        '{"run": {"role": "king"}}',
        "[" * 100_000,
        '{"a": ' * 5000,
        "9" * 5000,
        " " * (1 << 23) + "{}",
    ],
)
def test_a_text_that_does_not_fit_says_nothing(text):
    assert of_text(text) == {}
    table = pl.DataFrame({"cell": ["a", "b", "c"], "n": [1, 2, 4], "loss": [4.0, 2, 1], "columns": [text] * 3})
    rows, columns = scan(table)
    assert (columns, rows.collect_schema().names()) == ({}, table.columns)
    assert fit(table, x="n", y="loss", bootstrap=0).params["alpha"] == pytest.approx(1)


def test_of_a_text_what_fits_is_taken():
    told = {
        "run": {"role": "stamp", "accepted": 3, "help": "x" * 10_000}, "n": {"role": "axis", "kind": [], "free": True},
        "loss": {"role": "metric", "better": "low", "free": "1"}, "sha": {"role": "stamp", "accepted": "a;;b,c"},
        "gone": {"role": "axis"}, "bad": "axis",
    }  # fmt: skip
    found = of_text(json.dumps(told))
    assert found == {
        "run": Column("stamp"), "n": Column("axis"), "loss": Column("metric", better="low", free=True),
        "sha": Column("stamp", accepted=("a", "b,c")), "gone": Column("axis"),
    }  # fmt: skip


def test_metadata_says_the_same_as_the_text():
    table = store(rows(), epistemic={"role": "metric", "better": "low", "free": "1"})
    text = table["columns"][0].as_py()
    assert of_schema(table.schema) == of_text(text)
    odd = pa.schema([pa.field("n", pa.int64(), metadata={b"role": b"axis", b"\xff": b"\xff"})])
    assert of_schema(odd) == {"n": Column("axis")}


# Which code made a row


def versions(**columns):
    """Two trainings of one grid, exponents .7 and .9; `columns` has a pair of values for each."""
    out = []
    for i, exponent in enumerate((0.7, 0.9)):
        for row in rows(seed=[0, 1, 2]):
            values = {name: pair[i] for name, pair in columns.items()}
            out.append({**row, **values, "run": f"{row['run']}-{i}", "epistemic": row["n_train"] ** -exponent})
    return out


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("experiment", ("a:train", "b:train")),
        ("experiment_version", (1, 2)),
        ("experiment_version", (None, 2)),
        ("code_sha", ("aa", "bb")),
        ("code_sha", (None, "bb")),
    ],
)
def test_rows_of_two_versions_are_never_fitted_together(name, values):
    fitted = fit(store(versions(**{name: values})), bootstrap=0)
    assert {g.group[name]: round(g.params["alpha"], 6) for g in fitted} == dict(zip(values, (0.7, 0.9), strict=True))
    for group in fitted:
        assert group.notes == (f"grouped_by_{name}",)
        assert group.details[f"grouped_by_{name}"].startswith(f"{name} varies ({values[0]}, {values[1]}), so")
    # Also where the runs are of several snapshots, or y is the same in both.
    records = versions(**{name: values})
    for row in records:
        row["epistemic"] = row["n_train"] ** -0.7
    snapshots = [{**r, "step": s, "run": r["run"][:-2]} for r in records for s in (100, 200)]
    for same in (records, snapshots):
        assert [g.group[name] for g in fit(store(same), bootstrap=0)] == list(values)
        assert [g.n_points for g in fit(store(same), bootstrap=0)] == [15, 15]


def test_versions_that_share_no_scale_are_not_taken_to_follow_it():
    records = [r for r in versions(experiment_version=(1, 2)) if (r["n_train"] < 100) == (r["experiment_version"] == 1)]
    fitted = fit(store(records + [{**r, "n_train": 4 * r["n_train"]} for r in records]), bootstrap=0)
    assert [g.group for g in fitted] == [{"experiment_version": 1}, {"experiment_version": 2}]


def test_versions_may_be_named_and_chosen():
    table = store(versions(experiment_version=(1, 2), code_sha=("aa", "bb")))
    assert [set(g.group) for g in fit(table, bootstrap=0)] == [{"experiment_version", "code_sha"}] * 2
    assert [g.notes for g in fit(table, by=["code_sha", "experiment_version"], bootstrap=0)] == [(), ()]
    only = fit(table, where="experiment_version = 2", bootstrap=0).only
    assert (only.group, only.notes, round(only.params["alpha"], 6)) == ({}, (), 0.9)


def test_one_version_is_nothing_to_speak_of():
    for values in ((None, None), ("aa", "aa")):
        assert fit(store(versions(code_sha=values)), bootstrap=0).only.group == {}


def test_hashes_that_were_declared_equal_are_one():
    records = versions(code_sha=("aa", "bb"))
    table = store(records, code_sha={"role": "stamp", "accepted": "bb,aa"})
    assert fit(table, bootstrap=0).only.n_points == 30
    assert fit(table, where="code_sha = 'aa'", bootstrap=0).params["alpha"] == pytest.approx(0.7)
    more = store(
        records + [{**r, "code_sha": "cc"} for r in records[:15]], code_sha={"role": "stamp", "accepted": "bb,aa"}
    )
    assert [g.group["code_sha"] for g in fit(more, bootstrap=0)] == ["bb", "cc"]


def test_a_plain_table_says_nothing_of_versions():
    table = pl.DataFrame({"n": [1, 2, 4], "loss": [4.0, 2, 1], "experiment_version": [1, 2, 3]})
    assert fit(table, x="n", y="loss", bootstrap=0).only.group == {}


# Rows that diverged in another metric


def test_a_users_metric_counts_where_it_is_finite():
    records = rows(seed=[0, 1, 2])
    for row in records:
        row["accuracy"] = row["n_train"] ** -0.1 if row["n_train"] > 16 else float("nan")
        row["status"] = "diverged" if row["n_train"] == 16 else "ok"
    records[0]["epistemic"] = float("inf")
    free = {"epistemic": {"role": "metric", "better": "low", "free": "1"}, "accuracy": {"role": "metric", "free": "1"}}
    only = fit(store(records, **free), bootstrap=0).only
    assert (only.n_points, round(only.params["alpha"], 1)) == (14, 0.7)
    assert only.details["dropped_diverged"] == "1 of 15 rows with status diverged were dropped."
    assert fit(store(records, **free), y="accuracy", bootstrap=0).only.n_points == 12
    # An experiment's own word that a run diverged stands.
    assert fit(store(records), bootstrap=0).only.n_points == 12


def test_a_missing_other_metric_drops_nothing():
    records = rows(seed=[0, 1, 2])
    for row in records[::2]:
        row["accuracy"] = float("nan")
    table = store(records)
    assert points(table, FitRequest(("n_train",), "epistemic")).frame.height == 15
    assert np.isfinite(fit(table, bootstrap=0).params["alpha"])
