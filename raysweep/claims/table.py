"""Tables of claims: CSV files that are committed beside the analyses that write them, and how they are shown."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from raysweep.claims.claim import VERDICTS, Claim, Measured, Rule, finite, shown
from raysweep.errors import ClaimError

__all__ = ["COLUMNS", "markdown", "read_claims", "summary", "write_claims"]

COLUMNS = (
    "id", "statement", "setting", "theory", "paper", "measured", "low", "high", "seeds", "window", "rule", "verdict",
    "why", "source",
)  # fmt: skip


def write_claims(file: str | Path, claims: Iterable[Claim]) -> None:
    """Writes a table of claims as CSV, in the order given.

    Raises:
        ClaimError: two claims with one id, setting and window, or a file that cannot be written.
    """
    rows = list(claims)
    _distinct(rows, str(file))
    lines = [_line(COLUMNS)]
    for claim in rows:
        found = claim.measured
        texts = {name: getattr(claim, name) for name in ("id", "statement", "setting", "why", "source")}
        both = {"theory": _exact(claim.theory), "paper": _exact(claim.paper)}
        derived = {"rule": str(claim.rule or ""), "verdict": claim.verdict}
        numbers = {}
        if found is not None:
            numbers = {
                name: _exact(n) for name, n in (("measured", found.value), ("low", found.low), ("high", found.high))
            }
            numbers |= {"seeds": str(found.seeds), "window": found.window}
        cells = texts | both | numbers | derived
        lines.append(_line([cells.get(name, "") for name in COLUMNS]))
    try:
        Path(file).write_bytes("".join(lines).encode())
    except OSError as error:
        raise ClaimError(f"{file} must be a file that can be written, but is not: {error}") from error


def read_claims(file: str | Path) -> list[Claim]:
    """The claims of a CSV file in UTF-8, with or without the mark that Excel writes first, in its order.

    Raises:
        ClaimError: the file is not a table of claims; the message names row, column and value.
    """
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))  # ends of lines within texts stay
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClaimError(f"{file} must be a CSV file of claims, but cannot be read: {error}") from error
    if not rows or tuple(rows[0]) != COLUMNS:
        given = ",".join(rows[0]) if rows else "empty"
        raise ClaimError(f"The first row of {file} must be {','.join(COLUMNS)}, but is {given}.")
    claims = []
    for i, row in enumerate(rows[1:], 2):
        if len(row) != len(COLUMNS):
            raise ClaimError(f"{file}, row {i}, must have {len(COLUMNS)} columns, but has {len(row)}.")
        claims.append(_claim(dict(zip(COLUMNS, row, strict=True)), f"{file}, row {i}"))
    _distinct(claims, str(file))
    return claims


def _claim(row: dict[str, str], where: str) -> Claim:
    """The claim of one row of a file."""

    def number(name: str) -> float | None:
        value = finite(row[name])
        if value is None and row[name]:
            raise ClaimError(f"{where}, column {name}, must be a finite number or empty, but is {row[name]!r}.")
        return value

    value, low, high, seeds = (number(name) for name in ("measured", "low", "high", "seeds"))
    if seeds is not None and seeds != int(seeds):
        raise ClaimError(f"{where}, column seeds, must be a whole number or empty, but is {row['seeds']!r}.")
    if row["verdict"] not in VERDICTS:
        raise ClaimError(f"{where}, column verdict, must be one of {', '.join(VERDICTS)}, but is {row['verdict']!r}.")
    if value is None:
        for name in ("low", "high", "seeds", "window"):
            if row[name]:
                raise ClaimError(f"{where}, column {name}, must be empty without `measured`, but is {row[name]!r}.")
    elif seeds is None:
        raise ClaimError(f"{where}, column seeds, must be a whole number where `measured` is given, but is empty.")
    try:
        measured = None if value is None or seeds is None else Measured(value, row["window"], int(seeds), low, high)
        rule = Rule.parse(row["rule"]) if row["rule"] else None
        by_hand = None if rule or measured is None else row["verdict"]
        both = {name: row[name] if (n := finite(row[name])) is None else n for name in ("theory", "paper")}
        texts = {name: row[name] for name in ("id", "statement", "setting", "why", "source")}
        claim = Claim(**texts, **both, measured=measured, rule=rule, judged=by_hand)  # type: ignore[arg-type]
    except ClaimError as error:
        raise ClaimError(f"{where}: {error}") from error
    if claim.verdict != row["verdict"]:
        raise ClaimError(
            f"{where}, column verdict, must be {claim.verdict!r} by the rule {row['rule']!r}, but is "
            f"{row['verdict']!r}. Rerun the analysis that writes the table."
        )
    return claim


def summary(claims: Sequence[Claim]) -> str:
    """The number of claims by verdict: `31 reproduced, 4 differ, 2 not supported, 1 not run`."""
    counts = Counter(claim.verdict for claim in claims)
    return ", ".join(
        f"{counts[v]} {'differ' if v == 'differs' and counts[v] > 1 else v}" for v in VERDICTS if counts[v]
    )


def markdown(claims: Sequence[Claim]) -> str:
    """A markdown table; claims of one id follow each other, and the first of them shows the statement."""
    lines = ["| claim | setting | theory | paper | measured | verdict | why |", "|---|---|---|---|---|---|---|"]
    for _, group in groupby(claims, key=lambda claim: (claim.id, claim.statement)):
        for i, claim in enumerate(group):
            found = claim.measured
            cells = (
                "" if i else f"{claim.id}: {claim.statement}",
                "; ".join(part for part in (claim.setting, found.window if found else "") if part),
                *(v if isinstance(v, str) else shown(v) for v in (claim.theory, claim.paper)),
                f"{found}, {found.seeds} seeds" if found and found.seeds else str(found or ""),
                claim.verdict,
                claim.reason,
            )
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _distinct(claims: Sequence[Claim], where: str) -> None:
    """Refuses two claims that a reader could not tell apart."""
    counts = Counter((c.id, c.setting, c.measured.window if c.measured else "") for c in claims)
    for (name, setting, window), times in counts.items():
        if times > 1:
            raise ClaimError(
                f"{where} must have one claim per id, setting and window, but has {times} of {name}, {setting!r}, "
                f"{window!r}. Say in `setting` how they differ."
            )


def _line(cells: Sequence[str]) -> str:
    """A row of a CSV file, which ends with a line feed."""
    said = io.StringIO()
    csv.writer(said, lineterminator="\r\n").writerow(cells)  # quotes what holds either of these characters
    return said.getvalue().removesuffix("\r\n") + "\n"


def _exact(value: float | str | None) -> str:
    """A cell of a CSV file: numbers with every digit, so that reading gives the same number."""
    return "" if value is None else str(value)


def _cell(text: str) -> str:
    """A cell of a markdown table: one line, in which nothing ends the cell or turns on emphasis."""
    return re.sub(r"([|*]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
