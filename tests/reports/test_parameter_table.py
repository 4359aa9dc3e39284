"""Tables of parameters: the numbers of the fit, in text that Markdown, LaTeX and programs read as it is meant."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import Fit, fit
from raysweep.laws.misfit import bent_band
from raysweep.laws.predicted import predicted
from raysweep.reports.parameters import parameter_table


@pytest.fixture(scope="module")
def fitted() -> Fit:
    """Two arms with awkward names, of .3 + 4e12 n^-2 about n = 10^7, and a third with too few scales."""
    n = np.tile(np.geomspace(1e6, 1e7, 6), 3)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(n.size))
    frame = pl.DataFrame({"n": n, "loss_1": (0.3 + 4e12 * n**-2.0) * noise})
    arms = [frame.with_columns(arm=pl.lit(arm)) for arm in ("a|b", "50% & $x$")]
    return fit(
        pl.concat([*arms, frame.head(2).with_columns(arm=pl.lit("short"))]),
        "power+floor", x="n", y="loss_1", by="arm", bootstrap=100,
    )  # fmt: skip


def test_csv_has_every_number_in_full(fitted: Fit) -> None:
    table = pl.read_csv(io.StringIO(parameter_table([fitted], "csv", [[{"n": 1e8}]])))
    for group in fitted.groups[:2]:
        rows = {row["name"]: row for row in table.filter(arm=group.group["arm"]).iter_rows(named=True)}
        for name, value in group.params.items():
            assert (rows[name]["value"], rows[name]["ci_low"], rows[name]["ci_high"]) == (value, *group.interval(name))
        low, high = bent_band(group, np.array([[1e8]]))[0]
        found = rows["loss_1(n=1e+08) if the law may bend"]
        assert "loss_1(n=1e+08)" not in rows
        assert (found["value"], found["ci_low"], found["ci_high"]) == (group.predict(1e8)[0], low, high)
        own = rows["loss_1(n=1e+08) if the law holds"]
        assert (own["ci_low"], own["ci_high"]) == tuple(group.band(1e8)[0])
        assert low <= own["ci_low"] < own["ci_high"] <= high
    assert "needs at least 4 distinct scales" in table.filter(arm="short")["notes"].item()


def test_markdown_has_a_row_of_equal_cells_for_each_group(fitted: Fit) -> None:
    text = parameter_table([fitted], "md", [[{"n": 1e8}]])
    about, _, *table = text.splitlines()
    assert about.endswith(r"loss\_1 = E + A n^-alpha; [low, high] is the 95% interval")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    assert {len(row) for row in cells} == {1 + 3 + 2 + 2}
    head, _, *rows = ([cell.strip() for cell in row] for row in cells)
    assert head == [
        "arm",
        "E",
        "A",
        "alpha",
        r"loss\_1(n=1e+08) if the law may bend",
        r"loss\_1(n=1e+08) if the law holds",
        "points",
        "rms",
    ]
    assert {row[0] for row in rows} == {r"a\|b", "50% & $x$", "short"}
    group = fitted.group(arm="a|b").only
    (row,) = [row for row in rows if row[0] == r"a\|b"]
    low, high = group.interval("alpha")
    assert row[3] == f"{group.params['alpha']:.4g} [{low:.4g}, {high:.4g}]"
    (short,) = [row for row in rows if row[0] == "short"]
    assert short[1:6] == [""] * 5
    assert short[-1] == "not fitted"


def test_each_interval_of_a_prediction_is_named_by_what_it_takes_for_granted(fitted: Fit) -> None:
    """Inside the data the law's own comes first, beyond them that of a law that may bend."""
    arm = fitted.group(arm="a|b")

    def names(one: Fit, at: float) -> list[str]:
        table = pl.read_csv(io.StringIO(parameter_table([one], "csv", [[{"n": at}]])))
        return [name for name in table["name"].to_list() if "(" in name]

    assert names(arm, 3e6) == ["loss_1(n=3e+06) if the law holds", "loss_1(n=3e+06) if the law may bend"]
    assert names(arm, 1e8) == ["loss_1(n=1e+08) if the law may bend", "loss_1(n=1e+08) if the law holds"]
    without = fit(pl.DataFrame({"n": [1, 2, 4], "err": [4.0, 2.0, 1.0]}), "power", x="n", y="err", bootstrap=0)
    assert names(without, 8) == ["err(n=8)"]
    first = [predicted(arm.only, [{"n": at}])[0].to_json() for at in (3e6, 1e8)]
    assert [one["ci_is"] for one in first] == ["own", "bent"]
    assert all(one["ci_low"] == one[f"{one['ci_is']}_low"] for one in first)
    assert predicted(without.only, [{"n": 8.0}])[0].to_json()["ci_is"] is None


def test_latex_is_mathematics_and_nothing_in_it_is_a_command(fitted: Fit) -> None:
    lines = parameter_table([fitted], "latex", [[{"n": 1e8}]]).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrrrr}"
    both = r"loss\_1(n=1e+08) if the law may bend & loss\_1(n=1e+08) if the law holds"
    assert lines[3] == rf"arm & $E$ & $A$ & $\alpha$ & {both} & points & rms \\"
    rows = [line for line in lines[5:] if line.endswith(r"\\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == 7 for row in rows)
    assert all(len(re.findall(r"(?<!\\)\$", row)) % 2 == 0 for row in rows)
    assert any(row.startswith(r"50\% \& \$x\$ & $") for row in rows)
    assert r" \times 10^{12}" in rows[0]
    assert "e+" not in "".join(rows)


def test_the_codes_of_notes_stand_below_the_table_with_the_groups_that_have_them(fitted: Fit) -> None:
    details = [{"rising": "It rises.", "few_seeds": "Few."}, {"rising": "It rises."}, {"rising": "It rises."}]
    groups = tuple(replace(group, details=d) for group, d in zip(fitted, details, strict=True))
    noted = Fit(fitted.x, fitted.y, groups)
    *table, blank, notes = parameter_table([noted], "md").splitlines()
    assert table[-1].startswith("| short |")
    assert not blank
    assert notes == r"Notes: rising, few\_seeds (arm=50% & $x$)"
    *_, notes, end = parameter_table([noted], "latex").splitlines()
    assert notes == r"\multicolumn{6}{l}{\footnotesize Notes: rising, few\_seeds (arm=50\% \& \$x\$)} \\"
    assert end == r"\end{tabular}"


def test_each_fit_has_a_table_of_its_own_but_one_csv(fitted: Fit) -> None:
    other = fit(pl.DataFrame({"d": [1, 2, 4], "err": [4.0, 2.0, 1.0]}), "power", x="d", y="err", bootstrap=0)
    assert parameter_table([fitted, other], "md").count("\n| --- |") == 2
    table = pl.read_csv(io.StringIO(parameter_table([fitted, other], "csv")))
    assert table.filter(law="power").select("name", "value").rows() == [
        ("A", pytest.approx(4.0)),
        ("alpha", pytest.approx(1.0)),
    ]
    with pytest.raises(FitError, match="md, latex, csv"):
        parameter_table([fitted], "html")
