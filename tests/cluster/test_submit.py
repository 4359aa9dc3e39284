"""submit.py: what a shell does to arguments is undone or refused; exit codes and interrupts pass through."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
SUBMIT = ROOT / "cluster/submit.py"
sys.path.append(str(SUBMIT.parent))
import submit  # noqa: E402

AWKWARD = ["run", "a b.yaml", "--set", "n={geom: [1, 2, 3]}", "--store", "s3://b/x?a=1&b=$HOME", "'\"*~`\\", "ü", ""]


def test_encoded_arguments_survive_a_shell_and_come_back_as_they_were() -> None:
    word = submit.encode(AWKWARD)
    assert shlex.split(word) == [word]
    assert submit.PLAIN.fullmatch(word.removeprefix("base64:"))
    seen = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True).stdout
    assert submit.decode([seen]) == AWKWARD
    assert submit.decode(["--workers", "2", seen]) == ["--workers", "2", *AWKWARD]
    for length in range(4):  # base64 comes in fours
        assert submit.decode([submit.encode(["x" * length])]) == ["x" * length]


@pytest.mark.parametrize(
    "argument", ["n={geom:", "s3://b/x?region=eu", "a b", "*", "$HOME", "x;y", "'", "[1,", "!", ""]
)
def test_arguments_that_a_shell_may_have_changed_are_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        submit.decode(["run", argument])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"{argument!r} went unquoted through the head's shell" in error
    assert "submit.py encode" in error


@pytest.mark.parametrize(
    "argument", ["sweeps/demo.yaml", "--set", "width=64,128", "s3://my-bucket/x_1", "1e-3", "a@b", "+"]
)
def test_plain_arguments_pass(argument: str) -> None:
    assert submit.decode([argument]) == [argument]


def test_a_cut_code_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for damaged in (submit.encode(AWKWARD)[:-5], "base64:", "base64:####", "base64:MTIz", "base64:WzFd"):  # 123, [1]
        with pytest.raises(SystemExit):
            submit.decode([damaged])
        assert "was it cut?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "workers"),
    [
        ({"available_node_types": {"local.cluster.node": {"min_workers": 2}}}, 2),
        ({"available_node_types": {"head": {}, "l4": {"min_workers": 3}, "t4": {"min_workers": 1}}}, 4),
        ({}, 0),
    ],
)
def test_the_workers_that_a_cluster_file_promises(
    config: dict[str, object], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "BOOTSTRAP", tmp_path / "bootstrap.yaml")
    assert submit.promised() == 0  # not on a head that `ray up` made
    (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump(config))
    assert submit.promised() == workers


def home(tmp_path: Path, program: str) -> dict[str, str]:
    """A head's home with a synced project whose `raysweep` is the given program."""
    package = tmp_path / "raysweep/raysweep"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(program)
    (tmp_path / "submit.py").write_text(SUBMIT.read_text())
    return {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "raysweep"), "OMP_NUM_THREADS": "1"}


def test_the_command_runs_in_the_synced_project_and_its_exit_code_is_passed_on(tmp_path: Path) -> None:
    told = "import os, sys; print(os.getcwd(), sys.argv[1:], os.environ.get('OMP_NUM_THREADS')); sys.exit(7)"
    environment = home(tmp_path, told)
    command = [sys.executable, "submit.py", "status", "results/demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'raysweep'} ['status', 'results/demo'] None",
        "submit: raysweep ended with exit code 7",
    ]


def test_no_project_and_no_command_are_errors(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / "submit.py").write_text(SUBMIT.read_text())
    for arguments, reason in ((["status", "x"], "must hold the checkout"), ([], "which command?")):
        command = [sys.executable, "submit.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert reason in done.stderr


def test_a_sweep_file_that_was_not_synced_is_refused_before_anything_runs(tmp_path: Path) -> None:
    environment = home(tmp_path, "raise AssertionError")
    command = [sys.executable, "submit.py", "run", "mine/new.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"mine/new.yaml is not in {tmp_path / 'raysweep'} on the head. `ray submit` ships this" in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_a_lost_connection_let_the_driver_save_what_is_finished(
    sent: signal.Signals, tmp_path: Path
) -> None:
    program = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background is born deaf to it
pathlib.Path("started").touch()
try:
    time.sleep(600)
except KeyboardInterrupt:
    pathlib.Path("saved").touch()
    sys.exit(130)
"""
    environment, project = home(tmp_path, program), tmp_path / "raysweep"
    command = [sys.executable, "submit.py", "status", "x"]
    child = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (project / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(child.pid, sent)  # as a terminal does, to all that it started
    assert child.wait(timeout=200) == 130
    assert (project / "saved").exists()
