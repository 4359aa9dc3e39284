"""Attacks on inputs: closed forms for linear models, stacks, chunks, the error under each attack."""

import math

import pytest
import torch

from raysweep.errors import MetricError
from raysweep.metrics.attacks import fgsm, flipped, pgd
from raysweep.metrics.complexity import complexity
from raysweep.metrics.robustness import FGSM, PGD, Flips, attacked_errors
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.training.graph import Repeated
from raysweep.training.loss import CROSS_ENTROPY, LOGISTIC, SQUARE

LANES, ITEMS, INPUTS, CLASSES = 3, 40, 16, 4
LINEAR = Architecture("mlp", INPUTS, 1, 1, 0)
NET = Architecture("mlp", INPUTS, CLASSES, 6, 1, "tanh")
CNN = Architecture("cnn", INPUTS, CLASSES, 2, 1)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ATTACKS = {"clean": None, "fgsm": FGSM(0.1), "pgd": PGD(0.1, steps=4), "flips": Flips(0.3, seed=2)}


def case(architecture, dtype=torch.float64):
    """A model, its stack, items inside [-0.9, 0.9] and classes."""
    draw = torch.Generator().manual_seed(0)
    start = initial_parameters(architecture, torch.arange(LANES), torch.float64, "cpu")
    own = {n: (3 * p + torch.randn(p.shape, generator=draw) / 3).to(dtype) for n, p in start.items()}
    x = (1.8 * torch.rand(ITEMS, INPUTS, generator=draw, dtype=torch.float64) - 0.9).to(dtype)
    return architecture.model(), own, x, torch.randint(0, architecture.outputs, (ITEMS,), generator=draw)


def losses(model, own, x, classes, loss=CROSS_ENTROPY):
    """[lanes, items] the loss of every item."""
    outputs = model(own, x)
    targets = torch.eye(CLASSES, dtype=x.dtype)[classes].expand_as(outputs)
    each = [loss.value_and_gradient(outputs[:, i : i + 1], targets[:, i : i + 1])[0] for i in range(x.shape[1])]
    return torch.stack(each, 1)


@pytest.mark.parametrize("loss", [SQUARE, LOGISTIC], ids=lambda loss: loss.name)
def test_fgsm_and_pgd_are_exact_on_linear_models(loss):
    """The worst change within eps moves w x + b by eps |w|_1, so that items of a smaller margin are wrong."""
    model, own, x, _ = case(LINEAR)
    weight, bias, eps = own["layers.0.weight"][:, 0], own["layers.0.bias"], 0.07
    y = (x.sum(1, keepdim=True) + 0.1).sign()
    targets = 50 * y if loss is SQUARE else y  # far away: the square loss falls towards the target
    margin = (weight @ x.T + bias) * y[:, 0]
    for attacked in (
        fgsm(model, own, x, targets, eps, loss=loss),
        pgd(model, own, x, targets, eps, 5, loss=loss),
        pgd(model, own, x, targets, eps, 3, eps, seed=1, loss=loss),  # 3 steps reach the worst corner from anywhere
    ):
        torch.testing.assert_close(attacked, (x - eps * y * weight.sign()[:, None]).expand(LANES, -1, -1))
        after = model(own, attacked)[..., 0] * y[:, 0]
        torch.testing.assert_close(after, margin - eps * weight.abs().sum(1, keepdim=True))
    found = attacked_errors(model, own, x, targets, {"clean": None, "fgsm": FGSM(eps, loss=loss)})
    wrong = margin < eps * weight.abs().sum(1, keepdim=True)
    assert torch.equal(found["clean"], (margin < 0).double().mean(1))
    torch.testing.assert_close(found["fgsm"], wrong.double().mean(1))
    torch.testing.assert_close(found["fgsm_se"], wrong.double().std(1) / ITEMS**0.5)
    assert (found["fgsm"] > found["clean"]).all()


def test_more_steps_raise_a_convex_loss_further():
    """Softmax of a linear model: convex in x. The sign of the gradient at x is not the worst corner, so steps help."""
    model, own, x, classes = case(Architecture("mlp", INPUTS, CLASSES, 1, 0))
    start, eps = x.expand(LANES, -1, -1), 0.3
    clean = losses(model, own, start, classes)
    once = losses(model, own, fgsm(model, own, x, classes, eps), classes)
    one_step = pgd(model, own, x, classes, eps, steps=1, step_size=eps)
    assert torch.equal(one_step, fgsm(model, own, x, classes, eps))
    often = losses(model, own, pgd(model, own, x, classes, eps, steps=20), classes)
    assert (once > clean).all()
    assert (often >= once - 1e-9).all()
    assert (often > once + 1e-6).any()


