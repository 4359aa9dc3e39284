"""Things that tests of faults break: nodes of a Ray cluster on one machine, an S3 server, a small disk."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import yaml
from toy_experiment import steady_loss

from raysweep.ledger.log import CELLS, Ledger
from raysweep.store import TEMPORARY, Store
from raysweep.sweep import load_sweep

HERE = Path(__file__).parent
S3_KEYS = ("raysweep-key", "raysweep-secret")
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # workers that are killed all the time must also start, whatever else runs here
    "RAY_health_check_period_ms": "2000",  # a dead node is noticed in some seconds
    "RAY_health_check_failure_threshold": "5",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), str(HERE / "benchmarks")]),
    "AWS_ACCESS_KEY_ID": S3_KEYS[0],
    "AWS_SECRET_ACCESS_KEY": S3_KEYS[1],
    "AWS_EC2_METADATA_DISABLED": "true",  # the client would ask the cloud who it is
    "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",  # rclone knows no checksums that follow the body
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
}


STEADY: dict[str, Any] = {
    "name": "steady",
    "experiment": "toy_experiment:steady",
    "observed": ["epoch"],
    "grid": {"run_id": {"range": 6}, "epoch": [1, 2, 3], "duration": 0.3},
}


@dataclass
class Run:
    """A sweep file, its store, and drivers started on it."""

    folder: Path
    store: Store
    sweep: dict[str, Any]
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state.mkdir(parents=True)
        if "duration" in self.sweep["grid"]:
            self.sweep = {**self.sweep, "grid": {**self.sweep["grid"], "state": str(self.state)}}
        self.file.write_text(yaml.safe_dump(self.sweep))

    @property
    def state(self) -> Path:
        """Where `toy_experiment.steady` says what is at work."""
        return self.folder / "state"

    @property
    def file(self) -> Path:
        return self.folder / "sweep.yaml"

    @property
    def cells(self) -> int:
        return load_sweep(self.file).runs.cells

    def drive(
        self, address: str | None = None, node: str | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """`raysweep run`, on the cluster at an address, joined through a node; its output goes to a file."""
        command = [sys.executable, "-m", "raysweep", "run", str(self.file), "--store", self.store.uri]
        if node is not None:
            assert address is not None
            command[1:3] = [str(HERE / "fault_driver.py"), address, node]
        elif address is not None:
            command += ["--address", address]
        with self.log(len(self.drivers)).open("wb") as sink:
            driver = subprocess.Popen(
                command, env={**os.environ, **ENVIRONMENT, **(environment or {})}, stdout=sink, stderr=sink
            )
        self.drivers.append(driver)
        return driver

    def log(self, driver: int) -> Path:
        return self.folder / f"driver-{driver}.log"

    def ends(self, code: int = 0, seconds: float = 500.0) -> str:
        """Wait for the newest driver to end, with this exit code; what it said."""
        found = self.drivers[-1].wait(seconds)
        said = self.log(len(self.drivers) - 1).read_text(errors="replace")
        assert found == code, said
        return said

    def finished(self) -> dict[str, dict[str, Any]]:
        """Every finished cell's row as it is in the ledger, by cell."""
        return {r["cell"]: r for r in Ledger(self.store).scan().table.to_pylist() if r["status"] == "ok"}

    def until(self, cells: int, seconds: float = 400.0) -> dict[str, dict[str, Any]]:
        """Wait for so many finished cells."""
        end = time.monotonic() + seconds
        while len(found := self.finished()) < cells:
            logs = [self.log(i).read_text() for i in range(len(self.drivers))]
            assert time.monotonic() < end, logs
            assert any(d.poll() is None for d in self.drivers), logs
            time.sleep(0.2)
        return found

    def check(self, before: dict[str, dict[str, Any]], killed: int = 0) -> list[dict[str, Any]]:
        """All rows, after: the grid is complete, nothing doubled or torn, what was finished is there as it was.

        A writer that is killed may leave a temporary file, which no reader sees: as many as were killed, at most.
        """
        rows = pq.read_table(io.BytesIO(self.store.read(CELLS))).to_pylist()
        assert [r["status"] for r in rows] == ["ok"] * self.cells
        assert len({r["cell"] for r in rows}) == self.cells
        after = {r["cell"]: r for r in rows}
        assert {cell: after.get(cell) for cell in before} == before
        assert Ledger(self.store).scan().skipped == ()
        if self.store.is_local:
            assert len(list(Path(self.store.path()).rglob(f"{TEMPORARY}*"))) <= killed
        for row in rows:
            if "epoch" in row:
                assert row["loss"] == steady_loss(row["run_id"], row["epoch"])
        return rows

    def stop(self) -> None:
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
                driver.wait()


