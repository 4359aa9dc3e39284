"""Faster ways to measure stacks of networks give the numbers of the plain one: units that switch, threads, products."""

import pytest
import torch
from test_mean_dimension import assert_close, stack

from raysweep.metrics.lanes import on_threads
from raysweep.metrics.mean_dimension import mean_dimension
from raysweep.metrics.measures import Gaussian, Uniform
from raysweep.metrics.product import product as matrix_product
from raysweep.metrics.switching import relu_changes
from raysweep.models import Architecture


@pytest.mark.parametrize("way", [{}, {"variance": "pairs"}, {"measure": Gaussian()}, {"measure": Uniform(0.0, 3.0)}])
@pytest.mark.parametrize("size", [0.01, 0.3, 1.0, 30.0])
def test_relu_networks_are_measured_as_by_full_forward_passes_however_many_units_may_switch(way, size):
    """The smaller the first layer's weights beside its biases, the fewer units a single input can switch."""
    architecture = Architecture("mlp", 64, 3, 20, 1, base_width=5)
    own, model = stack(architecture), architecture.model()
    own["layers.0.weight"] = own["layers.0.weight"] * size
    own["layers.0.bias"][0, 3] = 0  # a unit at 0
    options = {"points": 50, "variance_points": 100, "seed": 3, **way}
    found = mean_dimension(model, 64, parameters=own, **options)
    assert_close(mean_dimension(lambda p, x: model(p, x), 64, parameters=own, **options), found, rtol=1e-8)


def test_changes_of_relu_networks_by_units_that_switch_and_units_that_do_not():
    draw = torch.Generator().manual_seed(0)
    z, w, v, steps = (torch.randn(n, generator=draw, dtype=torch.float64) for n in ((30, 7), (7, 9), (2, 7), (30, 9)))
    z[0, 0], z[1], steps[2] = 0, 100, 0
    for scale in (0.003, 0.1, 10.0):
        found = relu_changes(z, scale * w, v, steps)
        moved = z + scale * steps.T[:, :, None] * w.T[:, None]
        torch.testing.assert_close(found, (moved.relu() - z.relu()) @ v.T)
    z[5, 3] = torch.nan
    assert relu_changes(z, 0.1 * w, v, steps)[:, 5].isnan().all()


@pytest.mark.parametrize("way", [{}, {"variance": "pairs"}])
def test_lanes_on_several_threads_give_the_same_numbers_and_leave_torch_its_threads(way):
    architecture = Architecture("mlp", 64, 3, 20, 1, base_width=5)
    own = {n: p.requires_grad_() for n, p in stack(architecture, 5).items()}
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        options = {"points": 10, "variance_points": 100, **way}
        found.append(mean_dimension(architecture.model(), 64, parameters=own, **options))
        assert torch.get_num_threads() == threads
    assert_close(*found, rtol=0 if "variance" in way else 1e-12)
    assert not found[1].value.requires_grad
    with pytest.raises(ZeroDivisionError):
        on_threads(lambda job: print(1 / job), [1, 0])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [3, 500])
def test_products_of_any_size_layout_and_type_are_those_of_torch(rows, dtype):
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, generator=draw, dtype=dtype) for n in ((90, rows), (200, 90)))
    found = matrix_product(a.T, b.T)
    assert found.dtype == dtype
    near = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.double(), a.T.double() @ b.T.double(), rtol=0, atol=near)
    b[0, 0] = torch.nan
    assert matrix_product(a.T, b.T)[:, 0].isnan().all()
