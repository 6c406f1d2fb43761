"""Losses: worked values, limits, independent NumPy references, gradients, mutations, junk under the masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from algorithms.dpo import DPO, DPOConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.reward import Reward, RewardConfig
from algorithms.sft import SFT, SFTConfig
from preflab.method.contract import Batch, Rollout, Scores, unit_mask

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # float64, sums of a few dozen terms
NAN = float("nan")


def make_batch(lengths, width=6, feedback=None):
    """Return a batch of prompts of three tokens and responses of these ``[B][K]`` lengths."""
    lengths = torch.tensor(lengths)
    mask = torch.arange(width) < lengths[..., None]
    prompts = len(lengths)
    return Batch(
        torch.full((prompts, 3), 5),
        torch.ones(prompts, 3, dtype=torch.bool),
        torch.full((*lengths.shape, width), 7),
        mask,
        feedback or {},
    )


def randoms(shape, seed, scale=1.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


# ---- DPO ---------------------------------------------------------------------------------------------


def dpo_scores(batch, seed=0):
    shape = batch.response_mask.shape
    return Scores(randoms(shape, seed) - 2, randoms(shape, seed + 1) - 2)


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


# ---- PPO's loss --------------------------------------------------------------------------------------

LENGTHS = [[6, 3], [1, 5]]
EPSILON, VALUE_EPSILON, C = 0.2, 0.3, 0.5
CONFIG = PPOConfig(clip_range=EPSILON, value_clip_range=VALUE_EPSILON, value_coefficient=C)
SHAPE = (2, 2, 6)


def ppo_case(seed=0):
    """Return batch and scores with ratios and value moves on both sides of their clips."""
    feedback = {
        "behaviour_logps": randoms(SHAPE, seed) - 2,
        "behaviour_values": randoms(SHAPE, seed + 1),
        "advantages": randoms(SHAPE, seed + 2),
        "returns": randoms(SHAPE, seed + 3),
        "return_deviation": randoms(SHAPE, seed + 4),
    }
    batch = make_batch(LENGTHS, feedback=feedback)
    logps = feedback["behaviour_logps"] + randoms(SHAPE, seed + 5, 0.3)
    values = feedback["behaviour_values"] + randoms(SHAPE, seed + 6, 0.5)
    return batch, Scores(logps=logps, values=values)


def ppo_token_loss(new_logp, old_logp, advantage, value, old_value, target):
    """One token of arXiv 1707.06347 eq. 7 and 9, the values clipped as in OpenAI's baselines."""
    ratio = math.exp(new_logp - old_logp)
    surrogate = min(ratio * advantage, min(max(ratio, 1 - EPSILON), 1 + EPSILON) * advantage)
    clipped_value = old_value + min(max(value - old_value, -VALUE_EPSILON), VALUE_EPSILON)
    value_loss = 0.5 * max((value - target) ** 2, (clipped_value - target) ** 2)
    return -surrogate + C * value_loss


def tokens(batch):
    return [tuple(index) for index in batch.response_mask.nonzero().tolist()]


def token_arguments(batch, scores, index):
    feedback = batch.feedback
    return [
        float(x[index])
        for x in (
            scores.logps,
            feedback["behaviour_logps"],
            feedback["advantages"],
            scores.values,
            feedback["behaviour_values"],
            feedback["returns"],
        )
    ]


@pytest.mark.parametrize("seed", range(4))
def test_ppo_loss_and_gradient_are_the_papers(seed):
    batch, scores = ppo_case(seed)
    logps, values = scores.logps.clone().requires_grad_(), scores.values.clone().requires_grad_()
    loss = PPO(CONFIG).loss(batch, Scores(logps=logps, values=values)).values
    loss.masked_fill(~batch.response_mask, 0.0).sum().backward()
    step = 1e-6
    for index in tokens(batch):
        arguments = token_arguments(batch, scores, index)
        assert loss[index].item() == pytest.approx(ppo_token_loss(*arguments), rel=1e-11, abs=1e-11)
        for leaf, at in ((logps, 0), (values, 3)):
            up, down = list(arguments), list(arguments)
            up[at], down[at] = up[at] + step, down[at] - step
            slope = (ppo_token_loss(*up) - ppo_token_loss(*down)) / (2 * step)
            # Central differences: truncation ~1e-12, rounding ~1e-16/1e-6.
            assert leaf.grad[index].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert (logps.grad[~batch.response_mask] == 0).all()
    assert (values.grad[~batch.response_mask] == 0).all()


