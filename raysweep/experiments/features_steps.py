"""Gradient descent of the features model, all lanes of a pack at once: the dynamics that `theory.features` reduces.

In the eigenbasis of the initial kernel, with u = w / sqrt(N) and theta = B' u, a step is

    g = E[phi (y - theta . phi)],   u <- u + eta B g,   B <- B + eta gamma u g'   (u as it was)

over the population (g_i = x_i (c_i - theta_i)), over fresh items, or over a data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raysweep.experiment import Context
from raysweep.experiments.features_check import MOST_LOSS, STABLE
from raysweep.grid.runs import Runs
from raysweep.streams import FEATURE_ITEMS, normal
from raysweep.theory.features import Modes, flow
from raysweep.training.graph import Repeated

if TYPE_CHECKING:
    from raysweep.experiments.features import Features

__all__ = ["Descent", "descend"]

_STEPS = 4096  # queued at a time: a look at the clock of the host in between
_ROUNDING = 1e-12  # eigenvalues of a data set over its largest: smaller ones are 0


class Descent:
    """Lanes of one step size [lanes] in one stack.

    Args:
        x, c: [lanes, N] variances of the features; coefficients of the target.
        unreachable: [lanes] variance of the target that the features do not have.
        gamma: [lanes].
        eta: Step size.
        seed: [lanes] of the items.
        batch: Fresh items a step, or 0.
        items: Number of items in the data set, or 0.
    """

    def __init__(
        self, x: Tensor, c: Tensor, unreachable: Tensor, gamma: Tensor, eta: float, seed: Tensor, batch: int = 0,
        items: int = 0,
    ) -> None:  # fmt: skip
        lanes, n = x.shape
        self.x, self.c, self.unreachable, self.seed, self.batch = x, c, unreachable, seed, batch
        self.eta, self.pull = eta, (eta * gamma)[:, None, None]
        self.u = torch.zeros_like(x)
        # A lazy stack leaves B at the identity, and holds none.
        self.b = None if not bool(gamma.any()) else torch.eye(n, dtype=x.dtype, device=x.device).repeat(lanes, 1, 1)
        self.step = torch.zeros((), dtype=torch.int64, device=x.device)
        self.steps = 0
        self.root, self.rest = x.sqrt(), unreachable.sqrt()
        self.data: tuple[Tensor, Tensor] | None = None
        self.factored = False
        if items:
            phi, rest = self._items(items, self.step)
            noise = (phi.mT @ rest[..., None])[..., 0] / items
            self.data = (phi.mT @ phi / items if items > n else phi / math.sqrt(items), noise)
            self.factored = items <= n
        self._run = Repeated(self._once, str(x.device))

    def _items(self, count: int, step: Tensor) -> tuple[Tensor, Tensor]:
        """Features [lanes, count, N] of some items, and the rest of their targets [lanes, count]."""
        n = self.x.shape[1]
        number = torch.arange(count * (n + 1), device=self.x.device)
        drawn = normal(self.seed[:, None], FEATURE_ITEMS, step, number).to(self.x.dtype).unflatten(1, (count, n + 1))
        return drawn[..., :n] * self.root[:, None], drawn[..., n] * self.rest[:, None]

    def _once(self) -> None:
        error = self.c - self.theta
        if self.data is not None:
            second, noise = self.data
            seen = second @ error[..., None]
            g = ((second.mT @ seen) if self.factored else seen)[..., 0] + noise
        elif self.batch:
            phi, rest = self._items(self.batch, self.step)
            missed = (phi @ error[..., None])[..., 0] + rest
            g = (phi.mT @ missed[..., None])[..., 0] / self.batch
        else:
            g = self.x * error
        if self.b is None:
            self.u.add_(g, alpha=self.eta)
        else:
            moved = (self.b @ g[..., None])[..., 0]
            self.b.addcmul_(self.pull * self.u[..., None], g[:, None])
            self.u.add_(moved, alpha=self.eta)
        self.step += 1

    @property
    def theta(self) -> Tensor:
        """[lanes, N] coefficients of the features in f."""
        return self.u if self.b is None else (self.u[:, None] @ self.b)[:, 0]

    def advance(self, to: int) -> None:
        """Take steps until so many have been taken."""
        while self.steps < to:
            count = min(_STEPS, to - self.steps)
            self._run(count)
            self.steps += count

    def at(self, t: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Loss and rho [lanes] at a time, between two steps on the line through them."""
        whole = math.floor(t / self.eta * (1 + 1e-12))
        share = max(0.0, t / self.eta - whole)
        seen = []
        for step in (whole, whole + 1) if share > 1e-9 else (whole,):
            self.advance(step)
            seen.append((self.loss.cpu().numpy(), self.rho.cpu().numpy()))
        (loss, rho), (next_loss, next_rho) = seen[0], seen[-1]
        return loss + share * (next_loss - loss), rho + share * (next_rho - rho)

    @property
    def loss(self) -> Tensor:
        """[lanes] population loss."""
        return self.unreachable + (self.x * (self.c - self.theta) ** 2).sum(1)

    @property
    def rho(self) -> Tensor:
        """[lanes] |w|^2 / N."""
        return (self.u**2).sum(1)

    @cached_property
    def top(self) -> npt.NDArray[np.float64]:
        """[lanes] the largest eigenvalue of the initial kernel: of the data set if there is one."""
        if self.data is None:
            return np.asarray(self.x.amax(1).cpu().numpy())
        second = self.data[0]
        return np.asarray(torch.linalg.eigvalsh(second @ second.mT if self.factored else second)[:, -1].cpu().numpy())

    def seen(self, lane: int) -> Modes:
        """The modes that a lane descends on: of the data set if there is one, its noise a part of the target."""
        x, target = self.x[lane], self.x[lane].sqrt() * self.c[lane]
        if self.data is not None:
            second, noise = self.data[0][lane], self.data[1][lane]
            second = second.mT @ second if self.factored else second
            x, vectors = torch.linalg.eigh(second)
            kept = x > _ROUNDING * x[-1]
            target = (vectors.T @ (second @ self.c[lane] + noise))[kept] / x[kept].sqrt()
            x = x[kept]
        return Modes(x.cpu().numpy(), target.square().cpu().numpy(), np.ones(len(x)))


