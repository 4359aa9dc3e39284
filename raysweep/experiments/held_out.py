"""Held-out samples of a world, and the scores of a stack of classifiers on them; their mean dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raysweep.experiment import World
from raysweep.experiments.classifier_axes import BMD_VARIANCE_POINTS
from raysweep.experiments.own_inputs import mean_dimensions
from raysweep.experiments.parts import parts_of
from raysweep.grid.runs import Runs
from raysweep.metrics import decompose, expected_calibration_error, pass_at_k, posterior_gap
from raysweep.training.loop import Snapshot, forward

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["HeldOut", "boolean_mean_dimension"]

_OF_LABELS = ("excess_nll", "excess_nll_se", "excess_error", "excess_error_se")  # compare q and r on labels
_NUMBERS = 1 << 25  # log-probabilities in flight; runs are taken in slices to stay below


@dataclass(frozen=True)
class _Part:
    """One distribution's sample: x [n, d], log posterior [n, classes], y [n].

    Attributes:
        log_base: Under a shift, the log posterior [n, classes] of the world that it is a shift of.
        exact: Whether log_r is the posterior of this distribution.
    """

    x: Tensor
    log_r: Tensor
    y: Tensor
    log_base: Tensor | None = None
    exact: bool = True


@dataclass(frozen=True)
class HeldOut:
    """One sample per difficulty and shift, and the runs that belong to it.

    Attributes:
        parts: One per distribution of test items.
        part_of: [runs] index into parts.
        members: Number of adjacent lanes per run; their mean probability is its prediction.
    """

    parts: tuple[_Part, ...]
    part_of: npt.NDArray[np.int64]
    members: int

    @staticmethod
    def draw(pack: Runs, world: World, stream: str, dtype: torch.dtype, device: str, members: int = 1) -> HeldOut:
        """The sample `stream` ("eval" or "select") of every distribution of test items in a pack."""
        parts = []
        asked, part_of = parts_of(pack, world, "test")
        for one in asked:
            sample = one.sample(pack.value(f"{stream}_items"), stream)
            x = torch.from_numpy(sample.x).to(device=device, dtype=dtype)
            log_r, y = torch.from_numpy(sample.log_posterior).to(device), torch.from_numpy(sample.y).to(device)
            base = None if one.base is None else one.base.log_posterior(sample.x, one.temperature)
            log_base = None if base is None else torch.from_numpy(base).to(device)
            parts.append(_Part(x, log_r, y, log_base, one.exact))
        return HeldOut(tuple(parts), part_of, members)

    @torch.no_grad()
    def measure(
        self, model: Model, snapshot: Snapshot, runs: npt.NDArray[np.int64], items: int, ks: Tensor
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Scores of some runs on the first `items` of their sample.

        Args:
            runs: Positions in the pack of runs whose lanes are all in the snapshot.
            ks: Inference budgets.

        Returns:
            {metric: [runs] or, for pass_at_k, [runs, budgets]}.
        """
        lanes = snapshot.lanes.cpu().numpy()
        place = np.full(len(self.part_of) * self.members, -1)
        place[lanes] = np.arange(len(lanes))
        found: dict[str, npt.NDArray[np.float64]] = {}
        for code, part in enumerate(self.parts):
            x, log_r = part.x[:items], part.log_r[:items]
            own = np.flatnonzero(self.part_of[runs] == code)
            at_a_time = max(1, _NUMBERS // (log_r.numel() * self.members))
            for chunk in np.split(own, range(at_a_time, len(own), at_a_time)) if len(own) else []:
                slots = place[(runs[chunk][:, None] * self.members + np.arange(self.members)).ravel()]
                values = self._score(model, snapshot, torch.from_numpy(slots).to(x.device), part, items, ks)
                for name, value in values.items():
                    shape = (len(runs), *value.shape[1:])
                    found.setdefault(name, np.full(shape, np.nan))[chunk] = value.cpu().numpy()
        return found

    def _score(
        self, model: Model, snapshot: Snapshot, slots: Tensor, part: _Part, items: int, ks: Tensor
    ) -> dict[str, Tensor]:
        x, log_r, y = part.x[:items], part.log_r[:items], part.y[:items]
        whole = len(slots) == len(snapshot.lanes)
        own = snapshot.parameters if whole else {name: p[slots] for name, p in snapshot.parameters.items()}
        log_q = torch.log_softmax(forward(model, own, x).double(), dim=-1)
        if self.members > 1:
            log_q = log_q.unflatten(0, (-1, self.members)).logsumexp(1) - math.log(self.members)
        values = decompose(log_q, log_r, y)
        values["ece"] = expected_calibration_error(log_q, y)
        values["posterior_gap"] = posterior_gap(log_q, log_r)
        values["pass_at_k"] = pass_at_k(log_q, log_r, ks)
        if part.log_base is not None:
            base = part.log_base[:items]
            values["epistemic_base"] = (base.exp() * (base - log_q)).sum(-1).mean(-1)
        if not part.exact:  # labels do not follow log_r: a classifier may do better on them
            for name in _OF_LABELS:
                values[name] = torch.full_like(values[name], torch.nan)
        return values


def boolean_mean_dimension(
    model: Model,
    snapshot: Snapshot,
    runs: npt.NDArray[np.int64],
    seeds: Sequence[int],
    inputs: int,
    points: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """{`bmd`, `bmd_se`: [runs]} of the outputs, pooled; NaN where there are no points, or a model is constant.

    Args:
        model: One output vector per item, for lanes that are runs.
        runs: Lanes of the pack that are all in the snapshot.
        seeds: [runs] of the inputs, which runs of one seed share.
        inputs: Numbers per item.
        points: Points whose inputs are flipped; 0: none.
    """
    nothing = np.full(len(runs), np.nan)
    if not points or not len(runs):
        return {"bmd": nothing, "bmd_se": nothing}
    place = {lane: at for at, lane in enumerate(snapshot.lanes.tolist())}
    slots = torch.tensor([place[run] for run in runs.tolist()], device=snapshot.lanes.device)
    own = {name: p[slots] for name, p in snapshot.parameters.items()}
    found = mean_dimensions(model, own, seeds, inputs, points, BMD_VARIANCE_POINTS)
    return {"bmd": found.value, "bmd_se": found.error}
