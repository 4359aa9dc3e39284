"""The report: one self-contained HTML page with the findings, their uncertainty, and how to regenerate it."""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysweep import __version__
from raysweep.display import Display, file_name
from raysweep.errors import FitError, plain
from raysweep.experiment import Experiment, display_of
from raysweep.experiments import built_in
from raysweep.laws import Fit
from raysweep.laws.chain import fits_of
from raysweep.laws.column import PROVENANCE
from raysweep.laws.notes import group_name
from raysweep.laws.points import Points, points
from raysweep.laws.request import FitRequest
from raysweep.laws.source import gather, scan
from raysweep.oracle.audits import place, stored_audits
from raysweep.predictions import kept
from raysweep.predictions import sentences as predicted_before
from raysweep.reports.drawings import Drawing, extra_drawings, law_drawings, means, theory_drawing, undrawn
from raysweep.reports.tables import Sanity, clusters, findings, formula, parameter, rule, sanity
from raysweep.reports.theory import REASON, Agreement, agreements, theory_name, with_theory
from raysweep.reports.theory import sentences as theory_sentences
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.sweep.schema import FitSpec
from raysweep.sweep.stored import stored_display, stored_sweep
from raysweep.terminal import as_options

__all__ = ["PAGE", "Report", "make_report"]

