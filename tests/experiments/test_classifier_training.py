"""The classifier over schedules, models, ensembles and evaluation samples: every row, and what it must equal."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.experiment import Context
from raysweep.experiments.classifier import EXPERIMENT
from raysweep.experiments.classifier_axes import LABELS, METRICS
from raysweep.experiments.lanes import batches_of, initial_of, optimiser_of, schedule_of
from raysweep.grid.axes import index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.ledger.rows import Stamp, row_schema, stamp
from raysweep.models import Architecture
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.recipe import recipe_hash
from raysweep.plan import make_plan
from raysweep.streams import member_seed
from raysweep.sweep import from_mapping
from raysweep.training.legs import legs
from raysweep.training.loop import forward, train

AXES = index_axes(list(EXPERIMENT.axes))
SMALL = {"width": 8, "depth": 1, "batch": 16, "pool": 512, "n_train": 64, "eval_items": 400, "select_items": 200}
NAMES = [m.name for m in METRICS]


def world_of(dim, classes, **options):
    recipe = GaussianRecipe(classes=classes, dim=dim, **options)
    return FlowWorld(gaussian_flow(recipe).requires_grad_(False), recipe, recipe_hash(recipe))


PLANE, IMAGES = world_of(2, 2), world_of(64, 3, separation=3.0, layers=0)


def runs_of(**grid):
    return enumerate_runs(expand({**SMALL, "eval_share": 0.0, **grid}, AXES), AXES, "test")


def rows_of(world=PLANE, **grid):
    """Rows with the axes of their run."""
    runs = runs_of(**grid)
    found = pa.Table.from_batches(list(EXPERIMENT.run(runs, Context(world=world)))).to_pylist()
    return [{**runs.row(row["lane"]), **row} for row in found]


def find(rows, **where):
    (row,) = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return row


def near(a, b, rel=1e-6):
    """Float32 training in other company: metrics, or none in either."""
    assert a["status"] == b["status"]
    assert [a[n] for n in NAMES] == pytest.approx([b[n] for n in NAMES], rel=rel, abs=rel)


# --- schedules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["sgd", "nesterov", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_there_is_one_row_a_cell_under_every_schedule(schedule, optimiser):
    grid = {"schedule": schedule, "optimiser": optimiser, "steps": [0, 4, 16], "k": [1, 9], "seed": [0, 1]}
    grid |= {"lr": [0.0, 0.01], "warmup": 2, "weight_decay": 0.01, "clip": 1.0}
    runs = runs_of(**grid)
    assert len(runs) == (12 if schedule == "cosine" else 4)
    rows = rows_of(**grid)
    cells = [(row["lr"], row["seed"], row["steps"], row["k"]) for row in rows]
    assert sorted(cells) == sorted(itertools.product((0.0, 0.01), (0, 1), (0, 4, 16), (1, 9)))
    assert {row["status"] for row in rows} == {"ok"}
    assert all(np.isfinite(row[n]) for row in rows for n in NAMES)
    tables = [
        stamp(batch, runs, row_schema(EXPERIMENT), Stamp("pack", 1, "cpu"))
        for batch in EXPERIMENT.run(runs, Context(world=PLANE))
    ]
    assert len(set(pa.concat_tables(tables)["cell"].to_pylist())) == len(rows) == 24
    for seed, steps in itertools.product((0, 1), (4, 16)):
        still, learned = (find(rows, lr=lr, seed=seed, steps=steps, k=1) for lr in (0.0, 0.01))
        assert still["total"] == find(rows, lr=0.0, seed=seed, steps=0, k=1)["total"] != learned["total"]


@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_a_longer_grid_leaves_the_rows_of_shorter_times_unchanged(schedule):
    """A cell is the same cell whatever else is asked for: only then may a store be extended."""
    grid = {"schedule": schedule, "optimiser": "adamw", "lr": 0.01, "precision": "float64", "eval_share": 0.0625}
    long = rows_of(**grid, steps=[4, 12, 40, 90])
    for steps in ([4], [12], [4, 40]):
        for row in rows_of(**grid, steps=steps):
            other = find(long, steps=row["steps"])
            near(row, other, rel=1e-12)
            assert row["flops"] == other["flops"]


def test_a_schedule_with_a_decay_ends_elsewhere_than_one_without():
    ends = [rows_of(schedule=s, lr=0.05, steps=30)[0]["total"] for s in ("constant", "wsd", "cosine")]
    assert len(set(ends)) == 3
    wide = [rows_of(schedule="wsd", decay=d, lr=0.05, steps=30)[0]["total"] for d in (0.0, 0.5)]
    assert wide[0] == pytest.approx(ends[0], rel=1e-6) != wide[1]


@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_flops_of_a_cell_are_those_of_its_own_time(schedule):
    runs = runs_of(schedule=schedule, steps=[4, 16])
    layout = Architecture("mlp", 2, 2, 8, 1).layout
    for row in rows_of(schedule=schedule, steps=[4, 16]):
        assert row["flops"] == row["steps"] * 16 * (layout.forward_flops + layout.backward_flops)
        seen = 1 if schedule == "cosine" or row["steps"] == 4 else 2
        assert row["flops_eval"] == seen * 600 * layout.forward_flops
    if schedule != "wsd":
        last = len(runs) - 1
        observed = runs.observed[int(runs.observed_code[last])]
        assert EXPERIMENT.cost(runs.row(last), observed, PLANE).flops == row["flops"]


def test_schedules_mix_in_one_grid():
    """Steps is observed in some runs and a lane in others."""
    sweep = from_mapping(
        {
            "name": "mixed",
            "experiment": "classifier",
            "grid": {**SMALL, "schedule": ["constant", "wsd", "cosine"], "steps": [2, 6], "seed": [0, 1]},
            "world": {"kind": "gaussian"},
        }
    )
    assert sweep.runs.cells == 12
    assert len(sweep.runs) == 2 + 2 + 4


def test_a_plan_counts_every_cosine_run_by_its_own_time(memory_store):
    """Lanes of one shape that train for 10 and for 1,000 steps do not cost the same."""
    raw = {"name": "c", "experiment": "classifier", "world": {"kind": "gaussian"}}

    def planned(steps):
        sweep = from_mapping({**raw, "grid": {**SMALL, "schedule": "cosine", "steps": steps, "seed": {"range": 4}}})
        return make_plan(sweep, memory_store, 1).flops

    assert planned([10, 1000]) == pytest.approx(planned([10]) + planned([1000]), rel=1e-9)


# --- what a lane trains on --------------------------------------------------------------------------------


def test_axes_of_the_data_and_the_optimiser_reach_their_lane_alone():
    """Each run of a mixed pack is what it is alone, and each axis makes a difference to it."""
    axes = {"label_noise": 0.5, "label_smoothing": 0.3, "label_temperature": 2.0, "input_noise": 0.5}
    axes |= {"weight_decay": 0.5, "clip": 0.05, "momentum": 0.1, "warmup": 20}
    cases = [{}, *({name: value} for name, value in axes.items())]
    zipped = {name: [case.get(name, AXES[name].default) for case in cases] for name in axes}
    options = {"labels": "soft", "steps": 24, "lr": 0.05, "precision": "float64"}
    together = rows_of(zip=zipped, **options)
    assert len({row["total"] for row in together}) == len(cases)
    for i, case in enumerate(cases):
        (alone,) = rows_of(**options, **case)
        near(alone, together[i], rel=1e-9)


@pytest.mark.parametrize("axis", ["beta1", "beta2", "eps"])
def test_axes_of_adamw_reach_their_lane(axis):
    value = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-2}[axis]
    options = {"optimiser": "adamw", "steps": 12, "lr": 0.05, "precision": "float64"}
    plain, other = rows_of(**options, **{axis: [AXES[axis].default, value]})
    assert plain["total"] != other["total"]
    near(rows_of(**options, **{axis: value})[0], other, rel=1e-9)


def test_label_temperature_is_the_inverse_of_a_power():
    """At a high temperature labels say little: the prediction comes near the uniform one."""
    sharp, flat = (rows_of(labels="soft", label_temperature=t, steps=200, n_train=512)[0] for t in (0.25, 100.0))
    assert flat["total"] == pytest.approx(math.log(2), abs=0.02)
    assert sharp["posterior_gap"] > 0.05  # overconfident
    assert sharp["accuracy"] > 0.8


@pytest.mark.parametrize("precision", ["float64", "tf32", "bf16"])
def test_other_precisions_come_near_float32(precision):
    (plain,), (other,) = (rows_of(precision=p, steps=20) for p in ("float32", precision))
    assert other["total"] == pytest.approx(plain["total"], rel=0.02 if precision == "bf16" else 1e-4)
    assert (other["total"] == plain["total"]) == (precision == "tf32")  # CPUs know no TF32


# --- models -----------------------------------------------------------------------------------------------

MODELS = {
    "mlp": {"width": 16, "depth": 2},
    "cnn": {"width": 8, "depth": 3, "lr": 0.02, "optimiser": "adamw"},
    "resnet": {"width": 4, "depth": 1, "steps": [0, 40]},
    "vit": {"width": 8, "depth": 1, "heads": 2, "activation": "gelu", "lr": 0.01, "optimiser": "adamw"},
    "convnext": {"width": 8, "depth": 1, "activation": "gelu", "lr": 0.01, "optimiser": "adamw", "steps": [0, 30]},
    "swin": {"width": 8, "depth": 1, "heads": 2, "activation": "gelu", "lr": 0.01, "optimiser": "adamw",
             "steps": [0, 30]},
    "mobilenet": {"width": 4, "depth": 1, "lr": 0.02, "optimiser": "adamw", "steps": [0, 20]},
}  # fmt: skip


@pytest.mark.parametrize("base_width", [0, 4])
@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_learns_a_world_of_images(model, base_width):
    options = {"labels": "soft", "batch": 32, "pool": 2048, "n_train": 2048, "lr": 0.05, "steps": [0, 80]}
    rows = rows_of(IMAGES, **{**options, **MODELS[model], "model": model, "base_width": base_width, "seed": [0, 1]})
    for seed in (0, 1):
        before, after = (row for row in rows if row["seed"] == seed)
        assert before["status"] == after["status"] == "ok"
        assert after["epistemic"] < 0.9 * before["epistemic"]
        assert after["epistemic_select"] < 0.9 * before["epistemic_select"]


REFUSED = [
    ({"model": "vit", "patch": 3}, 64, r"grid.patch: must divide the image.*patch=3, pixels=8"),
    ({"model": "resnet"}, 50, r"grid.model: resnet needs square images.*50 numbers"),
    ({"model": "vit", "heads": 3}, 64, r"grid.heads: must divide the width.*heads=3, width=8"),
    ({"model": "cnn", "depth": 0}, 64, r"grid.depth: `depth >= 1` must hold.*depth=0"),
]


@pytest.mark.parametrize(("grid", "dim", "told"), REFUSED)
def test_a_plan_with_an_impossible_shape_is_one_error_with_rule_and_values(grid, dim, told, memory_store):
    """Among shapes that can be built, too, and before anything is trained."""
    mixed = {**SMALL, **grid, "model": ["mlp", grid["model"]]}
    raw = {"name": "no", "experiment": "classifier", "grid": mixed, "world": {"kind": "gaussian", "dim": dim}}
    with pytest.raises(SweepError, match=told) as caught:
        make_plan(from_mapping(raw), memory_store, 1)
    assert "\n" not in str(caught.value)


# --- ensembles --------------------------------------------------------------------------------------------


def member_logits(world, seed, members, items, **grid):
    """Logits on the evaluation sample of runs that have the members' seeds, each alone in a pack."""
    own = member_seed(torch.full((members,), seed), torch.arange(members)).tolist()
    found = []
    for each in own:
        pack = runs_of(**grid, data_seed=seed, init_seed=each, order_seed=each, precision="float64")
        architecture = Architecture("mlp", world.dim, world.classes, 8, 1)
        stack = train(
            architecture.model(),
            initial_of(pack, architecture, "cpu"),
            batches_of(pack, world, LABELS, "cpu"),
            optimiser_of(pack, architecture, "cpu"),
            schedule_of(pack, "cpu"),
            legs("constant", [pack.observed[0].values("steps")[0]], 0.0),
        )
        (end,) = stack
        x = torch.from_numpy(world.sample(items, "eval", 1.0).x).double()
        found.append(forward(architecture.model(), end.parameters, x)[0].numpy())
    return np.stack(found)


