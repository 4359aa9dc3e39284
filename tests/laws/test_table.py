"""Tables in, fits out: every reduction of rows against an answer worked out by hand."""

import gzip
import json
import subprocess
import sys
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysweep import laws
from raysweep.errors import FitError

fit = partial(laws.fit, x="n_train", y="epistemic")  # of the ledgers here, unless a test names other columns
N = [16, 32, 64, 128, 256]
COLUMNS = {
    "cell": {"role": "stamp"},
    "run": {"role": "stamp"},
    "status": {"role": "stamp"},
    "role": {"role": "stamp"},
    "world_sha": {"role": "stamp"},
    "seed": {"role": "axis", "kind": "lane", "axis_role": "seed"},
    "n_train": {"role": "axis", "kind": "lane", "axis_role": ""},
    "width": {"role": "axis", "kind": "shape", "axis_role": ""},
    "labels": {"role": "axis", "kind": "lane", "axis_role": ""},
    "lr": {"role": "axis", "kind": "lane", "axis_role": ""},
    "step": {"role": "axis", "kind": "observed", "axis_role": "time"},
    "k": {"role": "axis", "kind": "observed", "axis_role": ""},
    "epistemic": {"role": "metric", "better": "low"},
    "epistemic_select": {"role": "metric", "better": "low"},
    "accuracy": {"role": "metric", "better": "high"},
    "accuracy_select": {"role": "metric", "better": "high"},
}


def rows(**grid):
    """One row a combination of `grid`, on the curve 3 n^-0.7, seeds spread evenly around it."""
    base = {"seed": [0, 1], "n_train": N, "width": [64], "labels": ["hard"], "lr": [0.1], "step": [100], "k": [1]}
    out = [{}]
    for name, values in {**base, **grid}.items():
        out = [{**row, name: value} for row in out for value in values]
    for i, row in enumerate(out):
        arm = (row["seed"], row["n_train"], row["width"], row["labels"], row["lr"])
        row |= {"cell": f"c{i}", "run": "-".join(map(str, arm)), "status": "ok", "role": "grid", "world_sha": "w"}
        row["epistemic"] = 3.0 * row["n_train"] ** -0.7 * np.exp(0.1 * (row["seed"] - 0.5))
        row["epistemic_select"] = row["epistemic"]
    return out


def ledger(records):
    table = pa.Table.from_pylist(records)
    fields = [field.with_metadata(COLUMNS[field.name]) for field in table.schema]
    return table.cast(pa.schema(fields))


def power(records, **options):
    return fit(ledger(records), bootstrap=0, **options)


def alpha(records, **options):
    return power(records, **options).params["alpha"]


PLAIN = pl.DataFrame({"n": N * 2, "loss": [3.0 * n**-0.7 for n in N] + [3.1 * n**-0.7 for n in N], "note": ["?"] * 10})


# Plain tables


def test_a_plain_table_is_fitted_by_its_named_columns_alone():
    fitted = fit(PLAIN, x="n", y="loss", bootstrap=0)
    assert fitted.params == pytest.approx({"A": np.sqrt(3.0 * 3.1), "alpha": 0.7}, rel=1e-12)
    assert fitted.notes == ()
    assert (fitted.only.n_points, fitted.only.n_clusters, fitted.only.n_scales) == (10, 10, 5)


def test_every_kind_of_source_gives_the_same_fit(tmp_path):
    PLAIN.write_csv(tmp_path / "t.csv")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    PLAIN.write_parquet(tmp_path / "t.parquet")
    files = [tmp_path / "t.csv", str(tmp_path / "t.csv.gz"), tmp_path / "t.parquet"]
    for data in [PLAIN.lazy(), PLAIN.to_arrow(), *files]:
        assert fit(data, x="n", y="loss").to_json() == fit(PLAIN, x="n", y="loss").to_json()


def test_the_order_of_rows_changes_nothing():
    y = PLAIN["loss"] * np.exp(0.1 * np.random.default_rng(0).standard_normal(10))
    table = PLAIN.with_columns(loss=y)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    assert fit(shuffled, x="n", y="loss").to_json() == fit(table, x="n", y="loss").to_json()


