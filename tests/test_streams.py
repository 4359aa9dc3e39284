"""Counter-based random numbers: golden, uniform, and functions of (seed, stream, counters) alone."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm

from raysweep import streams
from raysweep.streams import (
    INIT,
    INPUT_NOISE,
    LABEL_NOISE,
    MEMBER,
    ORDER,
    PERMUTATION,
    bits,
    indices,
    member_seed,
    normal,
    permutation,
    uniform,
)

# Computed once: every run key stands for these draws, so they may never move.
GOLDEN_BITS = [
    [-873971713546164294, -4888937147227457438, 5292532027706647639],
    [2810822277030889332, -8031322937155060764, 3662505214338083224],
    [-8451168788864448459, 2800028211944949277, 5276443198232866398],
]
GOLDEN_INDICES = [[841, 503, 795, 814], [3, 3, 8, 0]]
GOLDEN_PERMUTATION = [4, 6, 3, 0, 5, 7, 1, 9, 2, 8]
GOLDEN_UNIFORM = [0.5805554841444246, 0.04804978538553972]


def seeds(*values):
    return torch.tensor(values, dtype=torch.int64)


def reference(seed, stream, *counters):
    """The same hash in Python's unbounded integers, signed at the end."""
    mask, gamma = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    h = mix((seed + stream * gamma) & mask)
    for i, counter in enumerate(counters):
        h = mix(((h ^ counter) + (i + 1) * gamma) & mask)
    return h - 2**64 if h >= 2**63 else h


def p_value_uniform(values, bins):
    """Chi-square test that integers below `bins` are equally likely."""
    count = np.bincount(values, minlength=bins)
    assert len(count) == bins
    expected = count.sum() / bins
    return chi2.sf(((count - expected) ** 2 / expected).sum(), bins - 1)


def test_golden_values():
    assert bits(seeds(0, 1, 2**62), ORDER, 7, torch.arange(3)[:, None]).tolist() == GOLDEN_BITS
    assert indices(seeds(0, 5), 3, 4, seeds(1000, 10)).tolist() == GOLDEN_INDICES
    assert permutation(3, 10).tolist() == GOLDEN_PERMUTATION
    assert uniform(seeds(0), INIT, 0, torch.arange(2)).tolist() == GOLDEN_UNIFORM


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1])
@pytest.mark.parametrize("counter", [0, 1, 2**31, 2**32 - 1])
def test_bits_are_the_hash_in_exact_integers(seed, counter):
    assert bits(seeds(seed), ORDER, counter, 3).item() == reference(seed, ORDER, counter, 3)


@pytest.mark.parametrize("stream", [PERMUTATION, INIT, ORDER, LABEL_NOISE, INPUT_NOISE])
@pytest.mark.parametrize("vary", ["seed", "step", "item"])
@pytest.mark.parametrize("shift", [0, 24, 56], ids=["low", "middle", "high"])
def test_bits_are_uniform_in_every_counter(stream, vary, shift):
    n = torch.arange(1 << 15)
    h = {
        "seed": lambda: bits(n, stream, 3, 5),
        "step": lambda: bits(seeds(11), stream, n, 5),
        "item": lambda: bits(seeds(11), stream, 3, n),
    }[vary]()
    byte = (h >> shift) & 255
    assert p_value_uniform(byte.numpy(), 256) > 1e-4


@pytest.mark.parametrize("vary", ["seed", "step", "item"])
def test_neighbouring_counters_draw_independently(vary):
    n = torch.arange((1 << 15) + 1)
    u = {
        "seed": lambda: uniform(n, ORDER, 3, 5),
        "step": lambda: uniform(seeds(11), ORDER, n, 5),
        "item": lambda: uniform(seeds(11), ORDER, 3, n),
    }[vary]().numpy()
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / len(u) ** 0.5
    pair = (u[:-1] * 16).astype(int) * 16 + (u[1:] * 16).astype(int)
    assert p_value_uniform(pair[::2], 256) > 1e-4


def test_streams_of_one_seed_share_no_numbers():
    item = torch.arange(4096)
    streams = (PERMUTATION, INIT, ORDER, LABEL_NOISE, INPUT_NOISE, MEMBER)
    drawn = [uniform(seeds(5), s, 0, item).numpy() for s in streams]
    assert len(set(streams)) == 6
    for u, v in itertools.combinations(drawn, 2):
        assert not np.intersect1d(u, v).size
        assert abs(np.corrcoef(u, v)[0, 1]) < 4 / 64


def test_uniform_is_in_0_1_with_the_moments_of_a_uniform():
    u = uniform(seeds(0, 1)[:, None], INIT, 4, torch.arange(1 << 16)).numpy().ravel()
    assert u.min() >= 0
    assert u.max() < 1
    assert len(np.unique(u)) == u.size  # 53 bits: a collision has probability 1e-6
    assert u.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / u.size) ** 0.5)
    assert u.var() == pytest.approx(1 / 12, abs=4 * (1 / 180 / u.size) ** 0.5)


