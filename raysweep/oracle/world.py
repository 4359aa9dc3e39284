"""Worlds: make one from a recipe, keep it in a store, sample labelled items with their exact posterior."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from raysweep.errors import OracleError
from raysweep.experiment import Sample
from raysweep.oracle.flows import ClassFlow, coupling_net
from raysweep.oracle.recipe import (
    WEIGHTS,
    FlowRecipe,
    GaussianRecipe,
    folder_of,
    is_made,
    parse_recipe,
    recipe_hash,
    shape_of,
)
from raysweep.store import Store

__all__ = ["FlowWorld", "adopt", "load_world", "make_flow", "prepare"]

_CHUNK = 2048  # items whose activations stay in cache
_MAX_BYTES = 1 << 32  # of weights


@dataclass(frozen=True)
class FlowWorld:
    """A flow frozen in float64, as a world.

    Attributes:
        flow: In float64 on the CPU.
        recipe: What it was made from.
        sha: Hash of its weights; every row measured on it carries this.
    """

    flow: ClassFlow = field(compare=False)
    recipe: FlowRecipe | GaussianRecipe
    sha: str

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

    def _draw(self, n: int, stream: str, temperature: float) -> Sample:
        digest = hashlib.blake2b(f"{recipe_hash(self.recipe)}/{stream}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        prior = self.flow.log_prior.exp()
        y = torch.multinomial(prior, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        xs, posteriors = [], []
        with torch.no_grad():
            for start in range(0, n, _CHUNK):
                part = slice(start, start + _CHUNK)
                x = self.flow.generate(y[part], noise[part], temperature).float()
                xs.append(x)
                posteriors.append(self.log_posterior(x.numpy(), temperature))
        x_all = torch.cat(xs).numpy()
        if not np.isfinite(x_all).all():
            raise OracleError(
                f"world {self.sha[:8]}: samples must be finite, but the flow's inverse is not; retrain it"
            )
        return Sample(x=x_all, y=y.numpy(), log_posterior=np.concatenate(posteriors))

    def log_posterior(self, x: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """[n, classes] exact log p(k | x) in float64, for x [n, dim]."""
        with torch.no_grad():
            result: np.ndarray = self.flow.log_posterior(torch.from_numpy(x).double(), temperature).numpy()
        return result


@lru_cache(maxsize=32)
def _sample(world: FlowWorld, n: int, stream: str, temperature: float) -> Sample:
    # Packs of one worker share their world; inverting a pool takes seconds.
    return world._draw(n, stream, temperature)


def make_flow(recipe: FlowRecipe | GaussianRecipe, dim: int, classes: int) -> ClassFlow:
    """The untrained flow of a recipe; for a Gaussian recipe, the finished world."""
    if isinstance(recipe, FlowRecipe):
        prior = torch.full((classes,), -math.log(classes))
        return ClassFlow(coupling_net(dim, recipe.layers, recipe.hidden, recipe.blocks, recipe.seed), dim, prior)
    prior = torch.tensor(recipe.prior or [1 / classes] * classes, dtype=torch.float64)
    net = coupling_net(dim, recipe.layers, 16, 1, recipe.seed, bounded=True).double()
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for parameter in net.parameters():  # nflows starts couplings near the identity; this one must bend space
            shape, fan_in = parameter.shape, parameter.shape[-1]
            parameter.copy_(torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in))
    flow = ClassFlow(net, dim, (prior / prior.sum()).log()).double()
    with torch.no_grad():
        flow.means.copy_(_simplex(classes, dim, recipe.separation))
    return flow


def _simplex(classes: int, dim: int, separation: float) -> torch.Tensor:
    """[classes, dim] points pairwise `separation` apart, centred (K=2: on the first axis)."""
    corners = torch.eye(classes, dtype=torch.float64) * separation / math.sqrt(2)
    centred = corners - corners.mean(0)
    # Rotate the (classes - 1)-dimensional simplex into the first coordinates.
    u, s, _ = torch.linalg.svd(centred)
    points = torch.zeros(classes, dim, dtype=torch.float64)
    points[:, : classes - 1] = (u * s)[:, : classes - 1]
    return points


def adopt(store: Store, recipe: FlowRecipe | GaussianRecipe, flow: ClassFlow) -> FlowWorld:
    """Keep a finished flow in the store, unless another writer already did; return the one that is kept."""
    folder = folder_of(recipe)
    store.create(f"{folder}/recipe.json", json.dumps(recipe.model_dump(mode="json"), indent=1).encode())
    weights = {name: value.detach().cpu().contiguous() for name, value in flow.state_dict().items()}
    store.create(f"{folder}/{WEIGHTS}", save(weights))
    return load_world(store, folder)


def prepare(
    store: Store, recipe: FlowRecipe | GaussianRecipe, train: Callable[[FlowRecipe], ClassFlow]
) -> tuple[FlowWorld, bool]:
    """The recipe's world out of the store, made first if it is not there; and whether it was made now."""
    if is_made(store, recipe):
        return load_world(store, folder_of(recipe)), False
    flow = train(recipe) if isinstance(recipe, FlowRecipe) else make_flow(recipe, recipe.dim, recipe.classes)
    return adopt(store, recipe, flow), True


def _check_weights(weights: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor]) -> None:
    """Numbers are finite and the probabilities add up; what is an index is a permutation of the fresh flow's."""
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


def load_world(store: Store, folder: str = "") -> FlowWorld:
    """A world from its folder of `recipe.json` and `weights.safetensors`.

    Raises:
        OracleError: it is not a world, or its files do not belong together.
    """
    prefix = f"{folder}/" if folder else ""
    for name in ("recipe.json", WEIGHTS):
        if not store.exists(prefix + name):
            raise OracleError(f"oracle {store.uri}/{folder}: must hold recipe.json and {WEIGHTS}, but lacks {name}")
    recipe = parse_recipe(store.read_text(f"{prefix}recipe.json"), f"{store.uri}/{prefix}recipe.json")
    data = store.read(prefix + WEIGHTS, _MAX_BYTES)
    try:
        if isinstance(recipe, FlowRecipe) and len(data) < recipe.least_bytes:  # a few words may ask for much
            raise ValueError(f"it has {len(data):,} bytes, but such a flow at least {recipe.least_bytes:,}")
        weights = load(data)
        classes, dim = weights["means"].shape
        wanted = shape_of(recipe)
        if (dim, classes) != (wanted.dim, wanted.classes):
            raise ValueError(f"it holds {classes} classes in {dim} dimensions, not {wanted.classes} in {wanted.dim}")
        flow = make_flow(recipe, dim, classes).double()
        _check_weights(weights, flow.state_dict())
        flow.load_state_dict(weights)
    except (SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise OracleError(f"oracle {store.uri}/{folder}: {WEIGHTS} does not fit recipe.json: {reason}") from error
    flow.requires_grad_(False).eval()
    return FlowWorld(flow, recipe, hashlib.sha256(data).hexdigest()[:16])
