"""Two axes of time: runs that advance in stages, and in epochs within a stage, reduced to one snapshot each."""

import json

import numpy as np
import pyarrow as pa
import pytest
from test_columns import store
from test_table import N, fit

from raysweep.errors import FitError
from raysweep.laws import points as module

TIME = {"role": "axis", "kind": "observed", "axis_role": "time"}
# The exponent read off at each (stage, epoch), and the score by which the best is chosen; stage 2 ended early.
EXPONENTS = {(1, 10): 0.3, (1, 20): 0.4, (1, 30): 0.5, (2, 10): 0.6, (2, 20): 0.7}
SCORES = {(1, 10): 3.0, (1, 20): 1.0, (1, 30): 2.0, (2, 10): 4.0, (2, 20): 5.0}


def staged(scores=SCORES):
    """A ledger in which the stage is declared before the epoch: not the order of the alphabet."""
    records = [
        {"cell": f"{n}-{seed}-{stage}-{epoch}", "run": f"{n}-{seed}", "status": "ok", "seed": seed, "n_train": n,
         "stage": stage, "epoch": epoch, "epistemic": n**-exponent, "epistemic_select": scores[stage, epoch]}
        for n in N for seed in range(3) for (stage, epoch), exponent in EXPONENTS.items()
    ]  # fmt: skip
    return store(records, stage=TIME, epoch=TIME)


def alpha(data, **options):
    return fit(data, bootstrap=0, **options).params["alpha"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.4),
        ({"at": "last"}, 0.7),  # of the last stage, though another had a later epoch
        ({"at": "last", "where": "stage = 1"}, 0.5),
        ({"at": 20, "where": "stage = 1"}, 0.4),  # one axis is left to advance
        ({"at": 2, "where": "epoch = 10"}, 0.6),
    ],
)
@pytest.mark.parametrize("held", [5_000_000, 0])
def test_all_of_time_is_reduced_to_one_snapshot_of_each_run(options, expected, held, monkeypatch):
    monkeypatch.setattr(module, "_HELD", held)
    fitted = fit(staged(), bootstrap=0, **options)
    assert fitted.params["alpha"] == pytest.approx(expected, rel=1e-12)
    assert fitted.only.n_points == 15
    assert any(note.startswith("reduced_") for note in fitted.notes)


def test_the_order_of_the_axes_is_that_of_the_columns_where_only_the_text_says_what_they_are():
    table = staged()
    bare = table.replace_schema_metadata().cast(pa.schema([f.remove_metadata() for f in table.schema]))
    text = json.dumps(json.loads(table["columns"][0].as_py()), sort_keys=True)  # as a store writes it
    bare = bare.set_column(bare.schema.get_field_index("columns"), "columns", [[text] * len(bare)])
    assert alpha(bare, at="last") == pytest.approx(0.7, rel=1e-12)
    names = [name for name in table.column_names if name != "stage"]
    assert alpha(bare.select([*names, "stage"]), at="last") == pytest.approx(0.5, rel=1e-12)  # epochs count most


def test_of_equally_good_snapshots_the_latest_counts():
    assert alpha(staged(dict.fromkeys(SCORES, 1.0))) == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize("at", [20, "20"])
def test_a_number_does_not_name_a_moment_of_two_axes(at):
    with pytest.raises(FitError, match=r"several axes of time advance \(stage, epoch\), but got 20\. .* with where"):
        fit(staged(), at=at)


def test_an_axis_that_the_fit_names_is_not_reduced():
    by_stage = fit(staged(), by="stage", at="last", bootstrap=0)
    assert [g.group["stage"] for g in by_stage] == [1, 2]
    assert [g.params["alpha"] for g in by_stage] == pytest.approx([0.5, 0.7], rel=1e-12)
    assert [g.n_points for g in by_stage] == [15, 15]
    # Over epochs, each run at each epoch is taken from its last stage there: 2, 2 and 1.
    one = fit(staged(), x="epoch", at="last", where="n_train = 64", bootstrap=0, holdout=0).only
    assert (one.n_points, one.window) == (3, ((10.0, 30.0),))
    assert "(9 rows, 3 scales)" in one.details["no_effect"]  # seeds change nothing here
    last = 64.0 ** -np.array([EXPONENTS[2, 10], EXPONENTS[2, 20], EXPONENTS[1, 30]])
    slope = -np.polyfit(np.log([10.0, 20.0, 30.0]), np.log(last), 1)[0]
    assert one.params["alpha"] == pytest.approx(slope, rel=1e-9)