@pytest.mark.parametrize("n", [1, 2, 1000, 2**31 - 1])
def test_indices_are_below_n_and_uniform(n):
    drawn = indices(seeds(1, 2), 9, 1 << 14, seeds(n, n))
    assert drawn.dtype == torch.int64
    assert drawn.min() >= 0
    assert drawn.max() < n
    bins = min(n, 100)
    if n > 1:
        assert p_value_uniform((drawn * bins // n).numpy().ravel(), bins) > 1e-4
    if n > 1 << 20:
        assert drawn.max() > 0.999 * n


def test_a_batch_may_exceed_n_and_repeats_items():
    drawn = indices(seeds(4), 0, 64, seeds(3))[0]
    assert set(drawn.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("step", [0, 77])
def test_a_lanes_indices_depend_on_no_neighbour_batch_shape_or_position(step):
    alone = indices(seeds(8), step, 16, seeds(100))[0]
    packed = indices(seeds(1, 8, 3), torch.tensor(step), 64, seeds(7, 100, 10**6))
    assert torch.equal(packed[1, :16], alone)
    assert torch.equal(indices(seeds(8, 8), step, 16, seeds(100, 100)), alone.expand(2, -1))


def test_draws_are_the_same_again_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = (indices(seeds(3), 5, 32, seeds(50)), permutation(3, 100), uniform(seeds(3), INIT, 0, torch.arange(9)))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    again = (indices(seeds(3), 5, 32, seeds(50)), permutation(3, 100), uniform(seeds(3), INIT, 0, torch.arange(9)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_permutation_holds_every_item_once(size):
    assert permutation(6, size).sort().values.tolist() == list(range(size))


def test_permutations_put_every_item_first_equally_often():
    first = np.array([permutation(seed, 16)[0].item() for seed in range(1600)])
    assert p_value_uniform(first, 16) > 1e-4


@pytest.mark.parametrize("other", [2**32, 2**33, 2**62, 2**63 - 1])
def test_seeds_that_differ_in_high_bits_alone_differ(other):
    low = other & (2**32 - 1)
    item = torch.arange(64)
    assert (bits(seeds(other), ORDER, 0, item) != bits(seeds(low), ORDER, 0, item)).sum() >= 63
    assert not torch.equal(permutation(other, 64), permutation(low, 64))


# --- normal draws -----------------------------------------------------------------------------------------


def test_normal_draws_have_the_moments_of_a_standard_normal():
    z = normal(seeds(0, 1)[:, None], INPUT_NOISE, 4, torch.arange(1 << 17)).double().numpy().ravel()
    n = z.size
    assert z.mean() == pytest.approx(0, abs=4.5 / n**0.5)
    assert z.var() == pytest.approx(1, abs=4.5 * (2 / n) ** 0.5)
    assert (z**3).mean() == pytest.approx(0, abs=4.5 * (15 / n) ** 0.5)
    assert (z**4).mean() == pytest.approx(3, abs=4.5 * (96 / n) ** 0.5)
    assert 4 < np.abs(z).max() < 6.1  # 2.6e5 draws of a normal; the radius has 24 bits


@pytest.mark.parametrize("vary", ["seed", "step", "item"])
def test_normal_draws_are_normal_and_neighbours_independent_in_every_counter(vary):
    n = torch.arange(1 << 15)
    z = {
        "seed": lambda: normal(n, INPUT_NOISE, 3, 5),
        "step": lambda: normal(seeds(11), INPUT_NOISE, n, 5),
        "item": lambda: normal(seeds(11), INPUT_NOISE, 3, n),
    }[vary]().double()
    assert kstest(z.numpy(), "norm").pvalue > 1e-4
    u = norm.cdf(z.numpy())
    pair = (u[:-1] * 8).astype(int) * 8 + (u[1:] * 8).astype(int)
    assert p_value_uniform(pair[::2], 64) > 1e-4
    squares = z.numpy() ** 2
    assert abs(np.corrcoef(squares[:-1], squares[1:])[0, 1]) < 4.5 / len(n) ** 0.5


def test_normal_draws_are_box_muller_of_the_words_halves():
    word = [reference(9, INPUT_NOISE, 2, item) & (2**64 - 1) for item in range(200)]
    radius = np.array([((w >> 40) + 0.5) / 2**24 for w in word])
    angle = np.array([(w & (2**24 - 1)) / 2**24 for w in word])
    wanted = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    found = normal(seeds(9), INPUT_NOISE, 2, torch.arange(200))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=2e-6)


def test_normal_draws_are_finite_at_the_ends_of_the_radius(monkeypatch):
    """The hash's upper 24 bits all zero: the largest radius; all one: the smallest."""
    ends = torch.tensor([0, -1, 2**40 - 1, -(2**40)])
    monkeypatch.setattr(streams, "bits", lambda *_: ends)
    z = normal(seeds(0), INPUT_NOISE, 0)
    assert torch.isfinite(z).all()
    assert z.abs().max().item() == pytest.approx((-2 * np.log(0.5 / 2**24)) ** 0.5, rel=1e-5)
    assert z.abs().min() < 1e-3


# --- members ----------------------------------------------------------------------------------------------


def test_member_0_is_the_run_and_all_others_differ():
    run = torch.tensor([0, 1, 2, 2**40, 2**62])
    found = member_seed(run[:, None], torch.arange(64))
    assert found[:, 0].tolist() == run.tolist()
    assert len(found.unique()) == found.numel()
    assert found.min() >= 0
    assert found.max() <= 2**62
    assert torch.equal(found, member_seed(run[:, None].expand(5, 64), torch.arange(64).expand(5, 64)))


def test_a_members_seed_depends_on_its_run_and_its_number_alone():
    alone = member_seed(seeds(5), torch.tensor([3]))
    packed = member_seed(seeds(1, 1, 5, 5), torch.tensor([0, 3, 3, 1]))
    assert packed[2] == alone[0]
    assert len(set(packed.tolist())) == 4
