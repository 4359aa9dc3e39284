"""Which code made a row: every way to name a function, and what is and is not a change."""

from __future__ import annotations

import copy
import dataclasses
import functools
import linecache
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raysweep.code import changes, checkout, of_files, of_object
from raysweep.experiments.command import make_command
from raysweep.sweep import from_mapping

LIB = """
class T:
    def __init__(self, e):
        self.e = e

    def train(self, config):
        return {"loss": self.e}
"""
WAYS = {
    "plain": "def train(config):\n    return {'loss': 0.5}\n",
    "partial": "import functools\ndef _t(config, e):\n    return {'loss': e}\ntrain = functools.partial(_t, e=0.5)\n",
    "wrapped without wraps": "from deco import timed\n@timed\ndef train(config):\n    return {'loss': 0.5}\n",
    "an instance": "from lib import T\ntrain = T(0.5)\n",
    "a bound method": "from lib import T\nclass U(T):\n    pass\ntrain = U(0.5).train\n",
    "a closure": "from deco import make\ntrain = make(0.5)\n",
    "a class": "class train:\n    def train(self, config):\n        return {'loss': 0.5}\n",
    "a name of the standard library": "from statistics import E\ndef train(config):\n    return {'loss': E * 0.5}\n",
}
DECO = (
    "def timed(f):\n    def inner(config):\n        return f(config)\n    return inner\n"
    "def make(e):\n    def inner(config):\n        return {'loss': e}\n    return inner\n"
)


@pytest.fixture
def sha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The hash of `m:train` in a folder with this module text, and helpers."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lib.py").write_text(LIB)
    (tmp_path / "deco.py").write_text(DECO)
    (tmp_path / "statistics.py").write_text("E = 1.0\n")

    def sha_(text: str) -> str:
        for name in ("m", "lib", "deco"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        local = sys.modules.get("statistics")
        monkeypatch.delitem(sys.modules, "statistics", raising=False)
        (tmp_path / "m.py").write_text(text)
        raw = {"name": "c", "experiment": "m:train", "grid": {"n": [1]}}
        found = from_mapping(raw, "c.yaml", [tmp_path]).code.sha
        if local is not None:
            sys.modules["statistics"] = local
        sys.path.remove(str(tmp_path))
        sys.path_importer_cache.clear()
        return found

    return sha_


@pytest.mark.parametrize("way", WAYS)
def test_a_change_is_seen_however_the_function_is_made(sha: Callable[[str], str], way: str) -> None:
    text = WAYS[way]
    before = sha(text)
    assert len(before) == 16
    assert sha("# only a comment\n" + text + "\n\n") == before
    assert sha(text.replace("0.5", "0.75")) != before


@pytest.mark.parametrize("name", ["lib.py", "deco.py", "statistics.py"])
def test_a_change_of_what_is_imported_is_seen(sha: Callable[[str], str], tmp_path: Path, name: str) -> None:
    text = "import lib, deco\nfrom statistics import E\ndef train(config):\n    return {'loss': E}\n"
    before = sha(text)
    (tmp_path / name).write_text((tmp_path / name).read_text() + "X = 3\n")
    assert sha(text) != before


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("core", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
        (tmp_path / folder / "utils.py").write_text("B = 1\n")
    (tmp_path / "exp").mkdir()
    main = tmp_path / "exp/train.py"
    main.write_text("from core.utils import B\nfrom data.utils import B as C\n")
    before = of_files([main], [tmp_path])
    assert {"exp/train.py", "train.py"} & set(before.parts)
    assert {"core/utils.py", "data/utils.py"} <= set(before.parts)
    (tmp_path / "data/utils.py").write_text("B = 22\n")
    assert changes(before.parts, of_files([main], [tmp_path]).parts) == ["data/utils.py changed"]


def test_functions_given_in_python_differ_by_what_they_carry() -> None:
    def base(config: Any, e: float) -> dict[str, float]:
        return {"loss": e}

    def make(e: float) -> Callable[..., Any]:
        return lambda config: {"loss": e}

    assert of_object(functools.partial(base, e=0.5)).sha != of_object(functools.partial(base, e=1.0)).sha
    assert of_object(functools.partial(base, e=0.5)).sha == of_object(functools.partial(base, e=0.5)).sha
    assert of_object(make(0.5)).sha != of_object(make(1.0)).sha
    assert of_object(len).sha == ""


@dataclasses.dataclass
class _Model:
    width: int

    def train(self, config: Any) -> dict[str, float]:
        return {"loss": 1.0 / self.width}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 0.1}, {"lr": 0.2}), ([1, {"a": 2}], [1, {"a": 3}]), ({1, 2}, {1, 3}), (Path("a"), Path("b")),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0])), (SimpleNamespace(a=1), SimpleNamespace(a=2)),
        (_Model(1), _Model(2)),
    ],
)  # fmt: skip
def test_a_structure_that_a_callable_carries_is_seen_to_change(one: Any, other: Any) -> None:
    def base(config: Any, kept: Any) -> dict[str, float]:
        return {"loss": kept}

    def make(kept: Any) -> Callable[..., Any]:
        return lambda config: {"loss": kept}

    assert of_object(make(one)).sha != of_object(make(other)).sha
    assert of_object(make(one)).sha == of_object(make(copy.deepcopy(one))).sha
    assert of_object(functools.partial(base, kept=one)).sha != of_object(functools.partial(base, kept=other)).sha
    assert of_object(_Model(one).train).sha != of_object(_Model(other).train).sha