def test_an_ensemble_is_scored_by_its_members_mean_probability():
    options = {"steps": 40, "n_train": 32, "lr": 0.1}
    rows = rows_of(members=3, seed=[0, 5], precision="float64", k=[1, 4], **options)
    sample = PLANE.sample(400, "eval", 1.0)
    r = np.exp(sample.log_posterior)
    for seed in (0, 5):
        logits = member_logits(PLANE, seed, 3, 400, **options)
        q = np.exp(logits - logits.max(-1, keepdims=True))
        q = (q / q.sum(-1, keepdims=True)).mean(0)
        row, many = (find(rows, seed=seed, k=k) for k in (1, 4))
        guess = q.argmax(-1)
        hit = r[np.arange(400), guess]
        kl = (r * (sample.log_posterior - np.log(q))).sum(-1)
        assert row["total"] == pytest.approx(-(r * np.log(q)).sum(-1).mean(), rel=1e-9)
        assert row["epistemic"] == pytest.approx(kl.mean(), rel=1e-9)
        assert row["epistemic_se"] == pytest.approx(kl.std(ddof=1) / 20, rel=1e-9)
        assert row["nll"] == pytest.approx(-np.log(q[np.arange(400), sample.y]).mean(), rel=1e-9)
        assert row["accuracy"] == pytest.approx((guess == sample.y).mean(), abs=1e-12)
        assert row["posterior_gap"] == pytest.approx(np.abs(q.max(-1) - hit).mean(), rel=1e-9)
        assert row["pass_at_k"] == pytest.approx(hit.mean(), rel=1e-9)
        assert many["pass_at_k"] == pytest.approx((1 - (1 - hit) ** 4).mean(), rel=1e-9)


