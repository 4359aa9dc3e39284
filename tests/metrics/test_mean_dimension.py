"""Mean dimensions: closed forms, invariances, estimators against enumeration, coverage, stacks."""

import math
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from raysweep.errors import MetricError
from raysweep.metrics.mean_dimension import exact_mean_dimension, mean_dimension
from raysweep.metrics.measures import Binary, Gaussian, Marginals, Uniform
from raysweep.metrics.walsh import cube, degrees, walsh
from raysweep.models import Architecture
from raysweep.models.first import FirstDense
from raysweep.models.initial import initial_parameters

N = 9
TABLE = {  # function of N bits: (f, Boolean mean dimension)
    "linear": (lambda x: x @ torch.arange(-3.0, N - 3, dtype=x.dtype), 1.0),
    "parity": (lambda x: x.prod(1), N),
    "majority": (lambda x: x.sum(1).sign(), N * math.comb(N - 1, (N - 1) // 2) / 2 ** (N - 1)),
    "and": (lambda x: 2 * (x > 0).all(1).to(x.dtype) - 1, N / (2 * (1 - 2**-N))),
    "x1x2 + x3": (lambda x: x[:, 0] * x[:, 1] + x[:, 2], 1.5),
    "x1x2x3 + 2 x4": (lambda x: x[:, :3].prod(1) + 2 * x[:, 3], 1.4),
    "square": (lambda x: x.sum(1) ** 2, 2.0),
    "cube": (lambda x: x.sum(1) ** 3, 1.699272),
}
ESTIMATORS = {
    "flips": {},
    "redraws": {"measure": Marginals([[-1.0] * N, [1.0] * N])},
    "pairs": {"variance": "pairs"},
}


def tensors(found):
    return {name: value for name, value in vars(found).items() if isinstance(value, torch.Tensor)}


def assert_close(one, other, rtol=1e-9):
    for name, value in tensors(one).items():
        torch.testing.assert_close(value, tensors(other)[name], rtol=rtol, atol=rtol, equal_nan=True, msg=name)


def random_function(inputs, outputs, seed=0):
    """Any function on {-1, +1}^inputs, from its values."""
    values = torch.randn(2**inputs, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lambda x: values[((1 - x) / 2).long() @ 2 ** torch.arange(inputs)]


def stack(architecture, lanes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    start = initial_parameters(architecture, torch.arange(lanes), torch.float64, "cpu")
    return {n: (2 * p + torch.randn(p.shape, generator=generator) / 10).to(dtype) for n, p in start.items()}


@pytest.mark.parametrize("name", TABLE)
def test_enumeration_gives_the_closed_forms(name):
    f, wanted = TABLE[name]
    found = exact_mean_dimension(f, N, dtype=torch.float64)
    assert found.value.item() == pytest.approx(wanted, abs=1e-6 if name == "cube" else 1e-12)
    assert found.error.item() == 0
    assert found.contributions.sum().item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("way", ESTIMATORS)
@pytest.mark.parametrize("name", [name for name in TABLE if name != "and"])
def test_estimates_lie_within_their_errors_of_the_closed_forms(name, way):
    f, wanted = TABLE[name]
    found = mean_dimension(f, N, points=2000, variance_points=20_000, **ESTIMATORS[way])
    assert abs(found.value.item() - wanted) <= 4 * found.error.item() + 1e-5
    assert found.error.item() < 0.15 * wanted


@pytest.mark.parametrize("inputs", [100, 400])
def test_the_mean_dimension_of_a_sign_grows_with_the_root_of_its_inputs(inputs):
    """sign(w . x) of normal w: a flip of input i passes the threshold with a chance of 2 |w_i| / (|w| sqrt(2 pi)), and
    the variance is 1, so that the mean over w is (2 / pi) sqrt(n), up to 1 / n."""

    class Sign(nn.Module):
        def forward(self, x):
            return x.sign()

    net = nn.Sequential(nn.Linear(inputs, 200, bias=False), Sign()).eval()  # flips need no products
    nn.init.normal_(net[0].weight, generator=torch.Generator().manual_seed(0))
    found = mean_dimension(net, inputs, points=400)
    over_weights = found.each.std().item() / math.sqrt(len(found.each))
    error = math.hypot(found.mean_error.item(), over_weights)  # of the drawn inputs, and of the drawn w
    assert abs(found.mean.item() - 2 / math.pi * math.sqrt(inputs)) < 3 * error < 0.05 * found.mean.item()


def test_enumeration_agrees_with_flips_and_redraws_of_every_point():
    inputs, outputs = 6, 3
    f = random_function(inputs, outputs)
    x = cube(inputs, 0, 2**inputs, torch.device("cpu")).double()
    flipped = x.repeat(inputs, 1, 1)
    for i in range(inputs):
        flipped[i, :, i] *= -1
    changes = torch.stack([f(row) - f(x) for row in flipped])  # [inputs, points, outputs]
    influences = (changes**2 / 4).mean(1)
    redrawn = (torch.stack([changes, torch.zeros_like(changes)]) ** 2 / 2).mean((0, 2))
    torch.testing.assert_close(influences, redrawn, rtol=1e-12, atol=0)
    variance = f(x).var(0, correction=0)
    found = exact_mean_dimension(f, inputs, dtype=torch.float64)
    torch.testing.assert_close(found.variance, variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.each, influences.sum(0) / variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.mean, (influences.sum(0) / variance).mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.contributions, influences.sum(1) / variance.sum(), rtol=1e-12, atol=0)


def test_walsh_coefficients_are_means_of_products():
    inputs = 4
    x = cube(inputs, 0, 2**inputs, torch.device("cpu")).double()
    assert len({tuple(row) for row in x.tolist()}) == 2**inputs
    values = random_function(inputs, 1)(x)[:, 0]
    coefficients, sizes = walsh(values), degrees(inputs, torch.device("cpu"))
    for number, inside in enumerate(product([False, True], repeat=inputs)):
        chosen = torch.tensor(inside[::-1])  # bit i of the number is input i
        assert coefficients[number].item() == pytest.approx((values * x[:, chosen].prod(1)).mean().item(), abs=1e-14)
        assert sizes[number] == chosen.sum()


@pytest.mark.parametrize("way", ["flips", "pairs"])
def test_what_leaves_the_mean_dimension_as_it_is(way):
    inputs = 8
    f, order = random_function(inputs, 2), torch.randperm(inputs, generator=torch.Generator().manual_seed(5))
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6)))[0]
    signs = torch.tensor([1.0, -1.0] * (inputs // 2), dtype=torch.float64)

    def value(g, measure=None):
        options = {"points": 20, "variance_points": 200, "dtype": torch.float64} | ESTIMATORS[way]
        return mean_dimension(g, inputs, measure=measure, **options)

    start, exact = value(f), exact_mean_dimension(f, inputs, dtype=torch.float64)
    for same in (value(lambda x: -3 * f(x) + 7), value(lambda x: f(x) @ turn)):
        torch.testing.assert_close(same.value, start.value, rtol=1e-10, atol=0)
        torch.testing.assert_close(same.error, start.error, rtol=1e-10, atol=0)
    torch.testing.assert_close(value(lambda x: f(2 * x - 1), Binary(0.0, 1.0)).value, start.value, rtol=1e-10, atol=0)
    for moved in (lambda x: f(x * signs), lambda x: f(x[:, order])):
        again = exact_mean_dimension(moved, inputs, dtype=torch.float64)
        torch.testing.assert_close(again.value, exact.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(again.contributions[order], exact.contributions, rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["flips", "pairs"])
def test_standard_errors_cover(way):
    """Of a small network: the share of estimates within 1.96 errors of the exact value, over 300 seeds."""
    architecture, inputs = Architecture("mlp", 8, 3, 6, 1, "tanh"), 8
    own = {name: 3 * p for name, p in stack(architecture, 1).items()}
    model, exact = architecture.model(), exact_mean_dimension(architecture.model(), inputs, parameters=own)
    assert 1.2 < exact.value < 4
    inside: dict[str, list[torch.Tensor]] = {}
    for seed in range(300):
        options = {"points": 60, "variance_points": 400} | ESTIMATORS[way]
        found = mean_dimension(model, inputs, parameters=own, seed=seed, **options)
        for name in ("value", "mean", "each", "contributions"):
            error = getattr(found, "error" if name == "value" else f"{name}_error")
            far = (getattr(found, name) - getattr(exact, name)).abs() / error
            inside.setdefault(name, []).append((far <= 1.96).double().mean())
    for name, shares in inside.items():
        share = torch.stack(shares).mean().item()
        highest = 1.0 if (way, name) == ("pairs", "contributions") else 0.975  # an upper bound there
        assert 0.90 <= share <= highest, (name, share)


@pytest.mark.parametrize(
    ("measure", "first", "second"),
    [
        (Uniform(-1.0, 1.0), 1 / 3, 1 / 9),
        (Gaussian(0.0, 2.0), 4.0, 16.0),
        (Marginals([[0.0, -2.0, 1.0], [3.0, 2.0, -1.0], [0.0, 0.0, 0.0]]), 2.0, 16 / 9),
    ],
)
def test_other_measures(measure, first, second):
    """f = x1 + x2 x3 with centred x2 and x3, so that the variances of its two parts are known."""
    found = mean_dimension(lambda x: x[:, 0] + x[:, 1] * x[:, 2], 3, measure=measure, points=4000)
    total = first + second
    assert abs(found.value.item() - (first + 2 * second) / total) <= 4 * found.error.item() < 0.3
    wanted = torch.tensor([first, second, second], dtype=torch.float64) / total
    assert ((found.contributions - wanted).abs() <= 4 * found.contributions_error).all()
    torch.testing.assert_close(found.contributions.sum(), found.value)


def test_draws_have_their_measures_moments_and_depend_on_the_item_alone():
    items, data = torch.arange(4000), torch.tensor([[0.0, 1.0, 5.0], [4.0, 1.0, 6.0]])
    expected = {
        Binary(0.0, 2.0): ([1, 1, 1], [1, 1, 1]),
        Uniform(1.0, 4.0): ([2.5, 2.5, 2.5], [0.75, 0.75, 0.75]),
        Gaussian(1.0, 3.0): ([1, 1, 1], [9, 9, 9]),
        Marginals(data): ([2, 1, 5.5], [4, 0, 0.25]),
    }
    for measure, (mean, variance) in expected.items():
        x = measure.draw(7, 0, items, 3)
        torch.testing.assert_close(x.mean(0), torch.tensor(mean).float(), rtol=0, atol=0.2)
        torch.testing.assert_close(x.var(0), torch.tensor(variance).float(), rtol=0.1, atol=0.01)
        assert torch.corrcoef(x[:, [0, 2]].T)[0, 1].abs() < 0.06
        assert torch.equal(measure.draw(7, 0, items[100:110], 3), x[100:110])
        for other in (measure.draw(8, 0, items, 3), measure.draw(7, 1, items, 3)):
            assert abs(torch.corrcoef(torch.stack([x[:, 0], other[:, 0]]))[0, 1]) < 0.06


ARCHITECTURES = [
    Architecture("mlp", 64, 4, 7, 2, "gelu", base_width=3),
    Architecture("mlp", 64, 3, 5, 1),
    Architecture("mlp", 64, 3, 5, 0, base_width=2),
    Architecture("cnn", 64, 3, 2, 2),
]


@pytest.mark.parametrize("way", [{}, {"variance": "pairs"}, {"measure": Gaussian()}])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_stack_is_measured_as_its_lanes_alone_in_full_forward_passes_of_any_size(architecture, way):
    own, model = stack(architecture), architecture.model()
    assert isinstance(model, FirstDense) == (architecture.kind == "mlp")
    options = {"points": 6, "variance_points": 50, "seed": 3, **way}
    packed = mean_dimension(model, 64, parameters=own, **options)
    assert packed.value.shape == (3,)
    assert packed.each.shape == (3, architecture.outputs)
    assert packed.contributions.shape == (3, 64)
    assert packed.evaluations == (2 * 6 * 65 if "variance" in way else 6 * 65 + 50)
    assert (packed.value[0] - packed.value[1]).abs() > 1e-6 or architecture.depth == 0
    for chunk in (2, 25, 1000):
        assert_close(mean_dimension(model, 64, parameters=own, chunk=chunk, **options), packed)
    assert_close(mean_dimension(lambda p, x: model(p, x), 64, parameters=own, **options), packed)
    for lane in range(3):
        alone = mean_dimension(
            lambda x, lane=lane: model({n: p[lane : lane + 1] for n, p in own.items()}, x[None])[0],
            64,
            dtype=torch.float64,
            **options,
        )
        for name, value in tensors(alone).items():
            torch.testing.assert_close(value, tensors(packed)[name][lane], rtol=1e-9, atol=1e-12)


def test_a_module_is_measured_as_the_function_that_it_is():
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Linear(16, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)).double().eval()
    flat = nn.Sequential(nn.Flatten(), *plain).eval()
    wanted = mean_dimension(lambda x: plain(x), 16, points=10, dtype=torch.float64)
    assert wanted.value.dtype == torch.float64
    assert_close(mean_dimension(plain, 16, points=10), wanted)
    assert_close(mean_dimension(flat, (4, 4), points=10), wanted)
    assert_close(mean_dimension(lambda x: flat(x), (4, 4), points=10, dtype=torch.float64), wanted)
    by_rows = (
        nn.Sequential(nn.Linear(4, 5), nn.Flatten(), nn.Linear(20, 2)).double().eval()
    )  # linear in each row of the item
    assert mean_dimension(by_rows, (4, 4), points=10).value.item() == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    f = TABLE["cube"][0]
    one, again, other = (mean_dimension(f, N, points=10, variance_points=100, seed=seed) for seed in (1, 1, 2))
    assert_close(one, again, rtol=0)
    assert one.value != other.value


def test_the_variance_is_that_of_other_points_than_those_whose_inputs_are_flipped():
    """The same points for both would be biased: see `Where Var f comes from`. No two points are equal by chance."""
    f, inputs, seen = random_function(12, 1), 60, []

    def watched(x):
        seen.append(x)
        return f(x[:, :12].double())

    found = mean_dimension(watched, inputs, points=6, variance_points=50, dtype=torch.float64)
    before, drawn = (set(map(tuple, x.tolist())) for x in (torch.cat(seen[:-1]), seen[-1]))
    assert len(before) > 6 * (inputs + 1) - 1
    assert len(drawn) == 50
    assert not drawn & before
    torch.testing.assert_close(found.variance, f(seen[-1][:, :12]).var(0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("way", ["flips", "pairs"])
def test_a_constant_has_no_mean_dimension(way):
    with pytest.raises(MetricError, match=r"variance must be positive.*variance=0"):
        mean_dimension(lambda x: 0 * x[:, 0] + 3.7, N, **ESTIMATORS[way])
    with pytest.raises(MetricError, match="variance must be positive"):
        exact_mean_dimension(lambda x: 0 * x[:, 0] + 3.7, N)
    with pytest.raises(MetricError, match="variance must be positive"):  # 1, but for rounding
        mean_dimension(lambda x: x.softmax(1).sum(1), N, **ESTIMATORS[way])
    with pytest.raises(MetricError, match="variance must be positive"):
        mean_dimension(lambda x: x[:, 0] / 0, N, **ESTIMATORS[way])
    architecture = ARCHITECTURES[1]
    own = stack(architecture)
    options = {"points": 10, "variance_points": 100} | ESTIMATORS[way]
    before = mean_dimension(architecture.model(), 64, parameters=own, **options)
    own["layers.1.weight"][1] = 0
    own["layers.1.weight"][2, 0] = 0
    after = mean_dimension(architecture.model(), 64, parameters=own, **options)
    assert after.value.isnan().tolist() == after.error.isnan().tolist() == [False, True, False]
    assert after.contributions[1].isnan().all()
    assert after.value[0] == before.value[0]
    assert after.each.isnan().tolist() == [[False] * 3, [True] * 3, [True, False, False]]
    assert after.mean.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"points": 7}, "points: must be even"),
        ({"points": 2}, "points: must be even and at least 4"),
        ({"variance": "same"}, "variance: must be sample or pairs"),
        ({"variance_points": 3}, "variance_points >= 4"),
        ({"variance": "pairs", "measure": Gaussian()}, "needs a Binary measure.*measure=Gaussian"),
        ({"measure": Marginals(torch.zeros(5, 8))}, "columns=8, inputs=9"),
        ({"chunk": 1}, "chunk >= 2"),
        ({"points": 4.0}, r"points: must be a 64-bit integer.*points=4\.0"),
        ({"seed": 1.5}, r"seed: must be a 64-bit integer.*seed=1\.5"),
        ({"dtype": torch.int32}, r"dtype: must be a floating-point type.*int32"),
        ({"parameters": {}}, "parameters: a stacked model must have at least one"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, said):
    with pytest.raises(MetricError, match=said):
        mean_dimension(TABLE["cube"][0], N, **options)


def test_functions_that_are_none_of_one_item_are_refused():
    with pytest.raises(MetricError, match=r"Sequential in training mode.*eval"):
        mean_dimension(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), 4)
    net = nn.Linear(4, 3)  # of an instance that drops units by a function, no module says so
    with pytest.raises(MetricError, match=r"Linear in training mode.*f\.eval\(\)"):
        mean_dimension(net, 4)
    assert mean_dimension(net.eval(), 4).value.item() == pytest.approx(1, abs=0.1)
    with pytest.raises(MetricError, match=r"one value or one vector per item.*shape=\(1, 3, 2\)"):
        mean_dimension(lambda x: x[:3, :2], 4)
    for f, said in [
        (lambda x: x[:, 0] > 0, "dtype=bool.*double"),
        (lambda x: x[:, 0].long(), "dtype=int64"),
        (lambda x: x[:, 0] + 1j, "dtype=complex64"),
        (lambda x: x[:, 0].numpy(), r"type=ndarray.*torch\.as_tensor"),
        (lambda x: x[:, 0].tolist(), "type=list"),
        (nn.Linear(3, 2).eval(), r"f: must take items.*inputs=4.*cannot be multiplied"),
        (nn.Sequential(nn.Linear(3, 2)).eval(), r"f: must take items.*inputs=4.*cannot be multiplied"),
        (lambda x: x[:, 4], r"inputs=4.*out of bounds"),
    ]:
        with pytest.raises(MetricError, match=said):
            mean_dimension(f, 4)
    for inputs in (0, (2, 0), (), 2.0):
        with pytest.raises(MetricError, match="inputs: must be a positive integer, or the shape"):
            mean_dimension(TABLE["cube"][0], inputs)
    with pytest.raises(MetricError, match=r"inputs <= 16.*inputs=17.*Use mean_dimension"):
        exact_mean_dimension(TABLE["cube"][0], 17)
    for inputs in (0, (2, 3)):
        with pytest.raises(MetricError, match=r"inputs <= 16.*Give the number of inputs"):
            exact_mean_dimension(TABLE["cube"][0], inputs)


def test_a_mean_dimension_of_zero_is_never_reported():
    """The conjunction of ten inputs changes at one point in a hundred: the numerator is at least the variance."""

    def both(x):
        return (x > 0).all(1).double()

    rare = [seed for seed in range(20) if not Binary().draw(seed, 0, torch.arange(100), 10).sum(1).ge(8).any()]
    assert 2 < len(rare) < 18
    for seed in range(20):
        if seed in rare:
            with pytest.raises(MetricError, match=r"points=100.*take more points"):
                mean_dimension(both, 10, seed=seed)
        else:
            assert mean_dimension(both, 10, seed=seed).value.item() > 0
    many = mean_dimension(both, 10, points=5000)
    assert abs(many.value.item() - 10 / (2 * (1 - 2**-10))) < 4 * many.error.item()

    def stacked(p, x):
        return torch.stack([both(x[0]), x[1, :, 0].double()])[..., None]

    lanes = mean_dimension(stacked, 10, parameters={"p": torch.zeros(2)}, dtype=torch.float64, seed=rare[0])
    assert lanes.value.isnan().tolist() == lanes.error.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Uniform(1, 0), r"low < high.*low=1, high=0"),
        (lambda: Binary(1.0, 1.0), r"low < high.*low=1\.0"),
        (lambda: Gaussian(0, -1), r"std > 0.*std=-1"),
        (lambda: Gaussian(0, math.nan), r"std > 0.*std=nan"),
        (lambda: Marginals([]), r"n >= 1.*shape=\(0,\)"),
        (lambda: Marginals(torch.zeros(3, 2, 2)), r"flatten each"),
    ],
)
def test_measures_that_make_no_sense_are_refused(make, said):
    with pytest.raises(MetricError, match=said):
        make()


def test_the_pages_example_runs(capsys):
    page = (Path(__file__).parents[2] / "docs/mean_dimension.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "mean_dimension.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "1.50"
    assert re.fullmatch(r"\d\.\d\d \+- 0\.\d\d", printed[1])
    assert float(printed[1].split()[0]) == pytest.approx(float(printed[2][7:13]), abs=0.01)
