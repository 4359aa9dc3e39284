"""Claims: what a paper says, beside what was measured.

A claim is a statement with the value that theory gives, the paper's own value, and a measurement with its interval.
Its verdict follows from these numbers by the claim's rule and is never typed in. Where no rule fits, the verdict is set
by hand, and then it needs a reason. A table of claims is a CSV file that is committed beside the analysis that writes
it; its verdicts are checked again whenever it is read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from raysweep.errors import ClaimError

__all__ = ["VERDICTS", "Claim", "Measured", "Rule", "Verdict", "finite", "shown"]

Verdict = Literal["reproduced", "differs", "not supported", "not run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Kind = Literal["near paper", "near theory", "above", "below"]
_OVER = "interval over"  # in the window of a computed number that has one
LONGEST = 100_000  # characters of a text; Python's reader of CSV refuses cells of more than 131,072
_WIDE = 3.0  # tolerances that an interval which holds its target may reach from it
_RULE = re.compile(r"(near paper|near theory|above|below) (\S+)")


@dataclass(frozen=True)
class Measured:
    """A measured number, and what it measures.

    Args:
        window: The range of scales that it was taken over, for example `k 100 to 1,000`.
        seeds: How many independent repeats (seeds, or splits of the data) the interval is over; 0 for a number that is
            computed and not sampled.
        low, high: The 95 % interval over seeds. A number from one seed has none. That of a computed number is a range
            over something else, which `window` names: `t 10 to 1,000; interval over parts of it`. No verdict
            depends on it.

    Numbers are kept as floats, as a table has them.

    Raises:
        ClaimError: a number that is not finite, no window, an interval that does not go with the seeds, or a value
            outside its interval.
    """

    value: float
    window: str
    seeds: int
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name, number in {"measured": self.value, "low": self.low, "high": self.high}.items():
            if not is_finite(number) and (number is not None or name == "measured"):
                raise ClaimError(f"`{name}` must be a finite number, but is {number!r}. Leave out what has no value.")
        if not is_finite(self.seeds) or int(self.seeds) != self.seeds:
            raise ClaimError(f"`seeds` must be a whole number, but is {self.seeds!r}.")
        if not isinstance(self.window, str) or not written(self.window).strip():
            raise ClaimError(
                f"A measured value needs its `window`, but {self.value} has none. Say the range of scales."
            )
        if self.seeds < 0:
            raise ClaimError(f"`seeds` must be at least 0 (0: computed, not sampled), but is {self.seeds}.")
        if self.seeds >= 2 and (self.low is None or self.high is None):
            raise ClaimError(
                f"A value measured with {self.seeds} seeds needs an interval (`low` and `high`), but has {self.low} "
                f"and {self.high}. Give both ends."
            )
        if self.seeds < 2 and (self.low is not None or self.high is not None):
            if self.seeds or self.low is None or self.high is None:
                raise ClaimError(
                    f"An interval needs both ends and at least 2 seeds, or 0 for a computed value, but `seeds` is "
                    f"{self.seeds} and the interval is [{self.low}, {self.high}]. Give the number of seeds, or leave "
                    "out the interval."
                )
            if _OVER not in self.window:
                raise ClaimError(
                    f"An interval of a computed value must be named in its `window` with the words {_OVER!r}, but it "
                    f"is {self.window!r}. Say what it is over, as in `t 10 to 1,000; {_OVER} parts of it`."
                )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ClaimError(f"`low` must not exceed `high`, but they are {self.low} and {self.high}. Swap them.")
        low, high = self.ends
        if not low <= self.value <= high:
            raise ClaimError(
                f"A value must lie within its own interval, but {self.value} lies outside [{low}, {high}]. Take both "
                "from the same sample."
            )
        _as_floats(self, "value", "low", "high")
        object.__setattr__(self, "seeds", int(float(self.seeds)))

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; the value twice where there is none."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    @property
    def evidence(self) -> tuple[float, float]:
        """What a verdict looks at: the interval over seeds, or a computed number itself, whatever its range."""
        return self.ends if self.seeds else (self.value, self.value)

    def __str__(self) -> str:
        return shown(self.value) + (f" [{shown(self.low)}, {shown(self.high)}]" if self.low is not None else "")


@dataclass(frozen=True)
class Rule:
    """How a verdict follows from a measurement; as text `near paper 0.05`, `near theory 0.1`, `above 1`, `below 0.01`.

    * `near`: `reproduced` if the value lies within `number` of the target (the paper's value, or the theory's), or if
      the interval contains the target; otherwise `differs`. A wide interval that contains the target shows little:
      `not supported` where it reaches further than three times `number` (if that is not 0) from the target, or holds 0
      too, so that it cannot distinguish the effect from none. A target of 0 is `reproduced` only if the whole interval
      lies within `number` of it, and `differs` only if none of it does: a wide interval does not show absence.
    * `above`, `below`: `reproduced` if the whole interval lies on that side of `number`; otherwise `not supported`.

    Raises:
        ClaimError: an unknown kind, a number that is not finite, or a negative tolerance.
    """

    kind: Kind
    number: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ClaimError(f"The kind of a rule must be one of {', '.join(get_args(Kind))}, but is {self.kind!r}.")
        least = 0.0 if self.kind.startswith("near") else -math.inf
        if not is_finite(self.number) or self.number < least:
            raise ClaimError(
                f"The number of a rule must be finite, and a tolerance at least 0, but the rule is {str(self)!r}."
            )
        _as_floats(self, "number")

    @staticmethod
    def parse(text: str) -> Rule:
        """The rule that a text states.

        Raises:
            ClaimError: the text is not a rule.
        """
        found = _RULE.fullmatch(text) if isinstance(text, str) else None
        if not found or (number := finite(found[2])) is None:
            raise ClaimError(
                f"A rule must be `near paper`, `near theory`, `above` or `below` and a number, but is {text!r}."
            )
        return Rule(found[1], number)  # type: ignore[arg-type]  # the expression matches these four only

    def __str__(self) -> str:
        return f"{self.kind} {self.number!r}"

    def judge(self, measured: Measured, target: float) -> Verdict:
        """The verdict; `target` matters for `near` only."""
        low, high = measured.evidence
        if self.kind == "above":
            return "reproduced" if low > self.number else "not supported"
        if self.kind == "below":
            return "reproduced" if high < self.number else "not supported"
        if target == 0:
            inside, outside = max(-low, high) <= self.number, low > self.number or high < -self.number
            return "reproduced" if inside else "differs" if outside else "not supported"
        if low <= min(target, 0) and high >= max(target, 0):
            return "not supported"
        if low <= target <= high:
            wide = self.number > 0 and max(target - low, high - target) > _WIDE * self.number
            return "not supported" if wide else "reproduced"
        return "reproduced" if abs(measured.value - target) <= self.number else "differs"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and the verdict on it.

    Args:
        id: The claim's name, for example `H5`. Several claims of one id test one statement in several settings.
        statement: What the paper says, in one sentence.
        setting: What was measured, and with which constants.
        theory: The value that follows from the theory, as a number or in words; empty where there is none.
        paper: The value that the paper reports, likewise.
        measured: The measurement, or None if it was not made.
        rule: How the verdict follows from the measurement; None if it is set by hand.
        judged: The verdict that is set by hand. It needs `why`.
        why: The reason for the verdict, or what a reader must know about it. A claim that was not run says why not.
        source: The command that measures it.

    Raises:
        ClaimError: fields that contradict each other.
    """

    id: str
    statement: str
    setting: str = ""
    theory: float | str = ""
    paper: float | str = ""
    measured: Measured | None = None
    rule: Rule | None = None
    judged: Verdict | None = None
    why: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "statement", "setting", "why", "source"):
            if not isinstance(value := getattr(self, name), str):
                raise ClaimError(f"`{name}` of a claim must be a text, but is {value!r}.")
            written(value)
            if name in ("id", "statement") and not value.strip():
                raise ClaimError(f"A claim needs `{name}`, but it is empty.")
        for name, wanted in (("measured", Measured), ("rule", Rule)):
            if not isinstance(value := getattr(self, name), wanted | None):
                how = f"Write Rule.parse({value!r})." if name == "rule" and isinstance(value, str) else ""
                raise ClaimError(
                    f"`{name}` of {self.id} must be a {wanted.__name__} or None, but is {value!r}. {how}".rstrip()
                )
        for name in ("theory", "paper"):
            value = getattr(self, name)
            if (finite(written(value)) is not None) if isinstance(value, str) else not is_finite(value):
                raise ClaimError(f"`{name}` of {self.id} must be a finite number or words, but is {value!r}.")
        _as_floats(self, "theory", "paper")
        if self.judged is not None and self.judged not in VERDICTS:
            raise ClaimError(f"The verdict of {self.id} must be one of {', '.join(VERDICTS)}, but is {self.judged!r}.")
        if self.measured is None:
            if self.judged not in (None, "not run"):
                raise ClaimError(
                    f"Without a measurement the verdict is `not run`, but {self.id} is judged {self.judged!r}. "
                    "Give what was measured."
                )
            if not self.why.strip():
                raise ClaimError(f"A claim that was not run says why, but `why` of {self.id} is empty.")
            object.__setattr__(self, "judged", None)  # it follows, and a table does not say who said it
            return
        if self.judged == "not run":
            raise ClaimError(f"{self.id} is judged `not run`, but {self.measured} was measured. Drop one of the two.")
        if (self.rule is None) == (self.judged is None):
            raise ClaimError(
                f"A measured claim needs either a rule or a verdict set by hand, but {self.id} has "
                f"{'neither' if self.rule is None else 'both'}."
            )
        if self.judged is not None and not self.why.strip():
            raise ClaimError(f"A verdict set by hand needs a reason, but `why` of {self.id} is empty.")
        if self.rule is not None and self.rule.kind.startswith("near") and isinstance(self._target, str):
            raise ClaimError(
                f"The rule {str(self.rule)!r} of {self.id} needs a number to compare with, but it is {self._target!r}. "
                "Give the number, or take `above` or `below`."
            )

    @property
    def _target(self) -> float | str:
        return self.theory if self.rule is not None and self.rule.kind == "near theory" else self.paper

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "not run"
        if self.rule is None:
            return self.judged or "not run"
        return self.rule.judge(self.measured, math.nan if isinstance(self._target, str) else self._target)

    @property
    def reason(self) -> str:
        """The outcome of the rule in words, and what `why` adds."""
        return "; ".join(part for part in (self._by_rule(), self.why) if part)

    def _by_rule(self) -> str:
        if self.measured is None or self.rule is None:
            return ""
        kind, number = self.rule.kind, shown(self.rule.number)
        if kind in ("above", "below"):
            return f"{'' if self.verdict == 'reproduced' else 'not '}{kind} {number}"
        whose, target, (low, high) = f"the {kind[5:]}'s value", float(self._target), self.measured.evidence
        if self.verdict == "not supported":
            if not target:
                return f"the interval reaches farther than {number} from 0"
            if low <= min(target, 0) and high >= max(target, 0):
                return f"the interval contains both {whose} and 0"
            return f"the interval contains {whose}, but reaches more than {_WIDE:g} times {number} from it"
        if self.verdict == "differs":
            return f"more than {number} from {whose}" if self.rule.number else f"the interval excludes {whose}"
        return f"the interval contains {whose}" if target and low <= target <= high else f"within {number} of {whose}"


def is_finite(value: object) -> bool:
    """Whether a value is a number that a finite float can stand for; a truth value is none."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def written(text: str) -> str:
    """The same text, if a table can hold it.

    Raises:
        ClaimError: it is longer than a cell of a CSV file may be, or holds half a character.
    """
    if len(text) > LONGEST:
        raise ClaimError(
            f"A text of a claim must have at most {LONGEST:,} characters, but one has {len(text):,}. It begins with "
            f"{text[:60]!r}."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ClaimError(f"A text of a claim must be valid Unicode, but {text[:200]!r} is not: {error}.") from error
    return text


def _as_floats(made: object, *names: str) -> None:
    """Replace the numbers among these fields by floats, so that a table gives back what was written."""
    for name in names:
        if is_finite(value := getattr(made, name)):
            object.__setattr__(made, name, float(value))


def finite(text: str) -> float | None:
    """The finite number that a text stands for, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
