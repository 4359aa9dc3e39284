"""Classifiers trained in a world with an exact posterior: epistemic error against data, width, time, difficulty, k.

Source: arXiv 2602.00315 (section 4.1 scaling, section 4.2 soft labels). Training time is observed under a constant
learning rate; the inference budget k always is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raysweep.axes import Axis, Value
from raysweep.cost import dense_cost
from raysweep.errors import PackError, SweepError
from raysweep.experiment import Context, Cost, Metric, World, WorldShape
from raysweep.runs import Observed, Runs

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    import torch
    from torch import Tensor

    from raysweep.training.loop import Batches, Snapshot

__all__ = ["EXPERIMENT", "Classifier"]

LABELS = ("hard", "argmax", "soft")
_BYTES = {"float32": 4, "float64": 8}
_EVAL_NUMBERS = 1 << 25  # logits in flight during evaluation; lanes are taken in slices to stay below

AXES = (
    Axis("n_train", int, "lane", 1024, low=1, high=2**31 - 1, unit="items", help="training items, nested by data_seed"),
    Axis("labels", str, "lane", "hard", choices=LABELS, help="generating class, argmax of the posterior, posterior"),
    Axis("temperature", float, "lane", 1.0, low=1e-3, high=1e3, help="latent temperature of the world: difficulty"),
    Axis("width", int, "shape", 64, low=1, high=65536, unit="units", help="of each hidden layer"),
    Axis("depth", int, "shape", 2, low=0, high=64, unit="layers", help="hidden layers"),
    Axis("lr", float, "lane", 0.02, low=0.0, help="learning rate, constant"),
    Axis("momentum", float, "lane", 0.9, low=0.0, high=1.0),
    Axis("batch", int, "shape", 64, low=1, high=2**20, unit="items", help="drawn with replacement"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="default of the three seeds below"),
    Axis("data_seed", int, "lane", follows="seed", low=0, high=2**62, role="seed", help="which items are drawn"),
    Axis("init_seed", int, "lane", follows="seed", low=0, high=2**62, role="seed", help="initial parameters"),
    Axis("order_seed", int, "lane", follows="seed", low=0, high=2**62, role="seed", help="batch order"),
    Axis("steps", int, "observed", 2048, low=0, high=2**32 - 1, unit="steps", role="time", help="training time"),
    Axis("k", int, "observed", 1, low=1, high=10**12, unit="draws", help="inference budget of pass_at_k"),
    Axis("pool", int, "shape", 32768, low=1, high=2**26, unit="items", help="world items that data sets are cut from"),
    Axis("eval_items", int, "shape", 4096, low=2, high=2**26, unit="items", help="evaluation sample"),
    Axis("select_items", int, "shape", 2048, low=2, high=2**26, unit="items", help="selection sample, disjoint"),
    Axis("dtype", str, "shape", "float32", choices=tuple(_BYTES), help="of parameters and arithmetic"),
)

_DECOMPOSITION: tuple[tuple[str, str, str, str], ...] = (
    ("total", "nats", "low", "cross-entropy to the exact posterior = aleatoric + epistemic"),
    ("aleatoric", "nats", "low", "entropy of the exact posterior: the floor no classifier beats"),
    ("epistemic", "nats", "low", "KL(posterior || prediction): what could still be learned"),
    ("epistemic_se", "nats", "", "Monte-Carlo standard error of epistemic over its sample"),
    ("nll", "nats", "low", "mean -log q_y on generating labels"),
    ("excess_nll", "nats", "low", "mean -log q_y + log r_y on generating labels; its expectation is epistemic"),
    ("excess_nll_se", "nats", "", "standard error of excess_nll"),
    ("accuracy", "", "high", "rate of argmax q = generating label"),
    ("bayes_accuracy", "", "high", "rate of argmax r = generating label: the Bayes classifier"),
    ("excess_error", "", "low", "bayes_accuracy - accuracy"),
    ("excess_error_se", "", "", "standard error of excess_error, paired"),
    ("ece", "", "low", "expected calibration error, 15 equal-width bins of the top probability"),
    ("posterior_gap", "", "low", "mean |max q - r at argmax q|: calibration without bins"),
    ("pass_at_k", "", "high", "chance that one of k draws from the posterior equals the prediction"),
)
METRICS = tuple(
    Metric(name + suffix, unit, help_ + note, better)  # type: ignore[arg-type]
    for suffix, note in (("", ""), ("_select", "; on the selection sample"))
    for name, unit, better, help_ in _DECOMPOSITION
)


@dataclass(frozen=True)
class Classifier:
    """The `classifier` experiment."""

    name: str = "classifier"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    needs_world: bool = True

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Multi-layer perceptron by SGD with momentum, evaluated on both samples at every snapshot."""
        if world is None:
            raise PackError("classifier: a world is needed to know the input's size")
        steps = observed.values("steps")
        sizes = [world.dim, *[int(run["width"])] * int(run["depth"]), world.classes]
        samples = int(run["eval_items"]) + int(run["select_items"])
        return dense_cost(
            sizes, int(run["batch"]), int(max(steps)), len(steps), samples, _BYTES[str(run["dtype"])], state=1
        )

    def check(self, runs: Runs) -> None:
        """A data set cannot be larger than the pool it is cut from."""
        n, pool = (np.array([v or 0 for v in runs.values[name]])[runs.codes[name]] for name in ("n_train", "pool"))
        if (n > pool).any():
            at = int(np.argmax(n - pool))
            raise SweepError(
                f"grid.n_train: `n_train <= pool` must hold, but got (n_train={n[at]}, pool={pool[at]}). "
                "Make `pool` larger; four times the largest n_train keeps seeds nearly independent"
            )

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Train the pack's lanes together; one batch of rows per snapshot, one row per lane and budget."""
        import torch

        from raysweep.models import MLP, stacked_parameters
        from raysweep.training.loop import train
        from raysweep.training.optim import SGD

        world = context.world
        if world is None:
            raise PackError("classifier: needs a world, but the context has none")
        dtype = torch.float64 if pack.value("dtype") == "float64" else torch.float32
        device = context.device
        module = MLP(world.dim, pack.value("width"), pack.value("depth"), world.classes)
        observed = pack.observed[0]
        steps = [int(s) for s in observed.values("steps")]
        ks = torch.tensor(observed.values("k"), dtype=torch.float64)
        batches = _batches(pack, world, dtype, device)
        held = {s: _Held.draw(pack, world, s, dtype, device) for s in ("eval", "select")}
        optimiser = SGD(
            lr=torch.tensor(pack.column("lr"), dtype=dtype, device=device),
            momentum=torch.tensor(pack.column("momentum"), dtype=dtype, device=device),
        )
        init = torch.tensor(pack.column("init_seed"), dtype=torch.int64)
        parameters = stacked_parameters(module, init, dtype, device)
        longest = self.cost(pack.row(0), observed, world)
        for i, snapshot in enumerate(train(module, parameters, batches, optimiser, steps)):
            columns: dict[str, Any] = {}
            for name, suffix in (("eval", ""), ("select", "_select")):
                for metric, values in held[name].measure(module, snapshot.parameters, ks).items():
                    columns[metric + suffix] = values
            columns["flops"] = np.full(len(pack), longest.flops * snapshot.step / max(steps[-1], 1))
            columns["flops_eval"] = np.full(len(pack), longest.flops_eval * (i + 1) / len(steps))
            yield _rows(snapshot, columns, observed.values("k"))


