"""Counts and shares: less than one parameter or token means nothing, and neither does an accuracy above 100 %."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["above_all", "below_one"]

_NOISE = 1.05  # times the whole, up to which a fitted ceiling may be that of a share


def below_one(x: Mapping[str, float], least: Mapping[str, float]) -> str:
    """A sentence on the scales of a point that lie below 1 though all that were measured lie above; else empty.

    Args:
        x: The value of each scale by its column.
        least: The least value of each that was measured.
    """
    small = [name for name, value in x.items() if value < 1 <= least[name]]
    if not small:
        return ""
    named = " and ".join(f"{name} = {x[name]:.3g}" for name in small)
    measured = " and ".join(f"{name} = {least[name]:.3g}" for name in small)
    return (
        f"Less than one: {named}; the least that was measured is {measured}. If these are counts, such as of "
        "parameters or tokens, there is no such run: ask for more, or check the units."
    )


def above_all(y: str, ceiling: float | None, ends: Iterable[float]) -> str:
    """A sentence on intervals of y that exceed the whole though its fitted ceiling, above 0, does not; else empty.

    Args:
        ceiling: None where a law has none.
        ends: Of the intervals of y that are shown.
    """
    whole = None if ceiling is None else next((one for one in (1, 100) if ceiling <= one * _NOISE), None)
    if whole is None or not any(end > whole for end in ends):
        return ""
    unit = "a share" if whole == 1 else "in percent"
    return f"If {y} is {unit}, it is at most {whole}: what lies above it in an interval cannot be."
