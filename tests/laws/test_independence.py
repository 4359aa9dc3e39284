"""No group of a fit depends on another: its interval, its parameters and its notes are those of its own rows."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from test_clusters import N, grid
from test_clusters import ledger as seeded
from test_table import fit, ledger, rows

from raysweep.laws import points as module
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest


def arms(*names, seeds=5):
    """Arms whose numbers do not depend on which others there are."""
    return [r for name in names for r in grid(seeds, (name,), rng=np.random.default_rng(ord(name[0])))]


def told(records, law="power", **options):
    """What is known of arm `a`."""
    fitted = fit(seeded(records), law, x="n_train", y="loss", bootstrap=200, **options)
    (only,) = [group for group in fitted if group.group.get("labels", "a") == "a"]
    return {**only.to_json(), "group": {}}


@pytest.mark.parametrize(("law", "options"), [("power+floor", {}), ("power", {"huber": 1e-3}), ("auto", {})])
def test_an_arm_is_fitted_bit_for_bit_as_it_is_alone(law, options):
    alone = told(arms("a"), law, **options)
    both = told(arms("a", "b"), law, **options)
    assert alone["params"][0]["ci_low"] is not None
    assert both["notes"][0] == "grouped_by_labels"
    for other in (
        both,
        told([r for r in arms("a", "b") if r["labels"] == "a" or r["seed"] != 2], law, **options),  # a seed lost
        told([r for r in arms("a", "b") if r["labels"] == "a" or r["seed"] < 2], law, **options),  # too few are left
        told(arms("a", "b", "c"), law, **options),
    ):
        kept = [note for note in other["notes"] if note != "grouped_by_labels"]
        assert {**other, "notes": kept, "details": 0} == {**alone, "details": 0}


@pytest.mark.parametrize(("law", "options"), [("power+floor", {}), ("power", {"huber": 1e-3}), ("shifted", {})])
def test_neither_many_groups_nor_draws_of_whole_runs_change_a_digit(law, options):
    rng = np.random.default_rng(0)
    n = np.repeat(np.geomspace(10, 1e4, 7), 5)[:-1]  # 34 runs: each draw takes some of them
    sizes = [n.size - i % 5 for i in range(70)]
    table = pl.concat(
        pl.DataFrame({"n": n[:size], "arm": i, "loss": (0.1 + 3 * n**-0.5)[:size] * rng.lognormal(0, 0.02, size)})
        for i, size in enumerate(sizes)
    )
    found = fit(table, law, x="n", y="loss", by="arm", bootstrap=50, **options)
    for arm in (0, 3, 69):
        alone = fit(table.filter(pl.col("arm") == arm), law, x="n", y="loss", by="arm", bootstrap=50, **options).only
        beside = found.group(arm=arm).only
        assert (beside.params, beside.intervals, beside.holdout) == (alone.params, alone.intervals, alone.holdout)


def test_one_arms_crossed_seeds_are_its_own_matter():
    records = arms("a") + [
        {**r, "init_seed": r["seed"] + k, "run": f"{r['run']}-{k}", "loss": r["loss"] * (1 + 1e-3 * k)}
        for r in arms("b", seeds=4)
        for k in range(3)
    ]
    one, other = fit(seeded(records), x="n_train", y="loss", bootstrap=50)
    assert (one.cluster, other.cluster, "crossed_seeds" in one.notes) == ("seed", "run", False)
    assert other.details["crossed_seeds"].startswith("seed, init_seed vary independently")


def test_a_seed_that_one_arm_does_not_name_leaves_the_other_its_seeds():
    records = arms("a", "b")
    for r in records:
        r["seed"] = r["init_seed"] = None if r["labels"] == "b" else r["seed"]
    assert [g.cluster for g in fit(seeded(records), x="n_train", y="loss", bootstrap=0)] == ["seed", "run"]


def test_clusters_of_two_kinds_are_never_taken_for_each_other():
    records = [r for r in arms("a", "b", seeds=8) if r["labels"] == "a" or r["seed"] == 0]  # 8 seeds, 8 runs
    one, other = fit(seeded(records), x="n_train", y="loss", bootstrap=50)
    assert (one.n_clusters, other.n_clusters) == (8, 8)
    assert not set(one.draws.labels) & set(other.draws.labels)


def test_what_was_dropped_is_counted_in_each_group():
    records = rows(labels=["hard", "soft", "none"], seed=[0, 1, 2])
    for row in records:
        if row["labels"] == "soft" and row["seed"] == 1:
            row["status"] = "failed"
        if row["labels"] == "hard" and row["n_train"] == 16:
            row["epistemic"] = None
        if row["labels"] == "none":
            row["status"] = "skipped"
    hard, soft = fit(ledger(records), bootstrap=0, by="labels")
    assert hard.details["dropped_null"] == "3 of 15 rows without a finite n_train and epistemic were dropped."
    assert soft.details["dropped_failed"] == "5 of 15 rows with status failed were dropped."
    assert not {"dropped_failed", "dropped_skipped"} & set(hard.notes)
    assert not {"dropped_null", "dropped_skipped"} & set(soft.notes)
    gone = "Groups without a usable row: labels=none."
    assert (hard.details["dropped_groups"], soft.details["dropped_groups"]) == (gone, gone)


def test_runs_without_the_snapshot_are_counted_in_each_group():
    records = rows(labels=["hard", "soft"], step=[100, 200])
    records = [r for r in records if not (r["labels"] == "soft" and r["seed"] == 1 and r["step"] == 200)]
    for row in records:
        row["epistemic"] *= row["step"]
    hard, soft = fit(ledger(records), bootstrap=0, at=200, by="labels")
    assert "dropped_no_snapshot" not in hard.notes
    assert soft.details["dropped_no_snapshot"].startswith("5 of 10 runs")


def test_a_rate_scanned_in_one_arm_does_not_take_apart_another_that_tuned_it():
    tuned = [r for r in rows(lr=[1.0, 2.0]) if r["lr"] == (1 if r["n_train"] < 64 else 2)]
    scanned = [{**r, "labels": "soft", "epistemic": r["epistemic"] * r["lr"]} for r in rows(lr=[1.0, 2.0])]
    fixed = [{**r, "labels": "zero"} for r in rows(lr=[3.0])]
    for r in (*scanned, *fixed):
        r["run"] += r["labels"]
    fitted = fit(ledger(tuned + scanned + fixed), bootstrap=0)
    groups = [("hard", None), ("soft", 1.0), ("soft", 2.0), ("zero", 3.0)]
    assert [tuple(g.group.values()) for g in fitted] == groups
    assert [g.n_points for g in fitted] == [10] * 4
    assert ["follows_lr" in g.notes for g in fitted] == [True, False, False, False]
    assert fitted.groups[1].details["grouped_by_lr"].startswith("lr varies (1.0, 2.0), so")
    # A row of the tuned arm is its group's, whatever its rate.
    asked = pl.DataFrame({"n_train": [512] * 3, "labels": ["hard", "hard", "soft"], "lr": [1.0, 7.0, 7.0]})
    one, two, none = fitted.predict(asked)["prediction"]
    assert (one, none) == (two, None)
    found = points(ledger(tuned + scanned + fixed), FitRequest(("n_train",), "epistemic"))
    assert [found.of(part.group).height for part in found.parts] == [10] * 4


def test_what_a_tuned_arm_lost_is_counted_at_it():
    tuned = [r for r in rows(lr=[1.0, 2.0]) if r["lr"] == (1 if r["n_train"] < 64 else 2)]
    scanned = [{**r, "labels": "soft", "epistemic": r["epistemic"] * r["lr"]} for r in rows(lr=[1.0, 2.0])]
    tuned[0]["status"] = scanned[0]["status"] = "failed"
    fitted = fit(ledger(tuned + scanned), bootstrap=0)
    said = [g.details.get("dropped_failed") for g in fitted]
    assert said == ["1 of 10 rows with status failed were dropped."] * 2 + [None]
    assert "dropped_groups" not in fitted.groups[0].notes


def test_standard_errors_that_one_arm_lacks_are_used_in_the_other():
    records = rows(labels=["hard", "soft", "some"])
    for i, row in enumerate(records):
        row["epistemic_se"] = {"hard": 0.01, "soft": None, "some": 0.01 if i % 2 else None}[row["labels"]]
    fields = {f.name: f for f in ledger(rows()).schema}
    table = pa.Table.from_pylist(records)
    names = [fields.get(f.name, f.with_metadata({"role": "metric"})).with_type(f.type) for f in table.schema]
    table = table.cast(pa.schema(names))
    found = points(table, FitRequest(("n_train",), "epistemic", by=("labels",)))
    assert [part.se for part in found.parts] == ["epistemic_se", None, None]
    assert [part.details.get("no_se", "")[:12] for part in found.parts] == ["", "", "5 of 10 rows"]
    assert [g.n_points for g in fit(table, by="labels", bootstrap=0)] == [10, 10, 10]


def test_the_spread_of_averaged_points_is_that_of_the_group(monkeypatch):
    monkeypatch.setattr(module, "_HELD", 0)
    rng, n = np.random.default_rng(0), np.repeat(N, 50)
    table = pl.DataFrame({"n": n, "arm": "quiet", "loss": n**-0.5 * np.exp(0.01 * rng.standard_normal(n.size))})
    noisy = table.with_columns(pl.lit("noisy").alias("arm"), pl.col("loss") ** 2)
    single = pl.DataFrame({"n": N, "arm": "single", "loss": N**-0.5})
    alone = points(table, FitRequest(("n",), "loss", by=("arm",))).frame.sort("n")
    found = points(pl.concat([table, noisy, single]), FitRequest(("n",), "loss", by=("arm",)))
    assert found.of({"arm": "quiet"}).sort("n")["_se"].to_list() == pytest.approx(alone["_se"].to_list(), rel=1e-12)
    assert found.of({"arm": "single"})["_se"].to_list() == [0.0] * N.size
    assert ["averaged_rows" in part.details for part in found.parts] == [True, True, False]
