"""What a command imports before it answers: whole libraries wait until something needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Seconds of imports that neither an answer about the command line nor a plan needs. (pyarrow imports pandas, where it
# is installed, as soon as it is given Python values: that is when a store has rows.)
HEAVY = {
    *("torch", "ray", "polars", "pandas", "scipy.special", "scipy.optimize", "sklearn", "matplotlib", "optuna"),
    *("nflows", "safetensors", "triton", "mlflow", "wandb", "tensorboard", "fsspec", "asyncio"),
}
LIGHT = HEAVY | {"numpy", "pyarrow", "yaml"}
OWN = ("raysweep.cli", "raysweep.errors", "raysweep.inside", "raysweep.terminal")
COMPLETION = {"_RAYSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "raysweep plan --pre", "COMP_CWORD": "2"}

SCRIPT = """
import sys
sys.argv[:] = {arguments!r}
from raysweep.cli import main
try:
    main()
except SystemExit:
    pass
print("IMPORTED", *sys.modules, file=sys.stderr)
"""


def imported(tmp_path: Path, *arguments: str, **environment: str) -> tuple[str, set[str]]:
    """What a command prints, and the names of the modules that it imported."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT.format(arguments=["raysweep", *arguments]),
        ],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    said, _, names = done.stderr.rpartition("IMPORTED ")
    return done.stdout + said, set(names.split())


@pytest.mark.parametrize(
    ("arguments", "environment", "answer"),
    [
        (["--help"], {}, "Run every pending cell"),
        (["--version"], {}, "raysweep "),
        (["plan", "--help"], {}, "--preset"),
        (["nothing"], {}, "No such command 'nothing'"),
        (["fit", "table.csv", "--lwa", "power"], {}, "No such option"),
        (
            [],
            {"_RAYSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "raysweep plan --pre", "COMP_CWORD": "2"},
            "--preset",
        ),
    ],
    ids=["help", "version", "help of a command", "unknown command", "unknown option", "completion"],
)
def test_an_answer_about_the_command_line_imports_no_library(
    arguments: list[str], environment: dict[str, str], answer: str, tmp_path: Path
) -> None:
    said, names = imported(tmp_path, *arguments, **environment)
    assert answer in said
    assert sorted(names & LIGHT) == []
    assert [n for n in names if n.startswith("raysweep.") and not n.startswith(OWN)] == []


@pytest.mark.parametrize("name", ["demo", "lid_prior"])
def test_a_plan_imports_what_planning_needs(name: str, tmp_path: Path) -> None:
    said, names = imported(tmp_path, "plan", str(ROOT / f"sweeps/{name}.yaml"))
    assert "packs" in said
    assert sorted(names & HEAVY) == []
    assert "raysweep.plan" in names  # the modules of this very command were listed
    assert [n for n in names if n.startswith(("raysweep.export", "raysweep.imports", "raysweep.reports"))] == []
