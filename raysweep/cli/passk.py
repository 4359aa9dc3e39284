"""The command that estimates pass@k from counts of successes: passk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import By, Json, Level, Seed, SomeDraws, Where
from raysweep.cli.naming import naming
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import FitError
from raysweep.terminal import counted

if TYPE_CHECKING:
    import polars as pl

    from raysweep.laws.attempts import Attempts, Prediction

__all__ = ["counted_rows", "whole"]

_MOST = 20  # groups that are shown
_MOST_ATTEMPTS = 1e15
_ROUNDING = 1e-9  # an exponent below it is 0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(passk)


def passk(
    table: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...",
            help="One row for each problem: .csv, .json, .jsonl (also as .gz) or .parquet; several or a pattern.",
        ),
    ],
    successes: Annotated[str, typer.Option(metavar="COL", help="Column of successes, c.")],
    trials: Annotated[str, typer.Option(metavar="COL", help="Column of trials, n.")],
    by: By = None,
    k: Annotated[
        list[str] | None,
        typer.Option("--k", metavar="K,K,...", help="Budgets; powers of ten if not given. May be repeated."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Range of k that the exponent is fitted to. Default: the last decade of trials."
        ),
    ] = None,
    where: Where = None,
    holdout: Annotated[
        int | None, typer.Option(metavar="N", help="Keep N trials of each problem and predict larger k from them.")
    ] = None,
    bootstrap: SomeDraws = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compute pass@k of counted trials, with intervals over problems. Also its exponent, and pass@k of more trials."""
    from raysweep.laws.attempts import attempts, predict

    if not 0.5 <= level < 1:
        raise FitError(f"passk: --level must be in [0.5, 1), but got {level:g}. Try 0.95")
    budgets = None if not k else whole("passk", ",".join(k), "--k")
    ends = None if window is None else whole("passk", window, "--window")
    if ends is not None and len(ends) != 2:
        raise FitError(f"passk: --window must be LOW,HIGH, but got {window!r}. Write it as 10,100")
    found: list[tuple[dict[str, Any], Attempts | str, Prediction | None]] = []
    with naming("passk", by=by, successes=successes, trials=trials):
        groups = _groups(table, successes, trials, by or [], where)
    for group, rows in groups:
        c, n = (rows[name].to_numpy() for name in (successes, trials))
        try:
            one = attempts(c, n, budgets, (ends[0], ends[1]) if ends else None, bootstrap, level, seed)
            later = None if holdout is None else predict(c, n, holdout, bootstrap, level, seed)
            found.append((group, one, later))
        except FitError as error:
            found.append((group, str(error), None))
    if all(isinstance(one, str) for _, one, _ in found):
        raise FitError(f"passk: {found[0][1]}")
    if json:
        print_json([_record(*each) for each in found])
        return
    for i, each in enumerate(found[:_MOST]):
        if i:
            print()
        _show(*each)
    if len(found) > _MOST:
        say("", f"... and {len(found) - _MOST:,} more groups; --json has them all")


def whole(command: str, text: str, option: str) -> list[int]:
    """Whole numbers of attempts separated by commas, also such as 1e6.

    Raises:
        FitError: They are none, below 1 or beyond any use.
    """
    try:
        found = [float(part) for part in text.split(",")]
        if all(value == int(value) and 1 <= value <= _MOST_ATTEMPTS for value in found):
            return [int(value) for value in found]
    except (ValueError, OverflowError):
        pass
    raise FitError(
        f"{command}: {option} must be whole numbers from 1 to {_MOST_ATTEMPTS:.0e} separated by commas, but got "
        f"{text!r}. Write it as 10,100"
    )


def counted_rows(
    table: Sequence[str], successes: str, trials: str, names: Sequence[str], where: str | None
) -> pl.DataFrame:
    """The rows of a table with the columns `names` and counts, as numbers.

    Raises:
        FitError: The table, a column or the condition is invalid; counts are missing or not numbers; no row is left.
    """
    import polars as pl

    from raysweep.laws.source import gather, require, scan, selected

    source = table[0] if len(table) == 1 else list(table)
    rows, _ = scan(source)
    named = " ".join(table)
    schema = rows.collect_schema()
    for name in (successes, trials, *names):
        require(schema.names(), name)
    for name in (successes, trials):
        if not schema[name].is_numeric() and gather(rows.select(name).head(1)).is_empty():
            raise FitError(f"{named}: must hold one row per problem, but holds none. Name another table.")
    rows = selected(rows, where, (successes, trials), source)
    frame = gather(rows.select(list(dict.fromkeys((*names, successes, trials)))))
    if missing := sum(frame[name].null_count() for name in {successes, trials}):
        raise FitError(
            f"{named}: {successes} and {trials} must be given in every row, but {missing:,} are missing. "
            "Leave these rows out with --where."
        )
    if frame.is_empty():
        left = f"--where {where!r} leaves none. Widen it" if where else "has none. Name another table"
        raise FitError(f"{named}: must hold one row per problem, but {left}.")
    return frame.with_columns(pl.col(successes, trials).cast(pl.Float64))


