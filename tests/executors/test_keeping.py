"""A killed pack goes on from its saved state; what is saved is found by whatever pack asks for its runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, HERE
from safetensors.torch import save

from raysweep.executors import Inline, keeping
from raysweep.executors.keeping import FOLDER, Keeping, Kept, find, parts, sweep_up
from raysweep.ledger.log import Ledger
from raysweep.ledger.remaining import subtract
from raysweep.pack import Pack, make_pack
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep, load_sweep
from raysweep.training import loop

# A driver that saves whenever it may, and dies after a save: a signal from outside could come after its end.
DIES = """
import os, signal
from raysweep.cli import main
from raysweep.executors.keeping import Keeping

save = Keeping.save

def saved_and_killed(keep, step, *given):
    save(keep, step, *given)
    if step >= 500:
        os.kill(os.getpid(), signal.SIGKILL)

Keeping.due, Keeping.save = (lambda keep, size: True), saved_and_killed
main()
"""
LONG = {**CLASSIFIER_SWEEP, "grid": {**CLASSIFIER_SWEEP["grid"], "width": [8], "steps": [4, 6000], "k": [1]}}


@pytest.fixture
def pack(make_sweep: Callable[..., Sweep]) -> Pack:
    return make_pack(make_sweep(CLASSIFIER_SWEEP, {"width": [4]}).runs)


def keys(pack: Pack) -> tuple[str, ...]:
    return tuple(k.decode() for k in pack.runs.keys.tolist())


def put(store: Store, pack: Pack, step: int, world: str = "w", stage: int = 0) -> str:
    """A state as a pack saves it."""
    keep = Keeping(store, pack, world, None, 60.0, lambda: None)
    keep.save(step, lambda about: save({}, about), stage)
    return f"{FOLDER}/{pack.id}-{step}.safetensors"


def test_a_state_is_found_by_its_runs_whatever_pack_they_are_in(any_store: Store, pack: Pack) -> None:
    name = put(any_store, pack, 8)
    assert find(any_store, "w") == [Kept(name, 8, keys(pack), "w")]
    half = make_pack(pack.runs.take([2, 0]), attempt=2)
    ((same, kept),) = parts(half, find(any_store, "w"))
    assert (same.id, same.attempt, kept.name if kept else None) == (half.id, 2, name)
    saved = Keeping(any_store, half, "w", kept, 60.0, lambda: None).saved
    assert saved is not None
    assert (list(saved.runs), saved.of) == ([2, 0], 4)


def test_runs_go_on_from_their_farthest_state_and_begin_without_one(any_store: Store, pack: Pack) -> None:
    first, second = (make_pack(pack.runs.take(rows)) for rows in ([0, 1], [1, 2]))
    put(any_store, first, 4)
    put(any_store, second, 8)
    found = {kept.step if kept else None: set(keys(part)) for part, kept in parts(pack, find(any_store, "w"))}
    k = keys(pack)
    assert found == {8: {k[1], k[2]}, 4: {k[0]}, None: {k[3]}}


def test_a_later_stage_is_farther_than_any_step_of_an_earlier_one(any_store: Store, pack: Pack) -> None:
    put(any_store, pack, 90)
    put(any_store, pack, 4, stage=2)
    put(any_store, pack, 30, stage=1)
    found = find(any_store, "w")
    assert [(kept.stage, kept.step) for kept in found] == [(2, 4), (1, 30), (0, 90)]
    saved = Keeping(any_store, pack, "w", found[0], 60.0, lambda: None).saved
    assert saved is not None
    assert saved.stage == 2


def test_the_next_stages_state_replaces_the_last_ones(any_store: Store, pack: Pack) -> None:
    keep = Keeping(any_store, pack, "w", None, 60.0, lambda: None)
    for stage, step in ((0, 8), (1, 8), (1, 16), (2, 8)):
        keep.save(step, lambda about: save({}, about), stage)
        assert [(kept.stage, kept.step) for kept in find(any_store, "w")] == [(stage, step)]


def test_a_state_that_names_no_stage_is_of_the_first(any_store: Store, pack: Pack) -> None:
    """Files of releases before there were stages."""
    about = {"step": "8", "runs": json.dumps(keys(pack)), "world": "w"}
    any_store.write(f"{FOLDER}/x.safetensors", save({}, about))
    assert find(any_store, "w") == [Kept(f"{FOLDER}/x.safetensors", 8, keys(pack), "w", 0)]


def test_runs_that_are_asked_for_other_cells_are_parts_of_their_own(pack: Pack) -> None:
    cells = pack.runs.observed[0].cells
    first = next(iter(cells))
    rest = subtract(pack.runs, [keys(pack)[0] + first])
    mixed = make_pack(rest)
    found = [part for part, _ in parts(mixed, [])]
    assert sorted(len(p) for p in found) == [1, 3]
    assert all(len(set(p.runs.observed_code.tolist())) == 1 for p in found)
    assert sum(p.runs.cells for p in found) == pack.runs.cells - 1


def test_another_worlds_states_and_foreign_files_are_passed_over(any_store: Store, pack: Pack) -> None:
    put(any_store, pack, 8, world="another")
    header = json.dumps({"__metadata__": {"step": "x", "runs": "[]", "world": "w"}}).encode()
    for i, data in enumerate([b"", b"1234567", (2**40).to_bytes(8, "little") + b"{", b"\x02" + bytes(7) + b"{}",
                              len(header).to_bytes(8, "little") + header, b"\x08" + bytes(7) + b"[" * 8]):  # fmt: skip
        any_store.write(f"{FOLDER}/{i}.safetensors", data)
    assert find(any_store, "w") == []
    assert [kept.world for kept in find(any_store)] == ["another"]


def test_a_newer_state_replaces_the_older_and_the_one_it_came_from(any_store: Store, pack: Pack) -> None:
    put(any_store, pack, 4)
    keep = Keeping(any_store, pack, "w", find(any_store, "w")[0], 60.0, lambda: None)
    for step in (8, 16):
        keep.save(step, lambda about: save({}, about))
        assert [kept.step for kept in find(any_store, "w")] == [step]
    keep.forget()
    assert find(any_store) == []


def test_a_half_leaves_the_wholes_state_to_the_other_half(any_store: Store, pack: Pack) -> None:
    put(any_store, pack, 4)
    half = make_pack(pack.runs.take([0, 1]))
    keep = Keeping(any_store, half, "w", find(any_store, "w")[0], 60.0, lambda: None)
    keep.save(8, lambda about: save({}, about))
    keep.forget()
    assert [kept.step for kept in find(any_store, "w")] == [4]


def test_a_save_waits_long_enough_to_cost_little(monkeypatch: pytest.MonkeyPatch, any_store: Store, pack: Pack) -> None:
    now = 0.0
    monkeypatch.setattr(keeping.time, "monotonic", lambda: now)
    keep = Keeping(any_store, pack, "w", None, 60.0, lambda: None)
    assert not keep.due(1000)
    now = 60.0
    assert keep.due(1000)
    assert not keep.due(10**9)  # a first save of 1 GB is thought to take 5 s

    def slow(about: dict[str, str]) -> bytes:
        nonlocal now
        now += 30.0
        return save({}, about)

    keep.save(1, slow)
    now += 30 / 0.02 - 1
    assert not keep.due(1000)
    now += 1
    assert keep.due(1000)
    assert not Keeping(any_store, pack, "w", None, 0.0, lambda: None).due(1)


def test_states_of_finished_runs_are_swept_up(any_store: Store, pack: Pack) -> None:
    first, second = (make_pack(pack.runs.take(rows)) for rows in ([0, 1], [2, 3]))
    put(any_store, first, 4)
    left = put(any_store, second, 4)
    sweep_up(any_store, pack.runs, lambda runs: runs.take([3]))
    assert [kept.name for kept in find(any_store)] == [left]
    sweep_up(any_store, first.runs, lambda runs: runs.take([]))  # another grid's runs are not its business
    assert [kept.name for kept in find(any_store)] == [left]


def test_a_driver_killed_in_a_long_pack_goes_on_from_the_saved_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = tmp_path / "long.yaml", Store(str(tmp_path / "store"))
    file.write_text(yaml.safe_dump({**LONG, "resources": {"checkpoint_seconds": 0.05}}))
    command = [sys.executable, "-c", DIES, "run", str(file), "--store", store.uri, "--executor", "inline"]
    driver = subprocess.run(command, cwd=HERE, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    assert driver.returncode == -signal.SIGKILL
    (kept,) = find(store)[:1]
    assert 500 <= kept.step < 6000
    finished = Ledger(store).scan().table.num_rows
    assert finished == 4  # the first snapshot was in the ledger before the state was saved

    steps: list[int] = []
    update = loop._Stack._update
    monkeypatch.setattr(loop._Stack, "_update", lambda stack: (steps.append(1), update(stack))[1])
    sweep = load_sweep(str(file))
    outcome = run(sweep, store, Inline())
    assert (outcome.counts.ok, outcome.pending) == (8, 0)
    assert len(steps) == 6000 - kept.step
    assert find(store) == []

    whole = Store(str(tmp_path / "whole"))
    run(sweep, whole, Inline())
    a, b = (
        pl.read_parquet(s.path("cells.parquet")).sort("cell").select("cell", "total", "epistemic", "accuracy")
        for s in (store, whole)
    )
    assert a.equals(b)


def test_a_link_among_the_states_is_none(tmp_path: Path, pack: Pack) -> None:
    store = Store(str(tmp_path))
    name = put(store, pack, 8)
    (tmp_path / FOLDER / "x-1.safetensors").symlink_to("/etc/passwd")
    assert [kept.name for kept in find(store, "w")] == [name]
