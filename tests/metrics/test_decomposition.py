"""L = A + E exactly, against any prediction; label-based losses estimate the same differences."""

import numpy as np
import pytest
import torch

from raysweep.metrics import decompose


def logs(*shape, seed=0, sharp=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(sharp * torch.randn(*shape, generator=generator, dtype=torch.float64), -1)


def labels(log_r, seed=0):
    return torch.multinomial(log_r.exp(), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


CASES = pytest.mark.parametrize(
    ("lanes", "n", "classes", "sharp"), [(3, 50, 4, 1.0), (1, 7, 2, 30.0), (2, 20, 100, 0.01), (2, 9, 3, 500.0)]
)


@CASES
def test_total_is_aleatoric_plus_epistemic(lanes, n, classes, sharp):
    log_r = logs(n, classes, seed=1, sharp=sharp)
    found = decompose(logs(lanes, n, classes, seed=2), log_r, labels(log_r))
    gap = found["total"] - found["aleatoric"] - found["epistemic"]
    assert gap.abs().max() < 1e-12
    assert (found["epistemic"] >= 0).all()
    assert {v.dtype for v in found.values()} == {torch.float64}
    assert {tuple(v.shape) for v in found.values()} == {(lanes,)}


@CASES
def test_the_posterior_itself_has_no_epistemic_error_and_no_excess(lanes, n, classes, sharp):
    log_r = logs(n, classes, seed=1, sharp=sharp)
    found = decompose(log_r.expand(lanes, -1, -1), log_r, labels(log_r))
    for name in ("epistemic", "epistemic_se", "excess_nll", "excess_nll_se", "excess_error", "excess_error_se"):
        assert (found[name] == 0).all(), name
    assert torch.equal(found["total"], found["aleatoric"])
    assert torch.equal(found["accuracy"], found["bayes_accuracy"])


def test_a_one_hot_posterior_has_no_aleatoric_loss_and_no_nan():
    log_r = torch.log_softmax(torch.tensor([[0.0, -2000.0], [-2000.0, 0.0]], dtype=torch.float64), -1)
    found = decompose(logs(1, 2, 2), log_r, torch.tensor([0, 1]))
    assert found["aleatoric"].item() == 0.0
    assert found["epistemic"].item() == pytest.approx(found["nll"].item(), rel=1e-15)


@pytest.mark.parametrize("sharp", [0.5, 3.0])
def test_the_mean_of_excess_nll_over_labels_is_epistemic(sharp):
    """Summed over every label with its posterior weight, not sampled: exact."""
    log_r, log_q = logs(30, 4, seed=1, sharp=sharp), logs(2, 30, 4, seed=2)
    mean = torch.zeros(2, dtype=torch.float64)
    for item in range(30):
        for label in range(4):
            one = decompose(log_q[:, [item, item]], log_r[[item, item]], torch.tensor([label, label]))
            mean += log_r[item, label].exp() * one["excess_nll"] / 30
    epistemic = decompose(log_q, log_r, labels(log_r))["epistemic"]
    torch.testing.assert_close(mean, epistemic, rtol=1e-12, atol=1e-12)


def test_excess_nll_estimates_epistemic_within_its_standard_error():
    log_r, log_q = logs(40_000, 3, seed=1), logs(1, 40_000, 3, seed=2)
    found = decompose(log_q, log_r, labels(log_r, seed=3))
    assert abs(found["excess_nll"] - found["epistemic"]).item() < 4 * found["excess_nll_se"].item()
    assert found["excess_nll"].item() == pytest.approx(
        (found["nll"] + log_r.gather(1, labels(log_r, 3)[:, None]).mean()).item()
    )


def test_values_and_standard_errors_are_numpys():
    log_q, log_r = logs(2, 60, 3, seed=5), logs(60, 3, seed=6)
    y = labels(log_r)
    found = {name: value.numpy() for name, value in decompose(log_q, log_r, y).items()}
    q, r, y = log_q.numpy(), log_r.numpy(), y.numpy()
    for lane in range(2):
        nll, own = -q[lane, np.arange(60), y], -r[np.arange(60), y]
        kl = (np.exp(r) * (r - q[lane])).sum(-1)
        hit, bayes = (q[lane].argmax(-1) == y) * 1.0, (r.argmax(-1) == y) * 1.0
        expected = {
            "total": -(np.exp(r) * q[lane]).sum(-1).mean(),
            "aleatoric": -(np.exp(r) * r).sum(-1).mean(),
            "epistemic": kl.mean(),
            "epistemic_se": kl.std(ddof=1) / 60**0.5,
            "nll": nll.mean(),
            "excess_nll": (nll - own).mean(),
            "excess_nll_se": (nll - own).std(ddof=1) / 60**0.5,
            "accuracy": hit.mean(),
            "bayes_accuracy": bayes.mean(),
            "excess_error": (bayes - hit).mean(),
            "excess_error_se": (bayes - hit).std(ddof=1) / 60**0.5,
        }
        assert {name: found[name][lane] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-14)
        assert expected.keys() == found.keys()


def test_float32_predictions_are_measured_in_float64():
    log_r = logs(50, 3, seed=1)
    log_q = logs(2, 50, 3, seed=2).float()
    single, double = decompose(log_q, log_r, labels(log_r)), decompose(log_q.double(), log_r, labels(log_r))
    assert all(torch.equal(single[name], double[name]) for name in single)
