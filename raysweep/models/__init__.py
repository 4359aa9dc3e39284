"""Models as functions over a stack of lanes; their layouts, initial values, width scaling, and their outputs' scale."""

from raysweep.models.architecture import ACTIVATIONS, KINDS, Architecture, image_of

__all__ = ["ACTIVATIONS", "KINDS", "Architecture", "image_of"]
