"""The suggest command: which runs of a store's grid would make an interval narrow enough, and at what price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import LedgerError, SweepError, plain
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.suggest import Suggestion

_SHOWN = 40  # settings that are printed


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(suggest)


def suggest(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)],
    ci95: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=WIDTH", help="A 95 % interval and its width: alpha=0.02, 'loss(1e9)=0.1'; may be repeated."
        ),
    ],
    fit: Annotated[int, typer.Option(min=0, metavar="I", help="Which of the sweep's fits, counted from 0.")] = 0,
    price: Annotated[
        str | None, typer.Option(metavar="MACHINE", help="Also estimate the cost, on aws:p5.48xlarge or gcp:a3, say.")
    ] = None,
    prices: Annotated[str | None, typer.Option(metavar="FILE", help="A price table of your own, YAML.")] = None,
    json: Json = False,
) -> None:
    """Suggest the runs that would make an interval narrow enough at the least cost. Nothing is run or written.

    Seeds that the grid lacks are suggested, too.
    """
    from pathlib import Path

    from raysweep.store import Store
    from raysweep.suggest import suggestion
    from raysweep.sweep.until import read_target

    targets = []
    for one in ci95:
        text, _, width = one.rpartition("=")
        try:
            targets.append(read_target(text, float(width)))
        except ValueError as error:
            raise SweepError(
                f"--ci95: must be NAME=WIDTH, as in alpha=0.02, but got {one!r}: {error}. Correct it"
            ) from error
    if prices is not None and price is None:
        raise LedgerError("suggest: --prices goes with --price; give it, e.g. --price aws:p5")
    found = suggestion(Store(store), targets, fit)
    dollars = None
    if price is not None:
        from raysweep.prices import find_machine, read_prices

        dollars = found.dollars(find_machine(read_prices(Path(prices) if prices else None), price))
    if json:
        print_json({**found.to_json(), "dollars": dollars})
        return
    say(*(plain(line) for line in found.now))
    if not found.rows:
        say("nothing more is needed")
        return
    _table(found)
    say(_price(found, dollars))


def _table(found: Suggestion) -> None:
    head = [*found.axes, "runs so far", "runs to add", f"cost ({_unit(found)})"]
    rows = [
        [*(str(value) for value in one.values), f"{one.so_far:,}", f"{one.add:,}", f"{one.cost:.2g}"]
        for one in found.rows
    ]
    print_table(head, rows[:_SHOWN], right_from=len(found.axes))
    if len(rows) > _SHOWN:
        say(f"  ... and {len(rows) - _SHOWN:,} more settings; --json has them all")


def _price(found: Suggestion, dollars: dict[str, Any] | None) -> str:
    from raysweep.cost import clock

    parts = [counted(sum(one.add for one in found.rows), "run")]
    if found.in_flops:
        parts.append(f"{found.cost:.2g} FLOP")
    if found.seconds:
        parts.append(f"{clock(found.seconds)} of pack time")
    if dollars is not None:
        parts.append(f"about ${dollars['on_demand']:,.2f} on {dollars['machine']}")
    lacking = sum(max(0, one.add - one.left) for one in found.rows)
    more = f". {counted(lacking, 'run')} of them need seeds that the grid does not have yet" if lacking else ""
    return ", ".join(parts) + f"; spent so far: {found.spent:.2g} {_unit(found)}" + more


def _unit(found: Suggestion) -> str:
    return "FLOP" if found.in_flops else "s of pack time"
