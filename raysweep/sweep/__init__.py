"""A sweep: its file, what it resolves to, what a store remembers of it, and its rows as they are now."""

from raysweep.sweep.resolve import Sweep, from_mapping, load_sweep

__all__ = ["Sweep", "from_mapping", "load_sweep"]
