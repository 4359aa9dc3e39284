"""Ticks of logarithmic axes are few and readable, and settings that were each measured once have no learning curves."""

from __future__ import annotations

import pyarrow as pa
import pytest
from matplotlib import pyplot as plt

from raysweep.laws.column import Column
from raysweep.laws.request import FitRequest
from raysweep.reports.learning import learning_curves
from raysweep.reports.style import tame


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (2.0, 50.0, ["2", "5", "10", "20", "50"]),
        (300.0, 500.0, ["300", "350", "400", "450", "500"]),
        (12.0, 900.0, ["20", "50", "100", "200", "500"]),  # one power of ten alone would be the only label
        (1.0, 1e6, None),  # powers of ten as they are
    ],
)
def test_a_logarithmic_axis_has_few_plain_labels(low: float, high: float, labels: list[str] | None) -> None:
    figure, axis = plt.subplots()
    axis.plot([low, high], [1.0, 2.0])
    axis.set(xscale="log", xlim=(low, high))
    tame(figure)
    figure.canvas.draw()
    major = [tick.get_text() for tick in axis.get_xticklabels() if low <= tick.get_position()[0] <= high]
    minor = [tick.get_text() for tick in axis.get_xticklabels(minor=True)]
    plt.close(figure)
    assert not any(minor)
    if labels is None:
        assert all("10^" in text for text in major)
    else:
        assert major == labels


@pytest.mark.parametrize(("steps", "drawn"), [([100, 300], False), ([[50, 100], [150, 300]], True)])
def test_times_that_differ_between_settings_alone_are_no_curve(steps: list[object], drawn: bool) -> None:
    rows = [
        {"task": task, "width": width, "steps": t, "seed": seed, "loss": 1.0 / width}
        for task, times in zip("ab", steps, strict=True)
        for t in (times if isinstance(times, list) else [times])
        for width in (2, 4, 8)
        for seed in (0, 1)
    ]
    roles = {"task": "", "width": "", "steps": "time", "seed": "seed"}
    columns = {name: Column(role="axis", kind="lane", axis_role=role) for name, role in roles.items()}
    columns["loss"] = Column(role="metric")
    found = learning_curves(pa.Table.from_pylist(rows), columns, FitRequest(("width",), "loss", by=("task",)))
    assert (found is not None) == drawn
