"""Commands that take a sweep file: plan and run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import PriceError, RaysweepError, SweepError
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.experiment import Experiment
    from raysweep.plan import Plan
    from raysweep.store import Store
    from raysweep.sweep import Sweep

_SHAPES = 40  # shapes of a plan that are printed
_CAUSES = 3  # causes of failure that are printed at the end of a run

File = Annotated[str, typer.Argument(metavar="FILE", help="The sweep file, YAML.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="AXIS=VALUES",
        help="Replace an axis wherever the grid has it: width=64,128, seed=0..4 or 'items=geom(64, 4096, 7)'; "
        "or a key of until: until.ci95.alpha=0.02.",
    ),
]
Preset = Annotated[str | None, typer.Option(metavar="NAME", help="A preset of the file, e.g. smoke or full.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="A folder or URI (s3://...). Default: results/<name>.")
]
SkipFailed = Annotated[bool, typer.Option("--skip-failed", help="Leave failed cells as they are.")]
Retry = Annotated[str | None, typer.Option(metavar="diverged", help="Also run diverged cells again.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(plan)
    app.command()(run)


def _store(sweep: Sweep, uri: str | None) -> Store:
    from raysweep.store import Store

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
        str | None,
        typer.Option(metavar="MACHINE", help="Also estimate the cost, on aws:p5.48xlarge or gcp:a3, say."),
    ] = None,
    machines: Annotated[int, typer.Option(help="Number of these machines.")] = 1,
    prices: Annotated[str | None, typer.Option(metavar="FILE", help="A price table of your own, YAML.")] = None,
    json: Json = False,
) -> None:
    """Show what a sweep will run and cost, and run nothing. The plan shows how cells collapse to runs and packs."""
    from raysweep.plan import make_plan
    from raysweep.rounds import Rounds, described
    from raysweep.sweep.stale import stale
    from raysweep.sweep.stored import stored_until

    sweep = _sweep(file, set_, preset, store)
    target = _store(sweep, store)
    slots = _slots(sweep)
    rounds = Rounds(sweep, target) if sweep.tuning is not None else None
    stage = sweep if rounds is None else rounds.resume(skip_failed, _retry(retry))
    whole = stage if rounds is None else rounds.rehearsed(stage)
    done, first = None, None
    if sweep.file.until is not None:
        done = stored_until(target, sweep.hash)
        if done is None:
            from raysweep.stopping import check_coarse, coarse_pass  # SciPy's statistics take a while to import

            first = make_plan(coarse_pass(sweep), target, slots)
            check_coarse(sweep, first.flops)
    planned = make_plan(whole, target, slots, skip_failed, _retry(retry))
    found = planned.to_json()
    if rounds is not None:
        found["tuning"] = rounds.about(stage)
    found["notes"] = [*sweep.notes, *_question(target, sweep), *filter(None, [stale(sweep, target)])]
    if sweep.file.until is not None:
        found["until"] = done
        if done and done["over"]:
            found |= {"pending_cells": 0, "pending_runs": 0}
        found["notes"].append(_until_note(done, first))
    if price is None and (machines != 1 or prices is not None):
        raise PriceError("plan: --machines and --prices go with --price; give it, e.g. --price aws:p5")
    if price is not None:
        from raysweep.prices import estimate, find_machine, read_prices

        machine = find_machine(read_prices(Path(prices) if prices else None), price)
        found["price"] = estimate(planned if first is None else first, machine, machines)
        if sweep.file.until is not None:
            found["price_at_most"] = estimate(planned, machine, machines)
    if json:
        print_json(found)
        return
    say(f"{found['sweep']} ({found['experiment']})")
    if rounds is not None:
        how = "; halving as if those that pass a rung continue there" if found["tuning"]["halving"] else ""
        say(
            f"  {described(found['tuning'])}",
            f"  candidates that are not proposed yet are priced as if by the design{how}",
        )
    if done and done["over"]:
        say(f"  nothing to do: the sweep is done by its own rule after {counted(done['runs'], 'run')}: {done['over']}")
    else:
        _say_work(found, planned, target.uri, skip_failed)
    if price is not None:
        from raysweep.prices import sentences

        say(*(f"  {line}" for line in sentences(found["price"])))
        if first is not None:
            say(f"  {_bound(found)}")
    say(*(f"  note: {line}" for line in found["notes"]))


def _bound(found: Mapping[str, Any]) -> str:
    """What the price of a sweep that stops itself is a price of, and what it is at most."""
    from raysweep.prices import sentences

    whole = sentences(found["price_at_most"])[0].removeprefix("price: about ")
    return f"this is the coarse pass; all rounds together cost at most what the whole grid does: {whole}"


def _until_note(done: Mapping[str, Any] | None, first: Plan | None) -> str:
    """What a plan's figures are, of a sweep that stops itself."""
    if done and done["over"]:
        spared = counted(done["of_runs"] - done["runs"], "run")
        return f"until: {spared} of the grid were not needed; a price or a budget is that of the whole grid"
    left = 0 if first is None else len(first.runs)
    coarse = f", beginning with {counted(left, 'run')} of the coarse pass" if left else ""
    return f"until: this is the whole grid; a run takes only as much of it as its intervals need{coarse}"