@pytest.mark.parametrize("seed", [None, 3])
def test_changes_stay_within_eps_and_the_range(seed):
    model, own, x, classes = case(NET)
    eps = torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
    for attacked in (
        fgsm(model, own, x, classes, eps),
        pgd(model, own, x, classes, eps, steps=3, seed=seed),
    ):
        far = (attacked - x).abs().amax((1, 2))
        assert far[0] == 0
        torch.testing.assert_close(far[1:], eps[1:])
        assert attacked.abs().max() == 1  # clipped
        assert not attacked.requires_grad
    free = fgsm(model, own, x, classes, 0.5, float("-inf"), float("inf"))
    torch.testing.assert_close((free - x).abs(), torch.full_like(free, 0.5))


def test_confident_items_in_float32_have_the_direction_of_float64():
    """Beyond 17 nats, 1 - q of the own class is 0 in float32, and its weights would leave the gradient."""
    model, own, x, _ = case(Architecture("mlp", INPUTS, CLASSES, 1, 0), torch.float32)
    own = {n: 20 * p for n, p in own.items()}
    classes = model(own, x.expand(LANES, -1, -1)).argmax(-1)
    assert (torch.softmax(model(own, x.expand(LANES, -1, -1)), -1).amax(-1) == 1).double().mean() > 0.2
    precise = fgsm(model, {n: p.double() for n, p in own.items()}, x.double(), classes, 0.05)
    share = (fgsm(model, own, x, classes, 0.05) - precise).abs().amax(-1) < 1e-6
    assert share.double().mean() > 0.95


