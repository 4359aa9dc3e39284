"""A small experiment that keeps every rule of an Experiment, and ways to break them one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import load, save

from raysweep.display import Display
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


class Endless(Toy):
    """A cost without an end where the work grows."""

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        return Cost(flops=float("inf") if run["size"] == 64 else 1.0)


class Indebted(Toy):
    """A cost below 0."""

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        return Cost(bytes=-8.0)


class Remembering(Toy):
    """A cost that is kept for all runs of a plan, whatever their size."""

    kept: dict[Value, Cost] = {}  # noqa: RUF012

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        return self.kept.setdefault(run["plan"], super().cost(run, observed, world))


class Lavish(Toy):
    """A cost above what its rows report, by a factor that several times could explain."""

    factor = 1.5

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        found = super().cost(run, observed, world)
        return replace(found, flops=self.factor * found.flops) if run["plan"] == "open" else found


class Reckless(Lavish):
    """A cost far above what its rows report."""

    factor = 1e6


class Changed(Toy):
    """Rows with one column changed."""

    column = ""

    def batch(self, *arguments: Any) -> pa.RecordBatch:
        rows = super().batch(*arguments).to_pylist()
        return pa.RecordBatch.from_pylist([{**row, self.column: self.changed(row)} for row in rows])

    def changed(self, row: Mapping[str, Any]) -> Any:
        raise NotImplementedError


class Spelt(Changed):
    """An observed number as text."""

    column = "steps"

    def changed(self, row: Mapping[str, Any]) -> Any:
        return str(row["steps"])


class Generous(Changed):
    """A column that is not declared."""

    column = "norm"

    def changed(self, row: Mapping[str, Any]) -> Any:
        return 1.0


class Chatty(Toy):
    """A row at a time that no cell asks for."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        for batch in super().run(pack, context):
            yield batch
            if pack.value("plan") == "open":
                yield pa.RecordBatch.from_pylist([{**row, "steps": 999} for row in batch.to_pylist()])


class Careless(Toy):
    """Works on the arrays of its pack."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        yield from super().run(pack, context)
        pack.codes["size"][:] = 0


class Divisive(Toy):
    """Resumes some, but not all lanes of a state wrongly."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        saved = context.keep.saved if context.keep else None
        self.wrong.append(saved is not None and 1 < len(pack) < saved.of)
        yield from super().run(pack, context)

    wrong: list[bool] = []  # noqa: RUF012

    def resumed(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return value + self.wrong[-1]


class Alternating(Toy):
    """Every second state lacks something."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        saved = context.keep.saved if context.keep else None
        self.wrong.append(saved is not None and load(saved.data)["step"][0] % 2 == 0)
        yield from super().run(pack, context)

    wrong: list[bool] = []  # noqa: RUF012

    def resumed(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return value + self.wrong[-1]


class Hasty(Toy):
    """A loss in units of the longest time asked for. It saves no states."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        last = max(pack.observed[0].values("steps") if pack.value("plan") == "open" else pack.column("steps"))
        for batch in super().run(pack, replace(context, keep=None)):
            if pack.value("plan") == "open":
                at = batch.schema.get_field_index("loss")
                batch = batch.set_column(at, "loss", pc.multiply(batch["loss"], float(last)))
            yield batch


class Touchy(Toy):
    """A value that grows with each earlier reading. It saves no states."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        seen = 0
        for batch in super().run(pack, replace(context, keep=None)):
            at = batch.schema.get_field_index("value")
            yield batch.set_column(at, "value", pc.add(batch["value"], float(seen)))
            seen += pack.value("plan") == "open"


class Shifted(Changed):
    """Counts lanes from 1 downwards."""

    column = "lane"

    def changed(self, row: Mapping[str, Any]) -> Any:
        return -1 - row["lane"]


class Timed(Changed):
    """A metric that measures the machine: here, how many rows it made before."""

    column = "value"
    made: list[float] = []  # noqa: RUF012

    def changed(self, row: Mapping[str, Any]) -> Any:
        self.made.append(1.0)
        return None if row["value"] is None else float(len(self.made))


class Converging(Changed):
    """May stop after two steps, and then does not say how much it did."""

    column = "flops"

    def changed(self, row: Mapping[str, Any]) -> Any:
        return None if row["steps"] > 2 else row["flops"]


class Central(Toy):
    """A cost that is wrong for one size in the middle, as if its two last times had been trained apart."""

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        found = super().cost(run, observed, world)
        return replace(found, flops=1.5 * found.flops) if run["size"] == 32 else found


class Dazzling(Toy):
    """Shows a column that it does not have."""

    display = Display(x="sise")
