"""docs/papers.md and the committed tables of claims say the same, and what is cheap to compute again gives the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from raysweep.claims import Claim, read_claims

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "analysis/claims"


@pytest.fixture
def analysis(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The scripts of analysis/ as modules, as where one of them is run."""
    monkeypatch.syspath_prepend(ROOT / "analysis")
    return importlib.import_module("papers")


def test_the_page_is_made_of_the_tables(analysis: ModuleType) -> None:
    page = (ROOT / "docs/papers.md").read_text()
    assert page == analysis.page(), "docs/papers.md is out of step with analysis/claims: run `make papers`"


def test_every_table_is_on_the_page(analysis: ModuleType) -> None:
    named = [table for paper in analysis.PAPERS for table in paper.tables]
    assert sorted(named) == sorted(file.stem for file in CLAIMS.iterdir())
    assert len({paper.arxiv for paper in analysis.PAPERS}) == 4


def test_an_activation_that_was_not_run_on_the_circle_has_claims_that_say_so(analysis: ModuleType) -> None:
    richness, made = importlib.import_module("richness"), importlib.import_module("richness_curves")
    t = np.geomspace(30, 300, 8)

    def curve(activation: str, method: str) -> object:
        values = (method, "sgd", 0.0, activation, 3, 1000, 0.5, 1.0)
        return made.Curve(dict(zip(richness.GROUP, values, strict=True)), t, t[:, None] ** -0.5, ("0",))

    whole = [curve(activation, method) for activation in richness.ACTIVATION for method in ("train", "ntk")]
    assert list(richness.missing(whole)) == []
    (row,) = richness.missing([one for one in whole if one.key != curve("tilted", "train").key])
    assert (row.setting, row.verdict) == ("SGD, tilted absolute value", "not run")
    assert "activation: tilted" in row.why


def test_claims_that_need_no_store_are_computed_again(analysis: ModuleType) -> None:
    lid, rows = importlib.import_module("lid"), list[Claim]()
    lid.claims_of_perfection(rows)
    lid.claims_of_split(rows)
    committed = [claim for claim in read_claims(CLAIMS / "lid.csv") if claim.id in {"H4", "H8", "H8-2"}]
    assert [(c.setting, c.verdict) for c in rows] == [(c.setting, c.verdict) for c in committed]
    assert [c.measured.value for c in rows] == pytest.approx([c.measured.value for c in committed], rel=1e-3)
