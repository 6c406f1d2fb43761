"""Shared mathematics against loops in NumPy, worked values, limits and exact expectations."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from preflab.method.advantages_and_ratios import at_last_token, discounted_advantages, whiten
from preflab.method.maths import explained_variance, kl_k1, kl_k2, kl_k3, log_sigmoid, masked_mean, masked_sum

EXACT = {"atol": 1e-12, "rtol": 1e-12}  # float64 sums of a few dozen terms: some 1e-15 each


def ragged(rows: int = 5, width: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return float64 rewards and values, and prefix masks of lengths 0 to `width`."""
    random = np.random.default_rng(seed)
    lengths = np.array([width, 1, 0, 4, width - 1][:rows])
    mask = np.arange(width) < lengths[:, None]
    rewards, values = random.normal(size=(2, rows, width))
    return torch.tensor(rewards), torch.tensor(values), torch.tensor(mask)


def gae_by_definition(rewards, values, mask, gamma, lam):
    """A_t = Σ_l (γλ)^l δ_{t+l}, the double sum of arXiv 1506.02438 eq. 16, one row at a time."""
    advantages = np.zeros(rewards.shape)
    for row in range(rewards.shape[0]):
        length = int(mask[row].sum())
        value = [*values[row, :length], 0.0]
        for t in range(length):
            for later in range(t, length):
                delta = rewards[row, later] + gamma * value[later + 1] - value[later]
                advantages[row, t] += (gamma * lam) ** (later - t) * delta
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_its_definition(gamma, lam):
    rewards, values, mask = ragged()
    advantages, returns = discounted_advantages(rewards, values, mask, gamma=gamma, lam=lam)
    expected = gae_by_definition(rewards.numpy(), values.numpy(), mask.numpy(), gamma, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, **EXACT)
    np.testing.assert_allclose(returns.numpy(), (expected + values.numpy()) * mask.numpy(), **EXACT)


def test_gae_worked_value():
    # δ = (1 + .5·3 − 2, 4 − 3) = (.5, 1); A = (.5 + .5·.5·1, 1) = (.75, 1); returns = A + V = (2.75, 4).
    advantages, returns = discounted_advantages(
        torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool), gamma=0.5, lam=0.5
    )
    assert advantages.tolist() == [[0.75, 1.0]]
    assert returns.tolist() == [[2.75, 4.0]]


def test_gae_with_lambda_one_is_return_minus_value():
    rewards, values, mask = ragged()
    advantages, returns = discounted_advantages(rewards, values, mask, gamma=0.9, lam=1.0)
    for row in range(len(rewards)):
        length = int(mask[row].sum())
        for t in range(length):
            monte_carlo = sum(0.9 ** (s - t) * rewards[row, s].item() for s in range(t, length))
            assert returns[row, t].item() == pytest.approx(monte_carlo, abs=1e-12)
            assert advantages[row, t].item() == pytest.approx(monte_carlo - values[row, t].item(), abs=1e-12)


def test_gae_with_lambda_zero_is_the_one_step_error():
    rewards, values, mask = ragged()
    advantages, _ = discounted_advantages(rewards, values, mask, gamma=0.9, lam=0.0)
    for row in range(len(rewards)):
        length = int(mask[row].sum())
        for t in range(length):
            following = values[row, t + 1].item() if t + 1 < length else 0.0
            error = rewards[row, t].item() + 0.9 * following - values[row, t].item()
            assert advantages[row, t].item() == pytest.approx(error, abs=1e-12)


def test_gae_of_responses_is_that_of_rows():
    rewards, values, mask = ragged(rows=4)
    shaped, _ = discounted_advantages(rewards.view(2, 2, -1), values.view(2, 2, -1), mask.view(2, 2, -1))
    flat, _ = discounted_advantages(rewards, values, mask)
    assert torch.equal(shaped.view(4, -1), flat)


def _with_nan(tensor, mask):
    return tensor.masked_fill(~mask, float("nan"))


def test_masked_nan_changes_nothing():
    rewards, values, mask = ragged()
    dirty_rewards, dirty_values = _with_nan(rewards, mask), _with_nan(values, mask)
    for clean, dirty in zip(
        discounted_advantages(rewards, values, mask),
        discounted_advantages(dirty_rewards, dirty_values, mask),
        strict=True,
    ):
        assert torch.equal(clean, dirty)
        assert (clean[~mask] == 0).all()
    for function in (masked_sum, masked_mean, whiten):
        assert torch.equal(function(rewards, mask), function(dirty_rewards, mask)), function.__name__
    assert torch.equal(explained_variance(values, rewards, mask), explained_variance(dirty_values, dirty_rewards, mask))


def test_masked_nan_leaves_gradients_alone():
    rewards, _, mask = ragged()
    leaf = _with_nan(rewards, mask).requires_grad_()
    (masked_mean(leaf, mask).sum() + (whiten(leaf, mask) ** 3).sum()).backward()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad[~mask] == 0).all()


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)).item() == 0.0
    assert masked_mean(torch.tensor([[2.0, 4.0, 9.0]]), torch.tensor([[True, True, False]])).item() == 3.0


