"""The envelope of training curves: at each compute, the run of least loss.

Approach 1 of Hoffmann et al. (2022, arXiv 2203.15556, section 3.1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.definition import Array
from raysweep.laws.draws import Draws
from raysweep.laws.frontier import FEWEST, Frontier, itself, positive

__all__ = ["envelope"]


def envelope(
    run: npt.ArrayLike,
    n: npt.ArrayLike,
    compute: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    smooth: float = 0.0,
    points: int = 200,
    c: float = 6.0,
    draws: int = 1000,
    seed: int = 0,
) -> Frontier:
    """Approach 1: at log-spaced compute the size of the run of least loss, then `log N* = log G + a log C`.

    A compute counts only if its best run is neither the smallest nor the largest that reaches it.
    The curve of a schedule that decays towards a horizon is comparable at its end only, so use a constant or
    warmup-stable-decay schedule. Draws resample runs.

    Args:
        run: The run of each checkpoint, [points].
        n: Size, positive, one per run, [points].
        compute: FLOPs spent by then, positive, [points].
        loss: Positive, [points].
        smooth: Width of a local-linear Gaussian smoother of each curve, in e-folds of compute; 0 for evaluation
            losses, which need none.
        points: Number of mesh points of compute.
        c: FLOPs per unit of N D.
        draws: Bootstrap draws.
        seed: The same seed gives the same draws.

    Raises:
        FitError: A value is not positive, or fewer than 3 sizes are ever the best between two others.
    """
    u, size, y = np.log(positive(compute=compute, n=n, loss=loss))
    _, index = np.unique(np.asarray(run), return_inverse=True)
    mesh = np.linspace(u.min(), u.max(), points)
    curves, sizes = [], []
    for r in range(index.max() + 1):
        order = np.flatnonzero(index == r)[np.argsort(u[index == r], kind="stable")]
        curves.append(_curve(mesh, u[order], y[order], smooth))
        sizes.append(size[order[0]])
    losses, log_n = np.array(curves), np.array(sizes)
    runs = log_n.size
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    counts = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws)
    values, winners = _envelope(mesh, losses, log_n, np.concatenate([np.ones((1, runs), dtype=np.int64), counts]))
    if winners[0] < FEWEST:
        raise FitError(
            f"An envelope needs {FEWEST} sizes that are the best between a smaller and a larger one, but there are "
            f"{winners[0]} among {np.unique(log_n).size} sizes. Add sizes, or train the runs further."
        )
    usable = np.flatnonzero(winners[1:] >= FEWEST) + 1
    details = {}
    if usable.size < draws:
        details["draws_discarded"] = f"{draws - usable.size} of {draws} draws kept too few sizes for a line."
    freedom = winners[0] - 2
    sample = Draws(values[0], values[usable], float(freedom), float(np.sqrt(winners[0] / freedom)))
    return Frontier("envelope", sample, itself, c, (float(np.exp(mesh[0])), float(np.exp(mesh[-1]))), details)


def _curve(mesh: Array, u: Array, y: Array, smooth: float) -> Array:
    """log loss of one run at log compute `mesh`, inf where it was not measured."""
    if smooth > 0:
        gap = u[None, :] - u[:, None]
        w = np.exp(-0.5 * (gap / smooth) ** 2)
        s0, s1, s2 = w.sum(axis=1), (w * gap).sum(axis=1), (w * gap**2).sum(axis=1)
        local = s0 * s2 - s1**2
        straight = (s2 * (w @ y) - s1 * ((w * gap) @ y)) / np.where(local > 0, local, 1.0)
        # A checkpoint too far from its neighbours stays what it is.
        y = np.where(local > 1e-9 * s0 * s2, straight, y)
    return np.interp(mesh, u, y, left=np.inf, right=np.inf)


def _envelope(
    mesh: Array, losses: Array, log_n: Array, counts: npt.NDArray[np.int64]
) -> tuple[Array, npt.NDArray[np.int64]]:
    """(log G, a) of the envelope under each draw of runs, [draws, 2], and of how many sizes, [draws]; 0 if unusable."""
    order = np.argsort(log_n, kind="stable")
    losses, log_n, present = losses[order], log_n[order], counts[:, order] > 0
    best = np.full((len(counts), mesh.size), np.nan)
    for i, column in enumerate(losses.T):
        reach = np.flatnonzero(np.isfinite(column))
        if reach.size < FEWEST:
            continue
        active, size = present[:, reach], log_n[reach]
        winner = size[np.where(active, column[reach], np.inf).argmin(axis=1)]
        least = size[active.argmax(axis=1)]
        most = size[::-1][active[:, ::-1].argmax(axis=1)]
        best[:, i] = np.where((winner > least) & (winner < most), winner, np.nan)
    # Where noise lets the wrong size win, log N is what errs, and its ends are cut off: so regress log C on log N.
    sizes = np.unique(log_n)
    won = np.stack([best == size for size in sizes], axis=1)  # [draws, sizes, mesh]
    times = won.sum(axis=2)
    middle = (won @ mesh) / np.maximum(times, 1)
    used = times > 0
    count = np.maximum(used.sum(axis=1), 1)
    x0, y0 = (used @ sizes) / count, (used * middle).sum(axis=1) / count
    dx, dy = (sizes - x0[:, None]) * used, (middle - y0[:, None]) * used
    both = (dx * dy).sum(axis=1)
    a = (dx**2).sum(axis=1) / np.where(both > 0, both, 1.0)
    return np.stack([x0 - a * y0, a], axis=1), np.where(both > 0, count, 0)
