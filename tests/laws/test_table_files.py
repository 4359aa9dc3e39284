"""What people have after a study: files of several forms, many files, and columns in which a word says: no number."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from raysweep.errors import FitError
from raysweep.laws import files, fit, jsonfile
from raysweep.laws.source import gather, scan

N = [10, 20, 40, 80, 160, 320]
ROWS = [{"n": n, "loss": n**-0.5, "arm": "a"} for n in N]


def alpha(data, **options):
    return fit(data, x="n", y="loss", bootstrap=0, **options).params["alpha"]


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


# JSON


@pytest.mark.parametrize("text", [json.dumps(ROWS), json.dumps(ROWS, indent=2), lines(ROWS), "\ufeff" + lines(ROWS)])
@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson", "T.JSON", "t.json.gz", "t.jsonl.gz"])
def test_a_list_of_objects_and_lines_of_them_are_tables_whatever_the_ending(text, name, tmp_path):
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert alpha(tmp_path / name) == pytest.approx(0.5, rel=1e-12)
    assert gather(scan(str(tmp_path / name))[0]).equals(pl.DataFrame(ROWS))


def test_objects_in_objects_are_columns_by_their_path(tmp_path):
    rows = [{"config": {"n": n, "optim": {"lr": 0.1}, "hidden": [64, 64]}, "loss": n**-0.5, "done": n > 99} for n in N]
    (tmp_path / "result.json").write_text(lines(rows))
    found = gather(scan(tmp_path / "result.json")[0])
    assert dict(found.schema) == {
        "loss": pl.Float64, "done": pl.Boolean, "config/n": pl.Int64, "config/hidden": pl.String,
        "config/optim/lr": pl.Float64,
    }  # fmt: skip
    assert found["config/hidden"][0] == "[64, 64]"
    assert fit(tmp_path / "result.json", x="config/n", y="loss", bootstrap=0).params["alpha"] == pytest.approx(0.5)


def test_what_a_row_lacks_and_null_and_nan_are_empty_places(tmp_path):
    rows = [*ROWS, {"n": 5}, {"n": 6, "loss": None}, {"n": 7, "loss": math.nan}, {"n": 8, "loss": "NaN"}, {"more": 1}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    fitted = fit(tmp_path / "t.json", x="n", y="loss", bootstrap=0)
    assert fitted.params["alpha"] == pytest.approx(0.5, rel=1e-12)
    assert fitted.only.details["dropped_null"].startswith("5 of 11 rows")


def test_numbers_of_any_size_and_mixed_columns_are_read(tmp_path):
    rows = [{"a": 1, "b": 2**70, "c": True, "d": 0.5, "e": "x"}, {"a": 2.5, "b": 1, "c": 2, "d": "w", "e": {}}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    found = gather(scan(tmp_path / "t.json")[0])
    assert found.to_dict(as_series=False) == {
        "a": [1.0, 2.5], "b": [2.0**70, 1.0], "c": ["true", "2"], "d": ["0.5", "w"], "e": ["x", None],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"n": 1}\n{"n": 2', "line 2 cannot be read as JSON"),
        ("n,loss\n1,2\n", "line 1 cannot be read as JSON"),
        ("[1, 2]", "line 1 must hold a JSON object \\(one row\\), or a list of such, but holds int"),
        ('{"n": 1}\n"x"', "line 2 must hold a JSON object"),
        ("[" * 100_000, "line 1 cannot be read as JSON"),
        ("", "no column 'n'"),
        ("[]", "no column 'n'"),
        ("9" * 5000, "line 1 cannot be read as JSON"),
        (lines([{f"c{i}": 1 for i in range(2001)}]), "2,000 columns"),
    ],
)
def test_what_is_no_table_of_rows_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(FitError, match=message):
        alpha(tmp_path / "t.json")


def test_hostile_json_is_bounded_and_harmless(tmp_path, monkeypatch):
    (tmp_path / "t.json").write_text('{"\\ud800": "\\udfff", "deep": ' + '{"a":' * 500 + "1" + "}" * 500 + "}")
    found = gather(scan(tmp_path / "t.json")[0])
    assert found.columns == ["?", "deep" + "/a" * 20]
    assert found["?"].to_list() == ["?"]
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * 10_000_000))
    monkeypatch.setattr(files, "_MOST_TEXT", 1_000_000)
    with pytest.raises(FitError, match=r"bomb\.json\.gz: JSON is read up to a limit"):
        scan(tmp_path / "bomb.json.gz")
    monkeypatch.setattr(jsonfile, "_MOST_VALUES", 100)
    (tmp_path / "wide.jsonl").write_text(lines([{f"c{i}": 1 for i in range(20)}]) + "{}\n" * 10)
    with pytest.raises(FitError, match="20 columns in the first 6 rows"):
        scan(tmp_path / "wide.jsonl")


@pytest.mark.parametrize(("name", "data"), [("t.json.gz", b"not gzip"), ("t.json", b"\xff\xfe{}"), ("t.csv.gz", b"x")])
def test_a_damaged_file_is_one_error(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FitError, match=r"cannot be read as a table|no column 'n'"):
        alpha(tmp_path / name)


# Several files


@pytest.fixture
def trials(tmp_path):
    """A folder for each trial, as Ray Tune leaves it, and a folder of CSVs."""
    for i, n in enumerate(N):
        (tmp_path / f"trial_{i}").mkdir()
        (tmp_path / f"trial_{i}/result.json").write_text(lines([{"n": n, "loss": 1.0}, {"n": n, "loss": n**-0.5}]))
        pl.DataFrame({"n": [n], "loss": [n**-0.5]}).write_csv(tmp_path / f"a-{n}.csv")
    return tmp_path


def test_a_pattern_is_one_table_with_the_files_names(trials):
    fitted = fit(str(trials / "trial_*/result.json"), x="n", y="loss", where="loss < 1", bootstrap=0)
    assert (fitted.params["alpha"], fitted.only.n_points) == (pytest.approx(0.5), 6)
    found = gather(scan(trials / "*/result.json")[0])
    assert found["file"].unique().sort().to_list() == [f"trial_{i}/result.json" for i in range(6)]
    assert fit(trials / "trial_*/result.json", x="n", y="loss", run="file", bootstrap=0).only.n_clusters == 6
    assert gather(scan(trials / "a-1?.csv")[0])["file"].to_list() == ["a-10.csv"]


def test_a_list_of_paths_and_patterns_counts_each_file_once(trials):
    paths = [trials / "a-10.csv", str(trials / "a-20.csv"), trials / "a-*.csv"]
    fitted = fit(paths, x="n", y="loss", bootstrap=0)
    assert (fitted.params["alpha"], fitted.only.n_points) == (pytest.approx(0.5), 6)
    assert gather(scan(paths)[0])["file"][:2].to_list() == ["a-10.csv", "a-20.csv"]


def test_files_of_several_forms_and_types_are_put_below_each_other(trials):
    (trials / "more.csv").write_text("n,loss,file\n640,nan,mine\n1280.5,0.02,mine\n")
    pl.DataFrame({"n": [2560], "extra": ["x"], "loss": [2560**-0.5]}).write_parquet(trials / "p.parquet")
    found = gather(
        scan([trials / "a-10.csv", trials / "more.csv", trials / "trial_1/result.json", trials / "p.parquet"])[0]
    )
    assert found["n"].to_list() == [10, 640, 1280.5, 20, 20, 2560]
    assert found["loss"].dtype == pl.Float64
    assert found["file"].to_list() == ["a-10.csv", "mine", "mine", *["trial_1/result.json"] * 2, "p.parquet"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    pl.DataFrame(ROWS).write_csv(tmp_path / "a[1].csv")
    assert alpha(tmp_path / "a[1].csv") == pytest.approx(0.5)
    assert "file" not in scan(tmp_path / "a[1].csv")[0].collect_schema()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("b-*.csv", r"No file matches the pattern"),
        ([], "must name at least one file"),
        (["a-10.csv", "absent.csv"], "no table at 'absent.csv'"),
        ([7], "holds paths, but got int"),
        ("trial_*/*", "trial_0/result.txt'"),
        ("trial_0", "is a folder, not a table"),
        ("a\0b.csv", "no table at"),
    ],
)
def test_files_that_are_not_there_are_named(data, message, trials, monkeypatch):
    monkeypatch.chdir(trials)
    (trials / "trial_0/result.txt").write_text("")
    with pytest.raises(FitError, match=message):
        alpha(data)


def test_too_many_files_are_refused(trials, monkeypatch):
    monkeypatch.setattr(files, "_MOST_FILES", 5)
    with pytest.raises(FitError, match="at most 5 files, but got 6"):
        alpha(trials / "a-*.csv")


# Words for no number


@pytest.mark.parametrize(
    "word",
    [
        "nan",
        "NaN",
        "NA",
        "N/A",
        "n/a",
        "null",
        "NULL",
        "None",
        "none",
        "",
        "-nan",
        "-nan(ind)",
        "<NA>",
        "#N/A",
        "inf",
        "-inf",
        "Infinity",
        "INF",
        "1.#QNAN",
        " nan ",
    ],
)
def test_a_word_for_no_number_is_an_empty_place(word, tmp_path):
    text = "n,loss\n" + "".join(f"{n},{n**-0.5!r}\n" for n in N)
    (tmp_path / "t.csv").write_text(text + f"9999,{word}\n")
    fitted = fit(tmp_path / "t.csv", x="n", y="loss", bootstrap=0, where="n > 1")
    assert fitted.params["alpha"] == pytest.approx(0.5, rel=1e-12)
    assert fitted.only.details["dropped_null"].startswith("1 of 7 rows")


def test_conditions_and_groups_see_numbers_too(tmp_path):
    (tmp_path / "t.csv").write_text("n,width,loss\n" + "".join(f"{n},{w},{w / n}\n" for n in N for w in (8, 16)))
    with (tmp_path / "t.csv").open("a") as file:
        file.write("10,NA,nan\n20,8,null\n")
    fitted = fit(tmp_path / "t.csv", x="n", y="loss", by="width", where="loss > 0.01 and width >= 8", bootstrap=0)
    assert [g.group for g in fitted] == [{"width": 8}, {"width": 16}]


def test_labels_stay_words(tmp_path):
    head = "n,loss,aug,only\n"
    rows = [f"{n},{n**-0.5!r},{aug},none\n" for n in N for aug in ("none", "NA", "flip")]
    (tmp_path / "t.csv").write_text(head + "".join(rows))
    fitted = fit(tmp_path / "t.csv", x="n", y="loss", by=["aug", "only"], where="only = 'none'", bootstrap=0)
    assert [tuple(g.group.values()) for g in fitted] == [("NA", "none"), ("flip", "none"), ("none", "none")]


def test_a_value_that_is_no_number_is_named_with_its_row_and_file(tmp_path):
    good, bad = "n,loss\n1,nan\n2,0.5\n", "n,loss\n4,0.3\n8,oops\n16,worse\n"
    (tmp_path / "b.csv").write_text(bad)
    with pytest.raises(FitError, match=r"Column 'loss' must hold numbers, but row 2 of .*b\.csv holds 'oops'"):
        alpha(tmp_path / "b.csv")
    (tmp_path / "a.csv").write_text(good)
    with pytest.raises(FitError, match=r"row 2 of b\.csv holds 'oops'"):
        alpha(tmp_path / "*.csv")
    with pytest.raises(FitError, match=r"row 3 of b\.csv holds 'worse'"):
        alpha(tmp_path / "*.csv", where="loss <> 'oops'")
    with pytest.raises(FitError, match="row 2 of the table holds 'oops'"):
        alpha(pl.DataFrame({"n": [1, 2], "loss": ["nan", "oops"]}))
    with pytest.raises(FitError, match=r"Column 'loss' must hold numbers, but holds List\(Float64\)"):
        alpha(pl.DataFrame({"n": [1], "loss": [[0.5]]}))


def test_a_row_that_a_condition_leaves_out_may_hold_anything(tmp_path):
    (tmp_path / "t.csv").write_text("n,loss\n" + "".join(f"{n},{n**-0.5!r}\n" for n in N) + "9999,oops\n9999,nan\n")
    fitted = fit(tmp_path / "t.csv", x="n", y="loss", where="loss <> 'oops'", bootstrap=0)
    assert (fitted.only.n_points, fitted.params["alpha"]) == (6, pytest.approx(0.5))


def test_a_column_of_words_for_none_leaves_nothing_to_fit(tmp_path):
    (tmp_path / "t.csv").write_text("n,loss\n1,nan\n2,NA\n")
    with pytest.raises(FitError, match=r"No rows are left to fit\. 2 of 2 rows without a finite n and loss"):
        alpha(tmp_path / "t.csv")


def test_a_word_late_in_a_long_column_is_found(tmp_path):
    n = [2**i for i in range(1, 21)] * 100
    (tmp_path / "t.csv").write_text("n,loss\n" + "".join(f"{k},{k**-0.5!r}\n" for k in n) + "64,NA\n")
    assert alpha(tmp_path / "t.csv") == pytest.approx(0.5)
    with (tmp_path / "t.csv").open("a") as file:
        file.write("64,late\n")
    with pytest.raises(FitError, match="row 2,002 of"):
        alpha(tmp_path / "t.csv")


# pandas


def test_a_pandas_frame_is_a_table():
    frame = pd.DataFrame(ROWS)
    frame["arm"] = frame["arm"].astype("category")
    frame.loc[0, "loss"] = float("nan")
    for data in (frame, frame.set_index("n")):
        assert fit(data, x="n", y="loss", by="arm", bootstrap=0).only.n_points == 5


def test_a_pandas_frame_of_mixed_columns_is_refused():
    with pytest.raises(FitError, match="pandas frame cannot be read"):
        alpha(pd.DataFrame({"n": [1, "x", 2.0], "loss": [1, 2, 3]}))


def test_coded_words_are_words():
    table = pl.DataFrame(ROWS).with_columns(pl.col("arm").cast(pl.Categorical))
    assert fit(table, x="n", y="loss", by="arm", where="arm = 'a'", bootstrap=0).only.group == {"arm": "a"}
    coded = table.to_arrow().set_column(2, "arm", pa.array(["a"] * 6).dictionary_encode())
    assert fit(coded, x="n", y="loss", by="arm", bootstrap=0).only.n_points == 6


# Narrow windows


def test_scales_that_hardly_vary_are_noted_with_the_error_this_implies():
    rng = np.random.default_rng(0)
    n = np.linspace(1000, 1020, 12)
    table = pl.DataFrame({"n": n, "loss": n**-0.5 * rng.lognormal(0, 0.05, 12)})
    only = fit(table, x="n", y="loss", bootstrap=200).only
    assert only.details["narrow_window"].startswith("n spans a factor of 1.02 only (its exponent has a standard error")
    design = np.stack([np.ones(12), np.log(n)], axis=1)
    off = np.log(table["loss"].to_numpy()) - design @ np.linalg.lstsq(design, np.log(table["loss"]))[0]
    error = math.sqrt(off @ off / 10 * np.linalg.inv(design.T @ design)[1, 1])
    assert f"of about {error:.2g}," in only.details["narrow_window"]
    assert "narrow_window" in only.to_json()["notes"]


def test_each_narrow_scale_of_a_joint_law_is_named_and_each_group_judged_by_itself():
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.linspace(1e9, 1.5e9, 6)))
    narrow = pl.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 * n**-0.34 + 410 * d**-0.28, "arm": "narrow"})
    wide = narrow.with_columns(pl.lit("wide").alias("arm"), d=(pl.col("d") / 1e9) ** 3 * 1e9)
    wide = wide.with_columns(loss=1.7 + 400 * pl.col("n") ** -0.34 + 410 * pl.col("d") ** -0.28)
    fitted = fit(pl.concat([narrow, wide]), "chinchilla", x=["n", "d"], y="loss", by="arm", bootstrap=0)
    one, other = fitted
    assert one.details["narrow_window"].startswith("d spans a factor of 1.5 only")
    assert "n spans" not in one.details["narrow_window"]
    assert "narrow_window" not in other.notes


def test_a_factor_of_two_is_wide_enough():
    n = np.array([1.0, 1.3, 1.6, 2.0])
    assert "narrow_window" not in fit(pl.DataFrame({"n": n, "loss": n**-0.5}), x="n", y="loss", bootstrap=0).notes
