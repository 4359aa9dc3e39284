"""Complexity measures: closed forms for linear models, dense Hessians and Jacobians, stacks, chunks."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch

from raysweep.metrics.complexity import complexity, margin
from raysweep.metrics.gradients import input_gradients
from raysweep.metrics.norms import norms
from raysweep.metrics.sharpness import sharpness
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.training.loss import CROSS_ENTROPY, SQUARE

LANES, ITEMS, INPUTS, CLASSES = 3, 12, 4, 3
LINEAR = Architecture("mlp", INPUTS, CLASSES, 1, 0)
NET = Architecture("mlp", INPUTS, CLASSES, 3, 1, "tanh")
CNN = Architecture("cnn", INPUTS, CLASSES, 2, 1)


def case(architecture):
    """A model, its stack, its initial values, items and classes."""
    draw = torch.Generator().manual_seed(0)
    start = initial_parameters(architecture, torch.arange(LANES), torch.float64, "cpu")
    own = {n: 2 * p + torch.randn(p.shape, generator=draw, dtype=torch.float64) / 3 for n, p in start.items()}
    x = torch.randn(ITEMS, INPUTS, generator=draw, dtype=torch.float64)
    return architecture.model(), own, start, x, torch.randint(0, CLASSES, (ITEMS,), generator=draw)


def flat(own, lane):
    return torch.cat([p[lane].flatten() for p in own.values()])


def dense_hessian(model, own, lane, x, classes):
    """The Hessian of one lane's cross-entropy, by torch's own loss."""
    shapes = [p[lane].shape for p in own.values()]

    def value(w):
        parts = w.split([s.numel() for s in shapes])
        some = {n: q.view(1, *s) for n, q, s in zip(own, parts, shapes, strict=True)}
        return torch.nn.functional.cross_entropy(model(some, x[None])[0], classes)

    return torch.autograd.functional.hessian(value, flat(own, lane))


def test_the_linear_model_with_square_loss():
    """f = W x + b: the Hessian is the second moment of (x, 1) for every output, the Jacobian W."""
    model, own, start, x, _ = case(LINEAR)
    targets = torch.randn(ITEMS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weight, bias = own["layers.0.weight"], own["layers.0.bias"]
    found = complexity(model, own, start, x, targets, SQUARE, seed=1)
    ones = torch.cat([x, torch.ones(ITEMS, 1, dtype=torch.float64)], 1)
    moment = ones.T @ ones / ITEMS
    largest = torch.linalg.eigvalsh(moment)[-1]
    torch.testing.assert_close(found["hessian_eigenvalue"], largest.expand(LANES), rtol=1e-3, atol=0)
    torch.testing.assert_close(found["jacobian_norm"], weight.flatten(1).norm(dim=1))
    gap = model(own, x.expand(LANES, -1, -1)) - targets
    torch.testing.assert_close(found["input_gradient"], (gap @ weight).norm(dim=2).mean(1))

    wide = torch.cat([weight, bias[..., None]], 2)  # [lanes, outputs, inputs + 1]
    gradient = gap.transpose(1, 2) @ ones / ITEMS
    step = gradient * (0.01 * wide.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1))[:, None, None]
    rise = (gradient * step + step @ moment * step / 2).sum((1, 2))
    torch.testing.assert_close(found["worst_case_sharpness"], rise)
    average = sharpness(model, own, x, targets, SQUARE, noise=0.3, draws=500)["average_sharpness"]
    expected = 0.3**2 / 2 * (wide.square() * moment.diagonal()).sum((1, 2))
    torch.testing.assert_close(average, expected, rtol=0.15, atol=0)
    assert "path_norm" in found


def test_eigenvalues_are_those_of_dense_hessians():
    model, own, _, x, classes = case(NET)
    found = sharpness(model, own, x, classes, iterations=2000, tolerance=1e-9)["hessian_eigenvalue"]
    for lane in range(LANES):
        values = torch.linalg.eigvalsh(dense_hessian(model, own, lane, x, classes))
        assert found[lane].item() == pytest.approx(values[-1].item(), rel=1e-5)
    some = ["layers.1.weight"]  # the others are frozen: a block of the Hessian
    block = sharpness(model, own, x, classes, trained=some, iterations=2000, tolerance=1e-9)["hessian_eigenvalue"]
    sizes = [p[0].numel() for p in own.values()]
    at = list(own).index(some[0])
    inside = slice(sum(sizes[:at]), sum(sizes[: at + 1]))
    for lane in range(LANES):
        values = torch.linalg.eigvalsh(dense_hessian(model, own, lane, x, classes)[inside, inside])
        assert block[lane].item() == pytest.approx(values[-1].item(), rel=1e-5)


def test_the_largest_eigenvalue_is_found_beside_a_larger_negative_one():
    """f = 3 u^2 - v^2 at u = v = 0 with target t: the Hessian of (f - t)^2 / 2 is diag(-6 t, 2 t)."""
    own = {"u": torch.zeros(2, 1, dtype=torch.float64), "v": torch.zeros(2, 1, dtype=torch.float64)}
    target = torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1)

    def model(p, x):
        return (3 * p["u"] ** 2 - p["v"] ** 2)[:, :, None] + 0 * x

    found = sharpness(model, own, torch.ones(1, 1), target, SQUARE, tolerance=1e-12)
    assert found["hessian_eigenvalue"].tolist() == pytest.approx([2.0, 6.0])
    assert found["worst_case_sharpness"].tolist() == [0.0, 0.0]  # no gradient, and no parameters to change


def test_norms_are_those_of_the_definitions():
    _, own, start, _, _ = case(NET)
    found = norms(own, start)
    for lane in range(LANES):
        w = [own[f"layers.{i}.weight"][lane] for i in range(2)]
        b = [own[f"layers.{i}.bias"][lane] for i in range(2)]
        w0 = [start[f"layers.{i}.weight"][lane] for i in range(2)]
        spectral = [torch.linalg.svdvals(m)[0] for m in w]
        moved = [sum((m - m0)[unit].norm() for unit in range(len(m))) for m, m0 in zip(w, w0, strict=True)]
        sums = sum((m / s) ** (2 / 3) for m, s in zip(moved, spectral, strict=True)) ** 1.5
        paths = sum((w[1][k, j] * w[0][j, i]) ** 2 for k in range(CLASSES) for j in range(3) for i in range(INPUTS))
        paths = paths + ((w[1] @ b[0].diag()) ** 2).sum() + (b[1] ** 2).sum()
        wanted = {
            "l2_norm": flat(own, lane).norm(),
            "distance": (flat(own, lane) - flat(start, lane)).norm(),
            "frobenius_product": w[0].norm() * w[1].norm(),
            "spectral_product": spectral[0] * spectral[1],
            "spectral_complexity": spectral[0] * spectral[1] * sums,
            "path_norm": paths**0.5,
        }
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert found[name][lane].item() == pytest.approx(value.item()), name
    frozen = norms({**{n: p.requires_grad_() for n, p in own.items()}, "richness": torch.ones(LANES)}, start)
    assert not any(value.requires_grad for value in frozen.values())
    assert all(torch.equal(frozen[name], found[name]) for name in found)


def test_paths_have_the_norm_of_any_rescaled_relu_network():
    """Scaling a hidden unit's incoming weights up and its outgoing ones down changes other norms only."""
    _, own, start, _, _ = case(NET)
    factor = torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64)
    scaled = {
        "layers.0.weight": own["layers.0.weight"] * factor[:, None],
        "layers.0.bias": own["layers.0.bias"] * factor,
        "layers.1.weight": own["layers.1.weight"] / factor,
        "layers.1.bias": own["layers.1.bias"],
    }
    before, after = norms(own, start), norms(scaled, start)
    torch.testing.assert_close(after["path_norm"], before["path_norm"])
    assert ((after["frobenius_product"] / before["frobenius_product"]).log().abs() > 1).any()


