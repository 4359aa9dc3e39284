"""A small experiment that keeps every rule of an Experiment, and ways to break them one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value

AXES = (
    Axis("size", int, "lane", 4, low=1, high=4096),
    Axis("rate", float, "lane", 0.5, low=0.0),
    Axis("repeats", int, "lane", 1, low=1, high=64),
    Axis("seed", int, "lane", 0, role="seed"),
    Axis("plan", str, "shape", "open", choices=("open", "fixed")),
    Axis("steps", int, KindBy("plan", {"fixed": "lane"}, "observed"), 4, low=1, high=1000, role="time"),
)


@dataclass(frozen=True)
class Toy:
    """Noisy descent of one number per run. A rate above 2 diverges. Work grows with size, and is done `repeats` times,
    where the plan is fixed.
    """

    name: str = "toy"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = (Metric("loss", "", "value^2 + 1 / size", "low"), Metric("value"))
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        times = [run["steps"]] if run["plan"] == "fixed" else observed.values("steps")
        repeats = float(run["repeats"]) if run["plan"] == "fixed" else 1.0
        return Cost(flops=float(run["size"]) * float(max(times)) * repeats, bytes=8.0 * float(run["size"]))

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        pass

    def noise(self, pack: Runs, step: int) -> np.ndarray[Any, Any]:
        return np.array([np.random.default_rng([seed, step]).standard_normal() for seed in pack.column("seed")])

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        fixed = pack.value("plan") == "fixed"
        ends = np.array(pack.column("steps")) if fixed else np.full(len(pack), max(pack.observed[0].values("steps")))
        size, rate = np.array(pack.column("size")), np.array(pack.column("rate"))
        each = size * (np.array(pack.column("repeats")) if fixed else 1)
        value, done = np.full(len(pack), 3.0), 0
        keep = context.keep
        if keep is not None and (saved := keep.saved) is not None:
            state = load(saved.data)
            value, done = self.resumed(state["value"][list(saved.runs)]), int(state["step"][0])
        for step in range(done + 1, int(ends.max()) + 1):
            value = value - rate * value + 0.1 * self.noise(pack, step)
            lanes = np.flatnonzero(ends == step) if fixed else np.arange(len(pack))
            if len(lanes) and (fixed or step in pack.observed[0].values("steps")):
                yield self.batch(lanes, step, value, size, each, rate)
            if keep is not None and keep.due(value.nbytes):
                now = {"value": value.copy(), "step": np.array([step])}
                keep.save(step, lambda about, now=now: save(now, about))

    def resumed(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return value

    def batch(self, lanes: Any, step: int, value: Any, size: Any, each: Any, rate: Any) -> pa.RecordBatch:
        bad = rate[lanes] > 2
        columns: dict[str, Any] = {
            "lane": pa.array(lanes.astype(np.int32)),
            "steps": pa.array([step] * len(lanes)),
            "status": pa.array(np.where(bad, "diverged", "ok")),
            "error": pa.array(np.where(bad, "rate above 2", ""), pa.string(), mask=~bad),
            "loss": pa.array((value**2 + 1 / size)[lanes], mask=bad),
            "value": pa.array(value[lanes], mask=bad),
            "flops": pa.array((each * step)[lanes].astype(float)),
        }
        return pa.RecordBatch.from_pydict(columns)

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        rate, size = (cells[name].to_numpy() for name in ("rate", "size"))
        bad = rate > 2
        reason = pa.array(np.where(bad, "a rate above 2 diverges", ""), pa.string(), mask=~bad)
        return pa.table({"loss": pa.array(1 / size, pa.float64(), mask=bad), "reason": reason})


TOY = Toy()


class Impure(Toy):
    """A cost that depends on what was priced before."""

    seen: list[float] = []  # noqa: RUF012

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        self.seen.append(1.0)
        return Cost(flops=float(len(self.seen)))


class Modest(Toy):
    """A cost that leaves out `repeats`, which its rows report."""

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        return super().cost({**run, "repeats": 1}, observed, world)


class Repeating(Toy):
    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        for batch in super().run(pack, context):
            yield batch
            yield batch.slice(0, 1)


class Forgetful(Toy):
    """Skips the first time asked for."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        batches = super().run(pack, context)
        next(batches)
        yield from batches


class Abrupt(Toy):
    """Raises at its end, as one does whose `keep.save` has another signature."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        for batch in super().run(pack, context):
            yield batch
            if "ok" in batch["status"].to_pylist():
                raise TypeError("save() takes 3 arguments")


class Silent(Toy):
    """Yields one metric less than it declares."""

    def batch(self, *arguments: Any) -> pa.RecordBatch:
        return super().batch(*arguments).drop_columns(["value"])


class Wordy(Toy):
    """A metric that is text."""

    def batch(self, *arguments: Any) -> pa.RecordBatch:
        made = super().batch(*arguments)
        return made.set_column(made.schema.get_field_index("value"), "value", pa.array(["1"] * len(made)))


class Fragile(Toy):
    """One run that cannot be trained ends its whole pack."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        if max(pack.column("rate")) > 2:
            raise ValueError("rate above 2")
        yield from super().run(pack, context)


class Placed(Toy):
    """Draws noise by the place in the pack."""

    def noise(self, pack: Runs, step: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng(step).standard_normal(len(pack))


class Amnesic(Toy):
    """Goes on from a saved state with something missing."""

    def resumed(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.round(value, 2)


class Sly(Axis):
    """An axis whose kind no ledger can know."""

    def kind_for(self, cell: Mapping[str, Value]) -> Any:
        return "lane" if cell.get("plan") == "fixed" else "observed"


class Secretive(Toy):
    def __init__(self) -> None:
        steps = Sly("steps", int, "observed", 4, low=1, high=1000, role="time")
        super().__init__(axes=(*AXES[:-1], steps))


class Speechless(Toy):
    """A theory without a reason for what it does not say."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        return super().theory(cells, metrics).set_column(1, "reason", pa.nulls(len(cells), pa.string()))


class Sorted(Toy):
    """A theory that answers in an order of its own."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        return super().theory(cells.sort_by("size"), metrics)


class Unprepared(Toy):
    """A theory that needs a row."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        cells["rate"][0]
        return super().theory(cells, metrics)
