"""The command that spends a budget on two scales, by a fitted law."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import Asked, Json, asking
from raysweep.cli.laws import Data, OfLaws, Rows, fitted_points
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import FitError

if TYPE_CHECKING:
    from raysweep.laws import GroupFit
    from raysweep.laws.allocate import Allocation
    from raysweep.laws.points import Points

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=OfLaws)(asking(allocate, law="chinchilla"))


def allocate(
    data: Data,
    asked: Asked,
    budget: Annotated[
        list[float] | None, typer.Option(metavar="FLOPS", help="Compute to spend, in all; may be repeated.")
    ] = None,
    loss: Annotated[
        list[float] | None, typer.Option(metavar="Y", help="Or a loss to reach at the least cost; may be repeated.")
    ] = None,
    inference_tokens: Annotated[
        float, typer.Option(metavar="T", help="Tokens to serve, at 2 FLOPs each per unit of the first scale.")
    ] = 0.0,
    rows: Rows = "current",
    cost_per: Annotated[
        float | None, typer.Option(metavar="C", help="FLOPs are C times both scales; 6 if neither is given.")
    ] = None,
    flops: Annotated[
        str | None, typer.Option(metavar="COL", help="Fit the cost of training to this column of measured FLOPs.")
    ] = None,
    json: Json = False,
) -> None:
    """Show how to spend a budget on two scales, by a fitted law. The answer has intervals."""
    if (not budget) == (not loss):
        given = "both" if budget else "neither"
        raise FitError(f"allocate: --budget or --loss must be given, and not both, but got {given}. Give one of them")
    for option, numbers in (("a --budget is FLOPs", budget), ("a --loss is a value of y", loss)):
        bad = next((b for b in numbers or () if not 0 < b < float("inf")), None)
        if bad is not None:
            raise FitError(f"allocate: {option}, positive and finite, but got {bad:g}. Correct it")
    if not 0 <= inference_tokens < float("inf"):
        raise FitError(
            f"allocate: --inference-tokens must be finite and at least 0, but got {inference_tokens:g}. Leave it out "
            "for training alone"
        )
    if cost_per is not None and flops is not None:
        raise FitError("allocate: --cost-per states what training costs and --flops measures it; give one of them")
    if cost_per is not None and not 0 < cost_per < float("inf"):
        raise FitError(
            f"allocate: --cost-per is FLOPs per unit of both scales, positive and finite, but got {cost_per:g}. Leave "
            "it out for 6"
        )
    from raysweep.laws.forms import LAWS

    if asked.formula is not None:
        raise FitError("allocate: it takes no formula, whose loss may fall without bound: name a --law of two scales")
    paid = [name for name, one in LAWS.items() if one.costs]
    if asked.law not in paid:
        raise FitError(
            f"allocate: --law must have two scales whose product costs FLOPs, but got {asked.law!r}. Such laws are "
            f"{', '.join(paid)}. For attempts against training use raysweep.laws.split, from Python"
        )
    requests = [asked.request("allocate")]
    keep = () if flops is None else (flops,)
    ((fitted, points),) = fitted_points("allocate", data, asked, requests, rows, json, keep, flops=flops)
    if flops is not None and not points.frame[flops].dtype.is_numeric():
        raise FitError(f"allocate: --flops must name a column of numbers, but {flops!r} holds words. Name another")
    target = _Target(tuple(budget or ()), tuple(loss or ()), cost_per or 6.0, flops, inference_tokens)
    made = [(group, _allocation(group, points, target)) for group in fitted]
    if all(isinstance(one, str) for _, one in made):
        raise FitError(str(made[0][1]))
    if json:
        print_json([record for group, one in made for record in _records(group, one)])
        return
    from raysweep.reports.tables import MOST

    for group, one in made[:MOST]:
        _show_allocation(group, one)
    if len(made) > MOST:
        say(f"... and {len(made) - MOST:,} more groups; --json has them all")


@dataclass(frozen=True)
class _Target:
    """What is allocated: budgets or losses, and what training and inference cost."""

    budgets: tuple[float, ...]
    losses: tuple[float, ...]
    cost_per: float
    flops: str | None
    tokens: float


def _allocation(group: GroupFit, points: Points, target: _Target) -> Allocation | str:
    """The best use of each budget, or the cheapest way to each loss, under a group's law; or why there is none."""
    from raysweep.laws.allocate import Cost, allocate, fit_cost
    from raysweep.laws.counts import below_one
    from raysweep.laws.misfit import UNTRUSTED
    from raysweep.laws.serving import cheapest
    from raysweep.laws.source import numbers

    if group.error is not None:
        return group.error
    rows = points.of(group.group)
    x, t = (numbers(rows, name) for name in group.x)
    try:
        cost = Cost(target.cost_per) if target.flops is None else fit_cost(x, t, numbers(rows, target.flops))
        spent = cost.flops(x, t)
        window, cost = (float(spent.min()), float(spent.max())), replace(cost, tokens=target.tokens)
        solve, wanted = (cheapest, target.losses) if target.losses else (allocate, target.budgets)
        made = solve(group.law, _known(group), list(wanted), cost, level=group.level, window=window)
    except FitError as error:
        return str(error)
    optimum = dict(zip(group.x, (float(made.x.min()), float(made.t.min())), strict=True))
    more, small = dict(made.details), below_one(optimum, group.least)
    if "extrapolated" in more and UNTRUSTED in group.details:
        more["extrapolated"] += f" The data speak against it ({UNTRUSTED}): do not believe them."
    return replace(made, details={**more, "below_one": small} if small else more)


