"""Runs the command after its first argument and writes what it took, as JSON, to that argument.

A process of its own because a child's peak memory starts at that of whoever forked it: this one is small.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time

TIMEOUT_S = 1200
MOST_BYTES = 16 * 2**30  # of address space: a command that wants more fails alone, not the machine


def main() -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))  # noqa: E731
    begin = time.perf_counter()
    child = subprocess.Popen(sys.argv[2:], preexec_fn=limit)
    watch = threading.Timer(TIMEOUT_S, child.kill)
    watch.start()
    _, status, usage = os.wait4(child.pid, 0)
    watch.cancel()
    took = {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "exit": os.waitstatus_to_exitcode(status),
    }
    with open(sys.argv[1], "w") as out:
        json.dump(took, out)


if __name__ == "__main__":
    main()