def test_what_a_run_collects_is_no_change_of_code() -> None:
    seen: list[int] = []

    def train(config: Any) -> dict[str, float]:
        seen.append(1)
        return {"loss": 1.0}

    before = of_object(train).sha
    train({})
    assert of_object(train).sha == before


NOTEBOOK = {
    "K": "K = 3\n",
    "helper": "def helper(x):\n    return 2 * x\n",
    "Net": "class Net:\n    def f(self):\n        return 7\n",
    "train": "def train(config):\n    return {'loss': [helper(config['n']) * K for _ in range(1)][0] + Net().f()}\n",
}


@pytest.mark.parametrize("name", NOTEBOOK)
def test_a_change_in_another_cell_of_a_notebook_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = ModuleType("a_notebook")  # without a file, as is __main__ there
    monkeypatch.setitem(sys.modules, "a_notebook", module)

    def sha(cells: dict[str, str]) -> str:
        for i, text in enumerate(cells.values()):
            place = f"<cell {i}>"
            monkeypatch.setitem(linecache.cache, place, (len(text), None, text.splitlines(True), place))
            exec(compile(text, place, "exec"), vars(module))
        return of_object(module.train).sha

    before, text = sha(NOTEBOOK), NOTEBOOK[name]
    assert sha({**NOTEBOOK, "other": "def other():\n    pass\n"}) == before
    for digit in "1237":
        text = text.replace(digit, str(int(digit) + 1))
    assert sha({**NOTEBOOK, name: text}) != before


def test_a_command_is_its_files_also_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "modx.py").write_text("print(1)\n")
    found = [make_command(words, "", tmp_path, (), "c").files for words in ("python modx.py", "python -m modx", "true")]
    assert found == [[tmp_path / "modx.py"], [tmp_path / "modx.py"], []]
    assert of_files([]).sha == ""  # nothing known is no hash


def test_a_commit_and_whether_it_is_dirty(tmp_path: Path) -> None:
    assert checkout(tmp_path) == ("", None)
    for arguments in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "f.py").write_text("def train(config): ...\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "commit", "-qm", "x"], cwd=tmp_path, check=True)
    commit, dirty = checkout(tmp_path)
    assert (len(commit), dirty) == (40, False)
    (tmp_path / "f.py").write_text("def train(config): return 1\n")
    assert checkout(tmp_path) == (commit, True)
