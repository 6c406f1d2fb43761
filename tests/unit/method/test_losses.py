"""Losses: worked values, limits, independent NumPy references, gradients, mutations, junk under the masks."""

from __future__ import annotations

import math

import pytest
import torch
from loss_cases import LENGTHS, NAN, dpo_scores, make_batch, randoms
from ppo_case import CONFIG, ppo_case

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.ppo import PPO
from preflab.algorithms.reward import Reward, RewardConfig
from preflab.algorithms.sft import SFT, SFTConfig
from preflab.method.contract import Scores, unit_mask


def test_dpo_worked_value():
    # Log-ratios: chosen (−1) − (−2) = 1, rejected (−3) − (−1) = −2; h = 3; L = log(1 + e^{−0.5·3}).
    batch = make_batch([[1, 1]], width=1)
    scores = Scores(
        torch.tensor([[[-1.0], [-3.0]]], dtype=torch.float64), torch.tensor([[[-2.0], [-1.0]]], dtype=torch.float64)
    )
    loss = DPO(DPOConfig(beta=0.5)).loss(batch, scores)
    assert loss.values.tolist() == pytest.approx([math.log1p(math.exp(-1.5))], rel=1e-12)
    found = {name: mean.total.item() / mean.items.item() for name, mean in loss.metrics.items()}
    assert found == {"accuracy": 1.0, "margin": 3.0, "chosen_logps": -1.0, "rejected_logps": -3.0}


def test_dpo_is_its_equation():
    batch = make_batch([[4, 6], [1, 2], [6, 6]])
    scores = dpo_scores(batch)
    found = DPO(DPOConfig(beta=0.3)).loss(batch, scores).values
    for row, (chosen, rejected) in enumerate([[4, 6], [1, 2], [6, 6]]):
        ratio = [
            float((scores.logps[row, k, :n] - scores.reference_logps[row, k, :n]).sum())
            for k, n in enumerate((chosen, rejected))
        ]
        assert found[row].item() == pytest.approx(math.log1p(math.exp(-0.3 * (ratio[0] - ratio[1]))), rel=1e-12)


def test_dpo_at_the_reference_is_log_two():
    batch = make_batch([[4, 6], [1, 2]])
    logps = dpo_scores(batch).logps
    for beta in (0.01, 1.0, 10.0):
        assert DPO(DPOConfig(beta=beta)).loss(batch, Scores(logps, logps)).values.tolist() == [math.log(2)] * 2


def test_dpo_gradcheck():
    batch = make_batch([[4, 6], [1, 2]])
    scores = dpo_scores(batch)
    leaf = scores.logps.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logps: DPO(DPOConfig(beta=0.7)).loss(batch, Scores(logps, scores.reference_logps)).values, leaf
    )


def test_dpo_refuses_groups_that_are_no_pairs():
    batch = make_batch([[1, 2, 3]])
    with pytest.raises(ValueError, match="2 responses"):
        DPO(DPOConfig()).loss(batch, dpo_scores(batch))


def assert_dpo_prefers_chosen(algorithm):
    """A small step down the gradient must raise chosen and lower rejected log-probabilities."""
    batch = make_batch([[4, 6], [1, 2]])
    scores = dpo_scores(batch)
    leaf = scores.logps.clone().requires_grad_()
    algorithm.loss(batch, Scores(leaf, scores.reference_logps)).values.sum().backward()
    mask = batch.response_mask
    assert (leaf.grad[:, 0][mask[:, 0]] < 0).all()
    assert (leaf.grad[:, 1][mask[:, 1]] > 0).all()
    assert (leaf.grad[~mask] == 0).all()


def test_dpo_label_direction_and_its_mutations(monkeypatch):
    assert_dpo_prefers_chosen(DPO(DPOConfig()))
    original = DPO.pair_loss
    mutants = (
        lambda self, pair: -original(self, pair),
        lambda self, pair: original(self, type(pair)(*(field.flip(1) for field in pair))),  # labels swapped
        lambda self, pair: pair.margin * 0,
    )
    for mutant in mutants:
        monkeypatch.setattr(DPO, "pair_loss", mutant)
        with pytest.raises(AssertionError):
            assert_dpo_prefers_chosen(DPO(DPOConfig()))


# ---- reward and SFT ----------------------------------------------------------------------------------


def assert_reward_prefers_chosen(algorithm):
    batch = make_batch([[1, 1], [1, 1]], width=1)
    rewards = torch.tensor([[2.0, -1.0], [0.0, 5.0]], dtype=torch.float64, requires_grad=True)
    algorithm.loss(batch, Scores(rewards=rewards)).values.sum().backward()
    assert (rewards.grad[:, 0] < 0).all()
    assert (rewards.grad[:, 1] > 0).all()


def test_reward_worked_values():
    batch = make_batch([[1, 1]] * 3, width=1)
    rewards = torch.tensor([[2.0, -1.0], [1.5, 1.5], [0.0, 5.0]], dtype=torch.float64)
    loss = Reward(RewardConfig()).loss(batch, Scores(rewards=rewards))
    # P(chosen beats rejected) = σ(r_c − r_r).
    expected = [-math.log(1 / (1 + math.exp(-margin))) for margin in (3.0, 0.0, -5.0)]
    assert loss.values.tolist() == pytest.approx(expected, rel=1e-12)
    assert loss.metrics["accuracy"].total.item() == 1.0
    assert loss.metrics["margin"].total.item() == -2.0


