"""The table of sizes in docs/oracle.md is what is planned."""

import re
from pathlib import Path

import pytest

from raysweep.models import KINDS, Architecture

TEXT = (Path(__file__).parents[2] / "docs/oracle.md").read_text()
ROWS = {kind: re.findall(rf"^\| {kind} \| (depth .*) \|$", TEXT, re.M) for kind in KINDS}


def built(kind, shape, width, inputs=28 * 28):
    given = {name: int(value) for name, value in (part.split() for part in shape.split(", "))}
    return Architecture(kind, inputs, 10, width, heads=4, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_flops_of_every_model_are_those_of_its_layout(kind):
    ((shape, *cells),) = ([cell.strip() for cell in row.split("|")] for row in ROWS[kind])
    width, last = cells.pop().split(": ")
    for w, cell in zip((16, 32, 64, int(width)), (*cells, last), strict=True):
        layout = built(kind, shape, w).layout
        assert cell == f"{layout.size:,}, {layout.forward_flops / 1e6:.2f} M", w
    sizes = [built(kind, shape, int(width), inputs).layout.size for inputs in (28 * 28, 8 * 8, 3 * 32 * 32)]
    assert 170_000 < sizes[0] < 230_000
    if kind != "mlp":
        assert max(sizes) < 1.1 * min(sizes)
