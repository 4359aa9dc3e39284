"""Latent instance difficulty: ridge regression on noisy targets, and the failure of k attempts, exact at every k.

Source: arXiv 2601.03764. Inputs are Gaussian with covariance eigenvalues j^-(1 + alpha); the target of an instance of
precision tau is Normal(x . theta, sigma^2 / tau), with P(tau <= t) ~ t^(beta / 2). Training uses one target per input.
The excess risk of the estimate is exact (no test set), and so is the chance that k attempts fail (`theory.difficulty`),
so k and the tolerance are observed at any number of values; all ridges share one eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.display import Display
from raysweep.experiment import Context, Cost, Metric, WorldShape
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.theory.difficulty import PRIORS, rates
from raysweep.theory.lid import excess_risk, noise_variance

__all__ = ["EXPERIMENT", "Difficulty", "excess_risks"]

Array: TypeAlias = npt.NDArray[np.float64]

AXES = (
    Axis("n_train", int, "lane", 400, low=1, high=2**31 - 1, unit="items", help="training items, nested by seed"),
    Axis("dim", int, "shape", 50, low=1, high=4096, unit="features", help="d"),
    Axis("alpha", float, "lane", 1.0, low=0.0, high=20.0, help="covariance eigenvalues fall as j^-(1 + alpha)"),
    Axis("beta", float, "lane", 2.5, low=0.05, high=50.0, help="tail exponent of the difficulty"),
    Axis("prior", str, "lane", "gamma", choices=PRIORS, help="of the precision: gamma(beta/2, 1), or U^(2/beta) <= 1"),
    Axis("sigma_eta", float, "lane", 1e-3, low=1e-12, high=1e12, help="scale of the target noise"),
    Axis("seed", int, "lane", 0, low=0, high=2**62, role="seed", help="of the data and the true parameters"),
    Axis("ridge", float, "observed", 1e-9, low=0.0, high=1e12, help="lambda, the weight of |theta|^2"),
    Axis(
        "tolerance", float, "observed", 1.0, low=1e-9, high=1e3, help="D = delta / sigma_eta: a smaller error is a hit"
    ),
    Axis("k", int, "observed", 1, low=1, high=10**12, unit="attempts", help="inference budget"),
)
METRICS = (
    Metric("l_gen", "", "excess risk E (x . (theta_hat - theta))^2", "low"),
    Metric("risk", "", "l_gen / sigma_eta^2", "low"),
    Metric("failure", "", "chance that all k attempts miss, 1 - pass@k", "low"),
    Metric("pass_at_k", "", "chance that at least one of k attempts hits", "high"),
    Metric("exponent", "", "local exponent of failure in k, -d log failure / d log k", "high"),
    Metric("condition", "", "condition number of the ridge problem"),
)
DISPLAY = Display(
    labels={"n_train": "training items N", "l_gen": "excess risk L_gen", "failure": "1 - pass@k", "k": "attempts k"},
    x="n_train",
    y="l_gen",
)
_TRAINED = ("n_train", "dim", "alpha", "beta", "prior", "sigma_eta", "ridge")  # what the excess risk depends on
_CHUNK = 2**22  # numbers of the inputs held at a time
_SINGULAR = 1e13  # condition number beyond which double precision is meaningless
_NORMAL, _NOISE, _PRECISION, _TRUTH = range(4)  # the random streams of a seed, by use
_OF_ATTEMPTS = {"failure", "pass_at_k", "exponent"}
_MOST_RISKS, _MOST_CURVES = 20_000, 1000  # per theory: a risk takes a millisecond, a curve a tenth of a second
_MESH_FLOPS = 1e8  # FLOPs of one failure curve over all k


@dataclass(frozen=True)
class Difficulty:
    """The `lid` experiment."""

    name: str = "lid"
    version: int = 1
    axes: Sequence[Axis] = AXES
    metrics: Sequence[Metric] = METRICS
    needs_world: bool = False
    display: Display = DISPLAY

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        """Gram matrix of the inputs, its eigendecomposition, and one quadrature mesh per failure curve."""
        n, d = float(run["n_train"]), float(run["dim"])
        m = min(n, d)
        curves = len(observed.values("ridge")) * len(observed.values("tolerance"))
        return Cost(
            parameters=d,
            flops=2 * n * d * m + 9 * m**3 + 4 * d * m * len(observed.values("ridge")),
            flops_eval=curves * _MESH_FLOPS,
            bytes=8 * (d * m + 3 * m * m),
        )

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None:
        """Any combination is valid: for beta <= 2 the training noise has infinite variance; the sweep still runs."""

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        """One batch per run: a row for each ridge, tolerance and k."""
        observed = pack.observed[0]
        ridges, tolerances = (np.array(observed.values(name)) for name in ("ridge", "tolerance"))
        ks = np.array(observed.values("k"), dtype=np.int64)
        for lane, risks, condition in excess_risks(pack, ridges):
            row = pack.row(lane)
            cost = self.cost(row, observed, None)
            sigma, beta, prior = float(row["sigma_eta"]), float(row["beta"]), str(row["prior"])
            columns: dict[str, list[Array]] = {name: [] for name in ("failure", "exponent")}
            for risk, tolerance in product(np.where(condition < _SINGULAR, risks, 0.0) / sigma**2, tolerances):
                curve = rates(beta, float(tolerance), float(risk), prior, float(ks[-1]))
                for name, values_of in zip(columns, curve.curve(ks), strict=True):
                    columns[name].append(values_of)
            failure, exponent = (np.concatenate(c) for c in columns.values())
            each = len(tolerances) * len(ks)
            sound = np.repeat(condition < _SINGULAR, each)
            table = {
                "lane": pa.repeat(pa.scalar(lane, pa.int32()), len(failure)),
                "ridge": pa.array(np.repeat(ridges, each)),
                "tolerance": pa.array(np.tile(np.repeat(tolerances, len(ks)), len(ridges))),
                "k": pa.array(np.tile(ks, len(ridges) * len(tolerances))),
                "status": pa.array(np.where(sound, "ok", "diverged")),
                "error": pa.array(
                    np.repeat([_reason(c) for c in condition], each).astype(object), pa.string(), mask=sound
                ),
                "flops": pa.repeat(cost.flops, len(failure)),
                "flops_eval": pa.repeat(cost.flops_eval, len(failure)),
            }
            values = {
                "l_gen": np.repeat(risks, each),
                "risk": np.repeat(risks / sigma**2, each),
                "failure": failure,
                "pass_at_k": 1 - failure,
                "exponent": exponent,
                "condition": np.repeat(condition, each),
            }
            table |= {name: pa.array(v, mask=~(sound & np.isfinite(v))) for name, v in values.items()}
            yield pa.RecordBatch.from_pydict(table)

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        """The expected excess risk, and the failure of k attempts at that risk; no value where beta <= 2.

        The failure at the expected risk is neither the expected failure, which a few bad data sets dominate, nor the
        median over seeds, which is up to an order of magnitude smaller where the exponent is about to saturate.
        """
        names = ("l_gen", "risk", "failure", "pass_at_k", "exponent")
        found = {name: np.full(len(cells), np.nan) for name in names}
        reason = np.full(len(cells), None, dtype=object)
        for i, (one, rows) in enumerate(trained := list(_groups(cells, _TRAINED))):
            if i >= _MOST_RISKS:
                reason[rows] = f"only {_MOST_RISKS:,} of {len(trained):,} excess risks are computed"
                continue
            beta, sigma, d = float(one["beta"]), float(one["sigma_eta"]), int(one["dim"])
            if beta <= 2:
                reason[rows] = f"beta must be above 2 for targets to have a variance, but is {beta:g}"
                continue
            noise = noise_variance(beta, sigma, str(one["prior"]))
            expected = excess_risk(float(one["n_train"]), d, float(one["alpha"]), noise, float(one["ridge"]))
            if not np.isfinite(expected):
                reason[rows] = f"without a ridge the excess risk has no expectation at n_train = dim = {d}"
                continue
            found["l_gen"][rows], found["risk"][rows] = expected, expected / sigma**2
        ruled = cells.select(["beta", "prior", "tolerance", "k"]).append_column("risk", pa.array(found["risk"]))
        k = cells["k"].to_numpy()
        curves = list(_groups(ruled, ("beta", "prior", "tolerance", "risk"))) if _OF_ATTEMPTS & {*metrics} else []
        for i, (one, rows) in enumerate(curves):
            if i >= _MOST_CURVES:
                reason[rows] = f"only {_MOST_CURVES:,} of {len(curves):,} failure curves are computed"
            elif np.isfinite(one["risk"]):
                asked, where = np.unique(k[rows], return_inverse=True)
                curve = rates(one["beta"], one["tolerance"], one["risk"], one["prior"], float(asked[-1]))
                failure, exponent = curve.curve(asked)
                found["failure"][rows], found["exponent"][rows] = failure[where], exponent[where]
        found["pass_at_k"] = 1 - found["failure"]
        columns = {name: pa.array(values, mask=~np.isfinite(values)) for name, values in found.items()}
        return pa.table({**columns, "reason": pa.array(reason, pa.string())})


EXPERIMENT = Difficulty()


def _groups(cells: pa.Table, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.int64]]]:
    """Every distinct combination of these columns, and its rows."""
    numbered = cells.select(list(names)).append_column("row", pa.array(np.arange(len(cells))))
    for one in numbered.group_by(list(names)).aggregate([("row", "list")]).to_pylist():
        yield one, np.array(one.pop("row_list"))


def _reason(condition: float) -> str:
    return f"the ridge problem is singular in double precision (condition number {condition:.1e}): raise ridge"


def excess_risks(pack: Runs, ridges: Array) -> Iterator[tuple[int, Array, Array]]:
    """(lane, excess risk at each ridge, condition number at each ridge), both [ridges], of every run of a pack.

    Runs of one seed share their inputs: those of a smaller n are the first of a larger n's.
    """
    d = int(pack.value("dim"))
    n, seed = (np.array(pack.column(name)) for name in ("n_train", "seed"))
    for one in np.unique(seed):
        mine = np.flatnonzero(seed == one)
        theta = _stream(one, _TRUTH).standard_normal(d)
        noisy = {(pack.row(i)["beta"], pack.row(i)["prior"]) for i in mine.tolist()}
        for size, inputs, gram, moments in _prefixes(int(one), np.unique(n[mine]).tolist(), d, sorted(noisy)):
            lanes = [int(i) for i in mine if n[i] == size]
            rows = [pack.row(i) for i in lanes]
            root = np.stack([np.arange(1, d + 1) ** (-(1 + float(r["alpha"])) / 2) for r in rows])
            noise = np.stack([moments[r["beta"], r["prior"]] * float(r["sigma_eta"]) for r in rows])
            solve = _primal if inputs is None else _dual
            risks, conditions = solve(gram if inputs is None else inputs, noise, root, theta, size, ridges)
            yield from zip(lanes, risks, conditions, strict=True)


def _stream(seed: int, use: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[int(seed), use]))


def _prefixes(
    seed: int, sizes: Sequence[int], d: int, noisy: Sequence[tuple[Value, Value]]
) -> Iterator[tuple[int, Array | None, Array, dict[tuple[Value, Value], Array]]]:
    """For every size n, ascending: n, the inputs Z [n, d] where n < d (else None), Z'Z, and noise of unit sigma.

    The noise is eta itself, [n], where n < d, and Z'eta, [d], otherwise. Z is kept whole only for n < d.
    """
    normal, scatter = _stream(seed, _NORMAL), _stream(seed, _NOISE)
    draws = {kind: _stream(seed, _PRECISION) for kind in noisy}
    gram, done = np.zeros((d, d)), 0
    products = {kind: np.zeros(d) for kind in noisy}
    first: Array = np.zeros((0, d))
    etas: dict[tuple[Value, Value], Array] = {kind: np.zeros(0) for kind in noisy}
    for size in sizes:
        while done < size:
            count = min(size - done, max(1, _CHUNK // d))
            z, e = normal.standard_normal((count, d)), scatter.standard_normal(count)
            gram += z.T @ z
            for kind, rng in draws.items():
                eta = e / np.sqrt(_precisions(rng, float(kind[0]), str(kind[1]), count))
                products[kind] += z.T @ eta
                if size < d:
                    etas[kind] = np.append(etas[kind], eta)
            first = np.concatenate([first, z]) if size < d else first
            done += count
        if size < d:
            yield size, first, gram, etas
        else:
            yield size, None, gram, products


def _precisions(rng: np.random.Generator, beta: float, prior: str, count: int) -> Array:
    """[count] precisions tau of instances."""
    if prior == "gamma":
        return rng.gamma(beta / 2, size=count)
    return np.asarray((1 - rng.random(count)) ** (2 / beta))


def _primal(gram: Array, noise: Array, root: Array, theta: Array, n: int, ridges: Array) -> tuple[Array, Array]:
    """Excess risk and condition number, [lanes, ridges], from Z'Z [d, d]; noise Z'eta and root of spectrum, [lanes, d].

    It solves for the error, not for the parameters: theta_hat - theta = (S + l)^-1 (X'eta / n - l theta), which loses
    no digits where the error is small.
    """
    values, vectors = np.linalg.eigh(root[:, :, None] * gram * root[:, None, :] / n)
    values = np.maximum(values, 0.0)
    turned = np.swapaxes(vectors, 1, 2)
    signal = (turned @ (root * noise / n)[..., None])[..., 0]
    bias = (turned @ np.broadcast_to(theta, root.shape)[..., None])[..., 0]
    risks, conditions = [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        for ridge in ridges.tolist():
            error = (vectors @ ((signal - ridge * bias) / (values + ridge))[..., None])[..., 0]
            risks.append(((root * error) ** 2).sum(axis=1))
            conditions.append((values[:, -1] + ridge) / (values[:, 0] + ridge))
    return np.stack(risks, axis=1), np.stack(conditions, axis=1)


def _dual(inputs: Array, noise: Array, root: Array, theta: Array, n: int, ridges: Array) -> tuple[Array, Array]:
    """The same for n < d from the inputs Z [n, d]: theta_hat = X'(XX' / n + l)^-1 y / n; noise is eta, [lanes, n]."""
    x = inputs * root[:, None, :]
    values, vectors = np.linalg.eigh(x @ np.swapaxes(x, 1, 2) / n)
    values = np.maximum(values, 0.0)
    y = (np.swapaxes(vectors, 1, 2) @ (x @ theta + noise)[..., None])[..., 0]
    risks, conditions = [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        for ridge in ridges.tolist():
            dual = (vectors @ (y / (values + ridge) / n)[..., None])[..., 0]
            error = (np.swapaxes(x, 1, 2) @ dual[..., None])[..., 0] - theta
            risks.append(((root * error) ** 2).sum(axis=1))
            conditions.append((values[:, -1] + ridge) / (values[:, 0] + ridge))
    return np.stack(risks, axis=1), np.stack(conditions, axis=1)
