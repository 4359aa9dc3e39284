"""A run of packing.py: its budget, its children, its JSON so far."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from packing_meter import Sampler, cores, where

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


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
        from raysweep.ledger.log import Ledger
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
