"""Products of powers of any number of scales, with and without a floor."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from raysweep.laws import terms
from raysweep.laws.definition import Law, Parameter

__all__ = ["product", "product_and_floor"]

_EXPONENTS = (-0.5, -0.1, 0.05, 0.2, 0.4, 0.7, 1.2)
_FEW = 3  # axes of a product whose mesh has all of them


def _alone(axes: int) -> Law:
    names = tuple(f"x{i + 1}" for i in range(axes))
    return Law(
        name="product",
        formula=f"y = A {' '.join(f'x{i + 1}^-alpha{i + 1}' for i in range(axes))}",
        axes=names,
        amplitudes=(Parameter("A", "y x1^alpha1 ...", 0.0, math.inf, log=True),),
        # Linear in (log A, alpha), so any start reaches the one optimum.
        exponents=tuple(Parameter(f"alpha{i + 1}", "1", -math.inf, math.inf, search=(0.0,)) for i in range(axes)),
        fewest_scales=axes + 2,
        source="a linear regression in logs",
        when="Any number of scales, one --x for each: a learning rate or a batch size against several of them.",
        terms=terms.product,
        restore_terms=terms.product_restore,
        levels=(2,) * axes,
        centred=(True,) * axes,
        of_axes=product,
        proved=False,
    )


def _with_floor(axes: int) -> Law:
    alone = _alone(axes)
    search = _EXPONENTS if axes <= _FEW else _EXPONENTS[::3]
    return replace(
        alone,
        name="product+floor",
        formula=alone.formula.replace("= A", "= E + A"),
        amplitudes=(Parameter("E", "y", 0.0, math.inf), *alone.amplitudes),
        exponents=tuple(replace(p, search=search) for p in alone.exponents),
        fewest_scales=axes + 3,
        source="a product of powers above a floor",
        when="A loss with a floor over any number of scales that multiply each other.",
        terms=terms.floor_product,
        restore_terms=terms.floor_product_restore,
        contains=("product",),
        floorless="product",
        of_axes=product_and_floor,
    )


@lru_cache
def product(axes: int) -> Law:
    """y = A x1^-alpha1 x2^-alpha2 ..."""
    return replace(_alone(axes), rivals=(_with_floor(axes),))


@lru_cache
def product_and_floor(axes: int) -> Law:
    """y = E + A x1^-alpha1 x2^-alpha2 ..."""
    return replace(_with_floor(axes), rivals=(_alone(axes),))
