"""The rounds of a pack of `active_learning`: training, scores of the pool, and the items that are labelled next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raysweep.errors import PackError
from raysweep.experiment import Context, Sample, World
from raysweep.experiments.active import METRICS, members_of, rounds_of, scored_items
from raysweep.experiments.classifier import architecture_of
from raysweep.experiments.classifier_axes import bmd_flops
from raysweep.experiments.held_out import HeldOut, boolean_mean_dimension
from raysweep.grid.runs import Runs
from raysweep.models.initial import initial_parameters
from raysweep.models.layout import Layout
from raysweep.streams import member_seed
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.legs import Leg
from raysweep.training.loop import Snapshot, forward, train
from raysweep.training.loss import CROSS_ENTROPY
from raysweep.training.optim import Optimiser
from raysweep.training.precision import parameter_dtype, products
from raysweep.training.probe import fastest_conv
from raysweep.training.saved import Stage
from raysweep.training.schedule import Schedule

__all__ = ["next_items", "rounds", "scores"]

_NUMBERS = 1 << 23  # logits in flight when a pool is scored


@dataclass(frozen=True)
class _Pool:
    """The pools of all temperatures, one after another.

    Attributes:
        x: [temperatures, items, d].
        log_r: [temperatures, items, classes] float64.
        y: [temperatures, items].
        part: [runs] temperature of each run.
        order: [runs, items] each run's permutation, by its seed: the first items, random choices, and ties.
    """

    x: Tensor
    log_r: Tensor
    y: Tensor
    part: npt.NDArray[np.int64]
    order: Tensor

    @staticmethod
    def of(pack: Runs, world: World, dtype: torch.dtype, device: str) -> _Pool:
        size = int(pack.value("pool"))
        drawn: list[Sample] = [world.sample(size, "pool", float(t or 1.0)) for t in pack.values["temperature"]]
        return _Pool(
            torch.from_numpy(np.stack([s.x for s in drawn])).to(device, dtype),
            torch.from_numpy(np.stack([s.log_posterior for s in drawn])).to(device),
            torch.from_numpy(np.stack([s.y for s in drawn])).to(device),
            pack.codes["temperature"].astype(np.int64),
            nested_rows(pack.column("seed"), size, size).to(device),
        )


def rounds(pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
    """One batch of rows per round that is asked for, one row per run that asks for it."""
    world, device = context.world, context.device
    if world is None:
        raise PackError("active: needs a world, but the context has none")
    row, dtype = pack.row(0), parameter_dtype(pack.value("precision"))
    architecture, batch, query = architecture_of(row, world), int(row["batch"]), int(row["query"])
    strategies = [str(s) for s in pack.column("strategy")]
    models = np.array([members_of(s, int(row["ensemble"])) for s in strategies])
    owner = np.repeat(np.arange(len(pack)), models)  # [lanes] run
    first = np.cumsum(models) - models  # [runs] the lane whose predictions are scored
    asked = [rounds_of(pack.row(i), pack.observed[int(pack.observed_code[i])]) for i in range(len(pack))]
    last = max(map(max, asked))

    def lanes(values: Any, kind: torch.dtype = dtype) -> Tensor:
        return torch.as_tensor(np.asarray(values)[owner]).to(device=device, dtype=kind)

    member = torch.as_tensor(np.arange(len(owner)) - first[owner], device=device)
    seed = member_seed(lanes(pack.column("seed"), torch.int64), member)
    pool, held = _Pool.of(pack, world, dtype, device), HeldOut.draw(pack, world, "eval", dtype, device)
    layout = architecture.layout
    a_step = batch * (layout.forward_flops + layout.backward_flops) * models
    adaptive = row["optimiser"] == "adamw"
    one = torch.ones(len(owner), dtype=dtype, device=device)
    optimiser = Optimiser(
        "adamw" if adaptive else "sgd", lanes(pack.column("lr")), lanes(pack.column("momentum")), 0.9 * one,
        0.999 * one, 1e-8 * one, weight_decay=lanes(pack.column("weight_decay")), rates=architecture.rates(adaptive),
    )  # fmt: skip
    with products("float32"):
        conv = fastest_conv(architecture, len(owner), batch, dtype, device, False)
    model = architecture.model(conv, False)
    begun = {"chosen": pool.order[owner].clone(), "failed_at": torch.full_like(seed, -1)}
    stage = Stage(0, begun).resumed(context.keep, latest=min(map(min, asked)))
    for number in range(stage.number, last + 1):
        chosen, labelled = stage.carried["chosen"], int(row["initial"]) + query * number
        (snapshot,) = train(
            model,
            initial_parameters(architecture, seed, dtype, device),
            _batches(pack, pool, chosen, owner, labelled, seed, number, batch),
            optimiser,
            Schedule.make("constant", torch.zeros_like(seed), torch.zeros_like(seed)),
            [Leg(int(row["steps"]), True)],
            dtype,
            context.keep,
            stage=stage,
        )
        own = torch.where(snapshot.diverged_at < 0, -1, number * int(row["steps"]) + snapshot.diverged_at)
        failed_at = torch.where(stage.carried["failed_at"] < 0, own, stage.carried["failed_at"])
        at = _by_run(failed_at, first, models)
        here = np.array([number in rounds_ for rounds_ in asked])
        evaluated = _evaluated(pack, asked, number, layout, world.dim)
        if here.any():
            found = _measured(model, snapshot, held, np.flatnonzero(here & (at < 0)), first)
            found |= _dimension(pack, model, snapshot, first, np.flatnonzero(here & (at < 0)), world.dim)
            found |= _about(pool, chosen[first][:, :labelled], np.flatnonzero(here & (at < 0)), world.classes)
            spent = np.where(at < 0, (number + 1) * int(row["steps"]), at) * a_step
            yield _rows(labelled, np.flatnonzero(here), at[here], found, spent[here], evaluated[here])
        if number < last:
            value = scores(model, snapshot.parameters, strategies, owner, pool, chosen, labelled, query)
            chosen = next_items(value, chosen, labelled, query, pool.order, owner)
            stage = Stage(number + 1, {"chosen": chosen, "failed_at": failed_at})


def _batches(
    pack: Runs, pool: _Pool, chosen: Tensor, owner: npt.NDArray[np.int64], labelled: int, seed: Tensor, number: int,
    batch: int,
) -> Batches:  # fmt: skip
    """Each lane's labelled items: the first `labelled` of its row of `chosen`."""
    parts, size, classes = pool.log_r.shape
    hard = torch.nn.functional.one_hot(pool.y, classes).double()
    targets = torch.cat([hard.flatten(0, 1), pool.log_r.exp().flatten(0, 1)]).to(pool.x.dtype)
    offset = torch.as_tensor(pool.part[owner] * size, device=seed.device)
    soft = torch.as_tensor(np.array([one == "soft" for one in pack.column("labels")])[owner], device=seed.device)
    return Batches(
        x=pool.x.flatten(0, 1),
        targets=targets,
        rows=chosen,
        batch=batch,
        seed_row=torch.arange(len(owner), device=seed.device),
        pool_offset=offset,
        target_offset=offset + soft * parts * size,
        n=torch.full_like(seed, labelled),
        order_seed=seed + (number << 32),
        data_seed=seed,
    )


