"""Several groups as one law: parameters that groups share, and priors as measurements of parameters.

A joint law has one more axis, exp(code). A point whose code is g >= 0 belongs to group g, where the law holds with the
shared parameters and the group's own. A point of code -1 - k measures the joint law's parameter k itself, or its
logarithm if that is what is searched: a normal prior is such a point, with the ratio of variances as its weight. So
everything that fits, draws and tests laws does so for groups and priors together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array, Implicit, Law
from raysweep.laws.estimate import distinct, solve
from raysweep.laws.forms import compared
from raysweep.laws.search import solved

__all__ = ["Joint"]

_ROUGH = 1e-6  # tolerance of a fit that only says where another begins


@dataclass(frozen=True)
class Joint:
    """A law of several groups.

    Attributes:
        base: The law of one group.
        shared: Its parameters that are the same in all groups.
        groups: Number of groups.
        means: Parameters and values from which the search starts, too: the means of priors. Where there are any, scales
            keep their units.
    """

    base: Law
    shared: tuple[str, ...]
    groups: int
    means: tuple[tuple[str, float], ...] = ()

    @cached_property
    def place(self) -> npt.NDArray[np.int64]:
        """Which of the joint law's parameters each group's are, [groups, parameters]: first the shared ones, then each
        group's own.
        """
        own = [j for j, name in enumerate(self.base.names) if name not in self.shared]
        out = np.zeros((self.groups, len(self.base.names)), dtype=np.int64)
        for k, name in enumerate(self.shared):
            out[:, self.base.names.index(name)] = k
        out[:, own] = len(self.shared) + np.arange(self.groups * len(own)).reshape(self.groups, -1)
        return out

    def gathered(self, values: Array) -> Array:
        """The parameters of each group, [..., groups, parameters], from the joint law's, [..., joint parameters]."""
        return values[..., self.place]

    def joined(self, each: Array) -> Array:
        """The joint law's parameters from those of each group, which agree in the shared ones."""
        out = np.zeros((*each.shape[:-2], int(self.place.max()) + 1))
        out[..., self.place] = each
        return out

    def scales(self, x: Array, group: npt.ArrayLike) -> Array:
        """Scales of points, [axes, points], with the axis that says their group, [points] or one number."""
        return np.concatenate([x, np.broadcast_to(np.exp(np.asarray(group, dtype=np.float64)), (1, x.shape[1]))])

    @cached_property
    def law(self) -> Law:
        """The joint law."""
        base, parameters = self.base, {}
        for g, row in enumerate(self.place):
            for p, k in zip(base.parameters, row.tolist(), strict=True):
                parameters[k] = replace(p, name=p.name if p.name in self.shared else f"{p.name}[{g}]")
        count, rivals = len(parameters), self._rivals()
        centred = not self.means and self._keeps_sharing()
        return Law(
            name=f"{base.name}, {' and '.join(self.shared) or 'nothing'} shared",
            formula=base.formula,
            axes=(*base.axes, "group"),
            amplitudes=(),
            exponents=tuple(parameters[k] for k in range(count)),
            fewest_scales=count + 1,
            source=base.source,
            when="",
            levels=(*base.levels, self.groups),
            centred=(*(base.centred if centred else (False,) * len(base.axes)), False),
            levelled=base.levelled and centred,
            implicit=Implicit(self._evaluate, self._restore if centred else _same, self._starts, 1, self._inner),
            rivals=rivals,
            contains=tuple(one.name for one in rivals[1:]),
            floorless=rivals[1].name if len(rivals) > 1 else "",
            inside=rivals[0].name if rivals else "",
            proved=base.proved,
            pooled=True,
        )

    def _rivals(self) -> tuple[Law, ...]:
        """Of a law with shared parameters: the one in which all are the groups' own; and, if they are parameters of it,
        the one without a floor.
        """
        if not self.shared:
            return ()
        known = [one for one in map(compared, self.base.rivals) if one.name == self.base.floorless != self.base.name]
        some = [replace(self, base=one).law for one in known if {*self.shared} <= {*one.names}]
        return (replace(self, shared=()).law, *some)

    @property
    def _linear(self) -> tuple[int, ...]:
        """Parameters of the base law that y is linear in."""
        base = self.base
        return tuple(range(len(base.amplitudes))) if base.implicit is None else base.implicit.linear

    @property
    def _inner(self) -> tuple[int, ...]:
        base = self.base
        inner = range(len(base.amplitudes)) if base.implicit is None else base.implicit.inner
        return tuple(np.unique(self.place[:, list(inner)]).tolist())

    def _keeps_sharing(self) -> bool:
        """Whether other units of the scales and of y leave shared parameters equal: an amplitude's depends on its
        exponent.
        """
        base, index = self.base, [self.base.names.index(name) for name in self.shared]
        two = np.array([[0.3], [0.7]]) * np.ones(len(base.names))
        two[:, index] = 0.5
        moved = base.restore(two, np.full((2, len(base.axes)), 0.9), np.full(2, 0.4))[:, index]
        return bool(np.allclose(moved[0], moved[1]))

    def _restore(self, values: Array, u0: Array, t0: Array) -> Array:
        return self.joined(self.base.restore(self.gathered(values), u0[..., None, :-1], t0[..., None]))

    def _evaluate(self, u: Array, values: Array) -> tuple[Array, list[Array]]:
        """Each point is a problem of the base law, with its group's parameters."""
        code = np.rint(u[..., -1, :]).astype(np.int64)
        depth = max(code.ndim, values.ndim)
        code = code.reshape((1,) * (depth - code.ndim) + code.shape)
        scales = u.reshape((1,) * (depth - u.ndim + 1) + u.shape)[..., :-1, :]
        whole = values.reshape((1,) * (depth - values.ndim) + values.shape)
        group, measured = np.maximum(code, 0), code < 0
        own = _taken(whole, self.place[group])
        log, slopes = self.base.evaluate(np.moveaxis(scales, -1, -2)[..., None], own)
        log, shape = log[..., 0], log.shape[:-1]
        rows: list[Array] = [np.zeros(shape)] * len(self.law.parameters)
        for j, slope in enumerate(slopes):
            row = np.broadcast_to(slope, (*shape, 1))[..., 0]
            for g, k in enumerate(self.place[:, j].tolist()):
                if self.base.names[j] in self.shared:
                    rows[k] = np.where(measured, 0.0, row)
                    break
                rows[k] = np.where((group == g) & ~measured, row, 0.0)
        for k in np.unique(-1 - code[measured]).tolist():
            at, value, logs = code == -1 - k, whole[..., k, None], self.law.parameters[k].log
            log = np.where(at, np.log(value) if logs else value, log)
            rows[k] = np.where(at, 1.0 / value if logs else 1.0, rows[k])
        return log, rows

    def _starts(self, u: Array, t: Array, w: Array) -> tuple[Array, Array]:
        """Where the search begins, [problems, candidates, joint parameters], and the objective there.

        The shared values of each group by itself, their median, and the means of priors; the other parameters are each
        group's own, solved again where y is linear in them.
        """
        code = np.rint(u[0, -1]).astype(np.int64)
        each = self._alone(u, t, w, code)
        index = [self.base.names.index(name) for name in self.shared]
        pulled = [self.base.names.index(name) for name, _ in self.means]
        tried = [each]
        for vector in [*np.moveaxis(each, -2, 0), np.median(each, axis=-2)] if index else []:
            one = each.copy()
            one[..., index] = vector[:, None, index]
            tried.append(one)
        if pulled:
            held = tried[-1].copy()
            held[..., pulled] = [mean for _, mean in self.means]
            tried.append(held)
        linear = [j for j in self._linear if j not in (*index, *pulled)]
        candidates = []
        for vectors in tried[1:] if index else tried:
            for g in range(self.groups if linear else 0):
                at, begin = code == g, vectors[:, None, g]
                problem = u[:, :-1, at], t[:, at], w[:, at]
                found = solved(self.base.value, self.base.parameters, linear, begin, *problem)[0][:, 0]
                vectors[:, g] = np.where(np.isfinite(found), found, vectors[:, g])
            candidates.append(self.joined(vectors))
        mesh = np.stack(candidates, axis=1)
        log, _ = self._evaluate(u[:, None], mesh)
        squares = (w[:, None] * (log - t[:, None]) ** 2).sum(axis=-1)
        return mesh, np.where(np.isfinite(squares), squares, np.inf)

    def _alone(self, u: Array, t: Array, w: Array, code: npt.NDArray[np.int64]) -> Array:
        """Each group fitted by itself, or with all others where its scales do not suffice, [problems, groups,
        parameters].
        """
        base = self.base

        def of(at: npt.NDArray[np.bool_]) -> Array:
            return solve(base, u[:, :-1, at], t[:, at], w[:, at], None, None, _ROUGH).values

        masks = [code == g for g in range(self.groups)]
        enough = [distinct(u[0, :-1, at & (w > 0).any(axis=0)]) >= base.fewest_scales for at in masks]
        whole = of(code >= 0) if not all(enough) else np.zeros(0)
        return np.stack([of(at) if able else whole for at, able in zip(masks, enough, strict=True)], axis=1)


def _taken(values: Array, index: npt.NDArray[np.int64]) -> Array:
    """Values, [..., joint parameters], at an index of as many axes and two more ends, [..., points, parameters]."""
    shape = np.broadcast_shapes(values.shape[:-1], index.shape[:-2])
    if all(size == 1 for size in index.shape[:-2]):  # the points are the same in every problem
        return np.asarray(values[..., index.reshape(index.shape[-2:])])
    whole = np.broadcast_to(values[..., None, :], (*shape, index.shape[-2], values.shape[-1]))
    return np.take_along_axis(whole, np.broadcast_to(index, (*shape, *index.shape[-2:])), axis=-1)


def _same(values: Array, u0: Array, t0: Array) -> Array:
    return np.array(np.broadcast_to(values, (*np.broadcast_shapes(values.shape[:-1], t0.shape), values.shape[-1])))
