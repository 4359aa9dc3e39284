"""What saving the training state of long packs costs, and what it spares when a pack is killed.

    python tests/benchmarks/checkpoints.py [--device cpu] [--seconds 150] [--cases mlp,resnet] [--out DIR]
                                                                             (writes checkpoints-<device>.json)

For each case, in processes of their own: a pack of about so many seconds without states saved, and with them (at the
default 60 s); then a shorter pack that is killed (SIGKILL) after three quarters of its time and run again, without (the
naive way) and with states (every tenth of its time). Asserts nothing about time.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CASES: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp", "width": 128, "depth": 2, "batch": 64, "lr": 0.05},
    "resnet": {"model": "resnet", "width": 16, "batch": 128, "precision": "bf16", "lr": 0.05},
}
LANES = {("mlp", "cuda"): 1024, ("resnet", "cuda"): 64, ("mlp", "cpu"): 256, ("resnet", "cpu"): 4}
_SHORT = 60.0  # seconds of the pack that is killed


def sweep_of(case: str, device: str, steps: int, every: float) -> Any:
    from raysweep.sweep import from_mapping

    grid = {
        **CASES[case], "n_train": 4096, "pool": 4096, "eval_items": 1024, "select_items": 256,
        "seed": {"range": LANES[case, device]}, "steps": [min(16, steps), steps] if steps > 16 else [steps],
    }  # fmt: skip
    world = {"kind": "gaussian", "dim": 3072 if case == "resnet" else 192, "classes": 10, "layers": 0}
    lanes = LANES[case, device]
    resources = {"checkpoint_seconds": every, "memory_gib": 100 if device == "cuda" else 4, "lanes": lanes}
    resources |= {"gpus": 1} if device == "cuda" else {"cpus": 2}
    return from_mapping({"name": "c", "experiment": "classifier", "world": world, "grid": grid, "resources": resources})


def child(args: argparse.Namespace) -> None:
    """One run; prints how long the pack and each save took."""
    from raysweep.executors import Inline, keeping
    from raysweep.run import run
    from raysweep.store import Store

    saves: list[dict[str, float]] = []
    plain = keeping.Keeping.save

    def timed(self: Any, step: int, state: Any) -> None:
        size = 0

        def sized(about: dict[str, str]) -> bytes:
            nonlocal size
            data = state(about)
            size = len(data)
            return data

        started = time.monotonic()
        plain(self, step, sized)
        saves.append({"step": step, "seconds": time.monotonic() - started, "bytes": size})

    keeping.Keeping.save = timed  # type: ignore[method-assign]
    outcome = run(
        sweep_of(args.case, args.device, args.steps, args.every), Store(args.store), Inline(), stream=io.StringIO
    )
    print(json.dumps({"seconds": outcome.seconds, "ok": outcome.counts.ok, "saves": saves}))


def start(case: str, device: str, steps: int, every: float, store: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "child", case, device, str(steps), str(every), store]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def whole(case: str, device: str, steps: int, every: float, store: str) -> dict[str, Any]:
    process = start(case, device, steps, every, store)
    out = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{case}: the child ended with {process.returncode}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def killed(case: str, device: str, steps: int, every: float, store: str, after: float) -> float:
    """Wall seconds of a run killed after so many, and of the run that finishes it."""
    started = time.monotonic()
    process = start(case, device, steps, every, store)
    time.sleep(after)
    process.kill()
    process.communicate()
    whole(case, device, steps, every, store)
    return time.monotonic() - started


def measure(case: str, device: str, seconds: float, scratch: str, entry: dict[str, Any]) -> Iterator[None]:
    """Fills the entry; yields whenever it has more."""
    trials = (500, 4500) if device == "cuda" else (10, 60)
    trial = [whole(case, device, steps, 0, f"{scratch}/{case}-{steps}") for steps in trials]
    rate = (trials[1] - trials[0]) / (trial[1]["seconds"] - trial[0]["seconds"])
    steps, few = int(rate * seconds), int(rate * _SHORT)
    print(f"{case}: {rate:,.0f} steps/s of {LANES[case, device]:,} lanes; {steps:,} steps", flush=True)
    plain = whole(case, device, steps, 0, f"{scratch}/{case}-plain")
    kept = whole(case, device, steps, 60, f"{scratch}/{case}-kept")
    spent = sum(s["seconds"] for s in kept["saves"])
    entry |= {
        "lanes": LANES[case, device],
        "steps": steps,
        "plain_s": plain["seconds"],
        "kept_s": kept["seconds"],
        "saves": kept["saves"],
        "share_of_time_saving": spent / kept["seconds"],
        "wall_ratio": kept["seconds"] / plain["seconds"],
    }
    print(
        f"{case}: {plain['seconds']:.1f} s without, {kept['seconds']:.1f} s with {len(kept['saves'])} states saved "
        f"({kept['saves'][0]['bytes'] / 2**20:,.0f} MiB, {spent:.2f} s in all): "
        f"{entry['share_of_time_saving']:.2%} of the time" if kept["saves"] else f"{case}: nothing was saved",
        flush=True,
    )  # fmt: skip
    yield
    alone = time.monotonic()
    whole(case, device, few, 0, f"{scratch}/{case}-few")
    alone = time.monotonic() - alone
    after = 0.75 * alone
    naive = killed(case, device, few, 0, f"{scratch}/{case}-naive", after)
    ours = killed(case, device, few, _SHORT / 10, f"{scratch}/{case}-ours", after)
    entry["killed"] = {"undisturbed_s": alone, "killed_after_s": after, "naive_s": naive, "ours_s": ours}
    print(
        f"{case}: killed after {after:.0f} s of {alone:.0f} s: {naive:.1f} s in all without states, {ours:.1f} s with "
        f"them; lost {naive - alone:.1f} s against {ours - alone:.1f} s",
        flush=True,
    )
    yield


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        case, device, steps, every, store = sys.argv[2:7]
        child(argparse.Namespace(case=case, device=device, steps=int(steps), every=float(every), store=store))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--cases", default="mlp")
    parser.add_argument("--out", default=str(HERE))
    args = parser.parse_args()
    from packing_meter import where

    here = where(args.device)
    slug = re.sub(r"[^a-z0-9]+", "-", here["device"].lower()).strip("-") if args.device == "cuda" else "cpu"
    result: dict[str, Any] = {**here, "command": " ".join(["python", "tests/benchmarks/checkpoints.py", *sys.argv[1:]])}
    result["cases"] = {}
    path = Path(args.out, f"checkpoints-{slug}.json")
    for case in args.cases.split(","):
        entry = result["cases"][case] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for _ in measure(case, args.device, args.seconds, scratch, entry):
                path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
