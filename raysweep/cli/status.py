"""The status command: what a store holds and how its sweep progresses, once or repeatedly."""

from __future__ import annotations

import json as json_module
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from raysweep.cli.show import print_json, terminal_width
from raysweep.errors import plain
from raysweep.terminal import counted, folded

__all__ = ["lines", "status"]

_BAR = 40  # columns
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CAUSES, _WORDS, _FILES = 10, 20, 5  # items shown of each kind: causes, lines of a reason, unreadable files
_CODES = 5  # codes that are shown


def status(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)],
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until the sweep is done; wait for a store that does not exist yet.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between refreshes of --watch.")] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch, one line per refresh.")] = False,
) -> None:
    """Show what is done, failed and pending, and the pace. While a sweep runs, and after it."""
    from raysweep.status import Seen
    from raysweep.status import status as look
    from raysweep.store import Store

    target, seen = Store(store), Seen()
    if not watch:
        found = look(target, seen)
        if json:
            print_json(found)
        else:
            print("\n".join(lines(found, terminal_width())))
        return
    driven = waits = False
    try:
        while True:
            if not target.exists("env.json"):
                _wait(store, json, again=waits)
                waits = True
                time.sleep(every)
                continue
            found = look(target, seen)
            if json:
                print(json_module.dumps(found, default=str), flush=True)
            else:
                _show(lines(found, terminal_width()))
            before, driven = driven, any(d["alive"] for d in found["drivers"])
            if found["pending"] == 0 or (before and not driven):  # nothing is left, or no driver is at work any more
                return
            time.sleep(every)
    except KeyboardInterrupt:
        return  # Ctrl-C is the usual end of a watch


def _wait(store: str, json: bool, again: bool) -> None:
    """Report that there is no store yet: with --json one line per refresh, on a terminal one page, elsewhere once."""
    line = f"waiting for {store} to be created"
    if json:
        print(json_module.dumps({"store": store, "waiting": line}), flush=True)
    elif sys.stdout.isatty() or not again:
        _show(folded(plain(line), terminal_width()))


def _show(page: Sequence[str]) -> None:
    """Print a page, replacing the last one on a terminal, following it elsewhere."""
    if sys.stdout.isatty():
        rows = shutil.get_terminal_size().lines - 1
        print("\x1b[H\x1b[2J" + "\n".join(page[:rows]), flush=True)
    else:
        print("\n".join([time.strftime("%H:%M:%S"), *page, ""]), flush=True)


def lines(found: Mapping[str, Any], width: int | None = None) -> list[str]:
    """The output of `status` for people, folded to lines of at most `width` columns, without control sequences."""
    page = [f"{found['sweep']}  {found['store']}", *(f"  {line}" for line in _body(found))]
    page = [_CONTROL.sub("?", _COLOUR.sub("", line).expandtabs(4)) for line in page]
    return [part for line in page for part in folded(line, width, break_words=True)]