def test_member_0_of_an_ensemble_is_the_run_without_one():
    """An ensemble of one is the run; and the ensemble at step 0 differs from it by its other members alone."""
    options = {"steps": [0, 20], "seed": [0, 5], "precision": "float64"}
    alone, three = rows_of(**options), rows_of(members=3, **options)
    for row in alone:
        logits = member_logits(PLANE, row["seed"], 3, 400, steps=row["steps"])
        sample = PLANE.sample(400, "eval", 1.0)
        log_q = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
        each = -(np.exp(sample.log_posterior) * log_q).sum(-1).mean(-1)
        assert row["total"] == pytest.approx(each[0], rel=1e-9)
        ensemble = find(three, seed=row["seed"], steps=row["steps"])["total"]
        assert ensemble < each.mean()  # Jensen
        assert ensemble != row["total"]


def test_members_are_distinct_and_share_their_data_alone():
    pack = runs_of(members=3, seed=[0, 5], steps=1, label_noise=0.5)
    architecture = Architecture("mlp", 2, 2, 8, 1)
    weight = initial_of(pack, architecture, "cpu")["layers.0.weight"]
    assert len({tuple(w.flatten().tolist()) for w in weight}) == 6
    batches = batches_of(pack, PLANE, LABELS, "cpu")
    assert len(batches) == 6
    assert batches.data_seed.tolist() == [0, 0, 0, 5, 5, 5]
    assert batches.seed_row.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(batches.order_seed.tolist())) == 6
    assert batches.order_seed[[0, 3]].tolist() == [0, 5]


