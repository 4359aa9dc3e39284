from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from raysweep.errors import FitError
from raysweep.executors import make_executor
from raysweep.experiment import Context, Cost, Metric, TheoryExperiment, WorldShape
from raysweep.experiments.lid import EXPERIMENT as LID
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest
from raysweep.ledger.log import Ledger
from raysweep.ledger.rows import row_schema
from raysweep.reports import make_report
from raysweep.reports.figures import theory_figure
from raysweep.reports.theory import REASON, agreements, sentences, with_theory
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping

matplotlib.use("Agg")
LOSS = FitRequest(("n",), "loss")
KEPT = ["loss_theory", REASON]


@dataclass(frozen=True)
class Halves:
    """loss = 1 / n at width 1; nobody knows at width 2."""

    name: str = "halves"
    version: int = 1
    axes: Sequence[Axis] = (
        Axis("n", int, "lane", 1, low=1, high=10**6),
        Axis("width", int, "shape", 1, low=1, high=2),
        Axis("seed", int, "lane", 0, low=0, high=100, role="seed"),
    )
    metrics: Sequence[Metric] = (Metric("loss"), Metric("other"))
    needs_world: bool = False

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        return Cost()

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None: ...

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        yield from ()

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        assert set(cells.column_names) == {"n", "width"}  # no seed, nothing measured
        n, known = cells["n"].to_numpy(), cells["width"].to_numpy() == 1
        return pa.table(
            {"loss": pa.array(1 / n, mask=~known), "reason": [None if one else "too wide" for one in known.tolist()]}
        )


def ledger(seeds: int = 8, off: float = 1.2) -> pa.Table:
    """Rows `off` times the theory, times noise of a tenth."""
    rng = np.random.default_rng(2)
    rows = [
        {"cell": f"{n}-{w}-{s}", "run": f"{n}-{w}-{s}", "status": "ok", "n": n, "width": w, "seed": s}
        for n in (10, 100, 1000)
        for w in (1, 2)
        for s in range(seeds)
    ]
    for row in rows:
        row["loss"] = off / row["n"] * float(np.exp(rng.normal(0, 0.1)))
    schema = row_schema(Halves())
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def told(cells: pa.Table, **columns: Any) -> pa.Table:
    """What a theory returns: these columns, and no reason unless one is given."""
    return pa.table({"reason": pa.nulls(len(cells), pa.string()), **columns})


def test_every_row_gets_the_theory_of_its_axes_or_the_reason_why_not() -> None:
    table = ledger()
    told = with_theory(table, Halves(), ["loss"])
    assert told.select(table.column_names).equals(table)  # nothing is moved
    for row in told.to_pylist():
        assert row["loss_theory"] == (1 / row["n"] if row["width"] == 1 else None)
        assert row[REASON] == (None if row["width"] == 1 else "too wide")
    assert "other_theory" not in told.column_names


def test_values_that_an_axis_cannot_have_never_reach_a_theory() -> None:
    rows = ledger().to_pylist()
    for row in rows[:3]:
        row["n"] = 10**12  # as a size, a terabyte
    table = with_theory(pa.Table.from_pylist(rows, schema=ledger().schema), Halves(), ["loss"])
    assert table[REASON].to_pylist()[:3] == ["an axis has a value that it cannot have"] * 3
    assert table["loss_theory"].to_pylist()[:3] == [None] * 3
    assert (
        table["loss_theory"].to_pylist()[3:] == with_theory(ledger(), Halves(), ["loss"])["loss_theory"].to_pylist()[3:]
    )


def test_what_nobody_looks_at_is_not_worked_out() -> None:
    class Watched(Halves):
        def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
            raise AssertionError

    table = ledger()
    assert with_theory(table, Watched(), ["unknown"]) is table


