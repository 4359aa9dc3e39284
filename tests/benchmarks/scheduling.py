"""Scheduling packs: what the driver spends on each, under plain Ray Tune, well-tuned Ray Tune and raysweep.

Packs do nothing (or sleep); every way runs on `ray.cluster_utils.Cluster`, one fake node a slot. Then a model of 200
nodes with packs of 30 s is fed with what was measured; the table says which number is which.

Run: .venv/bin/python tests/benchmarks/scheduling.py [--packs 10000]   (writes scheduling.json; asserts nothing)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scheduling_model import LATENCY, limit, overhead

HERE = Path(__file__).parent


def pack(config: dict[str, Any]) -> dict[str, float]:
    """A pack that only sleeps; when, and in which process."""
    begin = time.time()
    time.sleep(config["nap"])
    return {"begin": begin, "end": time.time(), "pid": float(os.getpid())}


@contextmanager
def cluster(nodes: int) -> Iterator[None]:
    """So many fake nodes of one CPU each: a raylet and a worker apiece."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            found.add_node(**node)
        found.wait_for_nodes()
        ray.init(address=found.address, log_to_driver=False, namespace="raysweep")
        yield
    finally:
        ray.shutdown()
        found.shutdown()


class Clock:
    """Wall time, CPU of the process and of its main thread at the start and whenever a pack is done."""

    def __init__(self) -> None:
        self.marks = [self._now()]

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), time.process_time(), time.thread_time()

    def tick(self) -> None:
        self.marks.append(self._now())

    def told(self) -> dict[str, Any]:
        """CPU milliseconds per pack, in the first and last tenth of the packs (the first without the start)."""
        done = len(self.marks) - 1
        tenth = max(1, done // 10)

        def each(first: int, last: int, what: int) -> float:
            return round(1e3 * (self.marks[last][what] - self.marks[first][what]) / max(1, last - first), 2)

        return {
            "packs": done,
            "first_pack_s": round(self.marks[1][0] - self.marks[0][0], 2),
            "last_pack_s": round(self.marks[-1][0] - self.marks[0][0], 2),
            "end_s": round(time.monotonic() - self.marks[0][0], 2),
            "wall_ms": each(tenth, done, 0),
            "cpu_ms": each(tenth, done, 1),
            "main_thread_ms": each(tenth, done, 2),
            "cpu_ms_by_tenth": [each(i * tenth, min((i + 1) * tenth, done), 1) for i in range(1, 10)],
            "end_cpu_s": round(time.process_time() - self.marks[-1][1], 2),
        }


def gaps(rows: list[tuple[float, float, float]]) -> dict[str, float]:
    """Milliseconds from a pack's end to the next one's begin in the same process: (pid, begin, end) each."""
    found = []
    for _, own in itertools.groupby(sorted(rows), key=lambda r: r[0]):
        times = [(begin, end) for _, begin, end in own]
        found += [1e3 * (b[0] - a[1]) for a, b in itertools.pairwise(times)]
    if len(found) < 2:
        return {}
    return {
        "gap_ms_median": round(statistics.median(found), 1),
        "gap_ms_p90": round(statistics.quantiles(found, n=10)[-1], 1),
    }


def ours(packs: int, nap: float, clock: Clock, store_uri: str) -> dict[str, Any]:
    """Through `run` and the Ray executor. The driver's work is timed by part, on its own thread's clock."""
    import raysweep.executors.feed as feed
    from raysweep.executors import make_executor
    from raysweep.run import run
    from raysweep.store import Store
    from raysweep.store.leases import Claims
    from raysweep.sweep import from_mapping

    spent: Counter[str] = Counter()

    def timed(owner: Any, name: str, part: str, after: Callable[[], None] = lambda: None) -> None:
        function = getattr(owner, name)

        def wrapper(*args: Any) -> Any:
            begin, wall = time.thread_time(), time.monotonic()
            try:
                return function(*args)
            finally:
                spent[part] += time.thread_time() - begin
                spent[part + "_wall"] += time.monotonic() - wall
                after()

        setattr(owner, name, wrapper)

    timed(Claims, "take_all", "claims")
    timed(Claims, "release", "claims")
    timed(feed.Feed, "ask", "feed and claims")
    timed(feed.Feed, "done", "feed and claims", clock.tick)
    grid = {"seed": {"range": packs}, "nap": nap}
    sweep = from_mapping({"name": "s", "experiment": "scheduling:pack", "grid": grid}, "s.yaml", [HERE])
    table = run(sweep, Store(store_uri), make_executor("ray", "auto")).scan.table
    rows = list(zip(*(table.column(c).to_pylist() for c in ("pid", "begin", "end")), strict=True))
    split = {f"{k}_ms": round(1e3 * v / packs, 3) for k, v in sorted(spent.items())}
    return {"rows": rows, "split": split}


def tune_way(packs: int, nap: float, clock: Clock, tuned: bool) -> dict[str, Any]:
    """A grid of as many trials as packs: a function with Tune's defaults, or a class with reused actors, no loggers."""
    if tuned:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import scheduling_trials
    from ray import tune

    rows: list[tuple[float, float, float]] = []

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            clock.tick()
            rows.append(tuple(trial.last_result[c] for c in ("pid", "begin", "end")))  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory(prefix="scheduling-") as folder:
        tune.Tuner(
            tune.with_resources(scheduling_trials.Tuned if tuned else scheduling_trials.plain, {"cpu": 1}),
            param_space={"seed": tune.grid_search(list(range(packs))), "nap": nap},
            tune_config=tune.TuneConfig(metric="end", mode="max", reuse_actors=tuned or None),
            run_config=tune.RunConfig(name="b", storage_path=folder, verbose=0, callbacks=[Watch()]),
        ).fit()
    return {"rows": rows}


@contextmanager
def s3() -> Iterator[tuple[str, Path]]:
    """An S3 server (moto) in a process of its own: the URI of a store on it, and its log of requests."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            from pyarrow import fs

            where = fs.S3FileSystem(
                access_key="a", secret_key="b", scheme="http", endpoint_override=f"127.0.0.1:{port}",
                allow_bucket_creation=True, region="us-east-1",
            )  # fmt: skip
            for _ in range(100):
                try:
                    where.create_dir("bench")
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"s3://bench/s?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1", Path(log.name)
        finally:
            server.terminate()
            server.wait()


def requests(log: Path, packs: int) -> dict[str, float]:
    """Requests per pack, by method and folder; `claims` are the driver's."""
    found: Counter[str] = Counter()
    for method, path in re.findall(r'"([A-Z]+) (\S+) HTTP', log.read_text(errors="replace")):
        folder = next((f for f in ("claims", "ledger") if f in path), "other")
        found[f"{folder} {method}"] += 1
    return {k: round(v / packs, 2) for k, v in sorted(found.items())}


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """One case in this process."""
    way, packs, slots, nap = spec["way"], spec["packs"], spec["slots"], spec["nap"]
    found: dict[str, Any] = {}
    paths = filter(None, (str(HERE), os.environ.get("PYTHONPATH")))
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # workers import the trials, too
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    with cluster(slots):
        clock = Clock()
        if way == "ours":
            with tempfile.TemporaryDirectory() as folder:
                found = ours(packs, nap, clock, folder)
        elif way == "ours on S3":
            with s3() as (uri, log):
                found = ours(packs, nap, clock, uri)
                found["requests"] = requests(log, packs)
        else:
            found = tune_way(packs, nap, clock, tuned=way == "tuned")
        found |= clock.told()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**spec, **gaps(found.pop("rows")), **found, "driver_mib": round(peak, 1), "load": os.getloadavg()[0]}