def test_whitened_moments():
    values, _, mask = ragged()
    values = 5 + 3 * values
    inside = whiten(values, mask)[mask].numpy()
    assert inside.mean() == pytest.approx(0, abs=1e-12)
    # ε = 1e-8 is added to a variance of about 9: one part in 1e9.
    assert inside.var(ddof=1) == pytest.approx(1, abs=1e-8)
    expected = (values[mask] - values[mask].mean()) / np.sqrt(values[mask].numpy().var(ddof=1) + 1e-8)
    np.testing.assert_allclose(inside, expected.numpy(), **EXACT)


def test_whitening_without_shift_keeps_the_mean():
    values, _, mask = ragged()
    values = 5 + 3 * values
    inside = whiten(values, mask, shift_mean=False)[mask].numpy()
    assert inside.mean() == pytest.approx(values[mask].mean().item(), abs=1e-12)
    assert inside.var(ddof=1) == pytest.approx(1, abs=1e-8)


def test_whitening_one_value_or_equal_values_stays_finite():
    one = torch.tensor([[3.0, 8.0]])
    assert whiten(one, torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]
    assert whiten(torch.full((2, 2), 4.0), torch.ones(2, 2, dtype=torch.bool)).abs().max() == 0


def test_kl_estimators_worked_values():
    # π/π_ref = 2 and 1/2: k1 = ±log 2, k2 = ½ log² 2, k3 = e^{−u} − 1 + u = ½ − 1 + log 2 and 2 − 1 − log 2.
    logps = torch.tensor([0.4, 0.2], dtype=torch.float64).log()
    reference = torch.tensor([0.2, 0.4], dtype=torch.float64).log()
    log2 = np.log(2)
    np.testing.assert_allclose(kl_k1(logps, reference), [log2, -log2], **EXACT)
    np.testing.assert_allclose(kl_k2(logps, reference), [log2**2 / 2, log2**2 / 2], **EXACT)
    np.testing.assert_allclose(kl_k3(logps, reference), [log2 - 0.5, 1 - log2], **EXACT)


def test_kl_k1_and_k3_are_unbiased_and_k3_never_negative():
    random = np.random.default_rng(1)
    for _ in range(5):
        p, q = random.dirichlet(np.ones(6), size=2)
        exact = float((p * np.log(p / q)).sum())
        logps, reference = torch.tensor(np.log(p)), torch.tensor(np.log(q))
        for estimator in (kl_k1, kl_k3):
            expectation = float((torch.tensor(p) * estimator(logps, reference)).sum())
            assert expectation == pytest.approx(exact, abs=1e-12), estimator.__name__
        assert (kl_k3(logps, reference) >= 0).all()
        assert (kl_k1(logps, reference) < 0).any(), "k1 is signed"


def test_kl_k2_has_the_gradient_of_the_kl():
    # Arms drawn from π = softmax(θ): E_π[∇ k2] = E_π[(log π/π_ref) ∇ log π] = ∇ KL (arXiv 2503.01491's point).
    theta = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    logps = theta.log_softmax(0)
    (exact,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), theta, retain_graph=True)
    (estimated,) = torch.autograd.grad((logps.exp().detach() * kl_k2(logps, reference)).sum(), theta)
    torch.testing.assert_close(estimated, exact, atol=1e-12, rtol=1e-12)


def test_score_sits_on_the_last_response_token():
    mask = torch.tensor([[[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]], dtype=torch.bool)
    placed = at_last_token(torch.tensor([[5.0, -2.0, 7.0, 3.0]]), mask)
    assert placed.tolist() == [[[0, 0, 5, 0], [-2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 3]]]


def test_log_sigmoid_against_mpmath():
    mpmath.mp.dps = 60
    points = [-100.0, -40.0, -3.0, -1e-9, 0.0, 1e-9, 3.0, 40.0, 100.0]
    found = log_sigmoid(torch.tensor(points, dtype=torch.float64)).tolist()
    for x, value in zip(points, found, strict=True):
        expected = float(-mpmath.log(1 + mpmath.exp(-mpmath.mpf(x))))
        assert value == pytest.approx(expected, rel=1e-14), x


def test_log_sigmoid_gradient_is_sigmoid_of_minus_x():
    x = torch.tensor([-100.0, -2.0, 0.0, 2.0, 100.0], dtype=torch.float64, requires_grad=True)
    log_sigmoid(x).sum().backward()
    expected = [1 / (1 + float(np.exp(v))) for v in x.tolist()]
    np.testing.assert_allclose(x.grad, expected, rtol=1e-12)


def test_explained_variance():
    targets = torch.tensor([1.0, 2.0, 3.0, 4.0, 99.0])
    mask = torch.tensor([True, True, True, True, False])
    assert explained_variance(targets, targets, mask).item() == 1.0
    assert explained_variance(torch.full((5,), 2.5), targets, mask).item() == 0.0
    assert explained_variance(targets + 7, targets, mask).item() == 1.0, "a constant bias is no variance"
    # Predictions −t give errors 2t, variance 4 times the targets': 1 − 4.
    assert explained_variance(-targets, targets, mask).item() == pytest.approx(-3.0, abs=1e-6)
    assert explained_variance(targets, torch.ones(5), mask).item() == 0.0
