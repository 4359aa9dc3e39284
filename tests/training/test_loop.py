"""The loop: torch's own training on the same batches; lanes that fail are frozen, and the stack shrinks."""

import math
from dataclasses import replace

import pytest
import torch
from models.reference import load, reference_of, to_torch
from training.packs import FIVE, OPTIMISERS, Lane, batches_of, equal, largest_gap, optimiser_of, start_of, trained

from raysweep.models import Architecture
from raysweep.training.legs import Leg
from raysweep.training.loop import forward, train
from raysweep.training.loss import CROSS_ENTROPY
from raysweep.training.optim import Optimiser
from raysweep.training.schedule import Schedule

MLP = Architecture("mlp", 3, 4, 8, 2)
SMALL = [
    MLP,
    Architecture("cnn", 64, 4, 4, 2, "tanh"),
    Architecture("resnet", 64, 4, 4, 1),
    Architecture("vit", 64, 4, 8, 1, "gelu", patch=4, heads=2),
]
EVERYONE = list(range(5))
BOUND = CROSS_ENTROPY.bound
optimisers = pytest.mark.parametrize("optimiser", OPTIMISERS)


def theirs_of(lane, parameters, kind):
    if kind == "adamw":
        betas = (lane.beta1, lane.beta2)
        return torch.optim.AdamW(parameters, lane.lr, betas, lane.eps, weight_decay=lane.weight_decay)
    # torch refuses Nesterov without momentum, where it is plain SGD.
    nesterov = kind == "nesterov" and lane.momentum > 0
    return torch.optim.SGD(parameters, lane.lr, lane.momentum, weight_decay=lane.weight_decay, nesterov=nesterov)


def follow(architecture, lane, kind, steps, batch=8):
    """A plain module under torch's own optimiser, clipping and warm-up, on the lane's batches."""
    module = load(
        reference_of(architecture), {n: p[0] for n, p in start_of(architecture, [lane], torch.float64).items()}
    )
    optimiser = theirs_of(lane, module.parameters(), kind)
    batches = batches_of(architecture, [lane], torch.float64, batch)
    for step in range(steps):
        x, target = (part[0] for part in batches.at(torch.tensor(step)))
        optimiser.param_groups[0]["lr"] = lane.lr * min(1.0, (step + 1) / max(lane.warmup, 1))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x), target).backward()
        if math.isfinite(lane.clip):
            torch.nn.utils.clip_grad_norm_(module.parameters(), lane.clip)
        optimiser.step()
    return dict(module.named_parameters())


@optimisers
def test_a_lane_is_torchs_own_optimiser_on_the_same_batches(optimiser):
    steps = 200 if optimiser == "sgd" else 30
    ends = trained(MLP, FIVE, [steps], optimiser)[steps]
    for i, lane in enumerate(FIVE):
        assert largest_gap(to_torch(ends.of(i)), follow(MLP, lane, optimiser, steps)) < 1e-9, i


@optimisers
@pytest.mark.parametrize("architecture", SMALL[1:], ids=lambda a: a.kind)
def test_every_model_follows_torch_through_its_own_module(architecture, optimiser):
    """Lane 4: clipped, decaying, warmed up, with momentum and all noises."""
    end = trained(architecture, FIVE[3:], [12], optimiser, batch=4)[12]
    assert largest_gap(to_torch(end.of(1)), follow(architecture, FIVE[4], optimiser, 12, batch=4)) < 1e-9


def test_clipping_binds_somewhere_and_not_everywhere():
    """So the tests above see both sides of it."""
    batches, stack = batches_of(MLP, FIVE, torch.float64), start_of(MLP, FIVE, torch.float64)
    norms = []
    for step in range(20):
        p = {name: value.clone().requires_grad_() for name, value in stack.items()}
        x, target = batches.at(torch.tensor(step))
        loss = torch.nn.functional.cross_entropy(MLP.model()(p, x).transpose(1, 2), target.transpose(1, 2))
        gradients = torch.autograd.grad(loss * len(FIVE), list(p.values()))
        norms.append(sum(g.flatten(1).square().sum(1) for g in gradients).sqrt())
    above = torch.stack(norms) > torch.tensor([lane.clip for lane in FIVE])
    assert 0 < above[:, [2, 4]].double().mean() < 1
    assert not above[:, :2].any()


