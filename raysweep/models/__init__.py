"""Classifiers as functions over a stack of lanes; their layouts, initial values and width scaling."""

from raysweep.models.architecture import ACTIVATIONS, KINDS, Architecture, image_of

__all__ = ["ACTIVATIONS", "KINDS", "Architecture", "image_of"]
