"""What an experiment is shown by is its own to say: a store keeps it, and no room that shows it knows its names."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP
from typer.testing import CliRunner

from raysweep.cli import app
from raysweep.display import Bound, Companion, Display, Figure
from raysweep.errors import LedgerError, SweepError
from raysweep.executors import make_executor
from raysweep.experiment import Context, Cost, Metric, WorldShape, display_of
from raysweep.experiments import BUILT_IN, built_in
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.values import Value
from raysweep.reports import make_report
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.stored import stored_display

PACKAGE = Path(__file__).parents[1] / "raysweep"
ROOMS = ("reports", "laws", "cli", "sweep", "executors", "export", "imports")
FILES = ("run.py", "status.py", "plan.py", "pack.py")
# Names of columns that are also words of the rooms' own: letters of laws, the role of an axis, a count of cells, a
# condition on rows, what the command `passk` says of a table of attempts, the points of a fit, and the prior of a
# parameter.
SHARED = {
    "points",
    "k",
    "t",
    "loss",
    "alpha",
    "beta",
    "gamma",
    "seed",
    "total",
    "condition",
    "eta",
    "exponent",
    "failure",
    "pass_at_k",
    "prior",
}


def names() -> set[str]:
    """The names of the built-in experiments, of their axes and of their metrics."""
    found = set(BUILT_IN)
    for name in BUILT_IN:
        experiment = built_in(name)
        assert experiment is not None
        found |= {axis.name for axis in experiment.axes} | {metric.name for metric in experiment.metrics}
    return found - SHARED


@pytest.mark.parametrize("room", [*ROOMS, *FILES])
def test_no_room_that_runs_or_shows_experiments_knows_a_name_of_one(room: str) -> None:
    """No string is such a name; and one with an underscore, which is no word of English, is in no string at all."""
    paths = [PACKAGE / room] if room in FILES else sorted((PACKAGE / room).glob("**/*.py"))
    assert paths
    joined = re.compile(rf"(?<!\w)({'|'.join(sorted(name for name in names() if '_' in name))})(?!\w)")
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names(), f"{path}:{node.lineno}: {node.value!r}"
                assert not joined.search(node.value), f"{path}:{node.lineno}: {joined.search(node.value)}"


DISPLAY = Display(
    labels={"size": "items in the sack", "loss": "what is lost"},
    x="size",
    y="loss",
    companions=(Companion("loss", "least", "floor", "Dotted: no sack loses less."),),
    bounds=(
        Bound("gain", "nothing is gained", "Something was gained: weigh again.", side="high", se="gain_se"),
        Bound("loss", "something is lost", "Nothing was lost: weigh again."),
    ),
    figures=(Figure("gains", "gain", "gain of sacks", "Gains by size."),),
)


@dataclass(frozen=True)
class Sack:
    """A user's experiment."""

    name: str = "sack"
    version: int = 1
    axes: Sequence[Axis] = (
        Axis("size", int, "lane", 1),
        Axis("seed", int, "lane", 0, role="seed"),
        Axis("kind", str, "shape", "sack"),
    )
    metrics: Sequence[Metric] = (
        Metric("loss", "kg"),
        Metric("least", "kg"),
        Metric("gain", "kg"),
        Metric("gain_se"),
    )
    needs_world: bool = False
    display: Display = DISPLAY

    def cost(self, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
        return Cost()

    def check(self, runs: Runs, world: WorldShape | None, gpus: float) -> None: ...

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        size = pack.column("size")
        columns: dict[str, Any] = {
            "lane": pa.array(range(len(pack)), pa.int32()),
            "loss": [n**-0.5 * (1 + 0.01 * (s % 3)) for n, s in zip(size, pack.column("seed"), strict=True)],
            "least": [0.01] * len(pack),
            "gain": [1.0 if n == 64 else -1.0 for n in size],
            "gain_se": [0.1] * len(pack),
        }
        yield pa.RecordBatch.from_pydict(columns)


SWEEP = {"name": "sacks", "grid": {"size": {"log2": [1, 64]}, "seed": {"range": 3}}}
FIT = [{"law": "power", "x": "size", "y": "loss"}]


def test_a_report_shows_it_where_the_experiment_is_not(memory_store: Store) -> None:
    run(from_mapping({**SWEEP, "experiment": Sack(), "fit": FIT}), memory_store, make_executor("inline"))
    assert stored_display(memory_store) == (display_of(Sack()), "")
    report = make_report(memory_store)
    page = memory_store.read("report.html").decode()
    assert "Dotted: no sack loses less." in page
    assert {name for name, _ in memory_store.list("figures")} >= {"gains.png"}
    said = [line for line in report.findings if line.startswith("Sanity")]
    assert said == [
        "Sanity: nothing is gained: true within 4 s.e. NOT in 3 of 21 rows (gain at worst -10.0 s.e. from 0)",
        "Sanity: something is lost: true in all 21 rows (loss at worst 0.125; at least 0 is required)",
    ]
    assert "<p class=bad>Something was gained: weigh again.</p>" in page
    assert "Nothing was lost" not in page


def test_a_fit_without_columns_takes_those_that_are_declared(tmp_path: Path) -> None:
    sweep = from_mapping({**SWEEP, "experiment": Sack()})
    run(sweep, Store(str(tmp_path)), make_executor("inline"))
    found = CliRunner().invoke(app, ["fit", str(tmp_path), "--json", "--bootstrap", "0"])
    (one,) = json.loads(found.stdout)
    assert (one["x"], one["y"]) == ("size", "loss")


def test_a_column_that_is_not_there_is_refused_before_anything_runs() -> None:
    wrong = Sack(display=replace(DISPLAY, y="los"))
    with pytest.raises(SweepError, match=r"sack: display must name axes and metrics, but names 'los'\. Did you mean"):
        from_mapping({**SWEEP, "experiment": wrong})


def bounded(**changes: Any) -> Display:
    return Display(bounds=(replace(DISPLAY.bounds[0], **changes),))


WRONG: Any = [
    ({}, "must be a Display, but is {}"),
    (Display(companions=(Companion("loss", "least", "flor"),)), "companions[0].drawn: must be 'floor' or 'means', but"),  # type: ignore[arg-type]
    (Display(bounds=(Bound("gain", "no", "yes", side="up"),)), "bounds[0].side: must be 'low' or 'high', but is 'up'"),  # type: ignore[arg-type]
    (Display(bounds=(Bound("gain", "no", "yes", limit="0"),)), "bounds[0].limit: must be a number, but is '0'"),  # type: ignore[arg-type]
    (
        Display(figures=(Figure("one", "gain"), Figure("one", "loss"))),
        "figures[1].name: figures must have distinct names of files, but 'one' and 'one' are both written to one.png",
    ),
    (Display(figures=(Figure(3, "gain"),)), "figures[0].name: must be a word, but is 3"),  # type: ignore[arg-type]
    (Display(labels={"loss": 5}), "labels.loss: must be a word, but is 5"),  # type: ignore[dict-item]
    (Display(labels={("loss",): "it"}), "it must be plain data, but keys must be str"),  # type: ignore[dict-item]
    (Display(figures=("gain",)), "figures[0]: must be a mapping, but is 'gain'"),  # type: ignore[arg-type]
    (Display(labels={3: "it"}), "labels: must be named by columns, but one is 3"),  # type: ignore[dict-item]
    (Display(labels={None: "it"}), "labels: must be named by columns, but one is None"),  # type: ignore[dict-item]
    (Display(labels={"loss": " "}), "labels.loss: must be words, but is ' '"),
    (bounded(limit=math.nan), "bounds[0].limit: must be a finite number, but is nan"),
    (bounded(limit=-math.inf), "bounds[0].limit: must be a finite number, but is -inf"),
    (bounded(limit=10**400), "bounds[0].limit: must be a"),
    (bounded(sigmas=-0.5), "bounds[0].sigmas: must be a finite number, 0 or more, but is -0.5"),
    (bounded(sigmas=math.nan), "bounds[0].sigmas: must be a finite number, 0 or more, but is nan"),
    (bounded(claim=" "), "bounds[0].claim: must be words for the report, but is ' '"),
    (bounded(broken=""), "bounds[0].broken: must be words for the report, but is ''"),
    (bounded(metric="kind"), "must draw and bound columns of numbers, but 'kind' is an axis of str"),
    (bounded(se="kind"), "must draw and bound columns of numbers, but 'kind' is an axis of str"),
    (bounded(metric=""), "must name axes and metrics, but names ''"),
    (Display(x="kind"), "must draw and bound columns of numbers, but 'kind' is an axis of str"),
    (Display(companions=(Companion("loss", "kind", "floor"),)), "must draw and bound columns of numbers, but 'kind'"),
    (
        Display(figures=(Figure("kinds", "kind"),)),
        "must draw and bound columns of numbers, but 'kind' is an axis of str",
    ),
    (
        Display(figures=(Figure("of sacks", "gain"), Figure("Of/sacks", "loss"))),
        "figures[1].name: figures must have distinct names of files, but 'of sacks' and 'Of/sacks' are both written to",
    ),
    (
        Display(figures=(Figure("x" * 101, "gain"), Figure("x" * 102, "loss"))),
        "figures[1].name: figures must have distinct names of files, but 'xxx",
    ),
    *(
        (
            Display(figures=(Figure(name, "gain"),)),
            f"figures[0].name: must be words that are not `learning-curves` {rest}",
        )
        for name in ("Learning curves", "1-power-loss-size", "12 sacks", "theory/loss-size", " ")
        for rest in [
            f"and do not begin with `theory-` or a number and a hyphen, as files of the report do, but is {name!r}"
        ]
    ),
]


@pytest.mark.parametrize(("display", "fault"), WRONG)
def test_a_mistyped_display_is_refused_before_anything_runs(display: Any, fault: str) -> None:
    with pytest.raises(SweepError, match=rf"experiment sack: display:? {re.escape(fault)}") as caught:
        from_mapping({**SWEEP, "experiment": Sack(display=display)})
    assert "pydantic" not in str(caught.value)


def test_labels_are_declared_or_made_of_name_and_unit() -> None:
    labels = display_of(Sack()).labels
    assert labels == {"size": "items in the sack", "loss": "what is lost", "least": "least (kg)", "gain": "gain (kg)"}


@pytest.mark.parametrize("display", [DISPLAY, Display(), *(display_of(built_in(name)) for name in BUILT_IN)])
def test_a_display_is_plain_data(display: Display) -> None:
    assert Display.from_json(json.loads(json.dumps(display.to_json()))) == display


@pytest.mark.parametrize("base", [CLASSIFIER_SWEEP, FUNCTION_SWEEP])
def test_a_store_of_an_older_raysweep_is_shown_by_its_built_in_experiment(
    base: dict[str, Any], memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    sweep = make_sweep(base)
    run(sweep, memory_store, make_executor("inline"))
    name = f"axes/{sweep.hash}.json"
    declared = memory_store.read_json(name)
    memory_store.write_json(name, {key: value for key, value in declared.items() if key != "display"})
    expected = display_of(sweep.experiment) if base is CLASSIFIER_SWEEP else Display()
    assert stored_display(memory_store) == (expected, "")
    make_report(memory_store)
    memory_store.write_json(
        name, {**declared, "display": {"companions": [{"of": "a", "column": "b", "drawn": "flor"}]}}
    )
    assert stored_display(memory_store)[0] == Display()
    (note,) = [one for one in make_report(memory_store).findings if "display" in one]
    assert note == (
        f"{name}: display: companions[0].drawn: must be 'floor' or 'means', but is 'flor'. Plain columns are shown "
        "instead."
    )
    memory_store.write_json(name, {**declared, "axes": [{"name": 3}]})
    with pytest.raises(LedgerError, match=rf"{name} must hold the axes of its sweep"):
        make_report(memory_store)
