"""Drawings: the figures of a report as they are written, each with its caption."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyarrow as pa
from matplotlib.figure import Figure

from raysweep.display import Display, file_name
from raysweep.display import Figure as Shown
from raysweep.errors import FitError
from raysweep.laws import Fit
from raysweep.laws.column import Column
from raysweep.laws.points import Points, points
from raysweep.reports.diagnostics import diagnostics_figure
from raysweep.reports.figures import MOST, law_figure, law_panels, metric_figure, theory_figure
from raysweep.reports.learning import learning_curves, learning_figure
from raysweep.reports.style import tame
from raysweep.reports.tables import formula
from raysweep.reports.theory import theory_name
from raysweep.sweep.schema import FitSpec

__all__ = ["Drawing", "extra_drawings", "law_drawings", "means", "theory_drawing", "undrawn"]

_DPI = 130
_DIAGNOSTICS = (
    "Left: the law through its data, with the band of the mean law and the wider one of a new run. Right: how far "
    "measurements lie from it. Hollow: the largest scales, which the dashed law was fitted without."
)


@dataclass(frozen=True)
class Drawing:
    """A figure as it is written: its file's name, caption and PNG."""

    name: str
    caption: str
    png: bytes


def law_drawings(name: str, law: Fit, rows: Points, display: Display) -> list[Drawing]:
    """The figure of a law of one scale, and the diagnostics of any."""
    diagnostics = _draw(f"{name}-diagnostics", _DIAGNOSTICS, diagnostics_figure(law, rows, display.labels))
    return [_law(name, law, rows, display), diagnostics] if len(law.x) == 1 else [diagnostics]


def _law(name: str, law: Fit, rows: Points, display: Display) -> Drawing:
    """The figure of a law of one scale, with those of its companions that were measured and can be seen."""
    companions = [
        c
        for c in display.companions
        if c.of == law.y and c.column in rows.frame.columns and (rows.frame[c.column] > 0).any()  # else none is seen
    ]
    expected = theory_name(law.y) if theory_name(law.y) in rows.frame.columns else None
    caption = [
        f"{'; '.join({formula(group): None for group in law})} fitted to every run (small markers); the shade is the "
        f"{law.groups[0].level:.0%} band of the mean law.",
        *(companion.caption for companion in companions),
        *(["Dashed: the theory."] if expected else []),
    ]
    return _draw(name, " ".join(filter(None, caption)), law_figure(law, rows, companions, expected, display.labels))


def undrawn(name: str, law: Fit, rows: Points) -> list[str]:
    """How many groups are missing from the figure of a law, and where they are."""
    drawn = sum(len(groups) for _, groups in law_panels(law, rows.by))
    if drawn == len(law) or len(law.x) > 1:
        return []
    return [
        f"figures/{name}.png shows {drawn:,} of {len(law):,} groups; cells.parquet has the rows of the others, and "
        "`raysweep fit STORE --json` has their laws"
    ]


def theory_drawing(rows: Points, display: Display) -> Drawing:
    """The theory of y over its measurements."""
    caption = f"Markers: the median of {rows.y}, shades: quartiles of replicates. Lines: the theory."
    figure = theory_figure(rows, theory_name(rows.y), display.labels)
    return _draw(file_name(f"theory-{rows.y}-{rows.x[0]}"), caption + _panels(figure), figure)


def means(
    table: pa.Table,
    columns: dict[str, Column],
    specs: Sequence[FitSpec],
    display: Display,
    sentences: list[str],
    drawings: list[Drawing],
) -> list[tuple[FitSpec, Points]]:
    """Draw the means of y over x where no law is fitted, unless the theory is drawn over them; return the points."""
    for spec in specs:
        try:
            found = points(table, spec.request, [n for n in display.beside(spec.y) if n in columns])
        except FitError as error:
            sentences.append(f"{spec.y} against {spec.scales[0]}: not drawn: {error}")
            continue
        name = file_name(f"theory-{spec.y}-{spec.scales[0]}")
        if name not in {drawing.name for drawing in drawings}:
            shown = Shown(f"0-means-{spec.y}", spec.y, "", f"{spec.y}: lines: means, shades: ranges over replicates.")
            scale = "log" if (found.frame[spec.y] > 0).all() else "linear"
            drawings.append(_metric(found, shown, spec.scales[0], display, yscale=scale))
        return [(spec, found)]
    return []


def _metric(
    rows: Points,
    shown: Shown,
    x: str,
    display: Display,
    audits: Sequence[dict[str, Any]] = (),
    yscale: str = "linear",
) -> Drawing:
    """The figure of a metric, whose caption says how many groups it leaves out."""
    count = len(rows.parts)
    caption = shown.caption if count <= MOST else f"{shown.caption} {MOST} of {count:,} groups; see cells.parquet."
    figure = metric_figure(rows.frame, shown, x, rows.by, audits, display.labels)
    figure.axes[-1].set_yscale(yscale)
    return _draw(shown.file, caption, figure)


def extra_drawings(
    table: pa.Table,
    columns: dict[str, Column],
    drawn: Sequence[tuple[FitSpec, Points]],
    display: Display,
    audits: Sequence[dict[str, Any]],
) -> list[Drawing]:
    """Learning curves where time varies, and the experiment's own figures of what was measured."""
    if not drawn:
        return []
    spec, rows = drawn[0]
    curves = learning_curves(table, columns, spec.request)
    found = []
    if curves is not None:
        figure = learning_figure(curves, display.labels)
        found.append(_draw("learning-curves", curves.caption + _panels(figure), figure))
    for shown in display.figures:
        if shown.y in rows.frame.columns and rows.frame[shown.y].dtype.is_numeric():
            found.append(_metric(rows, shown, spec.scales[0], display, audits))
    return found


def _panels(figure: Figure) -> str:
    """How many panels a figure leaves out, and where their rows are."""
    count = figure.get_suptitle()
    return f" {count} are drawn; cells.parquet has the rows of the others." if count else ""


def _draw(name: str, caption: str, figure: Figure) -> Drawing:
    data = io.BytesIO()
    tame(figure).savefig(data, format="png", dpi=_DPI)
    plt.close(figure)
    return Drawing(name, caption, data.getvalue())
