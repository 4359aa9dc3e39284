"""docs/papers.md and the committed tables of claims say the same, and what is cheap to compute again gives the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

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


def test_claims_that_need_no_store_are_computed_again(analysis: ModuleType) -> None:
    lid, rows = importlib.import_module("lid"), list[Claim]()
    lid.claims_of_perfection(rows)
    lid.claims_of_split(rows)
    committed = [claim for claim in read_claims(CLAIMS / "lid.csv") if claim.id in {"H4", "H8", "H8-2"}]
    assert [(c.setting, c.verdict) for c in rows] == [(c.setting, c.verdict) for c in committed]
    assert [c.measured.value for c in rows] == pytest.approx([c.measured.value for c in committed], rel=1e-3)