def test_run_names_the_cluster_of_a_plain_table():
    once = PLAIN.sort("n", "loss").with_row_index("id")
    doubled = pl.concat([once, once])
    clustered = fit(doubled, x="n", y="loss", run="id")
    assert clustered.only.n_clusters == 10
    assert clustered.interval("alpha") == pytest.approx(fit(PLAIN, x="n", y="loss").interval("alpha"), rel=1e-9)


def test_rows_without_a_finite_value_are_dropped_and_counted():
    table = PLAIN.with_columns(pl.when(pl.col("n") == 16).then(None).otherwise("loss").alias("loss"))
    fitted = fit(table, x="n", y="loss", bootstrap=0)
    assert fitted.notes == ("dropped_null", "no_holdout")
    assert fitted.only.details["dropped_null"].startswith("2 of 10 rows")
    assert fitted.only.window == ((32, 256),)


# Ledger tables


def test_a_parquet_file_keeps_what_the_ledger_says_of_its_columns(tmp_path):
    table = ledger(timed())
    pq.write_table(table, tmp_path / "cells.parquet")
    assert fit(tmp_path / "cells.parquet", bootstrap=0).to_json() == fit(table, bootstrap=0).to_json()


def test_seeds_are_replicates():
    fitted = power(rows(seed=[0, 1]))
    assert fitted.params == pytest.approx({"A": 3.0, "alpha": 0.7}, rel=1e-12)
    assert (fitted.only.n_points, fitted.only.n_clusters, fitted.notes) == (10, 10, ("few_seeds",))


def test_unfinished_cells_and_candidates_are_dropped_and_counted():
    records = rows(seed=range(5))
    for row in records:
        row["status"] = {1: "diverged", 2: "failed", 3: "skipped"}.get(row["seed"], "ok")
        row["role"] = "candidate" if row["seed"] == 4 else "grid"
        if row["seed"] > 0:
            row["epistemic"] = 1e9 * row["n_train"]
    fitted = power(records)
    assert fitted.params["alpha"] == pytest.approx(0.7, rel=1e-12)
    assert fitted.notes[:4] == ("dropped_diverged", "dropped_failed", "dropped_skipped", "dropped_candidate")
    assert fitted.only.details["dropped_diverged"].startswith("5 of 25 rows with status diverged")


def test_two_worlds_are_refused_until_one_is_chosen():
    records = rows()
    for row in records:
        row["world_sha"] = f"w{row['seed']}"
    with pytest.raises(FitError, match=r"holds 2: w0, w1\. Fit one with `where=\"world_sha = 'w0'\"`"):
        power(records)
    assert alpha(records, where="world_sha = 'w0'") == pytest.approx(0.7, rel=1e-12)


def timed():
    """Best on `_select` at step 200 (alpha 0.7), lowest y at step 300 (alpha 0.9), first at step 100 (alpha 0.5)."""
    records = rows(step=[100, 200, 300])
    for row in records:
        exponent = {100: 0.5, 200: 0.7, 300: 0.9}[row["step"]]
        row["epistemic"] = row["n_train"] ** -exponent
        row["epistemic_select"] = {100: 2.0, 200: 1.0, 300: 3.0}[row["step"]]
        row["accuracy"], row["accuracy_select"] = row["epistemic"], row["epistemic_select"]
    return records


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.7),
        ({"at": "best", "y": "accuracy"}, 0.9),  # better = high
        ({"at": "last"}, 0.9),
        ({"at": 100}, 0.5),
        ({"at": "200.0"}, 0.7),
    ],
)
def test_time_is_reduced_to_the_snapshot_chosen_on_the_other_sample(options, expected):
    fitted = power(timed(), **options)
    assert fitted.params["alpha"] == pytest.approx(expected, rel=1e-12)
    assert fitted.only.n_points == 10
    assert "reduced_step" in fitted.notes


def test_without_a_selection_column_the_last_snapshot_counts():
    records = [{key: value for key, value in row.items() if key != "epistemic_select"} for row in timed()]
    fitted = power(records)
    assert fitted.params["alpha"] == pytest.approx(0.9, rel=1e-12)
    assert "no_select_column" in fitted.notes


def test_runs_without_the_asked_snapshot_are_dropped_and_counted():
    records = [row for row in timed() if not (row["seed"] == 1 and row["step"] == 300)]
    fitted = power(records, at=300)
    assert fitted.only.details["dropped_no_snapshot"].startswith("5 of 10 runs")


