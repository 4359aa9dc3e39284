"""Classifiers as plain modules that stack: no buffers updated in place (GroupNorm, never BatchNorm)."""

from raysweep.models.mlp import MLP
from raysweep.models.stack import stacked_parameters

__all__ = ["MLP", "stacked_parameters"]