EXPERIMENT = Classifier()


def _batches(pack: Runs, world: World, dtype: torch.dtype, device: str) -> Batches:
    """The resident pool of every temperature in the pack, and each lane's view of it."""
    import torch

    from raysweep.training.loop import Batches, nested_rows

    size = pack.value("pool")
    temperatures = pack.values["temperature"]
    samples = [world.sample(size, "pool", float(t)) for t in temperatures if t is not None]
    posterior = np.concatenate([s.log_posterior for s in samples])
    eye = np.eye(world.classes)
    kinds = {
        "hard": eye[np.concatenate([s.y for s in samples])],
        "argmax": eye[posterior.argmax(-1)],
        "soft": np.exp(posterior),
    }
    used = [kind for kind in LABELS if kind in pack.values["labels"]]
    pool_of = pack.codes["temperature"].astype(np.int64) * size
    kind_of = np.array([used.index(kind) for kind in pack.column("labels")]) * len(posterior)
    seeds = list(dict.fromkeys(pack.column("data_seed")))

    def tensor(values: Any, to: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values)).to(device=device, dtype=to)

    return Batches(
        x=tensor(np.concatenate([s.x for s in samples]), dtype),
        targets=tensor(np.concatenate([kinds[kind] for kind in used]), dtype),
        rows=nested_rows(seeds, size, max(pack.column("n_train"))).to(device),
        seed_row=tensor([seeds.index(s) for s in pack.column("data_seed")], torch.int64),
        pool_offset=tensor(pool_of, torch.int64),
        target_offset=tensor(kind_of + pool_of, torch.int64),
        n=tensor(pack.column("n_train"), torch.int64),
        order_seed=tensor(pack.column("order_seed"), torch.int64),
        batch=pack.value("batch"),
    )


