"""Draw a batch for every lane in one kernel: hash, index, gather. The numbers are those of `streams.indices`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["draw"]

_ITEMS, _COLUMNS = 32, 64  # size of a tile


@triton.jit
def _mix(z):
    """SplitMix64's finaliser on uint64, as `streams._mix`."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _copy(table, row, out, columns: tl.constexpr, inside, COLUMNS: tl.constexpr):
    """out[i] = table[row[i]], a tile of columns at a time."""
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        both = inside[:, None] & (column < columns)[None, :]
        values = tl.load(table + row[:, None] * columns + column[None, :], mask=both)
        tl.store(out[:, None] + column[None, :], values, mask=both)


@triton.jit
def _draw(
    x, targets, rows, order_seed, seed_row, pool_offset, target_offset, n, step, x_out, targets_out, row_out,
    batch, longest, inputs: tl.constexpr, classes: tl.constexpr,
    ORDER: tl.constexpr, ITEMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    gamma: tl.constexpr = 0x9E3779B97F4A7C15
    lane = tl.program_id(0).to(tl.int64)
    item = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    inside = item < batch
    start: tl.constexpr = (ORDER * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    twice: tl.constexpr = (2 * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    h = _mix(tl.load(order_seed + lane).to(tl.uint64) + start)
    h = _mix((h ^ tl.load(step).to(tl.uint64)) + gamma)
    h = _mix((h ^ item.to(tl.uint64)) + twice)
    index = (((h >> 32) * tl.load(n + lane).to(tl.uint64)) >> 32).to(tl.int64)
    row = tl.load(rows + tl.load(seed_row + lane) * longest + index, mask=inside, other=0)
    place = lane * batch + item
    tl.store(row_out + place, row, mask=inside)
    _copy(x, row + tl.load(pool_offset + lane), x_out + place * inputs, inputs, inside, COLUMNS)
    _copy(targets, row + tl.load(target_offset + lane), targets_out + place * classes, classes, inside, COLUMNS)


def draw(
    x: Tensor, targets: Tensor, rows: Tensor, order_seed: Tensor, seed_row: Tensor, pool_offset: Tensor,
    target_offset: Tensor, n: Tensor, step: Tensor, batch: int, stream: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x [lanes, batch, d], targets [lanes, batch, classes], pool rows [lanes, batch]; arguments as in `Batches`.

    Args:
        stream: `streams.ORDER`.
    """
    lanes, inputs, classes = len(n), x.shape[1], targets.shape[1]
    x_out = torch.empty((lanes, batch, inputs), dtype=x.dtype, device=x.device)
    targets_out = torch.empty((lanes, batch, classes), dtype=targets.dtype, device=x.device)
    row_out = torch.empty((lanes, batch), dtype=torch.int64, device=x.device)
    _draw[(lanes, triton.cdiv(batch, _ITEMS))](
        x, targets, rows, order_seed, seed_row, pool_offset, target_offset, n, step, x_out, targets_out, row_out,
        batch, rows.shape[1], inputs, classes, ORDER=stream, ITEMS=_ITEMS, COLUMNS=_COLUMNS,
    )  # fmt: skip
    return x_out, targets_out, row_out
