"""A toy experiment with all that the classifier lacks: real targets, a square loss, no world, and two axes of time.

A run trains in rounds. After each round it chooses more items to train on by what it has learned, and goes on from
there with a fresh optimiser. `round` and `step` (within a round) are observed. The model's outputs are centred and
divided by a richness, which is a lane axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raysweep.errors import SweepError
from raysweep.experiment import Context, Cost, Items, Metric, WorldShape
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.models import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from raysweep.training.loop import Snapshot

__all__ = ["REGRESSION_SWEEP", "RegressionToy"]

REGRESSION_SWEEP: dict[str, Any] = {
    "name": "regression",
    "experiment": "regression_toy:RegressionToy",
    "grid": {
        "width": [4, 8],
        "lr": 0.1,
        "richness": [0.5, 1.0],
        "seed": {"range": 2},
        "round": [0, 1, 2],
        "step": [8, 16, 40],
    },
    "fit": [{"law": "power", "x": "step", "y": "loss", "by": ["round", "width"]}],
}

AXES = (
    Axis("width", int, "shape", 8, low=1, high=512, unit="units", help="of the hidden layer"),
    Axis("batch", int, "shape", 32, low=1, high=512, unit="items"),
    Axis("length", int, "shape", 40, low=1, high=10_000, unit="steps", help="of a round"),
    Axis("lr", float, "lane", 0.05, low=0.0, help="learning rate"),
    Axis("richness", float, "lane", 1.0, low=1e-6, high=1e6, help="what outputs are divided by"),
    Axis("seed", int, "lane", 0, low=0, high=2**30, role="seed", help="first items, initial parameters, order"),
    Axis("round", int, "observed", 0, low=0, high=23, unit="rounds", role="time", help="of choosing items"),
    Axis("step", int, "observed", 40, low=1, high=10_000, unit="steps", role="time", help="within a round"),
)
METRICS = (
    Metric("loss", "", "half the mean squared distance to the targets", "low"),
    Metric("loss_select", "", "the same on the selection sample", "low"),
    Metric("labelled", "items", "that the round trains on"),
)
_POOL, _HELD, _FIRST, _MORE = 200, 64, 24, 24  # items: to choose from, held out, of round 0, that a round adds


@dataclass(frozen=True)
class RegressionToy:
    """The experiment."""

    name: str = "regression"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """All rounds up to the last that is asked for; it is trained to the last step asked of it."""
        layout, batch = _architecture(run).layout, int(run["batch"])
        asked = _asked(observed)
        steps = int(run["length"]) * max(asked) + max(asked[max(asked)])
        snapshots = sum(map(len, asked.values()))
        return Cost(
            parameters=layout.size,
            flops=float(steps * batch * (layout.forward_flops + layout.backward_flops)),
            flops_eval=float(snapshots * 2 * _HELD * layout.forward_flops),
            bytes=float(8 * (4 * layout.size + 3 * batch * layout.activations)),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """A step lies within its round."""
        last = max(max(observed.values("step")) for observed in runs.observed)
        if last > (length := min(v for v in runs.values["length"] if v is not None)):
            raise SweepError(f"grid.step: `step <= length` must hold, but got (step={last}, length={length})")

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Train the pack's lanes together, round by round; one batch of rows per snapshot."""
        import torch

        from raysweep.models.initial import initial_parameters
        from raysweep.models.outputs import RICHNESS, centred, initial_values, scaled
        from raysweep.training.batches import Batches, nested_rows
        from raysweep.training.legs import Leg
        from raysweep.training.loop import forward, train
        from raysweep.training.loss import SQUARE
        from raysweep.training.optim import Optimiser
        from raysweep.training.saved import Stage
        from raysweep.training.schedule import Schedule

        architecture, asked = _architecture(pack.row(0)), _asked(pack.observed[0])
        length, batch, device = pack.value("length"), pack.value("batch"), context.device
        items = _items()

        def lanes(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        zero, seed = lanes([0.0] * len(pack)), torch.tensor(pack.column("seed"), device=device)
        start = initial_parameters(architecture, seed, torch.float64, device)
        frozen = {**initial_values(start), RICHNESS: lanes(pack.column("richness"))}
        model = scaled(centred(architecture.model()))
        x = torch.from_numpy(items.x).to(device, torch.float64)
        a_step = batch * (architecture.layout.forward_flops + architecture.layout.backward_flops)
        held = 2 * _HELD * architecture.layout.forward_flops

        begun = {
            **start,
            "order": nested_rows(pack.column("seed"), _POOL, _POOL).to(device),
            "failed_at": torch.full_like(seed, -1),
        }
        stage = Stage(0, begun).resumed(context.keep, latest=min(asked))
        for number in range(stage.number, max(asked) + 1):
            order, labelled = stage.carried["order"], _FIRST + _MORE * number
            failed_at = stage.carried["failed_at"]
            wanted = asked.get(number, [])
            ends = wanted if number == max(asked) else sorted({*wanted, length})
            found = train(
                model,
                {name: stage.carried[name].clone() for name in start},
                Batches.over(items, batch, order, torch.full_like(seed, labelled), seed + (number << 32), seed,
                             torch.float64),
                Optimiser("sgd", lanes(pack.column("lr")), zero, zero, zero, zero),
                Schedule.make("constant", zero, zero),
                [Leg(end, True) for end in ends],
                keep=context.keep,
                loss=SQUARE,
                frozen=frozen,
                stage=stage,
            )  # fmt: skip
            for snapshot in found:
                own = torch.where(snapshot.diverged_at < 0, -1, number * length + snapshot.diverged_at)
                failed = torch.where(failed_at < 0, own, failed_at)
                if snapshot.step in wanted:
                    out = forward(model, snapshot.parameters, x[_POOL:])
                    past = [step for r in asked for step in asked[r] if (r, step) <= (number, snapshot.step)]
                    spent = {"flops": a_step * (number * length + snapshot.step), "flops_eval": held * len(past)}
                    yield _rows(number, snapshot, failed, out, items, {**spent, "labelled": labelled})
                end = snapshot
            if number < max(asked):
                carried = end.filled({name: stage.carried[name] for name in start})
                # Where its outputs are largest comes next.
                size = forward(model, {**frozen, **carried}, x[:_POOL]).square().sum(-1)
                rest = order[:, labelled:]
                picked = rest.gather(1, size.gather(1, rest).argsort(dim=1, descending=True, stable=True))
                order = torch.cat([order[:, :labelled], picked], 1)
                stage = Stage(number + 1, {**carried, "order": order, "failed_at": failed})


def _architecture(run: Mapping[str, Value]) -> Architecture:
    return Architecture("mlp", 2, 2, int(run["width"]), 1, "tanh")


def _asked(observed: Observed) -> dict[int, list[int]]:
    """{round: its steps that are asked for}."""
    place = [observed.names.index(name) for name in ("round", "step")]
    pairs = sorted((int(values[place[0]]), int(values[place[1]])) for values in observed.cells.values())
    return {r: [step for at, step in pairs if at == r] for r, _ in pairs}


def _items() -> Items:
    """The pool, then the evaluation and the selection sample."""
    x = np.random.Generator(np.random.Philox(key=7)).uniform(-1, 1, (_POOL + 2 * _HELD, 2))
    return Items(x, np.stack([np.sin(3 * x[:, 0]), x[:, 0] * x[:, 1]], 1))


def _rows(
    number: int, snapshot: Snapshot, failed: Tensor, out: Tensor, items: Items, same: Mapping[str, float]
) -> pa.RecordBatch:
    """A row for each lane; of one that diverged, only when."""
    squares = ((out.cpu().numpy() - items.y[_POOL:]) ** 2).sum(-1) / 2
    at = failed.cpu().numpy()
    sound = at < 0
    columns: dict[str, Any] = {
        "lane": pa.array(np.arange(len(at)), pa.int32()),
        "round": pa.repeat(number, len(at)),
        "step": pa.repeat(snapshot.step, len(at)),
        "status": pa.array(np.where(sound, "ok", "diverged")),
        "error": pa.array([None if a < 0 else f"diverged at step {a}" for a in at.tolist()], pa.string()),
    }
    for name, part in (("loss", slice(None, _HELD)), ("loss_select", slice(_HELD, None))):
        values = np.full(len(at), np.nan)
        values[snapshot.lanes.cpu().numpy()] = squares[:, part].mean(1)
        columns[name] = pa.array(values, mask=~sound)
    columns |= {name: pa.repeat(float(value), len(at)) for name, value in same.items()}
    return pa.RecordBatch.from_pydict(columns)