def test_random_starts_are_uniform_in_the_ball_and_differ_between_seeds():
    model, own, x, classes = case(NET)
    starts = [pgd(model, own, 0 * x, classes, 0.4, 1, 0.0, seed=s)[0] for s in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert starts[0].mean().abs() < 0.03
    assert starts[0].var().item() == pytest.approx(0.4**2 / 3, rel=0.1)


def test_flips_change_signs_at_their_share_and_are_nested():
    x = torch.rand(2000, INPUTS, generator=torch.Generator().manual_seed(0)) * 2 - 1
    few, many = flipped(x, 0.1, seed=4) != x, flipped(x, 0.3, seed=4) != x
    assert few.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert many.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (many | ~few).all()
    assert torch.equal(flipped(x, 0.3, seed=4)[many], -x[many])
    assert torch.equal(flipped(x, 1.0), -x)
    assert torch.equal(flipped(x, 0.0), x)
    torch.testing.assert_close(flipped(x / 2 + 0.5, 1.0, middle=0.5), 0.5 - x / 2)
    shares = torch.tensor([0.0, 1.0])
    assert torch.equal(flipped(x, shares), torch.stack([x, -x]))


@pytest.mark.parametrize("architecture", [NET, CNN], ids=str)
def test_a_stack_is_attacked_as_its_lanes_alone_in_passes_of_any_size(architecture):
    model, own, x, classes = case(architecture)
    packed = attacked_errors(model, own, x, classes, ATTACKS)
    assert (packed["pgd"] >= packed["clean"]).all()
    assert (packed["pgd"] > packed["clean"]).any()
    for chunk in (1, 7, 70, 1000):
        found = attacked_errors(model, own, x, classes, ATTACKS, chunk)
        assert all(torch.equal(found[name], packed[name]) for name in packed)
    one_hot = torch.eye(CLASSES, dtype=x.dtype)[classes]
    for again in (
        attacked_errors(model, own, x.expand(LANES, -1, -1), classes.expand(LANES, -1), ATTACKS, 70),
        attacked_errors(model, own, x, one_hot.expand(LANES, -1, -1), ATTACKS, 70),
        attacked_errors(model, own, x, one_hot, ATTACKS),
    ):
        assert all(torch.equal(again[name], packed[name]) for name in packed)
    for lane in range(LANES):
        alone = {n: p[lane : lane + 1] for n, p in own.items()}
        found = attacked_errors(model, alone, x, classes, ATTACKS)
        assert all(found[name][0] == packed[name][lane] for name in packed)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_a_training_step_may_attack_its_batch(device):
    """A repeated step, on a GPU a captured one, whose parameters train and whose seeds are tensors; no gradient passes
    through the attack."""
    model, own, x, classes = case(NET)
    own, x, classes = {n: p.to(device) for n, p in own.items()}, x.to(device), classes.to(device)
    own = {n: p.requires_grad_() for n, p in own.items()}
    step, batch = torch.zeros((), dtype=torch.int64, device=device), x.expand(LANES, -1, -1)
    targets = torch.eye(CLASSES, dtype=x.dtype, device=device)[classes].expand(LANES, -1, -1)
    seeds, last = torch.arange(LANES, device=device), torch.zeros(LANES, dtype=x.dtype, device=device)

    def update():
        attacked = pgd(model, own, batch, targets, 0.1, 2, seed=seeds + LANES * step)
        outputs = model(own, flipped(attacked, 0.01, seeds + LANES * step))
        value, downstream = CROSS_ENTROPY.value_and_gradient(outputs.detach(), targets)
        gradients = torch.autograd.grad(outputs, list(own.values()), downstream)
        with torch.no_grad():
            for p, g in zip(own.values(), gradients, strict=True):
                p -= 0.3 * g
            step.add_(1)
            last.copy_(value)

    before = attacked_errors(model, own, x, classes, {"fgsm": FGSM(0.1)})["fgsm"]
    run = Repeated(update, device)
    run(1)
    first = last.clone()
    run(60)
    assert step == 61
    after = attacked_errors(model, own, x, classes, {"fgsm": FGSM(0.1)})["fgsm"]
    assert (after < before).all()
    assert (last < first).all()


def test_lanes_that_diverged_have_no_error_and_classes_need_outputs():
    model, own, x, classes = case(NET)
    own["layers.1.bias"][1] = torch.nan
    found = attacked_errors(model, own, x, classes, ATTACKS)
    for name in found:
        assert found[name].isnan().tolist() == [False, True, False]
    linear, stack, _, _ = case(LINEAR)
    with pytest.raises(MetricError, match=r"one output must have real targets.*int64"):
        fgsm(linear, stack, x, classes, 0.1)
    with pytest.raises(MetricError, match="steps >= 1"):
        pgd(model, own, x, classes, 0.1, steps=0)
    with pytest.raises(MetricError, match=r"n >= 1.*n=0"):
        attacked_errors(model, own, x[:0], classes[:0], ATTACKS)


def test_classes_that_are_no_outputs_are_refused():
    weight, x, y = torch.eye(3)[None], torch.eye(3), torch.tensor([0, 1, 2])

    def model(p, x):
        return x @ p["w"].transpose(1, 2)

    own = {"w": weight}
    assert attacked_errors(model, own, x, y, {"clean": None})["clean"].item() == 0
    for wrong, got in ((y + 7, "from 7 to 9"), (y - 1, "from -1 to 1")):
        said = rf"0 <= class < 3.*{got}"
        with pytest.raises(MetricError, match=said):
            attacked_errors(model, own, x, wrong, {"clean": None})
        with pytest.raises(MetricError, match=said):
            fgsm(model, own, x, wrong, 0.1)
        with pytest.raises(MetricError, match=said):
            complexity(model, own, own, x, wrong)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FGSM(-0.1), r"eps >= 0.*eps=-0\.1"),
        (lambda: PGD(-0.1), r"eps >= 0"),
        (lambda: PGD(0.1, steps=0), r"steps >= 1"),
        (lambda: PGD(0.1, step_size=-1.0), r"step_size >= 0.*-1\.0"),
        (lambda: FGSM(0.1, 1, -1), r"low < high.*low=1, high=-1"),
        (lambda: Flips(1.5), r"share <= 1.*share=1\.5"),
        (lambda: Flips(math.nan), r"share=nan"),
        (lambda: flipped(torch.zeros(1, 1, 2), -0.5), r"share=-0\.5"),
    ],
)
def test_attacks_that_make_no_sense_are_refused(make, said):
    with pytest.raises(MetricError, match=said):
        make()


def test_names_of_attacks_and_parameters_that_are_missing():
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(MetricError, match=r"attacks: no name.*\(c, c_se\)"):
        attacked_errors(lambda p, x: x, {"w": torch.ones(1, 3)}, x, y, {"c": None, "c_se": None})
    with pytest.raises(MetricError, match=r"parameters: .*0 parameters"):
        attacked_errors(lambda p, x: x, {}, x, y, {"c": None})
    with pytest.raises(MetricError, match=r"initial: .*0 initial values"):
        complexity(lambda p, x: x, {"w": torch.ones(1, 3)}, {}, x, y)