def test_jacobians_exact_and_by_random_signs():
    model, own, _, x, classes = case(NET)
    found = input_gradients(model, own, x, classes)
    for lane in range(LANES):
        f = partial(model, {n: p[lane : lane + 1] for n, p in own.items()})
        each = [torch.autograd.functional.jacobian(f, item[None, None]) for item in x]
        assert found["jacobian_norm"][lane].item() == pytest.approx(torch.stack(each).flatten(1).norm(dim=1).mean())
    signs = input_gradients(model, own, x, classes, projections=400)
    torch.testing.assert_close(signs["jacobian_norm"], found["jacobian_norm"], rtol=0.03, atol=0)
    assert not torch.equal(signs["jacobian_norm"], found["jacobian_norm"])


def test_margins():
    values = torch.arange(1.0, 21.0, dtype=torch.float64)  # margins of 20 items

    def model(p, x):
        return torch.stack([x[..., 0] * p["s"], 0 * x[..., 0], -x[..., 0] - 5], -1)

    own = {"s": torch.tensor([[1.0], [-2.0]], dtype=torch.float64)}
    found = margin(model, own, values[:, None], torch.zeros(20, dtype=torch.int64))
    assert found.tolist() == [2.0, -38.0]  # a tenth of 20 items lie at or below the second lowest
    one = margin(lambda p, x: p["s"][..., None] * x, own, values[:, None], -torch.ones(20, 1, dtype=torch.float64))
    assert one.tolist() == [-19.0, 4.0]


