"""Axes and metrics of the `classifier` experiment, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from raysweep.display import Bound, Companion, Display, Figure
from raysweep.experiment import Metric
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.values import Value
from raysweep.models import ACTIVATIONS, KINDS

if TYPE_CHECKING:
    from raysweep.models.layout import Layout

__all__ = [
    "AXES", "BMD_METRICS", "BMD_VARIANCE_POINTS", "DISPLAY", "LABELS", "METRICS", "PRECISIONS", "SHIFTS",
    "SHIFT_METRICS", "bmd_flops", "flip_flops",
]  # fmt: skip

LABELS = ("hard", "argmax", "soft")
SHIFTS = ("none", "imbalance", "translation", "scale", "pixel")  # see oracle/shift.py
PRECISIONS = ("float32", "float64", "tf32", "bf16")
BMD_VARIANCE_POINTS = 10_000  # inputs for the variance that the Boolean mean dimension divides by
_TIME = KindBy("schedule", {"cosine": "lane"}, "observed")  # a cosine needs its horizon from the start

AXES = (
    # The data.
    Axis("n_train", int, "lane", 1024, low=1, high=2**31 - 1, unit="items", help="training items, nested by data_seed"),
    Axis("labels", str, "lane", "hard", choices=LABELS, help="generating class, argmax of the posterior, posterior"),
    Axis("temperature", float, "lane", 1.0, low=1e-3, high=1e3, help="latent temperature of the world: difficulty"),
    Axis("label_noise", float, "lane", 0.0, low=0.0, high=1.0, help="chance that an item's label is drawn at random"),
    Axis("label_smoothing", float, "lane", 0.0, low=0.0, high=1.0, help="targets mixed with the uniform distribution"),
    Axis("label_temperature", float, "lane", 1.0, low=1e-3, high=1e3, help="targets become target^(1/T), normalised"),
    Axis("input_noise", float, "lane", 0.0, low=0.0, help="std of Gaussian noise on inputs, new at every step"),
    Axis("train_shift", str, "lane", "none", choices=SHIFTS, help="of the distribution that training items are from"),
    Axis("train_kl", float, "lane", 0.0, low=0.0, high=1e6, unit="nats", help="its distance, KL(shifted || world)"),
    Axis("train_noise", float, "lane", 0.0, low=0.0, help="std of noise on training items, fixed, besides the shift"),
    Axis("test_shift", str, "lane", "none", choices=SHIFTS, help="of the distribution that held-out items are from"),
    Axis("test_kl", float, "lane", 0.0, low=0.0, high=1e6, unit="nats", help="its distance, KL(shifted || world)"),
    Axis("test_noise", float, "lane", 0.0, low=0.0, help="std of noise on held-out items, fixed, besides the shift"),
    # The model.
    Axis("model", str, "shape", "mlp", choices=KINDS, help="classifier"),
    Axis("width", int, "shape", 64, low=1, high=65536, unit="units", help="hidden units; channels; token size"),
    Axis("depth", int, "shape", 2, low=0, high=64, unit="layers", help="hidden layers; convolutions; blocks, by stage"),
    Axis("activation", str, "shape", "relu", choices=ACTIVATIONS),
    Axis("patch", int, "shape", 4, low=1, high=64, unit="pixels", help="side of a patch (vit, convnext, swin)"),
    Axis("heads", int, "shape", 4, low=1, high=64, help="attention heads; of a swin's first stage"),
    Axis("base_width", int, "shape", 0, low=0, high=65536, unit="units", help="mu-P from this width; 0: standard"),
    Axis("members", int, "shape", 1, low=1, high=1024, unit="models", help="size of the ensemble, scored by its mean"),
    # Training.
    Axis("optimiser", str, "shape", "sgd", choices=("sgd", "nesterov", "adamw")),
    Axis("lr", float, "lane", 0.02, low=0.0, help="peak learning rate"),
    Axis("momentum", float, "lane", 0.9, low=0.0, high=1.0, help="for sgd and nesterov"),
    Axis("beta1", float, "lane", 0.9, low=0.0, high=0.999999, help="for adamw"),
    Axis("beta2", float, "lane", 0.999, low=0.0, high=0.999999, help="for adamw"),
    Axis("eps", float, "lane", 1e-8, low=1e-30, help="for adamw"),
    Axis("weight_decay", float, "lane", 0.0, low=0.0, help="L2 for sgd and nesterov; decoupled for adamw"),
    Axis("clip", float, "lane", 0.0, low=0.0, help="largest norm of the whole gradient; 0: none"),
    Axis("batch", int, "shape", 64, low=1, high=2**20, unit="items", help="drawn with replacement"),
    Axis("schedule", str, "shape", "constant", choices=("constant", "wsd", "cosine"), help="of the learning rate"),
    Axis("warmup", int, "lane", 0, low=0, high=2**32 - 1, unit="steps", help="linear warm-up"),
    Axis("decay", float, "shape", 0.2, low=0.0, high=1.0, help="share of the steps that decay, under wsd"),
    Axis("steps", int, _TIME, 2048, low=0, high=2**32 - 1, unit="steps", role="time", help="training time"),
    Axis("precision", str, "shape", "float32", choices=PRECISIONS, help="of products; parameters keep 32 or 64 bits"),
    # Seeds.
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="default of the three seeds below"),
    Axis("data_seed", int, "lane", follows="seed", low=0, high=2**62, role="seed", help="which items are drawn"),
    Axis("init_seed", int, "lane", follows="seed", low=0, high=2**62, role="seed", help="initial parameters"),
    Axis("order_seed", int, "lane", follows="seed", low=0, high=2**62, role="seed", help="batch order"),
    # Evaluation.
    Axis("k", int, "observed", 1, low=1, high=10**12, unit="draws", help="inference budget of pass_at_k"),
    Axis("pool", int, "shape", 32768, low=1, high=2**26, unit="items", help="world items that data sets draw from"),
    Axis("eval_items", int, "shape", 4096, low=16, high=2**26, unit="items", help="evaluation sample"),
    Axis("select_items", int, "shape", 2048, low=16, high=2**26, unit="items", help="selection sample, disjoint"),
    Axis("eval_share", float, "shape", 0.016, low=0.0, high=1e6,
         help="evaluation items per item trained on so far, from an eighth of the sample up to all; 0: always all"),
    Axis("bmd_points", int, "shape", 0, low=0, high=10**6, unit="points",
         help="points of the Boolean mean dimension of the logits, an even number; 0: it is not measured"),
)  # fmt: skip

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
    ("pass_at_k", "", "high", "chance that at least one of k draws from the posterior equals the prediction"),
)
METRICS = tuple(
    Metric(name + suffix, unit, help_ + note, better)  # type: ignore[arg-type]
    for suffix, note in (("", ""), ("_select", "; on the selection sample"))
    for name, unit, better, help_ in _DECOMPOSITION
)
SHIFT_METRICS = (
    Metric("epistemic_base", "nats", "KL(posterior of the unshifted world || prediction) on shifted items; else null"),
)
BMD_METRICS = (
    Metric(
        "bmd",
        "",
        "Boolean mean dimension of the logits on inputs of -1 and +1, pooled; null if bmd_points is 0, or "
        "the logits are constant or change at no point",
    ),
    Metric("bmd_se", "", "Monte-Carlo standard error of bmd; runs of one seed are measured on the same inputs"),
)

_BROKEN = "A classifier beat the Bayes classifier: do not trust this world."
DISPLAY = Display(
    labels={
        "n_train": "training items N",
        "steps": "training steps",
        "epistemic": "epistemic error (nats)",
        "total": "total loss",
        "aleatoric": "aleatoric floor",
        "ece": "expected calibration error",
        "k": "attempts k",
        "bmd": "Boolean mean dimension",
    },
    x="n_train",
    y="epistemic",
    companions=(
        Companion("epistemic", "total", "means", "Hollow: mean total loss = aleatoric + epistemic."),
        Companion("epistemic", "aleatoric", "floor", "Dotted: the aleatoric floor."),
    ),
    bounds=(
        Bound(
            "excess_nll",
            "no NLL on generating labels is below that of the exact posterior",
            _BROKEN,
            se="excess_nll_se",
        ),
        Bound("excess_error", "no accuracy is above that of the Bayes classifier", _BROKEN, se="excess_error_se"),
    ),
    figures=(
        Figure(
            "calibration",
            "ece",
            "classifiers, best snapshot",
            "Left: the oracle's posterior against how often its classes occur. Right: calibration of the classifiers.",
            reliability=True,
        ),
    ),
)


def bmd_flops(run: Mapping[str, Value], layout: Layout, inputs: int) -> float:
    """FLOPs of a snapshot's mean dimension; a perceptron's first layer is not computed again for changed inputs."""
    first = 2 * sum(p.macs for p in layout.parameters if p.first) if run["model"] == "mlp" else 0
    return flip_flops(int(run["bmd_points"]), inputs, layout.forward_flops, layout.forward_flops - first)


def flip_flops(points: int, inputs: int, forward: float, flipped: float) -> float:
    """FLOPs of a Boolean mean dimension; none without points.

    Args:
        forward, flipped: Of an item, and of an item one of whose inputs is flipped.
    """
    return (points + BMD_VARIANCE_POINTS) * forward + points * inputs * flipped if points else 0.0