def test_float32_follows_float64_at_step_10():
    single, double = (trained(MLP, FIVE, [10], dtype=dtype)[10] for dtype in (torch.float32, torch.float64))
    assert largest_gap(single.parameters, double.parameters) < 1e-4


@pytest.mark.parametrize("architecture", SMALL, ids=lambda a: a.kind)
def test_bf16_activations_train_float32_parameters_near_float32(architecture):
    plain, rough = (
        trained(architecture, FIVE, [3], dtype=torch.float32, compute=c, batch=16)[3] for c in (None, torch.bfloat16)
    )
    start = start_of(architecture, FIVE, torch.float32)
    for i, lane in enumerate(FIVE):
        went, meant = (torch.cat([(end.of(i)[n] - start[n][i]).reshape(-1) for n in start]) for end in (rough, plain))
        whole = torch.cat([p.reshape(-1) for p in plain.of(i).values()])
        assert went.dtype == torch.float32
        assert (went - meant).norm() <= 3e-2 * whole.norm()
        if lane.lr:
            assert 0 < (went - meant).norm() < 0.5 * meant.norm()  # of how far it went, not of where it is


@pytest.mark.parametrize(
    ("architecture", "optimiser"),
    [(SMALL[0], "nesterov"), (SMALL[1], "adamw"), (SMALL[2], "sgd"), (SMALL[3], "adamw")],
    ids=["mlp", "cnn", "resnet", "vit"],
)
def test_training_lowers_the_loss_on_the_lanes_own_items(architecture, optimiser):
    lanes = [Lane(seed=i, data_seed=i, n=16, lr=lr, momentum=0.5) for i, lr in enumerate((0.003, 0.0, 0.01))]
    ends = trained(architecture, lanes, [0, 60], optimiser)
    x, target = batches_of(architecture, lanes, torch.float64, 64).at(torch.tensor(10**6))

    def loss(end):
        log_q = torch.log_softmax(architecture.model()(end.parameters, x), -1)
        return -(target * log_q).sum(-1).mean(-1)

    assert (loss(ends[60]) < loss(ends[0])).tolist() == [True, False, True]


def test_forward_stacks_the_modules_own_outputs():
    stack = start_of(MLP, FIVE, torch.float64)
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = forward(MLP.model(), stack, x)
    assert logits.shape == (5, 7, 4)
    for i in EVERYONE:
        module = load(reference_of(MLP), {name: p[i] for name, p in stack.items()})
        torch.testing.assert_close(logits[i], module(x).detach(), rtol=1e-12, atol=1e-12)


# --- lanes that diverge -----------------------------------------------------------------------------------

EIGHT = [Lane(seed=i, data_seed=i, n=40, lr=0.02, momentum=0.5, soft=bool(i % 2)) for i in range(8)]


@optimisers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("architecture", [SMALL[0], SMALL[3]], ids=lambda a: a.kind)
def test_lane_3_of_8_diverges_and_the_others_equal_their_solo_runs(architecture, dtype, optimiser):
    lanes = [replace(lane, lr=1e30) if i == 3 else lane for i, lane in enumerate(EIGHT)]
    steps = 25 if architecture.kind == "mlp" else 6
    end = trained(architecture, lanes, [4, steps], optimiser, dtype=dtype)[steps]
    assert [d >= 0 for d in end.diverged] == [i == 3 for i in range(8)]
    assert 0 < end.diverged[3] <= 3
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for i in (0, 2, 4, 7):
        alone = trained(architecture, [lanes[i]], [steps], optimiser, dtype=dtype)[steps]
        assert largest_gap(end.of(i), alone.of(0)) < tolerance
    calm = trained(architecture, EIGHT, [steps], optimiser, dtype=dtype)[steps]
    assert all(equal(end.of(i), calm.of(i)) for i in range(8) if i != 3)  # bit by bit


@optimisers
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_lane_stays_for_ever_as_it_was_when_its_loss_failed(dtype, weight_decay, optimiser):
    """The loss at step `at` is what failed, so `at` updates were done, and no more."""
    lanes = [EIGHT[0], EIGHT[1], replace(EIGHT[2], lr=1e4, momentum=0.9, weight_decay=weight_decay, clip=1e9)]
    (at,) = [d for d in trained(MLP, lanes, [30], optimiser, dtype=dtype)[30].diverged if d >= 0]
    ends = trained(MLP, lanes, [at, at + 1, at + 2, at + 12], optimiser, dtype=dtype)
    assert ends[at].diverged == [-1, -1, -1]
    assert all(ends[t].diverged == [-1, -1, at] for t in (at + 1, at + 2, at + 12))
    assert all(equal(ends[t].of(2), ends[at].of(2)) for t in (at + 1, at + 2, at + 12))
    assert not equal(ends[at + 12].of(0), ends[at].of(0))


