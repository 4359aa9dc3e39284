"""The README's and the docs' own functions run as written, kills included."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from raysweep.cli import main
from raysweep.store import TEMPORARY

Raysweep = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs/functions.md").read_text()
README = (ROOT / "README.md").read_text()


def block(text: str, language: str, containing: str) -> str:
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    (found,) = [code for name, code in blocks if name == language and containing in code]
    return str(found)


@pytest.fixture
def raysweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Raysweep]:
    """`raysweep ARGUMENTS` in the test's folder, in this process: a new one takes seconds to import everything."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["raysweep", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *capfd.readouterr())

    sys.modules.pop("my_training", None)
    yield call
    sys.modules.pop("my_training", None)


def counting(seen: Path, stuck_at: int) -> str:
    """Statements that write down each epoch, and never end the `stuck_at`th where the environment says so."""
    file = repr(str(seen))
    stuck = f"'RAYSWEEP_TEST_STUCK' in __import__('os').environ and len(open({file}).read().split()) == {stuck_at}"
    waits = f"open({str(seen.with_name('stuck'))!r}, 'w').close() or __import__('time').sleep(600)"
    return f"; open({file}, 'a').write(f'{{epoch}} '); {stuck} and ({waits})"


def killed_at(folder: Path, sign: str, *arguments: str) -> None:
    """Run a command and kill it, with all that it started, when a file of this pattern is there, whole.

    Its function must get stuck where `RAYSWEEP_TEST_STUCK` is set, so that it cannot end before.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "raysweep", *arguments],
        cwd=folder,
        env={**os.environ, "RAYSWEEP_TEST_STUCK": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 300

    def is_there() -> bool:
        return any(not found.name.startswith(TEMPORARY) for found in folder.glob(sign))

    while not is_there() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_readmes_function_survives_a_kill(tmp_path: Path, raysweep: Raysweep) -> None:
    code = block(README, "python", "def train(config)")
    (tmp_path / "mine.yaml").write_text(block(README, "yaml", "my_training:train"))
    (tmp_path / "my_training.py").write_text(code.replace("# train here", counting(tmp_path / "seen", stuck_at=50)))
    killed_at(tmp_path, "stuck", "run", "mine.yaml", "--executor", "inline")
    assert len((tmp_path / "seen").read_text().split()) == 50
    done = raysweep("run", "mine.yaml", "--executor", "inline")
    assert done.returncode == 0, done.stderr
    assert "70 ok of 70 cells" in done.stdout
    frame = pl.read_parquet(tmp_path / "results/mine/cells.parquet")
    for size, seed, epoch, loss in frame.select("size", "seed", "epoch", "loss").iter_rows():
        noise = random.Random(f"{size} {seed}").gauss(1, 0.03)
        assert loss == pytest.approx(3 * size**-0.4 / epoch**0.5 * noise, rel=1e-12)
    assert frame.group_by("run").agg(pl.col("training_id").n_unique())["training_id"].max() == 1


def test_the_docs_checkpoint_goes_on_after_a_kill_and_beyond_the_horizon(tmp_path: Path, raysweep: Raysweep) -> None:
    code = block(DOCS, "python", "raysweep.checkpoint.load()")
    counted = counting(tmp_path / "seen", stuck_at=6) + "; __import__('time').sleep(0.4)"
    (tmp_path / "my_training.py").write_text(code.replace("# train here", counted))
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nexperiment: my_training:train\nobserved: [epoch]\ngrid: {size: 100, epoch: [1, 2, 8]}\n"
    )
    killed_at(tmp_path, "results/mine/checkpoints/*", "run", "mine.yaml", "--executor", "inline")
    before = len((tmp_path / "seen").read_text().split())
    done = raysweep("run", "mine.yaml", "--executor", "inline")
    assert "3 ok of 3 cells" in done.stdout, done.stderr
    epochs = [int(e) for e in (tmp_path / "seen").read_text().split()]
    assert epochs[before] > 1  # not from its start
    planned = raysweep("plan", "mine.yaml", "--set", "epoch=1,2,8,10")
    assert "1 partly finished run: 1 resume from a checkpoint, 0 are trained again" in planned.stdout
    done = raysweep("run", "mine.yaml", "--executor", "inline", "--set", "epoch=1,2,8,10")
    assert "4 ok of 4 cells" in done.stdout, done.stderr
    assert [int(e) for e in (tmp_path / "seen").read_text().split()][-2:] == [9, 10]
    frame = pl.read_parquet(tmp_path / "results/mine/cells.parquet")
    (run,) = set(frame["run"])
    assert (tmp_path / f"results/mine/runs/{run}/notes.txt").read_text() == run


SCRIPT = """
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float); parser.add_argument("--seed", type=int)
given = parser.parse_args()
print("training", given)
if given.lr == 0.01 and given.seed == 2:
    sys.exit("no luck")
