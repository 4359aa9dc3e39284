"""The papers' claims and their verdicts: docs/papers.md, made from the committed tables of claims.

    python analysis/papers.py [--out docs/papers.md]

Each table in analysis/claims/ is written by the analysis that its column `source` names; here they are only shown.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from common import CLAIMS

from raysweep.claims import Claim, markdown, read_claims, summary

HEAD = """# What the papers say, and what was measured

This page lists what each paper claims, next to what was measured here, with a verdict. Every row can be measured again
by the commands above its table, such as `raysweep run sweeps/lid_exponent.yaml`. The page is made by `python
analysis/papers.py` (`make papers`) from the tables in `analysis/claims/`; a test compares the two. A verdict follows
from the numbers by a rule, which the last column puts into words. Where no rule fits, it is set by hand, with its
reason. The column "paper" comes from notes on the paper: check the paper itself before you quote it.

* **reproduced**: the measurement agrees with the paper.
* **differs**: the measured value is distinguishable from the paper's.
* **not supported**: the measurement does not show what the paper says, because it points elsewhere or is too uncertain.
* **not run**: there is no measurement.

Measured values are followed by their 95 % interval over seeds (or splits of the data). Values without seeds are
computed. Intervals come from a bootstrap over whole seeds, and are enlarged by the ratio of Student's distribution to
the normal one: for a mean this gives Student's interval, which with 3 to 32 seeds covers a normal mean in 94 to 96 % of
cases (`over_seeds` in `analysis/common.py`; intervals of peaks and rank correlations are enlarged in the same way).
With few seeds intervals are wide, and a wide interval that contains the target is weak support.

An exponent of a curve without seeds has a range instead, marked as "interval over parts of it": the smallest and the
largest exponent that a fit finds over any part of the window which spans at least half of its logarithm. It says how
much the exponent depends on the choice of the window. It has no coverage, and verdicts use the value alone.
"""


@dataclass(frozen=True)
class Paper:
    """A paper, and its tables in analysis/claims/."""

    arxiv: str
    name: str
    tables: tuple[str, ...]


PAPERS = (
    Paper(
        "2602.00315",
        "Exact-posterior oracle",
        ("oracle", "oracle_active", "oracle_labels", "oracle_shift", "oracle_shift_cells"),
    ),
    Paper("2409.17858", "Feature learning and scaling laws", ("features", "richness")),
    Paper("2601.03764", "Latent instance difficulty", ("lid", "lid_cifar", "lid_gsm8k")),
    Paper("2401.12610", "Boolean mean dimension", ("bmd", "bmd_digits", "bmd_detector", "bmd_networks")),
)


def page(folder: Path = CLAIMS) -> str:
    """The page, from the tables in a folder."""
    parts = [HEAD]
    for paper in PAPERS:
        parts.append(section(paper, [c for name in paper.tables for c in read_claims(folder / f"{name}.csv")]))
    return "\n".join(parts)


def section(paper: Paper, claims: list[Claim]) -> str:
    """One paper's claims, and the commands that measure them."""
    commands = dict.fromkeys(part for claim in claims for part in claim.source.split("; ") if part)
    said = f"{summary(claims)}."
    if commands:
        said += "\n\nMeasured by " + ", ".join(f"`{command}`" for command in commands) + "."
    title = f"## {paper.name} ([{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}))"
    return f"{title}\n\n{said}\n\n{markdown(claims)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=CLAIMS.parent.parent / "docs/papers.md")
    given = parser.parse_args()
    given.out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
