"""How often intervals of an extrapolation hold the truth, and which notes fire, for right laws and for wrong ones.

Run: .venv/bin/python tests/benchmarks/laws_misfit.py [--worlds 200] [--draws 200] [--only TEXT]
(writes laws-misfit.json and its figure beside itself unless only some designs are run; asserts nothing)
     .venv/bin/python tests/benchmarks/laws_misfit.py real
(adds real runs whose largest scales are held out; $RAYSWEEP_DATA names the folder that holds them)
     .venv/bin/python tests/benchmarks/laws_misfit.py limits
(adds how often a test that knows the true curve would notice each wrong law)

A world is one data set: the truth times exp(noise). Its law predicts the mean at 10 times the largest scale (of two
scales: of each). `plain` is the interval of the law, `bent` the one of a law that may bend, which holds it. Widths are
medians of log(high / low); `distance` is the median of |log(law / truth)|. A miss is a world whose plain interval does
not hold the truth and that has none of the notes that speak against it; `silent` counts those among all worlds, and
`unnoticeable` those that a test which knew the true curve would leave at 5 % false alarms.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from laws_notes import carried  # noqa: E402
from scipy.stats import f, ncf  # noqa: E402

from raysweep.laws import law  # noqa: E402
from raysweep.laws.deviation import deviation  # noqa: E402
from raysweep.laws.estimate import estimate  # noqa: E402
from raysweep.laws.fitting import fit_groups  # noqa: E402
from raysweep.laws.group import Data, GroupFit  # noqa: E402
from raysweep.laws.misfit import UNTRUSTED, bent_band, would_notice  # noqa: E402
from raysweep.laws.request import Options  # noqa: E402

Array = npt.NDArray[np.float64]
Curve = Callable[[Array], Array]
Noise = Callable[[np.random.Generator], Array]
AGAINST = (UNTRUSTED, "lack_of_fit", "correlated_rows", "holdout_missed")  # notes that speak against an interval
AHEAD = 10.0
ENOUGH = 0.8  # what silence has to be worth for the command line not to print it
SURFACE = np.array([1.7, 400.0, 410.0, 0.34, 0.28])
KAPLAN = np.array([1.0, 50.0, 0.5, 0.4, 0.6, 1.0])
_GROUPS = 50  # groups up to which rivals are judged
_REPEATS = 5.0  # how many repetitions of data are worth as much as new data (Muennighoff et al. 2023)


@dataclass(frozen=True)
class Design:
    """A kind of world.

    Attributes:
        form: The law that is fitted.
        truth: The mean at scales, [axes, points].
        x: Where it is measured, [axes, points].
        noise: An rng to errors of log y, [points].
        right: Whether the law is of the truth's form.
        run: The run of each point; None where each is one of its own.
        huber: See `Options`.
    """

    form: str
    truth: Curve
    x: Array
    noise: Noise
    right: bool
    run: npt.NDArray[np.int64] | None = None
    huber: float | None = None


def line(points: int, seeds: int = 1, decades: float = 3.0) -> Array:
    return np.tile(np.geomspace(1e6, 1e6 * 10**decades, points), seeds)[None]


def square(sizes: int) -> Array:
    grid = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(1e9, 1e11, sizes), indexing="ij")
    return np.stack([axis.ravel() for axis in grid])


def even(sigma: float, x: Array) -> Noise:
    return lambda rng: sigma * rng.standard_normal(x.shape[1])


def growing(low: float, high: float, x: Array) -> Noise:
    sigma = low * (high / low) ** (np.log(x[0] / x.min()) / np.log(x.max() / x.min()))
    return lambda rng: sigma * rng.standard_normal(x.shape[1])


def heavy(sigma: float, x: Array) -> Noise:
    """One point in ten is off by five standard deviations."""

    def draw(rng: np.random.Generator) -> Array:
        e = rng.standard_normal(x.shape[1])
        return sigma * np.where(rng.random(e.size) < 0.1, 5 * np.sign(e), e)

    return draw


def floored(x: Array) -> Array:
    return 1.7 + 1.7 * (x[0] / 1e6) ** -0.35


def power(x: Array) -> Array:
    return 5 * (x[0] / 1e6) ** -0.3


def bend(before: float, after: float, floor: float = 0.3) -> Curve:
    """A slope that changes at 3e7."""
    return lambda x: floor + 2 * (x[0] / 1e6) ** -before * (1 + (x[0] / 3e7) ** (1 / 0.3)) ** ((before - after) * 0.3)


def later(x: Array) -> Array:
    """power+floor whose decay ends at 3e9, beyond the data."""
    return 1.7 + 1.7 * (np.minimum(x[0], 3e9) / 1e6) ** -0.35


def repeated(fresh: float) -> Callable[[Array], Array]:
    """What data of which only `fresh` are new are worth."""
    return lambda d: np.where(
        d <= fresh, d, fresh * (1 + _REPEATS * -np.expm1(-np.maximum(d / fresh - 1, 0) / _REPEATS))
    )


def surface(x: Array) -> Array:
    return law("chinchilla").predict(x, SURFACE)


def designs() -> dict[str, Design]:
    ten, three, forty, two = line(10), line(8, 3), line(40), square(6)
    seeds = line(8, 5)
    floor, joint = "power+floor", "chinchilla"
    return {
        "right: 10 scales": Design(floor, floored, ten, even(0.01, ten), True),
        "right: 8 scales x 3": Design(floor, floored, three, even(0.01, three), True),
        "right: 40 scales": Design(floor, floored, forty, even(0.01, forty), True),
        "right: 6 scales, noise .3 %": Design(floor, floored, line(6), even(0.003, line(6)), True),
        "right: 10 scales, 1.5 decades, .3 %": _window(floored, 1.5, 0.003),
        "right: 12 scales, 5 decades": _window(floored, 5.0, 0.01, 12),
        "right: a power, floor not needed": Design(floor, power, ten, even(0.01, ten), True),
        "right: power, 10 scales": Design("power", power, ten, even(0.02, ten), True),
        "right: chinchilla, 6 x 6, .5 %": Design(joint, surface, two, even(0.005, two), True),
        "right law, outliers": Design(floor, floored, three, heavy(0.01, three), True),
        "right law, outliers, Huber": Design(floor, floored, three, heavy(0.01, three), True, huber=1e-3),
        "right law, noise .3 to 3 %": Design(floor, floored, three, growing(0.003, 0.03, three), True),
        "right law, 5 seeds, AR(.8) along scales": Design(
            floor, floored, seeds, lambda rng: 0.01 * carried(rng, 5, 8, 0.8), True, np.repeat(np.arange(5), 8)
        ),
        "right law, one run of 40 checkpoints, AR(.9)": Design(
            floor, floored, forty, lambda rng: 0.01 * carried(rng, 1, 40, 0.9), True
        ),
        "flattening bend": Design(floor, bend(0.6, 0.15), ten, even(0.01, ten), False),
        "flattening bend, 8 x 3": Design(floor, bend(0.6, 0.15), three, even(0.01, three), False),
        "flattening bend, 40 scales": Design(floor, bend(0.6, 0.15), forty, even(0.01, forty), False),
        "flattening bend, 5 seeds, AR(.8) along scales": Design(
            floor, bend(0.6, 0.15), seeds, lambda rng: 0.01 * carried(rng, 5, 8, 0.8), False, np.repeat(np.arange(5), 8)
        ),
        "flattening bend, .3 %": Design(floor, bend(0.6, 0.15), ten, even(0.003, ten), False),
        "mild bend": Design(floor, bend(0.5, 0.3), ten, even(0.01, ten), False),
        "mild bend, 8 x 3": Design(floor, bend(0.5, 0.3), three, even(0.01, three), False),
        "steepening bend": Design(floor, bend(0.15, 0.6), ten, even(0.01, ten), False),
        "bend beyond the data": Design(floor, later, ten, even(0.01, ten), False),
        "kaplan as chinchilla, 6 x 6, .5 %": Design(
            joint, lambda x: law("kaplan").predict(x, KAPLAN), two, even(0.005, two), False
        ),
        "repeated data": Design(
            floor, lambda x: floored(repeated(3e7)(x)), ten, even(0.01, ten), False
        ),
        "repeated data as chinchilla, 6 x 6, .5 %": Design(
            joint, lambda x: surface(np.stack([x[0], repeated(1e10)(x[1])])), two, even(0.005, two), False
        ),
        "two set-ups: 3 % apart from 3e7 on": Design(
            floor, lambda x: floored(x) * np.where(x[0] < 3e7, 1.0, 0.97), ten, even(0.01, ten), False
        ),
        "exponential as power+floor": Design(
            floor, lambda x: 1.7 + 1.7 * np.exp(-x[0] / 2e8), ten, even(0.01, ten), False
        ),
        "logarithm as power+floor": Design(
            floor, lambda x: 4 - 0.12 * np.log(x[0] / 1e6), ten, even(0.01, ten), False
        ),
        "power+floor as power": Design("power", floored, ten, even(0.01, ten), False),
        "late start as power+floor": Design(
            floor, lambda x: 1.2 + 1.5 * (1 + x[0] / 2e7) ** -0.5, ten, even(0.01, ten), False
        ),
        "two powers as power+floor": Design(
            floor, lambda x: 1 + 2 * (x[0] / 1e6) ** -0.5 + 0.5 * (x[0] / 1e6) ** -0.08, ten, even(0.01, ten), False
        ),
    }  # fmt: skip


def _window(truth: Curve, decades: float, sigma: float, points: int = 10) -> Design:
    x = line(points, decades=decades)
    return Design("power+floor", truth, x, even(sigma, x), True)


def fitted(design: Design, worlds: int, draws: int, seed: int = 0) -> list[GroupFit]:
    rng = np.random.default_rng(seed)
    clean = design.truth(design.x)
    data = [Data(design.x, clean * np.exp(design.noise(rng)), design.run) for _ in range(worlds)]
    names = ["N", "D"] if len(design.x) > 1 else ["x"]
    options = Options(draws=draws, huber=design.huber)
    starts = range(0, worlds, _GROUPS)
    return [
        g for first in starts for g in fit_groups(law(design.form), data[first : first + _GROUPS], names, "y", options)
    ]


def judged(design: Design, found: Sequence[GroupFit]) -> dict[str, Any]:
    """Coverage and width of both intervals, and how often notes fired."""
    ahead = design.x.max(axis=1, keepdims=True) * AHEAD
    truth = float(design.truth(ahead)[0])
    kept = [g for g in found if g.error is None and g.draws is not None]
    plain = np.array([g.band(ahead)[0] for g in kept])
    bent = np.array([bent_band(g, ahead)[0] for g in kept])  # type: ignore[index]
    held = {name: (ends[:, 0] <= truth) & (truth <= ends[:, 1]) for name, ends in (("plain", plain), ("bent", bent))}
    against = np.array([any(note in g.notes for note in AGAINST) for g in kept])
    spoke = np.array([UNTRUSTED in g.notes for g in kept])
    out = {
        "right": design.right,
        "worlds": len(kept),
        "distance": float(np.median([abs(np.log(g.predict(ahead)[0] / truth)) for g in kept])),
        "fired": {code: float(np.mean([code in g.notes for g in kept])) for code in AGAINST},
        "any": float(against.mean()),
        "outside plain": float((~held["plain"]).mean()),
        "missed": float((~held["plain"] & ~against).sum() / max((~held["plain"]).sum(), 1)),
    }
    for name, ends in (("plain", plain), ("bent", bent)):
        width = float(np.median(np.log(ends[:, 1] / ends[:, 0])))
        out[name] = {"coverage": float(held[name].mean()), "width": width}
    # What is printed first beyond the data is the interval of a law that may bend. Of the worlds whose plain interval
    # misses without a note: in how many its worth is printed, and how many the first interval misses, too.
    silent = ~held["plain"] & ~against
    worth = np.array([would_notice(g, ahead)[0] for g in kept])
    out["silent"] = {
        "share": float(silent.mean()),
        "worth printed": float((worth[silent] < ENOUGH).mean()) if silent.any() else 1.0,
        "unnoticeable": float((~held["plain"] & ~_known(design, kept)).mean()),
        "first interval misses": float((silent & ~held["bent"]).mean()),
        "withheld": float(spoke.mean()),
    }
    return {key: value if not isinstance(value, float) else round(value, 4) for key, value in out.items()}


def _direction(design: Design) -> Array:
    """What a wrong law leaves of the truth without noise, in log y, [points]."""
    form, clean = law(design.form), design.truth(design.x)
    return np.asarray(np.log(clean) - np.log(form.predict(design.x, estimate(form, design.x, clean).values[0])))


def _known(design: Design, found: Sequence[GroupFit]) -> npt.NDArray[np.bool_]:
    """Whether the F test of the direction in which the law differs from the truth notices it at 5 %, [worlds].

    True where rows are not independent, so that no such test is known, and for right laws, of which it asks nothing.
    """
    if design.right or design.run is not None:
        return np.ones(len(found), dtype=bool)
    _, cell = np.unique(design.x, axis=1, return_inverse=True)
    mean = np.bincount(cell.ravel(), _direction(design)) / np.bincount(cell.ravel())
    out = []
    for g in found:
        left = g.left
        assert left is not None
        away = mean * np.sqrt(left.weight)
        residual = left.residual * np.sqrt(left.weight)
        along = float(away @ residual) ** 2 / float(away @ away)
        spare = design.x.shape[1] - g.law.free - 1
        rest = float(residual @ residual) + left.within - along
        out.append(along / (rest / spare) > f.isf(0.05, 1, spare))
    return np.array(out)


def totals(table: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Shares of the worlds of all right designs with independent rows or runs, and of all wrong designs."""
    groups = {
        "right": [d for name, d in table.items() if d["right"] and "one run of" not in name],
        "wrong": [d for d in table.values() if not d["right"]],
    }
    out = {}
    for name, each in groups.items():
        outside = sum(d["outside plain"] for d in each)
        out[name] = {
            "designs": len(each),
            "any note": sum(d["any"] for d in each) / len(each),
            "outside plain": outside / len(each),
            "of these without a note": sum(d["silent"]["share"] for d in each) / outside,
            "of these unnoticeable": sum(d["silent"]["unnoticeable"] for d in each) / outside,
            "outside the first interval": sum(1 - d["bent"]["coverage"] for d in each) / len(each),
        }
    return {name: {key: round(value, 4) for key, value in one.items()} for name, one in out.items()}


