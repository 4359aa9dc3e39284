"""A pack of runs as tensors: each lane's data, initial parameters, optimiser; `members` lanes per run, or one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysweep.experiment import World
from raysweep.experiments.parts import parts_of
from raysweep.grid.runs import Runs
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.streams import member_seed
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.optim import Optimiser, Parameters
from raysweep.training.precision import parameter_dtype
from raysweep.training.schedule import Schedule

__all__ = ["batches_of", "initial_of", "optimiser_of", "schedule_of"]


def _lanes(pack: Runs, values: Any, dtype: torch.dtype, device: str) -> Tensor:
    """[runs] repeated to [lanes]."""
    members = pack.value("members") if "members" in pack.values else 1
    return torch.as_tensor(np.repeat(np.asarray(values), members)).to(device=device, dtype=dtype)


def _column(pack: Runs, name: str, dtype: torch.dtype, device: str) -> Tensor:
    return _lanes(pack, pack.column(name), dtype, device)


def _unless(pack: Runs, name: str, neutral: float, dtype: torch.dtype, device: str) -> Tensor | None:
    """The lanes' values of an axis, or None where all of them are neutral."""
    return None if set(pack.column(name)) == {neutral} else _column(pack, name, dtype, device)


def _members(pack: Runs, name: str, device: str) -> Tensor:
    """Seeds of lanes: member 0 has the run's own seed."""
    seeds = _column(pack, name, torch.int64, device)
    return member_seed(seeds, torch.arange(len(seeds), device=device) % pack.value("members"))


def initial_of(pack: Runs, architecture: Architecture, device: str) -> Parameters:
    """Initial parameters of every lane."""
    dtype = parameter_dtype(pack.value("precision"))
    return initial_parameters(architecture, _members(pack, "init_seed", device), dtype, device)


def batches_of(pack: Runs, world: World, labels: tuple[str, ...], device: str) -> Batches:
    """The resident pool of every distribution of training items in the pack, and each lane's view of it."""
    size = pack.value("pool")
    parts, part_of = parts_of(pack, world, "train")
    samples = [part.sample(size, "pool") for part in parts]
    posterior = np.concatenate([s.log_posterior for s in samples])
    eye = np.eye(world.classes)
    kinds = {
        "hard": eye[np.concatenate([s.y for s in samples])],
        "argmax": eye[posterior.argmax(-1)],
        "soft": np.exp(posterior),
    }
    used = [kind for kind in labels if kind in pack.values["labels"]]
    pool_of = part_of * size
    kind_of = np.array([used.index(kind) for kind in pack.column("labels")]) * len(posterior)
    seeds = list(dict.fromkeys(pack.column("data_seed")))
    dtype, whole = parameter_dtype(pack.value("precision")), torch.int64
    sharpness = _unless(pack, "label_temperature", 1.0, dtype, device)
    return Batches(
        x=torch.from_numpy(np.concatenate([s.x for s in samples])).to(device=device, dtype=dtype),
        targets=torch.from_numpy(np.concatenate([kinds[kind] for kind in used])).to(device=device, dtype=dtype),
        rows=nested_rows(seeds, size, max(pack.column("n_train"))).to(device),
        batch=pack.value("batch"),
        seed_row=_lanes(pack, [seeds.index(s) for s in pack.column("data_seed")], whole, device),
        pool_offset=_lanes(pack, pool_of, whole, device),
        target_offset=_lanes(pack, kind_of + pool_of, whole, device),
        n=_column(pack, "n_train", whole, device),
        order_seed=_members(pack, "order_seed", device),
        data_seed=_column(pack, "data_seed", whole, device),
        label_noise=_unless(pack, "label_noise", 0.0, torch.float64, device),
        smoothing=_unless(pack, "label_smoothing", 0.0, dtype, device),
        sharpness=None if sharpness is None else 1 / sharpness,
        input_noise=_unless(pack, "input_noise", 0.0, dtype, device),
    )


def optimiser_of(pack: Runs, architecture: Architecture | None, device: str) -> Optimiser:
    """The optimiser with every lane's hyper-parameters, and the rates of an architecture, if it is one of ours."""
    dtype = parameter_dtype(pack.value("precision"))
    clip = _unless(pack, "clip", 0.0, dtype, device)
    kind = pack.value("optimiser")
    return Optimiser(
        kind=kind,
        lr=_column(pack, "lr", dtype, device),
        momentum=_column(pack, "momentum", dtype, device),
        beta1=_column(pack, "beta1", dtype, device),
        beta2=_column(pack, "beta2", dtype, device),
        eps=_column(pack, "eps", dtype, device),
        weight_decay=_unless(pack, "weight_decay", 0.0, dtype, device),
        clip=None if clip is None else torch.where(clip > 0, clip, torch.inf),
        rates={} if architecture is None else architecture.rates(adaptive=kind == "adamw"),
    )


def schedule_of(pack: Runs, device: str) -> Schedule:
    """The schedule with every lane's warm-up and, under cosine, horizon."""
    kind = pack.value("schedule")
    horizon = pack.column("steps") if kind == "cosine" else [0] * len(pack)
    return Schedule.make(kind, _column(pack, "warmup", torch.int64, device), _lanes(pack, horizon, torch.int64, device))