def test_an_ensemble_with_one_diverged_member_is_a_diverged_run(monkeypatch):
    """Its lanes' neighbours are not."""
    from raysweep.experiments import lanes

    def spoiled(pack, architecture, device):
        found = initial_of(pack, architecture, device)
        found["layers.0.weight"][4] *= 1e30  # the second member of the second run
        return found

    plain = rows_of(members=3, seed=[0, 1, 2], steps=[0, 4, 8])
    monkeypatch.setattr(lanes, "initial_of", spoiled)
    rows = rows_of(members=3, seed=[0, 1, 2], steps=[0, 4, 8])
    for row in rows:
        if row["seed"] == 1 and row["steps"]:
            assert row["status"] == "diverged"
            assert row["error"].endswith("at step 0")
            assert all(row[n] is None for n in NAMES)
        elif row["seed"] != 1:
            near(row, find(plain, seed=row["seed"], steps=row["steps"]), rel=1e-5)


# --- divergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_when_most_runs_diverge_the_others_have_all_their_rows(schedule):
    """The stack shrinks; whoever is left is measured as alone."""
    lr = [0.02, 1e30, 1e31, 0.05, 1e32]
    options = {"schedule": schedule, "steps": [4, 8, 16], "k": [1, 2], "temperature": [1.0, 2.0], "depth": 2}
    rows = rows_of(lr=lr, **options)
    assert len(rows) == 5 * 2 * 3 * 2
    for row in rows:
        assert row["status"] == ("diverged" if row["lr"] > 1 else "ok")
        assert (row["total"] is None) == (row["lr"] > 1)
    for rate in (0.02, 0.05):
        for row in rows_of(lr=rate, **options):
            place = {name: row[name] for name in ("lr", "steps", "k", "temperature")}
            near(row, find(rows, **place), rel=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_when_all_runs_diverge_every_cell_still_has_its_row(schedule):
    rows = rows_of(lr=1e30, depth=2, schedule=schedule, steps=[4, 8, 16], k=[1, 2], seed=[0, 1])
    assert len(rows) == 3 * 2 * 2
    assert {row["status"] for row in rows} == {"diverged"}
    assert all(row["error"].startswith("loss not finite or above 1e6 nats at step ") for row in rows)


# --- evaluation samples -----------------------------------------------------------------------------------


def sizes_seen(**grid):
    """{steps: items evaluated}, from what it cost."""
    rows = rows_of(**grid)
    each = Architecture("mlp", 2, 2, 8, 1).layout.forward_flops
    seen = [row["flops_eval"] / each for row in rows]
    return {row["steps"]: s for row, s in zip(rows, np.diff(seen, prepend=0), strict=True)}


def test_a_snapshot_is_evaluated_on_a_share_of_the_items_trained_on_so_far():
    """A sixteenth of 16 a step is one a step: from an eighth of 400 up to all; half of it to select on."""
    found = sizes_seen(eval_share=0.0625, steps=[0, 30, 60, 150, 201, 500])
    assert found == {0: 50 + 25, 30: 50 + 25, 60: 60 + 30, 150: 150 + 75, 201: 201 + 101, 500: 400 + 200}
    assert sizes_seen(eval_share=0.05, steps=[73]) == {73: 59 + 30}  # 58.4 and 29.2, rounded up


def test_with_a_share_of_0_all_of_the_sample_is_used():
    assert sizes_seen(eval_share=0.0, steps=[0, 30]) == {0: 600, 30: 600}


def test_a_part_of_the_sample_estimates_the_whole_within_its_standard_error():
    options = {"eval_items": 4096, "select_items": 2048, "steps": [0, 40, 200], "seed": [0, 1]}
    part, whole = (rows_of(eval_share=share, **options) for share in (0.25, 0.0))
    for a, b in zip(part, whole, strict=True):
        used = min(4096, max(512, 4 * a["steps"]))
        assert abs(a["epistemic"] - b["epistemic"]) < 5 * a["epistemic_se"]
        assert a["epistemic"] != b["epistemic"]
        ratio = a["epistemic_se"] / b["epistemic_se"]
        assert ratio == pytest.approx((4096 / used) ** 0.5, rel=0.35)  # it says how small its sample was
        assert abs(a["total"] - a["aleatoric"] - a["epistemic"]) < 1e-12  # on its own items
