"""Nothing from a store is executed: not the module its sweep names, not a pickle, not code in its metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP, HERE

from raysweep.errors import LedgerError
from raysweep.executors import make_executor
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.stored import stored_runs

# Python's own audit hooks see every import and every class a pickle asks for, whoever does it.
WATCHED = """
import io, json, os, pickle, sys
seen = []
def hook(event, arguments):
    if event == "import" and arguments[0].split(".")[0] in ("evil", "toy_experiment"):
        seen.append(f"import {arguments[0]}")
    if event == "pickle.find_class":
        seen.append(f"pickle {arguments[0]}.{arguments[1]}")
    if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen") and "evil" in str(arguments):
        seen.append(event)
from raysweep.cli import main
import raysweep.reports, raysweep.laws.table, torch  # what they do at import is not the store's doing
sys.addaudithook(hook)
codes = []
for line in json.loads(sys.argv[1]):
    sys.argv = ["raysweep", *line]
    try:
        main()
    except SystemExit as ended:
        codes.append(ended.code or 0)
print("\\nSEEN", json.dumps([codes, seen]))
"""


def watched(folder: Path, *lines: list[str]) -> tuple[list[int], list[str]]:
    """Exit codes of these command lines, and what they imported, unpickled or started on the way."""
    command = [sys.executable, "-c", WATCHED, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert "SEEN" in done.stdout, done.stderr
    codes, seen = json.loads(done.stdout.rpartition("SEEN")[2])
    return codes, seen


@pytest.fixture
def store(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> Store:
    """A finished store whose sweep names a module that leaves a mark when it is imported."""
    kept = Store(str(tmp_path / "store"))
    run(make_sweep(FUNCTION_SWEEP), kept, make_executor("inline"))
    (name,) = [n for n, _ in kept.list("sweeps")]
    kept.write(f"sweeps/{name}", kept.read(f"sweeps/{name}").replace(b"toy_experiment:train", b"evil:train"))
    (tmp_path / "evil.py").write_text("open('marker', 'w').write('x')\ntrain = print\n")
    return kept


@pytest.mark.timeout(600)
def test_reading_commands_import_nothing_that_a_store_names(store: Store, tmp_path: Path) -> None:
    lines = (["status"], ["status", "--json"], ["fit"], ["report"], ["compact"], ["doctor", "--store"])
    codes, seen = watched(tmp_path, *([*line, store.uri] for line in lines))
    assert seen == []
    assert codes[:5] == [0] * 5  # the doctor may find fault with this machine
    assert not (tmp_path / "marker").exists()


def test_counts_are_right_without_the_experiment(store: Store) -> None:
    found = status(store)
    assert (found["total"], found["done"], found["pending"], found["runs"]) == (18, 18, 0, 6)


@pytest.mark.parametrize("base", [FUNCTION_SWEEP, CLASSIFIER_SWEEP])
@pytest.mark.parametrize("grid", [{}, {"concat": [{"seed": 7}, {"seed": [8, 9]}]}])
def test_stored_runs_are_the_sweeps_runs(
    base: dict, grid: dict, tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    without_seed = {k: v for k, v in base["grid"].items() if k != "seed" or not grid}
    sweep, kept = make_sweep({**base, "grid": without_seed}, grid), Store(str(tmp_path))
    from raysweep.progress import Progress
    from raysweep.run import open_store

    open_store(kept, sweep, Progress(lambda: sys.stderr))
    found = stored_runs(kept)
    assert found is not None
    assert found.keys.tolist() == sweep.runs.keys.tolist()
    assert found.cells == sweep.runs.cells


def test_kinds_that_depend_on_other_axes_and_defaults_survive(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    from raysweep.progress import Progress
    from raysweep.run import open_store

    sweep = make_sweep(CLASSIFIER_SWEEP, {"schedule": ["constant", "cosine"], "data_seed": [1, 2]})
    kept = Store(str(tmp_path))
    open_store(kept, sweep, Progress(lambda: sys.stderr))
    found = stored_runs(kept)
    assert found is not None
    assert found.keys.tolist() == sweep.runs.keys.tolist()


@pytest.mark.parametrize(
    "axes",
    [b"[]", b"{}", b'{"axes": 3}', b'{"axes": [{}], "identity": ""}', b'{"axes": [[1]]}', b"[" * 100_000, b"\xff"],
)
def test_hostile_axes_are_one_error(axes: bytes, store: Store) -> None:
    (name,) = [n for n, _ in store.list("axes")]
    store.write(f"axes/{name}", axes)
    with pytest.raises(LedgerError, match="axes/"):
        status(store)


def test_a_resumed_run_unpickles_nothing_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def train(config):\n    return {'loss': 1.0 / config['size']}\n")
    (tmp_path / "s.yaml").write_text("name: s\nexperiment: mine:train\ngrid: {size: [1, 2, 4]}\n")
    line = ["run", "s.yaml", "--executor", "inline", "--store", "kept"]
    assert watched(tmp_path, line, line) == ([0, 0], [])


def test_no_file_of_the_package_unpickles_or_evaluates() -> None:
    forbidden = ("pickle.load", "torch.load(", "eval(", "exec(", "yaml.unsafe", "yaml.full_load", "allow_pickle=True")
    for path in (HERE.parent / "raysweep").rglob("*.py"):
        text = path.read_text()
        for word in forbidden:
            at = text.find(word)
            assert at < 0 or text[at - 1] == "." or text[at - 1].isalnum() or text[at - 1] == "_", f"{path}: {word}"
