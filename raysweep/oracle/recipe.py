"""Recipes: each determines a world completely before anything is trained. Its hash is part of every run's key.

Each kind of recipe is a class in its own file, beside the world it makes, and registers itself; nothing else names a
kind. Planning with a recipe must not wait for torch: a kind imports it inside the methods that need it.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from raysweep.errors import OracleError, nearest
from raysweep.experiment import Dist, World
from raysweep.store import Store
from raysweep.validation import first_fault

if TYPE_CHECKING:
    from raysweep.oracle.audits import Audit

__all__ = [
    "MAX_SEED",
    "WEIGHTS",
    "Point",
    "Recipe",
    "Shape",
    "Source",
    "Train",
    "TrainFunction",
    "checked_recipe",
    "dequantised",
    "folder_of",
    "is_made",
    "kinds",
    "parse_recipe",
    "recipe_hash",
    "recipe_of",
    "register",
]

WEIGHTS = "weights.safetensors"
MAX_SEED = 2**40  # seeds are spread by a million per epoch, within 63 bits

Point = Callable[[Mapping[str, float]], None]
"""Takes a point of a training curve: `epoch` (done so far), `epochs`, `start` (done by the checkpoint from which this
training continued), and whatever else is measured."""

TrainFunction = Callable[[Dist | None, Point, str], Mapping[str, bytes]]
"""Trains on one device, by its name, or as one of several workers; returns files by name. Under a Dist it also reports
files with its checkpoints, and those of the last report replace the returned ones. Workers receive it pickled."""

Train = Callable[[TrainFunction], Mapping[str, bytes]]
"""What an executor offers to a recipe: it calls the function where training happens, on as many workers as it has, and
returns the files."""


@dataclass(frozen=True)
class Shape:
    """What is known of a world that need not exist yet.

    Attributes:
        dim: Dimensions of x.
        classes: Number of classes.
        prior: [classes] in proportion to their probabilities; None where all are equal.
    """

    dim: int
    classes: int
    prior: tuple[float, ...] | None = None

    @property
    def largest_imbalance(self) -> float:
        """KL(v || w) in nats of the shift `imbalance` of `oracle.shift` that leaves a single class, the last."""
        return math.log(self.classes) if self.prior is None else math.log(sum(self.prior) / self.prior[-1])


@dataclass(frozen=True)
class Source:
    """What a finished world keeps of the data it was made from, so that it can be used where they are not.

    It follows from a recipe and its data, and is no parameter: any two are equal, so that recipes are equal without it.

    Attributes:
        shape: The world's; None where nothing is kept.
        ingredients: The recipe's.
    """

    shape: Shape | None = field(default=None, compare=False)
    ingredients: Mapping[str, str] = field(default_factory=dict, compare=False)


class Recipe(BaseModel, ABC):
    """One kind of world. A subclass names its kind, adds its parameters, and says how the world is made and loaded.

    Attributes:
        kind: Its name in files: a Literal of one word, the default.
        version: Increase it when the kind's code changes what a recipe means.
        audited: Axes of a sweep that its audit depends on, each with the value used where a sweep has no such axis;
            None where the world has no audit, such as a source without a posterior.
        keeps_samples: Whether drawing a sample takes so long that workers keep it in the store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    version: ClassVar[int] = 1
    audited: ClassVar[Mapping[str, float] | None] = None
    keeps_samples: ClassVar[bool] = False
    _source: Source = PrivateAttr(default=Source())

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of the world, which is not made for this. A kind that reads data returns that of `_source` if there is
        one, and so it does for `ingredients`: a finished world then needs no data.
        """

    def require_makeable(self, workers: int = 1) -> None:
        """Refuse what cannot be made; called before anything is started or written.

        Args:
            workers: On which training is spread.

        Raises:
            SweepError: as for `shape`; or its data or its parameters do not fit training.
        """
        _ = self.shape

    @property
    def ingredients(self) -> Mapping[str, str]:
        """Whatever else the world depends on besides the recipe's own fields, such as the hash of its data."""
        return {}

    def made_from(self, source: Source) -> Self:
        """The same recipe, with what its finished world keeps of its data."""
        copy = self.model_copy()
        copy._source = source
        return copy

    @abstractmethod
    def make(self, train: Train) -> bytes:
        """The finished world as a safetensors file.

        Args:
            train: Trains a function, for a world that is trained.
        """

    @abstractmethod
    def load(self, data: bytes, sha: str) -> World:
        """The world from the file that `make` returned. A file may come from anybody.

        Args:
            sha: Hash of the file, which becomes the world's `sha`.

        Raises:
            SafetensorError, ValueError, KeyError, TypeError, RuntimeError: the file is not this recipe's.
        """

    @property
    def items(self) -> str:
        """What its items are, in a sentence for the card."""
        return ""

    def audit(self, world: World, at: Mapping[str, float], items: int) -> Audit:
        """Evidence that the world's posterior is that of its own samples, at values of the axes `audited`.

        Raises:
            OracleError: this kind of world has no audit.
        """
        raise OracleError(f"a world of kind {self.kind} has no audit")

    def progress(self, point: Mapping[str, float]) -> str:
        """A point of its training curve in a few words."""
        return f"epoch {point['epoch']:.0f}/{point['epochs']:.0f}"