def test_settings_that_no_fit_reads_are_not_worked_out() -> None:
    seen = []

    class Watched(Halves):
        def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
            seen.append({tuple(row.values()) for row in cells.select(["n", "width"]).to_pylist()})
            return super().theory(cells, metrics)

    table = ledger()
    found = with_theory(table, Watched(), ["loss"], {("width = 1 AND n > 10", None), ("n = 10 AND loss > 1e9", "n")})
    assert seen == [{(100, 1), (1000, 1)}]
    for row in found.to_pylist():
        assert row["loss_theory"] == (1 / row["n"] if (row["n"], row["width"]) in seen[0] else None)
    every = points(pl.DataFrame(pl.from_arrow(found)), FitRequest(("n",), "loss"), keep=["loss_theory", REASON])
    assert sum(one.without for one in agreements(every)) == 0  # rows that nobody asked about lack nothing
    assert with_theory(table, Watched(), ["loss"], {("width = 3", "n")}) is table
    for other in (("no condition", "n"), (None, "n")):
        every_row = with_theory(table, Halves(), ["loss"], {other, ("width = 1", None)})
        assert len(every_row["loss_theory"].drop_null()) == 24


def test_a_theory_is_drawn_over_all_data_of_the_groups_that_a_fit_reads() -> None:
    found = with_theory(ledger(), Halves(), ["loss"], {("width = 1 AND n > 10", "n")})
    assert {row["n"] for row in found.to_pylist() if row["loss_theory"]} == {10, 100, 1000}
    assert {row["width"] for row in found.to_pylist() if row["loss_theory"]} == {1}


def test_experiments_without_a_theory_leave_the_table_alone() -> None:
    table = ledger()
    assert with_theory(table, None, ["loss"]) is table
    assert isinstance(LID, TheoryExperiment)
    assert not isinstance(Halves.__base__, TheoryExperiment)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda cells: 1 / 0, "theory of halves: ZeroDivisionError: division by zero"),
        (lambda cells: pa.table({"reason": pa.nulls(1, pa.string())}), "as many rows with a column `reason`"),
        (lambda cells: cells, "as many rows with a column `reason`"),
        (lambda cells: sys.exit(3), "theory of halves: SystemExit: 3"),
        (lambda cells: told(cells, loss=["a"] * len(cells)), "its column loss must hold numbers, but holds string"),
        (lambda cells: told(cells, reason=[1] * len(cells)), "its column `reason` must hold text, but holds int64"),
        (
            lambda cells: pa.Table.from_arrays(
                [cells["n"], cells["n"], told(cells)["reason"]], ["loss", "loss", "reason"]
            ),
            "its columns must have distinct names, but are ",
        ),
    ],
)
def test_a_theory_that_fails_says_whose_it_is(returned: Callable[[pa.Table], Any], said: str) -> None:
    class Broken(Halves):
        def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
            return returned(cells)

    with pytest.raises(FitError, match=said):
        with_theory(ledger(), Broken(), ["loss"])


