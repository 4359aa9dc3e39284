"""Two other intervals of an extrapolation under a wrong law, beside the one that is shipped, in the same worlds.

Run: .venv/bin/python tests/benchmarks/laws_misfit_others.py [--worlds 100] [--draws 200]
(writes the part `others` of laws-misfit.json beside itself; asserts nothing)

* `averaged`: what holds the intervals of all laws that the data do not exclude: the fitted one, and its rivals within
  10 in AICc of the best.
* `conformal`: split-conformal by scale. The law is fitted to the k smallest scales, for every k that leaves enough; an
  error at a larger scale, per unit of log distance from the largest scale of its fit, is a score. Their 95 % quantile
  (with the finite-sample correction), times the distance of the prediction, is half the width in log y.

`bent` is the interval of a law that may bend, as in laws_misfit.py. Widths are medians of log(high / low).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from laws_misfit import AHEAD, HERE, Array, Design, designs, fitted

from raysweep.laws import law
from raysweep.laws.estimate import estimate
from raysweep.laws.fitting import fit_groups
from raysweep.laws.forms import LAWS
from raysweep.laws.group import Data, GroupFit
from raysweep.laws.misfit import bent_band
from raysweep.laws.request import Options

NAMES = (
    "right: 10 scales",
    "right: 8 scales x 3",
    "right: a power, floor not needed",
    "flattening bend",
    "flattening bend, 8 x 3",
    "mild bend",
    "steepening bend",
    "repeated data",
    "two set-ups: 3 % apart from 3e7 on",
    "exponential as power+floor",
    "logarithm as power+floor",
    "late start as power+floor",
    "two powers as power+floor",
)
NOT_EXCLUDED = 10.0  # AICc above the best


def averaged(group: GroupFit, data: Data, ahead: Array, draws: int) -> Array:
    """Low and high over the laws that the data do not exclude."""
    ends = [group.band(ahead)[0]]
    for rival in group.rivals:
        if rival.law in LAWS and rival.law != group.law.name and rival.aicc <= NOT_EXCLUDED:
            (other,) = fit_groups(law(rival.law), [data], ["x"], "y", Options(draws=draws, holdout=0.0))
            if other.error is None and other.draws is not None:
                ends.append(other.band(ahead)[0])
    return np.array([np.nanmin([low for low, _ in ends]), np.nanmax([high for _, high in ends])])


def conformal(group: GroupFit, data: Data, ahead: Array, level: float = 0.95) -> Array:
    """Low and high by errors at larger scales of fits to smaller ones."""
    form, x, y = group.law, data.x[0], data.y
    scales, scores = np.unique(x), []
    for k in range(max(form.fewest_scales + 1, scales.size // 2), scales.size):
        kept = x <= scales[k - 1]
        values = estimate(form, x[kept], y[kept]).values[0]
        missed = np.abs(np.log(form.predict(x[None, ~kept], values)) - np.log(y[~kept]))
        scores += (missed / np.log(x[~kept] / scales[k - 1])).tolist()
    share = min(level * (1 + 1 / len(scores)), 1.0)
    half = float(np.quantile(scores, share, method="higher")) * float(np.log(ahead[0, 0] / scales[-1]))
    return np.asarray(group.predict(ahead)[0] * np.exp([-half, half]))


def judged(design: Design, worlds: int, draws: int) -> dict[str, Any]:
    """Coverage and width of each interval."""
    ahead = design.x.max(axis=1, keepdims=True) * AHEAD
    truth = float(design.truth(ahead)[0])
    rng, clean = np.random.default_rng(0), design.truth(design.x)
    data = [Data(design.x, clean * np.exp(design.noise(rng)), design.run) for _ in range(worlds)]
    found: dict[str, list[Array]] = {name: [] for name in ("plain", "averaged", "conformal", "bent")}
    for group, one in zip(fitted(design, worlds, draws), data, strict=True):
        bent = bent_band(group, ahead)
        if group.error is not None or bent is None:
            continue
        found["plain"].append(group.band(ahead)[0])
        found["averaged"].append(averaged(group, one, ahead, draws))
        found["conformal"].append(conformal(group, one, ahead))
        found["bent"].append(bent[0])
    out: dict[str, Any] = {"right": design.right, "worlds": len(found["plain"])}
    for name, ends in found.items():
        low, high = np.array(ends).T
        out[name] = {
            "coverage": round(float(((low <= truth) & (truth <= high)).mean()), 3),
            "width": round(float(np.median(np.log(high / low))), 4),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    from laws_data import save

    begun, table = time.process_time(), {}
    for name in NAMES:
        table[name] = judged(designs()[name], args.worlds, args.draws)
        print(f"{name:40s}", json.dumps(table[name]), flush=True)
    head = {"worlds": args.worlds, "draws": args.draws, "cpu_s": round(time.process_time() - begun, 1)}
    save(HERE / "laws-misfit.json", "others", {**head, "designs": table})


if __name__ == "__main__":
    main()
