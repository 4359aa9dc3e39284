"""Commands that take a sweep file: plan and run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from raysweep.cli.show import print_json, print_table
from raysweep.cost import host_memory
from raysweep.errors import PriceError
from raysweep.executors import EXECUTORS, make_executor
from raysweep.experiment import Experiment
from raysweep.plan import make_plan
from raysweep.prices import estimate, find_machine, read_prices, sentences
from raysweep.progress import clock
from raysweep.store import Store
from raysweep.sweep import Sweep, load_sweep

File = Annotated[str, typer.Argument(metavar="FILE", help="The sweep file, YAML.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="AXIS=VALUES", help="Replace an axis: width=64,128, seed=0..4 or 'n_train=geom(64, 4096, 7)'."
    ),
]
Preset = Annotated[str | None, typer.Option(metavar="NAME", help="A preset of the file, e.g. smoke or full.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="A folder or URI (s3://...). Default: results/<name>.")
]
SkipFailed = Annotated[bool, typer.Option("--skip-failed", help="Leave failed cells as they are.")]
Retry = Annotated[str | None, typer.Option(metavar="diverged", help="Also run diverged cells again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(plan)
    app.command()(run)


def _store(sweep: Sweep, uri: str | None) -> Store:
    return Store(uri or f"results/{sweep.name}")


def _retry(retry: str | None) -> bool:
    if retry not in (None, "diverged"):
        raise typer.BadParameter(f"--retry must be `diverged`, but got {retry!r} (failed cells are always tried again)")
    return retry == "diverged"


def plan(
    file: File,
    set_: Set = None,
    preset: Preset = None,
    store: StoreOption = None,
    skip_failed: SkipFailed = False,
    retry: Retry = None,
    price: Annotated[
        str | None, typer.Option(metavar="MACHINE", help="Also what it costs on aws:p5.48xlarge, gcp:a3 and such.")
    ] = None,
    machines: Annotated[int, typer.Option(help="How many of them.")] = 1,
    prices: Annotated[str | None, typer.Option(metavar="FILE", help="A price table of your own, YAML.")] = None,
    json: Json = False,
) -> None:
    """Show what a sweep collapses to (cells, runs, packs) and what it will cost. Nothing is run."""
    sweep = load_sweep(file, set_ or (), preset)
    resources = sweep.file.resources
    slots = max(1, int((os.cpu_count() or 1) / resources.cpus))
    planned = make_plan(sweep, _store(sweep, store), slots, skip_failed, _retry(retry))
    found = planned.to_json()
    if price is None and (machines != 1 or prices is not None):
        raise PriceError("plan: --machines and --prices say on what --price is for; give --price, e.g. --price aws:p5")
    if price is not None:
        machine = find_machine(read_prices(Path(prices) if prices else None), price)
        found["price"] = estimate(planned, machine, machines)
    if json:
        print_json(found)
        return
    print(f"{found['sweep']} ({found['experiment']})")
    print(f"  {found['cells']:,} cells -> {found['runs']:,} runs -> {found['packs']:,} packs, {slots} at a time")
    print(f"  {found['done_cells']:,} cells done, {found['pending_cells']:,} pending in {found['pending_runs']:,} runs")
    rows = [
        [
            ", ".join(f"{k}={v}" for k, v in s["shape"].items() if k in _varying(found["shapes"])) or "all",
            f"{s['cells']:,}",
            f"{s['runs']:,}",
            f"{s['packs']:,} x {s['lanes']:,}",
            f"{s['parameters']:,.0f}",
            f"{s['flops']:.2e}",
            f"{s['flops_eval']:.2e}",
            f"{s['bytes'] / 2**20:,.1f}",
        ]
        for s in found["shapes"][:40]
    ]
    head = ["shape", "cells", "runs", "packs x lanes", "parameters", "train FLOP", "eval FLOP", "MiB a pack"]
    print_table(head, rows, right_from=1)
    if len(found["shapes"]) > len(rows):
        print(f"  ... and {len(found['shapes']) - len(rows):,} more shapes")
    seconds = found["seconds"]
    if seconds is None:
        print("  time: unknown; a plain function states no cost")
    else:
        rate = found["rate"]
        speed = f"{rate['flops_per_second']:.1e} FLOP/s a pack, {rate['source']}"
        print(f"  time: about {clock(seconds)} for the packs ({speed})")
    on = "of a GPU" if resources.gpus else f"of {host_memory() / 2**30:.1f} GiB free here"
    print(f"  memory: a pack may take {found['memory'] / 2**30:.1f} GiB {on}")
    for line in sentences(found["price"]) if price is not None else ():
        print(f"  {line}")


def _varying(shapes: list[dict[str, dict[str, object]]]) -> set[str]:
    """Shape axes worth showing: those that differ."""
    names = {k for s in shapes for k in s["shape"]}
    return {k for k in names if len({str(s["shape"].get(k)) for s in shapes}) > 1}


def run(
    file: File,
    set_: Set = None,
    preset: Preset = None,
    store: StoreOption = None,
    executor: Annotated[str, typer.Option(help=f"One of {', '.join(EXECUTORS)}.")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running Ray cluster; `auto` finds it. Default: start Ray here."),
    ] = None,
    skip_failed: SkipFailed = False,
    retry: Retry = None,
) -> None:
    """Run every pending cell of a sweep, then report. Run it again to finish what is missing."""
    from raysweep.run import run as execute

    sweep = load_sweep(file, set_ or (), preset)
    target = _store(sweep, store)
    outcome = execute(sweep, target, make_executor(executor, address), skip_failed, _retry(retry))
    counts = outcome.counts
    done = [f"{counts.ok:,} ok"] + [
        f"{n:,} {s}" for s in ("diverged", "failed", "skipped") if (n := getattr(counts, s))
    ]
    pending = f", {outcome.pending:,} pending" if outcome.pending else ""
    print(f"{sweep.name}: {', '.join(done)}{pending} of {sweep.runs.cells:,} cells in {clock(outcome.seconds)}")
    for name, reason in outcome.scan.skipped:
        print(f"warning: {name} was skipped: {reason}")
    if counts.ok:
        _report(target, sweep.experiment)
    if counts.failed:
        print(f"{counts.failed:,} cells failed: see `raysweep status {target.uri}`; run again to retry them")
    if counts.failed or outcome.pending:
        raise typer.Exit(1)


def _report(store: Store, experiment: Experiment) -> None:
    try:
        from raysweep.report import make_report
    except ModuleNotFoundError as error:
        print(f"no report: {error.name} is not installed here; run `raysweep report {store.uri}` where it is")
        return
    report = make_report(store, experiment)
    for sentence in report.findings:
        print(f"  {sentence}")
    print(f"report: {report.page}")
