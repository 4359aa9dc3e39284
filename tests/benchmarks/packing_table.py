"""What packing.py's numbers say together: walls of whole grids, agreement of the ways, and the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from packing_bench import say
from packing_cases import Case

WAYS = ("plain Ray Tune", "well-tuned Ray Tune", "processes", "raysweep")
TOTALS = (1024, 16384)  # grids whose wall is also told, extrapolated


def costs(way: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds a way takes whatever the grid, and seconds a run adds. Reused actors start once, plain ones each time."""
    once = way.get("actors_s", 0.0)
    return way["startup_s"] + way["shutdown_s"] + once, (way["train_s"] - once) / way["sample"]


def walls(way: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Fixed + what a run costs * runs, for the case's grid and for larger ones."""
    fixed, each = costs(way)
    found = {str(n): {"wall_s": fixed + each * n, "extrapolated": n != way["sample"], "sample": way["sample"]}
             for n in sorted({case.runs, *TOTALS})}  # fmt: skip
    return {"walls": found, "wall_s": found[str(case.runs)]["wall_s"], "extrapolated": case.runs != way["sample"]}


def agreement(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean final loss of each way, its standard error over runs, and how far apart any two are."""
    found: dict[str, Any] = {}
    for way, nll in values.items():
        if len(nll) > 1:
            found[way] = {
                "mean": statistics.fmean(nll),
                "se": statistics.stdev(nll) / len(nll) ** 0.5,
                "runs": len(nll),
            }
    ways = list(found)
    apart = {
        f"{a} - {b}": (found[a]["mean"] - found[b]["mean"]) / max(math.hypot(found[a]["se"], found[b]["se"]), 1e-12)
        for i, a in enumerate(ways)
        for b in ways[i + 1 :]
    }
    worst = max(apart, key=lambda pair: abs(apart[pair]), default=None)
    return {
        "ways": found,
        "z": apart,
        "worst": worst,
        "agree": len(ways) == len(WAYS) and all(abs(z) <= 4 for z in apart.values()),
        "complete": len(ways) == len(WAYS),
    }


def finish(entry: dict[str, Any]) -> None:
    """The agreement and the table out of what was measured."""
    case, ways, per_step = entry["case"], entry["ways"], entry["counted"]
    losses: dict[str, Sequence[float]] = {w: ways[w].get("nll", ()) for w in WAYS[:3] if w in ways}
    ends = [e for e in ways.get("raysweep", {}).get("end_to_end", ()) if e.get("nll")]
    if ends:
        losses["raysweep"] = ends[-1]["nll"]
    entry["agreement"] = agreement(losses)
    rows: list[dict[str, Any]] = []
    for way in WAYS[:3]:
        if way not in ways:
            continue
        told = ways[way]
        at = {"processes": "processes"}.get(way, "slots")
        row = {"way": f"{way}, {told[at]} at once", "steady": told.get("steady", {}).get("steps_per_s")}
        row |= {k: told.get(k) for k in ("wall_s", "extrapolated", "sample", "peak_device_bytes", "peak_host_bytes")}
        rows.append(row | {"runs": case["runs"]})
    for pack in ways.get("raysweep", {}).get("steady", ()):
        name = f"raysweep steady, {pack.get('packs', 1)} x {pack['lanes']:,} lanes"
        if pack.get("unsound_lanes"):
            say(f"!! {name}: {pack['unsound_lanes']} lanes diverged, and the pack shrank: its rate is too high")
        rows.append({"way": name, "steady": pack.get("steps_per_s"), "error": pack.get("error"),
                     "peak_device_bytes": pack.get("peak_reserved_bytes"),
                     "peak_host_bytes": pack.get("peak_host_bytes")})  # fmt: skip
    for end in ways.get("raysweep", {}).get("end_to_end", ()):
        rows.append({"way": "raysweep end to end", "wall_s": end["wall_s"], "runs": end["runs"],
                     "error": f"failed ({end['rc']})" if "error" in end else None,
                     **{k: end[k] for k in ("peak_device_bytes", "peak_host_bytes")}})  # fmt: skip
    rates = [p["steps_per_s"] for p in ways.get("raysweep", {}).get("steady", ()) if p.get("steps_per_s")]
    if ends and rates:
        ways["raysweep"]["walls"] = {
            str(n): {
                "wall_s": ends[-1]["wall_s"] + (n - ends[-1]["runs"]) * case["steps"] / max(rates),
                "extrapolated": True,
                "sample": ends[-1]["runs"],
            }
            for n in TOTALS
            if n > ends[-1]["runs"]
        }
    base = {way: ways.get(way, {}) for way in WAYS[:2]}
    limits = entry.get("ceilings") or {}
    for row in rows:
        if row.get("wall_s") and not row.get("error"):
            row["end_to_end"] = row["runs"] * case["steps"] / row["wall_s"]
        for way, short in zip(WAYS, ("plain", "tuned"), strict=False):
            theirs = base[way].get("steady", {}).get("steps_per_s")
            if theirs and row.get("steady"):
                row[f"steady_over_{short}"] = row["steady"] / theirs
            if row.get("end_to_end") and "train_s" in base[way]:
                fixed, each = costs(base[way])
                row[f"wall_{short}_over_this"] = (fixed + each * row["runs"]) / row["wall_s"]
        if row.get("steady"):
            row["flops_per_s"] = row["steady"] * per_step["flops"]
            row["bytes_per_s_floor"] = row["steady"] * per_step["bytes_floor"]
            if peak := limits.get(f"matmul_{case['precision']}_flops_per_s"):
                row["flops_share"] = row["flops_per_s"] / peak
            if peak := limits.get("copy_bytes_per_s"):
                row["bytes_share"] = row["bytes_per_s_floor"] / peak
    entry["table"] = rows


def show(entry: Mapping[str, Any]) -> None:
    """The table, and whether all ways trained the same thing."""

    def number(value: float | None, form: str, scale: float = 1.0, tail: str = "") -> str:
        return "" if value is None else f"{value / scale:{form}}{tail}"

    say(f"{'way':34}{'steady/s':>11}{'/plain':>8}{'/tuned':>8}{'end-to-end/s':>14}{'wall s':>10}{'plain/':>8}"
        f"{'tuned/':>8}{'dev GiB':>9}{'host GiB':>9}{'GFLOP/s':>10}{'GB/s >=':>9}{'%FLOP':>7}{'%byte':>7}")  # fmt: skip
    for row in entry["table"]:
        if row.get("error"):
            say(f"{row['way']:34} {row['error']}")
            continue
        say(
            f"{row['way']:34}{number(row.get('steady'), '11,.0f'):>11}{number(row.get('steady_over_plain'), '.1f'):>8}"
            f"{number(row.get('steady_over_tuned'), '.1f'):>8}{number(row.get('end_to_end'), ',.0f'):>14}"
            f"{number(row.get('wall_s'), ',.1f', tail='*' if row.get('extrapolated') else ''):>10}"
            f"{number(row.get('wall_plain_over_this'), '.1f'):>8}{number(row.get('wall_tuned_over_this'), '.1f'):>8}"
            f"{number(row.get('peak_device_bytes'), '.2f', 2**30):>9}"
            f"{number(row.get('peak_host_bytes'), '.2f', 2**30):>9}{number(row.get('flops_per_s'), ',.1f', 1e9):>10}"
            f"{number(row.get('bytes_per_s_floor'), ',.1f', 1e9):>9}{number(row.get('flops_share'), '.1f', 0.01):>7}"
            f"{number(row.get('bytes_share'), '.1f', 0.01):>7}"
        )
    samples = sorted({r["sample"] for r in entry["table"] if r.get("extrapolated")})
    if samples:
        say(f"* extrapolated linearly from a sample of {', '.join(map(str, samples))} runs; start-up measured")
    say("steady/s and end-to-end/s: model-steps a second; /plain, /tuned: ratio of steady rates; plain/, tuned/: their "
        "wall over this one's; bytes: a counted floor (parameters, gradients, velocities, activations)")  # fmt: skip
    for way in WAYS:
        for n, told in entry["ways"].get(way, {}).get("walls", {}).items():
            note = f", extrapolated from {told['sample']}" if told["extrapolated"] else ""
            say(f"  {way}, {int(n):,} runs x {entry['case']['steps']:,} steps: {told['wall_s']:,.0f} s{note}")
    found = entry["agreement"]
    for way, one in found["ways"].items():
        say(f"  final loss, {way}: {one['mean']:.4f} +- {one['se']:.4f} nats over {one['runs']} runs")
    if found["worst"]:
        z = found["z"][found["worst"]]
        verdict = "all ways agree" if found["agree"] else ("MISMATCH" if abs(z) > 4 else "ways are missing")
        mark = "!!!! " if verdict == "MISMATCH" else ""
        say(f"  {mark}{verdict}: farthest apart {found['worst']}, {z:+.1f} combined standard errors")
