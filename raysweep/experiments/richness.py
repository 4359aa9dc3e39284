"""Networks in mean-field scaling, lazy and rich: the loss against time (arXiv 2409.17858, section 6).

A network f = (h(x; W) - h(x; W0)) / gamma is trained on the square loss by SGD at the rate eta gamma^2 N, so that the
time t = eta x steps has the same meaning at every width N and richness gamma. `method: train` does that, `method: ntk`
gives the limit gamma -> 0 without training, from the modes of the same network's kernel at the start:
sum a2 exp(-2 lambda t). Tasks are a power law of harmonics on the circle, whose source exponent beta is an axis, and
the classes of images as one-hot targets.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raysweep.data import image_shape
from raysweep.display import Display
from raysweep.errors import SweepError
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.idle import refuse_duplicates
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.models import ACTIVATIONS, Architecture
from raysweep.theory.circle import POWERS, kernel_spectrum, modes

__all__ = ["EXPERIMENT", "Richness", "architecture_of", "steps_of"]

AXES = (
    Axis("task", str, "shape", "circle", choices=("circle", "images"), help="harmonics on the circle; classes"),
    Axis("method", str, "shape", "train", choices=("train", "ntk"), help="training, or the limit of no richness"),
    Axis("beta", float, "lane", 0.5, low=0.05, high=10.0, help="circle: source exponent of the target"),
    Axis("harmonics", int, "shape", 1000, low=1, high=2**16, unit="modes", help="circle: of the target"),
    Axis("data", str, "shape", "digits", help="images: digits, or NAME of NAME.npz in the folder RAYSWEEP_DATA"),
    Axis("n_train", int, "lane", 0, low=0, high=2**31 - 1, unit="items", help="images: to train on; 0: all"),
    # The network.
    Axis("model", str, "shape", "mlp", choices=("mlp", "cnn", "resnet")),
    Axis("width", int, "shape", 256, low=1, high=65536, unit="units", help="N: hidden units; channels"),
    Axis("depth", int, "shape", 3, low=1, high=64, unit="layers", help="hidden layers; convolutions; blocks per stage"),
    Axis("activation", str, "shape", "relu", choices=ACTIVATIONS, help="circle: relu, relu2 or tilted"),
    Axis("gamma", float, "lane", 1.0, low=1e-6, high=1e6, help="richness: outputs are divided by it"),
    # Training.
    Axis("optimiser", str, "shape", "sgd", choices=("sgd", "adam"), help="at the rate eta gamma^2 N; eta gamma"),
    Axis("momentum", float, "lane", 0.0, low=0.0, high=0.999, help="sgd: the rate is times 1 - momentum"),
    Axis("eta", float, "shape", 0.05, low=1e-9, high=1e3, help="step size: time per step"),
    Axis("batch", int, "shape", 512, low=1, high=2**20, unit="items", help="fresh items (images: drawn again) a step"),
    Axis("precision", str, "shape", "float32", choices=("float32", "float64", "tf32"), help="of products"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="of initial values and batches"),
    # Evaluation.
    Axis("points", int, "shape", 1024, low=4, high=2**16, unit="items", help="ntk: items that its modes are taken on"),
    Axis("test_items", int, "shape", 2048, low=16, high=2**18, unit="items", help="for the loss; images: at most all"),
    Axis("bmd_points", int, "shape", 0, low=0, high=10**6, unit="points",
         help="images: points of the Boolean mean dimension of what is learned, an even number; 0: it is not measured"),
    Axis("t", float, "observed", 100.0, low=1e-6, high=1e9, role="time", help="time: eta x steps, to a whole step"),
)  # fmt: skip
METRICS = (
    Metric("loss", "", "square loss on test items over that of the zero function", "low"),
    Metric("moved", "", "distance of the weights from their start over the start's norm: 0 in the lazy limit"),
    Metric("bmd", "", "Boolean mean dimension of the outputs less those at the start (bmd_points)"),
    Metric("bmd_se", "", "its standard error over inputs", "low"),
)
BMD_VARIANCE_POINTS = 10_000  # inputs for the variance that the Boolean mean dimension divides by
DISPLAY = Display(
    labels={
        "t": "time t (step size x steps)",
        "loss": "loss over that of the zero function",
        "gamma": "richness",
        "width": "width N",
        "beta": "source exponent",
    },
    x="t",
    y="loss",
)
_CIRCLE = ("method", "beta", "harmonics", "activation", "depth", "gamma", "optimiser")  # what its theory reads
_STABLE = 2.0
_MOST = 1024  # items in a forward pass of an evaluation


@dataclass(frozen=True)
class Richness:
    """The `richness` experiment."""

    name: str = "richness"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    display: Display = DISPLAY
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Steps with the second forward pass that centres outputs, and evaluations; or the kernel and its modes."""
        layout = architecture_of(run).layout
        size = sum(p.size for p in layout.parameters if not p.is_bias)
        wide = 8 if run["precision"] == "float64" else 4
        outputs, tests = architecture_of(run).outputs, _tests(run)
        if run["method"] == "ntk":
            points = int(run["points"])
            made = points * outputs * (layout.forward_flops + layout.backward_flops)
            flops = made + 2.0 * (points * outputs) * points * size + 9.0 * points**3
            held = wide * (3.0 * size + 3.0 * points * layout.activations) + 16.0 * points**2
            return Cost(size, flops, 0.0, held)
        stops = sorted({steps_of(run, t) for t in observed.values("t")})
        batch = int(run["batch"])
        each = batch * (2.0 * layout.forward_flops + layout.backward_flops)
        tensors = 5.0 if run["optimiser"] == "adam" else 4.0
        items = max(3 * batch, 2 * min(tests, _MOST))
        points, inputs = int(run["bmd_points"]), architecture_of(run).inputs
        passes = tests + (BMD_VARIANCE_POINTS + points * (inputs + 1) if points else 0)
        return Cost(
            parameters=size,
            flops=stops[-1] * each,
            flops_eval=len(stops) * 2.0 * passes * layout.forward_flops,
            bytes=wide * (tensors * size + float(items) * layout.activations),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Refuse what has no meaning, runs that would be the same, and step sizes too large to follow the flow."""
        seen = set()
        for i in range(len(runs)):
            row = runs.row(i)
            times = runs.observed[int(runs.observed_code[i])].values("t")
            key = (*(row[a.name] for a in AXES if a.name in row and a.role != "seed"), min(times))
            if key not in seen:
                seen.add(key)
                _check(row, float(min(times)), gpus)
        refuse_duplicates(runs, _idle)

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Train the pack's lanes together, a batch of rows per time; or a batch per lane, from its kernel."""
        from raysweep.experiments import richness_run

        if pack.value("method") == "ntk":
            yield from richness_run.lazy(self, pack, context)
        else:
            yield from richness_run.trained(pack, context)

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        """The lazy loss at infinite width, exactly, for `method: ntk` on the circle; elsewhere why there is none."""
        loss = np.full(len(cells), np.nan)
        reason = np.full(len(cells), None, dtype=object)
        names = ("task", *_CIRCLE)
        numbered = cells.select(list(names)).append_column("row", pa.array(np.arange(len(cells))))
        for one in numbered.group_by(list(names)).aggregate([("row", "list")]).to_pylist():
            rows = np.array(one["row_list"])
            if why := _unknown(one):
                reason[rows] = why
                continue
            times, where = np.unique(cells["t"].to_numpy()[rows], return_inverse=True)
            own = modes(one["activation"], one["depth"], one["beta"], one["harmonics"])
            loss[rows] = (np.exp(-2 * np.outer(times, own.x)) @ own.mass)[where]
        return pa.table({"loss": pa.array(loss, mask=np.isnan(loss)), "reason": pa.array(reason, pa.string())})


def architecture_of(run: Mapping[str, Any]) -> Architecture:
    """The network of a run.

    Raises:
        SweepError: there are no such images.
    """
    inputs, outputs = 2, 1
    if run["task"] == "images":
        found = image_shape(str(run["data"]))
        inputs, outputs = found.inputs, found.classes
    width, depth = int(run["width"]), int(run["depth"])
    return Architecture(str(run["model"]), inputs, outputs, width, depth, str(run["activation"]), base_width=1)


def _tests(run: Mapping[str, Any]) -> int:
    """Items that the loss is measured on."""
    asked = int(run["test_items"])
    return min(asked, image_shape(str(run["data"])).test) if run["task"] == "images" else asked


def steps_of(run: Mapping[str, Any], t: Any) -> int:
    """Steps up to a time."""
    return max(1, round(float(t) / float(run["eta"])))


def _idle(row: Mapping[str, Any]) -> dict[str, str]:
    """The axes without an effect on a run, and why."""
    images, lazy = row["task"] == "images", row["method"] == "ntk"
    idle = dict.fromkeys(
        ("beta", "harmonics") if images else ("data", "n_train", "bmd_points"), f"task: {row['task']} does not read it"
    )
    steps = ("gamma", "momentum", "eta", "batch", "test_items", "n_train", "bmd_points")
    return idle | dict.fromkeys(steps if lazy else ("points",), f"method: {row['method']} does not read it")


def _check(row: Mapping[str, Any], first: float, gpus: float) -> None:
    if row["precision"] == "tf32" and not gpus:
        raise SweepError(
            "grid.precision: tf32 must run on a GPU, but got (precision=tf32, resources.gpus=0). "
            "Ask for resources: {gpus: 1}, or use float32"
        )
    if row["method"] == "ntk" and row["optimiser"] != "sgd":
        raise SweepError(
            "grid.optimiser: the lazy limit is one of gradient flow, but got "
            f"(method=ntk, optimiser={row['optimiser']}). Leave the optimiser out, or train"
        )
    if row["optimiser"] == "adam" and row["momentum"]:
        raise SweepError(
            f"grid.momentum: must be 0 with optimiser: adam, which has its own, but got (momentum={row['momentum']:g}, "
            "optimiser=adam). Leave it out, or use sgd"
        )
    if problem := architecture_of(row).problem():
        raise SweepError(f"grid.{problem}")
    if (points := row["bmd_points"]) and (row["task"] != "images" or points % 2 or points < 4):
        raise SweepError(
            "grid.bmd_points: must be 0, or even, at least 4 and with task: images, but got "
            f"(bmd_points={points}, task={row['task']}). Take 100, or leave it out"
        )
    if row["task"] == "images":
        if row["n_train"] > (most := image_shape(row["data"]).train):
            raise SweepError(
                f"grid.n_train: must be at most the training images of {row['data']}, but got "
                f"(n_train={row['n_train']}, images={most}). Take fewer, or 0 for all"
            )
    else:
        _check_circle(row)
    if row["method"] == "train" and first < row["eta"] / 2:
        raise SweepError(
            f"grid.t: must be a step at least, but got (t={first:g}, eta={row['eta']:g}). "
            "Take a later time, or a smaller step size"
        )


def _check_circle(row: Mapping[str, Any]) -> None:
    if row["model"] != "mlp" or row["activation"] not in POWERS or row["depth"] < 2:
        raise SweepError(
            f"grid.task: the circle needs an mlp of 2 hidden layers or more with {' or '.join(POWERS)}, but got "
            f"(model={row['model']}, depth={row['depth']}, activation={row['activation']}). The kernel of others has "
            "no power law, or misses every other harmonic"
        )
    if 2 * row["harmonics"] >= row["test_items"]:
        raise SweepError(
            "grid.test_items: must be more than twice the harmonics, for the loss to be exact, but got "
            f"(test_items={row['test_items']}, harmonics={row['harmonics']}). Take more test items, or fewer harmonics"
        )
    top = float(kernel_spectrum(row["activation"], row["depth"])[0])
    if row["method"] == "train" and row["optimiser"] == "sgd" and not row["eta"] * top < _STABLE:
        raise SweepError(
            f"grid.eta: eta times the kernel's largest eigenvalue must be below 2, but got (eta={row['eta']:g}, "
            f"eigenvalue={top:.3g}). Take eta <= {1 / top / 4:.1g}, as the kernel grows when features are learned"
        )


def _unknown(one: Mapping[str, Any]) -> str:
    """Why a loss has no theory, or nothing."""
    if one["task"] == "images":
        return "the kernel of real images has no closed form"
    if one["method"] == "train":
        return "how a network's richness enters the reduced flow is not known"
    if one["activation"] not in POWERS or not math.isfinite(one["beta"]):
        return "the kernel of this activation has no power law"
    return ""


EXPERIMENT = Richness()
