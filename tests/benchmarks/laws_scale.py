"""Many groups and many rows: laws.fit over 10^5 groups, and `raysweep fit` on a table of 10^8 rows."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from laws_data import ROOT, Array
from laws_rivals import naive_groups
from packing_meter import cores

__all__ = ["run"]

SCALES, SEEDS = np.geomspace(64, 8192, 8), 3
_NAIVE = 2000  # groups of the subsample
_ROW_BYTES = 30  # of the parquet table, with room to spare
_CHUNK = 2_000_000
_STEPS, _WIDTHS = 100, 10
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TRUTH = {"E": 0.1, "A": 5.0, "alpha": 0.45}


def run(args: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {"groups": {}, "cores": cores()}
    for law in ("power", "power+floor"):
        results["groups"][law] = _groups(law, args.groups)
    results["rows"] = _rows(args.rows)
    return results


def _measurements(groups: int, law: str) -> tuple[Array, Array]:
    """Scales, [points], and measurements of every group, [groups, points]."""
    rng = np.random.default_rng(0)
    x = np.tile(SCALES, SEEDS)
    alpha = rng.uniform(0.2, 0.8, size=(groups, 1))
    floor = TRUTH["E"] * rng.uniform(0.5, 1.5, size=(groups, 1)) if law == "power+floor" else 0.0
    y = floor + TRUTH["A"] * x**-alpha
    return x, np.asarray(y * np.exp(0.02 * rng.standard_normal(y.shape)))


def _groups(law: str, groups: int) -> dict[str, Any]:
    """A table of `groups` groups through the public face, without and with intervals; and one curve_fit a group."""
    from raysweep.laws import fit

    x, y = _measurements(groups, law)
    frame = pl.DataFrame({"group": np.repeat(np.arange(groups), x.size), "x": np.tile(x, groups), "y": y.ravel()})
    fit(frame.head(x.size * 10), law=law, x="x", y="y", by="group", bootstrap=0)  # what only the first call pays
    entry: dict[str, Any] = {"groups": groups, "points_a_group": x.size}
    # Estimates alone are what the naive way gives; the default also fits without the largest scales, to be scored.
    ways: list[tuple[str, int, dict[str, Any]]] = [
        ("estimates alone", groups, {"bootstrap": 0, "holdout": 0.0}),
        ("with hold-out", groups, {"bootstrap": 0}),
        ("with hold-out and 200 draws", max(groups // 10, 1), {"bootstrap": 200}),
    ]
    for name, share, options in ways:
        part = frame.head(share * x.size)
        wall, cpu = time.perf_counter(), time.process_time()
        found = fit(part, law=law, x="x", y="y", by="group", **options)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        entry[name] = {
            "groups": share,
            "wall_s": wall,
            "cpu_s": cpu,
            "wall_s_all": wall * groups / share,
            "failed": sum(g.error is not None for g in found),
        }
        cost = f"{wall:8.1f} s of wall, {cpu:8.1f} CPU-s"
        whole = f"; {groups:,} would take {wall * groups / share:,.0f} s" if share < groups else ""
        print(f"{law:12} {share:>8,} groups, {name:28}: {cost}{whole}", flush=True)
    sample = min(_NAIVE, groups)
    naive = naive_groups(law, np.broadcast_to(x, (sample, x.size)), y[:sample])
    naive["cpu_s_all"] = naive["cpu_s_a_group"] * groups
    entry["naive"] = naive
    print(f"{law:12} naive, one curve_fit a group, from {sample:,}: {naive['cpu_s_all']:.1f} CPU-s", flush=True)
    return entry


def _rows(rows: int) -> dict[str, Any]:
    """`raysweep fit` on a ledger-like table too large for memory, in a child process: wall and peak memory."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    wanted = rows
    while rows > 10**6 and rows * _ROW_BYTES > 0.5 * free:
        rows //= 10
    if rows < wanted:
        print(f"{free / 2**30:.0f} GiB of disk are free: {rows:,} rows instead of {wanted:,}")
    results: dict[str, Any] = {"rows": rows, "asked": wanted}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.parquet"
        _write(path, rows)
        results["file_bytes"] = path.stat().st_size
        command = [sys.executable, "-m", "raysweep", "fit", str(path), "--x", "n_train", "--y", "loss"]
        common = ["--by", "width", "--law", "power+floor", "--bootstrap", "200", "--json"]
        for name, extra in (
            ("last step of each run", ["--where", f"steps = {_STEPS}", "--run", "run"]),
            ("every row a point", []),
        ):
            results[name] = _child([*command, *common, *extra])
            one = results[name]
            cost = f"{one['wall_s']:.1f} s, peak {one['peak_bytes'] / 2**30:.2f} GiB, exit {one['exit']}"
            print(f"{rows:,} rows, {name}: {cost}; {one['said']}", flush=True)
    return results


def _write(path: Path, rows: int) -> None:
    """Runs of `_STEPS` snapshots each, in chunks: width, n_train, seed, run, steps, loss."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [
            ("width", pa.int32()),
            ("n_train", pa.int32()),
            ("run", pa.int32()),
            ("steps", pa.int32()),
            ("loss", pa.float32()),
        ]
    )
    x = np.geomspace(64, 65536, 20).astype(np.int32)
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        for first in range(0, rows, _CHUNK):
            row = np.arange(first, min(first + _CHUNK, rows))
            run = row // _STEPS
            steps, width, n = row % _STEPS + 1, 2 ** (run % _WIDTHS), x[run // _WIDTHS % x.size]
            final = TRUTH["E"] + TRUTH["A"] * n.astype(float) ** -TRUTH["alpha"]
            # Early snapshots are worse, so that whoever mixes them up is seen at once.
            loss = final * (1 + 0.5 * (_STEPS / steps - 1)) * np.exp(0.02 * rng.standard_normal(row.size))
            columns = [c.astype(np.int32) for c in (width, n, run, steps)] + [loss.astype(np.float32)]
            out.write_table(pa.table(columns, schema=schema))


def _child(command: list[str]) -> dict[str, Any]:
    """Wall seconds, peak resident memory and exit code of a child process, and what it printed last."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ONE_THREAD:
        env.pop(name, None)  # laws.py sets them for itself
    with tempfile.TemporaryDirectory() as folder:
        took = Path(folder) / "took.json"
        meter = [sys.executable, str(Path(__file__).with_name("laws_child.py")), str(took)]
        done = subprocess.run([*meter, *command], capture_output=True, text=True, check=False, env=env)
        entry: dict[str, Any] = json.loads(took.read_text())
    if entry["exit"]:
        lines = done.stderr.strip().splitlines()
        entry["said"] = lines[-1] if lines else "nothing"
    else:
        records = json.loads(done.stdout)
        entry["fits"] = len(records)
        entry["params"] = {p["name"]: p["value"] for p in records[0]["params"]}
        entry["said"] = f"{len(records)} fits; the first: {entry['params']}"
    return entry