def test_reward_gradcheck():
    batch = make_batch([[1, 1]] * 3, width=1)
    rewards = randoms((3, 2), 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: Reward(RewardConfig()).loss(batch, Scores(rewards=r)).values, rewards)


def test_reward_label_direction_and_its_mutation(monkeypatch):
    assert_reward_prefers_chosen(Reward(RewardConfig()))
    original = Reward.loss

    def negated(self, batch, scores):
        loss = original(self, batch, scores)
        return loss._replace(values=-loss.values)

    monkeypatch.setattr(Reward, "loss", negated)
    with pytest.raises(AssertionError):
        assert_reward_prefers_chosen(Reward(RewardConfig()))


def test_sft_is_the_negative_log_likelihood_of_response_tokens():
    batch = make_batch([[4], [2]])
    logps = (randoms((2, 1, 6), 0) - 3).masked_fill(~batch.response_mask, NAN)
    loss = SFT(SFTConfig()).loss(batch, Scores(logps))
    mask = unit_mask(batch, "token")
    assert torch.equal(loss.values[mask], -logps[mask])
    assert loss.metrics["nll"].items.item() == 6
    assert loss.metrics["nll"].total.item() == pytest.approx(-logps[mask].sum().item(), rel=1e-6)


def with_junk(batch, scores, junk):
    """Fill every masked position of feedback and scores with junk."""

    def dirty(x):
        return x if x is None or x.ndim < 3 else x.masked_fill(~batch.response_mask, junk)

    feedback = batch.feedback.changed(dirty)
    ids = batch.response_ids.masked_fill(~batch.response_mask, 10**6)
    return batch.replace(feedback=feedback, response_ids=ids), Scores(*(dirty(x) for x in scores))


def same_loss(unit, batch, found, expected):
    mask = unit_mask(batch, unit)
    assert torch.equal(found.values[mask], expected.values[mask])
    for name, mean in expected.metrics.items():
        assert torch.equal(found.metrics[name].total, mean.total), name
        assert torch.equal(found.metrics[name].items, mean.items), name


@pytest.mark.parametrize("junk", [NAN, float("inf"), 1e30])
def test_junk_under_the_mask_changes_neither_losses_nor_metrics(junk):
    batch, scores = ppo_case()
    expected, found = PPO(CONFIG).loss(batch, scores), PPO(CONFIG).loss(*with_junk(batch, scores, junk))
    same_loss("token", batch, found, expected)
    pairs = make_batch(LENGTHS)
    pair_scores = dpo_scores(pairs)
    for algorithm, unit in ((DPO(DPOConfig()), "prompt"), (SFT(SFTConfig()), "token")):
        expected, found = algorithm.loss(pairs, pair_scores), algorithm.loss(*with_junk(pairs, pair_scores, junk))
        same_loss(unit, pairs, found, expected)


@pytest.mark.parametrize("junk", [NAN, float("inf"), 1e30])
def test_junk_under_the_mask_changes_no_gradient(junk):
    batch, scores = ppo_case()
    mask, found = batch.response_mask, []
    for case, given in ((batch, scores), with_junk(batch, scores, junk)):
        logps, values = given.logps.clone().requires_grad_(), given.values.clone().requires_grad_()
        loss = PPO(CONFIG).loss(case, Scores(logps=logps, values=values)).values
        loss.masked_fill(~mask, 0.0).sum().backward()
        assert (logps.grad[~mask] == 0).all()
        found.append((logps.grad[mask], values.grad[mask]))
    for clean, dirty in zip(*found, strict=True):
        assert torch.equal(clean, dirty)


def test_order_of_the_batch_and_extra_padding_change_nothing():
    batch, scores = ppo_case()
    expected = PPO(CONFIG).loss(batch, scores)
    order = torch.tensor([1, 0])
    turned = PPO(CONFIG).loss(
        batch.changed(lambda x: x[order]), Scores(logps=scores.logps[order], values=scores.values[order])
    )
    mask = batch.response_mask
    assert torch.equal(turned.values[order][mask], expected.values[mask])

    def padded(x):
        return torch.nn.functional.pad(x, (0, 3), value=3) if x.ndim == 3 and x.dtype != torch.bool else x

    wide = batch.changed(padded).replace(response_mask=torch.nn.functional.pad(mask, (0, 3), value=False))
    found = PPO(CONFIG).loss(wide, Scores(logps=padded(scores.logps), values=padded(scores.values)))
    assert torch.equal(found.values[..., :6][mask], expected.values[mask])
    for other in (turned, found):
        for name, mean in expected.metrics.items():
            # The order of a float32 sum of 15 numbers: some 1e-7.
            assert other.metrics[name].total.item() == pytest.approx(mean.total.item(), rel=1e-6), name
            assert other.metrics[name].items.item() == pytest.approx(mean.items.item(), rel=1e-6), name