@pytest.mark.parametrize("architecture", [NET, CNN], ids=lambda a: a.kind)
def test_a_stack_is_measured_as_its_lanes_alone_in_passes_of_any_size(architecture):
    model, own, start, x, classes = case(architecture)
    packed = complexity(model, own, start, x, classes)
    assert ("path_norm" in packed) == (architecture is NET)
    assert all(value.shape == (LANES,) and value.dtype == torch.float64 for value in packed.values())
    positive = packed["margin"] > 0
    assert torch.equal(packed["spectral_product_over_margin"].isnan(), ~positive)
    again = complexity(model, own, start, x.expand(LANES, -1, -1), classes.expand(LANES, -1), chunk=5)
    for name, value in packed.items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)
    own["convs.0.weight" if architecture is CNN else "layers.0.weight"][1] = torch.nan
    broken = complexity(model, own, start, x, classes, chunk=30)
    for name, value in packed.items():
        assert broken[name][1].isnan()
        for lane in (0, 2):
            torch.testing.assert_close(broken[name][lane], value[lane], rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)


def test_what_raises_the_margin_lowers_the_measure_over_it():
    """A scaled classifier has scaled margins, so that spectral_product_over_margin does not reward large outputs."""
    model, own, start, x, _ = case(LINEAR)
    classes = model(own, x.expand(LANES, -1, -1)).argmax(-1)  # all right
    one, two = (
        complexity(model, {n: s * p for n, p in own.items()}, start, x, classes, CROSS_ENTROPY) for s in (1.0, 3.0)
    )
    torch.testing.assert_close(two["margin"], 3 * one["margin"])
    torch.testing.assert_close(two["spectral_product_over_margin"], one["spectral_product_over_margin"])
    assert (one["margin"] > 0).all()
    real = complexity(model, own, start, x, torch.randn(ITEMS, CLASSES, dtype=torch.float64), SQUARE)
    assert "margin" in real
    single = {n: p[:, :1] for n, p in own.items()}
    assert "margin" not in complexity(model, single, {n: p[:, :1] for n, p in start.items()}, x, x[:, :1], SQUARE)


def test_the_pages_example_runs(capsys):
    page = (Path(__file__).parents[2] / "docs/robustness.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "robustness.md", "exec"), {})
    names, measures, correlation = capsys.readouterr().out.splitlines()
    assert names == "['clean', 'clean_se', 'fgsm', 'fgsm_se', 'flips', 'flips_se', 'pgd', 'pgd_se']"
    assert measures.startswith("16 measures")
    assert -1 <= float(correlation.split()[0]) < -0.4  # the first lanes have hardly learned anything
