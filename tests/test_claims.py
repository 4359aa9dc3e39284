"""Claims: the verdict follows from the numbers, contradictions are refused, a table is what was written."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.claims import COLUMNS, Claim, Measured, Rule, markdown, read_claims, summary, write_claims
from raysweep.errors import ClaimError

SAMPLED = Measured(1.07, "N >= 400", 16, 0.99, 1.11)
COMPUTED = Measured(2.498, "k = 1,000 to 10,000", 0)
WORKS = {
    "id": "H1",
    "statement": "it falls as 1 / N",
    "paper": 1.0,
    "measured": SAMPLED,
    "rule": Rule("near paper", 0.0),
}


def claim(**changes: Any) -> Claim:
    return Claim(**(WORKS | changes))


@pytest.mark.parametrize(
    ("rule", "target", "value", "low", "high", "verdict"),
    [
        ("near paper 0", 1.0, 1.07, 0.99, 1.11, "reproduced"),  # the interval holds it
        ("near paper 0", 1.0, 1.07, 1.01, 1.11, "differs"),
        ("near paper 0.1", 1.0, 1.07, 1.01, 1.11, "reproduced"),  # within the tolerance
        ("near paper 0", 1.0, 0.6, -0.1, 1.4, "not supported"),  # holds no effect at all, too
        ("near paper 0", -1.0, -0.6, -1.4, 0.1, "not supported"),
        ("near paper 0", -1.0, -0.9, -1.4, -0.1, "reproduced"),
        ("near paper 0.1", 1.0, 1.07, 0.71, 1.29, "reproduced"),  # it reaches no further than three tolerances
        ("near paper 0.1", 1.0, 1.07, 0.69, 1.29, "not supported"),  # too wide to tell
        ("near paper 0.1", 1.0, 1.07, 0.71, 1.31, "not supported"),
        ("near paper 0.1", 1.0, 1.5, 0.9, 2.2, "not supported"),
        ("near paper 0.1", 1.0, 1.05, 1.01, 9.0, "reproduced"),  # it does not hold the target, the value is close
        ("near paper 0.01", 0.0, 0.002, -0.004, 0.008, "reproduced"),
        ("near paper 0.01", 0.0, 0.002, -0.4, 0.4, "not supported"),  # a wide interval shows no absence
        ("near paper 0.01", 0.0, 0.5, 0.4, 0.6, "differs"),
        ("near paper 0.01", 0.0, -0.5, -0.6, -0.4, "differs"),
        ("near paper 0.01", 0.0, 0.008, 0.005, 0.02, "not supported"),
        ("above 1", "a peak", 3.0, 1.4, 5.4, "reproduced"),
        ("above 1", "a peak", 3.0, 0.9, 5.4, "not supported"),
        ("above 1", "a peak", 0.2, 0.1, 0.6, "not supported"),
        ("below 0.05", "1 / N", 0.04, 0.03, 0.045, "reproduced"),
        ("below 0.05", "1 / N", 0.04, 0.03, 0.055, "not supported"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    rule: str, target: float | str, value: float, low: float, high: float, verdict: str
) -> None:
    sampled = claim(paper=target, measured=Measured(value, "N", 16, low, high), rule=Rule.parse(rule))
    assert sampled.verdict == verdict
    assert str(Rule.parse(str(sampled.rule))) == str(sampled.rule)


def test_a_computed_value_is_judged_as_a_point() -> None:
    ranged = Measured(2.498, "k = 1,000 to 10,000; interval over parts of it", 0, 2.4, 2.6)
    assert claim(paper=2.5, measured=ranged, rule=Rule("near paper", 0.001)).verdict == "differs"
    assert claim(paper=2.5, measured=ranged, rule=Rule("near paper", 0.01)).reason == "within 0.01 of the paper's value"
    assert claim(measured=ranged, rule=Rule("above", 2.45)).verdict == "reproduced"
    assert str(ranged) == "2.498 [2.4, 2.6]"
    assert claim(paper=2.5, measured=COMPUTED, rule=Rule("near paper", 0.01)).verdict == "reproduced"
    assert claim(paper=2.5, measured=COMPUTED, rule=Rule("near paper", 0.001)).verdict == "differs"
    assert claim(measured=COMPUTED, rule=Rule("above", 2.498)).verdict == "not supported"


def test_theory_and_paper_are_different_targets() -> None:
    both = claim(theory=0.5, measured=Measured(0.52, "k", 16, 0.49, 0.54))
    assert both.verdict == "differs"
    assert dataclasses.replace(both, rule=Rule("near theory", 0.0)).verdict == "reproduced"


def test_without_a_measurement_nothing_was_run() -> None:
    assert claim(measured=None, why="no data").verdict == "not run"


def test_a_verdict_by_hand_is_kept_with_its_reason() -> None:
    by_hand = claim(rule=None, judged="not supported", why="one seed diverged")
    assert (by_hand.verdict, by_hand.reason) == ("not supported", "one seed diverged")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"measured": None}, "says why"),
        ({"measured": None, "judged": "reproduced", "why": "sure"}, "Without a measurement"),
        ({"judged": "not run", "rule": None, "why": "?"}, "Drop one"),
        ({"rule": None}, "neither"),
        ({"judged": "differs", "why": "by eye"}, "both"),
        ({"rule": None, "judged": "differs"}, "reason"),
        ({"rule": None, "judged": "true", "why": "by eye"}, "must be one of reproduced, differs"),
        ({"paper": "a peak"}, "needs a number to compare with, but it is 'a peak'"),
        ({"rule": Rule("near theory", 0.1)}, "needs a number"),
        ({"paper": math.nan}, "finite number or words"),
        ({"paper": "1.62"}, "finite number or words"),
        ({"id": " "}, "needs `id`"),
        ({"statement": ""}, "needs `statement`"),
        ({"theory": True}, "`theory` of H1 must be a finite number or words, but is True"),
        ({"rule": "near paper 0.05"}, "must be a Rule or None, but is 'near paper 0.05'. Write Rule.parse("),
        ({"measured": 1.0}, "`measured` of H1 must be a Measured or None, but is 1.0."),
        ({"why": None}, "`why` of a claim must be a text, but is None"),
        ({"paper": 10**310}, "`paper` of H1 must be a finite number or words, but is 1000"),
        ({"theory": Fraction(10**400, 3)}, "`theory` of H1 must be a finite number or words, but is Fraction("),
        ({"theory": 1j}, "`theory` of H1 must be a finite number or words, but is 1j"),
        ({"setting": "half \udc80"}, "must be valid Unicode, but 'half \\udc80' is not"),
        ({"theory": "\ud801"}, "must be valid Unicode"),
        ({"source": "x" * 100_001}, "must have at most 100,000 characters, but one has 100,001. It begins with 'xxx"),
        ({"paper": "long " * 40_000, "rule": Rule("above", 1)}, "must have at most 100,000 characters"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ClaimError, match=re.escape(says)):
        claim(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"window": " "}, "needs its `window`"),
        ({"value": math.inf}, "`measured` must be a finite number"),
        ({"low": math.nan}, "`low` must be a finite number"),
        ({"low": None}, "needs an interval"),
        ({"seeds": 1}, "at least 2 seeds"),
        ({"seeds": 1, "window": "N; interval over parts of it"}, "at least 2 seeds"),
        ({"seeds": 0}, "must be named in its `window` with the words 'interval over', but it is 'N >= 400'"),
        ({"seeds": 0, "low": None, "window": "N; interval over parts of it"}, "needs both ends"),
        ({"seeds": -1}, "at least 0"),
        ({"low": 2.0}, "must not exceed"),
        ({"value": 5}, "A value must lie within its own interval, but 5 lies outside [0.99, 1.11]"),
        ({"value": True}, "`measured` must be a finite number, but is True"),
        ({"value": None}, "`measured` must be a finite number, but is None"),
        ({"seeds": 2.5}, "`seeds` must be a whole number, but is 2.5"),
        ({"window": 5}, "needs its `window`"),
        ({"window": "\udfff"}, "must be valid Unicode"),
        ({"window": "k" * 200_000}, "must have at most 100,000 characters"),
        ({"high": 10**309}, "`high` must be a finite number, but is 1000"),
        ({"seeds": 10**309}, "`seeds` must be a whole number, but is 1000"),
    ],
)
def test_a_measurement_without_its_window_seeds_or_interval_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ClaimError, match=re.escape(says)):
        dataclasses.replace(SAMPLED, **changes)


@pytest.mark.parametrize("text", ["near 1", "above", "near paper x", "near paper nan", "near paper -0.1", "over 1", ""])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ClaimError):
        Rule.parse(text)
    for other in (None, 1.0, b"above 1"):
        with pytest.raises(ClaimError, match=f"and a number, but is {other!r}"):
            Rule.parse(other)  # type: ignore[arg-type]
    with pytest.raises(ClaimError, match="number of a rule must be finite"):
        Rule("above", 10**309)
    with pytest.raises(ClaimError, match="must be one of near paper, near theory, above, below, but is 'near papre'"):
        Rule("near papre", 0.05)  # type: ignore[arg-type]


finite = st.floats(allow_nan=False, allow_infinity=False)
characters = st.characters(codec="utf-8", include_characters="\r\n", exclude_categories=("Cc", "Cs"))
words = st.text(characters).filter(
    lambda text: text.strip() and not re.fullmatch(r"\s*[-+.\d_]+(e[-+]?\d+)?\s*", text, re.IGNORECASE)
)


@settings(deadline=None)
@given(st.tuples(finite, finite, finite).map(sorted), st.integers(2, 10**6), words, words, finite | words)
def test_a_table_is_read_as_it_was_written(
    numbers: list[float], seeds: int, window: str, statement: str, theory: float | str
) -> None:
    low, value, high = numbers
    rows = [
        claim(measured=Measured(value, window, seeds, low, high), statement=statement, theory=theory),
        claim(id="H2", measured=Measured(value, window, 0), rule=None, judged="differs", why=statement, source="make"),
        claim(id="H3", measured=None, why=window),
        claim(id="H4", measured=None, judged="not run", rule=None, why=window),
        claim(id="H5", measured=Measured(value, f"{window}; interval over parts of it", 0, low, high)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "claims.csv"
        write_claims(file, rows)
        assert read_claims(file) == rows
        assert file.read_text().startswith(",".join(COLUMNS) + "\n")
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as Excel writes it
        assert read_claims(file) == rows


@pytest.mark.parametrize(
    "number", [Fraction(2, 7), 2**70 + 1, 7, np.float32(0.1), np.int64(3), np.float64(1e-300), -0.0, 5e-324]
)
def test_every_number_is_read_as_it_was_written(tmp_path: Path, number: Any) -> None:
    rows = [
        claim(paper=number, theory=number, measured=Measured(number, "N", np.int32(4), number, number)),
        claim(id="H2", rule=Rule("near paper", abs(number))),
    ]
    write_claims(str(tmp_path / "claims.csv"), rows)
    back = read_claims(str(tmp_path / "claims.csv"))
    assert back == rows
    assert back[0].theory == float(number)
    assert [one.verdict for one in back] == [one.verdict for one in rows]


def test_the_longest_text_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [claim(why='"' * 100_000, paper="\ufeff,\r", rule=Rule("above", 1.0))]
    write_claims(tmp_path / "claims.csv", rows)
    assert read_claims(tmp_path / "claims.csv") == rows
    with pytest.raises(ClaimError, match=r"must be a file that can be written, but is not: .*No such file"):
        write_claims(tmp_path / "nowhere" / "claims.csv", rows)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("measured", "x", "row 2, column measured, must be a finite number or empty, but is 'x'"),
        ("low", "nan", "row 2, column low, must be a finite number or empty, but is 'nan'"),
        ("seeds", "1.5", "row 2, column seeds, must be a whole number or empty, but is '1.5'"),
        ("seeds", "", "row 2, column seeds, must be a whole number where `measured` is given"),
        ("verdict", "maybe", "row 2, column verdict, must be one of reproduced, differs, not supported, not run"),
        (
            "verdict",
            "differs",
            "row 2, column verdict, must be 'reproduced' by the rule 'near paper 0.0', but is 'diff",
        ),
        ("measured", "", "row 2, column low, must be empty without `measured`, but is '0.99'"),
        ("rule", "roughly", "row 2: A rule must be"),
        ("window", "", "row 2: A measured value needs its `window`"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, column: str, value: str, says: str) -> None:
    file = tmp_path / "claims.csv"
    write_claims(file, [claim()])
    header, row = file.read_text().splitlines()
    cells = row.split(",")
    cells[COLUMNS.index(column)] = value
    file.write_text(f"{header}\n{','.join(cells)}\n")
    with pytest.raises(ClaimError, match=re.escape(f"{file}, {says}")):
        read_claims(file)


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "claims.csv"
    for text, says in (("", "empty"), ("a,b\n", "but is a,b"), (",".join(COLUMNS) + "\nH1,x\n", "row 2, must have 14")):
        file.write_text(text)
        with pytest.raises(ClaimError, match=re.escape(says)):
            read_claims(file)
    with pytest.raises(ClaimError, match="cannot be read"):
        read_claims(tmp_path / "missing.csv")


def test_two_claims_that_look_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match="one claim per id, setting and window, but has 2 of H1"):
        write_claims(tmp_path / "claims.csv", [claim(), claim()])
    write_claims(tmp_path / "claims.csv", [claim(), claim(setting="another")])


def test_a_page_shows_each_statement_once_and_every_number() -> None:
    rows = [claim(setting="a | b"), claim(setting="N* over N*", paper=1.5, why="at beta 2.5")]
    lines = markdown(rows).splitlines()
    assert "| H1: it falls as 1 / N | a \\| b; N >= 400 |  | 1 | 1.07 [0.99, 1.11], 16 seeds | reproduced |" in lines[2]
    assert lines[3] == (
        "|  | N\\* over N\\*; N >= 400 |  | 1.5 | 1.07 [0.99, 1.11], 16 seeds | differs "
        "| the interval excludes the paper's value; at beta 2.5 |"
    )
    assert "| \\_a\\_, \\_\\_b\\_\\_ and L_gen;" in markdown([claim(setting="_a_, __b__ and L_gen")])
    assert summary(rows) == "1 reproduced, 1 differs"
    assert summary([*rows, rows[1], claim(measured=None, why="no data")]) == "1 reproduced, 2 differ, 1 not run"
