"""How often the notes on a wrong interval fire, in right worlds and in wrong ones, and what intervals then cover.

Run: .venv/bin/python tests/benchmarks/laws_notes.py [--worlds 200] [--draws 200] [--only TEXT]
(writes laws-notes.json beside itself, with --only these designs in it; asserts nothing; 5 minutes on one core)

A world is one data set: the truth times exp(noise). Each row of the table is a design: the share of worlds in which
each note fired, and for the first parameters named the share of intervals that hold the truth (of those that there
are), with their median width.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from raysweep.laws import law  # noqa: E402
from raysweep.laws.fitting import fit_groups  # noqa: E402
from raysweep.laws.group import Data, GroupFit  # noqa: E402
from raysweep.laws.request import Options  # noqa: E402

Array = npt.NDArray[np.float64]
NOTES = ("correlated_rows", "pooled", "no_trend", "rising", "duplicated_rows", "floor_needed", "floor_not_needed")
NOTES += ("noise_grows", "noise_falls", "holdout_missed")
AHEAD = 1e10  # ten times the largest scale of `scales`
E, A, ALPHA = 1.7, 1.7 * 1e6**0.35, 0.35
SURFACE = [1.7, 400.0, 410.0, 0.34, 0.28]
_GROUPS = 50  # groups up to which rivals, and with them the floor, are judged


@dataclass(frozen=True)
class Design:
    """A kind of world.

    Attributes:
        form: What is fitted: a law's name, or `auto`.
        make: From an rng to a data set.
        truth: True values of parameters whose intervals are judged.
        speaks: The note that ought to fire; empty for a right world, where none of `NOTES` should.
        worlds: Share of the worlds asked for that are simulated.
        holdout: Whether the largest scales are held out, and the law and a new run are judged at `AHEAD`; rivals are
            left out.
        sigma: Standard deviation of a new run's log y at `AHEAD`.
    """

    form: str
    make: Callable[[np.random.Generator], Data]
    truth: dict[str, float]
    speaks: str = ""
    worlds: float = 1.0
    holdout: bool = False
    sigma: float = 0.0


def scales(points: int, seeds: int = 1) -> Array:
    return np.tile(np.geomspace(1e6, 1e9, points), seeds)


def carried(rng: np.random.Generator, chains: int, points: int, phi: float) -> Array:
    """Stationary errors of variance 1 with correlation `phi` between neighbours, [chains * points]."""
    e = rng.standard_normal((chains, points))
    for i in range(1, points):
        e[:, i] = phi * e[:, i - 1] + np.sqrt(1 - phi**2) * e[:, i]
    return e.ravel()


def line(points: int, seeds: int = 1, phi: float = 0.0, column: bool = False, growth: float = 1.0) -> Design:
    """power+floor with noise of 1 %; `growth`: that at the largest scale over that at the smallest."""
    x, own = scales(points, seeds), np.repeat(np.arange(seeds), points)
    sigma = np.tile(0.01 * np.geomspace(growth**-0.5, growth**0.5, points), seeds)

    def make(rng: np.random.Generator) -> Data:
        y = law("power+floor").predict(x, np.array([E, A, ALPHA])) * np.exp(sigma * carried(rng, seeds, points, phi))
        return Data(x[None], y, others={"seed": own} if column else {})

    return Design("power+floor", make, {"alpha": ALPHA, "E": E}, "correlated_rows" if phi else "")


def spread(points: int, seeds: int, growth: float) -> Design:
    """`line` whose noise changes `growth`-fold over the data, and goes on changing beyond."""
    speaks = "noise_grows" if growth > 1 else "noise_falls" if growth < 1 else ""
    ahead = 0.01 * growth ** (0.5 + np.log(10) / np.log(1e3))
    return replace(line(points, seeds, growth=growth), speaks=speaks, worlds=1.5, holdout=True, sigma=ahead)


def surface(sizes: int, points: int, phi: float = 0.0) -> Design:
    """chinchilla: `sizes` runs of `points` checkpoints each, noise of 1 %."""
    grid = np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(1e9, 1e11, points), indexing="ij")
    x = np.stack([axis.ravel() for axis in grid])

    def make(rng: np.random.Generator) -> Data:
        y = law("chinchilla").predict(x, np.array(SURFACE)) * np.exp(0.01 * carried(rng, sizes, points, phi))
        return Data(x, y)

    truth = {"alpha": SURFACE[3], "a_opt": SURFACE[4] / (SURFACE[3] + SURFACE[4])}
    return Design("chinchilla", make, truth, "correlated_rows" if phi else "", worlds=0.2)


def arms(shift: float, seeds: int = 3) -> Design:
    """power+floor in two set-ups whose y differ by the factor exp(shift), in a column that nobody named."""
    x, arm = scales(8, seeds * 2), np.repeat([0, 1], 8 * seeds)

    def make(rng: np.random.Generator) -> Data:
        clean = law("power+floor").predict(x, np.array([E, A, ALPHA])) * np.exp(shift * (arm - 0.5))
        return Data(x[None], clean * np.exp(0.01 * rng.standard_normal(x.size)), others={"arm": arm})

    return Design("power+floor", make, {"alpha": ALPHA}, "pooled" if shift else "")


def curve(form: str, points: int, seeds: int, sigma: float, of: Callable[[Array], Array], speaks: str = "") -> Design:
    x = scales(points, seeds)

    def make(rng: np.random.Generator) -> Data:
        return Data(x[None], of(x) * np.exp(sigma * rng.standard_normal(x.size)))

    return Design(form, make, {}, speaks)


def declared(design: Design) -> Design:
    """Every row a run of its own, as the user says."""

    def make(rng: np.random.Generator) -> Data:
        data = design.make(rng)
        return replace(data, run=np.arange(data.y.size))

    return replace(design, make=make, speaks="")


def doubled(design: Design) -> Design:
    def make(rng: np.random.Generator) -> Data:
        data = design.make(rng)
        return replace(data, x=np.tile(data.x, 2), y=np.tile(data.y, 2))

    return replace(design, make=make, speaks="duplicated_rows")


def power(x: Array) -> Array:
    return np.asarray(5 * (x / 1e6) ** -0.3)


def flat(x: Array) -> Array:
    return np.full(x.size, 0.8333)


def accuracy(x: Array) -> Array:
    return np.asarray(0.95 - 0.5 * (x / 1e6) ** -0.2)


RISING: dict[str, Callable[[Array], Array]] = {
    ".9 - .8 u^-.4": lambda x: 0.9 - 0.8 * (x / 1e6) ** -0.4,
    "1 - .9 u^-.5": lambda x: 1 - 0.9 * (x / 1e6) ** -0.5,
    ".9 - .5 u^-.2": lambda x: 0.9 - 0.5 * (x / 1e6) ** -0.2,
    "sigmoid at 3": lambda x: 0.1 + 0.8 / (1 + (x / 3e6) ** -1.5),
    "sigmoid at 30": lambda x: 0.1 + 0.8 / (1 + (x / 3e7) ** -1.5),
    "sigmoid at 300": lambda x: 0.25 + 0.6 / (1 + (x / 3e8) ** -1.5),
}  # accuracies that saturate inside the scales, but for the last; u = x / 1e6


def percent(of: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: 100 * of(x)


def size(x: Array) -> Array:
    """An optimal size against compute: it rises without a ceiling, and a power law follows it."""
    return np.asarray(40 * x**0.5)


def floored(x: Array) -> Array:
    return law("power+floor").predict(x, np.array([E, A, ALPHA]))


def bend(x: Array) -> Array:
    return np.asarray(0.3 + 2 * (x / 1e6) ** -0.6 * (1 + (x / 3e7) ** (1 / 0.3)) ** (0.45 * 0.3))


def designs() -> dict[str, Design]:
    return {
        "right: 10 scales": replace(line(10), worlds=2.5),
        "right: 8 scales x 3 seeds, column seed": line(8, 3, column=True),
        "right: 20 scales": line(20),
        "right: 40 scales": line(40),
        "right: 200 scales": line(200),
        "right: 40 scales, noise x 10": line(40, growth=10.0),
        "right: two equal set-ups": arms(0.0),
        "right: chinchilla 6x6": surface(6, 6),
        "right: chinchilla 8x30": surface(8, 30),
        "right: power, 4 scales": curve("power", 4, 1, 0.05, power),
        "right: power, 8 scales x 3": curve("power", 8, 3, 0.05, power),
        "right: rising power, 10 scales": replace(curve("power", 10, 1, 0.01, size), worlds=2.5),
        "right: rising power, 8 scales x 3": replace(curve("power", 8, 3, 0.05, size), worlds=2.5),
        "right: rising: sigmoid, 10 scales": curve("sigmoid", 10, 1, 0.01, RISING["sigmoid at 30"]),
        "one run of 20, AR(.9)": line(20, phi=0.9),
        "one run of 40, AR(.5)": line(40, phi=0.5),
        "one run of 40, AR(.9)": line(40, phi=0.9),
        "one run of 40, AR(.9), rows declared runs": declared(line(40, phi=0.9)),
        "one run of 200, AR(.9)": line(200, phi=0.9),
        "one run of 200, AR(.97)": line(200, phi=0.97),
        "three runs of 30, AR(.9)": line(30, 3, phi=0.9),
        "three runs of 30, AR(.9), column seed": line(30, 3, phi=0.9, column=True),
        "chinchilla, 4 runs of 30, AR(.9)": surface(4, 30, phi=0.9),
        "chinchilla, 8 runs of 30, AR(.9)": surface(8, 30, phi=0.9),
        "a bend, 40 scales": curve("power+floor", 40, 1, 0.01, bend, "correlated_rows"),
        "two set-ups 1 % apart": arms(0.01),
        "two set-ups 2 % apart": arms(0.02),
        "two set-ups 5 % apart": arms(0.05),
        "flat, 10 scales": curve("power+floor", 10, 1, 0.01, flat, "no_trend"),
        "flat, 10 scales x 3": curve("power+floor", 10, 3, 0.01, flat, "no_trend"),
        "accuracy under power+floor": curve("power+floor", 10, 3, 0.01, accuracy, "rising"),
        "accuracy under power": curve("power", 10, 3, 0.01, accuracy, "rising"),
        **{
            f"rising: {name}{unit} under {form}": replace(curve(form, 10, 1, 0.01, of, "rising"), worlds=worlds)
            for name, share in RISING.items()
            for form, unit, of, worlds in (
                ("power+floor", "", share, 0.5),
                ("power", "", share, 0.5),
                ("power", " in percent", percent(share), 0.5),
                ("auto", " in percent", percent(share), 0.1),
            )
        },
        "every row twice": doubled(line(10)),
        "power under a floor, 4 scales": curve("power", 4, 1, 0.001, floored, "floor_needed"),
        "power under a floor, 8 scales x 3": curve("power", 8, 3, 0.01, floored, "floor_needed"),
        "auto on power+floor": replace(line(20, 2), form="auto", worlds=0.2),
        "a bend, 10 scales x 3": curve("power+floor", 10, 3, 0.01, bend),
        "a bend, 10 scales": curve("power+floor", 10, 1, 0.01, bend),
        **{
            f"noise {name}, {points} scales x {seeds}": spread(points, seeds, growth)
            for name, growth in (("constant", 1), ("grows 3-fold", 3), ("grows 10-fold", 10), ("falls 10-fold", 0.1))
            for points, seeds in ((10, 1), (20, 1), (40, 1), (10, 3), (10, 5))
        },
    }


def fitted(design: Design, worlds: int, draws: int, seed: int = 0) -> list[GroupFit]:
    rng = np.random.default_rng(seed)
    data = [design.make(rng) for _ in range(worlds)]
    form = None if design.form == "auto" else law(design.form)
    names = ["N", "D"] if len(data[0].x) > 1 else ["x"]
    options = Options(draws=draws, holdout=0.3 if design.holdout else 0)
    block = worlds if design.holdout else _GROUPS
    return [g for at in range(0, worlds, block) for g in fit_groups(form, data[at : at + block], names, "y", options)]


def judged(design: Design, found: Sequence[GroupFit]) -> dict[str, Any]:
    """The share of fits with each note, coverage and width of each interval, and the laws that `auto` took."""
    notes = [{note.partition("_")[0] if note.startswith("pooled_") else note for note in g.notes} for g in found]
    fired = {name: share for name in NOTES if (share := float(np.mean([name in own for own in notes])))}
    out: dict[str, Any] = {"worlds": len(found), "speaks": design.speaks, "fired": fired}
    for name, truth in design.truth.items():
        ends = np.array([g.intervals[name] for g in found if name in g.intervals])
        if len(ends):
            inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
            shown = {"coverage": float(inside.mean()), "width": float(np.median(np.ptp(ends, axis=1)))}
            spoke = np.array([design.speaks in own for own, g in zip(notes, found, strict=True) if name in g.intervals])
            if spoke.any():
                shown["coverage where it spoke"] = float(inside[spoke].mean())
            out[name] = shown
    if design.holdout:
        out |= ahead(design, found)
    if design.form == "auto":
        taken = [g.law.name for g in found]
        out["laws"] = {name: taken.count(name) / len(taken) for name in sorted(set(taken))}
        stuck = [g.law.name for g in found if g.status == "BOUND_HIT"]
        out["at a bound"] = {name: stuck.count(name) / len(taken) for name in sorted(set(stuck))}
    return out


def ahead(design: Design, found: Sequence[GroupFit]) -> dict[str, Any]:
    """Coverage and width, in log y, of the mean law and of a new run far beyond the data, by whether the note spoke."""
    far = np.array([[AHEAD]])
    mean = np.log(law(design.form).predict(far, np.array([E, A, ALPHA]))[0])
    new = mean + design.sigma * np.random.default_rng(1).standard_normal(len(found))
    spoke = np.array([design.speaks in g.notes for g in found])
    out: dict[str, Any] = {}
    for name, truth, pairs in (
        ("y(10x)", mean, [g.band(far)[0] for g in found]),
        ("a new run at 10x", new, [g.prediction(far)[0] for g in found]),
    ):
        ends = np.log(pairs)
        inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        out[name] = {"coverage": float(inside.mean()), "width": float(np.median(np.ptp(ends, axis=1)))}
        if spoke.any():
            out[name]["coverage where it spoke"] = float(inside[spoke].mean())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--only", default="", help="designs whose name contains this")
    args = parser.parse_args()
    begun, table = time.perf_counter(), {}
    for name, design in designs().items():
        if args.only not in name:
            continue
        found = fitted(design, max(1, round(args.worlds * design.worlds)), args.draws)
        table[name] = judged(design, found)
        print(f"{name:40s}", json.dumps(table[name]), flush=True)
    path = HERE / "laws-notes.json"
    if args.only:
        before = json.loads(path.read_text())
        table, args.worlds, args.draws = before["designs"] | table, before["worlds"], before["draws"]
    seconds = before["seconds"] if args.only else round(time.perf_counter() - begun, 1)
    record = {"worlds": args.worlds, "draws": args.draws, "seconds": seconds, "designs": table}
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