def _say_work(found: Mapping[str, Any], planned: Plan, store: str, skip_failed: bool) -> None:
    """Print the work that is left and what it needs, or that there is none."""
    resources, slots = planned.sweep.file.resources, planned.slots
    function = planned.pace is not None
    collapse = f"{counted(found['cells'], 'cell')} -> {counted(found['runs'], 'run')}"
    if not planned.missing:
        left = ", or failed and left as it is," if skip_failed else ""
        say(f"  {collapse}", f"  nothing to do: every cell is finished{left} in {store}")
        return
    if not function:
        collapse += f" -> {counted(found['packs'], 'pack')}"
    if resources.workers_per_run > 1:
        each = " of one GPU each" if resources.gpus else ""
        collapse += f" of {resources.workers_per_run} workers{each}"
    say(f"  {collapse}, {slots} at a time{_missing_gpus(resources.gpus * resources.workers_per_run)}")
    if found["done_cells"]:
        say(
            f"  {found['done_cells']:,} of {found['cells']:,} cells are finished in {store}; "
            f"left to do: {counted(found['pending_cells'], 'cell')} in {counted(found['pending_runs'], 'run')}"
        )
    again = planned.again
    if again.restarted or again.resumed:
        say(
            f"  {counted(again.restarted + again.resumed, 'partly finished run')}: {again.resumed:,} resume from a "
            f"checkpoint, {again.restarted:,} are trained again from their start"
        )
    for count, groups in planned.spread.items():
        from raysweep.spread import in_words

        say(f"  {in_words(groups, count, resources.gpus)}")
    if not function:
        _print_shapes(found["shapes"])
    _print_time(found, function, slots)
    if not function:
        from raysweep.cost import host_memory

        on = "of a GPU" if resources.gpus else f"of {host_memory() / 2**30:.1f} GiB free here"
        who = "a pack" if resources.workers_per_run == 1 else "each worker of a pack"
        say(f"  memory: {who} may take {found['memory'] / 2**30:.1f} GiB {on}")


def _sweep(file: str, overrides: Sequence[str] | None, preset: str | None, store: str | None) -> Sweep:
    """The sweep, of which a plain function may be given axes that its store knows."""
    from raysweep.sweep import load_sweep
    from raysweep.sweep.stored import at_store, stored_declaration

    if not overrides:
        plain = load_sweep(file, (), preset)
        return at_store(plain, _store(plain, store))
    known: list[str] = []
    with contextlib.suppress(RaysweepError):
        plain = load_sweep(file, (), preset)
        declaration = stored_declaration(_store(plain, store))
        known = list(declaration.axes) if declaration is not None else []
    sweep = load_sweep(file, overrides, preset, known)
    return at_store(sweep, _store(sweep, store))


def _slots(sweep: Sweep) -> int:
    """Packs at a time on this machine: what its cores and its GPUs allow."""
    resources = sweep.file.resources
    workers = resources.workers_per_run
    by_cpu = int((os.cpu_count() or 1) / (resources.cpus * workers))
    gpus = _gpus() if resources.gpus else 0
    return max(1, min(by_cpu, int(gpus / (resources.gpus * workers))) if gpus else by_cpu)


