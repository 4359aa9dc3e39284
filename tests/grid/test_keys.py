"""Keys of runs and cells: what they may and may not depend on; and the columns that hold them."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from grid_toy import AXES, IDENTITY, cells_of, rows, runs_of

from raysweep.grid.axes import Axis, index_axes
from raysweep.grid.runs import KEY_LENGTH, Observed
from raysweep.grid.terms import Table

# --- keys -------------------------------------------------------------------------------------------------

GOLDEN = {  # a change here makes every stored cell new: never without a reason
    "{}": "4dfce39d8b297aff3139",
    '{"seed": 3}': "ffee9ae3450c1092890c",
    '{"lr": 0.3, "schedule": "cosine", "steps": 200}': "8d50f07e55e4ab2b86c4",
    '{"data_seed": 5, "width": 128}': "89c8c51e2f9eefd58f11",
}
GOLDEN_SUFFIX = "9b983576544d4bbd"  # of steps=10, k at its default


def test_golden_keys():
    assert {g: runs_of(json.loads(g)).key(0) for g in GOLDEN} == GOLDEN
    (suffix,) = runs_of({"steps": 10}).observed[0].cells
    assert suffix == GOLDEN_SUFFIX


def test_a_key_is_the_hash_of_identity_and_sorted_axes_off_their_default():
    text = IDENTITY + '\nlr=0.3\nschedule="cosine"\nsteps=200\n'
    expected = hashlib.blake2b(text.encode(), digest_size=KEY_LENGTH // 2).hexdigest()
    assert runs_of({"steps": 200, "width": 64, "lr": 0.3, "schedule": "cosine"}).key(0) == expected
    (suffix,) = runs_of({"steps": 10, "k": 7}).observed[0].cells
    assert suffix == hashlib.blake2b(b"k=7\nsteps=10\n", digest_size=8).hexdigest()


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_keys_are_the_same_in_another_process_with_another_hash_seed(seed):
    script = (
        "import json, sys; sys.path.insert(0, 'tests'); from grid_toy import runs_of\n"
        "print(json.dumps({g: runs_of(json.loads(g)).key(0) for g in sys.argv[1:]}))"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", script, *GOLDEN]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == GOLDEN


def keys(grid, axes=AXES, identity=IDENTITY):
    return sorted(runs_of(grid, axes, identity).keys.tolist())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 0.1 + 0.2}, {"lr": 0.3}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": "1e-3"}, {"lr": 0.001}),
        ({"lr": -0.0}, {"lr": 0}),
        ({"width": 128.0}, {"width": 128}),
        ({"width": 64, "lr": 0.1, "k": 1}, {}),
        ({"seed": 3, "data_seed": 3}, {"seed": 3}),
        ({"seed": [0, 1], "width": [64, 128]}, {"width": [128, 64], "seed": [1, 0]}),
        ({"seed": [0, 1], "width": [64, 128]}, {"concat": [{"seed": 0}, {"seed": 1}], "width": [64, 128]}),
        ({"seed": [0, 1], "lr": 0.5}, {"zip": {"lr": [0.5, 0.5], "seed": [0, 1]}}),
        ({"steps": [1, 2]}, {"steps": 7}),  # observed: not in a run's key
    ],
)
def test_two_spellings_of_one_run_have_one_key(one, other):
    assert keys(one) == keys(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 0.3}, {"lr": 0.300001}),
        ({"seed": 1}, {"seed": 2}),
        ({"seed": 1}, {"data_seed": 1}),
        ({"schedule": "cosine"}, {"schedule": "wsd"}),
        ({"schedule": "cosine", "steps": 10}, {"schedule": "cosine", "steps": 20}),  # a lane there
    ],
)
def test_what_differs_in_a_run_axis_has_another_key(one, other):
    assert not set(keys(one)) & set(keys(other))


def test_a_key_depends_on_experiment_version_and_world():
    identities = [IDENTITY, IDENTITY.replace("toy", "toys"), IDENTITY.replace("1", "2"), IDENTITY + "abc"]
    assert len({keys({}, identity=i)[0] for i in identities}) == 4


def test_a_new_axis_with_a_default_keeps_every_key():
    grid = {"seed": [0, 1], "lr": [0.1, 0.2], "steps": [10, 100]}
    more = [
        Axis("beta", float, "lane", 0.5),
        *AXES.values(),
        Axis("j", int, "observed", 3),
        Axis("w", str, "shape", ""),
    ]
    assert set(cells_of(runs_of(grid))) == set(cells_of(runs_of(grid, index_axes(more))))
    assert set(cells_of(runs_of(grid))) == set(cells_of(runs_of(grid, index_axes(more[::-1]))))


def test_a_value_cannot_forge_another_axis():
    axes = index_axes([Axis("a", str, "lane", ""), Axis("b", int, "lane", 0)])
    assert keys({"a": "x\nb=1"}, axes) != keys({"a": "x", "b": 1}, axes)


def test_many_seeds_cost_linear_time():
    runs = runs_of({"seed": {"range": 50_000}, "data_seed": {"range": 3}})
    assert len(runs) == 150_000 == len(np.unique(runs.keys))


# --- Runs and Observed ------------------------------------------------------------------------------------


def test_columns_rows_values_and_take_agree():
    runs = runs_of({"seed": [3, 1, 2], "width": [8, 16], "steps": [1, 2]})
    assert runs.column("seed") == [r["seed"] for r in rows(runs)] == [3, 3, 1, 1, 2, 2]
    assert runs.column("data_seed") == runs.column("seed")
    some = runs.take(np.array([4, 0]))
    assert rows(some) == [runs.row(4), runs.row(0)]
    assert [some.key(0), some.key(1)] == [runs.key(4), runs.key(0)]
    assert some.value("width") == 8
    with pytest.raises(ValueError, match="seed must be the same"):
        some.value("seed")
    mask = np.array(runs.column("width")) == 16
    assert runs.take(mask).column("width") == [16, 16, 16]
    assert runs.take(mask).cells == 6
    assert runs.take(~mask & mask).cells == 0


def test_a_cell_at_all_observed_defaults_has_the_key_of_its_run():
    observed = runs_of({"steps": [100, 7], "k": [1, 2]}).observed[0]
    assert observed.cells[""] == (100, 1)
    assert len(observed.cells) == observed.count == 4
    for suffix, values in observed.cells.items():
        assert observed.suffix(values) == suffix


def test_a_union_of_blocks_counts_and_lists_each_cell_once():
    def block(steps, ks):
        return (Table(("steps",), tuple((s,) for s in steps)), Table(("k",), tuple((k,) for k in ks)))

    defaults = (("steps", 100), ("k", 1))
    both = Observed((block([1, 2], [1, 2]), block([2, 3], [2, 3])), defaults)
    assert both.count == 7
    assert set(both.cells.values()) == {*itertools.product([1, 2], [1, 2]), *itertools.product([2, 3], [2, 3])}
    bare = replace(both, blocks=(block([1], [2])[:1], block([5], [6])[1:]))
    assert set(bare.cells.values()) == {(1, 1), (100, 6)}
    assert bare.values("steps") == (1, 100)


def test_only_keeps_those_cells_with_their_keys():
    observed = runs_of({"steps": [1, 2, 3], "k": [1, 2]}).observed[0]
    chosen = [s for s, v in observed.cells.items() if v in ((1, 2), (3, 1))]
    part = observed.only(chosen)
    assert part.cells == {s: observed.cells[s] for s in chosen}
    assert part.values("steps") == (1, 3)
    assert part.count == 2
