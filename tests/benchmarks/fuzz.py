"""Fuzzing of everything that reads what others wrote: sweep files, overrides, ledgers, stores, worlds, tables.

    python tests/benchmarks/fuzz.py [100000 cases in all, 1 seed, 2 processes]

Targets are those of tests/safety/hostile.py. A case works or raises one RaysweepError; anything else is a crash, and so
are more than 60 s and more than 1 GiB. Writes fuzz.json beside this file after each ten thousand cases of a target.
"""

from __future__ import annotations

import collections
import json
import os
import platform
import random
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

_SECONDS, _GROWTH_MIB, _CHUNK = 60, 1024, 10_000


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
    if isinstance(target.cases, hypothesis.strategies.SearchStrategy):
        settings = hypothesis.settings(
            max_examples=cases,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        hypothesis.seed(seed)(settings(hypothesis.given(target.cases)(go)))()
    else:
        for i in range(cases):
            go(target.cases(random.Random(f"{seed} {i}")))
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


def main(cases: int, seed: int, workers: int) -> None:
    from hostile import TARGETS

    def one(job: tuple[str, int, int]) -> dict[str, Any]:
        command = [sys.executable, "-W", "ignore", __file__, *map(str, job)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:  # killed: no Python is left to tell
            return {"crashed": 1, "crashes": {f"exit {done.returncode}": {"message": done.stderr[-2000:], "case": ""}}}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    jobs = []
    for target in TARGETS:
        wanted = round(cases * target.share)
        jobs += [(target.name, min(_CHUNK, wanted - at), seed * 1000 + at // _CHUNK) for at in range(0, wanted, _CHUNK)]
    jobs.sort(key=lambda job: job[2])
    results: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for (name, _, _), found in zip(jobs, pool.map(one, jobs), strict=True):
            _add(results.setdefault(name, {}), found)
            print(name, {k: v for k, v in results[name].items() if k != "crashes"}, list(results[name]["crashes"]))
            _write(results, cases, seed, workers)


def _add(total: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in found.items():
        if key == "crashes":
            total[key] = {**total.get(key, {}), **value}
        elif key in ("slowest_case_seconds", "memory_growth_mib"):
            total[key] = max(total.get(key, 0.0), value)
        else:
            total[key] = round(total.get(key, 0) + value, 1)


def _write(results: dict[str, Any], cases: int, seed: int, workers: int) -> None:
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python tests/benchmarks/fuzz.py {cases} {seed} {workers}",
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {
            p: version(p) for p in ("hypothesis", "pyarrow", "polars", "pydantic", "pyyaml", "safetensors", "torch")
        },
        "cases": sum(r.get("cases", 0) for r in results.values()),
        "crashed": sum(r["crashed"] for r in results.values()),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps({**where, "targets": results}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 4 and not sys.argv[1].isdecimal():
        print(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(*(int(a) for a in (sys.argv[1:] or ["100000", "1", "2"])))
