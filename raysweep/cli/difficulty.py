"""The command that measures how hard a data set is for a network, before it is trained: difficulty."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysweep.cli.asking import By, Json, Level, Where
from raysweep.cli.figure import draw, figure_files
from raysweep.cli.show import print_json, print_table, say
from raysweep.errors import FitError, PackError
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.forecast import Forecast
    from raysweep.laws.group import GroupFit
    from raysweep.theory.spectrum import Estimate

_SHOWN = 4  # one time of so many in a table: a decade
_GIB = 2**30
_MOST_GIB = 2**20
_KEYS = {"lambda_1", "time_exponent", "verdict"}  # by which a file of --out is known


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(difficulty)


def difficulty(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="digits, NAME of NAME.npz in the folder RAYSWEEP_DATA, an .npz of x and y, or circle:BETA.",
        ),
    ],
    model: Annotated[str, typer.Option(help="mlp, cnn or resnet.")] = "mlp",
    width: Annotated[int, typer.Option(min=1, help="Hidden units; channels.")] = 1024,
    depth: Annotated[int, typer.Option(min=1, help="Hidden layers; convolutions; blocks per stage.")] = 3,
    activation: Annotated[
        str, typer.Option(help="relu, gelu, tanh, relu2 (squared ReLU) or tilted, max(h, -h / 2).")
    ] = "relu",
    items: Annotated[int, typer.Option(metavar="P", help="Items that the kernel is measured on.")] = 2048,
    seeds: Annotated[int, typer.Option(help="Networks whose kernels are averaged.")] = 4,
    gamma: Annotated[float, typer.Option(help="Richness of the rich curve.")] = 1.0,
    train: Annotated[
        int, typer.Option(metavar="N", help="Also predict lazy training on N items that are used again and again.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[float, typer.Option(metavar="GIB", help="Memory that may be used.")] = 2.0,
    level: Level = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of the items.")] = 0,
    against: Annotated[
        str | None, typer.Option(metavar="STORE", help="Compare with what was trained: a store or a table.")
    ] = None,
    x: Annotated[str, typer.Option("--x", metavar="COL", help="Its column of time.")] = "t",
    y: Annotated[str, typer.Option("--y", metavar="COL", help="Its column of the loss.")] = "loss",
    by: By = None,
    where: Where = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write every number to this JSON file.")] = None,
    figure: Annotated[str | None, typer.Option(metavar="FILE", help="Draw it: .png, .pdf or .svg.")] = None,
    json: Json = False,
) -> None:
    """Measure how hard a data set is for a network, before training."""
    if out is not None:
        _check_out(out)
    files = figure_files("difficulty", figure)
    from raysweep.forecast import forecast
    from raysweep.task import task_of

    _check_device(device)
    if not 0 < memory < _MOST_GIB:
        raise PackError(f"difficulty: --memory must be positive and below {_MOST_GIB:,} GiB, but got {memory:g}")
    task = task_of(data, seed)
    fits = [] if against is None else _fits(against, x, y, by or [], where, level, json)  # refused before measuring
    made = forecast(
        task, model, width, depth, activation,
        items=items, seeds=seeds, gamma=gamma, train=train, level=level, device=device, memory=int(memory * _GIB),
        seed=seed,
    )  # fmt: skip
    record = made.to_json()
    if against is not None:
        record["against"] = [_scored(made, one) for one in fits]
    if out is not None:
        try:
            Path(out).write_text(jsonlib.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise FitError(f"difficulty: --out must be a file that can be written, but is not: {error}") from error
    for file in files:
        _draw(made, file)
    if json:
        print_json(record)
        return
    _show(made)
    if fits:
        _show_score(made, fits, x, y)


def _check_out(file: str) -> None:
    """Refuse a file that `--out` may not write.

    Raises:
        FitError: It has another ending, lies in no folder, or holds anything but what `--out` writes.
    """
    from raysweep.replacing import replaceable

    if Path(file).suffix != ".json" or not Path(file).parent.is_dir():
        raise FitError(f"difficulty: --out must be a .json in a folder that exists, but got {file!r}")
    if not replaceable(file, _written):
        raise FitError(
            f"difficulty: --out must be a new file, or one that `raysweep difficulty --out` wrote, but got {file!r}, "
            "which holds something else. Name another, or remove it first"
        )


def _written(content: bytes) -> bool:
    """Whether a file holds what `--out` writes."""
    try:
        found = jsonlib.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= _KEYS


def _check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        PackError: It is not.
    """
    import torch

    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise PackError(f"difficulty: --device must be one that is here, but got {device!r}. Here: {here}")


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _of(one: Estimate) -> str:
    return _interval(one.value, one.low, one.high)


