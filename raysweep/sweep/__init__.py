"""A sweep: its file, the resolved sweep, what a store records about it, and its current rows."""

from raysweep.sweep.resolve import Sweep, from_mapping, load_sweep

__all__ = ["Sweep", "from_mapping", "load_sweep"]
