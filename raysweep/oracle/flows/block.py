"""What flows repeat: a transform that is compiled by itself, once for all of its kind and shape."""

from __future__ import annotations

from nflows.transforms import Transform
from torch import nn

__all__ = ["Block", "compile_blocks"]

_VARIANTS = 64  # of shapes, precisions and gradients that a process may meet; torch gives up after 8


class Block(Transform):  # type: ignore[misc]
    """A transform of which a flow has several."""


def compile_blocks(flow: nn.Module) -> None:
    """Compile every block of a flow in place; names of weights stay.

    Blocks of one shape share one compilation, so that it takes seconds, not minutes. The gradients of a block are ready
    when its own backward pass ends: data-parallel training sends them while earlier blocks still compute.
    """
    from torch._dynamo import config  # takes a second

    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
    for part in flow.modules():
        if isinstance(part, Block):
            part.compile(dynamic=False)
