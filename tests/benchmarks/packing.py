"""One grid, four ways in one run: plain Ray Tune, well-tuned Ray Tune, processes side by side, and raysweep's packs.

    python tests/benchmarks/packing.py run --device cpu --cases mlp-small,mlp     (writes packing-<device>.json)
    python tests/benchmarks/packing.py run --device cuda --cases mlp,resnet,vit,sweep --budget-s 480 --out DIR
    python tests/benchmarks/packing.py scaling --gpus 1,2,4 --out DIR
    python tests/benchmarks/packing.py figure [packing-<device>.json]

Asserts nothing about time. What is measured:

* `steady`: model-steps a second of training alone. raysweep: between snapshots of one pack a core (or GPU) through
  `EXPERIMENT.run`, without start-up, capture and evaluation. Rivals: inside their training loops, while as many train
  as ever do at once; starts of actors and processes left out, which flatters them.
* `wall`: the whole command, start-up included. Rivals train a sample of the grid's runs; their wall for the grid is
  start-up + training * (runs / sample), and says so.
* `nll`: mean cross-entropy to the hard labels of the final models on one evaluation sample, which must agree.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WAYS = ("plain Ray Tune", "well-tuned Ray Tune", "processes", "raysweep")
ITEMSIZE = {"bf16": 2}  # of an activation; 4 otherwise
TOTALS = (1024, 16384)  # grids whose wall is also told, extrapolated


@dataclass(frozen=True)
class Case:
    """A shape, and how large the grids around it are.

    Attributes:
        steps: Of every run of the grid.
        runs: Of the end-to-end grid.
        lanes: Of the packs at steady state.
        separation: Of the world's classes: images need more to be learned at all.
        scan_steps: Of a run while the rivals' concurrency is chosen.
    """

    name: str
    model: str
    inputs: int
    width: int
    depth: int
    batch: int
    lr: float
    steps: int
    runs: int
    lanes: tuple[int, ...]
    precision: str = "float32"
    activation: str = "relu"
    separation: float = 3.0
    pool: int = 4096
    eval_items: int = 1024
    scan_steps: int = 200

    @property
    def key(self) -> str:
        return f"{self.name}/{self.precision}"


def cases_of(name: str, device: str, precisions: Sequence[str], quick: bool) -> list[Case]:
    """A named case in each of its precisions.

    Raises:
        SystemExit: no such case.
    """
    cuda = device != "cpu"
    tf32 = ("tf32",) if cuda else ("float32",)
    small = Case("mlp-small", "mlp", 64, 16, 2, 64, 0.05, 2000, 256, (128,))
    mlp = Case("mlp", "mlp", 192, 128, 2, 128, 0.05, 2000, 64, (16, 64))
    image = {"inputs": 3072, "batch": 128, "separation": 10.0, "scan_steps": 60}
    resnet = Case("resnet", "resnet", width=16, depth=1, lr=0.05, steps=30, runs=8, lanes=(4,), **image)  # type: ignore[arg-type]
    vit = Case("vit", "vit", width=64, depth=4, lr=0.02, steps=30, runs=8, lanes=(4,), activation="gelu", **image)  # type: ignore[arg-type]
    if cuda:
        small = replace(small, runs=1024, lanes=(256, 1024, 4096))
        mlp = replace(mlp, runs=1024, lanes=(64, 256, 1024))
        resnet, vit = (replace(c, steps=300, runs=64, lanes=(16, 64)) for c in (resnet, vit))
    else:
        mlp = replace(mlp, steps=500)
        resnet, vit = (replace(c, scan_steps=8) for c in (resnet, vit))
    known = {
        "mlp-small": (small, tf32),
        "mlp": (mlp, tf32),
        "resnet": (resnet, ("bf16", "tf32") if cuda else tf32),
        "vit": (vit, ("bf16", "tf32") if cuda else tf32),
    }
    if name not in known:
        raise SystemExit(f"--cases must be among {', '.join(known)}, sweep, but got {name!r}")
    case, own = known[name]
    if quick:
        lanes = (8,) if case.model == "mlp" else (2,)
        case = replace(case, steps=50 if case.model == "mlp" else 10, runs=lanes[0], lanes=lanes)
        case = replace(case, scan_steps=min(20, case.scan_steps))
    return [replace(case, precision=p) for p in (precisions or own)]


# What a model-step costs, counted


def architecture(case: Case) -> Any:
    from raysweep.models import Architecture

    return Architecture(case.model, case.inputs, 10, case.width, case.depth, case.activation)


def counted(case: Case) -> dict[str, float]:
    """FLOPs and bytes of a model-step. Bytes are a floor: parameters, gradients and velocities read and written once,
    and each activation three times (written, read, its gradient).
    """
    layout = architecture(case).layout
    itemsize = ITEMSIZE.get(case.precision, 4)
    return {
        "parameters": layout.size,
        "flops": case.batch * (layout.forward_flops + layout.backward_flops),
        "bytes_floor": layout.size * 4 * 6 + layout.activations * case.batch * itemsize * 3,
    }


# The machine


def cores() -> int:
    return len(os.sched_getaffinity(0))


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        with suppress(Exception):
            return str(__import__(name).__version__)
        return None


def device_name(device: str) -> str:
    if device != "cpu":
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        with suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
        return "cuda"
    with suppress(OSError, IndexError):
        return re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[0].strip()
    return platform.machine()


def where(device: str) -> dict[str, Any]:
    """Everything a reader needs to place the numbers."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores(),
        "load_average": os.getloadavg()[0],
        "device": device_name(device),
        "versions": {name: installed(name) for name in ("torch", "ray", "numpy", "raysweep")},
    }