def descend(experiment: Features, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
    """Rows of a pack: lanes of one step size together, a batch per lane and time."""
    from raysweep.experiments.features import all_modes

    observed = pack.observed[0]
    times = sorted(float(t) for t in observed.values("t"))
    rows = [pack.row(lane) for lane in range(len(pack))]
    modes = all_modes(rows)

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float64, device=context.device)

    etas = np.array([float(r["eta"]) for r in rows])
    for eta in np.unique(etas).tolist():
        lanes = np.flatnonzero(etas == eta).tolist()
        x = np.stack([modes[i].x for i in lanes])
        mass = np.stack([modes[i].mass for i in lanes])
        stack = Descent(
            tensor(x),
            tensor(np.sqrt(mass / x)),
            tensor([modes[i].unreachable for i in lanes]),
            tensor([rows[i]["gamma"] for i in lanes]),
            eta,
            torch.tensor([int(rows[i]["seed"]) for i in lanes], device=context.device),
            int(pack.value("batch")),
            int(pack.value("n_train")),
        )
        for t in times:
            loss, rho = stack.at(t)
            for place, lane in enumerate(lanes):
                run = rows[lane]
                grown = np.nan_to_num(float(run["gamma"]) * rho[place], nan=np.inf) if run["gamma"] else 0.0
                sharpness = eta * stack.top[place] * (1 + grown)
                value = float(np.nan_to_num(loss[place], nan=np.inf))
                problem = None
                if not (sharpness < STABLE and value < MOST_LOSS):
                    problem = _left(run, t, value, sharpness, _small(stack, place, run, t))
                yield experiment.rows(
                    run, modes[lane], lane, np.array([t]), loss[[place]], rho[[place]], np.array([sharpness]),
                    [problem], observed,
                )  # fmt: skip


def _small(stack: Descent, lane: int, run: Mapping[str, Any], t: float) -> float:
    """A step size at which a lane follows its flow up to a time: half of the largest, in the mean over minibatches."""
    gamma = float(run["gamma"])
    growth = 1 + gamma * float(flow([stack.seen(lane)], gamma, [t]).rho[0, 0]) if gamma else 1.0
    top = float(stack.top[lane])
    noise = (top + float(stack.x[lane].sum())) / stack.batch if stack.batch else 0.0
    return 1 / (growth * (top + noise))


def _left(run: Mapping[str, Any], t: float, loss: float, sharpness: float, small: float) -> str:
    """Why a row has diverged."""
    return (
        f"gradient descent has left the flow by t = {t:g}: eta times the kernel's largest eigenvalue must stay below "
        f"{STABLE:g}, and the loss below {MOST_LOSS:g} times that of the zero function, but got "
        f"(eta={float(run['eta']):g}, sharpness={sharpness:.3g}, loss={loss:.3g}). Take eta <= {small:.2g}"
    )
