"""The script that `ray submit` ships: it waits for the cluster's workers, then runs `raysweep` on the head.

    ray submit cluster/onprem.yaml cluster/submit.py -- run sweeps/demo.yaml --store s3://bucket/demo
    ray submit cluster/onprem.yaml cluster/submit.py -- --workers 2 --wait 600 run sweeps/demo.yaml --store s3://...

`ray submit` joins the arguments with spaces, and the head's shell splits them again: quotes are lost, and `{a,b}`, `*`
and `&` are interpreted. So plain arguments may only hold characters without a meaning to a shell; encode others:

    ray submit cluster/onprem.yaml cluster/submit.py -- $(python cluster/submit.py encode \\
        run sweeps/demo.yaml --store 's3://bucket/demo?region=eu-west-1' --set 'n_train={geom: [64, 4096, 7]}')

Needs nothing but Ray and raysweep on the head. Exit codes are raysweep's (0 done, 1 some cells failed, 2 usage or input
error, 130 interrupted); `ray submit` itself turns all but 0 into 1, so the last line states the exit code.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # written to the head by `ray up`
PROJECT = Path("~/raysweep")  # where cluster files sync the checkout to


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["encode"]:
        print(encode(arguments[1:]))
        return 0
    parser = argparse.ArgumentParser(
        prog="submit.py", usage="submit.py [--workers N] [--wait SECONDS] raysweep's arguments | encode ARGUMENTS"
    )
    parser.add_argument("--workers", type=int, help="workers to wait for; default: the number in the cluster file")
    parser.add_argument("--wait", type=float, default=600.0, help="seconds at most, then go on (%(default)g)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(decode(arguments))
    if not options.command:
        parser.error("which command? e.g. run sweeps/demo.yaml --store s3://bucket/demo")
    project = project_folder(Path(__file__))
    os.chdir(project)
    command = list(options.command)
    if command[0] == "run" and not any(a.split("=")[0] in ("--address", "--executor") for a in command):
        check_file(command, project)
        workers = promised() if options.workers is None else options.workers
        wait_for(workers, options.wait)
        command += ["--address", "auto"]
    return run([sys.executable, "-m", "raysweep", *command])


def encode(arguments: Sequence[str]) -> str:
    """Encode arguments as one word of letters and digits."""
    return "base64:" + base64.urlsafe_b64encode(json.dumps(list(arguments)).encode()).decode().rstrip("=")


def decode(arguments: Sequence[str]) -> list[str]:
    """The arguments as they were typed; refuses those that a shell may have changed."""
    found: list[str] = []
    for argument in arguments:
        if argument.startswith("base64:"):
            text = argument.removeprefix("base64:")
            try:
                given = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
                if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
                    raise ValueError("no list of words")
                found += given
            except (ValueError, binascii.Error):
                refuse(f"{argument!r} is not what `python cluster/submit.py encode ...` prints; was it cut?")
        elif PLAIN.fullmatch(argument):
            found.append(argument)
        else:
            refuse(
                f"{argument!r} went unquoted through the head's shell, which may have changed it. Encode arguments: "
                "ray submit CLUSTER.yaml cluster/submit.py -- $(python cluster/submit.py encode ARGUMENTS)"
            )
    return found


def project_folder(script: Path) -> Path:
    """The checkout that contains this script; if `ray submit` copied it alone, the one that the cluster file syncs."""
    beside = script.absolute().parent.parent
    project = beside if (beside / "raysweep").is_dir() and (beside / "cluster") == script.absolute().parent else None
    project = project or PROJECT.expanduser()
    if not project.is_dir():
        refuse(f"{project} must hold the checkout, but is missing here. Does the cluster file's file_mounts sync it?")
    return project


def check_file(command: Sequence[str], project: Path) -> None:
    """Refuse a sweep file that was not synced, before waiting for workers."""
    files = [a for a in command[1:] if a.endswith((".yaml", ".yml"))]
    if files and not Path(files[0]).is_file():
        refuse(
            f"{files[0]} is not in {project} on the head. `ray submit` ships this script alone: bring new files by "
            f"`ray up -y --no-restart CLUSTER.yaml` or `ray rsync-up CLUSTER.yaml {files[0]} {PROJECT}/{files[0]}`"
        )


def promised() -> int:
    """Number of workers that the cluster file starts with: `min_workers` of every node type; on premises, all."""
    import yaml

    path = BOOTSTRAP.expanduser()
    if not path.is_file():
        return 0
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    types = config.get("available_node_types") or {}
    return sum(int(t.get("min_workers", 0)) for t in types.values())


def wait_for(workers: int, seconds: float) -> None:
    """Wait until `workers` have joined: `ray up` returns earlier, and all work would land on the head."""
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    try:
        started, last = time.monotonic(), -1
        while True:
            joined = sum(node["Alive"] for node in ray.nodes()) - 1
            waited = time.monotonic() - started
            if joined >= workers or waited > seconds:
                break
            if joined != last:
                say(f"{joined} of {workers} workers have joined; waiting at most {seconds:g} s")
                last = joined
            time.sleep(1.0)
        cpus, gpus = (ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU"))
        late = f"; {workers - joined} are missing; workers that join later are used too" if joined < workers else ""
        say(f"{joined} of {workers} workers joined after {waited:.0f} s: {cpus:g} CPUs, {gpus:g} GPUs{late}")
    finally:
        ray.shutdown()


def run(command: Sequence[str]) -> int:
    """Run raysweep as a child. Ctrl-C, `kill` and a lost connection interrupt it, and it saves what is finished."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("OMP_NUM_THREADS", None)  # the launcher exports 1
    child = subprocess.Popen(command, env=environment, start_new_session=True)  # a lost terminal would kill it
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sent, lambda *_: child.send_signal(signal.SIGINT))
    code = child.wait()
    code = 128 - code if code < 0 else code
    with contextlib.suppress(OSError):  # the connection may be gone
        say(f"raysweep ended with exit code {code}")
    return code


def say(text: str) -> None:
    print(f"submit: {text}", flush=True)


def refuse(text: str) -> NoReturn:
    print(f"submit: error: {text}", file=sys.stderr, flush=True)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
