"""Commands that read a store: report, audit, compact, doctor; status is in a file of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from raysweep.cli.show import print_json, print_table, say
from raysweep.cli.status import status
from raysweep.errors import LedgerError, OracleError, plain

if TYPE_CHECKING:
    from raysweep.store import Store

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (status, logs, report, audit, compact, doctor):
        app.command()(command)


def report(
    store: StoreArgument,
    rows: Annotated[
        str, typer.Option("--rows", metavar="current|all", help="The sweep as it is now, or all the store ever held.")
    ] = "current",
) -> None:
    """Write the store's report.html and figures/ again."""
    from raysweep.reports import make_report
    from raysweep.store import Store

    made = make_report(Store(store), rows=rows)
    for sentence in made.findings:
        print(sentence)
    say(f"report: {made.page}")


def audit(
    oracle: Annotated[
        str, typer.Argument(metavar="ORACLE", help="A store, or one world's folder.", show_default=False)
    ],
    temperature: Annotated[
        list[float] | None,
        typer.Option(help="Latent temperature; may be repeated. Default: those that the store's sweeps used."),
    ] = None,
    items: Annotated[int, typer.Option(min=100, help="Generated pairs.")] = 8192,
    json: Json = False,
) -> None:
    """Check that a world's posterior is exact. Inverse, log-determinant, self-calibration; exit 1 if it is not."""
    from raysweep.oracle.audit import audit as check
    from raysweep.oracle.world import load_world
    from raysweep.store import Store

    store = Store(oracle)
    folders = [""] if store.exists("recipe.json") else [f"oracle/{f}" for f in store.folders("oracle")]
    if not folders:
        raise OracleError(f"audit: {oracle} must be a world's folder or a store with one, but holds neither")
    todo = [(folder, t) for folder in folders for t in temperature or temperatures(store, folder)]
    found = []
    for i, (folder, t) in enumerate(todo, 1):
        print(f"audit {i} of {len(todo)}: {folder or oracle} at temperature {t:g}", file=sys.stderr, flush=True)
        found.append(check(load_world(store, folder), t, items).to_json())
    if json:
        print_json(found)
    else:
        for one in found:
            print(
                f"{oracle}: weights {one['sha'][:8]}, temperature {one['temperature']:g}, {one['items']:,} items: "
                f"aleatoric {one['aleatoric']:.4f} nats, Bayes error {one['bayes_error']:.4f}"
            )
            rows = [
                [c["name"], f"{c['value']:.3g}", f"{c['limit']:.3g}", "ok" if c["passed"] else "FAILED", c["about"]]
                for c in one["checks"]
            ]
            print_table(["check", "value", "limit", "", "about"], rows)
    if not all(one["passed"] for one in found):
        raise typer.Exit(1)


def temperatures(store: Store, folder: str) -> list[float]:
    """At which a store's sweeps used a world: those of the sweep last run, if it is its world's, and those at which
    earlier runs audited it; 1 where nothing says more.

    Args:
        store: A store, or a world's own folder.
        folder: The world's folder within it.
    """
    from raysweep.oracle.recipe import folder_of, stored_audits
    from raysweep.sweep.stored import stored_runs, stored_sweep

    used = {audit["temperature"] for audit in stored_audits(store, folder)}
    if store.exists("env.json"):
        world = stored_sweep(store)[0].world
        if world is not None and folder == folder_of(world) and (runs := stored_runs(store)) is not None:
            used |= {float(t) for t in runs.values.get("temperature", (1.0,)) if isinstance(t, int | float)}
    return sorted(used) or [1.0]


def logs(
    store: StoreArgument,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's key or its beginning; none: what there is.")
    ] = None,
    lines: Annotated[int | None, typer.Option("--tail", min=1, metavar="N", help="Only the last N lines.")] = None,
    json: Json = False,
) -> None:
    """Show what a run of your function printed and logged. Without RUN, list the runs that did."""
    from raysweep.logs import list_logs, read_log
    from raysweep.store import Store

    target = Store(store)
    if run is None:
        found = list_logs(target)
        if json:
            print_json(found)
            return
        print_table(["run", "status", "characters", "axes"], [[str(one[k]) for k in one] for one in found])
        return
    key, text = read_log(target, run)
    text = "\n".join(text.splitlines()[-lines:]) if lines else text
    if json:
        print_json({"run": key, "log": text})
    else:
        print(plain(text).rstrip("\n"))


def compact(store: StoreArgument) -> None:
    """Rewrite cells.parquet from the ledger's parts."""
    from raysweep.ledger.log import Ledger
    from raysweep.store import Store
    from raysweep.sweep.current import current
    from raysweep.sweep.provenance import accepted_codes

    target = Store(store)
    now = current(target) if target.exists("env.json") else None
    scan = Ledger(target).compact() if now is None else now.ledger.compact(now.mine, accepted_codes(target))
    if not scan.parts:
        raise LedgerError(f"compact: {store} must hold a ledger with parts, but holds none")
    say(f"{len(scan.table):,} cells from {scan.parts:,} parts -> {store.rstrip('/')}/cells.parquet")
    for name, reason in scan.skipped:
        say(f"warning: {name} was skipped: {reason}")


def doctor(
    store: Annotated[str | None, typer.Option("--store", metavar="URI", help="Also check this store.")] = None,
    json: Json = False,
) -> None:
    """Look for what would keep a sweep from running here. With --store, also try what a run does. Exit 1 on failure."""
    from raysweep.doctor import as_json
    from raysweep.doctor import doctor as look
    from raysweep.store import Store

    found = look(Store(store) if store else None)
    if json:
        print_json(as_json(found))
    else:
        rows = [
            [f.name, "FAILED" if not f.ok else "weak" if f.weak else "ok", f.value, "" if f.ok else f.remedy]
            for f in found
        ]
        print_table(["what", "", "value", "remedy"], rows)
    if not all(f.ok for f in found):
        raise typer.Exit(1)
