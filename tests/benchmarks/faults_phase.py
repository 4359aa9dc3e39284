"""A sweep under faults: drivers that are started again and again, a schedule of what is killed, what came of it."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fault_tools import ENVIRONMENT, Nodes, kill

HERE = Path(__file__).parent
EPOCHS, DURATION = 12, 0.8  # of a pack: rows, and seconds before each
FIRST, MORE = 30, 15  # runs of the first grid, and by how many it is widened
GAP = (0.2, 1.0)  # seconds between a fault and the next


@dataclass
class Fault:
    kind: str
    at: float
    runs: list[int]  # that were at work in what was killed
    seconds: float = 0.0  # the storage was away


@dataclass
class Phase:
    """A sweep under faults."""

    name: str
    nodes: Nodes
    folder: Path  # for sweep file, logs and state
    uri: str
    rng: random.Random
    break_storage: dict[str, Callable[[float], None]]
    faults: list[Fault] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    runs: int = FIRST
    door: int = 0
    driver: subprocess.Popen[bytes] | None = None
    workers: dict[int, float] = field(default_factory=dict)  # when each was first seen at work
    over: bool = False
    unasked: int = 0  # nodes that Ray gave up by itself, on this busy machine

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def drive(self) -> None:
        """Start a driver, each on another node than the one before."""
        file = self.folder / "soak.yaml"
        grid = {
            "run_id": {"range": self.runs},
            "epoch": list(range(1, EPOCHS + 1)),
            "duration": DURATION,
            "state": str(self.state),
        }
        sweep = {"name": "soak", "experiment": "faults_toy:steady", "observed": ["epoch"], "grid": grid}
        file.write_text(yaml.safe_dump({**sweep, "resources": {"attempts": 100, "cpus": 1}}))
        node = self.nodes.doors[self.door % len(self.nodes.doors)]
        self.door += 1
        command = [sys.executable, str(HERE.parent / "fault_driver.py"), self.nodes.address, node.node_ip_address]
        with (self.folder / f"driver-{self.door}.log").open("wb") as log:
            self.driver = subprocess.Popen(
                [*command, "run", str(file), "--store", self.uri],
                env={**os.environ, **ENVIRONMENT},
                stdout=log,
                stderr=log,
            )

    def keep_driving(self, widen: bool) -> bool:
        """Whether a driver runs; starts one where the last has ended, on a wider grid if it had finished."""
        assert self.driver is not None
        code = self.driver.poll()
        if code is None:
            return True
        self.exits.append(code)
        if code == 0:
            if not widen:
                return False
            self.runs += MORE
        if len(self.exits) > 60:
            raise RuntimeError(f"{self.name}: drivers ended by {self.exits}; see {self.folder}")
        self.drive()
        return True

    def busy(self, seconds: float = 300.0) -> dict[int, int]:
        """Workers in the middle of a pack; waits for one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.keep_driving(widen=True)
            self.unasked += self.nodes.heal()
            if found := self.nodes.busy(self.state):
                return found
            time.sleep(0.5)
        raise TimeoutError(f"{self.name}: no worker was at work for {seconds:g} s; drivers ended by {self.exits}")

    def look(self) -> None:
        """Note who is at work, until it is over."""
        while not self.over:
            for marker in self.state.iterdir():
                if marker.name.isdigit():
                    self.workers.setdefault(int(marker.name), time.time())
            time.sleep(0.1)

    def inject(self, kind: str) -> None:
        busy = self.busy()
        now = time.time()
        if kind == "worker":
            pid = self.rng.choice(sorted(busy))
            if kill(pid):
                self.faults.append(Fault(kind, now, [busy[pid]]))
                (self.state / str(pid)).unlink(missing_ok=True)
                return
            self.inject(kind)  # it had ended by itself
        elif kind == "node":
            node = self.rng.choice(self.nodes.workers)
            pids = {p.pid for p in self.nodes.processes(node)}
            self.nodes.kill(node)
            self.faults.append(Fault(kind, now, [run for pid, run in busy.items() if pid in pids]))
            self.nodes.add()
        elif kind == "driver":
            assert self.driver is not None
            self.driver.kill()
            self.driver.wait()
            self.faults.append(Fault(kind, now, []))
        else:
            seconds = self.rng.uniform(1.0, 6.0)
            self.break_storage[kind](seconds)
            self.faults.append(Fault(kind, now, [], time.time() - now))

    def soak(self, plan: dict[str, int], minutes: float) -> None:
        """The schedule, as far as it gets in these minutes, then whatever it takes to finish."""
        schedule = [kind for kind, count in plan.items() for _ in range(count)]
        self.rng.shuffle(schedule)
        self.state.mkdir()
        threading.Thread(target=self.look, daemon=True).start()
        self.drive()
        self.busy()
        over = time.monotonic() + 60 * minutes
        for i, kind in enumerate(schedule):
            if time.monotonic() > over:
                break
            self.inject(kind)
            if i % 10 == 9:
                print(f"{self.name}: {i + 1} of {len(schedule)} faults, grid of {self.runs} runs", flush=True)
            time.sleep(self.rng.uniform(*GAP))
        end = time.monotonic() + 1200
        while self.keep_driving(widen=False):
            self.unasked += self.nodes.heal()
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: not finished; drivers ended by {self.exits}")
            time.sleep(1.0)

    def result(self, seen: dict[str, Any]) -> dict[str, Any]:
        """What was injected, what the observer says, how long until the work that was hit was in the ledger."""
        finished = {(run, epoch): when for run, epoch, when in seen.pop("finished")}
        times, grid = seen.pop("part_times"), {tuple(cell) for cell in seen.pop("grid")}
        expected = {(run, epoch) for run in range(self.runs) for epoch in range(1, EPOCHS + 1)}
        rows = []
        for kind, count in Counter(f.kind for f in self.faults).items():
            back, rerun = [], []
            for fault in (f for f in self.faults if f.kind == kind):
                signs = self.workers.values() if fault.runs or kind == "driver" else times
                back += [
                    t - fault.at for t in [min((t for t in signs if t > fault.at + fault.seconds), default=0)] if t
                ]
                hit = [finished[run, EPOCHS] - fault.at for run in fault.runs if (run, EPOCHS) in finished]
                rerun += [max(hit)] if hit and max(hit) > 0 else []
            row: dict[str, Any] = {"fault": kind, "injected": count}
            for name, waits in (("back_at_work_s", back), ("what_was_hit_in_ledger_s", rerun)):
                row[name] = (
                    {"median": round(statistics.median(waits), 1), "most": round(max(waits), 1)} if waits else None
                )
            row["storage_away_s"] = round(sum(f.seconds for f in self.faults if f.kind == kind), 1)
            rows.append(row)
        found = {**seen, "cells_missing_from_grid": len(expected - grid), "cells_of_grid": len(expected)}
        return {
            "faults": rows,
            "driver_exit_codes": self.exits,
            "driver_starts": self.door,
            "unasked_node_deaths": self.unasked,
            "observer": found,
        }
