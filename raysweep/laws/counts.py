"""Scales that count something, such as parameters or tokens: less than one of them means nothing."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["below_one"]


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
