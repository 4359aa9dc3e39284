"""A solvable two-layer model that learns features (arXiv 2409.17858): its gradient flow exactly, or step by step.

`method: exact` integrates the reduction of `theory.features`, for all lanes of a pack at once; `method: steps` is
gradient descent of the model itself (`features_steps`), with full batches, minibatches or a fixed data set. Both read
the loss off at any times t = step size x steps.

The model has N features of M inputs, f = w' B A0 psi / N. In the basis of the eigenvectors of its initial kernel that
is N independent features of variance x_i, of which the target has the mass m_i; the rest of the target is noise to
it. So neither method ever holds an N x M matrix beyond the first eigendecomposition, and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.display import Companion, Display
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.features_check import MOST_LOSS, check_runs
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.theory.features import Modes, alike, flow, modes_of_width, power_law_modes
from raysweep.theory.kernel_limit import lazy_curve, reused_data_curve

__all__ = ["EXPERIMENT", "Features", "all_modes"]

Array: TypeAlias = npt.NDArray[np.float64]

# `flow` takes lanes of any widths at once, but each width is a pack of its own. As lanes of one pack, widths gained
# nothing in speed (22.8 s of CPU for 21.3), and a plan, which reckons with the widest lane's memory for each, made more
# packs that repeat eigendecompositions: 414 GFLOP for 46 in features_phase, 4,988 for 1,534 in features_frontier.
# See docs/features.md.
AXES = (
    Axis("method", str, "shape", "exact", choices=("exact", "steps"), help="the reduced flow, or gradient descent"),
    Axis("alpha", float, "lane", 1.5, low=1.01, high=10.0, help="capacity: kernel eigenvalues fall as k^-alpha"),
    Axis("beta", float, "lane", 0.5, low=0.05, high=10.0, help="source: the target's tail falls as k^-(alpha beta)"),
    Axis("gamma", float, "lane", 0.0, low=0.0, high=1e4, help="richness; 0 is the lazy limit"),
    Axis("target", str, "lane", "power", choices=("power", "random"), help="the power law, or Gaussian coefficients by "
         "the seed whose mean squares are that law"),
    Axis("width", int, "shape", 0, low=0, high=4096, unit="units", help="N; 0: no bottleneck"),
    Axis("inputs", int, "shape", 0, low=0, high=65536, unit="modes", help="M; 0: 8 N, at most 16,384; without a width "
         "all modes (exact) or 800 (steps)"),
    Axis("eta", float, "lane", 0.05, low=1e-9, high=1e3, help="step size; for exact, only with a batch"),
    Axis("batch", int, "shape", 0, low=0, high=2**20, unit="items", help="fresh items a step; 0: the population"),
    Axis("n_train", int, "shape", 0, low=0, high=2**20, unit="items", help="P, a data set used whole; 0: fresh data"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="of the initial features, the target, the data"),
    Axis("t", float, "observed", 100.0, low=1e-6, high=1e12, role="time", help="time: step size x steps"),
)  # fmt: skip
METRICS = (
    Metric("loss", "", "population loss over that of the zero function (of random targets: over their mean)", "low"),
    Metric("unreachable", "", "the part of the loss that a model of this width never loses", "low"),
    Metric("reducible", "", "loss - unreachable", "low"),
    Metric("rho", "", "|w|^2 / N: how far the model has moved"),
    Metric("sharpness", "", "step size x largest eigenvalue of the kernel (of a data set: as its items show it), 1 + "
           "gamma rho included; steps are stable below 2"),
)  # fmt: skip
DISPLAY = Display(
    labels={
        "t": "time t (step size x steps)",
        "loss": "loss",
        "width": "width N",
        "n_train": "training items P",
        "reducible": "loss above the plateau",
        "unreachable": "plateau of the loss",
        "gamma": "richness",
    },
    x="t",
    y="loss",
    companions=(Companion("loss", "unreachable", "floor", "Dotted: what a model of this width never loses."),),
)
# All axes but the seed and the time.
_MODEL = ("method", "alpha", "beta", "gamma", "target", "width", "inputs", "eta", "batch", "n_train")
_IDENTITY = 800  # modes of `steps` without a width: N = M and A0 the identity
_MOST_INPUTS = 16_384
_DRAWS = 4  # random models that a theory of a finite width is the mean of
_WIDEST = 1024  # width of such models
_FLOW_STEPS = 6_000  # of the integrator, roughly
_OTHERS = 2**62  # the first seed of a theory's draws: no run's but the last
_LANES = 256  # of `exact` whose modes are made at a time


@dataclass(frozen=True)
class Features:
    """The `features` experiment."""

    name: str = "features"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    display: Display = DISPLAY
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """The eigendecomposition, and the integrator or the steps."""
        width, inputs = size(run)
        drawn = 2.0 * width**2 * inputs + 9.0 * width**3 if run["width"] else 0.0
        if run["method"] == "exact":
            return Cost(parameters=width, flops=drawn + 60.0 * _FLOW_STEPS * width, bytes=8.0 * width * (inputs + 40))
        steps = float(max(observed.values("t"))) / float(run["eta"])
        batch, items = int(run["batch"]), int(run["n_train"])
        each = 6.0 * width**2 + 8.0 * batch * width + (2.0 * width**2 if items else 0.0)
        held = 8.0 * (2 * width**2 + (width**2 if items else 0) + 3 * batch * (width + 1))
        return Cost(width**2 + width, drawn + steps * each, 4.0 * width * len(observed.values("t")), held)

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Refuse what the model has no meaning for, and step sizes known to be too large for the flow."""
        check_runs(runs, _MODEL, size)

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """One batch per lane (exact), or per time and step size (steps)."""
        if pack.value("method") == "steps":
            from raysweep.experiments.features_steps import descend

            yield from descend(self, pack, context)
            return
        times = np.array(pack.observed[0].values("t"), dtype=float)
        every = [pack.row(lane) for lane in range(len(pack))]
        # Lanes of the same initial features side by side: their eigendecomposition is made once.
        order = sorted(range(len(pack)), key=lambda lane: (every[lane]["alpha"], every[lane]["seed"]))
        for start in range(0, len(pack), _LANES):
            lanes = order[start : start + _LANES]
            modes = all_modes([every[lane] for lane in lanes])
            # Modes with noise are not merged: few lanes at a time are then as fast, and their rows come early.
            parts = alike([len(one.x) for one in modes]) if pack.value("batch") else [list(range(len(lanes)))]
            for part in parts:
                own, some = [modes[i] for i in part], [lanes[i] for i in part]
                rows = [every[lane] for lane in some]
                noise = [float(r["eta"]) / int(r["batch"]) if r["batch"] else 0.0 for r in rows]
                found = flow(own, [float(r["gamma"]) for r in rows], times, noise)
                for i, lane in enumerate(some):
                    loss, rho = found.loss[i], found.rho[i]
                    problems = [None if value < MOST_LOSS else _noisy(rows[i], value) for value in loss]
                    with np.errstate(over="ignore"):
                        sharpness = float(rows[i]["eta"]) * own[i].x.max() * (1 + float(rows[i]["gamma"]) * rho)
                    yield self.rows(rows[i], own[i], lane, times, loss, rho, sharpness, problems, pack.observed[0])

    def rows(
        self, run: Mapping[str, Value], modes: Modes, lane: int, times: Array, loss: Array, rho: Array,
        sharpness: Array, problems: Sequence[str | None], asked: Observed,
    ) -> pa.RecordBatch:  # fmt: skip
        """Rows of one lane at some times: those with a problem are `diverged`, and hold no metrics."""
        good = np.array([problem is None for problem in problems])
        cost = self.cost(run, asked, None)
        share = times / float(max(asked.values("t"))) if run["method"] == "steps" else np.ones(len(times))
        values = {
            "loss": loss,
            "unreachable": np.full(len(times), modes.unreachable),
            "reducible": np.maximum(loss - modes.unreachable, 0.0),
            "rho": rho,
            "sharpness": sharpness,
        }
        return pa.RecordBatch.from_pydict(
            {
                "lane": pa.repeat(pa.scalar(lane, pa.int32()), len(times)),
                "t": pa.array(times),
                "status": pa.array(np.where(good, "ok", "diverged")),
                "error": pa.array(problems, pa.string()),
                "flops": pa.array(cost.flops * share),
                "flops_eval": pa.repeat(cost.flops_eval, len(times)),
                **{name: pa.array(v, mask=~good) for name, v in values.items()},
            }
        )

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        """The expected loss: of a lazy width by random-matrix theory, else of the reduced flow of other draws.

        The exact method without a width is that theory itself and has none beside it. For a random target it is the
        theory of the power law, which is the mean over targets without richness only; with it there is none.
        """
        loss = np.full(len(cells), np.nan)
        reason = np.full(len(cells), None, dtype=object)
        draws = _Draws(sorted(set(cells["beta"].to_pylist())))
        names = [name for name in _MODEL if name in cells.column_names]  # older stores have no column `target`
        numbered = cells.select(names).append_column("row", pa.array(np.arange(len(cells))))
        for one in numbered.group_by(names).aggregate([("row", "list")]).to_pylist():
            rows = np.array(one.pop("row_list"))
            times, where = np.unique(cells["t"].to_numpy()[rows], return_inverse=True)
            found = _expected(one, times, draws)
            if isinstance(found, str):
                reason[rows] = found
            else:
                loss[rows] = found[where]
                bad = rows[~np.isfinite(loss[rows])]
                loss[bad], reason[bad] = np.nan, "the noise of minibatches grows without bound"
        return pa.table({"loss": pa.array(loss, mask=np.isnan(loss)), "reason": pa.array(reason, pa.string())})


