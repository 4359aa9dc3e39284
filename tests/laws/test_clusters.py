"""What a ledger's interval takes as its unit: the seed, if its runs may err together."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from raysweep.laws import fit
from raysweep.laws.differences import compare
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest

N = np.geomspace(64, 8192, 8).astype(int)
SEED = {"role": "axis", "kind": "lane", "axis_role": "seed"}
ROLES = {
    "run": {"role": "stamp"},
    "seed": SEED,
    "init_seed": SEED,
    "n_train": {"role": "axis", "kind": "lane", "axis_role": ""},
    "labels": {"role": "axis", "kind": "lane", "axis_role": ""},
    "loss": {"role": "metric", "better": "low"},
}


def ledger(records):
    table = pa.Table.from_pylist(records)
    return table.cast(pa.schema([field.with_metadata(ROLES[field.name]) for field in table.schema]))


def grid(seeds, arms=("hard",), noise=0.03, correlation=0.8, share=1.0, rng=None):
    """Runs of 3 n^-.4 whose errors are correlated along n within a seed; arms have `share` of them in common."""
    rng = rng or np.random.default_rng(0)
    root = np.linalg.cholesky(correlation ** np.abs(np.subtract.outer(np.arange(N.size), np.arange(N.size))))
    common = rng.standard_normal((seeds, N.size)) @ root.T
    out = []
    for arm in arms:
        own = rng.standard_normal((seeds, N.size)) @ root.T
        error = noise * (np.sqrt(share) * common + np.sqrt(1 - share) * own)
        out += [
            {"seed": s, "init_seed": s, "n_train": int(n), "labels": arm, "run": f"{arm}-{n}-{s}",
             "loss": float(3 * n**-0.4 * np.exp(error[s, i]))}
            for s in range(seeds) for i, n in enumerate(N)
        ]  # fmt: skip
    return out


def test_a_ledgers_seed_is_the_unit_unless_another_is_named():
    table = ledger(grid(5))
    (part,), only = points(table, FitRequest(("n_train",), "loss")).parts, fit(table, x="n_train", y="loss").only
    assert (part.run, only.n_clusters, only.cluster) == ("seed", 5, "seed")
    named = fit(table, x="n_train", y="loss", run="run").only
    assert (named.n_clusters, named.cluster) == (40, "run")


def test_a_plain_table_says_nothing_of_seeds_but_its_residuals_may():
    plain = pl.DataFrame(grid(5)).drop("init_seed", "labels")
    without = fit(plain.drop("seed"), x="n_train", y="loss").only
    assert (without.n_clusters, without.cluster) == (40, "run")
    only = fit(plain, x="n_train", y="loss").only
    assert (only.n_clusters, only.cluster) == (5, "seed")
    assert "correlated_rows" in only.notes


def test_two_seeds_are_too_few_and_a_note_says_so():
    only = fit(ledger(grid(2)), x="n_train", y="loss").only
    assert (only.n_clusters, only.cluster) == (16, "run")
    assert only.details["few_seeds"].startswith("2 values of seed are too few")


def test_an_arm_of_few_seeds_has_runs_as_units_and_says_so_alone():
    records = [r for r in grid(5, ("hard", "soft"), share=0.5) if r["labels"] == "hard" or r["seed"] < 2]
    fitted = fit(ledger(records), x="n_train", y="loss")
    assert [(g.n_clusters, g.cluster) for g in fitted] == [(5, "seed"), (16, "run")]
    assert ["few_seeds" in g.notes for g in fitted] == [False, True]


def test_seeds_that_vary_apart_have_no_single_unit():
    records = [{**r, "init_seed": r["seed"] + k, "run": f"{r['run']}-{k}"} for r in grid(4) for k in range(3)]
    for i, r in enumerate(records):
        r["loss"] *= 1 + 1e-3 * (i % 7)
    only = fit(ledger(records), x="n_train", y="loss").only
    assert (only.cluster, only.n_clusters) == ("run", 96)
    assert "crossed_seeds" in only.notes


def test_seeds_that_never_meet_two_scales_leave_runs_the_unit():
    records = [{**r, "seed": i, "init_seed": i} for i, r in enumerate(grid(3, correlation=0.0))]
    only = fit(ledger(records), x="n_train", y="loss").only
    assert (only.cluster, only.n_clusters) == ("run", 24)
    assert not {"few_seeds", "crossed_seeds"} & set(only.notes)


def test_a_ledger_with_nested_sets_is_covered_by_default():
    rng, truth, worlds = np.random.default_rng(1), 3.0, 200
    records = [{**r, "labels": f"world {w}"} for w in range(worlds) for r in grid(5, rng=rng, correlation=0.95)]
    inside = {}
    for unit in (None, "run"):
        found = fit(ledger(records), x="n_train", y="loss", bootstrap=199, holdout=0, run=unit)
        ends = np.array([g.interval("A") for g in found])
        inside[unit or "seed"] = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).sum()
    # Binomial: 200 worlds at 95 % lie in [.905, .985] in 99 of 100 cases.
    assert 0.905 <= inside["seed"] / worlds <= 0.985
    assert inside["run"] / worlds < 0.9  # what the default avoids


@pytest.mark.parametrize("share", [0.999, 0.9])
def test_arms_of_one_ledger_are_compared_with_the_draws_of_their_seeds(share):
    hard, soft = fit(ledger(grid(6, ("hard", "soft"), share=share)), x="n_train", y="loss", bootstrap=400)
    paired = compare(hard.draws, soft.draws, lambda v: v[..., -1])
    assert paired.paired
    alone = np.subtract(*np.array([hard.interval("alpha"), soft.interval("alpha")]).T[::-1])
    spread = paired.high - paired.low
    assert spread < 0.75 * np.hypot(*alone)
    assert (spread < 0.1 * np.hypot(*alone)) == (share > 0.99)