def ppo_single(new_logp, advantage, value=0.0, target=0.0, old_value=0.0):
    """Return loss value and gradients for one token whose behaviour log-probability is 0."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    feedback = {
        "behaviour_logps": one * 0,
        "behaviour_values": one * old_value,
        "advantages": one * advantage,
        "returns": one * target,
        "return_deviation": one * 0,
    }
    logps, values = (one * new_logp).requires_grad_(), (one * value).requires_grad_()
    loss = PPO(CONFIG).loss(make_batch([[1]], 1, feedback), Scores(logps=logps, values=values))
    loss.values.sum().backward()
    clipped = loss.metrics["clip_fraction"].total.item()
    return loss.values.item(), logps.grad.item(), values.grad.item(), clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # L = −min(ρA, clip(ρ)A); dL/dlog π = −ρA where the unclipped term is the smaller, else 0.
        (1.1, 2.0, -2.2, -2.2),  # A > 0, inside
        (1.5, 2.0, -2.4, 0.0),  # A > 0, above: gain ends at 1.2 · 2
        (0.5, 2.0, -1.0, -1.0),  # A > 0, below: unclipped, must be able to come back
        (1.1, -2.0, 2.2, 2.2),  # A < 0, inside
        (1.5, -2.0, 3.0, 3.0),  # A < 0, above: unclipped
        (0.5, -2.0, 1.6, 0.0),  # A < 0, below: gain ends at .8 · 2
    ],
)
def test_ppo_clip_cases(ratio, advantage, loss, gradient):
    found, slope, _, clipped = ppo_single(math.log(ratio), advantage)
    assert found == pytest.approx(loss, rel=1e-12)
    assert slope == pytest.approx(gradient, abs=1e-12)
    assert clipped == (0.0 if ratio == 1.1 else 1.0)


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        # Old value 0, clip 0.3, c = .5: L = .25 max((V−R)², (V_clip−R)²); V_clip is constant outside the clip.
        (0.2, 1.0, 0.25 * 0.8**2, 0.5 * -0.8),  # inside
        (0.5, 1.0, 0.25 * 0.7**2, 0.0),  # too far up towards the target: no more pull
        (0.5, -1.0, 0.25 * 1.5**2, 0.5 * 1.5),  # too far up, away from the target: pulled back in full
        (-0.5, -1.0, 0.25 * 0.7**2, 0.0),  # too far down towards the target
        (-0.5, 1.0, 0.25 * 1.5**2, 0.5 * -1.5),  # too far down, away
    ],
)
def test_value_clip_cases(value, target, loss, gradient):
    found, _, slope, _ = ppo_single(0.0, 0.0, value, target)
    assert found == pytest.approx(loss, rel=1e-12)
    assert slope == pytest.approx(gradient, abs=1e-12)


def test_ppo_gradient_at_ratio_one_is_a2cs():
    batch, scores = ppo_case()
    leaf = batch.feedback["behaviour_logps"].clone().requires_grad_()
    loss = PPO(CONFIG).loss(batch, Scores(logps=leaf, values=scores.values)).values
    loss.masked_fill(~batch.response_mask, 0.0).sum().backward()
    mask = batch.response_mask
    # ∇(−A log π) = −A.
    torch.testing.assert_close(leaf.grad[mask], -batch.feedback["advantages"][mask], rtol=0, atol=1e-15)


def test_ppo_metrics_by_loop():
    batch, scores = ppo_case()
    metrics = PPO(CONFIG).loss(batch, scores).metrics
    rows = [token_arguments(batch, scores, index) for index in tokens(batch)]
    log_ratios = [row[0] - row[1] for row in rows]
    expected = {
        "ratio": sum(map(math.exp, log_ratios)),
        "clip_fraction": sum(abs(math.exp(u) - 1) > EPSILON for u in log_ratios),
        # k3 for samples of π_old: ρ − 1 − log ρ.
        "approx_kl": sum(math.exp(u) - 1 - u for u in log_ratios),
        "value_error": sum((row[3] - row[5]) ** 2 for row in rows),
        "return_variance": sum(float(batch.feedback["return_deviation"][index]) ** 2 for index in tokens(batch)),
        "policy_loss": sum(ppo_token_loss(*row[:3], 0, 0, 0) for row in rows),
        "value_loss": sum(ppo_token_loss(0, 0, 0, *row[3:]) / C for row in rows),
    }
    assert set(metrics) == set(PPO.metrics)
    explained = metrics.pop("explained_variance")
    assert explained.items.item() == pytest.approx(expected["return_variance"], rel=1e-5)
    assert explained.total.item() == pytest.approx(expected["return_variance"] - expected["value_error"], rel=1e-5)
    for name, mean in metrics.items():
        assert mean.items.item() == len(rows), name
        assert mean.total.item() == pytest.approx(expected[name], rel=1e-5), name  # metrics are float32


def with_junk(batch, scores, junk):
    """Fill every masked position of feedback and scores with junk."""

    def dirty(x):
        return x if x is None or x.ndim < 3 else x.masked_fill(~batch.response_mask, junk)

    feedback = {name: dirty(x) for name, x in batch.feedback.items()}
    ids = batch.response_ids.masked_fill(~batch.response_mask, 10**6)
    return batch._replace(feedback=feedback, response_ids=ids), Scores(*(dirty(x) for x in scores))


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
        batch._map(lambda x: x[order]), Scores(logps=scores.logps[order], values=scores.values[order])
    )
    mask = batch.response_mask
    assert torch.equal(turned.values[order][mask], expected.values[mask])

    def padded(x):
        return torch.nn.functional.pad(x, (0, 3), value=3) if x.ndim == 3 and x.dtype != torch.bool else x

    wide = batch._map(padded)._replace(response_mask=torch.nn.functional.pad(mask, (0, 3), value=False))
    found = PPO(CONFIG).loss(wide, Scores(logps=padded(scores.logps), values=padded(scores.values)))
    assert torch.equal(found.values[..., :6][mask], expected.values[mask])
    for other in (turned, found):
        for name, mean in expected.metrics.items():
            # The order of a float32 sum of 15 numbers: some 1e-7.
            assert other.metrics[name].total.item() == pytest.approx(mean.total.item(), rel=1e-6), name
            assert other.metrics[name].items.item() == pytest.approx(mean.items.item(), rel=1e-6), name


def assert_ppo_prefers_good_tokens(algorithm):
    batch, scores = ppo_case()
    leaf = batch.feedback["behaviour_logps"].clone().requires_grad_()
    values = scores.values.clone().requires_grad_()
    mask = batch.response_mask
    loss = algorithm.loss(batch, Scores(logps=leaf, values=values)).values
    loss.masked_fill(~mask, 0).sum().backward()
    assert (leaf.grad[mask].sign() == -batch.feedback["advantages"][mask].sign()).all()
    pull = values.grad[mask] * (values - batch.feedback["returns"])[mask]
    assert (pull >= 0).all()
    assert (pull > 0).any()


def test_ppo_direction_and_its_mutations(monkeypatch):
    assert_ppo_prefers_good_tokens(PPO(CONFIG))
    original = PPO.loss

    def mutant(change):
        def loss(self, batch, scores):
            result = original(self, batch, scores)
            return result._replace(values=change(result.values))

        return loss

    for change in (lambda v: -v, lambda v: v * 0):
        monkeypatch.setattr(PPO, "loss", mutant(change))
        with pytest.raises(AssertionError):
            assert_ppo_prefers_good_tokens(PPO(CONFIG))


# ---- PPO's prepare -----------------------------------------------------------------------------------


def rollout_case(junk=None):
    batch = make_batch(LENGTHS)
    mask = batch.response_mask
    fields = [randoms(SHAPE, 20) - 2, randoms(SHAPE, 21) - 2, randoms(SHAPE, 22)]
    fill = 0.0 if junk is None else junk
    logps, reference, values = (x.masked_fill(~mask, fill) for x in fields)
    return Rollout(batch, Scores(logps, reference, values, randoms((2, 2), 23)), torch.ones(2, 2, dtype=torch.bool))


def prepare_by_loop(rollout, config):
    """Token rewards, GAE and whitening, response by response, in plain Python."""
    scores = [x.numpy() for x in rollout.scores]
    logps, reference, values, score = scores
    lengths = rollout.batch.response_mask.sum(-1).numpy()
    rewards = {}
    for b, k in np.ndindex(lengths.shape):
        for t in range(lengths[b, k]):
            kl = logps[b, k, t] - reference[b, k, t]
            last = score[b, k] if t == lengths[b, k] - 1 else 0.0
            rewards[b, k, t] = last - config.kl_coefficient * kl
    if config.whiten_rewards:
        every = list(rewards.values())
        mean, deviation = np.mean(every), np.sqrt(np.var(every, ddof=1) + 1e-8)
        rewards = {index: (reward - mean) / deviation + mean for index, reward in rewards.items()}
    advantages, returns = {}, {}
    for b, k in np.ndindex(lengths.shape):
        length, carried = lengths[b, k], 0.0
        for t in reversed(range(length)):
            following = values[b, k, t + 1] if t + 1 < length else 0.0
            carried = (
                rewards[b, k, t]
                + config.gamma * following
                - values[b, k, t]
                + config.gamma * config.gae_lambda * carried
            )
            advantages[b, k, t] = carried
            returns[b, k, t] = carried + values[b, k, t]
    if config.whiten_advantages:
        every = list(advantages.values())
        mean, deviation = np.mean(every), np.sqrt(np.var(every, ddof=1) + 1e-8)
        advantages = {index: (advantage - mean) / deviation for index, advantage in advantages.items()}
    return advantages, returns


@pytest.mark.parametrize("whiten_advantages", [True, False])
@pytest.mark.parametrize("whiten_rewards", [True, False])
def test_prepare_by_loop(whiten_advantages, whiten_rewards):
    config = PPOConfig(
        kl_coefficient=0.3,
        gamma=0.97,
        gae_lambda=0.8,
        whiten_advantages=whiten_advantages,
        whiten_rewards=whiten_rewards,
    )
    rollout = rollout_case()
    feedback = PPO(config).prepare(rollout).feedback
    advantages, returns = prepare_by_loop(rollout, config)
    for index in tokens(rollout.batch):
        assert feedback["advantages"][index].item() == pytest.approx(advantages[index], rel=1e-10, abs=1e-10)
        assert feedback["returns"][index].item() == pytest.approx(returns[index], rel=1e-10, abs=1e-10)
    mean = np.mean(list(returns.values()))
    for index in tokens(rollout.batch):
        assert feedback["return_deviation"][index].item() == pytest.approx(returns[index] - mean, abs=1e-10)
    mask = rollout.batch.response_mask
    assert torch.equal(feedback["behaviour_logps"][mask], rollout.scores.logps[mask])
    assert torch.equal(feedback["behaviour_values"][mask], rollout.scores.values[mask])
    assert all((feedback[name][~mask] == 0).all() for name in ("advantages", "returns", "return_deviation"))


def test_prepare_worked_value():
    # Two tokens, β = .1, γ = λ = 1, V = 0. KL (1, −2): rewards (−.1, .2 + 3); returns (3.1, 3.2).
    batch = make_batch([[2]], width=2)
    scores = Scores(
        torch.tensor([[[-1.0, -4.0]]]), torch.tensor([[[-2.0, -2.0]]]), torch.zeros(1, 1, 2), torch.tensor([[3.0]])
    )
    config = PPOConfig(kl_coefficient=0.1, gae_lambda=1.0, whiten_advantages=False)
    feedback = PPO(config).prepare(Rollout(batch, scores, torch.tensor([[True]]))).feedback
    assert feedback["returns"].flatten().tolist() == pytest.approx([3.1, 3.2], rel=1e-6)


def test_prepare_ignores_junk_under_the_mask():
    clean, dirty = rollout_case(), rollout_case(NAN)
    for config in (PPOConfig(), PPOConfig(whiten_rewards=True)):
        expected, found = PPO(config).prepare(clean).feedback, PPO(config).prepare(dirty).feedback
        for name in ("advantages", "returns", "return_deviation"):
            assert torch.equal(found[name], expected[name]), name
