"""The suggest command: which runs of a store's grid would make an interval narrow enough, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import LedgerError, SweepError, plain
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.suggest import Suggestion
    from raysweep.sweep.until import Target

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

    targets = _targets(ci95)
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
    if found.hopeless:
        say(found.hopeless)
        return
    _table(found)
    say(_price(found, dollars))


def _targets(texts: Sequence[str]) -> list[Target]:
    """The intervals that are wanted, each once.

    Raises:
        SweepError: A text is not NAME=WIDTH, or an interval has two widths.
    """
    from raysweep.sweep.until import read_target

    found: dict[tuple[Any, ...], Target] = {}
    for one in texts:
        name, mark, width = one.rpartition("=")
        try:
            number = float(width)
        except ValueError:
            number = None
        if not mark or number is None:
            wrong = f"whose width {width!r} is no number" if mark else "which has no width"
            raise SweepError(f"--ci95: must be NAME=WIDTH, as in alpha=0.02, but got {one!r}, {wrong}. Correct it")
        try:
            target = read_target(name, number)
        except ValueError as error:
            raise SweepError(f"--ci95: {error}. Write it as alpha=0.02 or loss(1e9)=0.1") from error
        before = found.setdefault((target.name, target.at), target)
        if before.width != target.width:
            raise SweepError(
                f"--ci95: an interval must have one width, but got {before.text}={before.width:g} and "
                f"{target.text}={target.width:g}. Leave one out"
            )
    return list(found.values())


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
