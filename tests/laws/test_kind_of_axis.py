"""Time that is observed in some rows and a lane in others: runs of several horizons are never pooled silently."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysweep.laws import fit
from raysweep.laws.column import Column, of_schema, of_text
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest

RULE = json.dumps({"axis": "schedule", "kinds": [["cosine", "lane"]]})
META = {
    "n_train": {"role": "axis", "kind": "lane"},
    "schedule": {"role": "axis", "kind": "shape"},
    "steps": {"role": "axis", "kind": "observed", "axis_role": "time", "kind_by": RULE},
    "seed": {"role": "axis", "kind": "lane", "axis_role": "seed"},
    "epistemic": {"role": "metric", "better": "low"},
    "run": {"role": "stamp"},
}
SIZES, STEPS, SEEDS = (64, 128, 256, 512, 1024), (10, 40, 160), 6


def rows(schedule):
    """The same values under every schedule, twice as large under cosine. The fewer steps, the flatter is their law."""
    found = []
    for i, n in enumerate(SIZES):
        for seed in range(SEEDS):
            noise = np.exp(0.01 * np.random.default_rng([i, seed]).standard_normal())
            for steps in STEPS:
                run = f"{schedule}-{n}-{seed}" + (f"-{steps}" if schedule == "cosine" else "")
                value = noise * (n**-0.4 + 2.0 / steps) * (2 if schedule == "cosine" else 1)
                found.append(
                    {"n_train": n, "schedule": schedule, "steps": steps, "seed": seed, "epistemic": value, "run": run}
                )
    return found


def ledger(*schedules, **meta):
    records = [row for schedule in schedules for row in rows(schedule)]
    table = pa.Table.from_pylist(records)
    said = {**META, **meta}
    return table.cast(pa.schema([f.with_metadata(said[f.name]) for f in table.schema]))


def test_runs_that_each_have_a_time_of_their_own_are_fitted_by_it():
    found = fit(ledger("cosine"), law="power", x="n_train", y="epistemic", bootstrap=0)
    assert [(g.group, g.n_points) for g in found] == [({"steps": t}, 30) for t in STEPS]
    assert all("grouped_by_steps" in g.details and "reduced_steps" not in g.details for g in found)
    alone = fit(ledger("constant"), law="power", x="n_train", y="epistemic", at="160", bootstrap=0).only
    (last,) = [g for g in found if g.group == {"steps": 160}]
    assert last.params["alpha"] == pytest.approx(alone.params["alpha"], rel=1e-9)


def test_equal_values_give_equal_laws_whether_time_is_observed_or_a_lane():
    both = fit(ledger("constant", "cosine"), law="power", x="n_train", y="epistemic", bootstrap=0)
    groups = {(g.group["schedule"], g.group["steps"]): g for g in both}
    assert set(groups) == {("constant", None), *(("cosine", t) for t in STEPS)}
    assert {g.n_points for g in both} == {30}
    observed, lane = groups["constant", None], groups["cosine", 160]  # the last snapshot is the best
    assert observed.params["alpha"] == pytest.approx(lane.params["alpha"], rel=1e-9)
    assert "reduced_steps" in observed.details
    assert not any(code.startswith("dropped") for g in both for code in g.details)


def test_each_schedule_alone_is_fitted_as_it_is_beside_another():
    for schedule in ("constant", "cosine"):
        where = f"schedule = '{schedule}'"
        one = fit(ledger(schedule), law="power", x="n_train", y="epistemic", bootstrap=0)
        other = fit(ledger("constant", "cosine"), law="power", x="n_train", y="epistemic", where=where, bootstrap=0)
        assert one.to_json() == other.to_json()


@pytest.mark.parametrize("schedules", [("cosine",), ("constant", "cosine")])
def test_a_time_that_is_asked_for_is_read_off_every_run_that_has_it(schedules):
    found = fit(ledger(*schedules), law="power", x="n_train", y="epistemic", at=40, bootstrap=0)
    assert [g.n_points for g in found] == [30] * len(schedules)
    assert len({round(g.params["alpha"], 9) for g in found}) == 1
    assert all("reduced_steps" in g.details for g in found)


def test_time_that_is_named_stays_as_it_is():
    made = points(ledger("constant", "cosine"), FitRequest(("n_train",), "epistemic", by=("steps", "schedule")))
    assert [dict(p.group) for p in made.parts] == [
        {"steps": t, "schedule": s} for t in STEPS for s in ("constant", "cosine")
    ]
    assert len(made.frame) == 2 * len(SIZES) * len(STEPS) * SEEDS


def test_dropped_rows_are_counted_in_their_own_group():
    table = ledger("constant", "cosine")
    values = table["epistemic"].to_pylist()
    values[2] = None  # the last snapshot of a constant run: the one before it is taken
    values[-1] = None  # a cosine run of 160 steps
    at = table.schema.get_field_index("epistemic")
    table = table.set_column(at, table.schema.field(at), pa.array(values))
    found = {
        (g.group["schedule"], g.group["steps"]): g
        for g in fit(table, x="n_train", y="epistemic", law="power", bootstrap=0)
    }
    lost = {
        key for key, g in found.items() if "dropped_not_finite" in g.details or any("dropped" in c for c in g.details)
    }
    assert lost == {("constant", None), ("cosine", 160)}
    assert found["cosine", 160].n_points == 29


def test_the_rule_outlives_a_tables_metadata(tmp_path):
    table = ledger("constant", "cosine")
    text = json.dumps(META)
    table = table.append_column("columns", pa.array([text] * len(table))).append_column("cell", table["run"])
    pq.write_table(table, tmp_path / "cells.parquet")
    frame = pl.read_parquet(tmp_path / "cells.parquet")
    frame.write_csv(tmp_path / "cells.csv")
    expected = fit(table, law="power", x="n_train", y="epistemic", bootstrap=0).to_json()
    for data in (frame, tmp_path / "cells.csv", tmp_path / "cells.parquet"):
        assert fit(data, law="power", x="n_train", y="epistemic", bootstrap=0).to_json() == expected
    assert len(expected) == 4


def test_a_table_of_an_older_raysweep_is_read_as_it_was():
    old = {"steps": {k: v for k, v in META["steps"].items() if k != "kind_by"}}
    (group,) = fit(ledger("constant", **old), law="power", x="n_train", y="epistemic", bootstrap=0)
    assert group.n_points == 30
    assert of_schema(ledger("cosine", **old).schema)["steps"].kind_for({"schedule": "cosine"}) == "observed"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"axis": 3, "kinds": []}', '{"axis": "a", "kinds": [[1]]}', "[" * 100_000,
     '{"axis": "a", "kinds": [["b", "no kind"]]}', '{"axis": "a", "kinds": [[{}, "lane"]]}'],
)  # fmt: skip
def test_a_rule_that_is_none_is_passed_over(text):
    said = of_text(json.dumps({"steps": {"role": "axis", "kind": "lane", "kind_by": text}}))
    assert said == {"steps": Column("axis", "lane")}


def test_of_two_times_the_observed_one_is_reduced_and_the_other_tells_runs_apart():
    """Rounds of queries, a run for each, and steps within a round."""
    records = [
        row | {"rounds": rounds, "epistemic": row["epistemic"] / rounds, "run": f"{row['run']}-{rounds}"}
        for row in rows("constant")
        for rounds in (1, 2)
    ]
    said = {**META, "rounds": {"role": "axis", "kind": "lane", "axis_role": "time"}}
    table = pa.Table.from_pylist([{name: row[name] for name in sorted(row)} for row in records])
    table = table.cast(pa.schema([f.with_metadata(said[f.name]) for f in table.schema]))
    found = fit(table, law="power", x="n_train", y="epistemic", bootstrap=0)
    assert [(g.group, g.n_points) for g in found] == [({"rounds": 1}, 30), ({"rounds": 2}, 30)]
    assert all({"reduced_steps", "grouped_by_rounds"} <= set(g.details) for g in found)
