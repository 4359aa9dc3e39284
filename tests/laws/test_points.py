"""Tables of any length and several scales: what reaches a fit, whether rows are held or read a block at a time."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_table import fit, ledger, rows, timed

from raysweep.errors import FitError
from raysweep.laws import points as module
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest

SIZES, TOKENS = np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)
TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


def surface(noise=0.0):
    """Chinchilla's law on a grid of sizes and tokens."""
    n, d = (grid.ravel() for grid in np.meshgrid(SIZES, TOKENS))
    y = TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]
    return pl.DataFrame({"n": n, "d": d, "loss": y * np.exp(noise * np.random.default_rng(0).standard_normal(n.size))})


@pytest.fixture
def unheld(monkeypatch):
    """No table is short enough to be held."""
    monkeypatch.setattr(module, "_HELD", 0)


# Several scales


def test_several_scales_are_columns_in_the_order_of_the_laws_axes():
    fitted = fit(surface(), "chinchilla", x=["n", "d"], y="loss", bootstrap=0)
    assert fitted.params == pytest.approx(TRUTH, rel=1e-6)
    assert fitted.derived["a_opt"] == pytest.approx(0.28 / 0.62, rel=1e-6)
    assert fitted.x == ("n", "d")
    assert fitted.only.window == ((1e7, pytest.approx(1e10)), (1e9, pytest.approx(1e12)))
    frame = fitted.to_frame()
    assert frame["name"].to_list() == [*TRUTH, "a_opt", "b_opt"]
    assert {"n_min", "n_max", "d_min", "d_max"} <= set(frame.columns)
    (record,) = fitted.to_json()
    assert record["x"] == ["n", "d"]
    assert [d["name"] for d in record["derived"]] == ["a_opt", "b_opt"]


def test_a_law_of_several_scales_predicts_with_an_interval():
    table = surface(0.01).with_columns(arm=pl.lit("a"))
    table = pl.concat([table, table.with_columns(pl.col("loss") * 2, arm=pl.lit("b"))])
    fitted = fit(table, "chinchilla", x=["n", "d"], y="loss", by="arm", bootstrap=100)
    out = fitted.predict(pl.DataFrame({"d": [1e10, 1e10], "n": [1e9, 1e9], "arm": ["b", "a"]}), interval=True)
    assert out["prediction"][0] == pytest.approx(2 * out["prediction"][1], rel=1e-6)
    assert ((out["prediction_low"] < out["prediction"]) & (out["prediction"] < out["prediction_high"])).all()


@pytest.mark.parametrize(
    ("law", "x", "message"),
    [
        ("chinchilla", "n", r"takes 2 columns of x \(N, D\), but got 1: n"),
        ("power", ["n", "d"], r"takes 1 column of x \(x\), but got 2: n, d"),
        ("auto", ["n", "d"], "of one scale"),
        ("chinchilla", ["n", "n"], "must be different columns"),
        ("chinchilla", ["n", "tokens"], "no column 'tokens'"),
    ],
)
def test_a_wrong_number_of_scales_is_refused(law, x, message):
    with pytest.raises(FitError, match=message):
        fit(surface(), law, x=x, y="loss")


def test_time_as_a_scale_keeps_every_snapshot_and_a_run_stays_one_cluster():
    records = rows(step=[100, 200, 400, 800], seed=range(3))
    for row in records:
        row["epistemic"] = 0.01 + 3 * row["n_train"] ** -0.6 + 5 * row["step"] ** -0.8
    fitted = fit(ledger(records), "time", x=["n_train", "step"], bootstrap=40)
    assert fitted.params == pytest.approx({"E": 0.01, "A": 3, "B": 5, "alpha": 0.6, "gamma": 0.8}, rel=1e-4)
    assert (fitted.only.n_points, fitted.only.n_clusters) == (60, 3)
    assert not [note for note in fitted.notes if note.startswith("reduced")]


def test_auto_says_which_law_it_chose():
    n = np.repeat(np.geomspace(10, 1e5, 15), 2)
    y = (0.2 + 3 * n**-0.5) * np.exp(0.01 * np.random.default_rng(0).standard_normal(n.size))
    fitted = fit(pl.DataFrame({"n": n, "loss": y}), "auto", x="n", y="loss", bootstrap=0)
    assert "law_chosen" in fitted.notes
    assert fitted.only.law.name in fitted.only.details["law_chosen"]


# Standard errors, options


def test_a_ledgers_own_standard_error_is_taken_by_itself():
    records = rows()
    assert points(ledger(records), FitRequest(("n_train",), "epistemic")).parts[0].se is None
    table = ledger(records).append_column("epistemic_se", [[0.01] * len(records)])
    table = table.cast(
        table.schema.set(len(table.schema) - 1, table.schema.field(-1).with_metadata({"role": "metric"}))
    )
    assert points(table, FitRequest(("n_train",), "epistemic")).parts[0].se == "epistemic_se"
    plain = pl.DataFrame({"n": [1], "y": [1], "y_se": [1]})
    assert points(plain, FitRequest(("n",), "y")).parts[0].se is None  # a plain table says nothing


