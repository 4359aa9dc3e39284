"""The parameters of fits as a table for a paper or a program: Markdown, LaTeX (booktabs) or CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from raysweep.errors import FitError, plain
from raysweep.laws import Fit, GroupFit
from raysweep.laws.notes import group_name
from raysweep.laws.predicted import IF, Prediction, predicted
from raysweep.reports.tables import formula

__all__ = ["FORMS", "parameter_table"]

FORMS = ("md", "latex", "csv")
_NAMED = 3  # groups that are named beside the code of a note
_GREEK = ("alpha", "beta", "gamma", "delta")
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}  # fmt: skip


def parameter_table(fits: Sequence[Fit], form: str, predict: Sequence[Sequence[Mapping[str, float]]] = ()) -> str:
    """Parameters, derived quantities and predictions with their intervals.

    As Markdown and LaTeX there is one table for each law of each fit: a row for each group, with four digits, and below
    them the codes of the notes. CSV is
    one table of all fits in full precision: the rows of `Fit.to_frame`, and one for each interval of a prediction
    (`y(n=1e10) if the law may bend`, `y(n=1e10) if the law holds`; `y(n=1e10)` where there is none).

    Args:
        form: One of `FORMS`.
        predict: For each fit the points of scales that are predicted, see `laws.predicted`.

    Raises:
        FitError: There is no such form.
    """
    if form not in FORMS:
        raise FitError(f"A table of parameters is written as {', '.join(FORMS)}, but got {form!r}. Name one of them.")
    points = predict or [()] * len(fits)
    if form == "csv":
        frames = [_frame(fit, at) for fit, at in zip(fits, points, strict=True)]
        return pl.concat(frames, how="diagonal_relaxed").write_csv()
    write = _markdown if form == "md" else _latex
    return "\n".join(
        write([group for group in fit if group.law.name == law.name], at)
        for fit, at in zip(fits, points, strict=True)
        for law in fit.laws
    )


def _frame(fit: Fit, points: Sequence[Mapping[str, float]]) -> pl.DataFrame:
    """The parameters of a fit, and its predictions."""
    frame = fit.to_frame()
    rows = [
        {**group.group, "law": group.law.name, "name": name, "value": one.value, **_ends(ends)}
        for group in fit
        for one in predicted(group, points)
        for name, ends in _named(group, one).items()
    ]
    return pl.concat([frame, pl.DataFrame(rows, infer_schema_length=None)], how="diagonal_relaxed") if rows else frame


def _ends(ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {"ci_low": low, "ci_high": high}


def _called(group: GroupFit, one: Prediction) -> str:
    return f"{group.y}({', '.join(f'{name}={value:g}' for name, value in one.x.items())})"


def _named(group: GroupFit, one: Prediction) -> dict[str, tuple[float, float] | None]:
    """The intervals of a prediction, each by a name that says what it takes for granted; the first one first."""
    name = _called(group, one)
    ends = {"own": one.own, "bent": one.bent}
    order = ("bent", "own") if one.first == "bent" else ("own", "bent")
    return {f"{name} {IF[kind]}": ends[kind] for kind in order if ends[kind] is not None} or {name: None}


def _cells(group: GroupFit, points: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Each quantity of a group by its name: its value and, where they are known, the ends of its interval."""
    numbers = {**group.params, **group.derived}
    cells = {name: (value, *group.intervals.get(name, ())) for name, value in numbers.items()}
    ahead = [(one.value, _named(group, one)) for one in predicted(group, points)]
    return cells | {name: (value, *(ends or ())) for value, both in ahead for name, ends in both.items()}


def _columns(groups: Sequence[GroupFit], points: Sequence[Mapping[str, float]]) -> tuple[list[str], list[Any]]:
    """The names of the quantities that some group has, and every group's quantities."""
    cells = [_cells(group, points) for group in groups]
    return list(dict.fromkeys(name for each in cells for name in each)), cells


def _about(groups: Sequence[GroupFit], points: Sequence[Mapping[str, float]]) -> str:
    group = next((one for one in groups if one.error is None), groups[0])
    level = f"; [low, high] is the {group.level:.0%} interval" if group.intervals else ""
    shared = f"; {', '.join(group.shared)} shared by all groups" if group.shared else ""
    known = "".join(f"; prior {p.name} = {p.mean:g} +- {p.sd:g}" for p in group.priors)
    return plain(f"{group.law.name}: {formula(group)}{shared}{known}{level}").replace("\n", " ")