def limits() -> dict[str, float]:
    """The power at 5 % of the F test of the one direction in which each wrong law differs from the truth.

    A test that does not know the true curve notices less, where errors are normal and independent.
    """
    out = {}
    for name, design in designs().items():
        if design.right or design.run is not None:
            continue
        rest = _direction(design)
        noise = np.array([design.noise(np.random.default_rng(seed)) for seed in range(200)])
        away, spare = float(rest @ rest / noise.var()), rest.size - law(design.form).free - 1
        out[name] = round(float(ncf.sf(f.isf(0.05, 1, spare), 1, spare, away)), 3)
    return out


def real(draws: int) -> dict[str, Any]:
    """Held-out measurements of real runs: the share inside the interval of a new run, and its median width."""
    from laws_data import curves, tables

    options = Options(draws=draws)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for curve in curves():
        for form in ("power", "power+floor", "shifted"):
            data = Data(curve.x[curve.fitted][None], curve.y[curve.fitted])
            out = _held_out(form, data, curve.x[~curve.fitted][None], curve.y[~curve.fitted], options)
            if out is not None:
                rows.setdefault(f"92 curves, {form}", []).append(out)
    for table in tables():
        x = np.stack([table.n, table.d])
        for factor in (10.0, 3.0):
            kept = table.budget <= table.budget.max() / factor * 1.01
            if not kept.all():
                out = _held_out(
                    "chinchilla", Data(x[:, kept], table.loss[kept]), x[:, ~kept], table.loss[~kept], options
                )
                if out is not None:
                    rows.setdefault(f"{table.name}, budgets beyond 1/{factor:g}", []).append(out)
    names = ("plain", "bent", "plain width", "bent width", "distance", "untrusted")
    return {
        name: {"data sets": len(each)}
        | {key: round(float(value), 4) for key, value in zip(names, np.mean(each, axis=0), strict=True)}
        for name, each in rows.items()
    }


