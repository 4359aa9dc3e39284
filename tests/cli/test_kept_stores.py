"""The stores of every version so far are read, fitted, reported, exported and extended by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Cli

HERE = Path(__file__).parent.parent / "stores"
KEPT = sorted(path.relative_to(HERE) for path in HERE.glob("*.*.*/*") if path.is_dir())
CELLS = {"function": 12, "classifier": 32}
RUNS = {"function": 6, "classifier": 16}


@pytest.fixture
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a kept store."""
    return Path(shutil.copytree(HERE / request.param, tmp_path / "kept"))


def parts(store: Path) -> set[str]:
    return {path.name for path in (store / "ledger").iterdir()}


def test_each_version_left_a_store_of_each_kind() -> None:
    assert {path.name for path in KEPT} == set(CELLS)
    assert len(KEPT) == len(CELLS) * len(list(HERE.glob("*.*.*")))


@pytest.mark.parametrize("kept", KEPT, indirect=True, ids=str)
def test_a_kept_store_is_read_and_extended(
    kept: Path,
    cli: Cli,
    request: pytest.FixtureRequest,
) -> None:
    name = Path(request.node.callspec.params["kept"]).name
    file, store, before = str(HERE / f"{name}.yaml"), str(kept), parts(kept)
    found = json.loads(cli("status", store, "--json")[1])
    assert (found["cells"]["ok"], found["done"], found["pending"]) == (CELLS[name], CELLS[name], 0)
    assert found["unreadable"] == found["failures"] == []

    code, out, err = cli("fit", store, "--json", "--bootstrap", "100")
    assert code == 0, err
    alpha = {tuple(f["group"].values())[-1]: f["params"][-1]["value"] for f in json.loads(out)}
    expected = {1: 0.5, 2: 0.5} if name == "function" else {"hard": 0.0934, "soft": 0.0339}
    assert alpha == pytest.approx(expected, abs=1e-3)

    code, out, err = cli("report", store)
    assert code == 0, err
    assert "alpha" in out
    assert (kept / "report.html").stat().st_size > 10_000
    code, out, err = cli("export", store, "--to", "tensorboard", "--dest", str(kept.parent / "runs"), "--json")
    assert code == 0, err
    assert json.loads(out)["runs"] == RUNS[name]

    # The keys are what they were: nothing is trained again, and one more seed asks for its own cells only.
    code, out, err = cli("run", file, "--store", store, "--executor", "inline")
    assert code == 0, err
    assert f"{CELLS[name]} ok of {CELLS[name]} cells" in out
    assert parts(kept) == before
    assert "nothing to do" in cli("plan", file, "--store", store)[1]
    code, out, err = cli("run", file, "--store", store, "--executor", "inline", "--set", "seed=0..2")
    assert code == 0, err
    assert "warning" not in err
    more = CELLS[name] // 2
    assert f"plan: {more} cells" in err
    assert f"{CELLS[name] + more} ok of {CELLS[name] + more} cells" in out
    assert parts(kept) > before