def test_noisy_points_count_less():
    n = np.repeat(np.geomspace(10, 1e4, 8), 2)
    off = np.tile([1.0, 1.5], 8)
    table = pl.DataFrame({"n": n, "loss": n**-0.5 * off, "se": n**-0.5 * np.where(off > 1, 0.5, 1e-3)})
    plain = fit(table, x="n", y="loss", bootstrap=0).params["A"]
    assert 1.0 < fit(table, x="n", y="loss", se="se", bootstrap=0).params["A"] < plain


@pytest.mark.parametrize("floor", ["power", "power+floor"])
def test_errors_of_y_that_the_residuals_contradict_are_noted(floor):
    n = np.geomspace(10, 1e4, 12)
    loss = (0.2 + n**-0.5) * np.exp(0.02 * np.random.default_rng(2).standard_normal(12) * (floor == "power+floor"))
    for error, speaks in ((n, True), (np.full(12, 5.0), True), (0.02 * loss, False), (0 * n, False)):
        found = fit(pl.DataFrame({"n": n, "loss": loss, "se": error}), floor, x="n", y="loss", se="se", bootstrap=0)
        assert ("y_errors_too_large" in found.only.notes) == speaks
    both = pl.DataFrame({"n": n, "loss": loss, "se": n, "of_n": 0.1 * n})
    assert "y_errors_too_large" in fit(both, floor, x="n", y="loss", se="se", x_se="of_n", bootstrap=0).only.notes


def test_rows_without_a_standard_error_are_dropped_and_counted():
    table = pl.DataFrame({"n": [1.0, 2, 4, 8, 16], "loss": [5.0, 4, 3, 2, 1], "se": [0.1, None, 0.1, 0.1, 0.1]})
    fitted = fit(table, x="n", y="loss", se="se", bootstrap=0)
    assert fitted.only.details["dropped_null"] == "1 of 5 rows without a finite n, loss and se were dropped."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"huber": 0.0}, "huber=0"),
        ({"huber": -1.0}, "huber=-1"),
        ({"holdout": 0.95}, r"\[0, 0.9\], but got holdout=0.95"),
        ({"holdout": -0.1}, "holdout=-0.1"),
        ({"run": "loss"}, "run: must name the column of runs, .*, but got 'loss'"),
        ({"run": "n"}, "nor the only x, but got 'n'"),
        ({"se": "los"}, "no column 'los'. Did you mean 'loss'"),
        ({"where": "sise > 3"}, "no column 'sise'"),
        ({"where": "n > 'a'"}, "cannot compare string"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(FitError, match=message):
        fit(surface(), "power", x="n", y="loss", **options)


# Length


@pytest.mark.parametrize("options", [{}, {"at": "last"}, {"at": 100}, {"by": "step"}, {"y": "accuracy"}])
def test_a_ledger_is_reduced_alike_whether_it_is_held_or_not(options, tmp_path, monkeypatch):
    records = timed()
    records[3]["status"], records[5]["epistemic"], records[7]["epistemic_select"] = "diverged", None, None
    pq.write_table(ledger(records), tmp_path / "cells.parquet")
    held = fit(ledger(records), bootstrap=0, **options).to_json()
    monkeypatch.setattr(module, "_HELD", 0)
    assert fit(tmp_path / "cells.parquet", bootstrap=0, **options).to_json() == held


@pytest.mark.usefixtures("unheld")
def test_an_axis_that_y_does_not_depend_on_is_collapsed_unread():
    found = points(ledger(rows(k=[1, 2, 4])), FitRequest(("n_train",), "epistemic"))
    assert (found.frame.height, list(found.parts[0].details)) == (10, ["collapsed_k", "few_seeds"])


@pytest.mark.usefixtures("unheld")
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_long_table_is_averaged_to_the_same_optimum(ending, tmp_path):
    rng = np.random.default_rng(0)
    n = np.repeat(np.geomspace(10, 1000, 6).round(), 50)
    table = pl.DataFrame(
        {"n": n, "arm": np.tile([1, 2], 150), "loss": n**-0.5 * np.exp(0.1 * rng.standard_normal(300))}
    )
    getattr(table, f"write_{ending}")(tmp_path / f"t.{ending}")
    fitted = fit(tmp_path / f"t.{ending}", x="n", y="loss", by="arm", where="loss > 0", bootstrap=0)
    for group in fitted:
        assert group.details["averaged_rows"].startswith("150 rows were averaged to 6 points of equal arm, n")
    for arm in (1, 2):
        part = table.filter(pl.col("arm") == arm)
        slope, level = np.polyfit(np.log(part["n"]), np.log(part["loss"]), 1)
        assert fitted.group(arm=arm).params == pytest.approx({"A": np.exp(level), "alpha": -slope}, rel=1e-6)
    (se,) = (
        points(table, FitRequest(("n",), "loss"))
        .frame.filter(pl.col("n") == 10)
        .select(pl.col("_se") / pl.col("loss"))
        .to_series()
    )
    assert se == pytest.approx(0.1 / np.sqrt(50), rel=0.1)


@pytest.mark.usefixtures("unheld")
def test_rows_of_a_run_are_averaged_within_it_and_negative_ones_still_refused():
    table = pl.DataFrame({"n": [1.0, 1, 2, 2, 4, 4], "run": list("aabbcc"), "loss": [4.0, 4, 2, 2, 1, 1]})
    found = points(table, FitRequest(("n",), "loss", run="run"))
    assert (found.frame.height, found.parts[0].se) == (3, None)  # equal rows: no spread to know an error by
    with pytest.raises(FitError, match="positive, finite y, but 1 of 3"):
        fit(table.with_columns(pl.col("loss") - 1), x="n", y="loss", run="run")


def test_thousands_of_groups_are_fitted_printed_and_predicted():
    from raysweep.reports.tables import findings, paragraphs

    groups, n = 3000, np.array([10.0, 100, 1000, 10_000])
    alpha = np.linspace(0.2, 0.8, groups)[:, None]
    table = pl.DataFrame(
        {"arm": np.repeat(np.arange(groups), 4), "n": np.tile(n, groups), "loss": (3 * n**-alpha).ravel()}
    ).sample(fraction=1.0, shuffle=True, seed=0)
    fitted = fit(table, x="n", y="loss", by="arm", bootstrap=0, holdout=0)
    found = fitted.to_frame().filter(pl.col("name") == "alpha")
    assert found["arm"].to_list() == list(range(groups))
    assert found["value"].to_numpy() == pytest.approx(alpha.ravel(), rel=1e-9)
    assert fitted.predict(table)["prediction"].to_numpy() == pytest.approx(table["loss"].to_numpy(), rel=1e-9)
    assert len(findings(fitted)) == 21
    assert paragraphs(fitted)[-1] == ["... and 2,980 more groups; --json or Fit.to_frame() has them all"]


def test_a_damaged_page_of_a_parquet_table_is_an_error_not_the_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"n": [1.0, 2.0, 4.0, 8.0, 16.0], "loss": [1.0, 0.7, 0.5, 0.36, 0.25]}), path)
    data = bytearray(path.read_bytes())
    page = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    count = data.index(b"\x2c\x15\x0a", page) + 2  # of a data page's header: its 5 values, zigzag
    data[count] = 9  # -5
    path.write_bytes(data)
    with pytest.raises(FitError, match="cannot be read: Invalid page header"):
        points(path, FitRequest(("n",), "loss"))


