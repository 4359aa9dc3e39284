"""Active learning in a world with an exact posterior: which items should be labelled next?

Rounds: train from scratch on the labelled items, score the pool, have the `query` items with the highest scores
labelled. Strategies that need the exact posterior are bounds, not methods: `epistemic` asks for the items on which the
classifier is wrong, `aleatoric` for those that are ambiguous whatever the classifier.

Source: arXiv 2602.00315, section 4.4 (random, entropy, epistemic). Scheffer et al. 2001 (margin); Houlsby et al. 2011,
arXiv 1112.5745 (BALD, here over an ensemble); Sener & Savarese 2018, arXiv 1708.00489 (core-set, here in the space of
logits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raysweep.display import Bound, Companion, Display
from raysweep.errors import PackError, SweepError
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.classifier import architecture_of
from raysweep.experiments.classifier_axes import BMD_METRICS, bmd_flops
from raysweep.experiments.classifier_axes import METRICS as OF_CLASSIFIER
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.models import ACTIVATIONS, KINDS

__all__ = ["EXPERIMENT", "STRATEGIES", "Active", "members_of", "rounds_of", "scored_items"]

STRATEGIES = ("random", "entropy", "margin", "bald", "core_set", "epistemic", "aleatoric")
AXES = (
    # Choosing.
    Axis("strategy", str, "lane", "random", choices=STRATEGIES, help="what the next items are chosen by"),
    Axis("initial", int, "shape", 50, low=1, high=2**20, unit="items", help="labelled at first, drawn by the seed"),
    Axis("query", int, "shape", 50, low=1, high=2**20, unit="items", help="labelled in each round"),
    Axis("ensemble", int, "shape", 5, low=2, high=64, unit="models", help="bald: models whose disagreement counts"),
    Axis("labelled", int, "observed", 500, low=1, high=2**20, unit="items", help="initial + query x rounds"),
    # The data.
    Axis("labels", str, "lane", "hard", choices=("hard", "soft"), help="generating class, or posterior"),
    Axis("temperature", float, "lane", 1.0, low=1e-3, high=1e3, help="latent temperature of the world: difficulty"),
    Axis("pool", int, "shape", 8192, low=1, high=2**22, unit="items", help="that are chosen from"),
    Axis("eval_items", int, "shape", 4096, low=16, high=2**22, unit="items", help="evaluation sample"),
    Axis("bmd_points", int, "shape", 0, low=0, high=10**6, unit="points",
         help="points of the Boolean mean dimension of the logits, an even number; 0: it is not measured"),
    # The model.
    Axis("model", str, "shape", "mlp", choices=KINDS, help="classifier"),
    Axis("width", int, "shape", 64, low=1, high=65536, unit="units", help="hidden units; channels; token size"),
    Axis("depth", int, "shape", 2, low=0, high=64, unit="layers", help="hidden layers; convolutions; blocks"),
    Axis("activation", str, "shape", "relu", choices=ACTIVATIONS),
    Axis("patch", int, "shape", 2, low=1, high=256, unit="pixels", help="side of a patch (vit, convnext, swin)"),
    Axis("heads", int, "shape", 4, low=1, high=64, help="attention heads"),
    # Training, from scratch in each round.
    Axis("optimiser", str, "shape", "adamw", choices=("sgd", "adamw")),
    Axis("lr", float, "lane", 0.003, low=0.0, help="learning rate"),
    Axis("momentum", float, "lane", 0.9, low=0.0, high=1.0, help="for sgd"),
    Axis("weight_decay", float, "lane", 0.0, low=0.0, help="L2 for sgd; decoupled for adamw"),
    Axis("steps", int, "shape", 400, low=1, high=2**31 - 1, unit="steps", help="of a round"),
    Axis("batch", int, "shape", 64, low=1, high=2**20, unit="items", help="drawn with replacement"),
    Axis("precision", str, "shape", "float32", choices=("float32", "float64"), help="of parameters and products"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="first items, initial parameters, order"),
)  # fmt: skip
_SCORES = (
    "total", "aleatoric", "epistemic", "epistemic_se", "nll", "accuracy", "bayes_accuracy", "excess_error",
    "excess_error_se", "ece", "posterior_gap",
)  # fmt: skip
METRICS = (
    *(metric for metric in OF_CLASSIFIER if metric.name in _SCORES),
    Metric("labelled_entropy", "nats", "mean entropy of the exact posterior of the labelled items"),
    Metric("labelled_balance", "", "the rarest class among them, as a share of an equal share"),
    *BMD_METRICS,
)
DISPLAY = Display(
    labels={"labelled": "labelled items", "epistemic": "epistemic error (nats)", "accuracy": "accuracy"},
    x="labelled",
    y="epistemic",
    companions=(Companion("epistemic", "aleatoric", "floor", "Dotted: the aleatoric floor."),),
    bounds=(
        Bound(
            "excess_error",
            "no accuracy is above that of the Bayes classifier",
            "A classifier beat the Bayes classifier: do not trust this world.",
            se="excess_error_se",
        ),
    ),
)
_SHAPE = ("model", "width", "depth", "activation", "patch", "heads")


@dataclass(frozen=True)
class Active:
    """The `active_learning` experiment."""

    name: str = "active_learning"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    needs_world: bool = True
    display: Display = DISPLAY

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Every round up to the last that is asked for: training, scores of the pool, evaluations where asked."""
        if world is None:
            raise PackError("active: a world is needed to know the input's size")
        layout, models = architecture_of(run, world).layout, members_of(str(run["strategy"]), int(run["ensemble"]))
        asked = rounds_of(run, observed)
        a_step = int(run["batch"]) * (layout.forward_flops + layout.backward_flops)
        scored = max(asked) * scored_items(run) + len(asked) * int(run["eval_items"])
        wide = 8 if run["precision"] == "float64" else 4
        state = 5 if run["optimiser"] == "adamw" else 4
        numbers = state * layout.size + 3 * int(run["batch"]) * layout.activations
        return Cost(
            parameters=layout.size,
            flops=float(models) * (max(asked) + 1) * int(run["steps"]) * a_step,
            flops_eval=float(scored) * layout.forward_flops + len(asked) * bmd_flops(run, layout, world.dim),
            bytes=float(models) * (wide * numbers + 8 * int(run["pool"]) * (1 + 2 * world.classes)),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """The pool holds what is asked for, in whole rounds; and models take the world's items."""
        for i in runs.examples(("bmd_points",)):
            if (points := int(runs.row(i)["bmd_points"])) and (points < 4 or points % 2):
                raise SweepError(
                    f"grid.bmd_points: must be 0, or even and at least 4, but got (bmd_points={points}). 100 are usual"
                )
        for i in runs.examples(("initial", "query", "pool")):
            row = runs.row(i)
            for observed in runs.observed:
                rounds_of(row, observed)
                most = max(int(v) for v in observed.values("labelled"))
                if most > int(row["pool"]):
                    raise SweepError(
                        f"grid.labelled: `labelled <= pool` must hold, but got (labelled={most}, pool={row['pool']}). "
                        "Make `pool` larger"
                    )
        if world is not None:
            for first in runs.examples(_SHAPE):
                if problem := architecture_of(runs.row(first), world).problem():
                    raise SweepError(f"grid.{problem}")

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """All runs of the pack together, round by round; one batch of rows per round that is asked for."""
        from raysweep.experiments.active_rounds import rounds

        yield from rounds(pack, context)


def members_of(strategy: str, ensemble: int) -> int:
    """Models that a run of a strategy trains."""
    return ensemble if strategy == "bald" else 1


def scored_items(run: Mapping[str, Value]) -> int:
    """Items in the forward passes that score the pool once."""
    strategy = str(run["strategy"])
    asks_nothing = strategy in ("random", "aleatoric")
    return 0 if asks_nothing else int(run["pool"]) * members_of(strategy, int(run["ensemble"]))


def rounds_of(run: Mapping[str, Value], observed: Observed) -> list[int]:
    """The rounds in which a run has the numbers of labelled items that are asked for.

    Raises:
        SweepError: it never has one of them.
    """
    initial, query = int(run["initial"]), int(run["query"])
    asked = sorted(int(v) for v in observed.values("labelled"))
    for labelled in asked:
        if labelled < initial or (labelled - initial) % query:
            raise SweepError(
                f"grid.labelled: must be initial + query x rounds, but got (labelled={labelled}, initial={initial}, "
                f"query={query}). Take values like {initial}, {initial + query}, {initial + 2 * query}"
            )
    return [(labelled - initial) // query for labelled in asked]


EXPERIMENT = Active()
