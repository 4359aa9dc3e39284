"""The laws that can be fitted. A further law is one more `Law` value, not a branch anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from raysweep.errors import FitError, nearest
from raysweep.laws import m4, terms
from raysweep.laws.breaks import BREAKS
from raysweep.laws.definition import Array, Derived, Implicit, Law, Parameter
from raysweep.laws.overtrained import BY_COMPUTE, OVERTRAINED
from raysweep.laws.products import product, product_and_floor
from raysweep.laws.repeated import EXCESS, EXCESS_BY_EPOCHS, REPEATED, REPEATED_BY_EPOCHS

__all__ = ["LAWS", "compared", "law"]


def law(name: str) -> Law:
    """The law called `name`.

    Raises:
        FitError: There is no such law.
    """
    if name not in LAWS:
        raise FitError(f"There is no law {name!r}. {nearest(name, LAWS)}")
    return LAWS[name]


def compared(name: str | Law) -> Law:
    """A law that others name as a rival: one of `LAWS`, "..., E = 0", which cannot be requested directly, or itself."""
    if isinstance(name, Law):
        return name
    return LAWS[name] if name in LAWS else LAWS[name.partition(", ")[0]].without_floor()


def _mesh(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(np.geomspace(low, high, count).tolist())


def _share(mine: int, other: int) -> Callable[[Array], Array]:
    """Exponent of the compute-optimal scale under C ~ x t: the other's exponent over the sum of both."""
    return lambda values: values[..., other] / (values[..., mine] + values[..., other])


_LATE = 0.75  # a break beyond this share of the window (in logs) is not to be trusted
_STEEPEST = 10.0  # an exponent of decay


def _sees_break(x: Array, values: Array) -> bool:
    """Whether the break of a broken law lies well inside the scales, and the slope after it inside its bounds."""
    _, _, _, beta, at, _ = values
    return bool(at <= np.exp(np.quantile(np.log(x), _LATE)) and beta < _STEEPEST)


_FLOOR = Parameter("E", "y", 0.0, math.inf)
_A = Parameter("A", "y x^alpha", 0.0, math.inf, log=True)


def _falling(name: str, low: float, high: float, count: int) -> Parameter:
    """An exponent of decay."""
    return Parameter(name, "1", 0.0, _STEEPEST, search=_mesh(low, high, count))


def _log10_nc(values: Array) -> Array:
    return np.asarray(np.log10(values[..., 0]) / values[..., 1])


def _log10_dc(values: Array) -> Array:
    return np.asarray(np.log10(values[..., 0]) / values[..., 2] + np.log10(values[..., 3]))


_HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556, eq. 2"

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            name="power",
            formula="y = A x^-alpha",
            axes=("x",),
            amplitudes=(_A,),
            # Linear in (log A, alpha), so any start reaches the one optimum, whatever alpha's sign.
            exponents=(Parameter("alpha", "1", -math.inf, math.inf, search=(0.0,)),),
            fewest_scales=3,
            source="Hestness et al. 2017, arXiv 1712.00409",
            when="An error that goes to 0 as x grows, such as an excess over the best possible loss. Not a total loss.",
            terms=terms.power,
            restore_terms=terms.power_restore,
            rivals=("power+floor", "shifted", "broken"),
        ),
        Law(
            name="power+floor",
            formula="y = E + A x^-alpha",
            axes=("x",),
            amplitudes=(_FLOOR, _A),
            exponents=(_falling("alpha", 0.01, 10.0, 25),),
            fewest_scales=4,
            source="one axis of " + _HOFFMANN,
            when="A loss with a floor (noise in the targets, a fixed model size), measured where the curve bends.",
            terms=terms.floor_power,
            restore_terms=terms.separable_restore,
            pairs=((1, 2),),
            rivals=("power", "exponential", "shifted", "broken"),
            contains=("power", "passk"),
            floorless="power",
        ),
        Law(
            name="shifted",
            formula="y = E + A (x + s)^-alpha",
            axes=("x",),
            amplitudes=(_FLOOR, _A),
            exponents=(
                _falling("alpha", 0.03, 8.0, 16),
                Parameter("s", "x", 0.0, math.inf, search=(0.0, *_mesh(0.003, 30.0, 11))),
            ),
            fewest_scales=5,
            source="Zhai et al. 2022, arXiv 2106.04560, eq. 1",
            when="Still flat at the small end. Three scales of x cannot determine s.",
            terms=terms.shifted,
            restore_terms=terms.shifted_restore,
            levels=(5,),
            starts=3,
            rivals=("power+floor", "m4", "broken"),
            contains=("power+floor", "power"),
        ),
        Law(
            name="m4",
            formula="(y - E) / (I - y)^gamma = A x^-alpha",
            axes=("x",),
            amplitudes=(),
            exponents=(
                _FLOOR,
                Parameter("I", "y", 0.0, math.inf, log=True),
                Parameter("A", "y^(1 - gamma) x^alpha", 0.0, math.inf, log=True),
                Parameter("alpha", "1", 0.0, 20.0),
                Parameter("gamma", "1", 0.01, 50.0, log=True),
            ),
            fewest_scales=7,
            source="Alabdulmohsin et al. 2022, arXiv 2209.06640, M4",
            when="A curve that starts at chance level and ends at a floor.",
            levels=(7,),
            starts=3,
            implicit=Implicit(m4.evaluate, m4.restore, m4.starts, m4.BLOCKS, inner=(2, 3)),
            rivals=("power+floor", "shifted", "broken"),
            limits=("power+floor",),  # as I grows, and A with it as I^-gamma
        ),
        Law(
            name="broken",
            formula="y = E + A x^-alpha (1 + (x / d)^(1/f))^((alpha - beta) f)",
            axes=("x",),
            amplitudes=(_FLOOR, _A),
            exponents=(
                Parameter("alpha", "1", 0.0, _STEEPEST, search=(0.0, *_mesh(0.03, 2.0, 6))),
                Parameter("beta", "1", 0.0, _STEEPEST, search=(0.03, *_mesh(0.1, 4.0, 6))),
                Parameter("d", "x", 0.0, math.inf, log=True, search=_mesh(0.05, 20.0, 7)),
                Parameter("f", "1", 0.03, 3.0, log=True, search=(0.1, 0.5, 1.0)),
            ),
            fewest_scales=8,
            source="Caballero et al. 2023, arXiv 2210.14891, one break",
            when="A slope that changes, from alpha to beta, inside the data. Never to predict a break.",
            terms=terms.broken,
            restore_terms=terms.broken_restore,
            levels=(8,),
            starts=3,
            rivals=("power", "power+floor", "shifted"),
            limits=("power+floor", "power"),  # alpha = beta; also E = beta = 0 and f = 1 / alpha, the floor A d^-alpha
            sees=_sees_break,
        ),
        Law(
            name="exponential",
            formula="y = E + A exp(-x / scale)",
            axes=("x",),
            amplitudes=(_FLOOR, Parameter("A", "y", 0.0, math.inf, log=True)),
            exponents=(Parameter("scale", "x", 0.0, math.inf, log=True, search=_mesh(1e-3, 1e3, 25)),),
            fewest_scales=4,
            source="a rival that a power law must beat",
            when="As a rival of power+floor.",
            terms=terms.exponential,
            restore_terms=terms.exponential_restore,
            rivals=("power+floor",),
        ),
        Law(
            name="chinchilla",
            formula="y = E + A N^-alpha + B D^-beta",
            axes=("N", "D"),
            amplitudes=(
                _FLOOR,
                Parameter("A", "y N^alpha", 0.0, math.inf, log=True),
                Parameter("B", "y D^beta", 0.0, math.inf, log=True),
            ),
            exponents=(_falling("alpha", 0.03, 3.0, 16), _falling("beta", 0.03, 3.0, 16)),
            fewest_scales=6,
            source=_HOFFMANN,
            when="Loss over width (parameters) and data. Both must vary independently.",
            terms=terms.separable,
            restore_terms=terms.separable_restore,
            pairs=((1, 3), (2, 4)),
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("a_opt", "N* ~ C^a_opt under C ~ N D", _share(3, 4)),
                Derived("b_opt", "D* ~ C^b_opt under C ~ N D", _share(4, 3)),
            ),
            costs=True,
            rivals=("chinchilla, E = 0", "kaplan"),
            contains=("chinchilla, E = 0",),
            floorless="chinchilla, E = 0",
        ),
        Law(
            name="kaplan",
            formula="y = E + A (N^-alpha + R D^-beta)^gamma",
            axes=("N", "D"),
            amplitudes=(_FLOOR, Parameter("A", "y N^(alpha gamma)", 0.0, math.inf, log=True)),
            exponents=(
                _falling("alpha", 0.05, 3.0, 7),
                _falling("beta", 0.05, 3.0, 7),
                Parameter("gamma", "1", 0.01, 20.0, log=True, search=(0.3, 1.0, 3.0)),
                Parameter("R", "D^beta N^-alpha", 0.0, math.inf, log=True, search=(0.1, 1.0, 10.0)),
            ),
            fewest_scales=7,
            source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5, with a floor; gamma = 1 is chinchilla",
            when="Width and data limit each other (a bottleneck). Needs a grid, not a line.",
            terms=terms.coupled,
            restore_terms=terms.coupled_restore,
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("a_opt", "N* ~ C^a_opt under C ~ N D", _share(2, 3)),
                Derived("b_opt", "D* ~ C^b_opt under C ~ N D", _share(3, 2)),
            ),
            costs=True,
            starts=3,
            rivals=("kaplan, E = 0", "chinchilla"),
            contains=("kaplan, E = 0", "chinchilla"),
            floorless="kaplan, E = 0",
        ),
        Law(
            name="time",
            formula="y = E + A x^-alpha + B t^-gamma",
            axes=("x", "t"),
            amplitudes=(_FLOOR, _A, Parameter("B", "y t^gamma", 0.0, math.inf, log=True)),
            exponents=(_falling("alpha", 0.03, 3.0, 16), _falling("gamma", 0.03, 3.0, 16)),
            fewest_scales=6,
            source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.6, with a floor",
            when="Training time as an axis: a constant learning rate, or decay branches. Not along a cosine.",
            terms=terms.separable,
            restore_terms=terms.separable_restore,
            pairs=((1, 3), (2, 4)),
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("a_opt", "x* ~ C^a_opt under C ~ x t", _share(3, 4)),
                Derived("b_opt", "t* ~ C^b_opt under C ~ x t", _share(4, 3)),
            ),
            costs=True,
            rivals=("time, E = 0",),
            contains=("time, E = 0",),
            floorless="time, E = 0",
        ),
        Law(
            name="passk",
            formula="y = C k^-beta",
            axes=("k",),
            amplitudes=(Parameter("C", "1", 0.0, math.inf, log=True),),
            exponents=(Parameter("beta", "1", -math.inf, math.inf, search=(0.0,)),),
            fewest_scales=3,
            source="Schaeffer et al. 2025, arXiv 2502.17578",
            when="1 - pass@k against the number of attempts k, where k is large.",
            terms=terms.power,
            restore_terms=terms.power_restore,
            rivals=("power+floor",),
        ),
        Law(
            name="passk+training",
            formula="y = C k^-b(N), b(N) = beta - delta / (1 + (N / N0)^gamma)",
            axes=("k", "N"),
            amplitudes=(Parameter("C", "1", 0.0, math.inf, log=True),),
            exponents=(
                Parameter("beta", "1", 0.0, 20.0, search=_mesh(0.05, 5.0, 9)),
                Parameter("delta", "1", 0.0, 20.0, search=_mesh(0.02, 5.0, 8)),
                Parameter("N0", "N", 0.0, math.inf, log=True, search=_mesh(0.03, 30.0, 9)),
                Parameter("gamma", "1", 0.05, 20.0, log=True, search=(0.5, 1.5, 4.0)),
            ),
            fewest_scales=6,
            source="arXiv 2601.03764 (LID): the effective exponent grows with training and saturates at beta",
            when="1 - pass@k over attempts and training data. Needs N on both sides of the transition.",
            terms=terms.steepening,
            restore_terms=terms.steepening_restore,
            levels=(2, 4),
            centred=(False, True),
            starts=3,
        ),
        Law(
            name="kaplan1.5",
            formula="y = A (N^-(alpha / beta) + R / D)^beta",
            axes=("N", "D"),
            amplitudes=(Parameter("A", "y N^alpha", 0.0, math.inf, log=True),),
            exponents=(
                _falling("alpha", 0.02, 3.0, 10),
                Parameter("beta", "1", 1e-3, _STEEPEST, log=True, search=_mesh(0.02, 3.0, 10)),
                Parameter("R", "D N^-(alpha / beta)", 0.0, math.inf, log=True, search=(0.1, 1.0, 10.0)),
            ),
            fewest_scales=6,
            source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5",
            when="Kaplan's own equation, without a floor: alpha_N, alpha_D, N_c and D_c.",
            terms=terms.bottleneck,
            restore_terms=terms.bottleneck_restore,
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("log10_Nc", "log10 of N_c, y = ((N_c / N)^(alpha / beta) + D_c / D)^beta", _log10_nc),
                Derived("log10_Dc", "log10 of D_c", _log10_dc),
                Derived("a_opt", "N* ~ C^a_opt under C ~ N D", _share(1, 2)),
                Derived("b_opt", "D* ~ C^b_opt under C ~ N D", _share(2, 1)),
            ),
            costs=True,
            starts=3,
            rivals=("kaplan", "chinchilla"),
        ),
        Law(
            name="sigmoid",
            formula="y = C + (T - C) / (1 + (x / d)^-k)",
            axes=("x",),
            amplitudes=(
                Parameter("C", "y", 0.0, math.inf),
                Parameter("T", "y", 0.0, math.inf, log=True),
            ),
            exponents=(
                Parameter("d", "x", 0.0, math.inf, log=True, search=_mesh(0.01, 100.0, 13)),
                Parameter("k", "1", 0.01, 50.0, log=True, search=_mesh(0.1, 8.0, 9)),
            ),
            fewest_scales=6,
            source="Srivastava et al. 2022, arXiv 2206.04615 (sigmoidal accuracy)",
            when="An accuracy that rises from chance C to a ceiling T, half way at x = d. Needs both plateaus in view.",
            terms=terms.steps,
            restore_terms=terms.steps_restore,
            starts=3,
            rivals=("power", "power+floor", "shifted"),
            surrounded=("d",),
            ceiling="T",
        ),
        Law(
            name="valley",
            formula="y = A exp(k (log(x / x_opt))^2)",
            axes=("x",),
            amplitudes=(Parameter("A", "y", 0.0, math.inf, log=True),),
            exponents=(
                Parameter("k", "1", 0.0, math.inf, search=_mesh(0.003, 3.0, 9)),
                Parameter("x_opt", "x", 0.0, math.inf, log=True, search=_mesh(0.01, 100.0, 13)),
            ),
            fewest_scales=4,
            source="a parabola in log y and log x",
            when="A loss over learning rate or batch size at fixed scale: its optimum x_opt and its least loss A.",
            terms=terms.valley,
            restore_terms=terms.valley_restore,
            starts=2,
            rivals=("power", "power+floor"),
            surrounded=("x_opt",),
        ),
        product(2),
        product_and_floor(2),
        OVERTRAINED,
        BY_COMPUTE,
        REPEATED,
        REPEATED_BY_EPOCHS,
        EXCESS,
        EXCESS_BY_EPOCHS,
        *BREAKS,
    )
}
