"""Worlds whose posterior p(y|x) is known exactly: trained class-conditional flows, and analytic ones."""

from raysweep.oracle import (  # noqa: F401  (each registers its kind of recipe)
    gaussian,
    glow_world,
    shared_flow,
    transformer_world,
)
