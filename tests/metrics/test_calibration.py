"""ECE against a slow loop over bins; the bin-free gap against the exact posterior."""

import pytest
import torch

from raysweep.metrics import expected_calibration_error, posterior_gap


def logs(*shape, seed=0, sharp=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(sharp * torch.randn(*shape, generator=generator, dtype=torch.float64), -1)


def slow_ece(log_q, y, bins):
    """Guo et al. 2017, equation 3, one lane, bin by bin."""
    groups = [[] for _ in range(bins)]
    for row, label in zip(log_q.exp().tolist(), y.tolist(), strict=True):
        top = max(row)
        groups[min(int(top * bins), bins - 1)].append((top, float(row.index(top) == label)))
    n, total = len(y), 0.0
    for group in groups:
        if group:
            confidence = sum(c for c, _ in group) / len(group)
            accuracy = sum(a for _, a in group) / len(group)
            total += len(group) / n * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 5, 15])
@pytest.mark.parametrize("sharp", [0.3, 2.0, 50.0])
def test_ece_is_the_loop_over_bins(bins, sharp):
    log_q = logs(3, 200, 4, seed=1, sharp=sharp)
    y = torch.randint(4, (200,), generator=torch.Generator().manual_seed(2))
    expected = [slow_ece(lane, y, bins) for lane in log_q]
    assert expected_calibration_error(log_q, y, bins).tolist() == pytest.approx(expected, abs=1e-12)


def test_ece_of_certainty_is_the_error_rate():
    log_q = torch.log_softmax(torch.tensor([[[900.0, 0.0]] * 10], dtype=torch.float64), -1)
    y = torch.tensor([0] * 7 + [1] * 3)
    assert expected_calibration_error(log_q, y).item() == pytest.approx(0.3)


def test_ece_of_the_posterior_vanishes_with_n_and_that_of_overconfidence_does_not():
    log_r = logs(60_000, 3, seed=3)
    y = torch.multinomial(log_r.exp(), 1, generator=torch.Generator().manual_seed(4))[:, 0]
    lanes = torch.stack([log_r, torch.log_softmax(3 * log_r, -1)])
    calibrated, overconfident = expected_calibration_error(lanes, y).tolist()
    assert calibrated < 0.01
    assert overconfident > 0.1


def test_posterior_gap_is_the_mean_distance_at_the_prediction():
    log_q, log_r = logs(2, 40, 3, seed=5), logs(40, 3, seed=6)
    q, r = log_q.exp(), log_r.exp()
    expected = [
        sum(abs(float(q[lane, i].max()) - float(r[i, q[lane, i].argmax()])) for i in range(40)) / 40 for lane in (0, 1)
    ]
    assert posterior_gap(log_q, log_r).tolist() == pytest.approx(expected, rel=1e-12)
    assert posterior_gap(log_r[None], log_r).item() == 0.0
