"""Commands that read a store: report, compact, doctor; status and audit are in files of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from raysweep.cli.asking import Json
from raysweep.cli.audit import audit
from raysweep.cli.show import print_json, print_table, say
from raysweep.cli.status import status
from raysweep.errors import LedgerError, plain
from raysweep.terminal import counted

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)]


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
    say(*made.findings)
    say(f"report: {made.page}")


def logs(
    store: StoreArgument,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's key or its beginning; by default, list all.")
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
    scan = Ledger(target).compact() if now is None else now.ledger.compact(now.own, accepted_codes(target))
    if not scan.parts:
        raise LedgerError(f"compact: {store} must hold a ledger with parts, but holds none")
    say(f"{counted(len(scan.table), 'cell')} from {counted(scan.parts, 'part')} -> {store.rstrip('/')}/cells.parquet")
    for name, reason in scan.skipped:
        say(f"warning: {name} was skipped: {reason}")


def doctor(
    store: Annotated[str | None, typer.Option("--store", metavar="URI", help="Also check this store.")] = None,
    json: Json = False,
) -> None:
    """Check that a sweep can run here. With --store, also try what a run does there. Exit 1 on failure."""
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
