"""The README's examples run, its links exist, its tree is true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from raysweep.cli import main, show
from raysweep.sweep import load_sweep

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def block(language: str, containing: str) -> str:
    (found,) = [text for name, text in BLOCKS if name == language and containing in text]
    return found


def test_every_link_and_image_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_sweep_of_the_demo_is_its_file() -> None:
    lines = (ROOT / "sweeps/demo.yaml").read_text().splitlines(keepends=True)
    assert block("yaml", "name: demo") == "".join(line for line in lines if not line.startswith("#"))
    sweep = load_sweep(ROOT / "sweeps/demo.yaml")
    assert f"sweeps {sweep.runs.cells:,} cells" in README
    assert f"= {len(sweep.runs)} runs" in (ROOT / "sweeps/demo.yaml").read_text()


def test_the_first_screen_says_what_it_is_and_shows_a_function_a_table_and_a_figure() -> None:
    first = README[: README.index("\n## ")]
    assert len(first.splitlines()) <= 60
    for part in (
        "def train(config)",
        "raysweep run mine.yaml",
        "raysweep fit runs.csv",
        "](docs/demo.png)",
        "make demo",
    ):
        assert part in first, part
    assert len((block("python", "def train(config)") + block("yaml", "my_training:train")).split("\n\n")) == 2
    assert sum(map(bool, block("python", "def train(config)").splitlines())) <= 10


def test_a_users_function_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_training.py").write_text(block("python", "def train(config)"))
    (tmp_path / "mine.yaml").write_text(block("yaml", "my_training:train"))
    monkeypatch.chdir(tmp_path)
    command, shown = block("console", "$ raysweep run").split("\n", 1)
    monkeypatch.setattr(sys, "argv", [*command.removeprefix("$ ").split(), "--executor", "inline"])
    monkeypatch.setattr(show, "terminal_width", lambda *_: 100)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    printed, number = capsys.readouterr().out, re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")
    assert number.sub("#", printed) == number.sub("#", shown)
    took = r"in \d+:\d\d"  # the one number that another machine has its own of
    values = [np.array(number.findall(re.sub(took, "", text)), dtype=float) for text in (printed, shown)]
    np.testing.assert_allclose(*values, rtol=0.01)


def test_the_python_example_names_what_exists() -> None:
    code = block("python", "load_sweep(")
    assert len(code.strip().splitlines()) <= 13
    imports = "\n".join(line for line in code.splitlines() if line.startswith("from"))
    exec(compile(imports, "README.md", "exec"), {})
    compile(code, "README.md", "exec")


def test_the_tree_is_true() -> None:
    tree = block_of("raysweep/\n  errors.py")
    named = re.findall(r"^  (\S+)", tree, re.MULTILINE)
    real = {
        p.name + "/" * p.is_dir()
        for p in (ROOT / "raysweep").iterdir()
        if not p.name.startswith("_") and p.name != "py.typed"
    }
    assert sorted(named) == sorted(real)
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} - {"results"}
    assert {f for f in folders if any((ROOT / f).glob("*.*"))} == set(re.findall(r"^(\w+)/", tree, re.MULTILINE))


def block_of(start: str) -> str:
    (found,) = [text.lstrip() for text in README.split("```")[1::2] if text.lstrip().startswith(start)]
    return found


def test_imports_run_one_way() -> None:
    """A module imports only rooms listed above it in the README's tree (or its own room)."""
    order = [
        n.strip("/").removesuffix(".py")
        for n in re.findall(r"^  (\S+)", block_of("raysweep/\n  errors.py"), re.MULTILINE)
    ]
    rank = {name: i for i, name in enumerate(order)}
    wrong = []
    for path in (ROOT / "raysweep").rglob("*.py"):
        room = path.relative_to(ROOT / "raysweep").parts[0].removesuffix(".py")
        if room.startswith("_"):
            continue
        for target in re.findall(r"^\s*(?:from|import) raysweep\.(\w+)", path.read_text(), re.MULTILINE):
            if rank[target] > rank[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert wrong == []


def test_only_executors_import_ray() -> None:
    for path in (ROOT / "raysweep").rglob("*.py"):
        if path.parent.name != "executors":
            assert not re.search(r"^\s*(import ray\b|from ray\b)", path.read_text(), re.MULTILINE), path
