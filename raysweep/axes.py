"""Axes as an experiment of your own declares them; this name is public and stays, wherever the code lies."""

from raysweep.grid.axes import Axis, Kind, KindBy

__all__ = ["Axis", "Kind", "KindBy"]
