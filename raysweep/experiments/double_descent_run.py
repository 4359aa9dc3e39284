"""The rows of a pack of `double_descent`: an adversarial initialisation, if asked for, and the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raysweep.experiment import Context
from raysweep.experiments.double_descent import METRICS, VARIANCE_POINTS, Work, architecture_of, measures_of, steps_of
from raysweep.experiments.double_descent_scores import Scores
from raysweep.experiments.double_descent_task import Task, task_of
from raysweep.experiments.own_inputs import mean_dimensions
from raysweep.grid.runs import Runs
from raysweep.metrics.attacks import fgsm
from raysweep.metrics.measures import Gaussian, Marginals, Measure, Uniform
from raysweep.models.initial import he_parameters
from raysweep.streams import member_seed
from raysweep.training.batches import Batches
from raysweep.training.legs import Leg
from raysweep.training.loop import Inputs, Snapshot, train
from raysweep.training.loss import CROSS_ENTROPY, LOGISTIC, SQUARE, Loss, signed
from raysweep.training.optim import Optimiser, Parameters
from raysweep.training.precision import compute_dtype, parameter_dtype, products
from raysweep.training.probe import fastest_conv
from raysweep.training.saved import Stage
from raysweep.training.schedule import Schedule
from raysweep.training.whole import Whole

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["trained"]

Array: TypeAlias = npt.NDArray[np.float64]

_LOSSES = {"cross_entropy": CROSS_ENTROPY, "square": SQUARE, "logistic": LOGISTIC}
_ADAM = (0.9, 0.999, 1e-8)  # beta1, beta2, eps
_FAILED, _MISSED = "failed_at", "missed"  # what pretraining leaves besides parameters


class _Lanes:
    """Numbers of a pack's lanes as tensors."""

    def __init__(self, pack: Runs, device: str) -> None:
        self.pack, self.device = pack, device
        self.dtype = parameter_dtype(pack.value("precision"))

    def __call__(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(device=self.device, dtype=dtype or self.dtype)

    def column(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self(self.pack.column(name), dtype)

    def batches(self, task: Task, seeds: list[int]) -> Batches:
        """Minibatches of every lane's items, with noisy labels."""
        pack, whole = self.pack, torch.int64
        place = torch.tensor([seeds.index(seed) for seed in pack.column("seed")])
        offset = task.offset[place].to(self.device)
        # A teacher's flip is the other one of two classes, of which a random label is one half of the time.
        noise = self.column("label_noise", torch.float64) * (2 if pack.value("task") == "teacher" else 1)
        seed = self.column("seed", whole)
        return Batches(
            x=torch.from_numpy(task.x).to(self.device, self.dtype),
            targets=self(np.eye(task.classes)[task.y]),
            rows=task.rows.contiguous().to(self.device),
            batch=pack.value("batch"),
            seed_row=place.to(self.device),
            pool_offset=offset,
            target_offset=offset,
            n=self.column("n_train", whole),
            order_seed=seed,
            data_seed=seed,
            label_noise=noise if bool(noise.any()) else None,
        )

    def optimiser(self, decay: bool) -> Optimiser:
        lr, wd = self.column("lr"), self.column("weight_decay")
        beta1, beta2, eps = (torch.full_like(lr, value) for value in _ADAM)
        return Optimiser(
            "adamw" if self.pack.value("optimiser") == "adam" else "sgd",
            lr, self.column("momentum"), beta1, beta2, eps, wd if decay and bool(wd.any()) else None,
        )  # fmt: skip

    def schedule(self, kind: str) -> Schedule:
        horizon = self.column("steps") if kind == "drop" else self([0] * len(self.pack))
        return Schedule.make(kind, torch.zeros_like(horizon), horizon)


def trained(pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
    """A batch of rows per time."""
    device, precision = context.device, pack.value("precision")
    lanes, seeds = _Lanes(pack, device), list(dict.fromkeys(pack.column("seed")))
    architecture, task, before = architecture_of(pack.row(0)), task_of(pack, seeds), int(pack.value("pretrain"))
    batches, compute = lanes.batches(task, seeds), compute_dtype(precision)
    eps = float(pack.value("attack"))
    with products(precision):
        tf32, items = precision == "tf32", int(pack.value("batch")) or int(pack.value("n_train"))
        conv = fastest_conv(architecture, len(pack), items, compute, device, tf32)
        model = architecture.model(conv, tf32)
        # The fused convolution has no gradient by images.
        attackable = architecture.model("grouped", tf32) if conv == "fused" else model
        loss = _LOSSES[pack.value("loss")]
        signs = loss if architecture.outputs < task.classes else None
        scores = Scores(model, signed(loss) if signs else loss, signs, batches, task.tests.to(device), compute)
        start = he_parameters(architecture, batches.data_seed, lanes.dtype, device, lanes.column("init_scale"))
        failed = torch.full_like(batches.data_seed, -1)
        missed = torch.full(failed.shape, torch.nan, dtype=torch.float64, device=device)
        stage = Stage(0, {**start, _FAILED: failed, _MISSED: missed} if before else {})
        stage = stage.resumed(context.keep, latest=1 if before else 0)
        initial = {name: p.clone() for name, p in start.items()} if pack.value("complexity") else {}
        if before:
            if stage.number == 0:
                stage = _pretrained(stage, scores, start, lanes, before, context)
            start = {name: stage.carried[name].clone() for name in start}
            failed, missed = stage.carried[_FAILED], stage.carried[_MISSED]
        report = _Report(pack, scores, attackable, initial, task, failed.cpu().numpy(), missed.cpu().numpy())
        stack = train(
            attackable if eps else model,
            start,
            batches if batches.batch else Whole.of(batches),
            lanes.optimiser(decay=True),
            lanes.schedule(pack.value("schedule")),
            [Leg(time, True) for time in report.times],
            compute,
            context.keep,
            loss=scores.loss,
            stage=stage,
            inputs=_against(scores.loss, eps) if eps else None,
        )
        for snapshot in stack:
            yield report.rows(snapshot)


def _against(loss: Loss, eps: float) -> Inputs:
    """Inputs moved by eps against the model as it is."""

    def moved(model: Model, own: Parameters, x: Tensor, targets: Tensor) -> Tensor:
        return fgsm(model, own, x, targets, eps, loss=loss)

    return moved


def _pretrained(stage: Stage, scores: Scores, start: Parameters, lanes: _Lanes, steps: int, context: Context) -> Stage:
    """The stage that begins with weights fitted to random labels of the same items."""
    batches = scores.batches
    other = member_seed(batches.data_seed, torch.ones_like(batches.data_seed))  # labels that noise does not repeat
    chance = torch.ones(len(batches), dtype=torch.float64, device=other.device)
    wrong = replace(batches, label_noise=chance, data_seed=other, order_seed=other)
    (last,) = train(
        scores.model,
        {name: p.clone() for name, p in start.items()},
        wrong if wrong.batch else Whole.of(wrong),
        lanes.optimiser(decay=False),
        lanes.schedule("constant"),
        [Leg(steps, True)],
        scores.compute,
        context.keep,
        loss=scores.loss,
        stage=stage,
    )
    missed = torch.full(other.shape, torch.nan, dtype=torch.float64)
    missed[last.lanes.cpu()] = torch.from_numpy(replace(scores, batches=wrong).trained(last.parameters, last.lanes)[1])
    return Stage(1, {**last.filled(start), _FAILED: last.diverged_at, _MISSED: missed.to(other.device)})


class _Report:
    """Rows of snapshots."""

    def __init__(
        self,
        pack: Runs,
        scores: Scores,
        attackable: Model,
        initial: Parameters,
        task: Task,
        failed: npt.NDArray[np.int64],
        missed: Array,
    ) -> None:
        asked = pack.observed[0]
        self.pack, self.scores, self.initial, self.failed, self.missed = pack, scores, initial, failed, missed
        self.attackable = replace(scores, model=attackable)
        self.measures: dict[str, Measure] = {"uniform": Uniform(), "gaussian": Gaussian()}
        if task.marginals is not None:
            self.measures["marginals"] = Marginals(torch.from_numpy(task.marginals).to(scores.tests.device))
        self.own_times = [steps_of(pack.row(i), asked) for i in range(len(pack))]
        self.times = sorted({time for times in self.own_times for time in times})
        self.work = [Work.of(pack.row(i)) for i in range(len(pack))]
        self.evaluation = np.array([work.evaluation(asked) for work in self.work])

    def rows(self, snapshot: Snapshot) -> pa.RecordBatch:
        """Rows of the runs that are read at this step: all runs for each of the other observed values in turn. One
        that diverged has only the step of it."""
        step, pack, asked = snapshot.step, self.pack, self.pack.observed[0]
        here = np.array([i for i, times in enumerate(self.own_times) if step in times])
        at = snapshot.diverged_at.cpu().numpy()[here]
        failed = self.failed[here]
        sound = (at < 0) & (failed < 0)
        wanted = [dict(zip(asked.names, values, strict=True)) for values in asked.cells.values()]
        wanted = [cell for cell in wanted if cell.get("steps", step) == step]
        values = {metric.name: np.full((len(wanted), len(here)), np.nan) for metric in METRICS}
        if sound.any():
            self._measure(snapshot, here[sound], sound, wanted, values)
        good = np.tile(sound, (len(wanted), 1)) & np.isfinite(values["train_loss"] + values["test_loss"])
        rule = self.scores.loss.rule
        reason = [
            f"pretraining: loss {rule} at step {f}" if f >= 0
            else f"loss {rule} at step {a}" if a >= 0
            else f"loss not finite by step {step}"
            for a, f in zip(at.tolist(), failed.tolist(), strict=True)
        ]  # fmt: skip
        before, done = int(pack.value("pretrain")), np.where(at < 0, step, at)
        work = [self.work[i] for i in here]
        flops = [before * w.step + d * (w.step + w.attacked) for w, d in zip(work, done.tolist(), strict=True)]
        read = np.array([sum(time <= step for time in self.own_times[i]) for i in here])
        spent = np.array([w.before for w in work]) + read * self.evaluation[here]
        if self.initial:
            spent = np.full(len(here), np.nan)  # the search for an eigenvalue may end early
        observed = {name: pa.array(np.repeat([cell[name] for cell in wanted], len(here))) for name in asked.names}
        every = len(wanted)
        return pa.RecordBatch.from_pydict(
            {
                "lane": pa.array(np.tile(here, every), pa.int32()),
                **observed,
                "status": pa.array(np.where(good, "ok", "diverged").ravel()),
                "error": pa.array(np.tile(np.array(reason, dtype=object), every), pa.string(), mask=good.ravel()),
                "flops": pa.array(np.tile(flops, every)),
                "flops_eval": pa.array(np.tile(spent, every), mask=np.isnan(np.tile(spent, every))),
                **{n: pa.array(v.ravel(), mask=~(good & np.isfinite(v)).ravel()) for n, v in values.items()},
            }
        )

    def _measure(
        self,
        snapshot: Snapshot,
        runs: npt.NDArray[np.int64],
        sound: npt.NDArray[np.bool_],
        wanted: Sequence[Mapping[str, Any]],
        values: Mapping[str, Array],
    ) -> None:
        """Fill values [wanted, here] of runs that are sound."""
        pack, scores = self.pack, self.scores
        lanes = torch.from_numpy(runs).to(snapshot.lanes.device)
        slots = torch.searchsorted(snapshot.lanes, lanes)
        own = {name: p[slots] for name, p in snapshot.parameters.items()}
        found: dict[str, Array] = {"pretrain_error": self.missed[runs]}
        found["train_loss"], found["train_error"] = scores.trained(own, lanes)
        found["test_loss"], found["test_error"] = scores.tested(own, lanes)
        contributions = None
        if points := int(pack.value("bmd_points")):
            every, inputs = pack.column("seed"), scores.batches.x.shape[1]
            seeds = [int(every[run]) for run in runs]
            chosen = (scores.model, own, seeds, inputs, points, VARIANCE_POINTS)
            bits = mean_dimensions(*chosen)
            found |= {"bmd": bits.value, "bmd_se": bits.error}
            contributions = bits.contributions
            for name in measures_of(pack.row(0)):
                found[f"md_{name}"] = mean_dimensions(*chosen, self.measures[name]).value
        if self.initial:
            found |= self.attackable.complexity(own, {name: p[lanes] for name, p in self.initial.items()}, lanes)
        for name, value in found.items():
            values[name][:, sound] = value
        steps = int(pack.value("pgd_steps"))
        by_eps = {e: self.attackable.attacked(own, lanes, e, steps) for e in {cell["eps"] for cell in wanted} if e}
        by_share = {s: scores.flipped(own, lanes, s) for s in {cell["share"] for cell in wanted} if s}
        for i, cell in enumerate(wanted):
            for name, value in by_eps.get(cell["eps"], {}).items():
                values[name][i, sound] = value
            if cell["share"]:
                values["flip_error"][i, sound] = by_share[cell["share"]]
            if cell["pixel"] >= 0 and contributions is not None:
                values["contribution"][i, sound] = contributions[:, cell["pixel"]]
