"""Sweeps that stop themselves: rounds are a function of the ledger, and end with an interval as narrow as wanted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import adaptive_toy
import numpy as np
import polars as pl
import pytest

from raysweep.adaptive import Seen
from raysweep.cli.status import lines
from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.executors.work import execute
from raysweep.forget import choose, drop_statements
from raysweep.groups import Group, settings_of
from raysweep.laws import fit
from raysweep.ledger.log import Ledger
from raysweep.run import Outcome, run
from raysweep.status import status
from raysweep.stopping import check_coarse, coarse_pass
from raysweep.store import Store
from raysweep.sweep import Sweep, load_sweep
from raysweep.sweep.current import current
from raysweep.sweep.until import read_target
from raysweep.verdict import sentences

SWEEP: dict[str, Any] = {
    "name": "until",
    "experiment": "adaptive_toy:train",
    "grid": {"size": {"geom": [10, 10000, 10]}, "seed": {"range": 200}, "bend": 0},
    "fit": [{"law": "power", "x": "size", "y": "loss"}],
    "until": {"ci95": {"alpha": 0.02}},
}
Make = Callable[..., Sweep]


def done(sweep: Sweep, store: Store) -> Outcome:
    return run(sweep, store, make_executor("inline"))


def cells(store: Store) -> set[str]:
    return set(Ledger(store).scan().table.column("cell").to_pylist())


def test_a_sweep_stops_where_its_interval_is_narrow_enough(make_sweep: Make, memory_store: Store) -> None:
    sweep = make_sweep(SWEEP)
    outcome = done(sweep, memory_store)
    assert outcome.pending == 0
    assert outcome.counts.ok < len(sweep.runs) / 10
    state = outcome.state
    assert state is not None
    assert state.over == "every interval is as narrow as wanted"
    assert state.rounds >= 3
    low, high = state.judged[0].group.interval(state.judged[0].target, float(state.judged[0].look.half))
    assert high - low <= 0.02
    assert low < adaptive_toy.ALPHA < high
    said = " ".join(sentences(state))
    assert "alpha = 0.40" in said
    assert "One more decade: a run at size = 1e+05 would cost about 1e+11 FLOP" in said
    assert re.search(r"Of \d+ other laws, \S+ (comes closest|fits better), (by )?[\d.]+ (behind it )?in AICc", said)
    assert re.search(r"without the scales above \d+, the law power misses the [\d,]+ runs? there by [\d.]+ %", said)
    one = state.judged[0]
    even = replace(one, look=replace(one.look, bend=replace(one.look.bend, unseen=np.array(1e-9))))
    assert "scale would give about the same" in " ".join(sentences(replace(state, judged=[even])))
    assert one.group.fit.holdout is not None
    far = replace(one.group.fit, holdout=replace(one.group.fit.holdout, rmse_log=math.log(4)))
    wrong = replace(one, group=replace(one.group, fit=far))
    assert "runs there by a factor of 4." in " ".join(sentences(replace(state, judged=[wrong])))
    assert {one["law"] for one in state.judged[0].to_json()["rivals"]} >= {"power", "power+floor"}
    before = cells(memory_store)
    again = done(sweep, memory_store)
    assert cells(memory_store) == before
    assert again.state is not None
    assert again.state.rounds == state.rounds
    found = status(memory_store)["until"]
    assert (found["over"], found["runs"]) == (state.over, outcome.counts.ok)
    assert json.dumps(found)
    whole = status(memory_store)
    assert (whole["pending"], whole["total"]) == (0, outcome.counts.ok)
    assert whole["not_needed"] == len(sweep.runs) - outcome.counts.ok
    assert f"not needed: {whole['not_needed']:,} cells of its grid" in " ".join(lines(whole))


def test_killed_in_the_middle_of_a_round_it_ends_in_the_same_place(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, whole = make_sweep(SWEEP), Store(str(tmp_path / "whole"))
    wanted = done(sweep, whole).state
    calls = [0]

    def dying(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] % 5 == 2:  # in the middle of the first round and of later ones
            raise KeyboardInterrupt
        return execute(*arguments)

    store, kills = Store(str(tmp_path / "killed")), 0
    with monkeypatch.context() as patched:
        patched.setattr("raysweep.executors.inline.execute", dying)
        while True:
            try:
                state = done(make_sweep(SWEEP), store).state
                break
            except KeyboardInterrupt:
                kills += 1
                if kills > 3:
                    continue
                found = status(store)  # counts what the rounds have chosen, not the grid that they choose from
                assert found["done"] == found["cells"]["ok"] == found["total"] - found["pending"]
                assert 0 < found["pending"] <= found["total"] < found["grid"] == len(sweep.runs)
                said = f"{found['total']:,} chosen so far; {found['pending']:,} pending in round {found['round']}"
                assert said in " ".join(lines(found))
                assert "the whole grid has 2,000 cells, of which `until` chooses as it goes" in " ".join(lines(found))
    assert kills >= 3
    assert status(store)["pending"] == 0
    finished = len(cells(store))
    run_key = coarse_pass(sweep).runs.keys[0].decode()  # of the first round, while rows of later ones stay
    cell = choose(store, f"run = '{run_key}'").table.column("cell")
    one = current(store).ledger.forget(cell, "a test")
    drop_statements(store)
    found = status(store)
    assert (found["total"], found["done"], found["pending"]) == (finished, finished - 1, 1)
    assert f"{finished - 1:,} ok of {finished:,} chosen so far; 1 pending in round 1" in " ".join(lines(found))
    assert one is not None
    current(store).ledger.restore(one.id)
    assert state is not None
    assert wanted is not None
    assert cells(store) == cells(whole)
    assert (state.rounds, state.over) == (wanted.rounds, wanted.over)
    np.testing.assert_array_equal(state.chosen, wanted.chosen)


def test_runs_of_another_code_are_not_added_to(make_sweep: Make, memory_store: Store) -> None:
    """Fits keep the rows of each code apart: the interval of the old one would never narrow."""
    done(make_sweep(SWEEP, until={"ci95": {"alpha": 0.02}, "max_rounds": 1}), memory_store)
    before, sweep = cells(memory_store), make_sweep(SWEEP)
    changed = make_sweep(SWEEP)
    vars(changed)["code"] = replace(sweep.code, sha="0123456789abcdef")
    with pytest.raises(SweepError, match=r"until: the runs .* must be of one code, .* is 01234567 now: .*accept-code"):
        done(changed, memory_store)
    assert cells(memory_store) == before
    state = run(changed, memory_store, make_executor("inline"), accept_code=True).state
    assert state is not None
    assert state.over == "every interval is as narrow as wanted"
    assert done(changed, memory_store).state is not None  # nothing is left to run


def test_a_law_that_is_bent_ends_the_sweep(make_sweep: Make, memory_store: Store) -> None:
    state = done(make_sweep(SWEEP, {"bend": 500}), memory_store).state
    assert state is not None
    assert state.over == "the law does not hold over the grid"
    assert "the law power does not hold over the grid (p = " in sentences(state)[0]


def test_each_group_is_judged_by_itself_and_limits_hold(make_sweep: Make, memory_store: Store) -> None:
    fit = [{"law": "power", "x": "size", "y": "loss", "by": ["bend"]}]
    until = {"ci95": {"loss(1e6)": 0.001}, "max_flops": 6e10}
    state = done(make_sweep(SWEEP, {"bend": [0, 1e9], "seed": {"range": 20}}, fit=fit, until=until), memory_store).state
    assert state is not None
    assert [one.group.name for one in state.judged] == ["bend=0.0", "bend=1000000000.0"]
    assert state.over == "the budget (max_flops=6e+10) allows no further round"
    assert 0.5 * 6e10 < state.spent <= 6e10
    low, high = state.judged[0].group.interval(state.judged[0].target, float(state.judged[0].look.half))
    assert low < 3 * 1e6**-adaptive_toy.ALPHA < high


def test_a_limit_in_flops_needs_rows_that_report_them(make_sweep: Make, memory_store: Store) -> None:
    until = {"ci95": {"alpha": 0.1}, "max_flops": 1e9}
    sweep = make_sweep(SWEEP, {"size": [10, 50, 200, 1000]}, experiment="adaptive_toy:silent", until=until)
    with pytest.raises(SweepError, match=r"until\.max_flops: rows must report their FLOPs"):
        done(sweep, memory_store)


def test_a_metric_that_no_run_reports_is_an_error(make_sweep: Make, memory_store: Store) -> None:
    sweep = make_sweep(SWEEP, fit=[{"law": "power", "x": "size", "y": "lsos"}])
    for _ in range(2):  # after the first round, and at once where there are rows
        with pytest.raises(SweepError, match=r"sweep\.yaml: fit\.y: must be a metric .* 'lsos'.* Did you mean 'loss'"):
            done(sweep, memory_store)
        assert len(cells(memory_store)) == 10


def test_a_coarse_pass_that_costs_more_than_all_may_is_refused(make_sweep: Make) -> None:
    sweep = make_sweep(SWEEP, until={"ci95": {"alpha": 0.1}, "max_flops": 1e9, "coarse": 2})
    first = coarse_pass(sweep).runs
    assert sorted(first.column("size")) == sorted([*dict.fromkeys(sweep.runs.column("size"))] * 2)
    check_coarse(sweep, 1e9)
    with pytest.raises(SweepError, match=r"max_flops=1e\+09\), and the pass needs 2e\+09"):
        check_coarse(sweep, 2e9)


def test_until_is_set_by_a_preset_and_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "u.yaml"
    presets = {"sure": {"until": {"ci95": {"alpha": 0.01}, "max_hours": 2}}}
    (tmp_path / "adaptive_toy.py").write_bytes(Path(adaptive_toy.__file__).read_bytes())
    file.write_text(json.dumps({**SWEEP, "presets": presets}))

    def until(*given: str, preset: str | None = None) -> dict[str, Any] | None:
        found = load_sweep(file, given, preset).file.until
        return None if found is None else found.model_dump(exclude_unset=True)

    assert until(preset="sure") == {"ci95": {"alpha": 0.01}, "max_hours": 2}
    assert until("until.ci95.loss(1.5e9)=.1", "until.max_hours=3", "size=10,20") == {
        "ci95": {"alpha": 0.02, "loss(1.5e9)": 0.1},
        "max_hours": 3,
    }
    assert until("until.ci95.alpha=null", "until.ci95.A=1") == {"ci95": {"A": 1}}
    assert until("until=null") is None
    with pytest.raises(SweepError, match=r"--set must be until\.KEY=VALUE, but got 'until\.ci95\.alpha'"):
        until("until.ci95.alpha")
    with pytest.raises(SweepError, match=r"until\.ci95: must name a parameter of the law"):
        until("until.ci95.beta=1")
    with pytest.raises(SweepError, match="--set until: must be a mapping or null"):
        until("until=3")
    with pytest.raises(SweepError, match=r"--set fit.law: must be an axis or a key of until, but got a key of fit"):
        until("fit.law=power")


def test_where_nothing_can_be_fitted_the_sweep_ends_early(make_sweep: Make, memory_store: Store) -> None:
    state = done(make_sweep(SWEEP, {"size": [10, 100]}), memory_store).state
    assert state is not None
    assert state.over == "nothing could be fitted; `raysweep fit` says why"
    assert state.chosen.sum() == 8  # two of each size, then two further passes


def test_settings_take_their_seeds_in_turn_from_different_places(make_sweep: Make) -> None:
    sweep = make_sweep(SWEEP)
    settings = settings_of(sweep.runs, sweep.axes)
    first = settings.first(np.full(settings.count, 20))
    assert np.bincount(settings.of[first]).tolist() == [20] * 10
    assert len(set(np.array(sweep.runs.column("seed"))[first].tolist())) == 200  # no two sizes share one
    assert settings.first(np.full(settings.count, 200)).all()


@pytest.mark.parametrize(
    ("law", "scales"), [("power+floor", ["n"]), ("shifted", ["n"]), ("chinchilla", ["n", "d"]), ("formula", ["n", "d"])]
)
def test_any_law_is_linearised_at_its_estimate(law: str, scales: list[str]) -> None:
    rng = np.random.default_rng(0)
    x = {"n": np.repeat(np.geomspace(10, 1e4, 6), 6), "d": np.tile(np.geomspace(20, 1e5, 6), 6)}
    y = 0.2 + 3 * x["n"] ** -0.4 + ("d" in scales) * 5 * x["d"] ** -0.5
    table = pl.DataFrame({**x, "y": y * np.exp(0.01 * rng.standard_normal(36))})
    own = {"formula": "E + A*n**-a + B*d**-b", "positive": ["A", "B"]} if law == "formula" else {"law": law}
    (one,) = fit(table, x=scales, y="y", bootstrap=0, holdout=0, **own)
    at = np.stack([x[name] for name in scales])
    group = Group(
        one, np.arange(36), at, Seen(*(np.ones(36) for _ in range(3))), np.zeros(36), np.ones(36), np.ones(36)
    )
    values = np.array([one.params[name] for name in one.law.names])
    for i, row in enumerate(group.rows(np.log(at)).T):
        step = 1e-5 * max(abs(values[i]), 1e-3) * (np.arange(values.size) == i)
        ends = [np.log(one.law.predict(at, values + sign * step)) for sign in (1, -1)]
        np.testing.assert_allclose(row, (ends[0] - ends[1]) / (2 * step[i]), rtol=1e-4, atol=1e-6)
    target = read_target(f"y({','.join(['1e6'] * len(scales))})", 0.1)
    assert group.slopes(target).target == pytest.approx(group.rows(np.log(np.full((len(scales), 1), 1e6)))[0])
    low, high = group.interval(target, 0.05)
    assert low * high == pytest.approx(group.estimate(target) ** 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"until": {"ci95": {"beta": 0.1}}}, "must name a parameter of the law, or loss at a scale .* got 'beta'"),
        (
            {"fit": [{"law": "power", "x": "size", "y": "loss", "envelope": 0.1}]},
            r"until\.ci95: the law of the fit must be that of all runs, but it is an envelope \(envelope=0\.1\)",
        ),
        ({"until": {"ci95": {}}}, r"until\.ci95: must name at least one parameter"),
        ({"until": {"ci95": {"alpha": 0}}}, r"must be the width of an interval, above 0 and finite, but got \(alpha=0"),
        ({"until": {"ci95": {"loss(-1)": 0.1}}}, r"or y at scales above 0 such as loss\(1e9\), but got 'loss\(-1\)'"),
        ({"until": {"ci95": {"loss(1, 2)": 0.1}}}, "must give loss a value of each of size"),
        ({"until": {"ci95": {"alpha": 0.1}, "fit": 3}}, r"but got \(fit=3, fits=1\)"),
        ({"until": {"ci95": {"alpha": 0.1}, "max_gpu_hours": 1}}, r"packs must hold GPUs, but got"),
        ({"until": {"ci95": {"alpha": 0.1}, "max_hour": 1}}, "max_hours"),
        ({"fit": [{"law": "auto", "x": "size", "y": "loss"}]}, "the law of the fit must be named, but it is `auto`"),
        ({"observed": ["size"]}, "but size is observed"),
    ],
)
def test_what_no_sweep_could_come_to_is_refused(make_sweep: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SweepError, match=said):
        make_sweep(SWEEP, **changes)


def test_a_grid_without_seeds_is_refused_and_nothing_is_written(make_sweep: Make, memory_store: Store) -> None:
    with pytest.raises(SweepError, match="must have several seeds for each of its settings"):
        done(make_sweep(SWEEP, {"seed": [0]}), memory_store)
    assert not memory_store.exists("ledger")


def test_what_rested_on_forgotten_rows_is_said_no_longer(make_sweep: Make, memory_store: Store) -> None:
    first = done(make_sweep(SWEEP), memory_store)
    gone = choose(memory_store, "size = 10 AND seed < 3").table.column("cell")
    current(memory_store).ledger.forget(gone, "a bad machine")
    drop_statements(memory_store)
    assert status(memory_store)["until"] is None
    again = done(make_sweep(SWEEP), memory_store)
    assert again.state is not None
    assert first.state is not None
    np.testing.assert_array_equal(again.state.chosen, first.state.chosen)  # the same runs, measured again
