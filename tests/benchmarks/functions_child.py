"""One measurement of functions.py, in this process: a sweep of a user's function, or as many trials of Ray Tune.

Called by functions.py:

    python tests/benchmarks/functions_child.py SPEC   (JSON; reads and writes the working folder)
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packing_meter import cores


def sweep(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep of one of the user's functions; what it counted."""
    from raysweep.executors import make_executor
    from raysweep.run import run
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    found = from_mapping({"name": "functions", **spec["sweep"]}, "functions.yaml", [Path.cwd()])
    outcome = run(found, Store("store"), make_executor(spec.get("executor", "ray")))
    return {"ok": outcome.counts.ok, "failed": outcome.counts.failed}


def calls(spec: Mapping[str, Any]) -> dict[str, Any]:
    """When the function was called first, and how often or when it was called last, as far as it says."""
    if (log := Path("mine.calls")).exists():
        begins = sorted(map(float, log.read_text().split()))
        return {"first": begins[0], "calls": len(begins)}
    if not (names := spec.get("times")):
        return {}
    from raysweep.ledger.log import Ledger
    from raysweep.store import Store

    table = Ledger(Store("store")).scan(names).table
    return {"first": min(table[names[0]].to_pylist()), "last": max(table[names[-1]].to_pylist())}


def rival(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A grid of as many Tune trials."""
    tuned = spec["way"].startswith("well")
    if tuned:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import ray
    import scheduling_trials
    from ray import tune

    ray.init(
        address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    quiet = {"verbose": 0} if tuned else {}
    results = tune.Tuner(
        scheduling_trials.Tuned if tuned else scheduling_trials.plain,
        param_space={"seed": tune.grid_search(list(range(spec["trials"]))), "nap": 0.001},
        tune_config=tune.TuneConfig(metric="end", mode="max", reuse_actors=True if tuned else None),
        run_config=tune.RunConfig(name="rival", storage_path=str(Path.cwd() / "tune"), **quiet),
    ).fit()
    ray.shutdown()
    rows = [result.metrics for result in results if result.error is None]
    return {"ok": len(rows), "first": min(r["begin"] for r in rows), "last": max(r["end"] for r in rows)}


def main(spec: Mapping[str, Any]) -> None:
    """One measurement. What it takes to read the times of the calls is noted, to be taken off."""
    found = rival(spec) if "way" in spec else sweep(spec)
    end = time.time()
    found["driver_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    if "way" not in spec:
        found |= calls(spec)
    Path("found.json").write_text(json.dumps({**found, "end": end, "read_s": time.time() - end}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