def _show(made: Forecast) -> None:
    shape = made.architecture
    low, high = made.window
    say(
        f"{made.task}: {shape.kind} of width {shape.width:,} and depth {shape.depth}, {made.seeds} initialisations, "
        f"kernel on {made.items:,} items"
    )
    lazy, rich = made.exponent(False), made.exponent(True)
    print_table(
        ["", f"{made.alpha.level:.0%} interval", "meaning"],
        [
            ["alpha", _of(made.alpha), "eigenvalues of the kernel fall as k^-alpha"],
            ["beta", _of(made.beta), "power of the target beyond an eigenvalue falls as its power beta"],
            ["lazy exponent", _interval(*lazy), "loss falls as t^-beta without feature learning"],
            ["rich exponent", _interval(*rich), "and as t^-(beta max(1, 2 / (1 + beta))) with it"],
        ],
    )
    sizes = ", ".join(f"{value:.3g} from {count:,} items" for count, value in made.beta.sizes)
    say(
        f"  fitted to modes k = {low} to {high}; beta by size: {sizes}; standard error {made.beta.seed_error:.2g} from "
        f"initialisations, {made.beta.item_error:.2g} from items; correction for mode mixing: "
        f"{-made.beta.mixing:+.2g}"
    )
    say(f"  {_sentence(made)}")
    rows = []
    for i in range(0, len(made.times), _SHOWN):
        mark = "extrapolated" if made.times[i] > made.measured_to else ""
        again = [] if made.reused is None else [f"{made.reused[i]:.3g}"]
        rows.append([f"{made.times[i]:.0e}", f"{made.lazy[i]:.3g}", f"{made.rich[i]:.3g}", *again, mark])
    say(
        f"  predicted loss on fresh items, relative to that of the zero function, at t = step size x steps "
        f"(lambda_1 = {made.first:.3g}; rich: gamma = {made.gamma:g}):"
    )
    again = [] if made.reused is None else [f"lazy, {counted(made.train, 'item')}"]
    print_table(["lambda_1 t", "lazy", "rich", *again, ""], rows)
    if made.data:
        limits = ", ".join(f"{loss:.3g} from {n:,}" for n, loss in made.data)
        say(f"  where lazy training on so many items ends, used again and again: {limits}")
    say(*(f"  note: {note}" for note in made.notes))


def _sentence(made: Forecast) -> str:
    """The verdict."""
    if made.verdict == "can":
        lazy, rich = made.exponent(False)[0], made.exponent(True)[0]
        return (
            f"feature learning can improve the exponent, from {lazy:.3g} to {rich:.3g}: a hard task, as {made.reason}"
        )
    if made.verdict == "cannot":
        return f"feature learning cannot improve the exponent, only the prefactor: {made.reason}"
    return f"undecided whether feature learning can improve the exponent: {made.reason}"


def _fits(against: str, x: str, y: str, by: list[str], where: str | None, level: float, quiet: bool) -> list[GroupFit]:
    """A power law of what was trained, for each group."""
    from raysweep.cli.laws import source
    from raysweep.laws import fit

    return list(fit(source([against], "current", quiet), x=x, y=y, by=by, where=where, level=level))


def _scored(made: Forecast, one: GroupFit) -> dict[str, Any]:
    """What was predicted and what was measured of a group."""
    if one.error is not None:
        return {"group": dict(one.group), "error": one.error}
    ends = one.intervals.get("alpha")
    return {
        "group": dict(one.group),
        "window": list(one.window[0]),
        "measured": one.params["alpha"],
        "interval": None if ends is None else list(ends),
        "lazy": list(made.exponent(False)),
        "rich": list(made.exponent(True)),
        "predicted_in_window": {
            name: made.slope(curve, *one.window[0])
            for name, curve in (("lazy", made.lazy), ("rich", made.rich), ("reused", made.reused))
            if curve is not None
        },
        "agrees_with": [
            kind
            for kind, rich in (("lazy", False), ("rich", True))
            if ends is not None and made.exponent(rich)[1] <= ends[1] and ends[0] <= made.exponent(rich)[2]
        ],
        "notes": dict(one.details),
    }


def _show_score(made: Forecast, fits: list[GroupFit], x: str, y: str) -> None:
    say(f"  measured after training, {y} as a power of {x}, beside what was predicted:")
    rows, reasons = [], []
    for one in fits:
        title = ", ".join(f"{name} = {value}" for name, value in one.group.items()) or "all rows"
        if one.error is not None:
            rows.append([title, one.error, "", ""])
            continue
        found = _scored(made, one)
        ends, slopes = found["interval"], found["predicted_in_window"]
        rows.append(
            [
                title,
                f"{found['measured']:.3g} [-]" if ends is None else _interval(found["measured"], *ends),
                "-" if ends is None else " and ".join(found["agrees_with"]) or "neither",
                ", ".join(f"{name} {'-' if value is None else f'{value:.3g}'}" for name, value in slopes.items()),
            ]
        )
        if ends is None:
            reasons.append(
                f"{title}: the exponent has no interval{''.join(f': {why}' for why in one.details.values())}"
            )
        if None in slopes.values():
            t = made.times / made.first
            reasons.append(
                f"{title}: its window, {x} = {one.window[0][0]:.3g} to {one.window[0][1]:.3g}, is not within the "
                f"curves' times, t = {t[0]:.3g} to {t[-1]:.3g}"
            )
    print_table(["", "exponent", "agrees with", "curves in its window"], rows)
    say(*(f"  note: {reason}" for reason in reasons))


def _draw(made: Forecast, file: Path) -> None:
    """Spectrum and target on the left, learning curves on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from raysweep.reports.forecast import forecast_figure

    draw(forecast_figure(made), file)
