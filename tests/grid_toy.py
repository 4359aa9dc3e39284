"""Seven axes of every kind, and the runs and cells of a grid over them."""

from raysweep.grid.axes import Axis, KindBy, index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand

AXES = index_axes(
    [
        Axis("data_seed", int, "lane", follows="seed", role="seed"),  # declared before what it follows
        Axis("seed", int, "lane", 0, role="seed"),
        Axis("width", int, "shape", 64),
        Axis("schedule", str, "shape", "constant", choices=("constant", "cosine", "wsd")),
        Axis("lr", float, "lane", 0.1),
        Axis("steps", int, KindBy("schedule", {"cosine": "lane"}, "observed"), 100, role="time"),
        Axis("k", int, "observed", 1),
    ]
)
IDENTITY = "experiment=toy\nversion=1\nworld="


def runs_of(grid, axes=AXES, identity=IDENTITY):
    return enumerate_runs(expand(grid, axes), axes, identity)


def cells_of(runs):
    """Cell key -> every axis of the cell, one by one."""
    found = {}
    for i in range(len(runs)):
        observed = runs.observed[int(runs.observed_code[i])]
        for suffix, values in observed.cells.items():
            key = runs.key(i) + suffix
            assert key not in found
            found[key] = {**runs.row(i), **dict(zip(observed.names, values, strict=True))}
    return found


def rows(runs):
    return [runs.row(i) for i in range(len(runs))]
