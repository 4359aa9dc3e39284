r"""The mean dimension of functions: the mean number of inputs in an interaction, weighted by its share of the variance.

With f = sum_S f_S the ANOVA decomposition of f over independent inputs, and sigma_S^2 the variance of f_S,

    mean dimension = sum_S |S| sigma_S^2 / Var f = sum_i tau_i / Var f,   tau_i = E[(f(x) - f(x_-i, x_i'))^2] / 2,

where x_i' is a new draw of input i. On {-1, +1}^n this is the Boolean mean dimension (BMD), and tau_i = Inf_i =
E[(f(x) - f(x with input i flipped))^2] / 4. It is 1 for a linear function, n for the parity of n bits, not defined for
a constant, and changes under neither scaling of f nor a shift.

Source: Hoyt & Owen 2021, arXiv 2007.01281 (the estimators); Hahn, Feinauer & Borgonovo 2022, arXiv 2207.04890; and
Demyanenko, Feinauer, Malatesta & Saglietti 2024, arXiv 2401.12610 (BMD of networks). Several outputs are pooled,
sum_c A_c / sum_c Var_c (Gamboa et al. 2014, arXiv 1311.1797): that changes under no rotation of the outputs.

Where Var f comes from. `sample`: from many inputs drawn for it alone. Points that serve for the changes are far too
few: the changes of a point sum over inputs, and so average themselves, but its squared value does not. `pairs`: from
the changes themselves, by

    Var f = sum_i integral_0^1 E[D_i f(x) D_i f(y)] d rho,   D_i f = (f(x_i = high) - f(x_i = low)) / 2,

where y keeps each input of x with probability rho and redraws it otherwise: E[D_i f(x) D_i f(y)] = sum_{S with i}
rho^(|S| - 1) f_S^2. rho is stratified, two points to a stratum. It needs no evaluation beyond the single flips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from raysweep.errors import MetricError
from raysweep.metrics.changes import Changes, squared_deviations, squared_error, variance_floor
from raysweep.metrics.measures import Binary, Marginals, Measure
from raysweep.metrics.stack import Stack, stack_of, whole
from raysweep.metrics.walsh import cube, degrees, walsh

__all__ = ["MeanDimension", "exact_mean_dimension", "mean_dimension"]

_MOST_EXACT = 16  # inputs that can be enumerated


@dataclass(frozen=True)
class MeanDimension:
    """Mean dimensions. A stacked model's have a leading lane axis; errors are standard errors, 0 where exact.

    Attributes:
        value, error: [] pooled over outputs.
        mean, mean_error: [] the mean of the outputs' own.
        each, each_error: [outputs] each output's own; NaN for an output that is constant, or changes at no point.
        contributions, contributions_error: [inputs] of each input to `value`, which is their sum. Under `pairs` the
            error is an upper bound.
        variance: [outputs] of f.
        evaluations: Values of f that were computed, per lane.
    """

    value: Tensor
    error: Tensor
    mean: Tensor
    mean_error: Tensor
    each: Tensor
    each_error: Tensor
    contributions: Tensor
    contributions_error: Tensor
    variance: Tensor
    evaluations: int


@torch.no_grad()
def mean_dimension(
    f: Callable[..., Any],
    inputs: int | Sequence[int],
    *,
    parameters: Mapping[str, Tensor] | None = None,
    measure: Measure | None = None,
    points: int = 100,
    variance: Literal["sample", "pairs"] = "sample",
    variance_points: int = 10_000,
    seed: int = 0,
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MeanDimension:
    """The mean dimension of a function, or of each lane of a stacked model, with standard errors (delta method).

    All lanes are measured on the same inputs, so that differences between lanes have smaller errors than lanes.

    Args:
        f: x [items, *inputs] -> [items] or [items, outputs], a plain function or an `nn.Module` in eval mode; or, with
            `parameters`, a stacked model (parameters, x [lanes, items, inputs]) -> [lanes, items, outputs]. A stacked
            model that is `models.first.FirstDense`, and an `nn.Sequential` that begins with a linear layer, skip the
            first layer's products for changed inputs. For a classifier, measure logits: values of its softmax depend
            on their scale.
        inputs: Numbers per item, or an item's shape.
        parameters: {name: [lanes, ...]}.
        measure: Distribution of the inputs; -1 and +1 if not given. Under `Binary` inputs are flipped, under any other
            measure drawn again.
        points: Items all of whose inputs are changed, one by one; even. `points * (inputs + 1)` evaluations, twice that
            for `pairs`.
        variance: `sample`, or `pairs`, which needs a `Binary` measure. `pairs` is better where evaluations of changed
            items are cheap and interactions of high order weak.
        variance_points: Items for the variance under `sample`, rounded up to whole batches (a hundredth of them, at
            most 100 items).
        seed: The same seed gives the same inputs, for any number of lanes and any `chunk`.
        chunk: Most items in a forward pass, over all lanes, but at least two of one lane. It bounds the memory (of
            each thread, for a stacked two-layer ReLU network on a CPU, whose lanes are measured side by side) and
            changes results by rounding only. If not given, it is chosen by the device and the width of the first layer.
        dtype, device: Those of the items; the parameters' own if not given.

    Raises:
        MetricError: f is constant, or no change of an input changes it at any of the points (lanes of a stacked model
            are NaN instead); f returns another shape or type; or an argument makes no sense.

    Example:
        >>> found = mean_dimension(lambda x: x[:, 0] * x[:, 1] + x[:, 2], 3, points=1000)
        >>> round(float(found.value), 1)
        1.5
    """
    stack = stack_of(f, inputs, parameters, dtype, device)
    measure = measure or Binary()
    _check_integers(points=points, variance_points=variance_points, seed=seed, chunk=chunk)
    _check(stack, measure, points, variance, variance_points, chunk)
    paired, size = variance == "pairs", chunk or stack.items_per_pass
    changes = Changes.over(stack, measure, seed, points, size, paired)
    evaluations = (1 + paired) * points * (stack.inputs + 1)
    squares = changes.products
    if squares is None:
        squares = squared_deviations(stack, measure, seed, variance_points, size)
        evaluations += variance_points
    return _ratios(changes, squares, evaluations, alone=parameters is None)


def exact_mean_dimension(
    f: Callable[..., Any],
    inputs: int,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MeanDimension:
    """The Boolean mean dimension by enumeration of all 2^inputs points of {-1, +1}^inputs.

    Args:
        f, parameters, chunk, dtype, device: See `mean_dimension`.
        inputs: At most 16.

    Raises:
        MetricError: As for `mean_dimension`.

    Example:
        >>> float(exact_mean_dimension(lambda x: x.prod(1), 5).value)
        5.0
    """
    if not whole(inputs) or not 1 <= inputs <= _MOST_EXACT:
        many = whole(inputs) and inputs > _MOST_EXACT
        raise MetricError(
            f"inputs: must be an integer with `1 <= inputs <= {_MOST_EXACT}`, but got ({inputs=}). "
            + ("Use mean_dimension instead" if many else "Give the number of inputs of f, which takes [items, inputs]")
        )
    _check_integers(chunk=chunk)
    if chunk is not None and chunk < 1:
        raise MetricError(f"chunk: `chunk >= 1` must hold, but got ({chunk=}). Leave it out to have it chosen")
    stack, points = stack_of(f, inputs, parameters, dtype, device), 2**inputs
    most = chunk or stack.items_per_pass
    size, spectra, floors = min(most, points), [], []
    with torch.no_grad():
        for _, some in stack.blocks(max(1, most // size)):
            parts = [
                some.values(cube(inputs, start, min(start + size, points), stack.device).to(stack.dtype))
                for start in range(0, points, size)
            ]
            spectra.append(walsh(torch.cat(parts, 1).transpose(1, 2)).square())
            floors.append(torch.stack([variance_floor(part) for part in parts]).amax(0))
    weights = torch.cat(spectra)  # [lanes, outputs, sets]
    member = (1 - cube(inputs, 0, points, stack.device).double()) / 2
    taus = weights.sum(1) @ member
    squares = torch.stack([weights @ degrees(inputs, stack.device)] * 2, 1)  # two equal samples: no error
    variance = torch.stack([weights[..., 1:].sum(-1)] * 2, 1)
    return _ratios(
        Changes(squares, taus, torch.zeros_like(taus), torch.cat(floors)), variance, points, alone=parameters is None
    )


def _ratios(changes: Changes, squares: Tensor, evaluations: int, alone: bool) -> MeanDimension:
    """Ratios of means, and their errors by linearisation.

    Args:
        squares: [lanes, samples, outputs] whose mean is Var f; the samples are those of the changes if these have
            products, and independent of them otherwise.
        alone: Whether f is one function, for which there is no lane axis.
    """
    total, variance = changes.squares.mean(1), squares.mean(1)
    pooled = torch.where(variance.sum(1) > changes.floor, variance.sum(1), torch.nan)
    if alone and pooled.isnan().any():
        raise MetricError(
            f"f: its variance must be positive and finite, but got (variance={variance.sum().item():.3g}, "
            f"evaluations={evaluations:,}). A constant has no mean dimension; if f is not one, take more points, or "
            "a measure under which it varies"
        )
    # The numerator is at least the variance: one of 0 says only that too few points were drawn.
    changed = total.sum(1) > changes.floor
    if alone and not changed.all():
        raise MetricError(
            "f: an input must change it by a finite amount at one of the points, but got "
            f"(points={changes.squares.shape[1]:,}, mean_squared_change={total.sum().item():.3g}, "
            f"variance={variance.sum().item():.3g}). f varies, but changes rarely: take more points, ten times "
            "as many, say"
        )
    pooled = torch.where(changed, pooled, torch.nan)
    sound = (variance > changes.floor[:, None]) & (total > 0) & ~pooled[:, None].isnan()
    own = torch.where(sound, variance, torch.nan)
    each, value = total / own, total.sum(1) / pooled

    def error(shares: Tensor, ratios: Tensor, pool: bool) -> Tensor:
        """That of `shares` times (squares of changes - `ratios` times variances), both [lanes, outputs or 1]."""
        parts = [changes.squares * shares[:, None], squares * (-shares * ratios)[:, None]]
        if pool:
            parts = [part.sum(2) for part in parts]
        if changes.products is not None:
            return squared_error(parts[0] + parts[1]).sqrt()
        return (squared_error(parts[0]) + squared_error(parts[1])).sqrt()

    contributions = changes.taus / pooled[:, None]
    of_taus = changes.taus_error2.sqrt() / pooled[:, None]
    of_variance = contributions * (squared_error(squares.sum(2)).sqrt() / pooled)[:, None]
    dependent = changes.products is not None
    found = {
        "value": value,
        "error": error(1 / pooled[:, None], value[:, None], pool=True),
        "mean": each.mean(1),
        "mean_error": error(1 / (own * own.shape[1]), each, pool=True),
        "each": each,
        "each_error": error(1 / own, each, pool=False),
        "contributions": contributions,
        "contributions_error": of_taus + of_variance if dependent else (of_taus**2 + of_variance**2).sqrt(),
        "variance": variance,
    }
    return MeanDimension(**{name: t[0] if alone else t for name, t in found.items()}, evaluations=evaluations)


def _check_integers(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and not (whole(value) and -(2**63) <= value < 2**63):
            raise MetricError(
                f"{name}: must be a 64-bit integer, but got ({name}={value!r}). Give one, such as {name}=100"
            )


def _check(stack: Stack, measure: Measure, points: int, variance: str, variance_points: int, chunk: int | None) -> None:
    if points < 4 or points % 2:
        raise MetricError(f"points: must be even and at least 4, but got (points={points}). Take {max(4, points + 1)}")
    if variance not in ("sample", "pairs"):
        raise MetricError(f"variance: must be sample or pairs, but got (variance={variance!r}). Choose one of them")
    if variance == "sample" and variance_points < 4:
        raise MetricError(
            f"variance_points: `variance_points >= 4` must hold, but got ({variance_points=}). Thousands are usual"
        )
    if variance == "pairs" and not isinstance(measure, Binary):
        raise MetricError(
            f"measure: variance='pairs' needs a Binary measure, but got (measure={type(measure).__name__}). "
            "Take variance='sample'"
        )
    if isinstance(measure, Marginals) and (width := torch.as_tensor(measure.data).shape[-1]) != stack.inputs:
        raise MetricError(
            f"measure: the data must have a column per input, but got (columns={width}, inputs={stack.inputs}). "
            "Flatten each item of the data"
        )
    if chunk is not None and chunk < 2:
        raise MetricError(f"chunk: `chunk >= 2` must hold, but got (chunk={chunk}). Leave it out to have it chosen")