def _known(group: GroupFit) -> Any:
    """A group's parameters, with their draws where there are any."""
    return group.draws or list(group.params.values())


def _records(group: GroupFit, made: Allocation | str) -> list[dict[str, Any]]:
    from raysweep.laws.serving import beside

    head = {"group": dict(group.group), "x": list(group.x)}
    if isinstance(made, str):
        return [{**head, "law": group.law.name, "error": made}]
    details = {**group.details, **made.details}
    records = [{**head, **record, "notes": list(details), "details": details} for record in made.to_json()]
    if made.cost.tokens:
        alone = beside(made, _known(group)).to_json()
        return [{**record, "training_only": one} for record, one in zip(records, alone, strict=True)]
    return records


def _show_allocation(group: GroupFit, made: Allocation | str) -> None:
    from raysweep.laws.serving import beside
    from raysweep.reports.tables import formula, title

    say(f"{title(group)}: {formula(group)}")
    if isinstance(made, str):
        say(f"  no allocation: {made}")
        return
    columns = (("budget", made.budget), ("x", made.x), ("t", made.t), ("loss", made.loss))
    rows = []
    for i in range(made.budget.size):
        row = []
        for key, best in columns:
            ends = made.intervals.get(key)
            row.append(f"{best[i]:.4g}" + ("" if ends is None else f" [{ends[i, 0]:.4g}, {ends[i, 1]:.4g}]"))
        rows.append(row)
    head = ["FLOPs", *(f"best {name}" for name in group.x), group.y]
    cost, (one, other) = made.cost, group.law.axes
    if cost.tokens:
        alone = beside(made, _known(group))
        head += [*(f"training-only {name}" for name in group.x), "its FLOPs"]
        for row, *numbers, saved in zip(rows, alone.x, alone.t, alone.budget, alone.saved, strict=True):
            row += [*(f"{number:.4g}" for number in numbers[:2]), f"{numbers[2]:.4g} (saved: {saved:.1%})"]
    print_table(head, rows)
    fitted = "" if cost.r2 is None else f", fitted to measured FLOPs (within {cost.misfit:.1%})"
    price = f"{cost.c:.4g} {_power(one, cost.p)} {_power(other, cost.q)}"
    served = f" + 2 {one} x {cost.tokens:.4g} tokens of inference" if cost.tokens else ""
    say(f"  FLOPs = {price}{served}{fitted}" + (f"; intervals: {made.level:.0%}" if made.intervals else ""))
    if cost.tokens:
        say("  training-only: the optimum of training alone that reaches the same loss, and its FLOPs with inference")
    say(*(f"  {code}: {text}" for code, text in {**group.details, **made.details}.items()))


def _power(name: str, exponent: float) -> str:
    return name if exponent == 1 else f"{name}^{exponent:.3g}"