def _body(found: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{n:,} {s}" for s, n in found["cells"].items() if n) or "no finished cells"
    if found["total"]:
        share = found["done"] / found["total"]
        bar = "#" * int(share * _BAR)
        yield f"[{bar:-<{_BAR}}] {int(share * 100)} %"
        chosen, when = (" chosen so far", f" in round {found['round']}") if found.get("round") else ("", "")
        yield f"{counts} of {found['total']:,}{chosen}; {found['pending']:,} pending{when}"
        if found.get("round"):
            yield f"the whole grid has {counted(found['grid'], 'cell')}, of which `until` chooses as it goes"
    else:
        lacks = "what its tuning chose" if found.get("tuning") else "axes/ of its sweep"
        yield f"{counts}; how many are pending is unknown: the store lacks {lacks} (run it once more)"
    if found.get("not_needed"):
        yield f"the sweep is done by its own rule; not needed: {counted(found['not_needed'], 'cell')} of its grid"
    if (found.get("tuning") or {}).get("settings"):
        from raysweep.rounds import described

        yield described(found["tuning"])
        yield from found["tuning"]["said"]
    yield from found["left_out"]
    for one in found.get("forgotten", []):
        yield f"{counted(one['cells'], 'cell')} forgotten on {one['at'][:10]} ({one['id']}): {one['reason']}"
    yield from _codes(found.get("codes", []))
    working = any(d["alive"] for d in found["drivers"])
    yield from _pace(found, working)
    for world in found["worlds"]:
        state = "ready" if world["ready"] else "in training"
        audits = f", audit {'passed' if world['passed'] else 'FAILED'}" if world["passed"] is not None else ""
        yield f"world {world['recipe']}: {state}{audits}"
    for driver in found["drivers"]:
        yield _driver(driver)
    for one in found.get("running", [])[:_FILES]:
        yield f"at work: run {one['run'][:8]} ({one['axes']}), for at least {_age(one['seconds'])}"
    if predictions := found.get("predictions", []):
        from raysweep.predictions import Kept, sentences

        said = sentences([Kept(**one) for one in predictions])
        yield from said[: _FILES + 1]
        yield from _more(predictions, _FILES, "predictions")
    until = found.get("until") or {}
    for line in until.get("sentences", []):
        yield str(line)
    if found["pending"] and not working and not until.get("over"):
        yield "no driver at work; `raysweep run` continues from here"
    for failure in found["failures"][:_CAUSES]:
        example = failure["example"]
        yield f"{failure['status']} x {failure['cells']:,}: {failure['cause']}"
        said, log = example["error"].splitlines(), example.get("log", [])
        if said == [failure["cause"]] and not log:
            continue
        yield f"  e.g. cell {example['cell']}, attempt {example['attempt']}:"
        yield from (f"    {line}" for line in said[-_WORDS:])
        if log:
            yield f"  its log ends (`raysweep logs STORE {example['cell'][:8]}`):"
            yield from (f"    {line}" for line in log[-_WORDS:])
    yield from _more(found["failures"], _CAUSES, "causes")
    for file in found["unreadable"][:_FILES]:
        yield f"warning: {file['file']}: {file['reason']}"
    yield from _more(found["unreadable"], _FILES, "unreadable files")


def _more(things: Sequence[Any], shown: int, what: str) -> Iterator[str]:
    if len(things) > shown:
        yield f"... and {len(things) - shown:,} more {what}; --json has them all"


def _codes(codes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(codes) > 1:
        shown = ", ".join(f"{code['cells']:,} of {code['code_sha'][:8]}" for code in codes[:_CODES])
        more = f" and {len(codes) - _CODES:,} more" if len(codes) > _CODES else ""
        yield (
            f"warning: code_sha varies ({shown}{more}): fits keep the rows of each code apart. If results are "
            "unchanged, run with --accept-code; otherwise with a new version"
        )


def _pace(found: Mapping[str, Any], working: bool) -> Iterator[str]:
    from raysweep.cost import clock

    parts, pace = counted(found["parts"], "part"), found["pace"]
    if pace is None:
        return
    said = []
    if pace["cells_per_second"] is not None and working and found["pending"] != 0:
        said.append(f"{_number(pace['cells_per_second'])} cells/s over the last {clock(pace['window_seconds'])}")
        if pace["remaining_seconds"] is not None:
            of = " in this round" if found.get("round") else ""
            said.append(f"about {clock(pace['remaining_seconds'])} left{of}")
    if pace["last_rows_age"] is not None:
        said.append(f"last rows {_age(pace['last_rows_age'])} ago")
    if pace["busy_seconds"]:
        said.append(f"{clock(pace['busy_seconds'])} of pack time")
    yield "; ".join([*said, parts])


def _driver(driver: Mapping[str, Any]) -> str:
    who = f"driver {driver['host']}" + (f" (process {driver['process']})" if driver["process"] else "")
    age = driver["heartbeat_age"]
    link = f", dashboard {driver['dashboard']}" if driver["dashboard"] else ""
    if not driver["alive"]:
        since = f" for {_age(age)}" if age is not None else ""
        return f"{who}: SILENT{since}; {counted(driver['packs'], 'pack')} free for other drivers"
    heard = (
        f"last heard from {_age(age)} ago" if age is not None else "age unknown: its file has no time or a future one"
    )
    return f"{who}: {counted(driver['packs'], 'pack')}, {heard}{link}"


def _age(seconds: float) -> str:
    from raysweep.cost import clock

    return f"{seconds:.0f} s" if seconds < 100 else clock(seconds)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
