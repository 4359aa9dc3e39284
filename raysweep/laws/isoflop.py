"""IsoFLOP valleys: the compute-optimal size from runs of several sizes at each of several budgets.

Approach 2 of Hoffmann et al. (2022, arXiv 2203.15556, section 3.2). A parabola in log N is biased where alpha != beta
and the sizes reach far or lie off the optimum (arXiv 2603.22339), so a valley is a cubic unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from raysweep.errors import FitError
from raysweep.laws.definition import Array
from raysweep.laws.draws import Draws
from raysweep.laws.frontier import FEWEST, Frontier, itself, positive

__all__ = ["IsoFlop", "Valley", "isoflop"]

_SUSPICIOUS = 0.001  # p-value below which a line is flagged
_SHOWN = 5  # budgets that a note names
_WEBB = np.sqrt([0.5, 1.0, 1.5])


@dataclass(frozen=True)
class Valley:
    """Loss against size at one budget: `log loss = polynomial(log N - centre)`.

    Attributes:
        budget: FLOPs.
        n: The size of least loss, or None where it is not bracketed.
        coefficients: Coefficients of the polynomial, constant first, [degree + 1].
        centre: Mean log N.
        window: Least and greatest size.
        runs: Runs behind it.
        sample: Draws of log N*, one parameter.
    """

    budget: float
    n: float | None
    coefficients: Array
    centre: float
    window: tuple[float, float]
    runs: int
    sample: Draws = field(repr=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Low and high of N*."""
        low, high = np.exp(self.sample.interval_of(lambda values: values[..., 0], level))
        return float(low), float(high)

    def loss(self, n: npt.ArrayLike) -> Array:
        """The polynomial's loss at sizes n."""
        shift = np.log(np.asarray(n, dtype=np.float64)) - self.centre
        return np.asarray(np.exp(np.polynomial.polynomial.polyval(shift, self.coefficients)))


@dataclass(frozen=True)
class IsoFlop:
    """Valleys of every budget that has enough sizes, and the frontier through the bracketed ones."""

    valleys: tuple[Valley, ...]
    frontier: Frontier


def isoflop(
    compute: npt.ArrayLike,
    n: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    degree: int = 3,
    c: float = 6.0,
    draws: int = 1000,
    seed: int = 0,
) -> IsoFlop:
    """Approach 2: the bracketed minimum of each budget's valley, then `log N* = log G + a log C`.

    A budget whose minimum lies on the edge of its sizes is left out and noted (`isoflop_minimum_not_bracketed`), as is
    one with too few sizes (`too_few_scales`). Valleys count by how sharply their sizes determine a minimum under equal
    noise of log loss. Draws are a wild bootstrap of the runs within each budget (six-point weights of Webb 2014 on
    leverage-corrected residuals), so all of them share one factorisation; they are widened by t with Satterthwaite's
    degrees of freedom, and by the scatter of the optima about the line where that exceeds their own spread (the
    scale factor of the Particle Data Group).

    Args:
        compute: Budget of each run, the same number for all runs of a budget, [runs].
        n: Size, positive, [runs]: parameters for N*, or tokens for D*.
        loss: Positive, [runs].
        degree: 3, or 2 for the classical parabola.
        c: FLOPs per unit of N D.
        draws: Bootstrap draws.
        seed: The same seed gives the same draws.

    Raises:
        FitError: A value is not positive, or fewer than 3 budgets have a bracketed minimum.
    """
    if degree not in (2, 3):
        raise FitError(f"A valley is a parabola (degree=2) or a cubic (degree=3), but got {degree=}. Choose one.")
    table = positive(compute=compute, n=n, loss=loss)
    # In a canonical order, so that a draw does not depend on the order of rows.
    table = table[:, np.lexsort(table[::-1])]
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    fits, few = [], []
    for budget in np.unique(table[0]):
        _, sizes, losses = table[:, table[0] == budget]
        have = np.unique(sizes).size
        if have < degree + 2:
            few.append(f"{budget:.3g} ({have})")
        else:
            fits.append(_valley(float(budget), sizes, losses, degree, draws, rng))
    valleys, precision = tuple(v for v, _ in fits), np.array([p for _, p in fits])
    details = {}
    if few:
        details["too_few_scales"] = (
            f"A valley of degree {degree} needs {degree + 2} distinct sizes; left out with fewer: {_listed(few)}. "
            + ("Add sizes, or use `degree=2`." if degree == 3 else "Add sizes.")
        )
    if astray := [_edge(valley) for valley in valleys if valley.n is None]:
        details["isoflop_minimum_not_bracketed"] = (
            f"Budgets whose least loss lies on the edge of their sizes were left out: {_listed(astray)}."
        )
    kept = np.array([valley.n is not None for valley in valleys], dtype=bool)
    if kept.sum() < FEWEST:
        raise FitError(
            f"N*(C) needs {FEWEST} budgets with a bracketed minimum, but there are {kept.sum()}. "
            + " ".join(details.values() or ["Add budgets."])
        )
    seen = tuple(valley for valley in valleys if valley.n is not None)
    sample = _line(seen, precision[kept], details)
    window = seen[0].budget, seen[-1].budget
    return IsoFlop(valleys, Frontier("isoflop", sample, itself, c, window, details))