@torch.no_grad()
def scores(
    model: Any, parameters: Any, strategies: list[str], owner: npt.NDArray[np.int64], pool: _Pool, chosen: Tensor,
    labelled: int, query: int,
) -> Tensor:  # fmt: skip
    """[runs, items] float64: the larger, the sooner an item is labelled. Zeros are random: the run's order decides."""
    runs, size = len(strategies), pool.x.shape[1]
    found = torch.zeros(runs, size, dtype=torch.float64, device=pool.x.device)
    logits: dict[int, Tensor] = {}
    for part in np.unique(pool.part):
        asks = [strategies[run] not in ("random", "aleatoric") and pool.part[run] == part for run in owner]
        members = np.flatnonzero(asks)
        if not len(members):
            continue
        lanes = torch.as_tensor(members, device=pool.x.device)
        own = {name: p[lanes] for name, p in parameters.items()}
        width = max(1, _NUMBERS // (len(members) * pool.log_r.shape[2]))
        out = torch.cat([forward(model, own, x) for x in pool.x[part].split(width)], 1).double()
        for run in np.unique(owner[members]):
            logits[int(run)] = out[torch.as_tensor(owner[members] == run, device=out.device)]
    for run in np.flatnonzero([one == "aleatoric" for one in strategies]):
        log_r = pool.log_r[pool.part[run]]
        found[run] = -(log_r.exp() * log_r).sum(-1)
    for run, of_run in logits.items():
        log_r = pool.log_r[pool.part[run]]
        if strategies[run] == "core_set":
            first = int(np.flatnonzero(owner == run)[0])
            found[run] = _centres(of_run[0], chosen[first, :labelled], query)
        else:
            found[run] = _score(strategies[run], torch.log_softmax(of_run, -1), log_r)
    return found


def _score(strategy: str, log_q: Tensor, log_r: Tensor) -> Tensor:
    """[items] of one run. log_q [members, items, classes], log_r [items, classes]."""
    q = log_q.exp()
    if strategy == "entropy":
        return -(q * log_q).sum(-1)[0]
    if strategy == "margin":
        top = q[0].topk(2, -1).values
        return top[:, 1] - top[:, 0]
    if strategy == "bald":
        mean = q.mean(0)
        return -(mean * mean.clamp_min(1e-300).log()).sum(-1) + (q * log_q).sum(-1).mean(0)
    return (log_r.exp() * (log_r - log_q[0])).sum(-1)  # epistemic


def _centres(features: Tensor, labelled: Tensor, query: int) -> Tensor:
    """[items] scores by greedy k-centre: in turn, the item farthest from all that are labelled or were taken so far.

    The `query` items taken come first, in their order; the others follow by their last distance.
    """
    near = torch.full((len(features),), torch.inf, dtype=features.dtype, device=features.device)
    for part in labelled.split(64):
        near = torch.minimum(near, torch.cdist(features, features[part]).amin(1))
    taken = torch.zeros_like(near, dtype=torch.bool)
    taken[labelled] = True
    picks = []
    for _ in range(min(query, len(features) - len(labelled))):
        pick = torch.where(taken, -1.0, near).argmax()
        picks.append(pick)
        taken[pick] = True
        near = torch.minimum(near, (features - features[pick]).square().sum(1).sqrt())
    order = torch.arange(len(picks), 0, -1, device=near.device, dtype=near.dtype)
    return near.index_put((torch.stack(picks),), near.amax() + order) if picks else near


def next_items(
    value: Tensor, chosen: Tensor, labelled: int, query: int, order: Tensor, owner: npt.NDArray[np.int64]
) -> Tensor:
    """[lanes, items] `chosen` with the `query` best of each run's unlabelled items after the labelled ones.

    Ties are broken by the run's own permutation.

    Args:
        value: [runs, items].
        order: [runs, items] permutations.
    """
    value = value.clone()
    firsts = torch.as_tensor(np.unique(owner, return_index=True)[1], device=chosen.device)
    taken = chosen[firsts, :labelled]
    value.scatter_(1, taken, -torch.inf)
    best = value.gather(1, order).argsort(stable=True, dim=1, descending=True)
    more = order.gather(1, best)[:, :query]
    new = chosen.clone()
    new[:, labelled : labelled + query] = more[torch.as_tensor(owner, device=chosen.device)]
    return new


def _measured(
    model: Any, snapshot: Snapshot, held: HeldOut, sound: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of each sound run's first model on the evaluation sample."""
    items = len(held.parts[0].y)
    found = held.measure(model, _lone(snapshot, first), sound, items, torch.ones(1, dtype=torch.float64))
    known = {metric.name for metric in METRICS}
    return {name: value for name, value in found.items() if name in known}


def _dimension(
    pack: Runs,
    model: Any,
    snapshot: Snapshot,
    first: npt.NDArray[np.int64],
    sound: npt.NDArray[np.int64],
    inputs: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """`bmd` and `bmd_se` of each sound run's first model, on inputs of the run's seed."""
    seeds, points = pack.column("seed"), int(pack.value("bmd_points"))
    own = [int(seeds[run]) for run in sound]
    return boolean_mean_dimension(model, _lone(snapshot, first), sound, own, inputs, points)


def _lone(snapshot: Snapshot, first: npt.NDArray[np.int64]) -> Snapshot:
    """The snapshot of each run's first model alone, as if runs were lanes."""
    at = torch.as_tensor(first, device=snapshot.lanes.device)
    return replace(
        snapshot,
        lanes=torch.arange(len(first), device=at.device),
        parameters={name: p[at] for name, p in snapshot.parameters.items()},
    )


def _about(
    pool: _Pool, labelled: Tensor, sound: npt.NDArray[np.int64], classes: int
) -> dict[str, npt.NDArray[np.float64]]:
    """What the labelled items of each sound run are like."""
    entropy, balance = [], []
    for run in sound.tolist():
        items, part = labelled[run], pool.part[run]
        log_r = pool.log_r[part][items]
        entropy.append(float(-(log_r.exp() * log_r).sum(-1).mean()))
        counts = torch.bincount(pool.y[part][items], minlength=classes)
        balance.append(float(counts.min()) * classes / len(items))
    return {"labelled_entropy": np.array(entropy), "labelled_balance": np.array(balance)}


def _by_run(failed_at: Tensor, first: npt.NDArray[np.int64], models: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[runs] the step at which the first of a run's models diverged, over all rounds, or -1."""
    at = failed_at.cpu().numpy()
    most = np.iinfo(np.int64).max
    earliest = [
        int(np.where(own < 0, most, own).min()) for own in (at[f : f + m] for f, m in zip(first, models, strict=True))
    ]
    return np.array([-1 if step == most else step for step in earliest])


def _evaluated(pack: Runs, asked: list[list[int]], number: int, layout: Layout, inputs: int) -> npt.NDArray[np.float64]:
    """[runs] FLOPs of evaluations up to a round's: the pool is scored once per earlier round."""
    done = np.array([sum(1 for one in own if one <= number) for own in asked], dtype=float)
    scored = np.array([scored_items(pack.row(i)) for i in range(len(pack))])
    each = int(pack.value("eval_items")) * layout.forward_flops + bmd_flops(pack.row(0), layout, inputs)
    return np.asarray(done * each + number * scored * layout.forward_flops)


def _rows(
    labelled: int,
    here: npt.NDArray[np.int64],
    diverged: npt.NDArray[np.int64],
    columns: dict[str, npt.NDArray[np.float64]],
    flops: npt.NDArray[np.float64],
    flops_eval: npt.NDArray[np.float64],
) -> pa.RecordBatch:
    """A row per run; one that diverged has no metrics, only the step (over all rounds) of it."""
    sound = diverged < 0
    reason = np.array([f"loss {CROSS_ENTROPY.rule} at step {step}" for step in diverged], dtype=object)
    table: dict[str, Any] = {
        "lane": pa.array(here.astype(np.int32)),
        "labelled": pa.repeat(pa.scalar(labelled, pa.int64()), len(here)),
        "status": pa.array(np.where(sound, "ok", "diverged")),
        "error": pa.array(reason, pa.string(), mask=sound),
        "flops": pa.array(flops),
        "flops_eval": pa.array(flops_eval),
    }
    for name, values in columns.items():
        wide = np.full(len(here), np.nan)
        wide[sound] = values
        table[name] = pa.array(wide, mask=~np.isfinite(wide))
    return pa.RecordBatch.from_pydict(table)
