"""Fuzzing of everything that reads what others wrote: sweep files, overrides, ledgers, stores, worlds, tables.

    python tests/benchmarks/fuzz.py [cases in all, 100000] [seed, 1]

Each target of tests/safety/hostile.py runs in a process of its own, two at a time. A case works or raises one
RaysweepError; anything else is a crash, and so are more than 60 s and more than 1 GiB. Writes fuzz.json beside this file.
"""

from __future__ import annotations

import collections
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/safety")]

_SECONDS, _GROWTH_MIB = 60, 1024


def fuzz(name: str, cases: int, seed: int) -> dict[str, Any]:
    """One target in this process."""
    import hypothesis
    from hostile import TARGETS, outcome

    (target,) = [t for t in TARGETS if t.name == name]
    counts: collections.Counter[str] = collections.Counter()
    crashes: dict[str, dict[str, str]] = {}
    slowest, before = 0.0, _peak()

    def late(*_: Any) -> None:
        raise TimeoutError(f"a case took more than {_SECONDS} s")

    signal.signal(signal.SIGALRM, late)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(target.cases)
    def go(case: Any) -> None:
        nonlocal slowest
        start = time.perf_counter()
        signal.alarm(_SECONDS)
        try:
            counts[outcome(target, case)] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            counts["crashed"] += 1
            own = [f for f in traceback.extract_tb(error.__traceback__) if str(ROOT) in f.filename]
            place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {type(error).__name__}" if own else str(error)
            crashes.setdefault(place, {"message": str(error)[:300], "case": repr(case)[:2000]})
        finally:
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - start)

    start = time.perf_counter()
    go()
    growth = (_peak() - before) / 1024
    if growth > _GROWTH_MIB:
        crashes["memory"] = {"message": f"{growth:.0f} MiB", "case": ""}
    return {
        "cases": counts.total(),
        "worked": counts["worked"],
        "refused": counts["refused"],
        "crashed": counts["crashed"],
        "seconds": round(time.perf_counter() - start, 1),
        "slowest_case_seconds": round(slowest, 2),
        "memory_growth_mib": round(growth, 1),
        "crashes": crashes,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(cases: int, seed: int) -> None:
    from hostile import TARGETS

    def one(target: Any) -> tuple[str, dict[str, Any]]:
        command = [sys.executable, "-W", "ignore", __file__, target.name, str(round(cases * target.share)), str(seed)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:  # killed: no Python is left to tell
            return target.name, {"cases": 0, "crashed": 1, "crashes": {f"exit {done.returncode}": done.stderr[-2000:]}}
        return target.name, json.loads(done.stdout.splitlines()[-1])

    results = {}
    with ThreadPoolExecutor(2) as pool:
        for name, found in pool.map(one, sorted(TARGETS, key=lambda t: -t.share)):
            results[name] = found
            print(name, {k: v for k, v in found.items() if k != "crashes"}, list(found["crashes"]), flush=True)
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python tests/benchmarks/fuzz.py {cases} {seed}",
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {
            p: version(p) for p in ("hypothesis", "pyarrow", "polars", "pydantic", "pyyaml", "safetensors", "torch")
        },
        "cases": sum(r["cases"] for r in results.values()),
        "crashed": sum(r["crashed"] for r in results.values()),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps({**where, "targets": results}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(*(int(a) for a in (sys.argv[1:] or ["100000", "1"])))
