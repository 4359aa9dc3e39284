"""Neighbouring settings."""

from __future__ import annotations

from raysweep.grid.axes import Axis
from raysweep.grid.neighbours import neighbours

AXES = {name: Axis(name, type_, "lane") for name, type_ in {"n": int, "width": int, "steps": int, "model": str}.items()}


def test_a_step_is_one_along_an_axis_of_numbers_and_never_to_another_word() -> None:
    rows = [{"n": n, "model": model} for model in ("mlp", "vit") for n in (100, 10, 1000)]
    assert neighbours(rows, AXES) == [[1, 2], [0], [0], [4, 5], [3], [3]]


def test_the_nearest_come_first_and_axes_that_move_together_are_one_step() -> None:
    square = [{"n": n, "width": w} for n in (1, 2, 3) for w in (1, 2, 3)]
    near = neighbours(square, AXES)
    assert sorted(near[4]) == [1, 3, 5, 7]  # of the middle: along the axes before across corners
    assert sorted(near[0]) == [1, 3, 4]
    zipped = [{"n": n, "steps": 10 * n} for n in (1, 2, 3)]
    assert neighbours(zipped, AXES) == [[1], [0, 2], [1]]
    assert neighbours(zipped[:1], AXES) == [[]]
