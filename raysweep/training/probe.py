"""The fastest way to run a convolutional network's lanes on a device: measured once per shape, kept in the cache."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import TYPE_CHECKING

import torch

from raysweep.cache import cache_file
from raysweep.kernels import fused
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.models.ops import CONVS
from raysweep.training.loss import CROSS_ENTROPY

if TYPE_CHECKING:
    from raysweep.models.ops import Conv

__all__ = ["fastest_conv"]

_LANES = 8  # lanes in a trial
_STEPS = 3  # timed steps, after one that compiles and picks algorithms


def fastest_conv(
    architecture: Architecture, lanes: int, batch: int, dtype: torch.dtype, device: str, tf32: bool
) -> Conv:
    """The way of `models.ops.CONVS` with the shortest forward and backward pass.

    On CPUs it is one convolution per lane, as a lane fills the cores. On GPUs each way that runs is tried briefly, once
    per shape, precision and device.
    """
    if architecture.kind in ("mlp", "vit", "swin") or device == "cpu":
        return "loop"
    cache = cache_file("convolutions.json")
    known: dict[str, Conv] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    key = f"{torch.cuda.get_device_name()}/{torch.__version__}/{architecture}/{batch}/{dtype}/{tf32}"
    if known.get(key) not in CONVS:
        times = {how: _seconds(architecture, how, min(lanes, _LANES), batch, dtype, device, tf32) for how in CONVS}
        known[key] = min(times, key=times.__getitem__)
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(known, indent=1))
    return known[key]


def _seconds(
    architecture: Architecture, how: Conv, lanes: int, batch: int, dtype: torch.dtype, device: str, tf32: bool
) -> float:
    """Seconds of a forward and backward pass; inf where this way does not run."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(lanes, batch, architecture.inputs, device=device).to(dtype)
    too_long = architecture.layout.activations * batch >= 2**31  # the kernels count a lane's elements in 32 bits
    if how == "fused" and (architecture.kind != "resnet" or not fused(x) or too_long):
        return math.inf
    model = architecture.model(how, tf32)
    start = initial_parameters(architecture, torch.arange(lanes), wide, device)
    parameters = {name: p.requires_grad_() for name, p in start.items()}
    targets = torch.full((lanes, batch, architecture.outputs), 1 / architecture.outputs, device=device, dtype=wide)
    taken = math.inf
    try:
        for step in range(_STEPS + 1):
            torch.cuda.synchronize()
            began = time.perf_counter()
            outputs = model(parameters, x)
            with torch.no_grad():
                _, downstream = CROSS_ENTROPY.value_and_gradient(outputs, targets)
            torch.autograd.grad(outputs, list(parameters.values()), downstream)
            torch.cuda.synchronize()
            taken = min(taken, time.perf_counter() - began) if step else math.inf
    except (ValueError, RuntimeError) as error:  # no kernel for this shape, or it does not fit this device
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return math.inf
    except Exception as error:
        if type(error).__name__ != "OutOfResources":  # Triton's: more shared memory than the device has
            raise
        return math.inf
    return taken
