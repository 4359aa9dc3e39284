"""The examples of docs/importing.md run as they are written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from studies import loss, optuna_sqlite, tune, wandb_runs

from raysweep.cli import main

DOCS = (Path(__file__).parents[2] / "docs/importing.md").read_text()


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    module = "my_training_of_imports"
    (tmp_path / f"{module}.py").write_text("def train(config):\n    return {'loss': config['size'] ** -0.5}\n")
    (yaml,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "sweep.yaml").write_text(yaml.replace("my_training:", f"{module}:"))
    (tmp_path / "runs.csv").write_text(f"size,lr,loss\n10,0.1,{loss(10)}\n20,0.1,{loss(20)}\n40,0.1,{loss(40)}\n")
    tune(tmp_path / "ray_results/old", [{"config": {"n_train": 100, "lr": 0.1}, "results": [{"loss": loss(100)}]}])
    wandb_runs(tmp_path / "export.json", [{"config": {"size": 1000, "lr": 0.1}, "summary": {"loss": loss(1000)}}])
    optuna_sqlite(tmp_path / "optuna.db", [{"params": {"size": 50}, "value": loss(50)}])
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
        for line in block.splitlines()
        if line.strip()
    ]
    assert {tool for line in lines for tool in re.findall(r"--from (\w+)", line)} == {"csv", "tune", "wandb", "optuna"}
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "raysweep"
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert not ended.value.code, f"{line}: {err}"
        if words[1] == "fit":
            assert "alpha = 0.5" in out