def _listed(budgets: Sequence[str]) -> str:
    more = len(budgets) - _SHOWN
    return "; ".join(budgets[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _edge(valley: Valley) -> str:
    """Which sizes a budget lacks, in words."""
    low, high = np.asarray(valley.window)
    smaller = valley.loss(low) < valley.loss(high)
    return f"{valley.budget:.3g} (add sizes {'below' if smaller else 'above'} {low if smaller else high:.3g})"


def _valley(
    budget: float, n: Array, loss: Array, degree: int, draws: int, rng: np.random.Generator
) -> tuple[Valley, float]:
    """One budget's valley, and the precision of its log N* per unit variance of log loss."""
    log_n, y = np.log(n), np.log(loss)
    centre = float(log_n.mean())
    shift = log_n - centre
    low, high = float(shift.min()), float(shift.max())
    powers = np.arange(degree + 1)
    q, r = np.linalg.qr(shift[:, None] ** powers)
    inverse = np.linalg.inv(r)
    coefficients = inverse @ (q.T @ y)
    # A run that the polynomial always passes through (leverage 1) has no residual to correct.
    slack = np.maximum(1 - (q**2).sum(axis=1), 1e-9)
    residual = (y - q @ (q.T @ y)) / np.sqrt(slack)
    shape = (draws, n.size)
    wild = rng.choice(_WEBB, size=shape) * rng.choice([-1.0, 1.0], size=shape) * residual
    found, inside = _least(coefficients, low, high)
    drawn, _ = _least(coefficients + wild @ q @ inverse.T, low, high)
    # The delta method: d argmin = -(gradient . d coefficients) / curvature.
    gradient = powers * found ** np.maximum(powers - 1, 0)
    curvature = (powers * (powers - 1) * found ** np.maximum(powers - 2, 0)) @ coefficients
    precision = float(curvature**2 / ((gradient @ inverse) ** 2).sum())
    sample = Draws(found[None] + centre, drawn[:, None] + centre, float(n.size - degree - 1))
    valley = Valley(
        budget,
        float(np.exp(found + centre)) if inside else None,
        coefficients,
        centre,
        (float(n.min()), float(n.max())),
        n.size,
        sample,
    )
    return valley, precision


def _least(coefficients: Array, low: float, high: float) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The minima of polynomials of degree 2 or 3, [..., degree + 1], in [low, high], and whether each lies inside."""
    _, c1, c2, *rest = np.moveaxis(coefficients, -1, 0)
    c3 = rest[0] if rest else np.zeros_like(c2)
    # The stationary point with curvature 2 root > 0; each form is stable where it is used.
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(c2**2 - 3 * c1 * c3)
        turn = np.where(c2 > 0, -c1 / (c2 + root), (root - c2) / (3 * c3))
    turn = np.where(np.isfinite(turn), np.clip(turn, low, high), low)
    candidates = np.stack([np.full_like(turn, low), turn, np.full_like(turn, high)])
    best = np.polynomial.polynomial.polyval(candidates, np.moveaxis(coefficients, -1, 0)[:, None], tensor=False)
    found = np.take_along_axis(candidates, best.argmin(axis=0)[None], axis=0)[0]
    return found, (found > low) & (found < high)


def _line(valleys: tuple[Valley, ...], precision: Array, details: dict[str, str]) -> Draws:
    """(log G, a) through the optima of valleys, with draws; adds what should be known to `details`."""
    log_c = np.log([valley.budget for valley in valleys])
    optima = np.array([valley.sample.values[0] for valley in valleys])
    drawn = np.stack([valley.sample.draws[:, 0] for valley in valleys], axis=1)
    freedom = np.array([valley.sample.freedom for valley in valleys])
    middle = log_c.mean()
    design = np.stack([np.ones_like(log_c), log_c - middle], axis=1)
    # One linear map from optima to the line serves the estimate and every draw.
    solve = np.linalg.solve(design.T @ (design * precision[:, None]), design.T * precision)
    solve[0] -= middle * solve[1]
    values = solve @ optima
    variance = drawn.var(axis=0)
    share = solve[1] ** 2 * variance
    scale, spare = 1.0, len(valleys) - 2
    effective = float(freedom.sum())
    if share.sum() > 0:
        effective = float(share.sum() ** 2 / (share**2 / freedom).sum())
        stray = optima - values[0] - values[1] * log_c
        ratio = float((stray**2 / np.maximum(variance, 1e-300)).sum() / spare)
        scale = max(1.0, float(np.sqrt(ratio)))
        p_value = float(fdtrc(spare, effective, ratio))
        if p_value < _SUSPICIOUS:
            effective = float(spare)  # all that is known of the scatter
            details["lack_of_fit"] = (
                f"The optima deviate from N* = G C^a by {scale:.1f} times what the noise within budgets explains "
                f"(F test, p = {p_value:.1g}); intervals were widened by this factor. Look at the valleys."
            )
    return Draws(values, drawn @ solve.T, effective, scale)