def test_time_as_x_keeps_every_checkpoint_and_one_run_stays_one_cluster():
    records = rows(step=[100, 200, 400, 800], seed=range(4), n_train=[64])
    for row in records:
        row["epistemic"] = row["step"] ** -(0.5 + 0.01 * row["seed"])
    fitted = fit(ledger(records), x="step", bootstrap=100)
    assert fitted.params["alpha"] == pytest.approx(0.515, rel=1e-12)
    assert (fitted.only.n_points, fitted.only.n_clusters) == (16, 4)


def test_time_can_be_fitted_by():
    fitted = power(timed(), by=["step"])
    assert [g.params["alpha"] for g in fitted] == pytest.approx([0.5, 0.7, 0.9], rel=1e-12)


def test_an_unnamed_axis_splits_the_fit_and_says_so():
    records = rows(labels=["hard", "soft"])
    for row in records:
        row["epistemic"] = row["n_train"] ** -(0.4 if row["labels"] == "soft" else 0.6)
    fitted = power(records)
    assert {g.group["labels"]: g.params["alpha"] for g in fitted} == pytest.approx(
        {"hard": 0.6, "soft": 0.4}, rel=1e-12
    )
    assert all(g.notes == ("grouped_by_labels", "few_seeds") for g in fitted)
    assert all(g.notes == ("few_seeds",) for g in power(records, by="labels"))


def test_an_axis_that_y_does_not_depend_on_counts_each_point_once():
    fitted = power(rows(k=[1, 2, 4]))
    assert (fitted.only.n_points, fitted.notes) == (10, ("collapsed_k", "few_seeds"))


def test_an_observed_axis_that_y_depends_on_splits_the_fit():
    records = rows(k=[1, 2])
    for row in records:
        row["epistemic"] /= row["k"]
    assert [g.group for g in power(records)] == [{"k": 1}, {"k": 2}]


def test_a_tuned_rate_follows_x_within_its_arm():
    records = [
        row
        for row in rows(labels=["hard", "soft"], lr=[1, 2, 3])
        if row["lr"] == (1 if row["n_train"] < 64 else 2) + (row["labels"] == "soft")
    ]
    fitted = power(records)
    assert [g.group for g in fitted] == [{"labels": "hard"}, {"labels": "soft"}]
    assert fitted.groups[0].notes == ("grouped_by_labels", "follows_lr", "few_seeds")


# The Fit


def two_widths():
    records = rows(width=[64, 128], seed=[0, 1, 2])
    for row in records:
        row["epistemic"] *= row["width"]
    return fit(ledger(records), by=["width"], bootstrap=100)


def test_a_fit_of_many_groups_is_narrowed_before_it_is_read():
    fitted = two_widths()
    with pytest.raises(FitError, match=r"has 2 groups.*\.group\(width=64\)"):
        _ = fitted.params
    assert fitted.group(width=128).params["A"] == pytest.approx(2 * fitted.group(width=64).params["A"], rel=1e-9)
    with pytest.raises(FitError, match="Did you mean 'width'"):
        fitted.group(widht=64)
    with pytest.raises(FitError, match="No group has"):
        fitted.group(width=65)


def test_predictions_are_the_law_of_each_rows_group():
    fitted = two_widths()
    frame = pl.DataFrame({"n_train": [512, 512, 512], "width": [128, 64, 7], "other": ["a", "b", "c"]})
    out = fitted.predict(frame, interval=True)
    assert out.columns == [*frame.columns, "prediction", "prediction_low", "prediction_high"]
    middle = fitted.group(width=64).params
    assert out["prediction"][1] == pytest.approx(middle["A"] * 512 ** -middle["alpha"], rel=1e-12)
    assert out["prediction"][0] == pytest.approx(2 * out["prediction"][1], rel=1e-9)
    assert out["prediction_low"][0] < out["prediction"][0] < out["prediction_high"][0]
    assert out.row(2)[3:] == (None, None, None)


def test_the_frame_has_one_row_a_group_and_parameter():
    frame = two_widths().to_frame()
    assert frame.select("width", "name").rows() == [(64, "A"), (64, "alpha"), (128, "A"), (128, "alpha")]
    assert frame.filter(pl.col("ci_low") <= pl.col("value"), pl.col("value") <= pl.col("ci_high")).height == 4
    assert (
        frame.row(0, named=True).items()
        >= {"status": "CONVERGED", "n_points": 15, "x_min": 16.0, "x_max": 256.0}.items()
    )


