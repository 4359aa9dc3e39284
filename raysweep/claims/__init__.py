"""What a paper says, beside what was measured."""

from raysweep.claims.claim import VERDICTS, Claim, Measured, Rule, Verdict
from raysweep.claims.table import COLUMNS, markdown, read_claims, summary, write_claims

__all__ = [
    "COLUMNS", "VERDICTS", "Claim", "Measured", "Rule", "Verdict", "markdown", "read_claims", "summary", "write_claims",
]  # fmt: skip