PAGE = "report.html"
_ROWS = 200  # rows of a table of groups, and notes
_NAMED = 6  # groups that a note names


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        page: Path or URI of the page.
        findings: Sentences: what was left out, one per fitted group, and the sanity checks.
        notes: How many findings at the start are about what was left out.
    """

    page: str
    findings: tuple[str, ...]
    notes: int = 0


def make_report(store: Store, experiment: Experiment | None = None, rows: str = "current") -> Report:
    """Fit the sweep's laws, draw its figures, and write `report.html` and `figures/*.png` into the store.

    Args:
        experiment: Experiment whose theory and display are used; by default the built-in one that the store names, with
            the store's display. A user's module is never imported just because a store names it.
        rows: `current` for the rows of the sweep as it is now, `all` for those of every version and grid.

    Raises:
        LedgerError: the store has no sweep or no finished cell.
    """
    state = status(store)
    file, _ = stored_sweep(store)
    table, notes = cells(store, rows)
    sentences = [f"{line} Use `raysweep report --rows all` to include them." for line in notes]
    display, note = stored_display(store) if experiment is None else (display_of(experiment), "")
    sentences += [note] if note else []
    sentences += state["tuning"]["said"] if state["tuning"] else []
    experiment = experiment or built_in(file.experiment)
    specs = file.fit or _shown(display, table)
    try:
        curves = [spec for spec in specs if len(spec.scales) == 1]
        asked = {(spec.where, spec.scales[0]) for spec in curves}
        table = with_theory(table, experiment, {spec.y for spec in curves}, asked)
    except FitError as error:
        sentences.append(str(error))
    if experiment is None and _has_theory(store):
        sentences.append(
            f"theory: not drawn: it belongs to {file.experiment}, and reading a store imports no code. `raysweep run` "
            "on the sweep's file draws it"
        )
    lazy, columns = scan(table)
    frame = gather(lazy)
    audits = [a for w in state["worlds"] for a in stored_audits(store, f"oracle/{w['recipe']}")]

    sections: list[tuple[str, str]] = []
    drawings: list[Drawing] = []
    fitted: list[tuple[FitSpec, Fit, Points]] = []
    if none := _nothing(state):
        sentences.append(none)
    for spec in () if none else file.fit:
        try:
            beside = [n for n in display.beside(spec.y) if n in columns and frame[n].dtype.is_numeric()]
            beside += [n for n in (theory_name(spec.y), REASON) if theory_name(spec.y) in frame.columns]
            found = points(table, spec.request, beside)
            for law, taken in fits_of(found, spec.request):
                fitted.append((spec, law, taken))
                sentences += findings(law)
        except FitError as error:
            sentences.append(f"{spec.law} of {spec.y} in {', '.join(spec.scales)}: not fitted: {error}")
    if not file.fit:
        sentences.append(_unfitted(specs))
    sentences += predicted_before(kept(store))
    checked = sanity(frame, display.bounds)
    sentences += [one.sentence for one in checked]

    for i, (spec, law, found) in enumerate(fitted):
        name = file_name(f"{i + 1}-{spec.law}-{law.y}-{'-'.join(spec.scales)}")
        drawings += law_drawings(name, law, found, display)
        sentences += undrawn(name, law, found)
        sections.append((f"{spec.law}: {'; '.join({formula(group): None for group in law})}", _fit_table(law)))
    if REASON in table.column_names:
        _theory(table, specs, display, sentences, sections, drawings)
    drawn = [(spec, found) for spec, law, found in fitted if law.y == spec.y]
    if not file.fit:
        drawn = means(table, columns, specs, display, sentences, drawings)
    drawings += extra_drawings(table, columns, drawn, display, audits)
    for drawing in drawings:
        store.write(f"figures/{drawing.name}.png", drawing.png)
    sentences = [as_options(one) for one in sentences]
    page = _page(file.name, state, sentences, sections, drawings, audits, checked)
    store.write(PAGE, page.encode())
    return Report(page=f"{store.uri.rstrip('/')}/{PAGE}", findings=tuple(sentences), notes=len(notes))


def _nothing(state: Mapping[str, Any]) -> str:
    """That no cell has a result, and why; "" where one has."""
    if state["cells"].get("ok") or not state["failures"]:
        return ""
    counts = ", ".join(f"{n:,} {status}" for status, n in state["cells"].items() if n)
    most = max(state["failures"], key=lambda failure: failure["cells"])
    return f"No cell has a result to fit ({counts}). The most frequent cause, of {most['cells']:,}: {most['cause']}"


def _has_theory(store: Store) -> bool:
    environment = store.read_json("env.json") if store.exists("env.json") else {}
    return isinstance(environment, dict) and environment.get("theory") is True


def _shown(display: Display, table: pa.Table) -> tuple[FitSpec, ...]:
    """What a report shows of a sweep that names no fit: y against x, where the experiment says what they are."""
    if not {display.x, display.y} <= {*table.column_names} or display.x == display.y:
        return ()
    return (FitSpec(x=display.x, y=display.y),)


def _unfitted(shown: Sequence[FitSpec]) -> str:
    """That no law was fitted, and how to fit one."""
    x, y = (shown[0].scales[0], shown[0].y) if shown else ("COLUMN", "METRIC")
    lacking = "" if shown else ", and its experiment names no columns to draw"
    return (
        f"No law was fitted: the sweep names no fit{lacking}. Add `fit: [{{law: power, x: {x}, y: {y}}}]` to its file "
        f"and run it again, or use `raysweep fit STORE --x {x} --y {y}`"
    )


def _theory(
    table: pa.Table,
    specs: Sequence[FitSpec],
    display: Display,
    sentences: list[str],
    sections: list[tuple[str, str]],
    drawings: list[Drawing],
) -> None:
    """Theory beside measurement over the whole grid, for each y(x) that a law is fitted to, whatever its window."""
    for x, y in dict.fromkeys((spec.scales[0], spec.y) for spec in specs if len(spec.scales) == 1):
        spec = next(spec for spec in specs if spec.scales == (x,) and spec.y == y)
        if theory_name(y) not in table.column_names:
            continue
        try:
            found = points(table, FitRequest((x,), y, by=spec.by, at=spec.at), [theory_name(y), REASON])
        except FitError:  # already stated for the law
            continue
        held = agreements(found)
        sentences += theory_sentences(found, held)
        sections.append((f"Theory of {y} in {x}", _theory_table(found, held)))
        if found.frame[theory_name(y)].count():
            drawings.append(theory_drawing(found, display))


def _theory_table(found: Points, held: Sequence[Agreement]) -> str:
    x = found.x[0]
    head = [
        *found.by,
        x,
        "rows",
        "clusters",
        "measured / expected, median [95%]",
        "mean",
        "largest deviation",
        "no theory",
    ]
    rows = []
    for one in held[:_ROWS]:
        cells = [_value(name, one.group[name]) for name in found.by]
        if one.window is None:
            cells += ["-"] * 6
        else:
            span = f" [{one.interval[0]:.3g}, {one.interval[1]:.3g}]" if one.interval else ""
            cells += [f"{one.window[0]:g} to {one.window[1]:g}", f"{one.rows:,}", f"{one.clusters:,}"]
            cells += [f"{one.ratio:.3g}{span}", f"{one.mean:.3g}"]
            cells += [f"{one.farthest[1]:.3g} at {x} = {one.farthest[0]:g}"]
        rows.append([*cells, f"{one.without:,} rows: {'; '.join(one.reasons)}" if one.without else ""])
    return _table(head, rows, len(held))


def _fit_table(law: Fit) -> str:
    by = list(law.groups[0].group)
    names = list(dict.fromkeys(n for group in law for n in (*group.params, *group.derived)))
    first = law.groups[0]
    head = [
        *by,
        *(["law"] if len(law.laws) > 1 else []),
        *(f"{parameter(first, n)} [{first.level:.0%}]" for n in names),
    ]
    head += ["window", "rows of", "rms log residual", "held out: rms log error", "covered", "status", "notes"]
    rows = []
    for group in law.groups[:_ROWS]:
        cells = [_value(n, group.group[n]) for n in by] + ([group.law.name] if len(law.laws) > 1 else [])
        for name in names:
            value = {**group.params, **group.derived}.get(name)
            low, high = group.intervals.get(name, (None, None))
            span = "" if low is None else f" [{low:.3g}, {high:.3g}]"
            cells.append("-" if value is None else f"{value:.4g}{span}")
        held = group.holdout
        window = ", ".join(f"{low:g} to {high:g}" for low, high in group.window) if group.n_points else "-"
        cells += [window if group.bounds is None else f"{window} ({rule(group.bounds)})", clusters(group)]
        cells += [f"{group.rmse_log:.3f}" if group.rmse_log is not None else "-"]
        covered = "-" if held is None or held.coverage is None else f"{held.coverage:.0%}"
        cells += ["-" if held is None else f"{held.rmse_log:.3f}", covered]
        cells += [as_options(group.error or group.status), ", ".join(group.notes)]
        rows.append(cells)
    return _table(head, rows, len(law)) + _explained(law)


def _explained(law: Fit) -> str:
    """Each note in words, with the groups it holds for where those are not all."""
    held: dict[tuple[str, str], list[str]] = {}
    for group in law:
        for note in group.details.items():
            held.setdefault(note, []).append(group_name(group.group) or "-")
    lines = []
    for (code, text), groups in list(held.items())[:_ROWS]:
        some = "; ".join(groups[:_NAMED]) + (f"; and {len(groups) - _NAMED:,} more" if len(groups) > _NAMED else "")
        where = "" if len(groups) == len(law) else f"{html.escape(some)}: "
        lines.append(f"<li><code>{html.escape(code)}</code> {where}{html.escape(as_options(text))}</li>")
    if len(held) > _ROWS:
        lines.append(f"<li>... and {len(held) - _ROWS:,} more notes; raysweep fit --json has them all</li>")
    return f"<ul class=notes>{''.join(lines)}</ul>" if lines else ""


def _value(name: str, value: Any) -> str:
    """A group's value in a table; `-` where the column does not apply."""
    return "-" if value is None and name not in PROVENANCE else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], groups: int = 0) -> str:
    """A table; its last row counts the groups of which it has no row."""
    if groups > len(rows):
        rows = [*rows, [f"... and {groups - len(rows):,} more groups"] + [""] * (len(head) - 1)]

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<div class=wide><table>{line(head, 'th')}{''.join(line(r, 'td') for r in rows)}</table></div>"


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:13px}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #eee}
th{background:#f6f6f6}img{max-width:100%}.wide{overflow-x:auto}.notes{font-size:13px;color:#444}.sub{color:#666}
.found li{margin:.3rem 0}.bad{color:#b00020}
figure{margin:1.6rem 0}figcaption{font-size:13px;color:#555}
pre{background:#f6f6f6;padding:.6rem;overflow-x:auto;font-size:12.5px}
"""


def _page(
    name: str,
    state: dict[str, Any],
    sentences: Sequence[str],
    sections: Sequence[tuple[str, str]],
    drawings: Sequence[Drawing],
    audits: Sequence[dict[str, Any]],
    checked: Sequence[Sanity],
) -> str:
    cells = ", ".join(f"{n:,} {s}" for s, n in state["cells"].items() if n)
    last = str(state.get("last_row_at") or "-")[:19]
    parts = [
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(name)} - raysweep</title><style>{_STYLE}</style><h1>{html.escape(name)}</h1>",
        f"<p class=sub>{html.escape(cells)} cells; raysweep {__version__}; last row {last}</p>",
        "<h2>What was found</h2><ul class=found>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences) + "</ul>",
    ]
    for broken in dict.fromkeys(plain(one.bound.broken) for one in checked if not one.passed):
        parts.append(f"<p class=bad>{html.escape(broken)}</p>")
    if state["failures"]:  # before the figures, as laws and means lack these cells
        rows = [[f["status"], str(f["cells"]), f["cause"]] for f in state["failures"]]
        parts.append(f"<h2>Failures</h2>{_table(['status', 'cells', 'cause'], rows)}")
    for drawing in drawings:
        image = base64.b64encode(drawing.png).decode()
        picture = f"<img alt='{html.escape(drawing.name)}' src='data:image/png;base64,{image}'>"
        parts.append(f"<figure>{picture}<figcaption>{html.escape(drawing.caption)}</figcaption></figure>")
    parts += [f"<h2>{html.escape(title)}</h2>{body}" for title, body in sections]
    if audits:
        head = ["world", "check", "value", "limit", "passed", "about"]
        rows = [
            [
                f"{a['sha'][:8]}{place(a['at'])}",
                c["name"],
                f"{c['value']:.3g}",
                f"{c['limit']:.3g}",
                str(c["passed"]),
                c["about"],
            ]
            for a in audits
            for c in a["checks"]
        ]
        parts.append(f"<h2>Audit of the oracle</h2>{_table(head, rows)}")
    if state["unreadable"]:
        rows = [[u["file"], u["reason"]] for u in state["unreadable"]]
        parts.append(f"<h2>Unreadable files</h2>{_table(['file', 'reason'], rows)}")
    store = html.escape(shlex.quote(state["store"]))
    cells = html.escape(repr(f"{state['store']}/cells.parquet"))
    parts.append(
        "<h2>Regenerate</h2><p>Every number on this page comes from the store's ledger.</p>"
        f"<pre>raysweep report {store}\nraysweep fit {store} --json\n"
        f"python: polars.read_parquet({cells})</pre>"
    )
    return "\n".join(parts)
