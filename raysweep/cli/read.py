"""Commands that read a store: report, audit, compact, doctor; status is in a file of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from raysweep.cli.show import print_json, print_table
from raysweep.cli.status import status
from raysweep.errors import LedgerError, OracleError
from raysweep.ledger import Ledger
from raysweep.store import Store

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (status, report, audit, compact, doctor):
        app.command()(command)


def report(store: StoreArgument) -> None:
    """Write the store's report.html and figures/ anew."""
    from raysweep.report import make_report

    made = make_report(Store(store))
    for sentence in made.findings:
        print(sentence)
    print(f"report: {made.page}")


def audit(
    oracle: Annotated[
        str, typer.Argument(metavar="ORACLE", help="A world's folder, or a store that holds one.", show_default=False)
    ],
    temperature: Annotated[list[float] | None, typer.Option(help="Latent temperature; may be repeated.")] = None,
    items: Annotated[int, typer.Option(min=100, help="Generated pairs.")] = 8192,
    json: Json = False,
) -> None:
    """Check that a world's posterior is exact: inverse, log-determinant, self-calibration. Exit 1 if it is not."""
    from raysweep.oracle.audit import audit as check
    from raysweep.oracle.world import load_world

    store = Store(oracle)
    folders = [""] if store.exists("recipe.json") else [f"oracle/{f}" for f in store.folders("oracle")]
    if not folders:
        raise OracleError(f"audit: {oracle} must be a world's folder or a store with one, but holds neither")
    found = [check(load_world(store, f), t, items).to_json() for f in folders for t in temperature or [1.0]]
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


def compact(store: StoreArgument) -> None:
    """Rewrite cells.parquet from the ledger's parts."""
    scan = Ledger(Store(store)).compact()
    if not scan.parts:
        raise LedgerError(f"compact: {store} must hold a ledger with parts, but holds none")
    print(f"{len(scan.table):,} cells from {scan.parts:,} parts -> {store.rstrip('/')}/cells.parquet")
    for name, reason in scan.skipped:
        print(f"warning: {name} was skipped: {reason}")


def doctor(
    store: Annotated[str | None, typer.Option("--store", metavar="URI", help="Also check this store.")] = None,
    json: Json = False,
) -> None:
    """Look for what would keep a sweep from running here. Exit 1 if something is wrong."""
    from raysweep.status import as_json
    from raysweep.status import doctor as look

    found = look(Store(store) if store else None)
    if json:
        print_json(as_json(found))
    else:
        rows = [[f.name, "ok" if f.ok else "FAILED", f.value, "" if f.ok else f.remedy] for f in found]
        print_table(["what", "", "value", "remedy"], rows)
    if not all(f.ok for f in found):
        raise typer.Exit(1)
