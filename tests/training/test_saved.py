"""Training that goes on from a saved state ends bit by bit where training without a break does."""

import itertools
import json
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from training.packs import FIVE, OPTIMISERS, End, equal, largest_gap, trained

from raysweep.experiment import Saved
from raysweep.models import Architecture
from raysweep.training import loop
from raysweep.training.saved import Stage

MLP = Architecture("mlp", 3, 4, 8, 2)
TIMES = [4, 8, 24]  # within the last leg the state is saved between snapshots, too
SCHEDULES = ("constant", "wsd", "cosine")


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(loop, "_LOOK", 4)
    torch.set_num_threads(1)


class Always:
    """Saves whenever it is asked."""

    lasting = False

    def __init__(self, saved: Saved | None = None) -> None:
        self.saved, self.files, self.stages = saved, {}, {}

    def due(self, size: int) -> bool:
        return size > 0

    def save(self, step, state, stage=0) -> None:
        self.files[step] = state({"step": str(step)})
        self.stages[step] = stage


def lanes(horizons=(4, 24, 8, 24, 8)):
    return [replace(lane, horizon=h) for lane, h in zip(FIVE, horizons, strict=True)]


def same(found: End, wanted: End) -> bool:
    return (
        found.lanes == wanted.lanes and found.diverged == wanted.diverged and equal(found.parameters, wanted.parameters)
    )


