"""What a policy gradient replaces is what its loss is made of: the surrogate, the ratio, and nothing beside them."""

from __future__ import annotations

import pytest
import torch
from rollouts import METHODS, make_rollout, moved, randoms

from preflab import TokenPolicyGradientConfig, unit_mask

methods = pytest.mark.parametrize("method", [method for method, _ in METHODS], ids=lambda method: method.__name__)


def found(method, rollout, **fields):
    """Return the prepared batch, the loss and the mask of its units; each action is one."""
    weighed = {"loss_normalisation": "token"} if issubclass(method.Config, TokenPolicyGradientConfig) else {}
    algorithm = method(method.Config(**{"samples_per_prompt": 3, "kl_coefficient": 0.0, **weighed, **fields}))
    batch = algorithm.prepare(rollout)
    loss = algorithm.loss(batch, moved(rollout))
    return batch, loss, unit_mask(batch, algorithm.needs.unit)


@methods
def test_the_loss_is_the_surrogate_and_what_is_added_to_it(method, monkeypatch):
    """7 more for each action is 7 more in the loss; the value's loss and the KL's stay."""
    fields = {"kl_in": "loss", "kl_estimator": "k2", "kl_coefficient": 0.3}
    rollout = make_rollout()
    batch, plain, mask = found(method, rollout, **fields)
    original, seen = method.surrogate, []

    def surrogate(self, ratio, advantages):
        seen.append((ratio, advantages))
        return original(self, ratio, advantages) + 7

    monkeypatch.setattr(method, "surrogate", surrogate)
    _, shifted, _ = found(method, rollout, **fields)
    torch.testing.assert_close(shifted.values[mask], plain.values[mask] + 7, rtol=1e-12, atol=1e-12)
    means = [loss.metrics["policy_loss"].total / loss.metrics["policy_loss"].items for loss in (plain, shifted)]
    assert means[1].item() == pytest.approx(means[0].item() + 7, rel=1e-6)  # float32
    ((ratio, advantages),) = seen
    assert torch.broadcast_shapes(ratio.shape, advantages.shape) == ratio.shape
    assert torch.equal(advantages.flatten(), batch.feedback.advantages.flatten())


@methods
def test_the_surrogate_is_weighted_where_another_engine_drew(method, monkeypatch):
    rollout = make_rollout()
    drawn = rollout.scores.logps + randoms(rollout.scores.logps.shape, 70, 0.3)
    rollout = rollout._replace(sampler_logps=drawn)
    batch, plain, mask = found(method, rollout)
    original = method.surrogate
    monkeypatch.setattr(method, "surrogate", lambda self, ratio, advantages: original(self, ratio, advantages) + 7)
    _, shifted, _ = found(method, rollout)
    weights = batch.feedback.importance_weights
    torch.testing.assert_close((shifted.values - plain.values)[mask], 7 * weights[mask], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", [method for method, _ in METHODS[:4]], ids=lambda method: method.__name__)
def test_the_ratio_is_the_methods_own(method, monkeypatch):
    rollout = make_rollout()

    def ratio(self, logps, behaviour_logps, mask):
        expected = moved(rollout).logps, rollout.scores.logps, rollout.batch.response_mask
        assert all(torch.equal(x, y) for x, y in zip((logps, behaviour_logps, mask), expected, strict=True))
        shape = mask.shape if self.action == "token" else mask.shape[:2]
        return torch.full(shape, 1.5, dtype=logps.dtype)

    monkeypatch.setattr(method, "ratio", ratio)
    _, loss, mask = found(method, rollout, clip_range=None)
    batch, _, _ = found(method, rollout)
    advantages = batch.feedback.advantages
    advantages = advantages if advantages.ndim == mask.ndim else advantages.unsqueeze(-1).expand_as(mask)
    torch.testing.assert_close(loss.values[mask], -1.5 * advantages[mask], rtol=1e-12, atol=1e-12)
    assert (loss.metrics["ratio"].total / loss.metrics["ratio"].items).item() == 1.5


@methods
def test_a_surrogate_that_averages_is_refused(method, monkeypatch):
    """A mean would be weighted into the shape of the actions, and averaged once more."""
    original = method.surrogate
    monkeypatch.setattr(method, "surrogate", lambda self, ratio, advantages: original(self, ratio, advantages).mean())
    with pytest.raises(ValueError, match=r"the surrogate is \(\); it must be the loss of each action"):
        found(method, make_rollout())


@pytest.mark.parametrize("method", [method for method, _ in METHODS[:4]], ids=lambda method: method.__name__)
def test_advantages_of_prompts_are_refused(method, monkeypatch):
    """They would be spread over the responses of a prompt, or fail in the loss."""
    original = method.advantages
    monkeypatch.setattr(method, "advantages", lambda self, *given: original(self, *given).flatten(1).sum(1))
    with pytest.raises(
        ValueError, match=r"the advantages are \(\d+,\); they must be \(\d+, 3\)( or \(\d+, 3, \d+\))?$"
    ):
        found(method, make_rollout())