class Sampler:
    """Memory of a process and all its children, and of the GPU, at most twice a second."""

    def __init__(self, pid: int, cuda: bool) -> None:
        self.pid, self.cuda = pid, cuda
        self.seen: list[tuple[float, float, float]] = []
        self._over = threading.Event()
        self._handle: Any = None
        if cuda:
            with suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
                index = int(first) if first.isdigit() else 0
                self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)
        self.base = self._device()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _device(self) -> float:
        return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used) if self._handle else math.nan

    def _host(self) -> float:
        import psutil

        total = 0.0
        with suppress(psutil.Error):
            parent = psutil.Process(self.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.Error):
                    total += _own_memory(process.pid) or process.memory_info().rss
        return total

    def _watch(self) -> None:
        pause = 0.5
        while not self._over.wait(pause):
            begin = time.time()
            self.seen.append((begin, self._host(), self._device() - self.base))
            pause = max(0.5, 30 * (time.time() - begin))  # looking must not cost what is measured

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def peak(self, phase: Sequence[float]) -> dict[str, float | None]:
        """The most seen in a span of time."""
        own = [s for s in self.seen if phase[0] <= s[0] <= phase[1] + 0.5]
        device = [d for *_, d in own if not math.isnan(d)]
        return {
            "peak_host_bytes": max((h for _, h, _ in own), default=None),
            "peak_device_bytes": max(device, default=None),
        }


