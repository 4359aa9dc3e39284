"""Priors on a law's parameters, as they are written and as a fit uses them.

A prior is a mean and a standard deviation. It is normal on the parameter; on one that is positive with a multiplicative
error (`Parameter.log`: amplitudes, scales), its logarithm is normal about the log of the mean, with the standard
deviation sd / mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raysweep.errors import nearest
from raysweep.laws.definition import Law, Parameter
from raysweep.laws.refusal import RequestError

__all__ = ["Prior", "checked", "of_mapping", "of_words"]

_EXAMPLE = "alpha=0.5+-0.1"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOTH = re.compile(rf"\s*({_NUMBER})\s*(?:\+-|±)\s*(\S.*?)\s*")


@dataclass(frozen=True)
class Prior:
    """What is known of a parameter beforehand.

    Attributes:
        name: The parameter.
        mean: Its expected value; on the log scale, its median.
        sd: Its standard deviation, > 0.
    """

    name: str
    mean: float
    sd: float

    def coded(self, parameter: Parameter) -> tuple[float, float]:
        """Mean and standard deviation of the parameter, or of its logarithm where it has one."""
        return (math.log(self.mean), self.sd / self.mean) if parameter.log else (self.mean, self.sd)

    def text(self, parameter: Parameter) -> str:
        """`alpha = 0.5 +- 0.1 (normal)`."""
        return f"{self.name} = {self.mean:g} +- {self.sd:g} ({'lognormal' if parameter.log else 'normal'})"


def of_mapping(given: Any) -> tuple[Prior, ...]:
    """Priors as a sweep file or Python writes them: `{alpha: [0.5, 0.1]}`, or `{alpha: "0.5+-0.1"}`.

    Raises:
        RequestError: They are written otherwise, or a standard deviation is not positive.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise RequestError("prior", f"must be a mapping such as {{alpha: [0.5, 0.1]}}, but got {given!r}. Write it so.")
    return tuple(_prior(str(name), value) for name, value in given.items())


def of_words(words: Iterable[str]) -> tuple[Prior, ...]:
    """Priors as a command line writes them: `alpha=0.5+-0.1`.

    Raises:
        RequestError: They are written otherwise, or a standard deviation is not positive.
    """
    out: dict[str, str] = {}
    for word in words:
        name, mark, rest = (part.strip() for part in word.partition("="))
        if not (name and mark and rest):
            raise RequestError("prior", f"must be written as {_EXAMPLE}, but got {word!r}. Write it so.")
        if name in out:
            raise RequestError("prior", f"must name each parameter once, but got {name} twice. Give one.")
        out[name] = rest
    return of_mapping(out)


def checked(priors: Iterable[Prior], law: Law) -> None:
    """Refuse priors that the law's parameters cannot have.

    Raises:
        RequestError: A prior is of no parameter, or its mean lies outside the parameter's range.
    """
    known = {p.name: p for p in law.parameters}
    for prior in priors:
        if prior.name not in known:
            raise RequestError(
                "prior", f"must name parameters of {law.formula}, but got {prior.name!r}. {nearest(prior.name, known)}"
            )
        p = known[prior.name]
        if not p.low <= prior.mean <= p.high or (p.log and prior.mean <= 0):
            least = "above 0" if p.log and p.low <= 0 else f"at or above {p.low:g}"
            most = "" if p.high == math.inf else f" and at or below {p.high:g}"
            raise RequestError(
                "prior", f"{p.name} must have a mean {least}{most}, its range, but got {prior.mean:g}. Move it inside."
            )


def _prior(name: str, given: Any) -> Prior:
    both: Any = given
    if isinstance(given, str):
        found = _BOTH.fullmatch(given)
        both = None if found is None else found.groups()
    if isinstance(both, str) or not isinstance(both, Iterable) or len(both := list(both)) != 2:
        raise RequestError(
            "prior",
            f"{name} must have a mean and a standard deviation, as in 0.5+-0.1 or [0.5, 0.1], but got {given!r}. "
            "Give both.",
        )
    mean, sd = (_number(name, one) for one in both)
    if sd <= 0:
        raise RequestError(
            "prior", f"{name} must have a standard deviation above 0, but got {sd:g}. Use fix for a known value."
        )
    return Prior(name, mean, sd)


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RequestError("prior", f"{name} must have finite numbers, but got {value!r}. Correct it.")
    return number