print(json.dumps({"loss": 99.0}))
print(json.dumps({"loss": given.lr + given.seed}))
"""


def test_the_docs_script_runs_as_written(tmp_path: Path, raysweep: Raysweep) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "script.yaml").write_text(block(DOCS, "yaml", "command:"))
    done = raysweep("run", "script.yaml", "--executor", "inline")
    assert done.returncode == 1
    assert "5 ok, 1 failed of 6 cells" in done.stdout
    frame = pl.read_parquet(tmp_path / "results/script/cells.parquet")
    ok = frame.filter(pl.col("status") == "ok")
    assert (ok["loss"] == ok["lr"] + ok["seed"]).all()
    (error,) = frame["error"].drop_nulls()
    assert "no luck" in error
    assert "ended with code 1" in error
    key = ok["run"][0]
    assert raysweep("logs", "results/script", key).stdout.startswith("training Namespace(")
    listed = json.loads(raysweep("logs", "results/script", "--json").stdout)
    assert len(listed) == 6
    (tmp_path / "train.py").write_text(SCRIPT.replace("given.lr + given.seed", "given.lr"))
    again = raysweep("run", "script.yaml", "--executor", "inline")
    assert "(train.py changed)" in again.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("command: python train.py --lr {lr}", "has none for seed"),
        (
            "command: python train.py --lr {lrr} --seed {seed}",
            "{lrr} must be an axis, run_dir or run_key. Did you mean 'lr'?",
        ),
        ("command: python 'train.py --lr {lr}", "must be a command line"),
        ("command: []", "either `experiment` or `command`"),
        ("command: python {lr} {seed}\nexperiment: a:b", "but has both"),
    ],
)
def test_a_command_that_cannot_work_is_refused(tmp_path: Path, raysweep: Raysweep, change: str, words: str) -> None:
    text = block(DOCS, "yaml", "command:")
    (tmp_path / "script.yaml").write_text(re.sub(r"command: .*", lambda _: change, text))
    done = raysweep("plan", "script.yaml")
    assert done.returncode == 2
    assert words in done.stderr


def test_a_script_whose_lines_are_rows_or_that_writes_a_file(tmp_path: Path, raysweep: Raysweep) -> None:
    (tmp_path / "train.py").write_text(
        "import json, os, sys\nfor epoch in (1, 2, 3):\n    print(json.dumps({'epoch': epoch, 'loss': 1 / epoch}))\n"
        "json.dump({'loss': 7, 'val': {'acc': .5}}, open(os.environ['RAYSWEEP_RUN_DIR'] + '/m.json', 'w'))\n"
    )
    (tmp_path / "a.yaml").write_text(
        "name: a\ncommand: python train.py {n}\nobserved: [epoch]\ngrid: {n: 1, epoch: [1, 3]}\n"
    )
    (tmp_path / "b.yaml").write_text("name: b\ncommand: [python, train.py, '{n}']\nresult: m.json\ngrid: {n: [1, 2]}\n")
    assert "2 ok of 2" in raysweep("run", "a.yaml", "--executor", "inline").stdout
    assert "2 ok of 2" in raysweep("run", "b.yaml", "--executor", "inline").stdout
    assert set(pl.read_parquet(tmp_path / "results/b/cells.parquet")["val/acc"]) == {0.5}
