"""Norms of a network's weights: how large they are, and how far they moved.

Everything is batched over lanes and computed in float64. A matrix is a parameter whose name ends in `weight`: a dense
layer's [outputs, inputs], or a convolution's filters as [outputs, all numbers of a filter], whose spectral norm is at
least the convolution's over the filter's side (Yoshida & Miyato 2017, arXiv 1705.10941). Factors of the forward pass
that are no parameters, such as those of mu-P, are not included.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raysweep.errors import MetricError

__all__ = ["norms", "squared_norm"]


@torch.no_grad()
def norms(parameters: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms of the parameters and of their way from the initial values.

    Args:
        parameters: {name: [lanes, ...]}.
        initial: Their values before training, {name: [lanes, ...]}; parameters without one did not train and count
            nowhere.

    Returns:
        {name: [lanes]} in float64, with W_l the matrices, b_l the biases and |.| the Frobenius norm:

        * `l2_norm`: the root of the sum of all squares (Jiang et al. 2019, arXiv 1912.02178, parameter norm).
        * `distance`: the same of parameters minus initial values (Jiang et al. 2019, distance from initialisation).
        * `frobenius_product`: prod_l |W_l| (Neyshabur, Tomioka & Srebro 2015, arXiv 1503.00036).
        * `spectral_product`: prod_l |W_l|_2, the product of largest singular values (Bartlett, Foster & Telgarsky
          2017, arXiv 1706.08498).
        * `spectral_complexity`: that times (sum_l (|W_l - W_l(0)|_{2,1} / |W_l|_2)^{2/3})^{3/2}, where |.|_{2,1} adds
          up the norms of what single units receive (Bartlett et al. 2017, equation 1.2, for activations of Lipschitz
          constant 1). For a network that is no chain of layers, such as a residual one, it is the formula and no bound.
        * `path_norm`: the root of the sum over paths from an input or a bias to an output of the product of squared
          weights (Neyshabur et al. 2015; Jiang et al. 2019). Only of a multi-layer perceptron, whose parameters are
          layers.0.weight, layers.0.bias, layers.1.weight, ...; absent otherwise, as pooling, normalisation and
          attention have no such paths.

        Without matrices, there are only the first two.

    Raises:
        MetricError: `initial` is empty, or has other names than the parameters.
    """
    if not initial or not initial.keys() <= parameters.keys():
        unknown = ", ".join(sorted(initial.keys() - parameters.keys())) or "none"
        raise MetricError(
            "initial: must have the initial values of at least one of the parameters, and of no others, but got "
            f"({len(initial)} initial values, unknown names: {unknown}). Give the parameters "
            "as they were before training"
        )
    own = {name: parameters[name].double() for name in initial}
    start = {name: p.double() for name, p in initial.items()}
    found = {
        "l2_norm": squared_norm(own).sqrt(),
        "distance": squared_norm({name: p - start[name] for name, p in own.items()}).sqrt(),
    }
    matrices = {name: _matrix(p) for name, p in own.items() if name.endswith("weight") and p.dim() > 2}
    if matrices:
        found["frobenius_product"] = _product([torch.linalg.matrix_norm(m) for m in matrices.values()])
        largest = {name: _spectral(m) for name, m in matrices.items()}
        found["spectral_product"] = _product(list(largest.values()))
        ratios = [
            (m - _matrix(start[name])).norm(dim=2).sum(1) / largest[name]  # [lanes, units, received]
            for name, m in matrices.items()
        ]
        sums = torch.stack(ratios).pow(2 / 3).sum(0).pow(3 / 2)
        found["spectral_complexity"] = found["spectral_product"] * sums
    layers = len(own) // 2
    if layers and own.keys() == {f"layers.{i}.{kind}" for i in range(layers) for kind in ("weight", "bias")}:
        found["path_norm"] = _path_norm([(own[f"layers.{i}.weight"], own[f"layers.{i}.bias"]) for i in range(layers)])
    return found


def squared_norm(values: Mapping[str, Tensor]) -> Tensor:
    """[lanes] sum of squares over all of {name: [lanes, ...]}."""
    total: Tensor = torch.stack([v.flatten(1).square().sum(1) for v in values.values()]).sum(0)
    return total


def _matrix(weight: Tensor) -> Tensor:
    """[lanes, outputs, inputs]; of a convolution [lanes, height, width, inputs, outputs], its filters as rows."""
    return weight if weight.dim() == 3 else weight.flatten(1, -2).transpose(1, 2)


def _spectral(matrices: Tensor) -> Tensor:
    """[lanes] largest singular values; NaN where a matrix is not finite, which the library would refuse."""
    finite = matrices.isfinite().all(2).all(1)
    largest: Tensor = torch.linalg.matrix_norm(torch.where(finite[:, None, None], matrices, 0.0), 2)
    return largest.masked_fill_(~finite, torch.nan)


def _product(values: list[Tensor]) -> Tensor:
    return torch.stack(values).prod(0)


def _path_norm(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """[lanes] what the network of squared parameters, without activations, makes of an input of ones."""
    lanes, _, inputs = layers[0][0].shape
    reached = layers[0][0].new_ones(lanes, inputs, 1)
    for weight, bias in layers:
        reached = torch.baddbmm(bias.square()[..., None], weight.square(), reached)
    return reached.sum((1, 2)).sqrt()
