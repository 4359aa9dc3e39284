"""A pack that does not fit is halved until it does, and no lane is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from raysweep.ledger.log import Ledger
from raysweep.store import Store

GRID = {
    "n_train": [64, 128], "seed": {"range": 24}, "width": 1024, "depth": 1, "batch": 512, "steps": [1, 2],
    "pool": 256, "eval_items": 32, "select_items": 16,
}  # fmt: skip
SWEEP = {"name": "oom", "experiment": "classifier", "world": {"kind": "gaussian", "dim": 8, "classes": 4}, "grid": GRID}

SCRIPT = """
    import io, json, resource, sys
    import torch
    from raysweep.executors import make_executor
    from raysweep.run import run
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    torch.set_num_threads(1)
    sweep, cap = json.loads(sys.argv[1]), int(sys.argv[3])
    warm = {**sweep, "grid": {**sweep["grid"], "seed": 0, "n_train": 64}}
    run(from_mapping(warm), Store(sys.argv[2] + "/warm"), make_executor("inline"), stream=io.StringIO)
    if cap:  # of what this process may still take, as a full machine would
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + cap * 2**20,) * 2)
    outcome = run(from_mapping(sweep), Store(sys.argv[2] + "/store"), make_executor("inline"), stream=io.StringIO)
    print(json.dumps([outcome.counts.ok, outcome.counts.failed, outcome.pending]))
"""


def swept(folder: Path, cap_mib: int) -> dict[str, dict[str, object]]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(SWEEP), str(folder), str(cap_mib)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [96, 0, 0]
    return {row["cell"]: row for row in Ledger(Store(str(folder / "store"))).scan().table.to_pylist()}


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited the Linux way")
def test_a_memory_cap_splits_packs_and_loses_no_lane(tmp_path: Path) -> None:
    free, capped = swept(tmp_path / "free", 0), swept(tmp_path / "capped", 160)
    assert len({row["pack"] for row in free.values()}) == 1
    assert len({row["pack"] for row in capped.values()}) >= 2
    assert free.keys() == capped.keys()
    for cell, row in capped.items():
        assert row["status"] == "ok"
        assert row["attempt"] == 1  # a pack that is too large is nobody's failure
        assert row["epistemic"] == pytest.approx(free[cell]["epistemic"], rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_full_gpu_splits_packs_and_loses_no_lane(tmp_path: Path) -> None:
    from raysweep.executors import make_executor
    from raysweep.run import run
    from raysweep.sweep import from_mapping

    sweep = from_mapping({**SWEEP, "resources": {"gpus": 1}})
    run(
        from_mapping({**SWEEP, "resources": {"gpus": 1}, "grid": {**GRID, "seed": 0}}),
        Store(str(tmp_path / "warm")),
        make_executor("inline"),
    )
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    cap = torch.cuda.memory_allocated() + 200 * 2**20  # libraries keep workspaces of 32 MiB
    torch.cuda.set_per_process_memory_fraction(cap / total)
    try:
        outcome = run(sweep, Store(str(tmp_path / "store")), make_executor("inline"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (outcome.counts.ok, outcome.pending) == (96, 0)
    assert len(set(Ledger(Store(str(tmp_path / "store"))).scan().table["pack"].to_pylist())) >= 2
