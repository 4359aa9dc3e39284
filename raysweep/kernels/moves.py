"""Outputs of two-layer networks after moves of their first layer, without its units ever in memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysweep.kernels.bias_activation import KINDS, activated

__all__ = ["MOST_OUTPUTS", "moved_outputs"]

MOST_OUTPUTS = 128  # outputs of a program's tile
_ITEMS, _FEATURES, _COLUMNS = 64, 32, 8  # a program's items, units at a time, and moves


@triton.jit
def _moved(
    received, columns, steps, second, bias, out, features, items, count, outputs, lane_stride, feature_stride,
    KIND: tl.constexpr, ITEMS: tl.constexpr, FEATURES: tl.constexpr, OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(2).to(tl.int64)
    item = tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)
    output = tl.arange(0, OUTPUTS)
    b = tl.load(bias + lane * outputs + output, mask=output < outputs, other=0.0)
    first = tl.program_id(1) * COLUMNS
    for column in range(first, tl.minimum(first + COLUMNS, count)):
        step = tl.load(steps + column * items + item, mask=item < items, other=0.0)
        total = tl.zeros((ITEMS, OUTPUTS), dtype=tl.float32)
        for start in range(0, features, FEATURES):
            k = start + tl.arange(0, FEATURES)
            z = tl.load(
                received + (lane * features + k[None, :]) * items + item[:, None],
                mask=(item < items)[:, None] & (k < features)[None, :],
                other=0.0,
            )
            w = tl.load(columns + lane * lane_stride + k * feature_stride + column, mask=k < features, other=0.0)
            v = tl.load(
                second + (lane * outputs + output[None, :]) * features + k[:, None],
                mask=(k < features)[:, None] & (output < outputs)[None, :],
                other=0.0,
            )
            total = tl.dot(activated(z + step[:, None] * w[None, :], KIND), v, total, input_precision="tf32x3")
        tl.store(
            out + ((lane * outputs + output[None, :]) * count + column) * items + item[:, None],
            total + b[None, :],
            mask=(item < items)[:, None] & (output < outputs)[None, :],
        )


def moved_outputs(received: Tensor, columns: Tensor, steps: Tensor, second: Tensor, bias: Tensor, kind: str) -> Tensor:
    """second . activation(received + columns[.., j] steps[j]) + bias for every move j, in float32 (3 x TF32).

    Args:
        received: [lanes, features, items], contiguous.
        columns: [lanes, features, moves], contiguous along moves.
        steps: [moves, items], contiguous.
        second, bias: [lanes, outputs, features], [lanes, outputs]; at most `MOST_OUTPUTS` outputs.
        kind: Of activation.

    Returns:
        [lanes, outputs, moves * items].
    """
    lanes, features, items = received.shape
    count, outputs = len(steps), bias.shape[1]
    out = torch.empty(lanes, outputs, count * items, dtype=torch.float32, device=received.device)
    grid = (triton.cdiv(items, _ITEMS), triton.cdiv(count, _COLUMNS), lanes)
    _moved[grid](
        received, columns, steps, second.contiguous(), bias.contiguous(), out, features, items, count, outputs,
        columns.stride(0), columns.stride(1), KIND=KINDS[kind], ITEMS=_ITEMS, FEATURES=_FEATURES,
        OUTPUTS=max(16, triton.next_power_of_2(outputs)), COLUMNS=_COLUMNS,
    )  # fmt: skip
    return out