def kill(pid: int, sent: signal.Signals = signal.SIGKILL) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, sent)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class S3Server:
    """`rclone serve s3` over a folder: a real server that can be killed at any time; what it stored stays on disk.

    Arrow writes a marker for a folder that it takes for empty, which rclone turns into a file. A foreign file in
    `claims/`, the only folder of a store that empties, keeps that from happening.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def binary() -> str | None:
        beside = Path(sys.executable).with_name("rclone")
        return str(beside) if beside.is_file() else shutil.which("rclone")

    def store(self, name: str) -> Store:
        kept = self.folder / "bucket" / name / "claims"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "keep").write_bytes(b"")
        where = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return Store(f"s3://bucket/{name}?{where}")

    def start(self) -> None:
        binary = self.binary()
        assert binary is not None
        options = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", ",".join(S3_KEYS), "--dir-cache-time", "1ms"]
        with (self.folder.parent / "rclone.log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary, "serve", "s3", *options, "--config", "", str(self.folder)], stdout=log, stderr=log
            )
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        raise TimeoutError("rclone does not listen")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A disk of so many MiB; needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No byte is free on this disk meanwhile."""
    filler = folder / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as sink:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while sink.write(b"\0" * size):
                        pass
        yield
    finally:
        filler.unlink()


@dataclass
class Nodes:
    """A Ray cluster of several raylets on this machine, each with a loopback address of its own."""

    cpus: int = 2
    environment: dict[str, str] = field(default_factory=dict)  # of raylets and workers, beside ENVIRONMENT
    cluster: Any = None
    workers: list[Any] = field(default_factory=list)
    started: int = 0
    count: int = 0

    def start(self, count: int, drivers: int = 1, **head: Any) -> None:
        """A head without CPUs, `drivers - 1` more such nodes to connect from, and `count` nodes that work."""
        from ray.cluster_utils import Cluster

        self.count = count
        common = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
        with self._inherited():
            self.cluster = Cluster(initialize_head=True, head_node_args={**common, **head})
        self.doors = [self.cluster.head_node, *(self._add(0) for _ in range(drivers - 1))]
        self.workers = [self._add(self.cpus) for _ in range(count)]

    def _add(self, cpus: int, environment: dict[str, str] | None = None, **more: Any) -> Any:
        self.started += 1
        address = f"127.0.0.{1 + self.started}"
        with self._inherited(environment):
            return self.cluster.add_node(num_cpus=cpus, object_store_memory=80_000_000, node_ip_address=address, **more)

    @contextlib.contextmanager
    def _inherited(self, more: dict[str, str] | None = None) -> Iterator[None]:
        """What raylets and their workers inherit is in the environment, only while they start: tests share it."""
        wanted = {**ENVIRONMENT, **self.environment, **(more or {})}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def add(self, environment: dict[str, str] | None = None) -> None:
        """Another working node; it joins in its own time. Where this machine is too busy to start one, none: `heal`."""
        with contextlib.suppress(Exception):
            self.workers.append(self._add(self.cpus, environment, wait=False))

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @staticmethod
    def processes(node: Any) -> list[psutil.Process]:
        """The raylet and all it started."""
        found = []
        for info in node.all_processes.get("raylet", []):
            with contextlib.suppress(psutil.NoSuchProcess):
                raylet = psutil.Process(info.process.pid)
                found += [raylet, *raylet.children(recursive=True)]
        return found

    def kill(self, node: Any) -> None:
        """SIGKILL to a node: its raylet, then its workers."""
        for process in self.processes(node):
            kill(process.pid)
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def heal(self) -> int:
        """Replace nodes that died by themselves (Ray gives up a node that answers late); how many did."""
        dead = [node for node in self.workers if not any(p.name() == "raylet" for p in self.processes(node))]
        for node in dead:
            self.kill(node)
        while len(self.workers) < self.count:
            self.add()
        return len(dead)

    def busy(self, state: Path) -> dict[int, int]:
        """Run by process, of the workers that `toy_experiment.steady` says are at work."""
        ours = {p.pid for node in self.workers for p in self.processes(node)}
        found = {}
        for marker in state.iterdir():
            with contextlib.suppress(ValueError, OSError):  # it ended in the meantime
                if int(marker.name) in ours:
                    found[int(marker.name)] = int(marker.read_text())
                elif not psutil.pid_exists(int(marker.name)):
                    marker.unlink()
        return found

    def wait_busy(self, run: Run, count: int = 1, seconds: float = 400.0) -> dict[int, int]:
        """The same, once there are so many."""
        end = time.monotonic() + seconds
        while len(found := self.busy(run.state)) < count:
            assert time.monotonic() < end, run.log(len(run.drivers) - 1).read_text()
            assert run.drivers[-1].poll() is None, run.log(len(run.drivers) - 1).read_text()
            time.sleep(0.05)
        return found

    def stop(self) -> None:
        if self.cluster is not None:
            self.cluster.shutdown()
