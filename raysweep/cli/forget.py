"""The forget command: rows that must go. They stay on disk, no command sees them, and the next run fills them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, say
from raysweep.errors import LedgerError, plain
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.forget import Chosen

_EXAMPLES = 5  # cells that are shown
_MOST = 0.1  # share of the store's cells that may be forgotten without --yes


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(forget)


def forget(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)],
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Rows to forget, as in fit: \"lr > 0.1 AND status = 'ok'\".")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; `status` shows it. Without it, nothing is forgotten.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Forget even more than a tenth of the cells.")] = False,
    rows: Annotated[
        str, typer.Option("--rows", metavar="current|all", help="The sweep as it is now, or all the store ever held.")
    ] = "current",
    undo: Annotated[bool, typer.Option("--undo", help="Let what was forgotten last count again.")] = False,
    id_: Annotated[str | None, typer.Option("--id", metavar="ID", help="With --undo: this one, not the last.")] = None,
    json: Json = False,
) -> None:
    """Forget rows: fits, status and exports no longer see them, and the next run fills them again.

    --undo takes it back. Without --reason it shows what would be forgotten; without --where, what was.
    """
    if (undo and not (where is None and reason is None)) or (id_ is not None and not undo):
        raise LedgerError(
            "forget: --undo goes with no option but --id, and --id only with --undo. Leave the others out"
        )
    if where is None and reason is not None:
        raise LedgerError(f"forget: --reason must come with --where, but got (reason={reason!r}). Say which rows")
    if reason is not None and not reason.strip():
        raise LedgerError("forget: --reason must say why, but is empty. Write a few words for whoever asks later")
    if undo:
        _undo(store, id_, json)
    elif where is None:
        _list(store, json)
    else:
        _forget(store, where, reason, yes, rows, json)


def _forget(store: str, where: str, reason: str | None, yes: bool, rows: str, json: bool) -> None:
    from raysweep.forget import choose, drop_statements
    from raysweep.store import Store
    from raysweep.sweep.current import current

    target = Store(store)
    chosen = choose(target, where, rows)
    count = len(chosen.table)
    if not count:
        raise LedgerError(f"forget: --where must match rows, but {where!r} matches none of {chosen.of:,}. Correct it")
    if reason is not None and chosen.share > _MOST and not yes:
        raise LedgerError(
            f"forget: more than a tenth of the cells are forgotten only with --yes, but {where!r} matches {count:,} of "
            f"{chosen.of:,}. Look at them without --reason first, then add --yes"
        )
    one = None
    if reason is not None:
        now = current(target)
        one = now.ledger.forget(chosen.table.column("cell"), reason.strip(), where)
        drop_statements(target)
        _compact(store)
    if json:
        print_json({"forgotten": one.to_json() if one else None, **_summary(chosen)})
        return
    said = ", ".join(f"{n:,} {status}" for status, n in chosen.statuses.items())
    what = f"{count:,} of {counted(chosen.of, 'cell')} ({said}) of {counted(chosen.runs, 'run')}"
    say(f"{'forgotten' if one else 'would be forgotten'}: {what}")
    for example in chosen.examples(_EXAMPLES):
        say("  " + plain(", ".join(f"{name}={value}" for name, value in example.items())))
    if count > _EXAMPLES:
        say(f"  ... and {count - _EXAMPLES:,} more")
    say(f"  {_cost(chosen)}")
    if one:
        say(f"  to take it back: raysweep forget {store} --undo --id {one.id}")
    else:
        say("  nothing was changed; give --reason to forget them")


def _summary(chosen: Chosen) -> dict[str, Any]:
    return {
        "cells": len(chosen.table),
        "of": chosen.of,
        "runs": chosen.runs,
        "statuses": chosen.statuses,
        "flops": chosen.spent("flops"),
        "seconds": chosen.spent("seconds"),
    }


def _cost(chosen: Chosen) -> str:
    from raysweep.cost import clock

    flops, seconds = chosen.spent("flops"), chosen.spent("seconds")
    work = [f"{flops:.2g} FLOP"] * bool(flops) + [f"{clock(seconds)} of pack time"] * bool(seconds)
    return f"measuring them took {' and '.join(work) or 'an unknown time'}; `raysweep run` measures them again"


def _undo(store: str, id_: str | None, json: bool) -> None:
    from raysweep.forget import drop_statements
    from raysweep.store import Store
    from raysweep.sweep.current import current

    one = current(Store(store)).ledger.restore(id_)
    drop_statements(Store(store))
    _compact(store)
    if json:
        print_json({"restored": one.to_json()})
        return
    say(f"counted again: {counted(one.cells, 'cell')} forgotten on {one.at[:16]}: {one.reason}")


def _list(store: str, json: bool) -> None:
    from raysweep.store import Store
    from raysweep.sweep.current import current

    found = [one.to_json() for one in current(Store(store)).ledger.tombstones()]
    if json:
        print_json(found)
        return
    if not found:
        say(f"{store}: nothing was forgotten")
    for one in found:
        say(f"{one['id']}  {one['at'][:16]}  {counted(one['cells'], 'cell')}  where {one['where']}: {one['reason']}")


def _compact(store: str) -> None:
    """Rewrite the compacted tables, for tools that read only these."""
    from raysweep.store import Store
    from raysweep.sweep.current import current
    from raysweep.sweep.provenance import accepted_codes

    target = Store(store)
    now = current(target)
    now.ledger.compact(now.own, accepted_codes(target))
