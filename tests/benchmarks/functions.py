"""A user's own function: what raysweep spends on its runs, its rows, its crashes and its store.

    python tests/benchmarks/functions.py [--out FILE] [--small] [trials observed crash fit]   (writes functions.json)

Cases that are not named keep their numbers in the file. Asserts nothing about time. Every measurement is a process of
its own; `wall_s` is from its start to its end, `startup_s` from its start to the first call of the function.

* `trials`: what a trial costs when the function sleeps 1 ms. The goal is <= 15 ms a trial, start-up apart. Beside it
  well-tuned Ray Tune (a class, reused actors, no loggers) and plain Ray Tune (a function, its defaults), which run
  fewer trials: their wall for all is extrapolated and marked so. `ms_per_trial` is what a trial more costs: the
  difference in wall between a large and a small number of them.
* `observed`: one run that yields a row for each of up to 64,000 values of an observed axis, in this process (inline).
  The goal is that a row more costs the same in a long run as in a short one, in time and memory.
* `crash`: six runs, of which three end their process at once, at each of their three attempts. The goal is a wall of
  little more than that of Ray's start: nobody waits for a crash that repeats at once.
* `fit`: `raysweep status` and `raysweep fit` on a store of 5,000 runs of a function. The goal is seconds.

`driver_mib` is the peak of resident memory of the process itself, `all_mib` that of it and all its children, with
shared memory counted once; it is sampled at most twice a second, so a process of a second or two may peak unseen. The
sizes of --small are only to try the script.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packing_bench import HERE, ROOT
from packing_meter import Sampler, installed, where

CHILD = str(HERE / "functions_child.py")
MODULE = """
import os
import time
from pathlib import Path

def nap(config):
    begin = time.time()
    time.sleep(config["nap"])
    return {"begin": begin, "end": time.time()}

def curve(config):
    for epoch in config["epoch"]:
        yield {"epoch": epoch, "loss": 1.0 / epoch, "begin": time.time()}

def crash(config):
    with open(Path(__file__).with_suffix(".calls"), "a") as calls:
        calls.write(f"{time.time()}\\n")
    if config["number"] < 3:
        os._exit(3)
    return {"loss": 1.0}

def power(config):
    return {"loss": config["size"] ** -0.5 * (1 + 0.01 * (config["seed"] % 7))}
"""
SIZES = {
    "trials": {"raysweep": (500, 5_000), "well-tuned Ray Tune": (100, 1_000), "plain Ray Tune": (20, 60)},
    "observed": (4_000, 16_000, 64_000),
    "fit": 5_000,
}
SMALL = {
    "trials": {"raysweep": (20, 60), "well-tuned Ray Tune": (10, 30), "plain Ray Tune": (2, 4)},
    "observed": (100, 400, 1_600),
    "fit": 60,
}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with the user's module."""
    with tempfile.TemporaryDirectory(prefix="functions-") as folder:
        (Path(folder) / "mine.py").write_text(MODULE)
        yield Path(folder)


def measured(spec: Mapping[str, Any], ok: int) -> dict[str, Any]:
    """One measurement in a process and a folder of its own, of which so many results are expected."""
    with scratch() as folder:
        found = process(folder, CHILD, json.dumps(spec))
    if found["ok"] != ok:
        raise RuntimeError(f"{spec}: {ok} results are expected, but it had {found}")
    return found


def process(folder: Path, *command: str) -> dict[str, Any]:
    """A command of Python in a folder: its wall and its memory.

    Raises:
        RuntimeError: it failed.
    """
    environment = {
        **os.environ,
        # Ray's workers import from here, too. Its servers keep to this machine's loopback.
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), str(folder), *filter(None, [os.getenv("PYTHONPATH")])]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "OMP_NUM_THREADS": "1",
    }
    answer, output = folder / "found.json", folder / "output"
    answer.unlink(missing_ok=True)
    begin, load = time.time(), os.getloadavg()[0]
    with open(output, "wb") as sink:
        words = [sys.executable, *command]
        started = subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    sampler = Sampler(started.pid, cuda=False)
    _, status, used = os.wait4(started.pid, 0)  # which also tells the memory of this one child
    wall = time.time() - begin
    started.returncode = os.waitstatus_to_exitcode(status)
    sampler.stop()
    if started.returncode:
        tail = output.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {started.returncode}:\n{tail}")
    found: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
    first, last, end = (found.pop(name, None) for name in ("first", "last", "end"))
    result = {"wall_s": round(wall - found.pop("read_s", 0.0), 2)}
    if first is not None:
        result["startup_s"] = round(first - begin, 2)
    if last is not None:
        result |= {"calls_s": round(last - first, 3), "end_s": round(result["wall_s"] - (last - begin), 2)}
    whole = sampler.peak([begin, end or begin + wall])["peak_host_bytes"]
    memory = {"driver_mib": round(used.ru_maxrss / 1024, 1), "all_mib": round(whole / 2**20, 1) if whole else None}
    return {**result, **memory, **found, "load": round(load, 2)}


