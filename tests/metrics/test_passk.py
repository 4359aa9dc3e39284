"""pass@k: exact over draws at any budget."""

import pytest
import torch

from raysweep.metrics import pass_at_k


def logs(*shape, seed=0, sharp=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(sharp * torch.randn(*shape, generator=generator, dtype=torch.float64), -1)


def budgets(*k):
    return torch.tensor(k, dtype=torch.float64)


def test_one_draw_hits_with_the_posterior_of_the_prediction():
    log_q, log_r = logs(3, 50, 4, seed=1), logs(50, 4, seed=2)
    expected = [log_r.exp()[torch.arange(50), lane.argmax(-1)].mean().item() for lane in log_q]
    assert pass_at_k(log_q, log_r, budgets(1))[:, 0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_against_counting_draws_from_the_posterior(k):
    log_q, log_r = logs(1, 200, 3, seed=1), logs(200, 3, seed=2, sharp=2.0)
    draws = torch.multinomial(
        log_r.exp().repeat_interleave(100, 0), k, True, generator=torch.Generator().manual_seed(3)
    )
    hit = (draws == log_q[0].argmax(-1).repeat_interleave(100)[:, None]).any(-1).double()
    error = max((hit.std() / len(hit) ** 0.5).item(), 1e-9)
    assert abs(pass_at_k(log_q, log_r, budgets(k)).item() - hit.mean().item()) < 4 * error


@pytest.mark.parametrize("k", [1, 7, 10**12])
def test_a_one_hot_posterior_is_hit_by_every_draw_or_by_none(k):
    log_r = torch.log_softmax(torch.tensor([[5000.0, 0.0, 0.0]] * 4, dtype=torch.float64), -1)
    right, wrong = logs(1, 4, 3) - 100, logs(1, 4, 3) - 100
    right[..., 0] = wrong[..., 1] = 0.0
    assert pass_at_k(torch.cat([right, wrong]), log_r, budgets(k))[:, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("sharp", [0.1, 1.0, 20.0])
def test_monotone_in_k_and_within_0_1(sharp):
    k = budgets(1, 2, 3, 10, 100, 10**4, 10**8, 10**12)
    found = pass_at_k(logs(2, 100, 5, seed=1), logs(100, 5, seed=2, sharp=sharp), k)
    assert found.shape == (2, 8)
    assert torch.isfinite(found).all()
    assert (found.diff(dim=-1) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("r", [1e-15, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-12])
def test_no_cancellation_at_small_and_large_posteriors(r):
    """For a posterior r at the prediction, against exact rational arithmetic."""
    from fractions import Fraction

    log_r = torch.tensor([[r, 1 - r]], dtype=torch.float64).log()
    log_q = torch.tensor([[[0.0, -9.0]]], dtype=torch.float64)
    k = 6
    exact = float(1 - (1 - Fraction(r)) ** k)
    assert pass_at_k(log_q, log_r, budgets(k)).item() == pytest.approx(exact, rel=1e-9)


def test_many_draws_of_a_rare_class_follow_the_exponential():
    log_r = torch.tensor([[1e-12, 1 - 1e-12]], dtype=torch.float64).log()
    log_q = torch.tensor([[[0.0, -9.0]]], dtype=torch.float64)
    assert pass_at_k(log_q, log_r, budgets(10**12)).item() == pytest.approx(1 - 2.718281828459045**-1, rel=1e-9)
