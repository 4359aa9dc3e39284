"""Laws under constraints.

A constrained law is a law of the parameters that are left. Its formula shows the values and ties in their places, and
all else, from degrees of freedom to hold-out, follows from what remains free. The law without the constraints becomes
its rival, so that a likelihood ratio says whether the data contradict them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from raysweep.errors import nearest
from raysweep.laws.constraint import Constraints
from raysweep.laws.definition import Array, Evaluate, Implicit, Law, Parameter
from raysweep.laws.refusal import RequestError
from raysweep.laws.search import best, solved

__all__ = ["constrained"]


@lru_cache(maxsize=256)
def constrained(law: Law, what: Constraints) -> Law:
    """`law` under constraints.

    Raises:
        RequestError: A constraint names no parameter, contradicts another, or lies outside a parameter's bounds.
    """
    parts = _Parts.of(law, what)
    kept, name = parts.kept, _described(law, what)
    dropped = len(law.parameters) - len(kept)
    base = () if law.implicit is None else law.implicit.linear
    linear = parts.among(range(len(law.amplitudes)) if law.implicit is None else base)
    inner = linear if law.implicit is None else parts.among(law.implicit.inner)
    value = parts.through(law.value)
    search, blocks = _search(law, parts, linear, value)
    fewest = max(law.fewest_scales - dropped, len(kept) + 1)
    at_edge = any(v in (p.low, p.high) for p in law.parameters for n, v in what.fix if n == p.name)
    lifted = "" if at_edge or what.bound or not dropped else law.name
    return replace(
        law,
        name=name,
        formula=_formula(law, parts),
        amplitudes=(),
        exponents=kept,
        fewest_scales=fewest,
        terms=None,
        restore_terms=None,
        levels=tuple(min(level, fewest) for level in law.levels),
        centred=(False,) * len(law.axes),
        levelled=False,
        derived=tuple(replace(d, of=parts.after(d.of)) for d in law.derived),
        starts=min(law.starts, blocks),
        pairs=(),
        implicit=Implicit(parts.through(law.evaluate), _same, search, blocks, inner, linear, value),
        rivals=(law, *(one for one in law.rivals if one != name)) if dropped else law.rivals,
        contains=(),
        floorless="",
        inside=lifted,
        profile=None,
        surrounded=tuple(name for name in law.surrounded if name in [p.name for p in kept]),
        of_axes=None,
        proved=False,
        sees=None if law.sees is None else _seen(law.sees, parts),
        of=(law, what),
    )


@dataclass(frozen=True)
class _Parts:
    """How the parameters of a law follow from those that are left.

    Attributes:
        kept: The parameters that are left, with their bounds.
        source: Of each parameter of the law, the one of `kept` that it equals; -1 where it is fixed.
        fixed: Values of the fixed ones, [parameters]; 0 for the others.
    """

    kept: tuple[Parameter, ...]
    source: tuple[int, ...]
    fixed: tuple[float, ...]

    @classmethod
    def of(cls, law: Law, what: Constraints) -> _Parts:
        known = {p.name: p for p in law.parameters}
        for key, names in (
            ("fix", [name for name, _ in what.fix]),
            ("tie", [name for pair in what.tie for name in pair]),
            ("bound", [name for name, *_ in what.bound]),
        ):
            for name in names:
                if name not in known:
                    raise RequestError(
                        key, f"must name parameters of {law.formula}, but got {name!r}. {nearest(name, known)}"
                    )
        for one, other in what.tie:
            if one == other:
                raise RequestError("tie", f"must name two parameters, but got {one!r} twice. Leave it out.")
        root = {name: name for name in known}
        order = list(known)
        for one, other in what.tie:
            first, second = sorted((root[one], root[other]), key=order.index)
            root = {name: first if at == second else at for name, at in root.items()}
        fixed = dict(what.fix)
        for name, value in fixed.items():
            p = known[name]
            if not p.low <= value <= p.high or (p.log and value <= 0):
                raise RequestError("fix", f"{name} must lie {_range(p)}, but got {value:g}. Correct it.")
        for name in fixed:
            tied = [other for other in known if other != name and root[other] == root[name]]
            if tied:
                raise RequestError(
                    "fix", f"{name} must not be tied, too, but it is tied to {', '.join(tied)}. Fix each of them."
                )
        kept = {name: known[name] for name in known if root[name] == name and name not in fixed}
        for name in known:
            if name not in fixed:
                kept[root[name]] = _narrowed(kept[root[name]], known[name].low, known[name].high)
        for name, low, high in what.bound:
            if name in fixed:
                raise RequestError("bound", f"{name} must be free, but it is fixed at {fixed[name]:g}. Leave one out.")
            p = known[name]
            kept[root[name]] = _narrowed(kept[root[name]], max(low, p.low), min(high, p.high))
        if not kept:
            raise RequestError("fix", f"must leave a parameter of {law.formula} to fit, but fixes all. Free one.")
        names = list(kept)
        return cls(
            tuple(kept.values()),
            tuple(-1 if name in fixed else names.index(root[name]) for name in known),
            tuple(fixed.get(name, 0.0) for name in known),
        )

    def whole(self, values: Array) -> Array:
        """All parameters, [..., parameters], from those that are left, [..., kept]."""
        source = np.array(self.source)
        return np.where(source >= 0, values[..., source], self.fixed)

    def through(self, evaluate: Evaluate) -> Evaluate:
        """The same of the parameters that are left."""

        def inner(u: Array, values: Array) -> tuple[Array, list[Array]]:
            with np.errstate(all="ignore"):
                y, rows = evaluate(u, self.whole(values))
            out: list[Array] = [np.zeros(1)] * len(self.kept)
            for row, at in zip(rows, self.source, strict=True):
                if at >= 0:
                    out[at] = out[at] + row
            return y, out

        return inner

    def after(self, of: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda values: of(self.whole(values))

    def among(self, index: Iterable[int]) -> tuple[int, ...]:
        """Those that are left of which every source is among the parameters `index`."""
        some = set(index)
        rest = {at for j, at in enumerate(self.source) if j not in some}
        return tuple(k for k in range(len(self.kept)) if k not in rest)


def _seen(sees: Callable[[Array, Array], bool], parts: _Parts) -> Callable[[Array, Array], bool]:
    return lambda x, values: sees(x, parts.whole(values))


def _same(values: Array, u0: Array, t0: Array) -> Array:
    return np.array(np.broadcast_to(values, (*np.broadcast_shapes(values.shape[:-1], t0.shape), values.shape[-1])))


def _narrowed(p: Parameter, low: float, high: float) -> Parameter:
    low, high = max(p.low, low), min(p.high, high)
    if not low < high:
        raise RequestError(
            "bound", f"{p.name} must lie {_range(p)}, but was bounded by {low:g} and {high:g}. Widen the bounds."
        )
    return replace(p, low=low, high=high)


def _range(p: Parameter) -> str:
    if p.low == -math.inf and p.high == math.inf:
        return "anywhere"
    least = "above 0" if p.log and p.low == 0 else f"at or above {p.low:g}"
    return least if p.high == math.inf else f"{least} and at or below {p.high:g}"


def _shown(value: float) -> str:
    return f"{value:.6g}" if value >= 0 else f"({value:.6g})"


def _described(law: Law, what: Constraints) -> str:
    said = [f"{name} = {value:.6g}" for name, value in what.fix]
    said += [f"{one} = {other}" for one, other in what.tie]
    said += [f"{name} in [{low:g}, {high:g}]" for name, low, high in what.bound]
    return ", ".join([law.name, *said])


def _formula(law: Law, parts: _Parts) -> str:
    text = law.formula
    for p, at, value in zip(law.parameters, parts.source, parts.fixed, strict=True):
        text = re.sub(rf"\b{p.name}\b", _shown(value) if at < 0 else parts.kept[at].name, text)
    return text.replace("= 0 + ", "= ")


def _search(
    law: Law, parts: _Parts, linear: tuple[int, ...], value: Evaluate
) -> tuple[Callable[[Array, Array, Array], tuple[Array, Array]], int]:
    """The law's own mesh with the constraints put in, its linear parameters solved again; and the number of its blocks.

    The mesh of a law that is a sum of terms is one for scales and measurements around 1.
    """
    whole = [parts.source.index(k) for k in range(len(parts.kept))]
    low, high = (np.array([getattr(p, end) for p in parts.kept]) for end in ("low", "high"))

    its = law.implicit or law.profile
    if its is not None:

        def own(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
            mesh = np.clip(its.starts(u, t, w)[0][..., whole], low, high)
            group = np.arange(mesh.shape[1]) % its.blocks
            return best(*solved(value, parts.kept, linear, mesh, u, t, w), group.tolist())

        return own, its.blocks

    k = len(law.amplitudes)
    tried = [
        p.search if at >= 0 and whole[at] == k + j else (fixed,) if p.unit == "1" and at < 0 else p.search[:1]
        for j, (p, at, fixed) in enumerate(zip(law.exponents, parts.source[k:], parts.fixed[k:], strict=True))
    ]
    index = np.array(list(product(*(range(len(one)) for one in tried))), dtype=np.int64)
    centred = np.ones((len(index), len(law.parameters)))
    for j, one in enumerate(tried):
        centred[:, k + j] = np.array(one)[index[:, j]]
    group = index[:, max(range(len(tried)), key=lambda j: (len(tried[j]) > 1, j))]

    def search(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
        there = w > 0
        count = there.sum(axis=1)
        u0 = (u * there[:, None]).sum(axis=2) / count[:, None] * np.array(law.centred)
        t0 = (t * there).sum(axis=1) / count
        full = law.restore(np.broadcast_to(centred, (len(w), *centred.shape)), u0[:, None], t0[:, None])
        mesh = np.clip(full[..., whole], low, high)
        return best(*solved(value, parts.kept, linear, mesh, u, t, w), group.tolist())

    return search, int(group.max()) + 1
