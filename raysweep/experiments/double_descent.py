"""Networks past their interpolation threshold: test error, Boolean mean dimension and robustness (arXiv 2401.12610).

A teacher of bits, the sign of a linear function, or the classes of images scaled to [-1, 1]; labels may be noisy. A
network may begin from an adversarial initialisation, weights that first fitted random labels of the same inputs, and
may be trained on inputs that are moved against it (FGSM). Each snapshot has its errors with and without attacks, and
the mean dimension of its outputs, under several measures and by input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysweep.data import image_shape
from raysweep.display import Bound, Display
from raysweep.errors import SweepError
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.models import ACTIVATIONS, Architecture

__all__ = [
    "EXPERIMENT", "METRICS", "MOST_ITEMS", "VARIANCE_POINTS", "DoubleDescent", "Work", "architecture_of", "measures_of",
    "steps_of",
]  # fmt: skip

AXES = (
    # The data.
    Axis("task", str, "shape", "teacher", choices=("teacher", "images"), help="sign of a linear function; classes"),
    Axis("dim", int, "shape", 30, low=2, high=4096, unit="bits", help="teacher: D"),
    Axis("data", str, "shape", "digits", help="images: digits, or NAME of NAME.npz in the folder RAYSWEEP_DATA"),
    Axis("shuffled", bool, "shape", True, help="images: for training and testing, each seed draws from all of them"),
    Axis("n_train", int, KindBy("batch", {0: "shape"}, "lane"), 300, low=1, high=2**31 - 1, unit="items",
         help="P, nested by seed"),
    Axis("label_noise", float, "lane", 0.0, low=0.0, high=1.0,
         help="teacher: chance of a flip; images: chance that a label is drawn from all classes"),
    # The network.
    Axis("model", str, "shape", "mlp", choices=("mlp", "cnn", "resnet")),
    Axis("width", int, "shape", 50, low=1, high=65536, unit="units", help="hidden units; channels"),
    Axis("depth", int, "shape", 1, low=1, high=64, unit="layers", help="hidden layers; convolutions; blocks per stage"),
    Axis("activation", str, "shape", "relu", choices=ACTIVATIONS),
    Axis("init_scale", float, "lane", 1.0, low=1e-6, high=1e6, help="initial weights, in units of He's"),
    # Training.
    Axis("loss", str, "shape", "cross_entropy", choices=("cross_entropy", "square", "logistic"),
         help="square: to 0 and 1, teacher: -1 and 1; logistic: teacher"),
    Axis("optimiser", str, "shape", "adam", choices=("adam", "sgd")),
    Axis("lr", float, "lane", 3e-3, low=0.0, help="learning rate"),
    Axis("momentum", float, "lane", 0.9, low=0.0, high=0.999, help="sgd"),
    Axis("weight_decay", float, "lane", 0.0, low=0.0, help="decoupled for adam; L2 for sgd"),
    Axis("batch", int, "shape", 0, low=0, high=2**20, unit="items", help="drawn with replacement; 0: all items once"),
    Axis("schedule", str, "shape", "drop", choices=("drop", "constant"), help="drop: a tenth of lr in the last 30 %"),
    Axis("steps", int, KindBy("schedule", {"drop": "lane"}, "observed"), 1500, low=0, high=2**32 - 1, unit="steps",
         role="time", help="training time"),
    Axis("pretrain", int, "shape", 0, low=0, high=2**32 - 1, unit="steps",
         help="adversarial initialisation: steps on random labels before, at a constant rate without decay"),
    Axis("attack", float, "shape", 0.0, low=0.0, high=2.0, help="adversarial training: eps of FGSM on every batch"),
    Axis("precision", str, "shape", "float32", choices=("float32", "float64", "tf32", "bf16"), help="of products"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="of items, noise, initial values, batches"),
    # Evaluation.
    Axis("test_items", int, "shape", 900, low=16, high=2**24, unit="items", help="to test on; images: at most all"),
    Axis("bmd_points", int, "shape", 100, low=0, high=10**6, unit="points",
         help="points of the mean dimension of the outputs, an even number; 0: it is not measured"),
    Axis("measures", bool, "shape", False, help="mean dimension under other distributions of inputs, too"),
    Axis("complexity", bool, "shape", False, help="norms, margins, sharpness and input gradients, on training items"),
    Axis("pgd_steps", int, "shape", 10, low=1, high=10**4, unit="steps", help="of projected gradient ascent"),
    Axis("eps", float, "observed", 0.0, low=0.0, high=2.0, help="largest move of an input by an attack; 0: none"),
    Axis("share", float, "observed", 0.0, low=0.0, high=1.0, help="chance that the sign of an input is flipped"),
    Axis("pixel", int, "observed", -1, low=-1, high=2**24, help="input of `contribution`; -1: none"),
)  # fmt: skip
MEASURES = ("uniform", "gaussian", "marginals")  # besides that of -1 and 1
COMPLEXITY = {  # see `metrics.complexity`
    "l2_norm": "norm of all parameters",
    "distance": "distance of all parameters from He's initial ones",
    "frobenius_product": "product of the Frobenius norms of layers",
    "spectral_product": "product of the spectral norms of layers",
    "spectral_complexity": "spectrally-normalised margin bound's numerator",
    "path_norm": "root of the sum over paths of squared products of weights; mlp",
    "margin": "margin that nine tenths of the training items reach",
    "frobenius_product_over_margin": "frobenius_product over a margin above 0",
    "spectral_product_over_margin": "spectral_product over a margin above 0",
    "spectral_complexity_over_margin": "spectral_complexity over a margin above 0",
    "path_norm_over_margin": "path_norm over a margin above 0",
    "hessian_eigenvalue": "largest eigenvalue of the Hessian of the training loss",
    "worst_case_sharpness": "rise of the training loss at the worst small change of the parameters",
    "average_sharpness": "rise of the training loss at random changes of the parameters",
    "input_gradient": "norm of the gradient of an item's loss with respect to its inputs",
    "jacobian_norm": "norm of the Jacobian of the outputs with respect to the inputs",
}
METRICS = (
    Metric("train_loss", "", "loss on the training items and their noisy labels", "low"),
    Metric("train_error", "", "share of the noisy training labels that are missed", "low"),
    Metric("test_loss", "", "loss on new items, without label noise", "low"),
    Metric("test_error", "", "share of new items whose class, without noise, is missed", "low"),
    Metric("pretrain_error", "", "share of the random labels that the initial weights miss; null without pretraining"),
    Metric("bmd", "", "Boolean mean dimension of the outputs, pooled; null if bmd_points is 0, or the outputs are "
           "constant or change at no point"),
    Metric("bmd_se", "", "its standard error, over inputs that all runs share"),
    *(Metric(f"md_{name}", "", f"mean dimension under inputs that are {how}")
      for name, how in zip(MEASURES, ("uniform on [-1, 1]", "standard normal", "drawn as in images, one by one"),
                           strict=True)),
    Metric("contribution", "", "what one input contributes to bmd, which is their sum"),
    Metric("fgsm_error", "", "error on new items after one step of eps along the sign of the gradient", "low"),
    Metric("pgd_error", "", "error on new items after projected gradient ascent within eps", "low"),
    Metric("flip_error", "", "error on new items after random flips of signs of inputs", "low"),
    *(Metric(name, "", f"{how}; null unless complexity is true") for name, how in COMPLEXITY.items()),
)  # fmt: skip
DISPLAY = Display(
    labels={
        "width": "width",
        "n_train": "training items P",
        "test_error": "test error",
        "train_error": "training error",
        "bmd": "Boolean mean dimension",
        "fgsm_error": "error under FGSM",
    },
    x="width",
    y="test_error",
    bounds=(
        Bound(
            "bmd",
            "no mean dimension is below 1",
            "Flips or variance are sampled wrongly.",
            limit=1.0,
            se="bmd_se",
            sigmas=6.0,
        ),
    ),
)
VARIANCE_POINTS = 10_000  # inputs for the variance that a mean dimension divides by
MOST_ITEMS = 1024  # training items that complexity is measured on
_HESSIAN = 100  # most products with the Hessian
_MOST = 1024  # items in a forward pass of an evaluation
_READ = ("task", "dim", "data", "shuffled", "n_train", "label_noise", "model", "width", "depth", "activation", "loss",
         "batch", "precision", "test_items", "bmd_points", "measures")  # what is checked  # fmt: skip


@dataclass(frozen=True)
class Work:
    """FLOPs of the parts of a run, and the bytes of a lane.

    Attributes:
        step: A step of pretraining, or of training without attacks.
        attacked: What an attack adds to a step.
        before: Evaluation of the adversarial initialisation.
        snapshot: An evaluation without attacks. That of complexity may end earlier than is counted here.
        attack, flip: Evaluation of one eps, and of one share, above 0.
        bytes: Parameters, gradients, moments, activations, and the lane's own copy of a full batch.
    """

    step: float
    attacked: float
    before: float
    snapshot: float
    attack: float
    flip: float
    bytes: float

    @staticmethod
    def of(run: Mapping[str, Any]) -> Work:
        """The work of a run."""
        architecture = architecture_of(run)
        layout = architecture.layout
        one, points, tests, items = layout.forward_flops, run["bmd_points"], run["test_items"], run["n_train"]
        each = float(run["batch"] or items)
        first = 2 * sum(p.macs for p in layout.parameters if p.first) if run["model"] == "mlp" else 0
        mean_dimension = (points + VARIANCE_POINTS) * one + points * architecture.inputs * (one - first)
        count = 1 + len(measures_of(run))
        curved = min(items, MOST_ITEMS) * (15 + architecture.outputs + 6 * _HESSIAN) if run["complexity"] else 0
        wide, narrow = (8 if run["precision"] == "float64" else 4), {"float64": 8, "bf16": 2}
        kept = max(each, min(max(items, tests), _MOST))
        copied = each * (architecture.inputs + architecture.outputs) if not run["batch"] else 0.0
        return Work(
            step=each * (one + layout.backward_flops),
            attacked=2.0 * each * one if run["attack"] else 0.0,
            before=float(items * one) if run["pretrain"] else 0.0,
            snapshot=float((items + tests + curved) * one + (count * mean_dimension if points else 0)),
            attack=float(tests * one * (2 * (1 + run["pgd_steps"]) + 2)),
            flip=float(tests * one),
            bytes=wide * (layout.size * (4 if run["optimiser"] == "adam" else 3) + copied)
            + 3.0 * narrow.get(run["precision"], 4) * kept * layout.activations,
        )

    def evaluation(self, observed: Observed) -> float:
        """An evaluation with the attacks and flips that are asked for."""
        eps, shares = (sum(1 for v in observed.values(name) if v) for name in ("eps", "share"))
        return self.snapshot + eps * self.attack + shares * self.flip


@dataclass(frozen=True)
class DoubleDescent:
    """The `double_descent` experiment."""

    name: str = "double_descent"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    display: Display = DISPLAY
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Pretraining and training, and an evaluation for each time."""
        work, times, before = Work.of(run), steps_of(run, observed), int(run["pretrain"])
        return Cost(
            parameters=architecture_of(run).layout.size,
            flops=before * work.step + times[-1] * (work.step + work.attacked),
            flops_eval=work.before + len(times) * work.evaluation(observed),
            bytes=work.bytes,
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Refuse what has no meaning, and data sets that are too small."""
        for i in runs.examples(name for name in _READ if name in runs.codes):
            _check(runs.row(i), gpus)
        for i in range(len(runs)):
            last = int(runs.observed[int(runs.observed_code[i])].values("pixel")[-1])
            if last >= 0 and not (runs.row(i)["bmd_points"] and last < architecture_of(runs.row(i)).inputs):
                raise SweepError(
                    "grid.pixel: must be an input, and bmd_points not 0, but got "
                    f"(pixel={last}, inputs={architecture_of(runs.row(i)).inputs}, "
                    f"bmd_points={runs.row(i)['bmd_points']}). Choose a number below inputs, or -1 for none, "
                    "and set bmd_points: 100"
                )

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """Train the pack's lanes together, a batch of rows per time."""
        from raysweep.experiments.double_descent_run import trained

        yield from trained(pack, context)


EXPERIMENT = DoubleDescent()


def architecture_of(run: Mapping[str, Any]) -> Architecture:
    """The network of a run. A teacher's has one output for its two classes, except under cross-entropy.

    Raises:
        SweepError: there are no such images.
    """
    if run["task"] == "images":
        found = image_shape(str(run["data"]))
        inputs, outputs = found.inputs, found.classes
    else:
        inputs, outputs = int(run["dim"]), 2 if run["loss"] == "cross_entropy" else 1
    return Architecture(
        str(run["model"]), inputs, outputs, int(run["width"]), int(run["depth"]), str(run["activation"])
    )


def measures_of(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The measures under which the mean dimension is taken, besides that of -1 and 1."""
    if not run["measures"]:
        return ()
    return MEASURES if run["task"] == "images" else MEASURES[:-1]  # a teacher's marginals are -1 and 1


def steps_of(run: Mapping[str, Any], observed: Observed) -> list[int]:
    """The times at which a run is evaluated, ascending."""
    return [int(t) for t in observed.values("steps")] if "steps" in observed.names else [int(run["steps"])]


def _check(row: Mapping[str, Any], gpus: float) -> None:
    if row["precision"] == "tf32" and not gpus:
        raise SweepError(
            "grid.precision: tf32 must run on a GPU, but got (precision=tf32, resources.gpus=0). "
            "Ask for resources: {gpus: 1}, or use float32"
        )
    if row["bmd_points"] and (row["bmd_points"] < 4 or row["bmd_points"] % 2):
        raise SweepError(
            f"grid.bmd_points: must be 0, or even and at least 4, but got (bmd_points={row['bmd_points']}). "
            "100 points are usual"
        )
    if row["measures"] and not row["bmd_points"]:
        raise SweepError(
            "grid.measures: must be false without points, but got (measures=true, bmd_points=0). Set bmd_points: 100, "
            "or measures: false"
        )
    if row["task"] == "images":
        _check_images(row)
    elif row["model"] != "mlp":
        raise SweepError(
            f"grid.model: must be mlp for a teacher's bits, but got (task=teacher, model={row['model']}). Use model: "
            "mlp, or task: images"
        )
    elif row["label_noise"] > 0.5:
        raise SweepError(
            "grid.label_noise: a teacher's labels must be flipped with `label_noise <= 0.5`, but got "
            f"(task=teacher, label_noise={row['label_noise']:g}). At 0.5 they are random already; use at most that"
        )
    if problem := architecture_of(row).problem():
        raise SweepError(f"grid.{problem}")


def _check_images(row: Mapping[str, Any]) -> None:
    if row["loss"] == "logistic":
        raise SweepError(
            "grid.loss: logistic must have two classes, but got (loss=logistic, task=images). Use cross_entropy"
        )
    found, items, tests = image_shape(row["data"]), row["n_train"], row["test_items"]
    total = found.train + found.test
    if items + tests > total or (not row["shuffled"] and (items > found.train or tests > found.test)):
        raise SweepError(
            f"grid.n_train: n_train and test_items must be images of {row['data']}, but got (n_train={items}, "
            f"test_items={tests}, shuffled={row['shuffled']}) of {found.train} to train on and {found.test} to test "
            "on. Use fewer of them"
        )