def size(run: Mapping[str, Value]) -> tuple[int, int]:
    """(modes of the model, inputs) of a run."""
    width, inputs = int(run["width"]), int(run["inputs"])
    if width:
        return width, inputs or min(8 * width, _MOST_INPUTS)
    if run["method"] == "steps":
        return inputs or _IDENTITY, inputs or _IDENTITY
    return (inputs, inputs) if inputs else (len(power_law_modes(1.5, 0.5).x),) * 2


def all_modes(rows: Sequence[Mapping[str, Any]]) -> list[Modes]:
    """The modes of every lane; a seed has the same initial features for every beta, gamma and step size."""
    own = ("alpha", "target", "width", "inputs", "method", "seed")
    betas: dict[tuple[Any, ...], dict[float, Modes]] = {}
    for row in rows:
        betas.setdefault(tuple(row[n] for n in own), {})[row["beta"]] = None  # type: ignore[assignment]
    for key, wanted in betas.items():
        row = dict(zip(own, key, strict=True))
        betas[key] = dict(zip(wanted, _modes(row, list(wanted)), strict=True))
    return [betas[tuple(row[n] for n in own)][row["beta"]] for row in rows]


def _modes(row: Mapping[str, Any], betas: Sequence[float]) -> list[Modes]:
    """The modes of a row's model for several targets."""
    width, inputs = size(row)

    def drawn(stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[row["seed"], stream]))

    def target() -> np.random.Generator | None:  # from its start for each beta: targets of one seed are alike
        return drawn(1) if row["target"] == "random" else None

    if row["width"]:
        return modes_of_width(row["alpha"], betas, width, inputs, drawn(0), target())
    if row["method"] == "exact" and not row["inputs"]:
        return [power_law_modes(row["alpha"], beta, target=target()) for beta in betas]
    return [power_law_modes(row["alpha"], beta, inputs, inputs, target()) for beta in betas]