_NOT_IMPORTED = (
    ". A kind of your own is known once the module that registers it is imported, but reading a store imports no code. "
    "`raysweep run` on the sweep's file imports it, and audits the world; in Python, import the module first"
)
_KINDS: dict[str, type[Recipe]] = {}
R = TypeVar("R", bound=Recipe)


def register(recipe: type[R]) -> type[R]:
    """Register a kind of recipe by the word in the Literal of its field `kind`.

    Raises:
        OracleError: there is no such field, or another kind has the same name.
    """
    names = get_args(recipe.model_fields["kind"].annotation)
    if len(names) != 1 or recipe.model_fields["kind"].default != names[0]:
        raise OracleError(f"{recipe.__name__}: `kind` must be a Literal of one word, and have it as its default")
    if _KINDS.setdefault(names[0], recipe) is not recipe:
        raise OracleError(f"{recipe.__name__}: kinds must have distinct names, but {names[0]!r} is another's")
    return recipe


def kinds() -> dict[str, type[Recipe]]:
    """All kinds by name."""
    return dict(_KINDS)


def recipe_of(raw: Any) -> Recipe:
    """A recipe from plain data, by its kind.

    Raises:
        ValueError: there is no such kind; pydantic's, where the kind refuses its parameters.
    """
    if isinstance(raw, Recipe):
        return raw
    if not isinstance(raw, Mapping) or not isinstance(raw.get("kind"), str):
        raise ValueError(f"must be a mapping with a `kind`, one of {', '.join(map(repr, sorted(_KINDS)))}")
    if raw["kind"] not in _KINDS:
        raise ValueError(
            f"kind must be the name of a kind of world, but got {raw['kind']!r}. {nearest(raw['kind'], _KINDS)}"
        )
    return _KINDS[raw["kind"]].model_validate(raw)


def checked_recipe(raw: Any, where: str) -> Recipe:
    """A recipe from plain data of a file.

    Args:
        where: The file, for messages.

    Raises:
        OracleError: the data are no recipe, or one of a kind whose module was not imported.
    """
    try:
        return recipe_of(raw)
    except ValueError as error:
        if isinstance(error, ValidationError):
            fault = first_fault(error.errors(), raw)
            reason = f"{'.'.join(map(str, fault.place))}: {fault.broken}"
            if fault.kind == "unknown":
                reason += f". {nearest(str(fault.place[-1]), _KINDS[raw['kind']].model_fields)}"
        else:
            reason = " ".join(str(error).split())
        given = "" if "but got" in reason or "Valid names" in reason else f", but got {str(raw)[:300]}"
        own = isinstance(raw, Mapping) and isinstance(raw.get("kind"), str) and raw["kind"] not in _KINDS
        raise OracleError(f"{where}: must hold a recipe: {reason}{given}" + (_NOT_IMPORTED if own else "")) from error


def parse_recipe(text: bytes | str, where: str) -> Recipe:
    """A recipe from JSON.

    Raises:
        OracleError: the text holds no recipe, or one of a kind whose module was not imported.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OracleError(f"{where}: must hold a recipe: {' '.join(str(error).split())}, but got None") from error
    return checked_recipe(raw, where)


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits: the recipe, what else it depends on, and the version of the kind's code."""
    known = {**recipe.model_dump(mode="json"), "version": recipe.version, **recipe.ingredients}
    return hashlib.blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=8).hexdigest()


def folder_of(recipe: Recipe) -> str:
    """Where a store keeps this recipe's world."""
    return f"oracle/{recipe_hash(recipe)}"


def dequantised(noise: float) -> str:
    """What items are that are grey levels with noise.

    Args:
        noise: Standard deviation of the Gaussian part.
    """
    gaussian = f", plus Gaussian noise of standard deviation {noise:g}" if noise else ""
    return f"Items are grey levels plus uniform noise in [0, 1), scaled to [-1, 1]{gaussian}: samples are as noisy."


def is_made(store: Store, recipe: Recipe) -> bool:
    """Whether the store holds this recipe's finished world."""
    return store.exists(f"{folder_of(recipe)}/{WEIGHTS}")
