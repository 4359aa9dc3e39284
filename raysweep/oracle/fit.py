"""Train a flow oracle: one function for a single device and, through `Dist`, for data-parallel workers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from safetensors.torch import load, save

from raysweep import data
from raysweep.experiment import Dist
from raysweep.oracle.flows.shared import ClassFlow
from raysweep.oracle.recipe import Point
from raysweep.oracle.shared_flow import FlowRecipe, fresh_flow

__all__ = ["CHECKPOINT", "dequantise", "train_flow", "trained", "weights_of"]

CHECKPOINT = "checkpoint.safetensors"
_REPORTS = 12  # checkpoints and validation points per run; few, as Ray's report is a barrier


def dequantise(x: torch.Tensor, levels: int, std: float, generator: torch.Generator) -> torch.Tensor:
    """Grey levels [n, d] plus uniform noise in [0, 1), scaled to [-1, 1], plus N(0, std^2): float32, on x's device."""
    uniform = torch.rand(x.shape, generator=generator).to(x.device)
    normal = torch.randn(x.shape, generator=generator).to(x.device)
    return (x.float() + uniform) * (2.0 / levels) - 1.0 + std * normal


def trained(recipe: FlowRecipe, dist: Dist | None, on_progress: Point, device: str) -> dict[str, bytes]:
    """Train the recipe's flow and return a checkpoint's files; executors call this."""
    flow = train_flow(recipe, dist, on_progress, device)
    return {CHECKPOINT: save(_model(flow))}


def weights_of(files: Mapping[str, bytes]) -> bytes:
    """The flow's weights alone, from a checkpoint's files."""
    tensors = load(files[CHECKPOINT])
    data: bytes = save({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    return data


def train_flow(
    recipe: FlowRecipe,
    dist: Dist | None = None,
    on_progress: Point = lambda _: None,
    device: str = "cpu",
) -> ClassFlow:
    """Maximum likelihood by AdamW under a one-cycle schedule.

    Every rank sees its share of each global batch; order and noise depend on (seed, epoch) alone.

    Args:
        dist: Data-parallel hooks; None trains on one device.
        on_progress: Called by rank 0 once per epoch with epoch, epochs, nll (nats per item, training) and start (epochs
            done by the checkpoint from which training continued).
        device: Where this rank trains.

    Returns:
        The trained flow (the same on every rank).
    """
    source = data.load(recipe.data)
    rank, world = (dist.rank, dist.world_size) if dist else (0, 1)
    split = torch.randperm(len(source.x), generator=torch.Generator().manual_seed(recipe.seed))
    held = int(len(source.x) * recipe.holdout)
    x, y = torch.from_numpy(source.x), torch.from_numpy(source.y)
    test_x, test_y = x[split[:held]], y[split[:held]]
    train_x, train_y = x[split[held:]], y[split[held:]]

    flow = fresh_flow(recipe)
    _spread_means(flow, recipe.seed)
    flow.to(device)
    train_x, train_y, test_x, test_y = (t.to(device) for t in (train_x, train_y, test_x, test_y))
    optimiser = torch.optim.AdamW(flow.parameters(), lr=recipe.lr, weight_decay=1e-4, fused=True)
    steps = math.ceil(len(train_x) / recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=recipe.lr, total_steps=recipe.epochs * steps)
    start = 0
    if dist and dist.resume:
        start = _restore(load(dist.resume[CHECKPOINT]), flow, optimiser)
        optimiser.step()  # without gradients it moves nothing, but torch warns where the schedule goes first
        schedule.last_epoch = start * steps - 1
        schedule.step()  # sets the rate and the first beta of this step
    model: torch.nn.Module = dist.wrap(flow) if dist else flow
    every = max(1, recipe.epochs // _REPORTS)

    for epoch in range(start, recipe.epochs):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(train_x), generator=generator).to(device)
        noisy, total = dequantise(train_x, source.levels, recipe.noise, generator), torch.zeros((), device=device)
        for step in range(steps):
            everyone = order[step * recipe.batch : (step + 1) * recipe.batch]
            mine = everyone[rank::world]
            nll = model(noisy[mine], train_y[mine])
            # `wrap` averages over ranks, whose shares may differ by an item; with these weights that is the batch mean.
            loss = nll * (len(mine) * world / len(everyone))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += nll.detach()
        done = epoch + 1
        if rank == 0:
            on_progress({"epoch": done, "epochs": recipe.epochs, "nll": float(total) / steps, "start": start})
        if dist and (done % every == 0 or done == recipe.epochs):
            metrics = {
                "epoch": done,
                "nll": float(total) / steps,
                "test_nll": _nll(flow, test_x, test_y, source.levels, recipe.noise),
            }
            files = {CHECKPOINT: _checkpoint(flow, optimiser, done)} if rank == 0 else None
            dist.report(metrics, files)
    return flow


def _spread_means(flow: ClassFlow, seed: int) -> None:
    """Start the class means apart: from one point they separate slowly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        flow.means.copy_(torch.randn(flow.means.shape, generator=generator) * 0.5)


def _nll(flow: ClassFlow, x: torch.Tensor, y: torch.Tensor, levels: int, std: float) -> float:
    """Held-out negative log-likelihood in nats per item, at fixed noise."""
    with torch.no_grad():
        return float(flow(dequantise(x, levels, std, torch.Generator().manual_seed(0)), y))


def _model(flow: ClassFlow) -> dict[str, torch.Tensor]:
    return {f"model/{name}": value.detach().cpu().contiguous() for name, value in flow.state_dict().items()}


def _checkpoint(flow: ClassFlow, optimiser: torch.optim.Optimizer, epoch: int) -> bytes:
    """Weights, both Adam moments and the epoch, as safetensors: no pickle in a store."""
    tensors = _model(flow)
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    data: bytes = save({**tensors, "epoch": torch.tensor(epoch)})
    return data


def _restore(tensors: Mapping[str, torch.Tensor], flow: ClassFlow, optimiser: torch.optim.Optimizer) -> int:
    """Undo `_checkpoint`; returns the epochs done."""
    flow.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return int(tensors["epoch"])