@pytest.mark.parametrize(("optimiser", "schedule"), [*itertools.product(OPTIMISERS, SCHEDULES)])
def test_every_saved_state_leads_to_the_same_end(optimiser, schedule):
    options = {"optimiser": optimiser, "schedule": schedule}
    keep = Always()
    whole = trained(MLP, lanes(), TIMES, **options, keep=keep)
    assert len(keep.files) >= 3
    for step, data in keep.files.items():
        later = [t for t in TIMES if t >= step and (schedule != "wsd" or t - -(-t // 4) >= step)]
        left = [i for i, lane in enumerate(lanes()) if schedule != "cosine" or lane.horizon >= step]
        resumed = Always(Saved(data, left, 5))
        rest = trained(MLP, [lanes()[i] for i in left], later, **options, keep=resumed)
        for t in later:
            assert [left[place] for place in rest[t].lanes] == [i for i in whole[t].lanes if i in left]
            for place in rest[t].lanes:
                assert largest_gap(rest[t].of(place), whole[t].of(left[place])) < tolerance(left), step
        assert all(s >= step for s in resumed.files)  # nothing was trained twice


def tolerance(left):
    """Bit by bit with the same neighbours."""
    return 1e-300 if len(left) == 5 else 1e-9


def test_saving_changes_nothing():
    plain, kept = trained(MLP, lanes(), TIMES), trained(MLP, lanes(), TIMES, keep=Always())
    assert all(same(kept[t], plain[t]) for t in TIMES)


def test_lanes_that_diverged_stay_where_they_were():
    pack = [replace(lane, lr=1e9) if i in (0, 1, 4) else lane for i, lane in enumerate(lanes())]
    keep = Always()
    whole = trained(MLP, pack, TIMES, keep=keep)
    assert len(whole[24].lanes) < 5  # the stack was compacted
    assert [d >= 0 for d in whole[24].diverged] == [True, True, False, False, True]
    for step, data in keep.files.items():
        later = [t for t in TIMES if t >= step]
        rest = trained(MLP, pack, later, keep=Always(Saved(data, range(5), 5)))
        for t in later:
            assert rest[t].diverged == whole[t].diverged
            assert all(equal(rest[t].of(i), whole[t].of(i)) for i in (2, 3))


def test_half_of_a_pack_goes_on_from_the_whole_ones_state():
    keep = Always()
    whole = trained(MLP, lanes(), TIMES, keep=keep)
    rest = trained(MLP, [lanes()[i] for i in (3, 1)], [24], keep=Always(Saved(keep.files[8], [3, 1], 5)))
    for place, i in enumerate((3, 1)):
        for name, found in rest[24].of(place).items():
            torch.testing.assert_close(found, whole[24].of(i)[name], rtol=1e-9, atol=0)


def test_a_run_of_several_lanes_keeps_them_together():
    pack = [FIVE[0], FIVE[1], FIVE[2], FIVE[4]]  # two runs of two lanes
    keep = Always()
    whole = trained(MLP, pack, TIMES, keep=keep)
    rest = trained(MLP, pack[2:], [24], keep=Always(Saved(keep.files[8], [1], 2)))
    for place in (0, 1):
        for name, found in rest[24].of(place).items():
            torch.testing.assert_close(found, whole[24].of(2 + place)[name], rtol=1e-9, atol=0)


def test_a_state_past_the_first_asked_time_is_of_no_use():
    keep = Always()
    whole = trained(MLP, lanes(), TIMES, keep=keep)
    rest = trained(MLP, lanes(), TIMES, keep=Always(Saved(keep.files[8], range(5), 5)))
    assert all(same(rest[t], whole[t]) for t in TIMES)


def changed(data, change):
    tensors = load(data)
    change(tensors)
    return save(tensors)


def weights(tensors):
    return [(name, tensor) for name, tensor in tensors.items() if tensor.dim() == 3]


def header(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: header(b"{" * 1000),
        lambda data: header(json.dumps({"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 8]}}).encode()),
        lambda data: changed(data, lambda t: t.pop("lanes")),
        lambda data: changed(data, lambda t: t.pop("step")),
        lambda data: changed(data, lambda t: t.update(step=torch.tensor([40, 40]))),
        lambda data: changed(data, lambda t: t.update(step=torch.tensor(-3))),
        lambda data: changed(data, lambda t: t.update(lanes=t["lanes"] + 3)),
        lambda data: changed(data, lambda t: t.update(lanes=t["lanes"][:2])),
        lambda data: changed(data, lambda t: t.update(diverged_at=t["diverged_at"][:4])),
        lambda data: changed(data, lambda t: t.update(alive=t["alive"].double())),
        lambda data: changed(
            data, lambda t: [t.update({k: v[..., :1].contiguous()}) for k, v in list(t.items()) if v.dim() == 3]
        ),
        lambda data: changed(data, lambda t: [t.update({k: v.float()}) for k, v in list(t.items()) if v.dim() == 3]),
    ],
)
def test_a_file_that_does_not_fit_is_as_good_as_none(spoil):
    keep = Always()
    whole = trained(MLP, lanes(), TIMES, keep=keep)
    spoilt = Always(Saved(spoil(keep.files[8]), range(5), 5))
    rest = trained(MLP, lanes(), [24], keep=spoilt)
    assert min(spoilt.files) < 8  # from the beginning
    assert same(rest[24], whole[24])


# --- stages -----------------------------------------------------------------------------------------------


def begun(lanes=5):
    """What a stage of so many lanes carries; each lane's differs."""
    order = torch.arange(lanes * 3).view(lanes, 3)
    return {"order": order, "weights": order.double() / 7, "failed": torch.arange(lanes) % 2 == 0}


def second_stage(pack):
    """Files of a second stage, which trains the lanes from where its first one left them."""
    keep, carried = Always(), begun(len(pack))
    whole = trained(MLP, pack, TIMES, keep=keep, stage=Stage(1, carried))
    assert set(keep.stages.values()) == {1}
    return keep.files, carried, whole


def nothing(lanes=5):
    return {name: torch.zeros_like(value) for name, value in begun(lanes).items()}


def test_a_run_goes_on_inside_its_stage_with_what_that_began_with():
    files, carried, whole = second_stage(lanes())
    stage = Stage(0, nothing()).resumed(Always(Saved(files[8], range(5), 5, stage=1)), latest=2)
    assert stage.number == 1
    assert equal(dict(stage.carried), carried)
    rest = trained(MLP, lanes(), [24], keep=Always(), stage=stage)
    assert same(rest[24], whole[24])


def test_what_is_carried_follows_the_runs_of_a_half():
    files, carried, _ = second_stage(lanes())
    half = Stage(0, nothing(2)).resumed(Always(Saved(files[8], [3, 1], 5, stage=1)), latest=1)
    assert equal(dict(half.carried), {name: value[[3, 1]] for name, value in carried.items()})
    files, carried, _ = second_stage([FIVE[0], FIVE[1], FIVE[2], FIVE[4]])  # two runs of two lanes
    half = Stage(0, nothing(2)).resumed(Always(Saved(files[8], [1], 2, stage=1)), latest=1)
    assert equal(dict(half.carried), {name: value[2:] for name, value in carried.items()})


@pytest.mark.parametrize(
    ("stage", "latest", "like"),
    [
        (2, 1, nothing()),  # past what is asked
        (1, 1, {**nothing(), "more": torch.zeros(5)}),
        (1, 1, {**nothing(), "order": torch.zeros(5, 4, dtype=torch.int64)}),
        (1, 1, {**nothing(), "order": torch.zeros(5, 3)}),
        (1, 1, nothing(4)),
    ],
)
def test_a_stage_that_does_not_fit_is_as_good_as_none(stage, latest, like):
    files, _, _ = second_stage(lanes())
    first = Stage(0, like)
    assert first.resumed(Always(Saved(files[8], range(5), 5, stage)), latest) is first
    assert first.resumed(Always(Saved(b"spoilt", range(5), 5, 1)), latest) is first
    assert first.resumed(Always(), latest) is first
    assert first.resumed(None, latest) is first


def test_a_plain_training_takes_no_state_of_a_later_stage():
    files, _, _ = second_stage(lanes())
    keep = Always(Saved(files[8], range(5), 5, stage=1))
    trained(MLP, lanes(), TIMES, keep=keep)
    assert min(keep.files) == 4  # from the beginning
    assert set(keep.stages.values()) == {0}


def test_training_in_place_leaves_what_is_carried():
    """It may train the very tensors that it carries: a later save still says what the stage began with."""
    start = {"w": torch.ones(5, 2)}
    stage = Stage(1, start)
    start["w"].add_(1)
    assert torch.equal(stage.carried["w"], torch.ones(5, 2))
