"""The contract of an experiment: what comes with raysweep keeps it, and each broken rule is found and named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import contract_toys
import pytest
import theory_toys
from conftest import FUNCTION_SWEEP, HERE
from regression_toy import REGRESSION_SWEEP

from raysweep.errors import ContractError
from raysweep.experiment import Metric
from raysweep.experiments import BUILT_IN
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.testing import check_experiment
from raysweep.testing.planned import imports
from raysweep.testing.trial import Trial

# Small sweeps that mix costs, kinds of time, endings: what could go wrong must be in them.
SWEEPS: dict[str, dict[str, Any]] = {
    "active_learning": {
        "world": {"kind": "gaussian", "dim": 4, "classes": 3},
        "grid": {
            "concat": [
                {"strategy": ["random", "entropy", "margin", "bald", "core_set", "epistemic", "aleatoric"]},
                {"strategy": "bald", "lr": [1e30, 0.01], "temperature": 2, "labels": "soft"},
            ],
            "labelled": [6, 18],
            "initial": 6,
            "query": 4,
            "ensemble": 3,
            "steps": 3,
            "batch": 8,
            "width": 4,
            "bmd_points": 4,
            "pool": 128,
            "eval_items": 32,
            "precision": "float64",
        },
    },
    "bmd": {
        "grid": {
            "n_train": 12,
            "test_items": 100,
            "flip_items": 4,
            "concat": [
                {"dim": 6, "width": [5, 12], "label_noise": [0, 0.2], "seed": {"range": 2}, "ridge": [0.0, 1e-3]},
                {"dim": 6, "activation": "relu", "teacher": "linear", "target_noise": 0.5, "width": 20, "ridge": 0.1},
                {"dim": 6, "loss": "logistic", "width": [5, 20], "ridge": [1e-5, 1e-2], "activation": "sin"},
                {"dim": 64, "teacher": "digits", "width": 5, "label_noise": [0, 0.2], "ridge": [1e-6, 1.0]},
            ],
        }
    },
    "classifier": {
        "world": {"kind": "gaussian", "dim": 4, "classes": 3},
        "grid": {
            "concat": [
                {"schedule": "constant", "n_train": [32, 128]},
                {"schedule": "cosine", "n_train": 64, "test_shift": ["scale", "pixel"], "test_kl": 0.1},
                {"schedule": "cosine", "n_train": 64, "train_shift": "imbalance", "train_kl": 0.2},
                {"model": "swin", "depth": 1, "patch": 1, "n_train": 64},
            ],
            "lr": [0.02, 1e30],
            "width": 4,
            "steps": [2, 4, 8],
            "k": [1, 10],
            "batch": 16,
            "pool": 512,
            "eval_items": 64,
            "select_items": 32,
            "precision": "float64",
            "bmd_points": 4,
        },
    },
    "double_descent": {
        "grid": {
            "width": 4,
            "dim": 6,
            "test_items": 16,
            "pgd_steps": 2,
            "precision": "float64",
            "concat": [
                {
                    "loss": "logistic",
                    "activation": "tanh",
                    "bmd_points": 0,
                    "n_train": [8, 12],
                    "steps": [2, 4],
                    "label_noise": [0, 0.4],
                    "attack": [0, 0.2],
                },
                {
                    "loss": "square",
                    "n_train": 4,
                    "lr": [0.05, 1e30],
                    "steps": 40,
                    "pretrain": 2,
                    "bmd_points": 4,
                    "pixel": [-1, 2],
                    "complexity": True,
                },
                {
                    "task": "images",
                    "batch": 4,
                    "optimiser": "sgd",
                    "schedule": "constant",
                    "n_train": [8, 12],
                    "zip": {"model": ["mlp", "cnn"], "bmd_points": [4, 0], "measures": [True, False]},
                    "steps": [1, 3],
                    "eps": [0, 0.1],
                    "share": [0, 0.3],
                },
            ],
        }
    },
    "features": {
        "grid": {
            "concat": [
                {"method": "exact", "width": [0, 4], "inputs": 16, "gamma": [0, 1]},
                {"method": "steps", "inputs": 16, "eta": [0.1, 0.2], "gamma": 0.5, "batch": 4},
                {"method": "steps", "inputs": 16, "n_train": 8, "seed": {"range": 2}},
            ],
            "t": [1, 3],
        }
    },
    "lid": {
        "grid": {
            "dim": 12,
            "concat": [{"n_train": [6, 300], "beta": 4.5, "seed": {"range": 2}}, {"n_train": 40, "beta": 1.5}],
            "ridge": [0.0, 1e-9],  # 0 is singular for fewer items than dimensions
            "tolerance": 0.1,
            "k": [1, 10],
        }
    },
    "richness": {
        "grid": {
            "width": 8,
            "precision": "float64",
            "concat": [
                {"beta": [0.5, 1.5], "gamma": [0.1, 1e6], "batch": 8, "eta": 0.5, "momentum": [0, 0.5]},
                {"method": "ntk", "beta": [0.5, 1.5], "points": 16, "activation": ["relu", "relu2", "tilted"]},
                {
                    "task": "images",
                    "model": "cnn",
                    "depth": 1,
                    "n_train": [0, 8],
                    "batch": 4,
                    "optimiser": "adam",
                    "bmd_points": 4,
                },
            ],
            "harmonics": 7,
            "test_items": 16,
            "t": [1, 2.2],
        }
    },
}
GRID: dict[str, Any] = {
    "concat": [{"plan": "open", "size": [4, 64], "seed": {"range": 2}}, {"plan": "fixed", "size": [4, 4096]}],
    "rate": [0.5, 3.0],
    "steps": [2, 3, 6],
}


def toy_sweep(toy: Any) -> Sweep:
    return from_mapping({"name": "t", "experiment": toy, "grid": GRID})


def test_each_built_in_experiment_has_a_sweep() -> None:
    assert set(SWEEPS) == set(BUILT_IN)


@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_what_comes_with_raysweep_keeps_the_contract(name: str) -> None:
    sweep = from_mapping({"name": "t", "experiment": name, **SWEEPS[name]})
    check_experiment(sweep.experiment, sweep)


OWN = {
    "a toy": {"name": "t", "experiment": "contract_toys:Toy", "grid": GRID},
    "a function": FUNCTION_SWEEP,
    "rounds of training without a world": {
        **REGRESSION_SWEEP,
        "grid": {**REGRESSION_SWEEP["grid"], "width": 4, "richness": [0.5, 1.0], "length": 6, "step": [3, 6]},
    },
}


@pytest.mark.parametrize("own", sorted(OWN))
def test_an_experiment_of_a_users_own_can_keep_it(own: str) -> None:
    sweep = from_mapping(OWN[own], folders=[HERE])
    check_experiment(sweep.experiment, sweep)


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        ("Impure", "cost", "a plan's flops must be the sum over its runs"),
        ("Repeating", "rows", r"must come back once, but of \d+ cells \d+ rows are repeated"),
        ("Forgetful", "rows", r"every cell asked for must come back, but \d+ of \d+ do not"),
        ("Abrupt", "rows", r"run\(\) must come to its end, but raised TypeError: save\(\)"),
        ("Silent", "rows", "every declared metric must be yielded, but value is not"),
        ("Wordy", "rows", "a metric must be a number, but value is yielded as string"),
        ("Fragile", "isolation", r"alone is ok and in its pack failed \(ValueError: rate above 2\)"),
        ("Placed", "packing", "must give the same rows in every pack, within 1e-09, but loss of run .* alone is"),
        (
            "Amnesic",
            "resume",
            "must give the same rows in every pack, .* but loss of a pack of 12 runs resumed from state 1",
        ),
        ("Secretive", "kind", "calls steps observed where it is lane, at"),
        ("Secretive", "kind", r"a fit that does not name steps .* but pools \['2', '3', '6'\]"),
        ("Speechless", "theory", r"every row must have a value or a reason, but \d+ of \d+ have neither"),
        ("Sorted", "theory", "a cell's theory must not depend on the other cells, but loss changes"),
        ("Unprepared", "theory", "must not raise, but did"),
        (
            "Remembering",
            "cost",
            "must be a function of its arguments alone, but of run .* where the last run is priced first",
        ),
        ("Lavish", "cost", r"a run's rows report, but run \{'size': 64, .* reports 384 and cost\(\) states 576"),
        ("Reckless", "cost", r"reports 384 at most and 704 over its 3 cells and cost\(\) states 3\.84e\+08"),
        ("Spelt", "rows", r"an observed axis must be yielded in its own type, but steps \(int\) is yielded as string"),
        ("Chatty", "rows", r"must have values that some cell asks for, but one has \{'steps': 999\}"),
        ("Generous", "rows", "every column must be an axis, a declared metric or a stamp, but norm is none"),
        ("Careless", "rows", r"run\(\) must leave its pack as it is, but overwrites the values of size"),
        ("Divisive", "resume", r"but loss of a pack of 6 runs resumed from state 1 of 6 of 12 runs"),
        ("Alternating", "resume", r"but loss of a pack of .* resumed from state 2 of 6"),
        (
            "Relative",
            "theory",
            r"a cell's theory must not depend on the other cells, but loss changes when cell \d+ is",
        ),
        ("Listed", "theory", r"must not raise, but did(.|\n)*'set' object is not subscriptable"),
        ("Paired", "theory", "must not depend on the other metrics asked for, but loss changes"),
        ("Written", "theory", "a theory's values must be numbers or null, but loss is returned as string"),
        (
            "Hasty",
            "packing",
            r"whichever of its cells are asked for, .* but loss of a pack of 8 runs asked only for \{'steps': 2\} is",
        ),
        ("Touchy", "packing", r"but value of a pack of 8 runs asked only for \{'steps': 6\} is"),
        ("Shifted", "rows", "must yield `lane` from 0 to 11, as its pack has 12 runs, but yields -5"),
        ("Timed", "packing", "but value of run .*If value measures the machine, declare it `deterministic=False`"),
        ("Reasoning", "theory", r"null where every metric of the theory has a value, but 12 of 24 rows have both"),
        ("Misnamed", "theory", "columns must be named as metrics or `reason`, but los is none"),
    ],
)
def test_a_broken_rule_is_named_with_its_values(broken: str, rule: str, said: str) -> None:
    toy = getattr(theory_toys if rule == "theory" else contract_toys, broken)()
    with pytest.raises(ContractError, match=rf"(?m)^- {rule}: .*{said}") as caught:
        check_experiment(toy, toy_sweep(toy))
    assert isinstance(caught.value, AssertionError)
    first = str(caught.value).splitlines()[0]
    assert rule in first.partition(": ")[2].split(", ")


def test_a_pack_in_which_every_run_diverges_keeps_the_contract() -> None:
    grid = {"concat": [{"plan": "open", "rate": 0.5}, {"plan": "fixed", "rate": 3.0}], "size": [4, 64], "steps": [2, 4]}
    check_experiment(contract_toys.TOY, from_mapping({"name": "t", "experiment": contract_toys.TOY, "grid": grid}))


def test_a_sweep_in_which_no_run_ends_ok_is_one_finding() -> None:
    raw = {"name": "t", "experiment": contract_toys.TOY, "grid": {"rate": [3.0, 4.0]}}
    with pytest.raises(ContractError, match=r"- rows: some run of the sweep must end ok, but none does") as caught:
        check_experiment(contract_toys.TOY, from_mapping(raw))
    assert len(str(caught.value).splitlines()) == 2


def test_a_fault_that_breaks_many_parts_is_one_finding_with_their_number() -> None:
    toy = contract_toys.Placed()
    with pytest.raises(ContractError) as caught:
        check_experiment(toy, toy_sweep(toy))
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith("- packing: ")]
    assert line.endswith(" (7 more like it)")  # of two packs, six runs alone and two halves each


@pytest.mark.parametrize(("toy", "said"), [("Endless", "flops=inf"), ("Indebted", "bytes=-8.0")])
def test_a_cost_that_is_negative_or_not_finite_cannot_be_planned(toy: str, said: str) -> None:
    made = getattr(contract_toys, toy)()
    stated = rf"experiment toy: cost\(\) must state finite numbers, 0 or more, but states {said} for the run .*'size'"
    with pytest.raises(ContractError, match=rf"possible to plan the sweep, but that raised\n{stated}"):
        check_experiment(made, toy_sweep(made))


def test_a_metric_that_is_declared_to_measure_the_machine_is_not_compared() -> None:
    toy = contract_toys.Timed(metrics=(Metric("loss"), Metric("value", deterministic=False)))
    check_experiment(toy, toy_sweep(toy))


def test_a_run_that_may_stop_early_reports_no_work() -> None:
    toy = contract_toys.Converging()
    check_experiment(toy, from_mapping({"name": "t", "experiment": toy, "grid": {"plan": "fixed", "steps": [2, 4]}}))


def test_a_cost_that_is_wrong_for_one_size_of_several_is_found() -> None:
    toy = contract_toys.Central()
    raw = {"name": "t", "experiment": toy, "grid": {"size": [8, 16, 32, 64], "steps": [2, 3]}}
    with pytest.raises(ContractError, match=r"(?m)^- cost: .*\{'size': 32\} reports 96 and cost\(\) states 144"):
        check_experiment(toy, from_mapping(raw))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((contract_toys.Toy, None), "the experiment must be an instance .* but is <class 'contract_toys.Toy'>"),
        ((object(), None), "the experiment must be an instance with all parts of an Experiment, but is <object"),
        ((contract_toys.TOY, {"grid": {}}), r"the sweep must be a Sweep, but is \{'grid': \{\}\}"),
        ((contract_toys.TOY, from_mapping), "the sweep must be a Sweep, but is <function"),
        ((contract_toys.TOY, toy_sweep(contract_toys.TOY), "0.1"), "the tolerance must be a finite number, .* '0.1'"),
        ((contract_toys.TOY, toy_sweep(contract_toys.TOY), -1), "the tolerance must be a finite number, 0 or more"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(arguments: Any, said: str) -> None:
    with pytest.raises(ContractError, match=rf"^check_experiment: {said}"):
        check_experiment(*arguments)


def test_a_display_that_names_no_column_is_found() -> None:
    with pytest.raises(
        ContractError, match=r"- display: .* must name axes and metrics, but names 'sise'\. Did you mean"
    ):
        check_experiment(contract_toys.Dazzling(), toy_sweep(contract_toys.TOY))


def test_rows_that_report_more_than_was_planned_are_found() -> None:
    toy = contract_toys.Modest()
    raw = {"name": "t", "experiment": toy, "grid": {"plan": "fixed", "repeats": [1, 3], "steps": [2, 4]}}
    with pytest.raises(ContractError, match=r"- cost: cost\(\) must state the flops .*'repeats': 3.* reports 48 .* 16"):
        check_experiment(toy, from_mapping(raw))


def test_every_broken_rule_is_said_at_once() -> None:
    class Bad(contract_toys.Placed, theory_toys.Speechless, contract_toys.Modest):
        pass

    grid = {"plan": "fixed", "repeats": [1, 3], "rate": [0.5, 3.0], "steps": 4, "seed": {"range": 2}}
    with pytest.raises(ContractError) as caught:
        check_experiment(Bad(), from_mapping({"name": "t", "experiment": Bad(), "grid": grid}))
    assert str(caught.value).splitlines()[0].endswith(": cost, packing, resume, theory")


def test_a_module_that_imports_what_planning_does_not_need_is_found_with_the_file_that_does(tmp_path: Path) -> None:
    looked = "import importlib.util\nprint(importlib.util.find_spec('torch'))\n"
    (tmp_path / "heavy_toy.py").write_text(looked + "import polars\nfrom contract_toys import Toy\n")
    raw = {"name": "t", "experiment": "heavy_toy:Toy", "grid": {"seed": 1}}
    sweep = from_mapping(raw, folders=[tmp_path, HERE])
    with pytest.raises(ContractError, match=r"(?m)^- imports: .*but imports polars \(by .*heavy_toy\.py\)") as caught:
        check_experiment(sweep.experiment, sweep)
    assert str(caught.value).splitlines()[0].endswith(": imports")
    assert "imports torch" not in str(caught.value)  # it was only looked for
    sys.modules.pop("heavy_toy")


LOUD = """
import atexit, os, sys, threading
if "contract_toys" not in sys.modules:  # in the fresh process only
    print("half a line", end="", flush=True)
    os.write(1, bytes([0xFF, 0xFE]))
    atexit.register(lambda: os.write(1, b"at the end"))
    threading.Thread(target=threading.Event().wait).start()
    sys.stdout = None
    os.close(1)
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", ""),
        ("os._exit(0)", "a fresh process must be able to plan the sweep, but could not:\nit ended with exit code 0"),
    ],
)
def test_a_plan_is_read_whatever_a_module_does_with_its_output(tmp_path: Path, more: str, said: str) -> None:
    (tmp_path / "loud_toy.py").write_text(LOUD + f"    {more}\nfrom contract_toys import Toy\n")
    sweep = from_mapping({"name": "t", "experiment": "loud_toy:Toy", "grid": {"seed": 1}}, folders=[tmp_path, HERE])
    sys.modules.pop("loud_toy")
    found = list(imports(Trial(sweep.experiment, sweep, Store(str(tmp_path / "store")), 0.0)))
    assert found == ([said] if said else [])


def test_a_sweep_that_cannot_be_planned_is_refused() -> None:
    grid = {"n_train": 1024, "pool": 512}
    raw = {"name": "t", "experiment": "classifier", "world": SWEEPS["classifier"]["world"], "grid": grid}
    sweep = from_mapping(raw)
    with pytest.raises(ContractError, match=r"possible to plan the sweep, but that raised(.|\n)*n_train <= pool"):
        check_experiment(sweep.experiment, sweep)


def test_a_sweep_of_another_experiment_is_refused() -> None:
    with pytest.raises(ContractError, match=r"must be of the experiment, but is of lid \(version 1\), not of toy"):
        check_experiment(contract_toys.TOY, from_mapping({"name": "t", "experiment": "lid", "grid": {"seed": 1}}))