def _own_memory(pid: int) -> float:
    """A process's memory, with what it shares divided among those that share it; 0 where the kernel does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return 1024 * float(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0])
    return 0.0


class Bench:
    """A run of the benchmark: its budget, its folder, its result so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, args.device
        self.cuda = args.device != "cpu"
        self.deadline = time.time() + args.budget_s
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        here = where(self.device)
        slug = re.sub(r"[^a-z0-9]+", "-", here["device"].lower()).strip("-") if self.cuda else "cpu"
        self.path = self.out / f"packing-{slug}{'-quick' if args.quick else ''}.json"
        self.result: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.here = here
        self.result.pop("skipped", None)
        self.result |= {k: v for k, v in here.items() if k != "load_average"}
        self.scratch = Path(tempfile.mkdtemp(prefix="packing-"))
        self.cores = cores()

    @property
    def left(self) -> float:
        return self.deadline - time.time()

    def save(self) -> None:
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.result, indent=1) + "\n")
        partial.replace(self.path)

    def fits(self, what: str, seconds: float) -> bool:
        """Whether a phase of about so long still fits in the budget; says so if not."""
        if self.left > seconds:
            return True
        note = f"skipped: {what}: {max(self.left, 0):.0f} s of the budget left, about {seconds:.0f} s wanted"
        say(note)
        self.result.setdefault("skipped", []).append(note)
        self.save()
        return False

    def environment(self) -> dict[str, str]:
        """For children: raysweep importable; where PYTHONPATH matters, also in Ray's workers, which lose it."""
        paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        path = os.pathsep.join(paths)
        found = {**os.environ, "PYTHONPATH": path}
        if os.environ.get("PYTHONPATH"):  # read by ray.init: the only way in for `python -m raysweep`
            job = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}
            found |= {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job), "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
        return found

    @contextmanager
    def child(self, command: Sequence[str], name: str, **extra: str) -> Iterator[tuple[Sampler, dict[str, Any]]]:
        """Run a command to its end or the budget's; its output goes to a file."""
        log = self.scratch / f"{name}.log"
        environment = {**self.environment(), **extra}
        begin = time.time()
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
            )
        sampler = Sampler(process.pid, self.cuda)
        ended: dict[str, Any] = {"begin": begin}
        try:
            ended["rc"] = process.wait(max(self.left, 5.0))
        except subprocess.TimeoutExpired:
            ended["rc"] = "cut off: the budget is spent"
            _end(process)
        ended["end"] = time.time()
        ended["wall_s"] = ended["end"] - begin
        sampler.stop()
        ended["log"] = log.read_text(errors="replace")[-3000:]
        if ended["rc"] != 0:
            say(f"!! {name}: ended with {ended['rc']}; its last lines:\n{ended['log'][-1500:]}")
        yield sampler, ended

    def helper(self, script: str, name: str, spec: dict[str, Any]) -> tuple[dict[str, Any], Sampler, dict[str, Any]]:
        """Run a helper script; what it wrote, however far it came."""
        out = self.scratch / f"{name}.json"
        spec_path = self.scratch / f"{name}.spec.json"
        spec_path.write_text(json.dumps({**spec, "out": str(out), "started": time.time(), "cores": self.cores}))
        with self.child([sys.executable, str(HERE / script), str(spec_path)], name) as (sampler, ended):
            found = json.loads(out.read_text()) if out.exists() else {}
        return found, sampler, ended

    def ledger(self, store: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of a store's rows."""
        from raysweep.ledger import Ledger
        from raysweep.store import Store

        table = Ledger(Store(str(store))).scan(list(columns)).table
        return {name: table.column(name).to_pylist() for name in columns}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child of ours and its children."""
    import psutil

    with suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.Error):
                child.kill()
    process.wait()


def say(text: str) -> None:
    print(text, flush=True)


# raysweep


def recipe(case: Case) -> dict[str, Any]:
    return {"kind": "gaussian", "classes": 10, "dim": case.inputs, "separation": case.separation, "layers": 0}


def sweep_of(case: Case, runs: int) -> dict[str, Any]:
    """The grid as a sweep file: runs differ in their seed."""
    return {
        "name": "packing",
        "experiment": "classifier",
        "world": recipe(case),
        "grid": {
            "model": case.model,
            "width": case.width,
            "depth": case.depth,
            "activation": case.activation,
            "batch": case.batch,
            "lr": case.lr,
            "precision": case.precision,
            "n_train": case.pool,
            "pool": case.pool,
            "steps": case.steps,
            "eval_items": case.eval_items,
            "select_items": 16,
            "eval_share": 0.0,
            "seed": {"range": runs},
        },
    }


def resources(bench: Bench, lanes: int | None) -> dict[str, Any]:
    """Of a pack."""
    found: dict[str, Any] = {"cpus": 1.0}
    if bench.cuda:
        found |= {"gpus": 1.0, "memory_gib": bench.args.memory_gib}
    return found | ({"lanes": lanes} if lanes else {})


def end_to_end(bench: Bench, case: Case, runs: int) -> dict[str, Any]:
    """`python -m raysweep run` on an empty store: everything a user waits for."""
    import yaml

    name = f"e2e-{case.name}-{case.precision}-{runs}"
    store, file = bench.scratch / f"store-{name}", bench.scratch / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**sweep_of(case, runs), "resources": resources(bench, bench.args.lanes)}))
    command = [sys.executable, "-m", "raysweep", "run", str(file), "--store", str(store)]
    with bench.child(command, name) as (sampler, ended):
        found: dict[str, Any] = {"wall_s": ended["wall_s"], "runs": runs, "rc": ended["rc"], "command": command[1:4]}
        found |= sampler.peak([ended["begin"], ended["end"]])
    with suppress(Exception):
        rows = bench.ledger(store, ["nll", "status", "pack", "seconds"])
        sound = [s == "ok" for s in rows["status"]]
        nll = [v for v, ok in zip(rows["nll"], sound, strict=True) if ok]
        found["nll"] = nll[:: max(1, len(nll) // 1024)]  # enough to compare, and a small file
        found["unsound"] = len(sound) - sum(sound)
        packs = {p: [s for s, q in zip(rows["seconds"], rows["pack"], strict=True) if q == p] for p in rows["pack"]}
        found["packs"] = [{"lanes": len(s), "seconds": sum(s)} for s in packs.values()]
    if found["rc"] != 0 or not found.get("nll"):
        found["error"] = ended["log"][-1500:]
    return found


def world_data(bench: Bench, case: Case) -> tuple[Path, Path, str]:
    """The world in a store of its own, and its pool and evaluation sample as the rivals read them."""
    import numpy as np

    from raysweep.oracle.recipe import folder_of, parse_recipe
    from raysweep.oracle.world import prepare
    from raysweep.store import Store

    made = parse_recipe(json.dumps(recipe(case)), "packing")
    store, folder = bench.scratch / "worlds", folder_of(made)
    data = bench.scratch / f"{Path(folder).name}-{case.pool}-{case.eval_items}.npz"
    if not data.exists():
        world, _ = prepare(Store(str(store)), made, lambda flow: None)  # type: ignore[arg-type, return-value]
        pool, held_out = world.sample(case.pool, "pool"), world.sample(case.eval_items, "eval")
        np.savez(data, x=pool.x, y=pool.y, eval_x=held_out.x, eval_y=held_out.y)
    return store, data, folder


def steady_case(bench: Bench, case: Case, lanes: int, target_s: float) -> dict[str, Any]:
    """What packed.py measures one pack by."""
    store, _, folder = world_data(bench, case)
    return {
        "label": {"case": case.key, "width": case.width, "lanes": lanes},
        "sweep": sweep_of(case, lanes),
        "store": str(store),
        "folder": folder,
        "device": bench.device,
        "warm": 20 if bench.cuda and not bench.args.quick else 5,
        "unit": 16 if bench.cuda else 4,
        "repeats": bench.args.repeats,
        "target_s": target_s,
        "packs": 1 if bench.cuda else bench.cores,
    }


def run_packs(bench: Bench, name: str, cases: list[dict[str, Any]], precisions: list[str]) -> dict[str, Any]:
    spec = {"cases": cases, "device": bench.device, "ceilings": precisions, "quick": bench.args.quick}
    found, sampler, _ = bench.helper("packed.py", name, {**spec, "deadline": bench.deadline - 5})
    for one in found.get("steady", ()):
        if "phase" in one:
            one |= sampler.peak(one.pop("phase"))
    return found


# The rivals


def task_of(case: Case, device: str) -> dict[str, Any]:
    sys.path.insert(0, str(HERE))
    from rivals import Task

    return asdict(
        Task(case.model, case.inputs, 10, case.width, case.depth, case.batch, case.steps, case.lr, case.precision,
             device, activation=case.activation)
    )  # fmt: skip


def same_size(case: Case) -> dict[str, Any]:
    """The rivals' model must have raysweep's parameters, one for one."""
    import torch
    from rivals import Task, build

    with torch.device("meta"):
        theirs = sum(p.numel() for p in build(Task(**task_of(case, "cpu"))).parameters())
    ours = architecture(case).layout.size
    if theirs != ours:
        say(f"!! {case.key}: the rivals' model has {theirs:,} parameters, raysweep's {ours:,}")
    return {"raysweep": ours, "rivals": theirs}


def processes_way(bench: Bench, case: Case, tasks: list[dict[str, Any]], sample: int) -> dict[str, Any]:
    _, data, _ = world_data(bench, case)
    spec = {"tasks": tasks, "data": str(data), "counts": bench.args.processes, "sample": sample}
    found, sampler, _ = bench.helper(
        "rivals.py", f"processes-{case.name}-{case.precision}-{len(tasks)}", {**spec, "scan_steps": case.scan_steps}
    )
    for one in found.get("tasks", ()):
        if "phase" in one:
            one |= sampler.peak(one.pop("phase"))
        one["shutdown_s"] = found.get("shutdown_s", 0.0)
    return found


def tune_ways(bench: Bench, case: Case, task: dict[str, Any], sample: int) -> dict[str, Any]:
    _, data, _ = world_data(bench, case)
    spec = {"task": task, "data": str(data), "sample": sample, "scan_steps": case.scan_steps}
    spec |= {"slots": bench.args.slots, "plain_slots": bench.args.plain_slots}
    found, sampler, _ = bench.helper("rivals_tune.py", f"tune-{case.name}-{case.precision}", spec)
    for way in ("plain", "tuned"):
        if way in found:
            found[way] |= sampler.peak(found[way].pop("phase"))
            found[way] |= {"startup_s": found["startup_s"], "shutdown_s": found.get("shutdown_s", 0.0)}
            if found[way]["errors"]:
                say(f"!! {case.key}: {found[way]['errors']} trials of {way} Tune failed: {found[way]['error']}")
    return found


def costs(way: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds a way takes whatever the grid, and seconds a run adds. Reused actors start once, plain ones each time."""
    once = way.get("actors_s", 0.0)
    return way["startup_s"] + way["shutdown_s"] + once, (way["train_s"] - once) / way["sample"]


def walls(way: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Fixed + what a run costs * runs, for the case's grid and for larger ones."""
    fixed, each = costs(way)
    found = {str(n): {"wall_s": fixed + each * n, "extrapolated": n != way["sample"], "sample": way["sample"]}
             for n in sorted({case.runs, *TOTALS})}  # fmt: skip
    return {"walls": found, "wall_s": found[str(case.runs)]["wall_s"], "extrapolated": case.runs != way["sample"]}


# The case as a whole


def agreement(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean final loss of each way, its standard error over runs, and how far apart any two are."""
    found: dict[str, Any] = {}
    for way, nll in values.items():
        if len(nll) > 1:
            found[way] = {
                "mean": statistics.fmean(nll),
                "se": statistics.stdev(nll) / len(nll) ** 0.5,
                "runs": len(nll),
            }
    ways = list(found)
    apart = {
        f"{a} - {b}": (found[a]["mean"] - found[b]["mean"]) / max(math.hypot(found[a]["se"], found[b]["se"]), 1e-12)
        for i, a in enumerate(ways)
        for b in ways[i + 1 :]
    }
    worst = max(apart, key=lambda pair: abs(apart[pair]), default=None)
    return {
        "ways": found,
        "z": apart,
        "worst": worst,
        "agree": len(ways) == len(WAYS) and all(abs(z) <= 4 for z in apart.values()),
        "complete": len(ways) == len(WAYS),
    }


def measure(bench: Bench, case: Case) -> None:
    """All ways of one case; what is known is saved after each."""
    args = bench.args
    say(f"\n== {case.key} on {bench.here['device']}: {case.runs:,} runs x {case.steps:,} steps, batch {case.batch}")
    if args.steps:
        case = replace(case, steps=args.steps)
    # JSON has lists for tuples: compare and keep what JSON would hold.
    plain = json.loads(json.dumps(asdict(case)))
    entry: dict[str, Any] = {"case": plain, **where(bench.device), "counted": counted(case), "ways": {}}
    entry["parameters"] = same_size(case)
    old = bench.result.setdefault("cases", {}).get(case.key, {})
    if args.keep and old.get("case") == plain:
        entry["ways"] = {w: {"date": old["date"], **v} for w, v in old["ways"].items() if _kind(w) not in args.ways}
        entry["ceilings"] = old.get("ceilings")
    bench.result["cases"][case.key] = entry
    ways = entry["ways"]
    sample = min(args.sample, case.runs)
    lanes = args.steady_lanes or case.lanes
    if "raysweep" in args.ways:
        if bench.fits(f"{case.key} raysweep steady", 15):
            packs = [steady_case(bench, case, n, args.target_s) for n in lanes]
            found = run_packs(bench, f"steady-{case.name}-{case.precision}", packs, [case.precision])
            entry["ceilings"] = found.get("ceilings")
            ways.setdefault("raysweep", {})["steady"] = found.get("steady", [])
            bench.save()
        for runs in args.runs or [case.runs]:
            if bench.fits(f"{case.key} raysweep end to end, {runs:,} runs", 20):
                ways.setdefault("raysweep", {}).setdefault("end_to_end", []).append(end_to_end(bench, case, runs))
                bench.save()
    task = ways.get("processes", {}).get("variant") or task_of(case, bench.device)
    if "processes" in args.ways and bench.fits(f"{case.key} processes", 25):
        found = processes_way(bench, case, [task], sample)
        for one in found.get("tasks", ()):
            task = {**one["variant"]}
            if "train_s" in one:
                one |= walls(one, case)
            ways["processes"] = one
        bench.save()
    if "tune" in args.ways and bench.fits(f"{case.key} Ray Tune", 40):
        found = tune_ways(bench, case, task, sample)
        for name, way in (("plain", WAYS[0]), ("tuned", WAYS[1])):
            if name in found:
                ways[way] = {**found[name], **walls(found[name], case)}
        if WAYS[1] in ways:
            ways[WAYS[1]]["scan"] = found["tuned_scan"]
        bench.save()
    finish(entry)
    bench.save()
    show(entry)


def _kind(way: str) -> str:
    """What --ways calls it."""
    return "tune" if "Tune" in way else way


def finish(entry: dict[str, Any]) -> None:
    """The agreement and the table out of what was measured."""
    case, ways, per_step = entry["case"], entry["ways"], entry["counted"]
    losses: dict[str, Sequence[float]] = {w: ways[w].get("nll", ()) for w in WAYS[:3] if w in ways}
    ends = [e for e in ways.get("raysweep", {}).get("end_to_end", ()) if e.get("nll")]
    if ends:
        losses["raysweep"] = ends[-1]["nll"]
    entry["agreement"] = agreement(losses)
    rows: list[dict[str, Any]] = []
    for way in WAYS[:3]:
        if way not in ways:
            continue
        told = ways[way]
        at = {"processes": "processes"}.get(way, "slots")
        row = {"way": f"{way}, {told[at]} at once", "steady": told.get("steady", {}).get("steps_per_s")}
        row |= {k: told.get(k) for k in ("wall_s", "extrapolated", "sample", "peak_device_bytes", "peak_host_bytes")}
        rows.append(row | {"runs": case["runs"]})
    for pack in ways.get("raysweep", {}).get("steady", ()):
        name = f"raysweep steady, {pack.get('packs', 1)} x {pack['lanes']:,} lanes"
        if pack.get("unsound_lanes"):
            say(f"!! {name}: {pack['unsound_lanes']} lanes diverged, and the pack shrank: its rate is too high")
        rows.append({"way": name, "steady": pack.get("steps_per_s"), "error": pack.get("error"),
                     "peak_device_bytes": pack.get("peak_reserved_bytes"),
                     "peak_host_bytes": pack.get("peak_host_bytes")})  # fmt: skip
    for end in ways.get("raysweep", {}).get("end_to_end", ()):
        rows.append({"way": "raysweep end to end", "wall_s": end["wall_s"], "runs": end["runs"],
                     "error": f"failed ({end['rc']})" if "error" in end else None,
                     **{k: end[k] for k in ("peak_device_bytes", "peak_host_bytes")}})  # fmt: skip
    rates = [p["steps_per_s"] for p in ways.get("raysweep", {}).get("steady", ()) if p.get("steps_per_s")]
    if ends and rates:
        ways["raysweep"]["walls"] = {
            str(n): {
                "wall_s": ends[-1]["wall_s"] + (n - ends[-1]["runs"]) * case["steps"] / max(rates),
                "extrapolated": True,
                "sample": ends[-1]["runs"],
            }
            for n in TOTALS
            if n > ends[-1]["runs"]
        }
    base = {way: ways.get(way, {}) for way in WAYS[:2]}
    limits = entry.get("ceilings") or {}
    for row in rows:
        if row.get("wall_s") and not row.get("error"):
            row["end_to_end"] = row["runs"] * case["steps"] / row["wall_s"]
        for way, short in zip(WAYS, ("plain", "tuned"), strict=False):
            theirs = base[way].get("steady", {}).get("steps_per_s")
            if theirs and row.get("steady"):
                row[f"steady_over_{short}"] = row["steady"] / theirs
            if row.get("end_to_end") and "train_s" in base[way]:
                fixed, each = costs(base[way])
                row[f"wall_{short}_over_this"] = (fixed + each * row["runs"]) / row["wall_s"]
        if row.get("steady"):
            row["flops_per_s"] = row["steady"] * per_step["flops"]
            row["bytes_per_s_floor"] = row["steady"] * per_step["bytes_floor"]
            if peak := limits.get(f"matmul_{case['precision']}_flops_per_s"):
                row["flops_share"] = row["flops_per_s"] / peak
            if peak := limits.get("copy_bytes_per_s"):
                row["bytes_share"] = row["bytes_per_s_floor"] / peak
    entry["table"] = rows


def show(entry: Mapping[str, Any]) -> None:
    """The table, and whether all ways trained the same thing."""

    def number(value: float | None, form: str, scale: float = 1.0, tail: str = "") -> str:
        return "" if value is None else f"{value / scale:{form}}{tail}"

    say(f"{'way':34}{'steady/s':>11}{'/plain':>8}{'/tuned':>8}{'end-to-end/s':>14}{'wall s':>10}{'plain/':>8}"
        f"{'tuned/':>8}{'dev GiB':>9}{'host GiB':>9}{'GFLOP/s':>10}{'GB/s >=':>9}{'%FLOP':>7}{'%byte':>7}")  # fmt: skip
    for row in entry["table"]:
        if row.get("error"):
            say(f"{row['way']:34} {row['error']}")
            continue
        say(
            f"{row['way']:34}{number(row.get('steady'), '11,.0f'):>11}{number(row.get('steady_over_plain'), '.1f'):>8}"
            f"{number(row.get('steady_over_tuned'), '.1f'):>8}{number(row.get('end_to_end'), ',.0f'):>14}"
            f"{number(row.get('wall_s'), ',.1f', tail='*' if row.get('extrapolated') else ''):>10}"
            f"{number(row.get('wall_plain_over_this'), '.1f'):>8}{number(row.get('wall_tuned_over_this'), '.1f'):>8}"
            f"{number(row.get('peak_device_bytes'), '.2f', 2**30):>9}"
            f"{number(row.get('peak_host_bytes'), '.2f', 2**30):>9}{number(row.get('flops_per_s'), ',.1f', 1e9):>10}"
            f"{number(row.get('bytes_per_s_floor'), ',.1f', 1e9):>9}{number(row.get('flops_share'), '.1f', 0.01):>7}"
            f"{number(row.get('bytes_share'), '.1f', 0.01):>7}"
        )
    samples = sorted({r["sample"] for r in entry["table"] if r.get("extrapolated")})
    if samples:
        say(f"* extrapolated linearly from a sample of {', '.join(map(str, samples))} runs; start-up measured")
    say("steady/s and end-to-end/s: model-steps a second; /plain, /tuned: ratio of steady rates; plain/, tuned/: their "
        "wall over this one's; bytes: a counted floor (parameters, gradients, velocities, activations)")  # fmt: skip
    for way in WAYS:
        for n, told in entry["ways"].get(way, {}).get("walls", {}).items():
            note = f", extrapolated from {told['sample']}" if told["extrapolated"] else ""
            say(f"  {way}, {int(n):,} runs x {entry['case']['steps']:,} steps: {told['wall_s']:,.0f} s{note}")
    found = entry["agreement"]
    for way, one in found["ways"].items():
        say(f"  final loss, {way}: {one['mean']:.4f} +- {one['se']:.4f} nats over {one['runs']} runs")
    if found["worst"]:
        z = found["z"][found["worst"]]
        verdict = "all ways agree" if found["agree"] else ("MISMATCH" if abs(z) > 4 else "ways are missing")
        mark = "!!!! " if verdict == "MISMATCH" else ""
        say(f"  {mark}{verdict}: farthest apart {found['worst']}, {z:+.1f} combined standard errors")


def sweep(bench: Bench) -> None:
    """Widths and lanes for the figure: packs over processes side by side, as many as plain Tune has slots."""
    args = bench.args
    precision = (args.precisions or (["tf32"] if bench.cuda else ["float32"]))[0]
    base = replace(cases_of("mlp", bench.device, [precision], False)[0], scan_steps=100 if bench.cuda else 200)
    widths, lanes = args.widths, args.sweep_lanes
    if not bench.fits("sweep", 30):
        return
    say(f"\n== sweep: widths {widths}, lanes {lanes}, {precision}")
    shapes = [replace(base, width=w) for w in widths]
    saved = args.processes
    args.processes = [args.plain_slots if bench.cuda else bench.cores]
    theirs = processes_way(bench, base, [task_of(c, bench.device) for c in shapes], 0)
    args.processes = saved
    entry: dict[str, Any] = {
        **where(bench.device),
        "case": asdict(base),
        "widths": widths,
        "lanes": lanes,
        "left_out": "packs above 4e10 FLOP a step" if not bench.cuda else None,
        "rival": "processes side by side, as many as plain Ray Tune has slots, without Tune's own cost",
        "rival_steps_per_s": {c.width: max(t["scan"].values()) for c, t in zip(shapes, theirs.get("tasks", ()),
                                                                               strict=False)},
    }  # fmt: skip
    bench.result["sweep"] = entry
    bench.save()
    most = math.inf if bench.cuda else 4e10  # FLOPs of one step of a pack: more would take minutes
    shown = [(c, n) for n in lanes for c in shapes if n * counted(c)["flops"] <= most]
    cases = [steady_case(bench, c, n, args.target_s / 3) for c, n in shown]
    found = run_packs(bench, "sweep", cases, [])
    entry["steady"] = [
        {k: p.get(k) for k in ("width", "lanes", "steps_per_s", "repeats", "packs", "unsound_lanes", "error")}
        for p in found.get("steady", ())
    ]
    bench.save()
    say(f"{'width':>6}" + "".join(f"{n:>10,}" for n in lanes) + "   (over processes side by side)")
    for w in widths:
        rate = entry["rival_steps_per_s"].get(w)
        own = {p["lanes"]: p["steps_per_s"] for p in entry["steady"] if p["width"] == w and p["steps_per_s"]}
        say(f"{w:>6}" + "".join(f"{own[n] / rate:>10.1f}" if rate and n in own else f"{'':>10}" for n in lanes))


def scaling(bench: Bench) -> None:
    """The same packs a GPU on 1, 2, 4 GPUs: throughput_n / (n * throughput_1), from the ledger."""
    import yaml

    args = bench.args
    case = cases_of(args.cases[0], bench.device, args.precisions, args.quick)[0]
    lanes = (args.steady_lanes or case.lanes)[-1]
    steps = args.steps or case.steps
    warm = max(1, steps // 10)
    _, _, folder = world_data(bench, case)
    entry: dict[str, Any] = {**where(bench.device), "case": asdict(case), "world": folder, "lanes": lanes,
                             "steps": steps, "packs_per_gpu": args.packs_per_gpu, "gpus": {}}  # fmt: skip
    bench.result.setdefault("scaling", {})[case.key] = entry
    for n in args.gpus:
        if not bench.fits(f"scaling on {n}", 30):
            continue
        runs = n * args.packs_per_gpu * lanes
        raw = sweep_of(case, runs)
        raw["grid"] |= {"steps": [warm, steps], "eval_items": 256}
        raw["resources"] = resources(bench, lanes)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(64)))).split(",")[:n]
        extra = {"CUDA_VISIBLE_DEVICES": ",".join(visible)} if bench.cuda else {}
        if not bench.cuda:  # as many packs at a time as there would be GPUs
            raw["resources"]["cpus"] = max(1, bench.cores // n)
        file, store = bench.scratch / f"scaling-{n}.yaml", bench.scratch / f"scaling-{n}"
        file.write_text(yaml.safe_dump(raw))
        command = [sys.executable, "-m", "raysweep", "run", str(file), "--store", str(store)]
        with bench.child(command, f"scaling-{n}", **extra) as (_, ended):
            found: dict[str, Any] = {"wall_s": ended["wall_s"], "rc": ended["rc"], "runs": runs}
        with suppress(Exception):
            found |= _throughput(bench.ledger(store, ["pack", "steps", "seconds", "finished_at", "status"]), n)
        entry["gpus"][str(n)] = found
        bench.save()
    one = entry["gpus"].get("1", {})
    say(f"\n== scaling of {case.key}, {args.packs_per_gpu} packs of {lanes:,} lanes x {steps:,} steps a GPU")
    kinds = ("end_to_end_steps_per_s", "ledger_steps_per_s", "steady_steps_per_s")
    for n, found in entry["gpus"].items():
        found["end_to_end_steps_per_s"] = found["runs"] * steps / found["wall_s"]
        told = []
        for kind in kinds:
            if found.get(kind) and one.get(kind):
                found[f"efficiency_{kind.removesuffix('_steps_per_s')}"] = found[kind] / (int(n) * one[kind])
                told.append(f"{kind.removesuffix('_steps_per_s').replace('_', ' ')} {found[kind]:,.0f}/s "
                            f"({100 * found[kind] / (int(n) * one[kind]):.0f} %)")  # fmt: skip
        say(f"{n:>3} GPU: wall {found['wall_s']:.1f} s, " + ", ".join(told))
    bench.save()


def _throughput(rows: Mapping[str, list[Any]], gpus: int) -> dict[str, Any]:
    """Model-steps a second over all GPUs, from when the first pack began to the last row; and inside packs.

    A row's `seconds` are its pack's wall time so far divided by its lanes.
    """
    packs: dict[str, dict[int, list[int]]] = {}
    for i, (pack, step, status) in enumerate(zip(rows["pack"], rows["steps"], rows["status"], strict=True)):
        if status == "ok":
            packs.setdefault(pack, {}).setdefault(step, []).append(i)
    starts, ends, rates, work = [], [], [], 0.0
    for by_step in packs.values():
        first, last = min(by_step), max(by_step)
        lanes = len(by_step[last])
        elapsed = {s: rows["seconds"][by_step[s][0]] * lanes for s in (first, last)}
        end = rows["finished_at"][by_step[last][0]].timestamp()
        starts.append(end - elapsed[last])
        ends.append(end)
        work += lanes * last
        rates.append(lanes * (last - first) / (elapsed[last] - elapsed[first]))
    return {
        "packs": len(packs),
        "ledger_s": max(ends) - min(starts),
        "ledger_steps_per_s": work / (max(ends) - min(starts)),
        "steady_steps_per_s": gpus * statistics.median(rates),
        "pack_steps_per_s": rates,
    }


def run(bench: Bench) -> None:
    for name in bench.args.cases:
        if name == "sweep":
            sweep(bench)
            continue
        for case in cases_of(name, bench.device, bench.args.precisions, bench.args.quick):
            measure(bench, case)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "scaling"):
        p = commands.add_parser(verb)
        p.add_argument("--device", default="cpu" if verb == "run" else "cuda", help="cpu or cuda")
        p.add_argument("--cases", type=_names, default=["mlp-small", "mlp"] if verb == "run" else ["mlp"])
        p.add_argument("--precisions", type=_names, default=[], help="instead of each case's own")
        p.add_argument("--budget-s", type=float, default=3600.0, help="what no longer fits is skipped, and said so")
        p.add_argument("--out", default=str(HERE), help="folder of the JSON")
        p.add_argument("--quick", action="store_true", help="tiny sizes: does it work at all?")
        p.add_argument("--steps", type=int, help="of every run, instead of the case's")
        p.add_argument("--steady-lanes", type=_numbers, default=[], help="of packs, instead of the case's")
        p.add_argument("--memory-gib", type=float, default=64.0, help="resources.memory_gib on a GPU")
    p = commands.choices["run"]
    p.add_argument("--ways", type=_names, default=["raysweep", "processes", "tune"])
    p.add_argument("--keep", action="store_true", help="keep other ways' numbers of an equal case from the JSON")
    p.add_argument("--sample", type=int, help="runs that the rivals train; default 64, 32 on a GPU")
    p.add_argument("--slots", type=_numbers, default=[], help="trials at once that well-tuned Tune is scanned over")
    p.add_argument("--plain-slots", type=int, help="trials at once of plain Tune; default 16 a GPU")
    p.add_argument("--processes", type=_numbers, default=[], help="scanned counts; default 4,8,16, cores on a CPU")
    p.add_argument("--runs", type=_numbers, default=[], help="of raysweep's end-to-end grids, instead of the case's")
    p.add_argument("--lanes", type=int, help="resources.lanes of the end-to-end grid; default: the product's choice")
    p.add_argument("--repeats", type=int, default=3, help="timed intervals at steady state")
    p.add_argument("--target-s", type=float, default=0.3, help="least seconds of such an interval")
    p.add_argument("--widths", type=_numbers, default=[], help="of the case `sweep`; 32 to 512, to 256 on a CPU")
    p.add_argument("--sweep-lanes", type=_numbers, default=[1, 4, 16, 64, 256, 1024], help="of the case `sweep`")
    p = commands.choices["scaling"]
    p.add_argument("--gpus", type=_numbers, default=[1, 2, 4])
    p.add_argument("--packs-per-gpu", type=int, default=4)
    p = commands.add_parser("figure")
    p.add_argument("json", nargs="*", help="default: every packing-*.json beside this file")
    args = parser.parse_args(argv)
    if args.verb == "run":
        args.widths = args.widths or [32, 64, 128, 256, 512][: 5 if args.device != "cpu" else 4]
        cuda = args.device != "cpu"
        args.sample = args.sample or (8 if args.quick else 32 if cuda else 64)
        args.plain_slots = args.plain_slots or (16 if cuda else cores())
        args.slots = args.slots or ([4, 8, 16] if cuda else [cores()])
        args.processes = args.processes or ([4, 8, 16] if cuda else [cores()])
    return args


def main() -> None:
    args = parse()
    sys.path[:0] = [str(HERE), str(ROOT)]
    if args.verb == "figure":
        from packing_figure import draw

        for path in map(Path, args.json or sorted(HERE.glob("packing-*.json"))):
            for made in draw(path):
                say(f"wrote {made}")
        return
    bench = Bench(args)
    try:
        (run if args.verb == "run" else scaling)(bench)
    finally:
        bench.save()
        say(f"\nwrote {bench.path}; logs in {bench.scratch}")


if __name__ == "__main__":
    main()
