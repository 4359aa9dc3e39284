"""Audits of worlds: how a store keeps them, at which values of a sweep's axes they are made, and how a failed one stops
a sweep. Needs no torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from raysweep.errors import LedgerError, OracleError
from raysweep.experiment import World
from raysweep.oracle.recipe import Recipe
from raysweep.store import Store

__all__ = ["ITEMS", "Audit", "Check", "Setting", "place", "require_audit", "settings", "stored_audits", "summary"]

ITEMS = 8192
Setting = Mapping[str, float]  # values of the axes that an audit depends on


@dataclass(frozen=True)
class Check:
    """One comparison: it passes where |value| <= limit."""

    name: str
    value: float
    limit: float
    about: str

    @property
    def passed(self) -> bool:
        return bool(math.isfinite(self.value) and abs(self.value) <= self.limit)


@dataclass(frozen=True)
class Audit:
    """All checks of one world at one setting.

    Attributes:
        at: Values of the axes that the audit depends on.
        aleatoric: Mean entropy of the posterior, nats.
        bayes_error: 1 - E max_k r_k.
        reliability: Rows of (mean posterior, frequency of the class, items), over equal-width bins of the posterior.
    """

    sha: str
    at: Setting
    items: int
    checks: tuple[Check, ...]
    aleatoric: float
    bayes_error: float
    reliability: tuple[tuple[float, float, int], ...]

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data that says which checks passed; the setting's values stand beside the other fields."""
        found = asdict(self)
        found["passed"] = self.passed
        for check, plain in zip(self.checks, found["checks"], strict=True):
            plain["passed"] = check.passed
        return {**found.pop("at"), **found}


class _KeptCheck(BaseModel):
    name: str
    value: float
    limit: float
    about: str
    passed: bool


class _Kept(BaseModel):
    """An audit as a store keeps it; all fields not named here are its setting."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(init=False)

    sha: str
    items: int = Field(ge=1)
    checks: list[_KeptCheck] = Field(max_length=100)
    aleatoric: float
    bayes_error: float
    reliability: list[tuple[float, float, Annotated[int, Field(ge=1)]]] = Field(min_length=1, max_length=1000)
    passed: bool


def stored_audits(store: Store, folder: str) -> list[dict[str, Any]]:
    """The audits kept beside a world, each with its setting as `at`; none where the file is missing or damaged (the
    world is then audited again).
    """
    try:
        found = TypeAdapter(list[_Kept]).validate_json(store.read_text(f"{folder}/audit.json".lstrip("/")))
    except (LedgerError, ValidationError):
        return []
    return [{**audit.model_dump(), "at": audit.model_extra} for audit in found]


def settings(recipe: Recipe, values: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Where a world is audited: at each combination of the values that a grid gives the axes its audit depends on.

    Args:
        values: The values of every axis of the grid.

    Raises:
        OracleError: an axis has the name of a field of every audit.
    """
    if recipe.audited is None:
        return []
    if taken := sorted({*recipe.audited} & {*_Kept.model_fields, "at"}):
        raise OracleError(f"{type(recipe).__name__}: an audit has fields of its own named {', '.join(taken)}")
    known = {
        name: sorted({float(v) for v in values.get(name, ()) if isinstance(v, int | float)}) or [default]
        for name, default in recipe.audited.items()
    }
    return [dict(zip(known, chosen, strict=True)) for chosen in itertools.product(*known.values())]


def place(at: Setting) -> str:
    """A setting in words, to follow a verb: ` at temperature 2`."""
    return f" at {', '.join(f'{name} {value:g}' for name, value in at.items())}" if at else ""


def summary(found: Mapping[str, Any]) -> str:
    """The world's figures in an audit, and the results of two of its checks, where it has them."""
    value = {check["name"]: check["value"] for check in found["checks"]}
    parts = [f"aleatoric {found['aleatoric']:.4f} nats", f"Bayes error {found['bayes_error']:.4f}"]
    if "self_calibration" in value:
        parts.append(f"self-calibration {value['self_calibration']:+.1f} s.e.")
    if "inverse" in value:
        parts.append(f"inverse error {value['inverse']:.0e}")
    return ", ".join(parts)


def require_audit(
    store: Store, folder: str, recipe: Recipe, world: World, wanted: Sequence[Setting]
) -> list[dict[str, Any]]:
    """Audits at every setting, kept in the world's `audit.json`; those already there are not repeated.

    Raises:
        OracleError: a check failed; it says which, its value and its limit.
    """
    kept = {_key(a["at"]): a for a in stored_audits(store, folder) if a["sha"] == world.sha}
    for at in wanted:
        if _key(at) not in kept:
            kept[_key(at)] = {**recipe.audit(world, at, ITEMS).to_json(), "at": dict(at)}
    plain = [{name: value for name, value in kept[key].items() if name != "at"} for key in sorted(kept)]
    if plain:
        store.write_json(f"{folder}/audit.json", plain)
    found = [kept[_key(at)] for at in wanted]
    for one in found:
        for check in one["checks"]:
            if not check["passed"]:
                raise OracleError(
                    f"oracle {store.uri}/{folder}: audit failed{place(one['at'])}: "
                    f"{check['name']} must be within {check['limit']:g}, but is {check['value']:.3g} "
                    f"({check['about']}). Nothing was trained on it; retrain the oracle, or leave out that value"
                )
    return found


def _key(at: Setting) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(at.items()))