def test_a_ledger_may_have_a_column_of_that_name() -> None:
    table = ledger().append_column("loss_theory", pa.nulls(48, pa.float64()))
    with pytest.raises(FitError, match="theory of halves: ValueError: the ledger has columns loss_theory of its own"):
        with_theory(table, Halves(), ["loss"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_what_is_no_number_above_0_has_no_ratio(value: float) -> None:
    class Odd(Halves):
        def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
            n = cells["n"].to_numpy()
            return told(cells, loss=np.where(n == 10, value, 1 / n))

    found = points(with_theory(ledger(), Odd(), ["loss"]), FitRequest(("n",), "loss", by=("width",)), KEPT)
    one, _ = agreements(found)
    assert (one.window, one.rows, one.without) == ((100.0, 1000.0), 16, 8)
    assert one.ratio == pytest.approx(1.2, rel=0.1)
    assert one.reasons == (("a ratio takes numbers above 0",) if np.isfinite(value) else ())


def test_an_axis_that_only_the_theory_depends_on_is_not_averaged_over() -> None:
    class Wider(Halves):
        def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
            return told(cells, loss=10.0 ** cells["width"].to_numpy() / cells["n"].to_numpy())

    table = ledger()
    rows = table.to_pylist()
    for row in rows:  # observed, and of no matter to the loss
        row["loss"], row["run"] = 1.2 / row["n"] * (1 + 0.01 * row["seed"]), f"{row['n']}-{row['seed']}"
    table = pa.Table.from_pylist(rows, schema=table.schema)
    plain = points(table, LOSS)
    assert plain.by == ()
    assert "collapsed_width" in plain.parts[0].details
    narrow, wide = agreements(points(with_theory(table, Wider(), ["loss"]), LOSS, KEPT))
    assert narrow.ratio == pytest.approx(0.12, rel=0.1)
    assert wide.ratio == pytest.approx(0.012, rel=0.1)


def test_agreement_is_the_ratio_with_an_interval_over_seeds() -> None:
    found = points(with_theory(ledger(), Halves(), ["loss"]), LOSS, KEPT)
    one, wide = agreements(found)
    assert one.group == {"width": 1}
    assert (one.window, one.rows, one.clusters, one.without) == ((10.0, 1000.0), 24, 8, 0)
    assert one.interval is not None
    assert one.interval[0] < one.ratio < one.interval[1]
    assert one.interval[0] < 1.2 < one.interval[1]
    assert one.interval[1] - one.interval[0] < 0.2
    assert one.mean == pytest.approx(1.2, rel=0.1)
    assert wide.window is None
    assert (wide.without, wide.reasons) == (24, ("too wide",))
    said = sentences(found, [one, wide])
    assert said[0].startswith("theory of loss (width=1): measured / expected 1.")
    assert said[1] == "theory of loss in n: none for 24 rows: too wide"


def test_few_seeds_have_no_interval_and_many_groups_are_summed_up() -> None:
    found = points(with_theory(ledger(seeds=4), Halves(), ["loss"]), LOSS, KEPT)
    one, _ = agreements(found)
    assert one.interval is None
    (said,) = sentences(found, [one] * 7)
    assert "lie between" in said
    assert "in 7 groups; largest deviation 1." in said


def test_intervals_cover_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        own = rng.normal(0, 0.2, 16)  # a seed's rows err together
        rows = [
            {
                "n": float(n),
                "seed": s,
                "loss": 2 / n * np.exp(own[s] + rng.normal(0, 0.1)),
                "loss_theory": 2 / n,
                REASON: None,
            }
            for n in (1, 10, 100)
            for s in range(16)
        ]
        frame = pl.DataFrame(rows, schema_overrides={REASON: pl.String})
        (one,) = agreements(points(frame, FitRequest(("n",), "loss", run="seed"), KEPT))
        assert one.interval is not None
        inside += one.interval[0] <= 1 <= one.interval[1]
    assert 0.91 <= inside / 200 <= 0.99


def test_the_figure_has_medians_quartiles_and_the_theory() -> None:
    found = points(with_theory(ledger(), Halves(), ["loss"]), LOSS, KEPT)
    (axis,) = theory_figure(found, "loss_theory").axes
    medians, line, wide, none = axis.get_lines()
    assert line.get_ydata() == pytest.approx([0.1, 0.01, 0.001])
    assert medians.get_ydata() == pytest.approx([0.12, 0.012, 0.0012], rel=0.1)
    assert len(wide.get_ydata()) == 3
    assert np.isnan(np.array(none.get_ydata(), dtype=float)).all()


def test_panels_with_a_theory_come_first_and_others_are_counted() -> None:
    class Late(Halves):
        def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
            return told(cells, loss=pa.array(1 / cells["n"].to_numpy(), mask=cells["arm"].to_numpy() < 7))

    late = Late(axes=(*Halves().axes, Axis("arm", int, "lane", 0, low=0, high=100)))
    rows = [
        {"cell": f"{n}-{arm}-{s}", "run": f"{n}-{arm}-{s}", "status": "ok", "n": n, "arm": arm, "seed": s, "width": w}
        | {"loss": (1 + 0.1 * arm + 0.01 * w + 0.001 * s) / n}
        for n in (10, 100)
        for arm in range(8)
        for w in range(1, 10)
        for s in range(2)
    ]
    schema = row_schema(late)
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    figure = theory_figure(points(with_theory(table, late, ["loss"]), LOSS, KEPT), "loss_theory")
    assert [axis.get_title() for axis in figure.axes] == [f"arm = {arm}" for arm in (7, 0, 1, 2, 3, 4)]
    assert figure.get_suptitle() == "6 of 8 panels"
    (legend,) = figure.legends  # beside the plot
    assert [text.get_text() for text in legend.get_texts()] == [*map(str, range(1, 10)), "theory"]


def test_the_theory_of_a_users_module_is_not_imported_by_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_theory.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    sweep = from_mapping(
        {
            "name": "own",
            "experiment": "own_theory:Own",
            "grid": {"n": [1, 10, 100], "seed": {"range": 2}},
            "fit": [{"law": "power", "x": "n", "y": "loss"}],
        },
        "sweep.yaml",
        [tmp_path],
    )
    store = Store(str(tmp_path / "store"))
    assert run(sweep, store, make_executor("inline")).counts.ok == 6
    (drawn,) = [one for one in make_report(store, sweep.experiment).findings if one.startswith("theory")]
    assert drawn.startswith("theory of loss: measured / expected 1 [1, 1], the median of 6 rows")
    monkeypatch.delitem(sys.modules, "own_theory")
    (said,) = [one for one in make_report(store).findings if one.startswith("theory")]
    assert said.startswith("theory: not drawn: it belongs to own_theory:Own, and reading a store imports no code.")
    assert "own_theory" not in sys.modules


OWN = """
import pyarrow as pa
from raysweep.grid.axes import Axis
from raysweep.experiment import Cost, Metric


class Own:
    name, version, needs_world = "own", 1, False
    axes = (
        Axis("n", int, "lane", 1, low=1, high=1000),
        Axis("seed", int, "lane", 0, low=0, high=9, role="seed"),
    )
    metrics = (Metric("loss"),)

    def cost(self, run, observed, world):
        return Cost()

    def check(self, runs, world, gpus):
        pass

    def run(self, pack, context):
        n = pack.column("n")
        lanes = pa.array(range(len(pack)), pa.int32())
        yield pa.RecordBatch.from_pydict({"lane": lanes, "loss": [1.0 / x for x in n]})

    def theory(self, cells, metrics):
        n = cells["n"].to_pylist()
        return pa.table({"loss": [1.0 / x for x in n], "reason": pa.nulls(len(n), pa.string())})
"""


def test_a_report_draws_the_theory_and_says_where_there_is_none(
    memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    sweep = make_sweep(
        {
            "name": "tails",
            "experiment": "lid",
            "grid": {"dim": 10, "n_train": [5, 40, 160], "beta": [1.5, 4.5], "seed": {"range": 6}},
            "fit": [{"law": "power", "x": "n_train", "y": "l_gen", "by": ["beta"]}],
        }
    )
    assert run(sweep, memory_store, make_executor("inline")).counts.ok == 36
    table = Ledger(memory_store).scan().table
    assert not [name for name in table.column_names if "theory" in name]  # never stored
    made = make_report(memory_store)
    page = memory_store.read("report.html").decode()
    assert "Theory of l_gen in n_train" in page
    reason = "none for 18 rows: beta must be above 2 for targets to have a variance, but is 1.5"
    assert f"theory of l_gen in n_train: {reason}" in made.findings
    assert any(one.startswith("theory of l_gen (beta=4.5): measured / expected ") for one in made.findings)
    assert "figures/theory-l_gen-n_train.png" in [f"figures/{name}" for name, _ in memory_store.list("figures")]