@optimisers
def test_a_lane_with_infinite_moments_stays_as_it_was(optimiser):
    """Its gradient overflowed while its loss was still finite: zero times what is left of it would be NaN."""
    parameters = {"w": torch.tensor([[1.0, 2.0], [1.0, 2.0]])}
    still = [torch.full((2,), v) for v in (0.1, 0.9, 0.9, 0.99, 1e-8)]
    o = Optimiser(optimiser, *still, weight_decay=torch.full((2,), 0.1))
    state = o.state(parameters)
    for moment in state.values():
        moment["w"][1] = math.inf
    dead = torch.tensor([False, True])
    for step in range(3):
        g = {"w": torch.tensor([[0.5, 0.5], [math.nan, math.inf]])}
        o.step(parameters, g, state, o.lr, dead, torch.tensor(step))
    assert parameters["w"][1].tolist() == [1.0, 2.0]
    assert (parameters["w"][0] < torch.tensor([1.0, 2.0])).all()


@pytest.mark.parametrize(("loss", "fails"), [(0.9 * BOUND, False), (1.1 * BOUND, True), (math.nan, True)])
def test_a_loss_above_a_million_nats_counts_as_infinite(loss, fails):
    """Two classes, logits (w, 0), label 1: the loss is w."""
    lanes = [Lane(lr=0.0), Lane(lr=0.0)]
    batches = replace(
        batches_of(Architecture("mlp", 1, 2, 1, 0), lanes, torch.float64, 2),
        x=torch.ones(600, 1, dtype=torch.float64),
        targets=torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(1200, 2).contiguous(),
    )

    def model(p, x):
        return torch.cat([p["w"][:, None] * x, 0 * x], -1)

    p = {"w": torch.tensor([[1.0], [loss]], dtype=torch.float64)}
    zero = torch.zeros(2, dtype=torch.float64)
    optimiser = Optimiser("sgd", zero, zero, zero, zero, zero)
    schedule = Schedule.make("constant", torch.zeros(2), torch.zeros(2))
    (end,) = train(model, p, batches, optimiser, schedule, [Leg(3, True)])
    assert end.diverged_at.tolist() == [-1, 0 if fails else -1]


def test_a_branch_that_fails_does_not_end_its_trunk():
    """The failure belongs to the branch: the trunk is as it was, and later times are read from it."""
    seen = []

    def model(p, x):
        seen.append(len(x))
        out = MLP.model()(p, x)
        # The sixth call is the second step of the first branch.
        return torch.where(torch.arange(len(x))[:, None, None] == 1, torch.nan, out) if len(seen) == 6 else out

    legs = [Leg(4, False), Leg(7, True, decay=True), Leg(9, False), Leg(12, True, decay=True)]
    options = (batches_of(MLP, EIGHT[:3], torch.float64), optimiser_of(MLP, EIGHT[:3], torch.float64, "sgd"))
    ends = {}
    for m in (model, MLP.model()):
        schedule = Schedule.make("wsd", torch.zeros(3), torch.zeros(3))
        found = []
        for s in train(m, start_of(MLP, EIGHT[:3], torch.float64), *options, schedule, legs):
            found.append(({n: p.clone() for n, p in s.parameters.items()}, s.diverged_at.tolist()))
        ends[m is model] = found
    assert [d for _, d in ends[True]] == [[-1, 5, -1], [-1, -1, -1]]
    assert [d for _, d in ends[False]] == [[-1, -1, -1]] * 2
    assert equal(ends[True][1][0], ends[False][1][0])
    for lane in (0, 2):
        assert all(torch.equal(p[lane], ends[False][0][0][n][lane]) for n, p in ends[True][0][0].items())


# --- compaction -------------------------------------------------------------------------------------------