@dataclass(frozen=True)
class _Held:
    """A held-out sample per temperature, and the lanes that live there."""

    parts: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]  # lanes, x, log posterior, y
    lanes: int

    @staticmethod
    def draw(pack: Runs, world: World, stream: str, dtype: torch.dtype, device: str) -> _Held:
        import torch

        parts = []
        for code, temperature in enumerate(pack.values["temperature"]):
            sample = world.sample(pack.value(f"{stream}_items"), stream, float(temperature or 1.0))
            lanes = torch.from_numpy(np.flatnonzero(pack.codes["temperature"] == code))
            x = torch.from_numpy(sample.x).to(device=device, dtype=dtype)
            log_r, y = torch.from_numpy(sample.log_posterior).to(device), torch.from_numpy(sample.y).to(device)
            parts.append((lanes.to(device), x, log_r, y))
        return _Held(tuple(parts), len(pack))

    def measure(self, module: Any, parameters: dict[str, Tensor], ks: Tensor) -> dict[str, np.ndarray]:
        """{metric: [lanes] or, for pass_at_k, [lanes, budgets]}."""
        import torch

        from raysweep.metrics import decompose, expected_calibration_error, pass_at_k, posterior_gap
        from raysweep.training.loop import forward

        found: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for all_lanes, x, log_r, y in self.parts:
                for lanes in torch.split(all_lanes, max(1, _EVAL_NUMBERS // log_r.numel())):
                    own = {name: p[lanes] for name, p in parameters.items()}
                    log_q = torch.log_softmax(forward(module, own, x).double(), dim=-1)
                    values = decompose(log_q, log_r, y)
                    values["ece"] = expected_calibration_error(log_q, y)
                    values["posterior_gap"] = posterior_gap(log_q, log_r)
                    values["pass_at_k"] = pass_at_k(log_q, log_r, ks)
                    for name, value in values.items():
                        shape = (self.lanes, *value.shape[1:])
                        found.setdefault(name, np.full(shape, np.nan))[lanes.cpu().numpy()] = value.cpu().numpy()
        return found


def _rows(snapshot: Snapshot, columns: Mapping[str, np.ndarray], ks: Sequence[Value]) -> pa.RecordBatch:
    """Lane by lane, budget by budget. A diverged lane has no metrics, only the step it was frozen at."""
    diverged = snapshot.diverged_at.cpu().numpy()
    finite = np.isfinite(columns["total"]) & np.isfinite(columns["total_select"])
    lanes, budgets = len(diverged), len(ks)
    ok = np.repeat((diverged < 0) & finite, budgets)
    reason = [
        f"loss not finite at step {d}" if d >= 0 else f"loss not finite by step {snapshot.step}" for d in diverged
    ]
    table: dict[str, Any] = {
        "lane": pa.array(np.repeat(np.arange(lanes, dtype=np.int32), budgets)),
        "steps": pa.repeat(pa.scalar(snapshot.step, pa.int64()), lanes * budgets),
        "k": pa.array(np.tile(np.array(ks, dtype=np.int64), lanes)),
        "status": pa.array(np.where(ok, "ok", "diverged")),
        "error": pa.array(np.repeat(np.array(reason, dtype=object), budgets), pa.string(), mask=ok),
    }
    for name, values in columns.items():
        flat = values.reshape(-1) if values.ndim == 2 else np.repeat(values, budgets)
        cost = name in ("flops", "flops_eval")
        table[name] = pa.array(flat, mask=None if cost else ~ok)
    return pa.RecordBatch.from_pydict(table)