def _held_out(form: str, data: Data, x: Array, y: Array, options: Options) -> tuple[float, ...] | None:
    names = ["N", "D"] if len(x) > 1 else ["x"]
    (group,) = fit_groups(law(form), [data], names, "y", options)
    if group.error is not None or group.left is None or not y.size:
        return None
    found = deviation(group.law, np.array(list(group.params.values())), group.left)
    if found is None:
        return None
    plain, own = group.prediction(x), found.interval(x, group.level, noise=True)
    bent = np.stack([np.minimum(plain[:, 0], own[:, 0]), np.maximum(plain[:, 1], own[:, 1])], axis=1)
    inside = [float(((ends[:, 0] <= y) & (y <= ends[:, 1])).mean()) for ends in (plain, bent)]
    wide = [float(np.median(np.log(ends[:, 1] / ends[:, 0]))) for ends in (plain, bent)]
    return (*inside, *wide, float(np.median(np.abs(np.log(group.predict(x) / y)))), float(UNTRUSTED in group.notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", choices=("worlds", "real", "limits", "figure"), default="worlds")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--only", default="", help="designs whose name contains this; writes nothing")
    args = parser.parse_args()
    from laws_data import save
    from laws_misfit_figure import draw

    path = HERE / "laws-misfit.json"
    begun = time.process_time()
    if args.verb == "real":
        found = real(args.draws)
        for name, one in found.items():
            print(f"{name:60s}", json.dumps(one))
        save(path, "real", {"draws": args.draws, "cpu_s": round(time.process_time() - begun, 1), "results": found})
    elif args.verb == "limits":
        save(path, "limits", {"power": limits()})
    elif args.verb == "worlds":
        table = {}
        for name, design in designs().items():
            if args.only in name:
                table[name] = judged(design, fitted(design, args.worlds, args.draws))
                print(f"{name:42s}", json.dumps(table[name]), flush=True)
        if args.only:
            return
        error = round(1.96 * (0.05 * 0.95 / args.worlds) ** 0.5, 4)
        head = {"worlds": args.worlds, "draws": args.draws, "level": 0.95, "monte_carlo_at_.95": error}
        cpu = {"cpu_s": round(time.process_time() - begun, 1)}
        save(path, "worlds", {**head, **cpu, "totals": totals(table), "designs": table})
    print(f"drew {draw(path)}")


if __name__ == "__main__":
    main()
