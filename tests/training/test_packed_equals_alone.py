"""The contract of a pack, for every model, optimiser and schedule: a lane is trained as if it were alone."""

import itertools
from dataclasses import replace

import pytest
import torch
from training.packs import FIVE, OPTIMISERS, equal, largest_gap, start_of, trained

from raysweep.models import Architecture

SCHEDULES = ("constant", "wsd", "cosine")
MLPS = [
    Architecture("mlp", 3, 4, 8, 3),
    Architecture("mlp", 3, 4, 8, 0),
    Architecture("mlp", 3, 4, 8, 2, "gelu", base_width=4),
    Architecture("mlp", 3, 4, 8, 1, "tanh"),
]
IMAGES = [
    Architecture("cnn", 64, 4, 4, 2, "gelu"),
    Architecture("cnn", 192, 3, 3, 1),
    Architecture("resnet", 64, 4, 4, 1),
    Architecture("vit", 64, 4, 8, 1, "gelu", patch=4, heads=2, base_width=4),
    Architecture("vit", 256, 4, 4, 1, "tanh", patch=8, heads=1),
    Architecture("convnext", 64, 4, 4, 1, "gelu", patch=2),
    Architecture("swin", 64, 4, 4, 2, "gelu", patch=1, heads=1, base_width=2),
    Architecture("mobilenet", 64, 4, 4, 1),
]
FEW = [MLPS[0], IMAGES[0], IMAGES[2], IMAGES[3]]
OTHERS = [a for a in (*MLPS, *IMAGES) if a not in FEW]
EVERYONE = list(range(5))
PARTS = ([4, 1], [3, 0], [2])  # other neighbours, other places, packs of 2 and of 1


def name_of(a):
    return f"{a.kind}{a.inputs}-{a.depth}-{a.activation}"


kinds = pytest.mark.parametrize("architecture", [*MLPS, *IMAGES], ids=name_of)
few = pytest.mark.parametrize("architecture", FEW, ids=name_of)
optimisers = pytest.mark.parametrize("optimiser", OPTIMISERS)


def of(lanes, last=None):
    """These lanes; with a horizon, all have it."""
    return [FIVE[i] if last is None else replace(FIVE[i], horizon=last) for i in lanes]


