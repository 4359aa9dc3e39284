"""Shared fixtures: small sweeps, and a store that lives in memory."""

from __future__ import annotations

import functools
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read by NumPy at import: test processes share the cores already

import torch

# The suite starts hundreds of Python processes: without compiled files, each compiles the package.
if sys.dont_write_bytecode:
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""
    sys.dont_write_bytecode = False
# Without a GPU, Triton's kernels run in its interpreter, which must be asked for before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from raysweep.cli import main
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping

# As above. Not by OMP_NUM_THREADS, which workers of Ray would inherit, where it overrides a pack's CPUs.
torch.set_num_threads(1)

HERE = Path(__file__).parent
Cli = Callable[..., tuple[int, str, str]]
pytest_plugins = ["fault_fixtures", "function_fixtures"]

# A function sweep: 3 x 2 runs, each read at 3 epochs, no training at all.
FUNCTION_SWEEP: dict[str, Any] = {
    "name": "toy",
    "experiment": "toy_experiment:train",
    "observed": ["epoch"],
    "grid": {"size": [10, 100, 1000], "seed": {"range": 2}, "epoch": [1, 2, 3]},
    "fit": [{"law": "power", "x": "size", "y": "loss", "by": ["epoch"]}],
}

# A classifier sweep in an analytic world: 2 widths x 2 sizes x 2 seeds, 2 times, 2 budgets.
CLASSIFIER_SWEEP: dict[str, Any] = {
    "name": "tiny",
    "experiment": "classifier",
    "world": {"kind": "gaussian", "dim": 4, "classes": 3},
    "grid": {
        "n_train": [32, 128],
        "width": [4, 8],
        "seed": {"range": 2},
        "steps": [4, 16],
        "k": [1, 10],
        "batch": 16,
        "pool": 512,
        "eval_items": 256,
        "select_items": 128,
    },
}


@functools.cache
def group_of(file: str) -> str:
    """The files that one process must run: those that share a Ray, or one file alone."""
    text = (HERE.parent / file).read_text()
    return next((fixture for fixture in ("ray_up", "nodes: Nodes") if fixture in text), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but a Ray is started by one process and not by each that gets a file which needs it."""
    from xdist.scheduler import LoadFileScheduling

    class Grouped(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(super()._split_scope(nodeid))

    return Grouped(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Every test begins with one thread of torch: those of small products would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def search_path() -> Iterator[None]:
    """A sweep's folder joins Python's search path; one test's folders must not be packages of the next."""
    before = [*sys.path]
    yield
    sys.path[:] = before


@pytest.fixture
def make_sweep() -> Callable[..., Sweep]:
    """A sweep from one of the mappings above, with parts of it replaced."""

    def make(base: dict[str, Any], grid: dict[str, Any] | None = None, **changes: Any) -> Sweep:
        raw = {**base, "grid": {**base["grid"], **(grid or {})}, **changes}
        return from_mapping(raw, "sweep.yaml", [HERE])

    return make


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs `raysweep ARGUMENTS` in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raysweep", *arguments])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = {None: 0}.get(stop.code, stop.code)  # type: ignore[call-overload]
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def ray_up() -> Iterator[None]:
    """One Ray for all tests that need it: starting one takes seconds."""
    import raysweep.executors.raytune  # noqa: F401, I001  (sets what Ray reads at import)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def memory_store() -> Store:
    """An empty store on fsspec's in-memory file system."""
    return Store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(params=["local", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store, on a disk and in memory."""
    return Store(str(tmp_path / "store")) if request.param == "local" else Store(f"memory://{uuid.uuid4().hex}")
