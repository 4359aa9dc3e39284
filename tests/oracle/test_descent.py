"""Updates of a flow in training are those of torch's AdamW with clipped gradients, and the average is as stated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from raysweep.oracle.descent import Descent
from raysweep.oracle.transformer_world import TransformerRecipe


class Line(nn.Module):
    """Squared distances to a line, in the place of a flow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, -2.0]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x @ self.weight - y) ** 2).mean()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_update_is_that_of_adamw_on_clipped_gradients_and_the_average_is_the_one_that_is_stated(
    accumulate: int,
) -> None:
    recipe = TransformerRecipe(batch=16, accumulate=accumulate, ema=0.5, weight_decay=0.1)
    flow, plain = Line(), Line()
    average = copy.deepcopy(flow).requires_grad_(False)
    descent = Descent(recipe, flow, average, 1)
    optimiser = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    expected, total = plain.weight.detach().clone(), 0.0
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        x = torch.randn(16, 2, generator=generator)
        y = 10 * torch.randn(16, generator=generator)
        descent(step, 0.1 / (1 + step), x, y)
        optimiser.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimiser.zero_grad()
        loss = plain(x, y)
        (loss / 2).backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * plain.weight.detach()
        total += loss.item()
        torch.testing.assert_close(flow.weight, plain.weight)
        torch.testing.assert_close(average.weight, expected)
    assert norm > 1
    assert float(descent.total) == pytest.approx(total, rel=1e-5)
