"""The machine packing.py runs on: what it is, and how much of its memory a process and its children take."""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


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
