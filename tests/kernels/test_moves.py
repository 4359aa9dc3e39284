"""The kernel of moved first layers against the model in plain torch."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from raysweep.kernels.moves import moved_outputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("kind", ["relu", "gelu", "tanh", "relu2", "tilted"])
@pytest.mark.parametrize(("features", "items", "outputs"), [(5, 3, 2), (130, 70, 17)])
def test_moved_outputs_are_those_of_the_moved_layer(kind, features, items, outputs):
    from raysweep.models.ops import activate

    lanes, moves, generator = 2, 9, torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    received, weight, steps = normal(lanes, features, items), normal(lanes, features, 12), normal(moves, items)
    second, bias, columns = normal(lanes, outputs, features), normal(lanes, outputs), weight[:, :, 2:11]
    units = activate(received[:, :, None] + columns[..., None] * steps, kind)
    wanted = torch.einsum("lof,lfjm->lojm", second.double(), units.double()) + bias[:, :, None, None]
    found = moved_outputs(received, columns, steps, second, bias, kind)
    torch.testing.assert_close(found.view(wanted.shape), wanted.float(), rtol=1e-5, atol=1e-4)
