"""The first second: `raysweep --help`, a completion, a usage error and `plan` of the demo, by wall clock and CPU.

The naive way imports everything first, as a command line does whose modules import what they use at their top: every
module of raysweep, then the same command.

Run: .venv/bin/python tests/benchmarks/startup.py [repeats]   (writes startup.json; asserts nothing)
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
GOAL = {"--help": 0.3, "completion": 0.3, "usage error": 0.3, "plan": 1.2}  # seconds
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "--help": (["--help"], {}),
    "completion": (
        [],
        {"_RAYSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "raysweep plan --pre", "COMP_CWORD": "2"},
    ),
    "usage error": (["fit", "--lwa"], {}),
    "plan": (["plan", str(ROOT / "sweeps/demo.yaml")], {}),
}
OURS = "from raysweep.cli import main; main()"
NAIVE = f"""
import contextlib, importlib, pkgutil, raysweep
for one in pkgutil.walk_packages(raysweep.__path__, "raysweep."):
    if not one.name.endswith("__main__") and ".kernels" not in one.name:
        with contextlib.suppress(ImportError):
            importlib.import_module(one.name)
{OURS}
"""
_IMPORT = re.compile(r"import time:\s+\d+ \|\s+(\d+) \| (\s*)(\S+)")


def measure(code: str, case: str, repeats: int) -> dict[str, float]:
    """The median of a command's wall seconds and CPU seconds, in a process of its own each time."""
    walls, cpus = [], []
    for _ in range(repeats):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        _run(code, case)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    middle = repeats // 2
    return {"seconds": round(sorted(walls)[middle], 3), "cpu_seconds": round(sorted(cpus)[middle], 3)}


def dearest(case: str, most: int = 8) -> dict[str, float]:
    """By package or module of raysweep, the seconds that its import takes with all that it imports; the most first."""
    found: dict[str, float] = {}
    for micro, _, name in _IMPORT.findall(_run(OURS, case, "-X", "importtime").stderr):
        if name.count(".") == (1 if name.startswith("raysweep.") else 0):
            found[name] = max(found.get(name, 0.0), round(int(micro) / 1e6, 3))
    return dict(sorted(found.items(), key=lambda one: -one[1])[:most])


def _run(code: str, case: str, *flags: str) -> subprocess.CompletedProcess[str]:
    arguments, environment = CASES[case]
    script = f"import sys\nsys.argv[:] = {['raysweep', *arguments]!r}\n{code}"
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, *flags, "-c", script],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), **os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )


def main() -> None:
    repeats = int(sys.argv[1]) if sys.argv[1:] else 7
    results: dict[str, Any] = {}
    for case in CASES:
        _run(OURS, case)  # compiles what was not compiled yet
        results[case] = {
            "ours": measure(OURS, case, repeats),
            "naive": measure(NAIVE, case, max(1, repeats // 3)),
            "goal_seconds": GOAL[case],
            "dearest_imports": dearest(case),
        }
        ours, naive = results[case]["ours"], results[case]["naive"]
        print(f"{case:12} {ours['seconds']:6.2f} s (CPU {ours['cpu_seconds']:.2f}), naive {naive['seconds']:6.2f} s")
        for name, seconds in results[case]["dearest_imports"].items():
            print(f"    {seconds:6.3f} s  {name}")
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "repeats": repeats,
        "load_average_at_end": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {p: version(p) for p in ("typer", "numpy", "pyarrow", "pydantic", "raysweep")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps({**where, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