def test_a_long_parquet_table_is_averaged_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 300_000
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n": rng.integers(1, 20, n), "loss": rng.uniform(1, 2, n), "arm": rng.integers(0, 3, n)})
    frame.write_parquet(tmp_path / "table.parquet")
    whole = points(frame, FitRequest(("n",), "loss", by=("arm",)))
    monkeypatch.setattr(module, "_HELD", 1000)
    found = points(tmp_path / "table.parquet", FitRequest(("n",), "loss", by=("arm",), where="arm < 2"))
    assert (whole.frame.height, found.frame.height) == (n, 19 * 2)
    one = frame.filter((pl.col("n") == 7) & (pl.col("arm") == 1))["loss"].log().mean()
    row = found.frame.filter((pl.col("n") == 7) & (pl.col("arm") == 1))
    assert isinstance(one, float)
    assert row["loss"].item() == pytest.approx(np.exp(one))


@pytest.mark.parametrize(
    ("column", "word", "other"),
    [
        ("State", "finished", "crashed"),
        ("state", "COMPLETE", "PRUNED"),
        ("status", "FINISHED", "FAILED"),
    ],
)
def test_a_run_that_did_not_finish_does_not_count(column: str, word: str, other: str) -> None:
    n = np.array([1, 2, 4, 8, 16, 32, 64.0])
    frame = pl.DataFrame({"n": n, "loss": 2 * n**-0.5, column: [word] * 7}).with_columns(
        pl.when(pl.col("n") == 32).then(9.0).otherwise("loss").alias("loss"),
        pl.when(pl.col("n") == 32).then(pl.lit(other)).otherwise(column).alias(column),
    )
    found = fit(frame, "power", x="n", y="loss", bootstrap=0).only
    assert found.params["alpha"] == pytest.approx(0.5)
    assert found.details[f"dropped_{other}"] == f"1 of 7 rows with status {other} were dropped."
    for mine in ({"where": f"{column} != 'killed'"}, {"by": (column,)}):  # the user decides
        assert points(frame, FitRequest(("n",), "loss", **mine)).frame.height == 7
    free = frame.with_columns(pl.lit("resting").alias(column))  # no word of theirs: a column like any other
    assert points(free, FitRequest(("n",), "loss")).frame.height == 7