def _gpus() -> int:
    """GPUs of this machine, as their driver reports them: importing torch would take seconds."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if Path("/proc/driver/nvidia/gpus").is_dir() else 0


def _missing_gpus(wanted: float) -> str:
    here = _gpus()
    there = {0: "none is", 1: "one is"}.get(here, f"{here} are")
    return f" on a machine with {wanted:g} GPUs or more: {there} here" if wanted > here else ""


def _question(store: Store, sweep: Sweep) -> list[str]:
    """Questions that `run` will ask before it does anything."""
    from raysweep.sweep.provenance import ask

    try:
        ask(store, sweep)
    except SweepError as error:
        return [f"`raysweep run` will ask: {error}"]
    return []


def _print_time(found: Mapping[str, Any], function: bool, slots: int) -> None:
    from raysweep.cost import clock

    seconds, rate = found["seconds"], found["rate"]
    if seconds is None:
        say("  time: unknown; nothing was measured in this store yet")
    elif function:
        say(f"  time: about {clock(seconds)}, {slots} at a time ({rate['source']})")
    else:
        speed = f"{rate['flops_per_second']:.1e} FLOP/s per pack, {rate['source']}"
        say(f"  time: about {clock(seconds)} for the packs ({speed})")


def _print_shapes(shapes: Sequence[Mapping[str, Any]]) -> None:
    varying = _varying(shapes)
    rows = [
        [
            ", ".join(f"{k}={v}" for k, v in s["shape"].items() if k in varying) or "all",
            f"{s['cells']:,}",
            f"{s['runs']:,}",
            f"{s['packs']:,} x {s['lanes']:,}",
            f"{s['parameters']:,.0f}",
            f"{s['flops']:.2e}",
            f"{s['flops_eval']:.2e}",
            f"{s['bytes'] / 2**20:,.1f}",
        ]
        for s in shapes[:_SHAPES]
    ]
    head = ["shape", "cells", "runs", "packs x lanes", "params", "FLOP", "eval FLOP", "MiB"]
    print_table(head, rows, right_from=1)
    if len(shapes) > len(rows):
        say(f"  ... and {len(shapes) - len(rows):,} more shapes")


def _varying(shapes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Shape axes worth showing: those that differ."""
    names = {k for s in shapes for k in s["shape"]}
    return {k for k in names if len({str(s["shape"].get(k)) for s in shapes}) > 1}


def run(
    file: File,
    set_: Set = None,
    preset: Preset = None,
    store: StoreOption = None,
    executor: Annotated[str, typer.Option(help="One of ray, inline.")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running Ray cluster; `auto` finds it. Default: start Ray here."),
    ] = None,
    skip_failed: SkipFailed = False,
    retry: Retry = None,
    accept_code: Annotated[
        bool, typer.Option("--accept-code", help="The code changed, its results did not: rows of both count as one.")
    ] = False,
    same_as: Annotated[
        str | None, typer.Option("--same-as", metavar="MODULE:NAME", help="The old name of a renamed function.")
    ] = None,
) -> None:
    """Run every pending cell of a sweep, then report. Run it again to finish what is missing."""
    from raysweep.cost import clock
    from raysweep.executors import make_executor
    from raysweep.run import run as execute
    from raysweep.status import failures
    from raysweep.sweep.current import current

    sweep = _sweep(file, set_, preset, store)
    target = _store(sweep, store)
    outcome = execute(
        sweep,
        target,
        make_executor(executor, address),
        skip_failed,
        _retry(retry),
        accept_code=accept_code,
        same_as=same_as,
    )
    counts = outcome.counts
    done = [f"{counts.ok:,} ok"] + [
        f"{n:,} {s}" for s in ("diverged", "failed", "skipped") if (n := getattr(counts, s))
    ]
    pending = f", {outcome.pending:,} pending" if outcome.pending else ""
    cells = counted(counts.total + outcome.pending, "cell")
    say(f"{sweep.name}: {', '.join(done)}{pending} of {cells} in {clock(outcome.seconds)}")
    for name, reason in outcome.scan.skipped:
        say(f"warning: {name} was skipped: {reason}")
    if counts.ok:
        _report(target, sweep.experiment, outcome.tuned)
    if outcome.state is not None:
        from raysweep.verdict import sentences

        say(*(f"  {line}" for line in sentences(outcome.state)))
    for line in outcome.notes:
        say(f"  {line} Use `fit --rows all` or `report --rows all` to include them")
    if counts.failed or (counts.diverged and not counts.ok):
        for failure in failures(current(target), ["failed", "diverged"])[:_CAUSES]:
            say(f"{failure['status']} x {failure['cells']:,}: {failure['cause']}")
    if counts.failed:
        say(f"{counted(counts.failed, 'cell')} failed: see `raysweep status {target.uri}`; run again to retry them")
    elif counts.diverged and not counts.ok:
        say(
            "no cell is ok, so that there is no report: change what made them diverge, such as a learning rate; "
            "`--retry diverged` runs the same cells again"
        )
    if outcome.stopped:
        say(f"stopped: {outcome.stopped}. `resources: {{max_failures: N}}` allows more")
    if counts.failed or outcome.pending:
        raise typer.Exit(1)


def _report(store: Store, experiment: Experiment, tuned: Sequence[str]) -> None:
    """Report; `tuned` is said without one, too."""
    try:
        from raysweep.reports import make_report
    except ModuleNotFoundError as error:
        say(f"no report: {error.name} is not installed here; run `raysweep report {store.uri}` where it is", *tuned)
        return
    report = make_report(store, experiment)
    for sentence in report.findings[report.notes :]:
        say(f"  {sentence}")
    say(f"report: {report.page}")
