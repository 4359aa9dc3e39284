"""A user's function on a real GPU: a leak that fills its memory, and a context that a device-side assert broke.

Both poison the process: without a fresh worker every later run of a reused actor fails. Run on a machine with a GPU:

    python tests/benchmarks/functions_gpu.py [--out FILE]

prints, for each case, how many of its runs succeed under raysweep, and how many do where one process runs them one
after another, as any runner that reuses its processes does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FUNCTIONS = '''
import torch

HELD = []


def leak(config):
    """Keeps a third of the GPU for ever, as a forgotten cache does: the fourth run of a process runs out of memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    HELD.append(torch.empty(int(total * 0.3), dtype=torch.uint8, device="cuda"))
    return {"loss": float(torch.ones(8, device="cuda").sum()) / config["n"]}


def broken(config):
    """Run 3 indexes out of bounds on the device: every later call of its process fails, too."""
    x = torch.arange(8, device="cuda")
    index = torch.tensor([99 if config["n"] == 3 else 1], device="cuda")
    value = x[index]
    torch.cuda.synchronize()
    return {"loss": float(value) / config["n"]}
'''
RUNS = {"leak": 12, "broken": 8}


def one_process(folder: Path, name: str, runs: int) -> int:
    """How many runs succeed where one process runs them all."""
    import subprocess

    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\nimport gpu_functions as g\nok = 0\n"
        f"for n in range(1, {runs + 1}):\n    try:\n        g.{name}({{'n': n}}); ok += 1\n    except Exception:\n        pass\n"
        "print(ok)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else 0


def ours(folder: Path, name: str, runs: int) -> dict[str, Any]:
    """The same by raysweep on Ray, all on one GPU."""
    from raysweep.executors import make_executor
    from raysweep.run import run
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    raw = {
        "name": name,
        "experiment": f"gpu_functions:{name}",
        "grid": {"n": {"range": [1, runs + 1]}},
        "resources": {"gpus": 1},
    }
    began = time.monotonic()
    outcome = run(from_mapping(raw, name, [folder]), Store(str(folder / name)), make_executor("ray"))
    counts = outcome.counts
    return {"ok": counts.ok, "failed": counts.failed, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Both cases, printed and written."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    out = parser.parse_args().out
    import ray
    import torch

    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ray": ray.__version__},
    }
    for name, runs in RUNS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "gpu_functions.py").write_text(FUNCTIONS)
            os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
            alone = one_process(folder, name, runs)
            found[name] = {"runs": runs, "one_process_ok": alone, "raysweep": ours(folder, name, runs)}
        print(name, found[name], flush=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