@optimisers
@pytest.mark.parametrize("schedule", ["constant", "wsd"])
def test_once_half_of_the_lanes_failed_the_stack_shrinks_and_the_rest_go_on(schedule, optimiser):
    bad = [0, 3, 4, 6]
    lanes = [replace(lane, lr=1e30) if i in bad else lane for i, lane in enumerate(EIGHT)]
    times = [5, 12, 20]
    ends = trained(MLP, lanes, times, optimiser, schedule)
    left = [i for i in range(8) if i not in bad]
    assert ends[5].lanes == list(range(8))  # it shrinks at a snapshot, after it was read
    assert ends[12].lanes == ends[20].lanes == left
    for t in times:
        assert [d >= 0 for d in ends[t].diverged] == [i in bad for i in range(8)]
        for i in left:
            assert largest_gap(ends[t].of(i), trained(MLP, [lanes[i]], [t], optimiser, schedule)[t].of(0)) < 1e-9
    assert ends[5].diverged == ends[20].diverged


def test_a_lane_that_fails_in_a_stack_that_shrank_has_its_step():
    """The loss of the last lane is spoiled after 12 updates; the stack shrank after 5."""
    lanes = [replace(lane, lr=1e30) if i < 4 else lane for i, lane in enumerate(EIGHT)]
    calls = []

    def model(p, x):
        calls.append(len(x))
        out = MLP.model()(p, x)
        last = torch.arange(len(x))[:, None, None] == len(x) - 1
        return torch.where(last, torch.nan, out) if len(calls) == 13 else out

    batches, optimiser = batches_of(MLP, lanes, torch.float64), optimiser_of(MLP, lanes, torch.float64, "sgd")
    schedule = Schedule.make("constant", torch.zeros(8), torch.zeros(8))
    legs = [Leg(5, True), Leg(20, True)]
    ends = [
        s.diverged_at.tolist()
        for s in train(model, start_of(MLP, lanes, torch.float64), batches, optimiser, schedule, legs)
    ]
    assert calls == [8] * 5 + [4] * 15
    assert ends[-1][4:] == [-1, -1, -1, 12]
    assert 0 < min(ends[-1][:4]) <= max(ends[-1][:4]) < 5


def test_fewer_failures_leave_the_stack_as_it_is():
    lanes = [replace(lane, lr=1e30) if i < 3 else lane for i, lane in enumerate(EIGHT)]
    assert trained(MLP, lanes, [5, 12])[12].lanes == list(range(8))


@pytest.mark.parametrize("schedule", ["cosine", "drop"])
def test_the_stack_shrinks_again_when_half_of_what_is_left_is_done(schedule):
    ends = [3, 3, 3, 3, 6, 6, 9, 12]
    lanes = [replace(lane, horizon=end) for lane, end in zip(EIGHT, ends, strict=True)]
    found = trained(MLP, lanes, [3, 6, 9, 12], "adamw", schedule)
    assert [found[t].lanes for t in (3, 6, 9, 12)] == [list(range(8)), [4, 5, 6, 7], [6, 7], [7]]
    for i, end in enumerate(ends):
        alone = trained(MLP, [lanes[i]], [end], "adamw", schedule)[end]
        assert largest_gap(found[end].of(i), alone.of(0)) < 1e-9


@optimisers
@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_when_all_lanes_failed_later_snapshots_still_come_and_are_empty(schedule, optimiser):
    lanes = [replace(lane, lr=1e30, horizon=20) for lane in EIGHT[:3]]
    ends = trained(MLP, lanes, [6, 15, 20], optimiser, schedule)
    assert list(ends) == [6, 15, 20]
    assert ends[6].lanes == [0, 1, 2]
    assert ends[15].lanes == ends[20].lanes == []
    assert all(len(p) == 0 for p in ends[20].parameters.values())
    assert ends[6].diverged == ends[15].diverged == ends[20].diverged
    assert min(ends[20].diverged) > 0


def test_initial_parameters_are_the_callers_and_are_trained_in_place():
    start = start_of(MLP, EIGHT[:2], torch.float64)
    before = {n: p.clone() for n, p in start.items()}
    batches, optimiser = batches_of(MLP, EIGHT[:2], torch.float64), optimiser_of(MLP, EIGHT[:2], torch.float64, "sgd")
    schedule = Schedule.make("constant", torch.zeros(2), torch.zeros(2))
    (end,) = train(MLP.model(), start, batches, optimiser, schedule, [Leg(3, True)])
    assert all(torch.equal(end.parameters[n], p.detach()) for n, p in start.items())
    assert all(not p.requires_grad for p in end.parameters.values())
    assert not equal(end.parameters, before)
