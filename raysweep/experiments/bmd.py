"""Boolean mean dimension and double descent of random features with a teacher (arXiv 2401.12610).

Under the square loss all ridges share one eigendecomposition, so that `ridge` is observed; under the logistic loss each
is a training of its own, by Newton's method. What the function does on new inputs is measured, its Boolean mean
dimension by flips of every bit, and beside it stands the formula of `theory.bmd` on the trained weights. The theory is
that of `theory.replica`, for N, P and D that are large together, with the flips and the part of degree 2 of a finite D.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.display import Bound, Companion, Display
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.experiments.bmd_check import CLASSES, check_run
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.theory import replica
from raysweep.theory.bmd import ACTIVATIONS, mean_dimension
from raysweep.theory.bmd import activation as constants_of
from raysweep.theory.replica import Fitted

if TYPE_CHECKING:
    from raysweep.experiments.random_features import Features, Fit, Measured

__all__ = ["EXPERIMENT", "MeanDimension"]

Array: TypeAlias = npt.NDArray[np.float64]

AXES = (
    Axis("loss", str, "shape", "square", choices=("square", "logistic"), help="(y - f)^2 / 2, or log(1 + exp(-y f))"),
    Axis("activation", str, "shape", "tanh", choices=ACTIVATIONS, help="of the features"),
    Axis("teacher", str, "shape", "sign", choices=("sign", "linear", "digits"), help="labels sign(u) or u = theta . x "
         "/ sqrt(D); digits: images of 64 pixels with an output per class"),
    Axis("width", int, "shape", 100, low=1, high=16384, unit="features", help="N"),
    Axis("n_train", int, "shape", 300, low=2, high=16384, unit="items", help="P, nested by seed"),
    Axis("dim", int, "shape", 100, low=2, high=4096, unit="bits", help="D"),
    Axis("label_noise", float, "lane", 0.0, low=0.0, high=0.5, help="chance that a label of a sign teacher is flipped, "
         "or a digit's drawn from all ten"),
    Axis("target_noise", float, "lane", 0.0, low=0.0, high=1e6, help="variance added to labels of a linear teacher"),
    Axis("test_items", int, "shape", 10_000, low=100, high=2**24, unit="items", help="new inputs for errors, variance"),
    Axis("flip_items", int, "shape", 100, low=2, high=2**20, unit="items", help="new inputs whose bits are flipped"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="of teacher, features and all inputs"),
    Axis("ridge", float, KindBy("loss", {"logistic": "lane"}, "observed"), 1e-6, low=0.0, high=1e9,
         help="lambda of (lambda / 2) |w|^2 beside the sum of losses"),
)  # fmt: skip
METRICS = (
    Metric("test_error", "", "share of new inputs whose sign, without noise, is missed", "low"),
    Metric("mse", "", "mean square error on new inputs, against labels without noise", "low"),
    Metric("train_error", "", "share of training labels whose sign is missed; sign teacher", "low"),
    Metric("train_mse", "", "mean square error on the training labels", "low"),
    Metric("bmd", "", "Boolean mean dimension, by flips"),
    Metric("bmd_se", "", "its standard error, from finitely many inputs"),
    Metric("bmd_formula", "", "Boolean mean dimension by the formula for large D, on the trained weights"),
    Metric("bmd_marginal", "", "mean dimension over the pixels' marginals, of digits"),
    Metric("q_w", "", "|w|^2 / N"),
    Metric("q_s", "", "|F' w|^2 / (N D), the squared linear part"),
    Metric("norm", "", "|w|"),
)
DISPLAY = Display(
    labels={
        "width": "features N",
        "n_train": "training items P",
        "test_error": "test error",
        "mse": "test mean square error",
        "train_mse": "training mean square error",
        "bmd": "Boolean mean dimension",
        "bmd_formula": "Boolean mean dimension (formula)",
        "bmd_marginal": "mean dimension (pixels' marginals)",
    },
    x="width",
    y="test_error",
    companions=(Companion("bmd", "bmd_formula", "means", "Hollow: the formula for large D on the trained weights."),),
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
_SETTING = (
    "loss", "activation", "teacher", "width", "n_train", "dim", "label_noise", "target_noise", "ridge"
)  # what the theory depends on  # fmt: skip
_LEAST_THEORY = 1e-4  # ridge of the logistic theory, whose iteration is slow below
_NEWTON = 25  # steps, roughly
_SEEDS = 16  # whose inputs are held, and whose logistic runs are trained, at a time
_FUNCTION = 10.0  # FLOPs of an activation


@dataclass(frozen=True)
class MeanDimension:
    """The `bmd` experiment."""

    name: str = "bmd"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    display: Display = DISPLAY
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Gram matrix, its eigendecomposition, solutions; then features of new inputs and of their flips."""
        n, p, d = float(run["width"]), float(run["n_train"]), float(run["dim"])
        small, images = min(n, p), run["teacher"] == "digits"
        functions = float(len(_ridges(run, observed))) * (CLASSES if images else 1)
        solved, held = 4 * small * (small + n) * functions, 0.0
        if run["loss"] == "logistic":
            solved, held = _NEWTON * (2 * small**2 * p + 0.7 * small**3), small**2
        points, base = float(run["test_items"]), float(run["flip_items"])
        # Pixels are drawn again, too, and then every changed image is multiplied by the first layer.
        again = (points + base * (d + 1)) * n * (2 * d + _FUNCTION + 2 * functions) if images else 0.0
        return Cost(
            parameters=n * (CLASSES if images else 1),
            flops=p * n * (2 * d + _FUNCTION) + 2 * small * n * p + 9 * small**3 + solved,
            flops_eval=points * n * 2 * d + (points + base * d) * n * (_FUNCTION + 2 * functions) + again,
            bytes=8 * (2 * n * p + 3 * small**2 + held + n * d + points * (d + functions)),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Refuse noise that the teacher's labels cannot have, and losses without a finite minimum."""
        names = ("loss", "teacher", "n_train", "dim", "label_noise", "target_noise", "ridge")
        for i in runs.examples(name for name in names if name in runs.codes):
            check_run(runs.row(i))

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """One batch per run: a row per ridge. Runs of one seed share their draws, features and eigendecomposition.

        Logistic runs of several seeds are trained together.
        """
        if pack.value("teacher") == "digits":
            yield from self._digits(pack, context)
            return
        import torch

        from raysweep.experiments.random_features import Features, drawn

        width, items, dim, points, base = (
            int(pack.value(name)) for name in ("width", "n_train", "dim", "test_items", "flip_items")
        )
        seeds = np.array(pack.column("seed"))
        different, activation = list(dict.fromkeys(seeds.tolist())), str(pack.value("activation"))
        size = _SEEDS if pack.value("loss") == "logistic" else 1
        for first in range(0, len(different), size):
            lanes, features = [], []
            for seed in different[first : first + size]:
                one = Features(drawn(seed, width, items, dim, points, base), activation, context.device)
                own = np.flatnonzero(seeds == seed).tolist()
                lanes += own
                features += [one] * len(own)
            labels, fits = _fitted(pack, lanes, features)
            for one in dict.fromkeys(features):
                mine = [i for i, other in enumerate(features) if other is one]
                weights = [fits[i].weights[:, np.flatnonzero(fits[i].settled)] for i in mine]
                found = one.measured(torch.cat(weights, dim=1)).split([w.shape[1] for w in weights])
                for i, measured in zip(mine, found, strict=True):
                    linear = pack.value("teacher") == "linear"
                    yield self._rows(pack, lanes[i], fits[i], _metrics(one, labels[i], fits[i], measured, linear))

    def _digits(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """One batch per run on digits. Runs of one seed share their images, features and eigendecomposition."""
        from raysweep.experiments.digit_features import digits

        activation = str(pack.value("activation"))
        width, items, points, base = (int(pack.value(n)) for n in ("width", "n_train", "test_items", "flip_items"))
        seeds = np.array(pack.column("seed"))
        for seed in dict.fromkeys(seeds.tolist()):
            one = digits(seed, activation, width, items, points, base, context.device)
            for lane in np.flatnonzero(seeds == seed).tolist():
                run = pack.row(lane)
                labels = one.labels(float(run["label_noise"]))
                ridges = np.array(_ridges(run, pack.observed[int(pack.observed_code[lane])]))
                weights, fit = one.fit(labels, ridges)
                yield self._rows(pack, lane, fit, one.metrics(labels, weights))

    def _rows(self, pack: Runs, lane: int, fit: Fit, found: Mapping[str, Array]) -> pa.RecordBatch:
        """Rows of a run from its metrics at the ridges whose fits are settled."""
        run, asked = pack.row(lane), pack.observed[int(pack.observed_code[lane])]
        ridges = _ridges(run, asked)
        values = {metric.name: np.full(len(ridges), np.nan) for metric in self.metrics}
        for name, value in found.items():
            values[name][fit.settled] = value
        cost = self.cost(run, asked, None)
        return pa.RecordBatch.from_pydict(
            {
                "lane": pa.repeat(pa.scalar(lane, pa.int32()), len(ridges)),
                "ridge": pa.array(ridges),
                "status": pa.array(np.where(fit.settled, "ok", "diverged")),
                "error": pa.array(
                    np.array([_reason(str(run["loss"]), c) for c in fit.condition], dtype=object),
                    pa.string(),
                    mask=fit.settled,
                ),
                "flops": pa.repeat(cost.flops, len(ridges)),
                "flops_eval": pa.repeat(cost.flops_eval, len(ridges)),
                **{name: pa.array(v, mask=~np.isfinite(v)) for name, v in values.items()},
            }
        )

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        """Expectations for N, P and D that are large together, with flips and the part of degree 2 at this D."""
        names = ("test_error", "mse", "train_error", "train_mse", "bmd", "bmd_formula", "q_w", "q_s", "norm")
        found = {name: np.full(len(cells), np.nan) for name in names}
        reason = np.full(len(cells), None, dtype=object)
        numbered = cells.select(list(_SETTING)).append_column("row", pa.array(np.arange(len(cells))))
        kinds = numbered.group_by(["loss", "activation", "teacher"]).aggregate(
            [(n, "list") for n in numbered.column_names[3:]]
        )
        for kind in kinds.to_pylist():
            rows = np.array(kind.pop("row_list"))
            if kind["teacher"] == "digits":
                reason[rows] = "the theory has random inputs and a teacher, not images"
                continue
            numbers = {name: np.array(kind[f"{name}_list"], dtype=float) for name in _SETTING[3:]}
            if kind["loss"] == "logistic":
                low = (numbers["ridge"] < _LEAST_THEORY) | (kind["teacher"] == "linear")
                reason[rows[low]] = f"the logistic theory takes sign teachers and ridges from {_LEAST_THEORY:g}"
                rows, numbers = rows[~low], {name: v[~low] for name, v in numbers.items()}
            for name, values in _expected(kind, numbers).items() if len(rows) else ():
                found[name][rows] = values
        for name, why in (
            ("test_error", "the equations of the theory have no settled solution here"),
            ("train_error", "real labels have no share of missed signs"),
        ):
            for row in np.flatnonzero(~np.isfinite(found[name])).tolist():
                reason[row] = reason[row] or why
        columns = {name: pa.array(values, mask=~np.isfinite(values)) for name, values in found.items()}
        return pa.table({**columns, "reason": pa.array(reason, pa.string())})


EXPERIMENT = MeanDimension()


def _ridges(run: Mapping[str, Value], observed: Observed) -> list[float]:
    """The ridges of a run: all that are observed, or its own."""
    return [float(run["ridge"])] if run["loss"] == "logistic" else [float(r) for r in observed.values("ridge")]


def _fitted(pack: Runs, lanes: Sequence[int], features: Sequence[Features]) -> tuple[list[Array], list[Fit]]:
    """The labels [P] of each run, and its fit to them at all of its ridges."""
    rows = [pack.row(lane) for lane in lanes]
    labels = [
        one.draws.labels(row["teacher"] == "linear", float(row["label_noise"]), float(row["target_noise"]))
        for row, one in zip(rows, features, strict=True)
    ]
    if pack.value("loss") == "logistic":
        from raysweep.experiments.newton import logistic

        return labels, logistic(features, labels, [float(row["ridge"]) for row in rows])
    asked = [pack.observed[int(pack.observed_code[lane])] for lane in lanes]
    ridges = [np.array(_ridges(row, each)) for row, each in zip(rows, asked, strict=True)]
    return labels, [one.least_squares(y, r) for one, y, r in zip(features, labels, ridges, strict=True)]


def _metrics(features: Features, labels: Array, fit: Fit, measured: Measured, linear: bool) -> dict[str, Array]:
    """Metrics at the ridges whose fits are settled, [ridges] each."""
    draws, y = features.draws, labels[:, None]
    w, trained = (t.cpu().numpy()[:, fit.settled] for t in (fit.weights, fit.outputs))
    u = (draws.points @ draws.teacher / np.sqrt(features.dim))[:, None]
    q_w = (w**2).mean(axis=0)
    q_s = ((draws.rows.T @ w) ** 2).mean(axis=0) / features.width
    return {
        "test_error": ((measured.outputs >= 0) != (u >= 0)).mean(axis=0),
        "mse": ((measured.outputs - (u if linear else np.where(u >= 0, 1.0, -1.0))) ** 2).mean(axis=0),
        "train_error": np.full(len(q_w), np.nan) if linear else ((trained >= 0) != (y >= 0)).mean(axis=0),
        "train_mse": ((trained - y) ** 2).mean(axis=0),
        "bmd": measured.mean_dimension,
        "bmd_se": measured.standard_error,
        "bmd_formula": mean_dimension(features.constants, q_s, q_w),
        "q_w": q_w,
        "q_s": q_s,
        "norm": np.sqrt(q_w * features.width),
    }


def _reason(loss: str, condition: float) -> str:
    if loss == "logistic":
        return f"Newton's method did not settle (condition number {condition:.1e}): raise ridge"
    return f"the ridge problem is singular in double precision (condition number {condition:.1e}): raise ridge"


def _expected(kind: Mapping[str, Any], at: Mapping[str, Array]) -> dict[str, Array]:
    """The expected metrics of settings, [settings] each, that share loss, activation and teacher."""
    of, linear = constants_of(kind["activation"]), kind["teacher"] == "linear"
    ratios = (at["width"], at["n_train"], at["dim"], at["ridge"])
    noise = at["target_noise"] if linear else at["label_noise"]
    solved: Fitted = (
        replica.logistic(of, *ratios, noise, finite=True)
        if kind["loss"] == "logistic"
        else replica.square(of, *ratios, noise, linear=linear, finite=True)
    )
    dims, place = np.unique(at["dim"], return_inverse=True)
    slope = np.array([of.slope_at(int(dim)) for dim in dims])[place]
    return {
        "test_error": solved.test_error,
        "mse": solved.mse,
        "train_error": solved.train_error,
        "train_mse": solved.train_mse,
        "bmd": solved.bmd(slope),
        "bmd_formula": mean_dimension(of, solved.q_s, solved.q_w),
        "q_w": solved.q_w,
        "q_s": solved.q_s,
        "norm": np.sqrt(solved.q_w * at["width"]),
    }