def _groups(
    table: Sequence[str], successes: str, trials: str, by: Sequence[str], where: str | None
) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    """The rows of each value of the columns `by`, in their order."""
    frame = counted_rows(table, successes, trials, by, where)
    if not by:
        return [({}, frame)]
    return [(dict(zip(by, key, strict=True)), rows) for key, rows in frame.group_by(list(by), maintain_order=True)]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _record(group: dict[str, Any], found: Attempts | str, later: Prediction | None) -> dict[str, Any]:
    if isinstance(found, str):
        return {"group": group, "error": found}
    record: dict[str, Any] = {
        "group": group,
        "problems": found.problems,
        "unsolved": found.unsolved,
        "trials": list(found.trials),
        "level": found.level,
        "pass_at_k": [
            {
                "k": int(found.k[j]),
                "value": _plain(1 - found.failure[j]),
                "interval": [_plain(1 - end) for end in found.failure_interval[j, ::-1].tolist()],
                "failure": _plain(float(found.failure[j])),
                "extrapolated": bool(found.extrapolated[j]),
            }
            for j in range(len(found.k))
        ],
        "shapes": [
            {
                "name": one.shape.name,
                "parameters": one.shape.parameters,
                "aicc": _plain(one.aicc - found.further.least),
                "p_value": _plain(one.p_value),
                "impossible": one.impossible,
                "supported": found.further.supports(one),
                "pass_at_k": [
                    {"k": int(k), "value": 1 - value, "interval": [1 - ends[1], 1 - ends[0]]}
                    for k, value, ends in zip(
                        found.k[found.extrapolated].tolist(), one.failure.tolist(), one.interval.tolist(), strict=True
                    )
                ],
            }
            for one in found.further.shapes
        ],
        "exponent": {
            "value": _plain(found.exponent),
            "interval": [_plain(end) for end in found.exponent_interval],
            "window": list(found.window),
            "by_inverse_sampling": _plain(found.inverse_exponent),
        },
        "tail": {"value": _plain(found.tail), "interval": [_plain(end) for end in found.tail_interval]},
        "notes": found.notes,
    }
    if later is not None:
        record["holdout"] = {
            "trials": later.trials,
            "rmse_log": _plain(later.error),
            "covered": later.covered,
            "k": [int(k) for k in later.k],
            "failure": [_plain(value) for value in later.failure.tolist()],
            "predicted": [_plain(value) for value in later.predicted.tolist()],
            "interval": [[_plain(end) for end in ends] for ends in later.interval.tolist()],
        }
    return record


def _show(group: dict[str, Any], found: Attempts | str, later: Prediction | None) -> None:
    title = ", ".join(f"{name} = {value}" for name, value in group.items()) or "all rows"
    if isinstance(found, str):
        say(f"{title}: {found}")
        return
    low, high = found.trials
    tries = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    say(f"{title}: {counted(found.problems, 'problem')}, {tries} trials each, {found.unsolved:,} never solved")
    rows = []
    for j, budget in enumerate(found.k):
        ends = found.failure_interval[j]
        mark = " extrapolated" if found.extrapolated[j] else ""
        value = f"{1 - found.failure[j]:.4g} " if math.isfinite(found.failure[j]) else "between "
        rows.append([f"{budget:,.0f}", f"{value}[{1 - ends[1]:.4g}, {1 - ends[0]:.4g}]{mark}"])
    print_table(["k", "pass@k"], rows)
    if found.extrapolated.any() and found.further.shapes:
        _show_shapes(found)
    say(
        f"  exponent of 1 - pass@k over k = {found.window[0]:,} to {found.window[1]:,}: "
        f"{_number(found.exponent, found.exponent_interval)}",
        f"  as k grows, by a Beta distribution of success rates (0 if a problem is impossible): "
        f"{_number(found.tail, found.tail_interval)}",
    )
    if later is not None:
        off = f"rms log error of 1 - pass@k {later.error:.3g}" if math.isfinite(later.error) else "no value"
        say(
            f"  predicted from {later.trials:,} trials per problem up to k = {later.k[-1]:,.0f}: {off}; "
            f"{later.covered:.0%} of budgets in the {found.level:.0%} interval"
        )
    say(*(f"  {code}: {text}" for code, text in found.notes.items()))


def _number(value: float, ends: tuple[float, float]) -> str:
    """An exponent with its interval; no number where every problem, or none, was solved in all trials."""
    if not all(math.isfinite(one) for one in (value, ends[0])):
        return "unknown"
    if max(abs(value), abs(ends[1])) < _ROUNDING:
        return "0"
    return f"{value:.3g} [{ends[0]:.3g}, {ends[1]:.3g}]"


def _show_shapes(found: Attempts) -> None:
    """What each shape of success rates says of the largest k, where the counts do not contradict it."""
    rows = []
    for one in found.further.shapes:
        low, high = 1 - one.interval[-1, ::-1]
        said = f"{1 - one.failure[-1]:.4g} [{low:.4g}, {high:.4g}]" if found.further.supports(one) else "rejected"
        fit = f"{one.p_value:.2g}" if math.isfinite(one.p_value) else "-"
        rows.append([one.shape.name, f"+{one.aicc - found.further.least:.3g}", fit, said])
    print_table(["if success rates are", "AICc", "p of fit", f"pass@{found.k[found.extrapolated][-1]:,.0f}"], rows)
