"""Help, version, completion, and how output keeps to a terminal's width."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import CLASSIFIER_SWEEP
from test_cli import Cli, cli  # noqa: F401  (a fixture)

from raysweep import __version__
from raysweep.cli import show
from raysweep.executors import EXECUTORS
from raysweep.export import TRACKERS
from raysweep.imports import TOOLS

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    *("plan", "run", "fit", "allocate", "passk", "peak", "status", "logs", "report", "audit", "compact", "doctor"),
    *("export", "import"),
]


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal_and_cuts_no_description(
    columns: int,
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ([], *([c] for c in COMMANDS)):
        code, out, _ = cli(*command, "--help")
        assert code == 0
        assert max(map(len, out.splitlines())) <= columns, command
        assert "Usage: raysweep" in out
        if not command:
            listed = out.split("Commands:\n")[1].splitlines()
            assert [line.split()[0] for line in listed if line.strip()] == COMMANDS  # one line each
            assert all(line.endswith(".") and not line.endswith("...") for line in listed if line.strip())


def test_the_command_alone_prints_its_help(cli: Cli) -> None:  # noqa: F811
    assert cli() == cli("--help")
    assert cli()[0] == 0


def test_the_version_is_printed(cli: Cli) -> None:  # noqa: F811
    assert cli("--version") == (0, f"raysweep {__version__}\n", "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert (project["license"], [(ROOT / name).exists() for name in project["license-files"]]) == ("Apache-2.0", [True])


def test_help_names_what_can_be_chosen(cli: Cli) -> None:  # noqa: F811
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


@pytest.mark.parametrize("columns", [80, 120])
def test_a_plan_fits_the_terminal(
    columns: int,
    cli: Cli,  # noqa: F811
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