def _markdown(groups: Sequence[GroupFit], points: Sequence[Mapping[str, float]]) -> str:
    names, cells = _columns(groups, points)
    by = list(groups[0].group)
    rows = [[*by, *names, "points", "rms"], ["---"] * (len(by) + len(names) + 2)]
    for group, each in zip(groups, cells, strict=True):
        shown = [_text(each[name]) if name in each else "" for name in names]
        rms = "not fitted" if group.rmse_log is None else f"{group.rmse_log:.4f}"
        rows.append([*map(_value, group.group.values()), *shown, str(group.n_points), rms])
    table = [f"| {' | '.join(cell if i == 1 else _plain_cell(cell) for cell in row)} |" for i, row in enumerate(rows)]
    notes = _notes(groups)
    below = ["", _plain_cell(f"Notes: {notes}")] if notes else []
    return "\n".join([_plain_cell(_about(groups, points)), "", *table, *below, ""])


def _latex(groups: Sequence[GroupFit], points: Sequence[Mapping[str, float]]) -> str:
    names, cells = _columns(groups, points)
    by = list(groups[0].group)
    head = [*map(_escaped, by), *map(_symbol, names), "points", "rms"]
    lines = [
        f"% {_about(groups, points)}",
        rf"\begin{{tabular}}{{{'l' * len(by)}{'r' * (len(names) + 2)}}}",
        r"\toprule",
    ]
    lines += [f"{' & '.join(head)} \\\\", r"\midrule"]
    for group, each in zip(groups, cells, strict=True):
        shown = [_mathematics(each[name]) if name in each else "" for name in names]
        rms = "not fitted" if group.rmse_log is None else f"${group.rmse_log:.4f}$"
        values = [_escaped(_value(value)) for value in group.group.values()]
        lines.append(f"{' & '.join([*values, *shown, f'${group.n_points}$', rms])} \\\\")
    lines.append(r"\bottomrule")
    if notes := _notes(groups):
        lines.append(rf"\multicolumn{{{len(by) + len(names) + 2}}}{{l}}{{\footnotesize Notes: {_escaped(notes)}}} \\")
    return "\n".join([*lines, r"\end{tabular}", ""])


def _notes(groups: Sequence[GroupFit]) -> str:
    """The codes of the notes, each with the groups that have it."""
    codes = dict.fromkeys(code for group in groups for code in group.details)
    out = []
    for code in codes:
        having = [group for group in groups if code in group.details]
        who = f"{len(having):,} of {len(groups):,} groups" if len(having) > _NAMED else "; ".join(map(_name, having))
        out.append(code if len(having) == len(groups) else f"{code} ({who})")
    return ", ".join(out)


def _name(group: GroupFit) -> str:
    return plain(group_name(group.group)).replace("\n", " ")


def _value(value: Any) -> str:
    return "" if value is None else plain(str(value)).replace("\n", " ")


def _text(numbers: Sequence[float]) -> str:
    value, *ends = (f"{number:.4g}" for number in numbers)
    return f"{value} [{', '.join(ends)}]" if ends else value


def _mathematics(numbers: Sequence[float]) -> str:
    value, *ends = (re.sub(r"e\+?(-?)0*(\d+)$", r" \\times 10^{\1\2}", f"{number:.4g}") for number in numbers)
    between = r",\,".join(ends)
    return rf"${value}\;[{between}]$" if ends else f"${value}$"


def _plain_cell(text: str) -> str:
    """Text in which nothing ends a cell of Markdown or turns on emphasis."""
    return re.sub(r"([\\`*_<|])", r"\\\1", text)


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _symbol(name: str) -> str:
    """A parameter's name in mathematics: alpha, a_opt and N0 as they are written."""
    parts = re.fullmatch(r"([A-Za-z]+?)(?:_(\w+)|(\d+))?", name)
    if parts is None or (len(parts[1]) > 1 and parts[1] not in _GREEK):
        return _escaped(name)
    letter = "\\" * (parts[1] in _GREEK) + parts[1]
    if parts[2]:
        return rf"${letter}_{{\mathrm{{{_escaped(parts[2])}}}}}$"
    return f"${letter}_{{{parts[3]}}}$" if parts[3] else f"${letter}$"
