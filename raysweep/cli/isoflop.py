"""The command that finds the compute-optimal size from IsoFLOP valleys: isoflop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import At, By, Json, Level, Seed, SomeDraws, Where
from raysweep.cli.laws import Data, Rows, source
from raysweep.cli.naming import naming
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import FitError

if TYPE_CHECKING:
    from raysweep.laws.valleys import GroupIsoFlop

_MOST = 20  # groups that are shown


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(isoflop)


def isoflop(
    data: Data,
    n: Annotated[str, typer.Option("--n", metavar="COL", help="Column of the size, such as parameters.")],
    flops: Annotated[str, typer.Option("--flops", metavar="COL", help="Column of the budget of each run.")],
    y: Annotated[str, typer.Option("--y", metavar="COL", help="Column of the loss.")],
    budget: Annotated[
        list[float] | None, typer.Option(metavar="FLOPS", help="Predict the optimum at this budget; may be repeated.")
    ] = None,
    degree: Annotated[int, typer.Option(min=2, max=3, help="3 for cubic valleys, 2 for parabolas.")] = 3,
    cost_per: Annotated[float, typer.Option(metavar="C", help="FLOPs are C times size and data.")] = 6.0,
    by: By = None,
    where: Where = None,
    at: At = "best",
    rows: Rows = "current",
    bootstrap: SomeDraws = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Find the compute-optimal size from runs of several sizes at each budget (IsoFLOP valleys), with intervals."""
    from raysweep.laws.valleys import isoflops

    bad = next((one for one in budget or () if not 0 < one < float("inf")), None)
    if bad is not None:
        raise FitError(f"isoflop: a --budget is FLOPs, positive and finite, but got {bad:g}. Correct it")
    if len({n, flops, y, *(by or ())}) < 3 + len(by or ()):
        raise FitError(
            f"isoflop: --n, --flops, --y and --by must name different columns, but got {n}, {flops}, {y} and "
            f"{', '.join(by or ()) or 'nothing'}. Name each column once"
        )
    if not 0 < cost_per < float("inf"):
        raise FitError(
            f"isoflop: --cost-per is FLOPs per unit of size and data, positive and finite, but got {cost_per:g}. Leave "
            "it out for 6"
        )
    with naming("isoflop", n=n, flops=flops, y=y, by=by):
        found = isoflops(
            source(data, rows, json),
            n=n, flops=flops, y=y, by=by or (), where=where, at=at, degree=degree, cost_per=cost_per,
            level=level, bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
    if json:
        print_json([one.to_json(budget or ()) for one in found])
        return
    for i, one in enumerate(found[:_MOST]):
        say(*([""] * bool(i)))
        _show(one, budget or [])
    if len(found) > _MOST:
        say("", f"... and {len(found) - _MOST:,} more groups; --json has them all")


def _show(one: GroupIsoFlop, budgets: list[float]) -> None:
    from raysweep.laws.notes import group_name

    record = one.to_json(budgets)
    title = group_name(one.group, " = ") or "all rows"
    if isinstance(one.found, str):
        say(f"{title}: no frontier: {one.found}")
    else:
        a, g = record["params"]
        say(
            f"{title}: best {one.n} = G {one.flops}^a, a = {_number(a)}, G = {_number(g)}; {one.flops} "
            f"{record['window'][0]:.4g} to {record['window'][1]:.4g}, {one.level:.0%} intervals"
        )
        cost = f"{one.found.frontier.c:.4g}"
        head = [one.flops, f"best {one.n}", f"{one.flops} / ({cost} {one.n})", one.y, "runs"]
        print_table(head, [*map(_valley, record["valleys"]), *map(_best, record["budgets"])])
        say(*(f"  {best['below_one']}" for best in record["budgets"] if "below_one" in best))
    say(*(f"  {code}: {text}" for code, text in record["details"].items()))


def _valley(record: dict[str, Any]) -> list[str]:
    low, high = record["window"]
    best = [*map(_number, record["params"]), f"{record['loss']:.4g}"] if record["params"] else ["not bracketed", "", ""]
    return [f"{record['flops']:.4g}", *best, f"{record['n_points']} of {low:.3g} to {high:.3g}"]


def _best(record: dict[str, Any]) -> list[str]:
    beyond = f"predicted, {record['beyond']:.3g} times beyond" if record["beyond"] > 1 else "predicted"
    return [f"{record['flops']:.4g}", *(_number(each) for each in record["params"]), "", beyond]


def _number(record: dict[str, Any]) -> str:
    return f"{record['value']:.4g} [{record['ci_low']:.4g}, {record['ci_high']:.4g}]"
