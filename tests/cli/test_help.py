"""Help, version, completion, and how output keeps to a terminal's width."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, Cli

from raysweep import __version__
from raysweep.cli import show
from raysweep.executors import EXECUTORS
from raysweep.export import TRACKERS
from raysweep.imports import TOOLS
from raysweep.laws import fit
from raysweep.reports.tables import paragraphs
from raysweep.terminal import counted

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    *(
        "plan",
        "run",
        "fit",
        "allocate",
        "predict",
        "isoflop",
        "passk",
        "compare",
        "difficulty",
        "peak",
        "suggest",
        "status",
        "logs",
        "report",
        "audit",
        "compact",
        "doctor",
    ),
    *("export", "import", "forget"),
    "oracle",
]
GROUPS = {"oracle": ["fit", "export", "import"]}


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_help_fits_the_terminal_and_cuts_no_description(
    columns: int,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    nested = [[group, command] for group, commands in GROUPS.items() for command in commands]
    for command in ([], *([c] for c in COMMANDS), *nested):
        code, out, _ = cli(*command, "--help")
        assert code == 0
        assert max(map(len, out.splitlines())) <= columns, command
        usage, described = out.split("\n\n", 1)
        assert usage.startswith("Usage: raysweep")
        assert not re.search(r"[a-z]\.\.\.", described), command  # an argument that repeats: PATH...
        if not command:
            listed = re.split(r"\n  (?=\w)", "\n" + out.split("Commands:\n")[1])[1:]
            assert [entry.split()[0] for entry in listed] == COMMANDS
            assert all(entry.rstrip().endswith(".") for entry in listed)


def test_the_command_alone_prints_its_help(cli: Cli) -> None:
    assert cli() == cli("--help")
    assert cli()[0] == 0


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version") == (0, f"raysweep {__version__}\n", "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert (project["license"], [(ROOT / name).exists() for name in project["license-files"]]) == ("Apache-2.0", [True])


def test_a_usage_error_points_to_the_help_of_its_command(cli: Cli) -> None:
    assert cli("plan")[2].endswith("See `raysweep plan --help`.\n")
    assert cli("plam")[2].endswith("See `raysweep --help`.\n")


@pytest.mark.parametrize(("number", "words"), [(0, "0 cells"), (1, "1 cell"), (2240, "2,240 cells")])
def test_a_count_agrees_with_its_noun(number: int, words: str) -> None:
    assert counted(number, "cell") == words


def test_help_names_what_can_be_chosen(cli: Cli) -> None:
    """The lists stand in the options' texts, which are read without importing what they are about."""
    for command, choices in (("run", EXECUTORS), ("export", TRACKERS), ("import", TOOLS)):
        text = " ".join(cli(command, "--help")[1].split())
        assert f"One of {', '.join(choices)}" in text


def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    command = tmp_path / "raysweep"
    command.write_text(f"#!{sys.executable}\nfrom raysweep.cli import main\nmain()\n")
    command.chmod(0o755)
    script = """
eval "$(_RAYSWEEP_COMPLETE=source_bash raysweep)"
complete -p raysweep
try() { COMP_WORDS=(raysweep "$@"); COMP_CWORD=$#; _raysweep_completion raysweep; echo "[${COMPREPLY[*]}]"; }
try st
try plan --pri
try plan swe
"""
    done = subprocess.run(
        ["bash", "-c", f"PATH={tmp_path}:$PATH\n{script}"], capture_output=True, text=True, check=False
    )
    registered, *answers = done.stdout.splitlines()
    assert "-o default" in registered, done.stderr  # where nothing is answered, bash completes files
    assert answers == ["[status]", "[--price --prices]", "[]"]


def test_on_a_terminal_lines_are_folded_and_lose_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"word{i}" for i in range(60)]
    monkeypatch.setattr(show, "terminal_width", lambda *_: 80)
    show.say("  " + " ".join(words))
    show.print_table(["what", "value", "remedy"], [["a", "1", " ".join(words)], ["bb", "22", "none"]])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for word in words:
        assert out.split().count(word) == 2
    monkeypatch.setattr(show, "terminal_width", lambda *_: None)
    show.say(" ".join(words))
    assert capsys.readouterr().out == " ".join(words) + "\n"
    monkeypatch.setattr(show, "terminal_width", lambda stream: 40 if stream is sys.stderr else None)
    show.say(" ".join(words), stream=sys.stderr)
    out, err = capsys.readouterr()
    assert (out, err.split(), max(map(len, err.splitlines())) <= 40) == ("", words, True)


def test_a_table_too_wide_for_the_terminal_becomes_sentences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, row = ["shape", "cells", "", "eval FLOP"], ["width=32", "1,120", "", "1.03e+10"]
    for columns, expected in (
        (60, "  shape     cells    eval FLOP\n  --------  -----    ---------\n  width=32  1,120     1.03e+10\n"),
        (24, "  shape width=32: cells\n    1,120, eval FLOP\n    1.03e+10\n"),
    ):
        monkeypatch.setattr(show, "terminal_width", lambda *_, columns=columns: columns)
        show.print_table(head, [row], right_from=1)
        assert capsys.readouterr().out == expected


def test_the_numbers_of_a_fit_fit_the_terminal() -> None:
    n = np.geomspace(10, 1e4, 8)
    fitted = fit(pl.DataFrame({"n": n, "loss": 3 * n**-0.5}), x="n", y="loss", bootstrap=0)
    ((_, table, *_),) = paragraphs(fitted)
    ((_, sentence, *_),) = paragraphs(fitted, 40)
    assert table.split("  ")[-1] == "without the top 30% of scales"
    assert sentence == "  A     = 3; without the top 30% of scales: 3"


@pytest.mark.parametrize("columns", [60, 120])
def test_a_plan_fits_the_terminal(
    columns: int,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(show, "terminal_width", lambda *_: columns)
    sweep = {**CLASSIFIER_SWEEP, "grid": {**CLASSIFIER_SWEEP["grid"], "depth": [1, 2], "activation": ["relu", "tanh"]}}
    Path("wide.yaml").write_text(yaml.safe_dump(sweep))
    code, out, err = cli("plan", "wide.yaml", "--price", "aws:p5", "--machines", "2")
    assert code == 0, err
    assert "activation=relu" in out
    assert max(map(len, out.splitlines())) <= columns
