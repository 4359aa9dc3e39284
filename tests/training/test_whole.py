"""Full batches: all items of a lane once, with the labels that minibatches of them have."""

from dataclasses import replace

import pytest
import torch
from training.packs import FIVE, ITEMS, batches_of

from raysweep.errors import PackError
from raysweep.models import Architecture
from raysweep.training.batches import nested_rows
from raysweep.training.loss import LOGISTIC, SQUARE, signed
from raysweep.training.whole import Whole

PLANE = Architecture("mlp", 3, 4, 8, 1)
LANES = [replace(lane, n=60, input_noise=0.0) for lane in FIVE]


def test_a_full_batch_has_every_item_once_with_its_label():
    batches = batches_of(PLANE, LANES, torch.float64, 4000)
    whole = Whole.of(batches)
    x, targets = whole.at(torch.tensor(3))
    drawn_x, drawn = batches.at(torch.tensor(3))
    for i, lane in enumerate(LANES):
        rows = nested_rows([lane.data_seed], ITEMS, 60)[0] + lane.pool * ITEMS
        assert torch.equal(x[i], batches.x[rows])
        place = (drawn_x[i][:, None] == x[i][None]).all(-1).double().argmax(1)
        assert len(place.unique()) == 60
        assert torch.equal(drawn[i], targets[i][place])
    assert torch.equal(whole.take(torch.tensor([3, 1])).x, x[[3, 1]])


def test_full_batches_need_one_size_and_inputs_without_noise():
    for lanes in (FIVE[1:3], [replace(LANES[0], input_noise=0.1)]):
        with pytest.raises(PackError, match="data sets must have one size and inputs no noise"):
            Whole.of(batches_of(PLANE, lanes, torch.float64))


@pytest.mark.parametrize("loss", [SQUARE, LOGISTIC])
def test_a_signed_loss_is_that_of_minus_and_plus_one(loss):
    outputs = torch.randn(2, 5, 1, dtype=torch.float64)
    second = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 1]])
    classes = torch.eye(2, dtype=torch.float64)[second]
    for found, wanted in zip(
        signed(loss).value_and_gradient(outputs, classes),
        loss.value_and_gradient(outputs, 2.0 * second[..., None] - 1),
        strict=True,
    ):
        assert torch.equal(found, wanted)