def trials(sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Each way at a small and a large number of trials, and what it would take for raysweep's large one."""
    goal, found = sizes["raysweep"][-1], {}
    for way, counts in sizes.items():
        runs = []
        for count in counts:
            spec: dict[str, Any] = {"way": way, "trials": count}
            if way == "raysweep":
                grid = {"seed": {"range": count}, "nap": 0.001}
                spec = {"sweep": {"experiment": "mine:nap", "grid": grid}, "times": ["begin", "end"]}
            runs.append({"trials": count, **measured(spec, count)})
            print(f"  {way}: {runs[-1]}", flush=True)
        small, large = runs
        each = (large["wall_s"] - small["wall_s"]) / (large["trials"] - small["trials"])
        wall, extrapolated = large["wall_s"] + each * (goal - large["trials"]), large["trials"] < goal
        found[way] = {"ms_per_trial": round(1e3 * each, 2), f"wall_s_of_{goal}": round(wall, 1)} | {
            "extrapolated": f"from {small['trials']} and {large['trials']} trials" if extrapolated else False,
            "measured": runs,
        }
    ours = found["raysweep"]
    for entry in found.values():
        entry["times_raysweep"] = {
            name: round(entry[name] / ours[name], 2) if ours[name] > 0 else None
            for name in ("ms_per_trial", f"wall_s_of_{goal}")
        }
    return {"sleep_ms": 1, "goal_ms_per_trial": 15, **found}


def observed(sizes: tuple[int, ...]) -> dict[str, Any]:
    """One run of so many rows; rows a second between the first row and the end of the process."""
    runs: list[dict[str, Any]] = []
    for rows in sizes:
        asked = {"experiment": "mine:curve", "observed": ["epoch"], "grid": {"epoch": {"range": [1, rows + 1]}}}
        spec = {"sweep": asked, "executor": "inline", "times": ["begin"]}
        found = {"rows": rows, **measured(spec, rows)}
        found["rows_per_s"] = round(rows / (found["wall_s"] - found["startup_s"]))
        runs.append(found)
        print(f"  {found}", flush=True)
    more = [round(1e3 * (b["wall_s"] - a["wall_s"]) / (b["rows"] - a["rows"]), 4) for a, b in itertools.pairwise(runs)]
    return {"ms_per_row_more": more, "measured": runs}


def crash(_: Any) -> dict[str, Any]:
    grid = {"number": {"range": 6}}
    return measured({"sweep": {"experiment": "mine:crash", "grid": grid, "resources": {"attempts": 3}}}, ok=3)


def fit(runs: int) -> dict[str, Any]:
    """The commands, and `--help` for what starting them takes."""
    grid = {"size": {"log2": [2, 1024]}, "seed": {"range": runs // 10}}
    with scratch() as folder:
        process(folder, CHILD, json.dumps({"sweep": {"experiment": "mine:power", "grid": grid}}))
        found: dict[str, Any] = {"runs": runs, "ledger_files": sum(1 for _ in (folder / "store/ledger").iterdir())}
        commands = {"startup": "--help", "status": "status store", "fit": "fit store --x size --y loss"}
        for name, words in commands.items():
            found[name] = {"command": f"raysweep {words}", **process(folder, "-m", "raysweep", *words.split())}
            print(f"  {found[name]}", flush=True)
    return found


CASES: dict[str, Callable[[Any], dict[str, Any]]] = {"trials": trials, "observed": observed, "crash": crash, "fit": fit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--out", type=Path, help="default: functions.json beside this file")
    parser.add_argument("--small", action="store_true", help="tiny sizes, marked so; default --out a temporary file")
    asked = parser.parse_args()
    if unknown := set(asked.cases) - set(CASES):
        parser.error(f"cases must be among {', '.join(CASES)}, but got {', '.join(sorted(unknown))}")
    usual = Path(tempfile.gettempdir(), "functions-small.json") if asked.small else Path(__file__).with_suffix(".json")
    out: Path = asked.out or usual
    before = json.loads(out.read_text()) if out.exists() else {}
    results = before.get("results", {}) if before.get("small") == asked.small else {}
    here = where("cpu")
    here["versions"]["pyarrow"] = installed("pyarrow")
    for case in asked.cases or CASES:
        print(case, flush=True)
        sizes = (SMALL if asked.small else SIZES).get(case)
        results[case] = {"date": where("cpu")["date"], **CASES[case](sizes)}
        out.write_text(json.dumps({"small": asked.small, **here, "results": results}, indent=1) + "\n")
    print(f"{json.dumps(results, indent=1)}\nwrote {out}")


if __name__ == "__main__":
    main()