def _noisy(run: Mapping[str, Any], loss: float) -> str:
    """Why a row of the exact method has diverged."""
    return (
        f"the loss must stay below {MOST_LOSS:g} times that of the zero function, but is {loss:.3g}: the noise of "
        f"{run['batch']} items a step grows at eta = {run['eta']:g}. Take a smaller eta, or a larger batch"
    )


class _Draws:
    """Models that a theory is the mean of, each drawn once for all of some betas."""

    def __init__(self, betas: Sequence[float]) -> None:
        self._betas = betas
        self._drawn: dict[tuple[Any, ...], list[list[Modes]]] = {}

    def __call__(self, one: Mapping[str, Any]) -> list[Modes]:
        """Those of a setting."""
        key = tuple(one[name] for name in ("method", "alpha", "width", "inputs"))
        if key not in self._drawn:
            count = _DRAWS if one["width"] else 1
            self._drawn[key] = [
                _modes({**one, "seed": _OTHERS + i, "target": "power"}, self._betas) for i in range(count)
            ]
        return [drawn[self._betas.index(one["beta"])] for drawn in self._drawn[key]]


def _expected(one: Mapping[str, Any], times: Array, draws: _Draws) -> Array | str:
    """The expected loss at some times, or why there is none."""
    lazy = one["gamma"] == 0
    if one.get("target") == "random" and not lazy:
        return "the mean loss over random targets has a theory at gamma = 0 only"
    noise = one["eta"] / one["batch"] if one["batch"] else 0.0
    if one["n_train"]:
        if not lazy or one["width"]:
            return "a data set that is used again has a theory without a width and at gamma = 0 only"
        return reused_data_curve(draws(one)[0], times, one["n_train"])
    if one["method"] == "exact" and not one["width"] and one.get("target") != "random":
        return "the exact flow without a width is the theory itself"
    if one["width"] and lazy and not noise:
        return lazy_curve(power_law_modes(one["alpha"], one["beta"], size(one)[1]), times, one["width"])
    if one["width"] > _WIDEST:
        return f"the theory of a rich or noisy width, the mean of random models, ends at {_WIDEST:,} units"
    return np.asarray(flow(draws(one), one["gamma"], times, noise).loss.mean(0))


EXPERIMENT = Features()