def check(architecture, parts, steps, tolerance, **options):
    """Each lane of the pack of five is at `steps` what it is in smaller packs."""
    together = trained(architecture, of(EVERYONE, steps), [steps // 2, steps], **options)[steps]
    for part in parts:
        apart = trained(architecture, of(part, steps), [steps], **options)[steps]
        for place, i in enumerate(part):
            assert largest_gap(together.of(i), apart.of(place)) < tolerance, i
    return together


# A leak between lanes shows at once; rounding is what needs the longer trainings below.
@pytest.mark.parametrize(
    ("architecture", "optimiser", "schedule"),
    [
        *itertools.product(FEW, OPTIMISERS, SCHEDULES),
        *((a, *pair) for a in OTHERS for pair in zip(OPTIMISERS, SCHEDULES, strict=True)),
    ],
    ids=lambda v: name_of(v) if isinstance(v, Architecture) else v,
)
def test_packs_of_5_2_and_1_agree_in_float64(architecture, optimiser, schedule):
    steps = 12 if architecture.kind == "mlp" else 4
    check(architecture, PARTS, steps, 1e-9, optimiser=optimiser, schedule=schedule, batch=4)


@pytest.mark.parametrize(("optimiser", "schedule"), [*zip(OPTIMISERS, SCHEDULES, strict=True)])
def test_an_mlp_is_itself_to_1e_9_after_200_steps(optimiser, schedule):
    check(MLPS[0], ([2], [4]), 200, 1e-9, optimiser=optimiser, schedule=schedule)


@pytest.mark.parametrize(
    ("architecture", "optimiser"),
    list(zip(FEW[1:], ("adamw", "nesterov", "sgd"), strict=True)),
    ids=("cnn", "resnet", "vit"),
)
def test_an_image_model_is_itself_to_1e_9_after_40_steps(architecture, optimiser):
    check(architecture, ([2],), 40, 1e-9, optimiser=optimiser, batch=4)


@optimisers
@few
def test_packed_equals_alone_in_float32_to_1e_4_at_step_10(architecture, optimiser):
    together = check(architecture, ([4],), 10, 1e-4, optimiser=optimiser, dtype=torch.float32, batch=4)
    assert {p.dtype for p in together.parameters.values()} == {torch.float32}


@pytest.mark.parametrize("architecture", [*IMAGES[:3], IMAGES[5], IMAGES[7]], ids=name_of)
def test_grouped_convolutions_train_a_pack_alike(architecture):
    one = trained(architecture, FIVE, [6], conv="grouped", batch=4)[6]
    other = trained(architecture, FIVE, [6], conv="loop", batch=4)[6]
    assert largest_gap(one.parameters, other.parameters) < 1e-9


@pytest.mark.parametrize(
    ("architecture", "optimiser"),
    [*itertools.product([*MLPS, *IMAGES], ["sgd"]), *itertools.product(FEW, OPTIMISERS[1:])],
    ids=lambda v: name_of(v) if isinstance(v, Architecture) else v,
)
def test_every_parameter_of_every_lane_with_a_rate_moves_and_of_the_others_none(architecture, optimiser):
    ends = trained(architecture, FIVE, [0, 4], optimiser, batch=16)
    for name, p in ends[4].parameters.items():
        moved = (p - ends[0].parameters[name]).abs().flatten(1).amax(1) > 0
        assert moved.tolist() == [lane.lr > 0 for lane in FIVE], name


@kinds
def test_step_0_is_the_initial_state(architecture):
    end = trained(architecture, FIVE, [0])[0]
    assert equal(end.parameters, start_of(architecture, FIVE, torch.float64))
    assert end.lanes == EVERYONE
    assert end.diverged == [-1] * 5


@optimisers
@few
def test_a_snapshot_is_the_end_of_a_shorter_run_exactly(architecture, optimiser):
    both = trained(architecture, FIVE, [4, 7], optimiser, batch=4)
    for steps in (4, 7):
        assert equal(trained(architecture, FIVE, [steps], optimiser, batch=4)[steps].parameters, both[steps].parameters)


@optimisers
@few
def test_a_branch_off_a_long_trunk_is_the_end_of_a_run_of_that_time_exactly(architecture, optimiser):
    """Whatever branches came before it and come after it."""
    options = {"optimiser": optimiser, "schedule": "wsd", "decay": 0.4, "batch": 4}
    times = [0, 1, 4, 7]
    trunk = trained(architecture, FIVE, times, **options)
    assert list(trunk) == times
    for steps in times:
        alone = trained(architecture, FIVE, [steps], **options)[steps]
        assert equal(alone.parameters, trunk[steps].parameters), steps


@optimisers
@pytest.mark.parametrize("architecture", MLPS[:1], ids=name_of)
def test_without_a_decay_wsd_is_the_constant_rate(architecture, optimiser):
    still = trained(architecture, FIVE, [3, 5], optimiser, "wsd", decay=0.0, batch=4)
    constant = trained(architecture, FIVE, [3, 5], optimiser, "constant", batch=4)
    assert all(equal(still[t].parameters, constant[t].parameters) for t in (3, 5))


def test_a_decay_changes_the_end():
    """So the two tests above compare something."""
    ends = [trained(MLPS[0], FIVE, [9], "sgd", "wsd", decay=d)[9] for d in (0.0, 0.4, 1.0)]
    gaps = [largest_gap(ends[0].parameters, end.parameters) for end in ends[1:]]
    assert 1e-3 < gaps[0] < gaps[1]


@optimisers
@few
def test_under_cosine_a_lanes_end_does_not_depend_on_other_lanes_horizons(architecture, optimiser):
    """Lanes end at 3, 9, 5, 9, 7: each is read at its own end, whatever goes on, or went on, around it."""
    ends = (3, 9, 5, 9, 7)
    lanes = [replace(lane, horizon=end) for lane, end in zip(FIVE, ends, strict=True)]
    options = {"optimiser": optimiser, "schedule": "cosine", "batch": 4}
    found = trained(architecture, lanes, sorted(set(ends)), **options)
    for i, end in enumerate(ends):
        alone = trained(architecture, [lanes[i]], [end], **options)[end]
        assert largest_gap(found[end].of(i), alone.of(0)) < 1e-9, i
    # A lane that has passed its end rests while it is still in the stack.
    assert equal(found[3].of(0), found[5].of(0))
    assert not equal(found[3].of(1), found[5].of(1))
