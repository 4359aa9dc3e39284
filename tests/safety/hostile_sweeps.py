"""Sweep files: grammar first (what nearly makes sense goes deepest), then tokens and bytes changed at random."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import yaml
from hostile_values import AXES, ODD, SCRATCH, in_text, odd, values
from hypothesis import strategies as st

from raysweep.sweep import Sweep, from_mapping, load_sweep

ROOT = Path(__file__).parent.parent.parent
SWEEP = """name: tiny
experiment: classifier
world: {kind: gaussian, dim: 4, classes: 3}
grid:
  n_train: {geom: [32, 128, 3]}
  zip: {labels: [hard, soft], lr: [1e-2, 0.05]}
  when: [{if: {labels: soft}, then: {depth: [1, 2]}}]
  seed: {range: 2}
  steps: [4, 16]
  k: [1, 10]
fit: [{law: power, x: n_train, y: epistemic, by: [labels]}]
presets: {smoke: {seed: 0}}
resources: {cpus: 1, lanes: 8}
budget: {flops: 1e12}
"""

number = st.sampled_from(
    [0, 1, 2, 3, 7, 16, 100, 1e-3, 0.5, -1, 1e7, 1e9, 1e12, 1e30, math.inf, math.nan, "4", "x", None]
)
ranges = st.builds(
    lambda name, args: {name: args},
    st.sampled_from(["geom", "log2", "linear", "range", "goem"]),
    number | st.lists(number, max_size=4),
)
formulas = st.builds(
    "{} {} {}".format,
    st.sampled_from(AXES[:16]),
    st.sampled_from(["*", "/", "**", "-", "if", "<", "^", "**9**", "* (", "@"]),
    st.sampled_from(["4", "width", "lr", "0", "sqrt(depth)", "1e308", "x", "lr else 3", "10**99"]),
)
entry = st.lists(number | odd, max_size=4) | ranges | odd | formulas


def _grid(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    rule = st.fixed_dictionaries({"if": st.dictionaries(st.sampled_from(AXES), entry, max_size=2), "then": inner})
    special = {
        "zip": inner | st.lists(inner, max_size=2),
        "concat": st.lists(inner, max_size=3),
        "when": st.lists(rule, max_size=2),
        "exclude": st.dictionaries(st.sampled_from(AXES), entry, max_size=2) | odd,
    }
    plain = st.dictionaries(st.sampled_from(AXES), entry, max_size=4)
    return st.builds(lambda a, b: {**a, **b}, plain, st.fixed_dictionaries({}, optional=special))


grids = st.recursive(st.dictionaries(st.sampled_from(AXES), entry, max_size=4), _grid, max_leaves=4)
fits = st.fixed_dictionaries(
    {
        "x": st.sampled_from(["n_train", "width", "", ["n_train", "width"]]) | odd,
        "y": st.sampled_from(["epistemic", "nll"]) | odd,
    },
    optional={
        "law": st.sampled_from(["power", "auto", "chinchilla", "pwer"]) | odd,
        "by": values,
        "at": odd,
        "huber": number,
        "holdout": number,
        "window": st.dictionaries(st.sampled_from(["low", "high", "x", "lo"]), number | formulas | odd, max_size=2)
        | odd,
    },
)
worlds = st.fixed_dictionaries(
    {"kind": st.sampled_from(["gaussian", "flow", "gausian"])},
    optional={"dim": number, "classes": number, "prior": values, "layers": number, "hidden": number, "seed": odd},
)
parts = {
    "name": odd,
    "experiment": odd,
    "grid": grids,
    "world": worlds | odd,
    "fit": st.lists(fits, max_size=2) | values,
    "presets": st.dictionaries(st.text(max_size=3), grids, max_size=2) | odd,
    "resources": st.dictionaries(st.sampled_from(["cpus", "gpus", "lanes", "memory_gib", "cpu"]), number, max_size=2)
    | odd,
    "budget": st.dictionaries(st.sampled_from(["flops", "cells"]), number, max_size=2) | odd,
    "observed": values,
    "version": odd,
    "oops": odd,
}
SOUND: dict[str, Any] = yaml.load(SWEEP, yaml.SafeLoader)
tame_number = st.sampled_from([1, 2, 3, 7, 16, 100, 0.5, "4", 1e7, 1e12])
tame_entry = (
    st.lists(tame_number, max_size=4)
    | tame_number
    | formulas
    | st.builds(
        lambda name, args: {name: args},
        st.sampled_from(["geom", "log2", "linear", "range"]),
        st.lists(tame_number, min_size=1, max_size=3),
    )
)


@st.composite
def sweeps(draw: Any) -> dict[str, Any]:
    """A sound sweep, of which one or two parts, or a few axes, are something else."""
    raw = dict(SOUND)
    if draw(st.booleans()):
        grid = dict(SOUND["grid"])
        for name in draw(st.lists(st.sampled_from(AXES[:16]), min_size=1, max_size=3)):
            grid[name] = draw(tame_entry | entry)
        if draw(st.integers(0, 3)) == 0:
            grid |= draw(_grid(st.dictionaries(st.sampled_from(AXES[:16]), tame_entry, max_size=2)))
        raw["grid"] = grid
    else:
        for name in draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=2, unique=True)):
            raw[name] = draw(parts[name])
    return raw


def _use(sweep: Sweep) -> None:
    """All that planning asks of a sweep."""
    assert len(sweep.runs) <= sweep.runs.cells or not len(sweep.runs)
    assert sweep.hash
    json.dumps(sweep.declaration)
    again = from_mapping(yaml.safe_load(sweep.text))
    assert again.runs.cells == sweep.runs.cells


def run_mapping(raw: dict[str, Any]) -> None:
    """A sweep as YAML writes it, so that what is loaded went through the parser."""
    try:
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    run_file(text.encode("utf-8", "surrogatepass"))


def run_file(data: bytes) -> None:
    (SCRATCH / "s.yaml").write_bytes(data)
    _use(load_sweep(SCRATCH / "s.yaml"))


def run_override(text: str) -> None:
    (SCRATCH / "o.yaml").write_text(SWEEP)
    _use(load_sweep(SCRATCH / "o.yaml", [text], "smoke"))


def run_preset(name: str) -> None:
    (SCRATCH / "o.yaml").write_text(SWEEP)
    load_sweep(SCRATCH / "o.yaml", [], name)


_OVERRIDES = (
    "width=64,128",
    "n_train={geom: [64, 256, 3]}",
    "n_train=geom(64, 256, 3)",
    "seed=0..3..1,7",
    "lr=1e-3",
    "lr=1 / (width + min(depth, 2))",
    "zip={width: [1, 2], depth: [1, 2]}",
    "exclude={labels: soft, n_train: 32}",
)


def overrides(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"{rng.choice(AXES)}={rng.choice(ODD)}"
    return str(in_text(*_OVERRIDES)(rng))


SHIPPED = tuple(path.read_text() for path in sorted((ROOT / "sweeps").glob("*.yaml")))
shutil.copytree(ROOT / "sweeps/worlds", SCRATCH / "worlds")


def tokens(rng: random.Random) -> bytes:
    text: str = in_text(SWEEP, SWEEP, rng.choice(SHIPPED))(rng)
    return text.encode("utf-8", "surrogatepass")
