"""A short walk through every target of the fuzz benchmark, the same on each run."""

from __future__ import annotations

import random

import hypothesis
import pytest
from hostile import TARGETS, Target, outcome

_CASES = 150


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_case_works_or_is_refused(target: Target) -> None:
    wanted = max(8, round(_CASES * target.share))
    if not isinstance(target.cases, hypothesis.strategies.SearchStrategy):
        for i in range(wanted):
            outcome(target, target.cases(random.Random(f"0 {i}")))
        return
    settings = hypothesis.settings(
        max_examples=wanted,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(target.cases)(lambda case: outcome(target, case) and None))()
