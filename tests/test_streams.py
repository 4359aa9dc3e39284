"""Counter-based random numbers: golden, uniform, and functions of (seed, stream, counters) alone."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from raysweep.streams import INIT, ORDER, PERMUTATION, bits, indices, permutation, uniform

# Computed once: every run key stands for these draws, so they may never move.
GOLDEN_BITS = [
    [-873971713546164294, -4888937147227457438, 5292532027706647639],
    [2810822277030889332, -8031322937155060764, 3662505214338083224],
    [-8451168788864448459, 2800028211944949277, 5276443198232866398],
]
GOLDEN_INDICES = [[841, 503, 795, 814], [3, 3, 8, 0]]
GOLDEN_PERMUTATION = [4, 6, 3, 0, 5, 7, 1, 9, 2, 8]
GOLDEN_UNIFORM = [0.5805554841444246, 0.04804978538553972]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


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


@pytest.mark.parametrize("stream", [PERMUTATION, INIT, ORDER])
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
    a, b, c = (uniform(seeds(5), s, 0, item).numpy() for s in (PERMUTATION, INIT, ORDER))
    for u, v in ((a, b), (b, c), (a, c)):
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
