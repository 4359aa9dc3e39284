"""The rivals' training under Ray Tune: plain (a function, Tune's defaults) and well tuned (a class, reused actors).

Called by packing.py:

    python tests/benchmarks/rivals_tune.py SPEC.json   (writes spec["out"])
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's servers keep to this machine's loopback
    "GLOO_SOCKET_IFNAME": "lo",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from rivals import Task, busy_rate, on_device, set_up, train, write  # noqa: E402

LOGGERS = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"


def plain(config: dict[str, Any], task: Task, data: dict[str, Any]) -> None:
    """What a user's first script does: everything anew in every trial."""
    set_up(task)
    tune.report(train(task, on_device(data, task.device), config["seed"]))


class Tuned(tune.Trainable):  # type: ignore[misc]
    """Set up once per actor; a whole training a `step`."""

    def setup(self, config: dict[str, Any], task: Task, data: dict[str, Any]) -> None:
        set_up(task)
        self.task, self.data, self.seed = task, on_device(data, task.device), config["seed"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.seed = new_config["seed"]
        return True

    def step(self) -> dict[str, Any]:
        return {**train(self.task, self.data, self.seed), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""


def fit(trainable: Any, task: Task, data: Mapping[str, Any], trials: int, slots: int, tuned: bool) -> dict[str, Any]:
    """One Tuner over so many trials, `slots` at a time."""
    share = {"cpu": 1.0} if task.device == "cpu" else {"cpu": min(1.0, (os.cpu_count() or 1) / slots), "gpu": 1 / slots}
    if tuned:
        os.environ[LOGGERS] = "1"
    else:
        os.environ.pop(LOGGERS, None)
    begin = time.time()
    with tempfile.TemporaryDirectory(prefix="packing-tune-") as folder:
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, task=task, data=dict(data)), share),
            param_space={"seed": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(metric="nll", mode="min", reuse_actors=True if tuned else None),
            run_config=tune.RunConfig(name="rival", storage_path=folder, verbose=0),
        ).fit()
        rows = [r.metrics for r in results if r.error is None and r.metrics and "nll" in r.metrics]
        errors = [str(r.error).strip().splitlines()[-1] for r in results if r.error is not None]
    end = time.time()
    return {
        "phase": [begin, end],
        "train_s": end - begin,
        "sample": trials,
        "slots": slots,
        "steps": task.steps,
        "nll": [r["nll"] for r in rows],
        # Reused actors start once, whatever the number of trials.
        **({"actors_s": min(r["begin"] for r in rows) - begin} if tuned and rows else {}),
        "steady": busy_rate(rows) if rows else {"steps_per_s": 0.0},
        "errors": len(errors),
        "error": errors[0] if errors else None,
    }


def main(spec: Mapping[str, Any]) -> None:
    """Plain Tune, then the scan and the sample of well-tuned Tune, in one session of Ray."""
    import dataclasses

    import numpy as np

    task = Task(**spec["task"])
    with np.load(spec["data"]) as file:
        data = dict(file)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({"num_cpus": spec["cores"], "num_gpus": 0} if task.device == "cpu" else {"num_gpus": 1}),
    )
    found: dict[str, Any] = {"startup_s": time.time() - spec["started"]}
    write(spec, found)
    found["plain"] = fit(plain, task, data, spec["sample"], spec["plain_slots"], tuned=False)
    write(spec, found)
    short = dataclasses.replace(task, steps=spec["scan_steps"])
    slots, scan = spec["slots"], {}
    if len(slots) > 1:
        for count in slots:
            scan[count] = fit(Tuned, short, data, count, count, tuned=True)["steady"]["steps_per_s"]
    found["tuned_scan"] = scan
    write(spec, found)
    best = max(scan, key=lambda c: scan[c]) if scan else slots[0]
    found["tuned"] = fit(Tuned, task, data, spec["sample"], best, tuned=True)
    write(spec, found)
    begin = time.time()
    ray.shutdown()
    write(spec, {**found, "shutdown_s": time.time() - begin})


if __name__ == "__main__":
    # Trainables must live in an importable module: as __main__'s they would be pickled by value.
    import rivals_tune

    rivals_tune.main(json.loads(Path(sys.argv[1]).read_text()))
