from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP

from raysweep.display import Companion, Figure
from raysweep.errors import LedgerError
from raysweep.executors import make_executor
from raysweep.laws import fit
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.source import scan
from raysweep.laws.table import fit_points
from raysweep.progress import Progress
from raysweep.reports import make_report
from raysweep.reports.diagnostics import diagnostics_figure
from raysweep.reports.figures import law_figure, metric_figure, theory_figure
from raysweep.reports.learning import learning_curves, learning_figure
from raysweep.reports.style import tame
from raysweep.reports.tables import findings, paragraphs
from raysweep.run import open_store, run
from raysweep.store import Store
from raysweep.sweep import Sweep

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure stays open after its test."""
    yield
    plt.close("all")


def power_table(floor: float = 0.0, noise: float = 0.02) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    n = np.repeat(np.geomspace(10, 10_000, 8), 5)
    return pl.DataFrame({"n": n, "loss": (floor + 3.0 * n**-0.7) * np.exp(rng.normal(0, noise, n.size))})


def test_findings_say_law_interval_window_runs_and_whether_there_is_a_floor() -> None:
    (plain,) = findings(fit(power_table(), "power", x="n", y="loss"))
    assert plain.startswith("power: loss = A n^-alpha, A = ")
    assert "n 10 to 10000, 40 runs, rms log residual 0.0" in plain
    assert "E = 0" not in plain
    (none,) = findings(fit(power_table(), "power+floor", x="n", y="loss"))
    assert none.endswith("E = 0 is within its interval")
    (wrong,) = findings(fit(power_table(floor=0.2), "power", x="n", y="loss"))
    # Whether the law holds is said where its exponent is.
    assert wrong.endswith("the runs' spread (lack_of_fit; also holdout_missed, floor_needed, extrapolation_untrusted)")
    (some,) = findings(fit(power_table(floor=0.2), "power+floor", x="n", y="loss"))
    assert some.endswith("its interval excludes E = 0")


def test_a_law_with_too_many_parameters_for_its_points_is_said_to_be_so() -> None:
    n = np.geomspace(10, 1000, 5)
    (lines,) = paragraphs(fit(pl.DataFrame({"n": n, "loss": 3 * n**-0.5}), x="n", y="loss", bootstrap=0))
    (line,) = [line for line in lines if "compared with other laws" in line]
    assert "power+floor no AICc (too few points)" in line
    assert "inf" not in line


def test_law_figure_draws_points_line_and_band_on_log_axes() -> None:
    frame = power_table()
    figure = law_figure(fit(frame, "power", x="n", y="loss"), points(frame, FitRequest(("n",), "loss")))
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    measured, line = axis.get_lines()
    assert sorted(measured.get_ydata()) == sorted(frame["loss"])
    slope = np.polyfit(np.log(line.get_xdata()), np.log(line.get_ydata()), 1)[0]
    assert slope == pytest.approx(-fit(frame, "power", x="n", y="loss").params["alpha"])
    assert len(axis.collections) == 1  # the band


def test_diagnostics_show_the_law_its_residuals_and_what_was_held_out() -> None:
    frame = pl.concat([power_table().with_columns(arm=pl.lit(arm)) for arm in "ab"])
    asked = FitRequest(("n",), "loss", by=("arm",), options=Options(draws=50))
    found = points(frame, asked)
    figure = diagnostics_figure(fit_points(found, asked), found)
    assert [axis.get_title() for axis in figure.axes] == ["power (arm=a)", "", "power (arm=b)", ""]
    left, right = figure.axes[:2]
    seen, held, law, second, cut = left.get_lines()
    assert (len(seen.get_xdata()), len(held.get_xdata())) == (25, 15)
    assert cut.get_xdata()[0] == pytest.approx(max(seen.get_xdata()))
    assert min(held.get_xdata()) > 2 * max(seen.get_xdata())
    assert law.get_linestyle() == "-"
    assert second.get_linestyle() == "--"
    assert len(left.collections) == 2  # the bands of the mean law and of a new run
    assert right.get_yscale() == "linear"
    assert max(abs(y) for line in right.get_lines() for y in line.get_ydata()) < 10  # per cent


def test_diagnostics_of_a_joint_law_are_curves_at_levels_of_the_other_scale() -> None:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 6)))
    asked = FitRequest(("n", "d"), "loss", "chinchilla", options=Options(draws=0))
    found = points(pl.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 * n**-0.34 + 410 * d**-0.28}), asked)
    figure = diagnostics_figure(fit_points(found, asked), found)
    left, _, bar = figure.axes
    assert left.get_xlabel() == "d"  # it has more values
    assert bar.get_title(loc="left") == "n"
    solid = [line for line in left.get_lines() if line.get_linestyle() == "-"]
    assert len(solid) == 4
    curve = solid[0]
    inside = np.interp(np.log(d[n == n.min()]), np.log(curve.get_xdata()), curve.get_ydata())
    assert inside == pytest.approx(found.frame["loss"].to_numpy()[n == n.min()], rel=1e-3)


def test_only_the_first_groups_are_drawn() -> None:
    frame = pl.concat([power_table().with_columns(arm=pl.lit(arm)) for arm in range(40)])
    asked = FitRequest(("n",), "loss", by=("arm",), options=Options(draws=0))
    found = points(frame, asked)
    law = fit_points(found, asked)
    assert len(diagnostics_figure(law, found).axes) == 12
    figure = law_figure(law, found)
    assert len(figure.axes[0].get_legend().get_texts()) == 28
    assert figure.get_suptitle() == "28 of 40 groups"


def test_each_panel_draws_its_groups_in_looks_of_their_own() -> None:
    arms = [(arm, kind) for arm in range(18) for kind in (9.0, 10.0)]
    frame = pl.concat([power_table().with_columns(arm=pl.lit(arm), kind=pl.lit(kind)) for arm, kind in arms])
    asked = FitRequest(("n",), "loss", by=("arm", "kind"), options=Options(draws=0))
    found = points(frame, asked)
    figure = law_figure(fit_points(found, asked), found)
    assert [axis.get_title() for axis in figure.axes] == ["kind = 9.0", "kind = 10.0"]  # by size, not by letters
    assert figure.get_suptitle() == ""
    for axis in figure.axes:
        drawn = {(line.get_color(), line.get_marker()) for line in axis.get_lines()}
        assert len(drawn) == 18
        handles = axis.get_legend().get_lines()
        assert {(handle.get_color(), handle.get_marker()) for handle in handles} == drawn


def test_a_floor_of_0_and_a_group_without_a_fit() -> None:
    frame = pl.concat([power_table().with_columns(arm=pl.lit(0)), power_table()[:5].with_columns(arm=pl.lit(1))])
    asked = FitRequest(("n",), "loss", by=("arm",), options=Options(draws=0))
    found = points(frame.with_columns(floor=pl.lit(0.0)), asked, keep=["floor"])
    figure = law_figure(fit_points(found, asked), found, [Companion("loss", "floor", "floor")])
    first, second = (text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert first.startswith("arm = 0: alpha = ")
    assert second == "arm = 1: not fitted"


def test_a_parameter_is_told_from_a_column_of_its_name() -> None:
    frame = power_table().with_columns(alpha=pl.lit(1.5))
    law = fit(frame, "power", x="n", y="loss", by="alpha", bootstrap=50)
    (sentence,) = findings(law)
    assert sentence.startswith("power (alpha=1.5): loss = A n^-alpha_fit, A = ")
    assert ", alpha_fit = 0.7" in sentence
    (lines,) = paragraphs(law)
    assert any(line.strip().startswith("alpha_fit = 0.7") for line in lines)
    asked = FitRequest(("n",), "loss", by=("alpha",))
    (label,) = law_figure(law, points(frame, asked)).axes[0].get_legend().get_texts()
    assert label.get_text().startswith("alpha = 1.5: alpha_fit = 0.7")
    scale = frame.rename({"alpha": "width", "n": "alpha"})
    assert "loss = A alpha^-alpha_fit" in findings(fit(scale, "power", x="alpha", y="loss", bootstrap=0))[0]


def test_titles_of_panels_name_what_differs_and_are_broken_into_lines_that_fit() -> None:
    names = [f"a column with a long name {i}" for i in range(3)]
    arms = list(itertools.product(("a value", "another"), repeat=3))
    rows = [{**dict(zip(names, arm, strict=True)), "same": 0.0, "n": n, "loss": 1 / n} for arm in arms for n in (1, 9)]
    found = points(pl.DataFrame(rows), FitRequest(("n",), "loss", by=(*names, "same", "kind")[:4]))
    figure = tame(theory_figure(replace(found, frame=found.frame.with_columns(e=pl.col("loss"))), "e"))
    figure.canvas.draw()
    for axis in figure.axes:
        assert "same" not in axis.get_title()
        assert axis.title.get_window_extent().width < axis.get_window_extent().width * 1.1
        assert axis.get_title().count("\n") == 1


def two_times(first: int = 0) -> pa.Table:
    """Runs of several rounds of several steps, in two arms; a loss that names its row, but for the seed."""
    axes = {"n": (1, 2), "arm": ("a", "b"), "round": (first, first + 1), "step": (5, 20), "seed": (0, 1)}
    rows = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for row in rows:
        row["loss"] = (
            row["n"] + 10.0 * row["step"] + 1000 * row["round"] + 0.1 * row["seed"] + 0.5 * (row["arm"] == "b")
        )
    time = {"kind": "observed", "axis_role": "time"}
    said = {"round": time, "step": time, "seed": {"kind": "lane", "axis_role": "seed"}, "loss": {"role": "metric"}}
    table = pa.Table.from_pylist(rows)
    meta = {name: {"role": "axis", "kind": "lane", **said.get(name, {})} for name in table.column_names}
    return table.cast(pa.schema([f.with_metadata(meta[f.name]) for f in table.schema]))


def test_learning_curves_average_over_nothing_but_replicates() -> None:
    table = two_times()
    curves = learning_curves(table, scan(table)[1], FitRequest(("n",), "loss"))
    assert curves is not None
    assert (curves.time, curves.apart) == ("step", ("arm", "round"))  # the time within a round
    assert "loss against step, one panel for each arm and round;" in curves.caption
    figure = learning_figure(curves)
    assert [a.get_title() for a in figure.axes] == [f"arm = {a}, round = {r}" for a in "ab" for r in (0, 1)]
    last = figure.axes[-1].get_lines()
    assert [list(line.get_xdata()) for line in last] == [[5, 20]] * 2
    assert [list(line.get_ydata()) for line in last] == [[1051.55, 1201.55], [1052.55, 1202.55]]
    assert learning_curves(table, scan(table)[1], FitRequest(("step",), "loss", by=("round",))) is None


@pytest.mark.parametrize(("first", "scale"), [(0, "linear"), (1, "log")])
def test_learning_curves_of_what_a_fit_takes_begin_at_round_0(first: int, scale: str) -> None:
    table = two_times(first)
    curves = learning_curves(table, scan(table)[1], FitRequest(("n",), "loss", where="step = 5 AND arm = 'a'"))
    assert curves is not None
    assert (curves.time, curves.apart) == ("round", ())
    (axis,) = learning_figure(curves).axes
    assert (axis.get_xscale(), axis.get_yscale()) == (scale, "log")
    assert [list(line.get_xdata()) for line in axis.get_lines()] == [[first, first + 1]] * 2


@pytest.mark.parametrize("arm", ["arm", None])
def test_an_experiment_s_own_figure_shows_its_metric_and_the_audits_reliability(arm: str | None) -> None:
    rows = pl.DataFrame({"n": [1, 2], "arm": ["a", "a"], "off": [0.2, 0.1]})
    audit = {"at": {"temperature": 2.0}, "reliability": [[0.1, 0.12, 50], [0.9, 0.88, 40]]}
    shown = Figure("calibration", "off", reliability=True)
    by = [arm] if arm else []
    left, right = metric_figure(rows, shown, "n", by, [audit], {"off": "calibration error"}).axes
    assert left.get_legend().get_texts()[0].get_text() == "temperature 2"
    assert right.get_lines()[0].get_ydata().tolist() == [0.2, 0.1]
    assert (right.get_xlabel(), right.get_ylabel()) == ("n", "calibration error")
    assert len(metric_figure(rows, replace(shown, reliability=False), "n", by).axes) == 1


def test_a_wide_legend_names_what_differs_and_leaves_the_plot_its_width() -> None:
    columns = {"optimiser": "stochastic gradient descent", "activation": "a long name", "schedule": "cosine"}
    arms = [
        {**columns, "momentum": m, "penalty": p} for m in (0.0, 0.875) for p in ("a decay of weights", "none at all")
    ]
    frame = pl.concat([power_table().with_columns(**{k: pl.lit(v) for k, v in arm.items()}) for arm in arms])
    asked = FitRequest(("n",), "loss", by=(*columns, "penalty", "momentum"), options=Options(draws=50))
    found = points(frame, asked)
    figure = law_figure(fit_points(found, asked), found)  # warns, which is an error here, where axes collapse
    figure.canvas.draw()
    for axis in figure.axes:
        assert axis.get_window_extent().width > 200
        words = [text.get_text() for text in axis.get_legend().get_texts()]
        assert all(word.startswith("penalty = ") and "optimiser" not in word for word in words)
        assert len(words) == 2


def test_companions_of_a_law_are_drawn_beside_it_under_their_labels() -> None:
    frame = power_table().with_columns(floor=pl.lit(0.5), whole=pl.col("loss") + 0.5)
    companions = [Companion("loss", "floor", "floor"), Companion("loss", "whole", "means")]
    asked = FitRequest(("n",), "loss", options=Options(draws=50))
    found = points(frame, asked, keep=["floor", "whole"])
    labels = {"loss": "error", "whole": "total", "floor": "least"}
    figure = law_figure(fit_points(found, asked), found, companions, None, labels)
    (axis,) = figure.axes
    _, hollow, law, floor = axis.get_lines()
    assert hollow.get_ydata() == pytest.approx(frame.group_by("n").agg(pl.col("whole").mean()).sort("n")["whole"])
    assert set(floor.get_ydata()) == {0.5}
    assert floor.get_label() == "least"
    assert law.get_label().startswith("power: alpha")
    assert axis.get_ylabel() == "error  (hollow: total)"


@pytest.mark.parametrize("base", [FUNCTION_SWEEP, CLASSIFIER_SWEEP])
def test_a_report_is_written_anywhere(
    base: dict[str, object], memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    run(make_sweep(base), memory_store, make_executor("inline"))
    made = make_report(memory_store)
    page = memory_store.read("report.html").decode()
    assert made.page == f"{memory_store.uri}/report.html"
    for sentence in made.findings:
        assert sentence.split(":")[0] in page
    assert page.count("<img") == len(memory_store.list("figures"))


def test_a_store_without_fits_shows_what_its_experiment_says_or_what_to_do(
    memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    run(make_sweep(CLASSIFIER_SWEEP, fit=[]), memory_store, make_executor("inline"))
    (first, *_) = make_report(memory_store).findings
    assert first.startswith(
        "No law was fitted: the sweep names no fit. Add `fit: [{law: power, x: n_train, y: epistemic}]`"
    )
    drawn = [Path(name).stem for name, _ in memory_store.list("figures")]
    assert "0-means-epistemic" in drawn
    assert "learning-curves" in drawn
    other = Store(f"{memory_store.uri}-function")
    run(make_sweep(FUNCTION_SWEEP, fit=[]), other, make_executor("inline"))
    assert "its experiment names no columns to draw" in make_report(other).findings[0]


def test_notes_stand_at_the_groups_they_hold_for(memory_store: Store, make_sweep: Callable[..., Sweep]) -> None:
    arms = [
        {"arm": "a", "size": [10, 100, 1000], "seed": {"range": 3}, "epoch": [1]},
        {"arm": "b", "size": [10, 11, 12], "seed": {"range": 2}, "epoch": [1]},
        {"arm": "c", "size": [10, 100, 1000], "seed": {"range": 2}, "epoch": [1]},
    ]
    spec = {"law": "power", "x": "size", "y": "loss", "by": ["arm"]}
    sweep = make_sweep({**FUNCTION_SWEEP, "grid": {}}, {"concat": arms}, fit=[spec])
    run(sweep, memory_store, make_executor("inline"))
    made = make_report(memory_store)
    page = memory_store.read("report.html").decode()
    assert "<code>no_holdout</code> Too few" in page  # all groups
    assert "<code>few_seeds</code> arm=b; arm=c: 2 values of seed" in page
    assert "<code>narrow_window</code> arm=b: size spans a factor of 1.2 only" in page
    first, second, third = made.findings
    assert second.endswith("; scales span less than a factor of 2 (narrow_window)")
    assert "narrow_window" not in first + third


def test_an_empty_ledger_has_no_report(memory_store: Store, make_sweep: Callable[..., Sweep]) -> None:
    import sys

    open_store(memory_store, make_sweep(FUNCTION_SWEEP), Progress(lambda: sys.stderr))
    with pytest.raises(LedgerError, match="must hold finished cells, but its ledger is empty"):
        make_report(memory_store)