def test_json_is_plain_and_keeps_its_contract():
    (record,) = json.loads(json.dumps(fit(ledger(rows()), bootstrap=50).to_json(), allow_nan=False))
    assert set(record) >= {
        "group",
        "law",
        "params",
        "notes",
        "x",
        "y",
        "status",
        "window",
        "level",
        "rmse_log",
        "details",
    }
    assert (record["group"], record["law"], record["bootstrap"]) == ({}, "power", 50)
    assert [set(p) for p in record["params"]] == [{"name", "value", "ci_low", "ci_high"}] * 2


def test_a_group_that_cannot_be_fitted_says_why_and_spares_the_others():
    records = [row for row in rows(width=[64, 128]) if row["width"] == 64 or row["n_train"] < 64]
    fitted = fit(ledger(records), by="width", bootstrap=50)
    good, bad = json.loads(json.dumps(fitted.to_json(), allow_nan=False))
    assert "error" not in good
    assert bad["params"] == []
    assert "but got 2" in bad["error"]
    assert fitted.to_frame().row(2, named=True)["status"] == "FAILED"
    assert fitted.predict(pl.DataFrame({"n_train": [8], "width": [128]}), interval=True).row(0)[2:] == (None,) * 3
    with pytest.raises(FitError, match="but got 2"):
        _ = fitted.group(width=128).params


def test_too_few_runs_leave_an_estimate_without_an_interval():
    table = pl.DataFrame({"n": [1.0, 2.0, 4.0], "loss": [1.0, 0.6, 0.3]})
    fitted = fit(table, x="n", y="loss")
    assert fitted.notes == ("one_run_per_scale", "no_holdout", "no_interval")
    assert fitted.to_json()[0]["params"][0]["ci_low"] is None
    with pytest.raises(FitError, match=r"no interval of 'alpha' here\. An interval needs 2 runs"):
        fitted.interval("alpha")


def test_a_floor_at_zero_is_noted():
    table = pl.DataFrame({"n": N * 2, "loss": [n**-0.7 * np.exp(-0.02 * np.log(n) ** 2) for n in N] * 2})
    fitted = fit(table, "power+floor", x="n", y="loss", bootstrap=50)
    assert fitted.status == "BOUND_HIT"
    assert {"parameter_at_bound", "duplicated_rows"} <= set(fitted.notes)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": "los"}, "no column 'los'. Did you mean 'loss'"),
        ({"by": ["m"]}, "no column 'm'"),
        ({"run": "m"}, "no column 'm'"),
        ({"law": "powers"}, "no law 'powers'"),
        ({"where": "n >>> 3"}, "'n >>> 3' is not a condition"),
        ({"where": "m > 3"}, "'m > 3' is not a condition"),
        ({"where": "n + 3"}, "'n \\+ 3' is not a condition"),
        ({"where": "n < 0"}, r"No rows are left to fit\. \S"),
        ({"where": "n < 64"}, "at least 3 distinct scales, but got 2"),
        ({"y": "note"}, "Column 'note' must hold numbers, but row 1 of the table holds '\\?'"),
        ({"level": 95}, "level=95"),
        ({"bootstrap": -1}, "bootstrap=-1"),
    ],
)
def test_a_question_without_an_answer_names_the_value_at_fault(options, message):
    with pytest.raises(FitError, match=message):
        fit(PLAIN, **{"x": "n", "y": "loss", **options})


@pytest.mark.parametrize(("at", "message"), [("worst", "got 'worst'"), (150, "Choose one of 100, 200, 300")])
def test_a_snapshot_that_does_not_exist_is_refused(at, message):
    with pytest.raises(FitError, match=message):
        power(timed(), at=at)


@pytest.mark.parametrize("data", ["absent.csv", __file__, 7])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(FitError, match=r"no table at|A table is"):
        fit(data)


def test_negative_measurements_are_counted_in_the_refusal():
    with pytest.raises(FitError, match=r"3 of 5 are not \(the first is -1\)"):
        fit(pl.DataFrame({"n": N, "loss": [1.0, 0.5, -1.0, -1.0, 0.0]}), x="n", y="loss")


def test_the_numpy_half_works_where_polars_is_not_installed():
    code = "import sys; sys.modules['polars'] = None; from raysweep.laws.fitting import fit_groups"
    subprocess.run([sys.executable, "-c", code], check=True)
