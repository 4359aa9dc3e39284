"""A flow as a world: labelled samples with their exact posterior, and its file."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from raysweep.errors import OracleError
from raysweep.experiment import Sample
from raysweep.oracle.kept import Kept
from raysweep.oracle.recipe import Recipe, recipe_hash

__all__ = ["FlowWorld", "WorldFlow", "packed", "unpacked"]

_CHUNK = 2048  # items at a time, so that their activations stay in cache
R = TypeVar("R", bound=Recipe)
Part = TypeVar("Part")
Result = TypeVar("Result")


class WorldFlow(Protocol):
    """What a world needs of a flow, which is also an `nn.Module`. x and z are [n, dim], classes y [n]."""

    log_prior: Tensor

    @property
    def classes(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def latent(self, x: Tensor, y: Tensor, /) -> tuple[Tensor, Tensor]:
        """z, and log|det dz/dx| [n]."""
        ...

    def inverse(self, z: Tensor, y: Tensor, /) -> Tensor:
        """x from z."""
        ...

    def log_density(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, classes] log f_k(x)."""
        ...

    def log_posterior(
        self, x: Tensor, temperature: float = 1.0, offset: Tensor | None = None, log_prior: Tensor | None = None
    ) -> Tensor:
        """[n, classes] log p(label | x); the means of all classes moved by `offset` standard deviations [dim] of the
        base at temperature 1, and `log_prior` [classes] in place of the flow's own.
        """
        ...

    def generate(self, y: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Items from standard normal noise [n, dim]."""
        ...

    def labels(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """[n] labels of items of classes y."""
        ...


@dataclass(frozen=True)
class FlowWorld:
    """A flow frozen in float64, as a world.

    Attributes:
        flow: The flow, in float64.
        sha: Hash of its weights; every row measured on it carries this hash.
        device: Where the flow is.
        copies: The same flow on further devices, which share the work of sampling and scoring.
        kept: Where samples are kept; None: each process draws its own.
    """

    flow: WorldFlow = field(compare=False)
    recipe: Recipe
    sha: str
    device: str = field(default="cpu", compare=False)
    copies: tuple[WorldFlow, ...] = field(default=(), compare=False)
    kept: Kept | None = field(default=None, compare=False)

    @property
    def classes(self) -> int:
        return self.flow.classes

    @property
    def dim(self) -> int:
        return self.flow.dim

    def sample(self, n: int, stream: str, temperature: float = 1.0) -> Sample:
        """n labelled items; the same noise at every temperature, so that difficulties are compared in pairs.

        The posterior is evaluated at x as stored (float32), by a forward pass in float64.

        Raises:
            OracleError: the inverse is not finite.
        """
        return _sample(self, n, stream, temperature)

    def draw(self, n: int, stream: str, temperature: float) -> Sample:
        """As `sample`, without looking at what was drawn before."""
        x, y = self.items(n, stream, temperature)
        return Sample(x=x, y=y, log_posterior=self.log_posterior(x, temperature))

    def items(
        self,
        n: int,
        stream: str,
        temperature: float,
        gain: float = 1.0,
        offset: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The x [n, dim] and labels [n] of `sample`, with latents scaled by `gain` and moved by `offset` [dim] standard
        deviations of the base, and with other class probabilities.
        """
        digest = hashlib.blake2b(f"{recipe_hash(self.recipe)}/{stream}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        prior = (self.flow.log_prior.cpu() if log_prior is None else log_prior).exp()
        y = torch.multinomial(prior, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64) * gain
        if offset is not None:
            noise = noise + offset

        def one(flow: WorldFlow, part: slice) -> Tensor:
            device = flow.log_prior.device
            return flow.generate(y[part].to(device), noise[part].to(device), temperature).float().cpu()

        x_all = torch.cat(self._on_all(one, _parts(n))).numpy()
        if not np.isfinite(x_all).all():
            raise OracleError(
                f"world {self.sha[:8]}: samples must be finite, but the flow's inverse is not; retrain it"
            )
        return x_all, self.flow.labels(y, generator).numpy()

    def log_posterior(
        self,
        x: np.ndarray,
        temperature: float = 1.0,
        offset: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> np.ndarray:
        """[n, classes] exact log p(k | x) in float64, for x [n, dim]; see `WorldFlow.log_posterior`."""
        shift = {"offset": offset, "log_prior": log_prior}

        def one(flow: WorldFlow, part: slice) -> Tensor:
            device = flow.log_prior.device
            given = {name: t.to(device) for name, t in shift.items() if t is not None}
            return flow.log_posterior(torch.from_numpy(x[part]).to(device).double(), temperature, **given).cpu()

        return np.asarray(torch.cat(self._on_all(one, _parts(len(x)))).numpy())

    def _on_all(self, work: Callable[[WorldFlow, Part], Result], parts: Sequence[Part]) -> list[Result]:
        """The work of each part, in order. Each device has a thread, and takes the next part when it has done one."""
        free: SimpleQueue[WorldFlow] = SimpleQueue()
        for flow in (self.flow, *self.copies):
            free.put(flow)

        def one(part: Part) -> Result:
            flow = free.get()
            try:
                with torch.no_grad():  # of this thread
                    return work(flow, part)
            finally:
                free.put(flow)

        if not self.copies:
            return [one(part) for part in parts]
        with ThreadPoolExecutor(1 + len(self.copies)) as pool:
            return list(pool.map(one, parts))


def _parts(n: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, max(n, 1), _CHUNK)]


@lru_cache(maxsize=32)
def _sample(world: FlowWorld, n: int, stream: str, temperature: float) -> Sample:
    # The packs of one worker share their world; inverting a pool takes seconds.
    draw = partial(world.draw, n, stream, temperature)
    return draw() if world.kept is None else world.kept.sample(world, n, stream, temperature, draw)


def packed(flow: nn.Module) -> bytes:
    """A flow's weights as a safetensors file."""
    data: bytes = save({name: value.detach().cpu().contiguous() for name, value in flow.state_dict().items()})
    return data


def unpacked(
    recipe: R, make: Callable[[R], Any], data: bytes, sha: str, devices: Sequence[str] = ("cpu",)
) -> FlowWorld:
    """The world of a recipe from a file of weights, frozen in float64.

    Args:
        make: The recipe's flow, which the weights must fit.
        devices: Where samples and posteriors are computed, each device taking its share of the items; they differ
            between devices by rounding alone.

    Raises:
        SafetensorError, ValueError, KeyError, TypeError, RuntimeError: the file is not this recipe's.
    """
    weights = load(data)
    wanted, means = recipe.shape, weights.get("means")
    if means is not None and means.shape != (wanted.classes, wanted.dim):
        classes, dim = means.shape
        raise ValueError(f"it holds {classes} classes in {dim} dimensions, not {wanted.classes} in {wanted.dim}")
    flow = make(recipe).double()
    _check_weights(weights, flow.state_dict())
    flow.load_state_dict(weights)
    flow.requires_grad_(False).eval()
    copies = tuple(copy.deepcopy(flow).to(device) for device in devices[1:])
    return FlowWorld(flow.to(devices[0]), recipe, sha, devices[0], copies)


def _check_weights(weights: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor]) -> None:
    """Check that numbers are finite, that probabilities sum to 1, and that index buffers are the fresh flow's."""
    for name, value in weights.items():
        own = fresh.get(name)
        if own is None or value.shape != own.shape:
            raise ValueError(f"{name[:100]} has the shape {tuple(value.shape)}, which the recipe does not give it")
        if value.is_complex() or value.is_floating_point() != own.is_floating_point():
            raise ValueError(f"{name[:100]} holds {value.dtype}, not {own.dtype}")
        if own.is_floating_point() and not bool(value.double().isfinite().all()):
            raise ValueError(f"{name[:100]} holds numbers that are not finite")
        if not own.is_floating_point() and not torch.equal(value.long().flatten().sort()[0], own.flatten().sort()[0]):
            raise ValueError(f"{name[:100]} is not what the recipe makes it")
    if "log_prior" in weights and abs(float(weights["log_prior"].double().exp().sum()) - 1) > 1e-5:
        raise ValueError("log_prior must hold the logarithms of probabilities that add up to 1")
    if "channel" in weights and not torch.equal(weights["channel"].double(), fresh["channel"].double()):
        raise ValueError("channel is not what the recipe makes it")