def cases(packs: int) -> list[dict[str, Any]]:
    """Throughput with packs that do nothing, then gaps on more slots with packs that take 2 s."""
    return [
        {"way": "plain", "packs": 40, "slots": 2, "nap": 0.0},
        {"way": "tuned", "packs": packs, "slots": 2, "nap": 0.0},
        {"way": "ours", "packs": packs, "slots": 2, "nap": 0.0},
        {"way": "ours on S3", "packs": min(packs, 500), "slots": 2, "nap": 0.0},
        *({"way": w, "packs": 15 * n, "slots": n, "nap": 2.0} for n in (2, 8, 16) for w in ("tuned", "ours")),
    ]


def modelled(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """200 nodes with packs of 30 s: the driver as one server with the service time measured here."""
    found = []
    for case in results:
        if case["nap"]:
            continue
        waits = case.get("requests", {})
        requests_each = sum(v for k, v in waits.items() if k.startswith("claims"))
        service = case["main_thread_ms"] / 1e3 + requests_each * LATENCY
        gap = next(
            (c["gap_ms_median"] / 1e3 for c in results if c["nap"] and c["slots"] == 2 and c["way"] in case["way"]),
            case.get("gap_ms_median", case["wall_ms"] * case["slots"]) / 1e3,
        )
        gap = max(0.0, gap - service)
        found.append(
            {
                "way": case["way"],
                "service_ms": round(1e3 * service, 1),
                "gap_ms": round(1e3 * gap, 1),
                "overhead_at_200": round(overhead(200, 30.0, service, gap), 4),
                "nodes_at_5_percent": limit(0.05, 30.0, service, gap),
            }
        )
    return found


def show(results: list[dict[str, Any]], model: list[dict[str, Any]]) -> None:
    head = (
        "way",
        "packs",
        "slots",
        "nap s",
        "driver ms/pack",
        "of tuned's",
        "first tenth",
        "last tenth",
        "gap ms",
        "MiB",
        "first s",
    )
    print("measured here: CPU of the driver's process\n" + "".join(f"{h:>15}" for h in head))
    for c in results:
        tenths = c["cpu_ms_by_tenth"]
        tuned = next(
            (t for t in results if t["way"] == "tuned" and (t["slots"], t["nap"]) == (c["slots"], c["nap"])), c
        )
        ratio = round(c["cpu_ms"] / tuned["cpu_ms"], 2)
        row = (c["way"], c["packs"], c["slots"], c["nap"], c["cpu_ms"], ratio, tenths[0], tenths[-1],
               c.get("gap_ms_median", ""), c["driver_mib"], c["first_pack_s"])  # fmt: skip
        print("".join(f"{v!s:>15}" for v in row))
    print("modelled from it: packs of 30 s, one a node, the driver one server")
    for m in model:
        print(
            f"{m['way']:>15}: service {m['service_ms']} ms + gap {m['gap_ms']} ms -> overhead on 200 nodes "
            f"{100 * m['overhead_at_200']:.1f} %; 5 % at {m['nodes_at_5_percent']:,} nodes"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packs", type=int, default=10_000)
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    parser.add_argument("--join", help="results of cases run one by one, a JSON object a line: run none here")
    asked = parser.parse_args()
    results = [json.loads(line) for line in Path(asked.join).read_text().splitlines()] if asked.join else []
    for spec in [] if asked.join else cases(asked.packs):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run([sys.executable, __file__, json.dumps(spec)], capture_output=True, text=True, env=env)
        if done.returncode:
            print(f"{spec}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    model = modelled(results)
    show(results, model)
    from importlib.metadata import version

    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python tests/benchmarks/scheduling.py", *sys.argv[1:]]),
        "cpus": os.cpu_count(),
        "versions": {p: version(p) for p in ("ray", "numpy", "pyarrow", "raysweep")},
        "s3_latency_s_assumed_in_model": LATENCY,
    }
    Path(asked.out).write_text(json.dumps({**where, "measured": results, "modelled": model}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("{"):
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        main()
