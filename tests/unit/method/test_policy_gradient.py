"""Policy gradients: every prepare and loss against plain loops, their limits, mutations, junk under the masks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from algorithms.a2c import A2C, A2CConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.reinforce import REINFORCE, REINFORCEConfig
from algorithms.reinforce_pp import REINFORCEPP, REINFORCEPPConfig
from algorithms.rloo import RLOO, RLOOConfig
from preflab import PolicyGradient, PolicyGradientConfig
from preflab.method.contract import Algorithm, Batch, KnownOptimum, Prepares, Rollout, Scores, unit_mask
from preflab.method.maths import moments
from preflab.method.on_policy import adapted_kl_coefficient, clipped_surrogate, mean_of_others, whiten

NAN = float("nan")
LENGTHS = np.array([[6, 3, 1], [1, 5, 4]])
SHAPE = (2, 3, 6)
METHODS = [
    (REINFORCE, REINFORCEConfig),
    (RLOO, RLOOConfig),
    (GRPO, GRPOConfig),
    (REINFORCEPP, REINFORCEPPConfig),
    (A2C, A2CConfig),
    (PPO, PPOConfig),
]
IN_LOSS = {"kl_in": "loss", "kl_estimator": "k3", "kl_coefficient": 0.3}
# Every branch of every method's prepare and loss; the loops below read the same fields.
CASES = [
    (REINFORCE, REINFORCEConfig(baseline="none", kl_coefficient=0.3)),
    (REINFORCE, REINFORCEConfig(baseline="batch", kl_coefficient=0.3, kl_estimator="k2")),
    (REINFORCE, REINFORCEConfig(baseline="moving_average", missing_end_score=-2.0)),
    (REINFORCE, REINFORCEConfig(clip_range=0.1, **IN_LOSS)),
    (RLOO, RLOOConfig(kl_coefficient=0.3)),
    (RLOO, RLOOConfig(kl_coefficient=0.3, clip_range=0.2, whiten_advantages=True, missing_end_penalty=1.5)),
    (RLOO, RLOOConfig(kl_in="loss", kl_estimator="k2", clip_range=0.1, clip_range_high=0.4)),
    (GRPO, GRPOConfig()),
    (GRPO, GRPOConfig(scale_rewards="batch", loss_normalisation="token", clip_range_high=0.28)),
    (GRPO, GRPOConfig(scale_rewards="none", loss_normalisation="constant", loss_constant=6.0, kl_estimator="k2")),
    (GRPO, GRPOConfig(kl_in="reward", kl_estimator="k3", clip_range=None)),
    (REINFORCEPP, REINFORCEPPConfig(kl_coefficient=0.3)),
    (REINFORCEPP, REINFORCEPPConfig(baseline="group", gamma=0.9, kl_estimator="k3", samples_per_prompt=3)),
    (A2C, A2CConfig(gamma=0.97, gae_lambda=0.8, kl_coefficient=0.3)),
    (A2C, A2CConfig(bootstrap_truncated=True, whiten_advantages=False, whiten_rewards=True)),
    (A2C, A2CConfig(value_warmup_rollouts=1, loss_normalisation="response", **IN_LOSS)),
    (PPO, PPOConfig(kl_coefficient=0.3, value_clip_range=0.3, value_coefficient=0.5)),
    (PPO, PPOConfig(clip_range_high=0.4, value_clip_range=None, missing_end_penalty=0.7, kl_target=2.0)),
    (PPO, PPOConfig(loss_normalisation="response", kl_in="loss", kl_estimator="k2", kl_target=2.0)),
]


def name_of(case):
    method, config = case
    changed = [
        f"{f.name}={getattr(config, f.name)}"
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(method.Config(), f.name)
    ]
    return "-".join([method.__name__, *changed])


cases = pytest.mark.parametrize(("method", "config"), CASES, ids=map(name_of, CASES))
methods = pytest.mark.parametrize(("method", "config"), METHODS, ids=[m.__name__ for m, _ in METHODS])


def randoms(shape, seed, scale=1.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


def make_batch(lengths=LENGTHS, width=6):
    lengths = torch.as_tensor(lengths)
    mask = torch.arange(width) < lengths[..., None]
    prompt = torch.full((len(lengths), 3), 5)
    return Batch(prompt, prompt > 0, torch.full(mask.shape, 7), mask)


def make_rollout(seed=0, junk=0.0, lengths=LENGTHS, width=6):
    batch = make_batch(lengths, width)
    shape = batch.response_mask.shape
    logps, reference, values = (
        (randoms(shape, seed + i) - offset).masked_fill(~batch.response_mask, junk)
        for i, offset in enumerate((2, 2, 0))
    )
    ended = torch.tensor(np.random.default_rng(seed + 9).random(shape[:2]) < 0.5)
    return Rollout(batch, Scores(logps, reference, values, randoms(shape[:2], seed + 3)), ended)


def moved(rollout, seed=50, junk=0.0):
    """Scores after some steps: ratios on both sides of the clips."""
    mask = rollout.batch.response_mask
    logps = (rollout.scores.logps + randoms(mask.shape, seed, 0.25)).masked_fill(~mask, junk)
    values = (rollout.scores.values + randoms(mask.shape, seed + 1, 0.5)).masked_fill(~mask, junk)
    return Scores(logps=logps, values=values)


# ---- independent loops -------------------------------------------------------------------------------

WHOLE = (REINFORCE, RLOO)


def k_estimate(name, log_ratio):
    return {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": math.exp(-log_ratio) - 1 + log_ratio}[name]


def responses(rollout):
    """Yield index, length, log-probabilities, reference's and values of each response, as lists."""
    lengths = rollout.batch.response_mask.sum(-1)
    for b, k in np.ndindex(*lengths.shape):
        n = int(lengths[b, k])
        yield (b, k), n, *([float(x) for x in field[b, k, :n]] for field in rollout.scores[:3])


def rewards_by_loop(method, config, rollout):
    """Reward of each token (in WHOLE, of the last token alone), as lists."""
    found = {}
    for index, n, logps, reference, values in responses(rollout):
        score, ended = float(rollout.scores.rewards[index]), bool(rollout.ended[index])
        if not ended:
            if config.missing_end_score is not None:
                score = config.missing_end_score
            score -= config.missing_end_penalty or 0.0
            if getattr(config, "bootstrap_truncated", False):
                score = values[-1]
        row = [0.0] * n
        row[-1] = score
        if config.kl_in == "reward" and method in WHOLE:
            row[-1] -= config.kl_coefficient * k_estimate(config.kl_estimator, sum(logps) - sum(reference))
        elif config.kl_in == "reward":
            pairs = zip(row, logps, reference, strict=True)
            row = [r - config.kl_coefficient * k_estimate(config.kl_estimator, a - b) for r, a, b in pairs]
        found[index] = row
    return found


def rescaled(rows, epsilon=1e-8, shift=True, keep_mean=False):
    flat = [x for row in rows.values() for x in row]
    mean, deviation = np.mean(flat), math.sqrt(np.var(flat, ddof=1) + epsilon)
    back = mean if keep_mean else 0.0
    return {index: [(x - mean) / deviation + back for x in row] for index, row in rows.items()}


def gae(rewards, values, gamma, lam):
    """The definition: A_t = Σ_l (γλ)^l (r_{t+l} + γ V_{t+l+1} − V_{t+l})."""
    n, values = len(rewards), [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]


def advantages_by_loop(method, config, rollout):
    """Advantage of each token, as lists, and the values' targets."""
    rewards = rewards_by_loop(method, config, rollout)
    totals = {index: sum(row) for index, row in rewards.items()}
    group = {b: [totals[b, k] for k in range(SHAPE[1])] for b in range(SHAPE[0])}
    if method is REINFORCE:
        everything = sum(totals.values())
        batch = {i: (everything - total) / (len(totals) - 1) for i, total in totals.items()}
        return {i: [t - (batch[i] if config.baseline == "batch" else 0.0)] for i, t in totals.items()}, None
    if method is RLOO:
        found = {(b, k): [r - np.mean(np.delete(group[b], k))] for b in group for k, r in enumerate(group[b])}
        if config.whiten_advantages:
            flat = [row[0] for row in found.values()]
            mean, deviation = np.mean(flat), np.std(flat, ddof=1)
            found = {i: [(row[0] - mean) / (deviation + 1e-4)] for i, row in found.items()}
        return found, None
    lengths = {index: len(row) for index, row in rewards.items()}
    if method is GRPO:
        everywhere = np.std(list(totals.values()), ddof=1)
        scale = {
            "none": lambda b: 1.0,
            "group": lambda b: np.std(group[b], ddof=1) + 1e-4,
            "batch": lambda b: everywhere + 1e-4,
        }[config.scale_rewards]
        return {
            (b, k): [(total - np.mean(group[b])) / scale(b)] * lengths[b, k] for (b, k), total in totals.items()
        }, None
    if method is REINFORCEPP:
        if config.baseline == "group":
            rewards = {(b, k): [*row[:-1], row[-1] - np.mean(group[b])] for (b, k), row in rewards.items()}
        returns = {
            i: [sum(config.gamma ** (s - t) * row[s] for s in range(t, len(row))) for t in range(len(row))]
            for i, row in rewards.items()
        }
        return rescaled(returns), None
    if config.whiten_rewards:
        rewards = rescaled(rewards, keep_mean=True)
    values = {index: list(row) for index, _, _, _, row in responses(rollout)}
    found = {i: gae(row, values[i], config.gamma, config.gae_lambda) for i, row in rewards.items()}
    targets = {i: [a + v for a, v in zip(row, values[i], strict=True)] for i, row in found.items()}
    if config.whiten_advantages:
        found = rescaled(found)
    if config.value_warmup_rollouts:
        found = {i: [0.0] * len(row) for i, row in found.items()}
    return found, targets


def surrogate(log_ratio, advantage, low, high):
    ratio = math.exp(log_ratio)
    if low is None:
        return -ratio * advantage
    high = low if high is None else high
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def losses_by_loop(method, config, rollout, scores):
    """Loss of each action, as lists."""
    advantages, targets = advantages_by_loop(method, config, rollout)
    beta = config.kl_coefficient if config.kl_in == "loss" else 0.0
    found = {}
    for index, n, old, reference, old_values in responses(rollout):
        new = [float(x) for x in scores.logps[index][:n]]
        if method in WHOLE:
            old, reference, new = [sum(old)], [sum(reference)], [sum(new)]
        found[index] = [
            surrogate(now - before, advantage, config.clip_range, config.clip_range_high)
            + beta * k_estimate(config.kl_estimator, now - fixed)
            for now, before, fixed, advantage in zip(new, old, reference, advantages[index], strict=True)
        ]
        if targets is None:
            continue
        for t, target in enumerate(targets[index]):
            value = float(scores.values[index][t])
            error = (value - target) ** 2
            width = getattr(config, "value_clip_range", None)
            if width is not None:
                clipped = old_values[t] + min(max(value - old_values[t], -width), width)
                error = max(error, (clipped - target) ** 2)
            found[index][t] += config.value_coefficient * error / 2
    return found


# ---- prepare and loss --------------------------------------------------------------------------------


@cases
def test_advantages_by_loop(method, config):
    rollout = make_rollout(junk=NAN)
    feedback = method(config).prepare(rollout).feedback
    expected, targets = advantages_by_loop(method, config, rollout)
    for name, rows in (("advantages", expected), ("returns", targets or {})):
        for index, row in rows.items():
            found = feedback[name][index].flatten().tolist()
            found = found * len(row) if len(found) == 1 else found[: len(row)]
            assert found == pytest.approx(row, rel=1e-9, abs=1e-9), (name, index)


@cases
@pytest.mark.parametrize("junk", [NAN, float("inf"), 1e30])
def test_loss_by_loop(method, config, junk):
    rollout = make_rollout(junk=junk)
    algorithm = method(config)
    batch, scores = algorithm.prepare(rollout), moved(rollout, junk=junk)
    loss = algorithm.loss(batch, scores)
    mask = unit_mask(batch, algorithm.needs.unit)
    assert loss.values.shape == mask.shape
    for index, row in losses_by_loop(method, config, rollout, scores).items():
        how = "token" if method in WHOLE else config.loss_normalisation
        if how == "response":
            row = [np.mean(row)]
        if how == "constant":
            row = [sum(row) / config.loss_constant]
        found = loss.values[index].flatten().tolist()[: len(row)]
        assert found == pytest.approx(row, rel=1e-9, abs=1e-9), index
    assert set(loss.metrics) == set(algorithm.metrics)
    assert all(math.isfinite(m.total.item() / m.items.item()) for m in loss.metrics.values())


@cases
def test_junk_reaches_no_gradient(method, config):
    found = []
    for junk in (0.0, NAN):
        rollout = make_rollout(junk=junk)
        algorithm = method(config)
        batch, scores = algorithm.prepare(rollout), moved(rollout, junk=junk)
        leaf = scores.logps.clone().requires_grad_()
        values = algorithm.loss(batch, scores._replace(logps=leaf)).values
        values.masked_fill(~unit_mask(batch, algorithm.needs.unit), 0.0).sum().backward()
        assert (leaf.grad[~batch.response_mask] == 0).all()
        found.append(leaf.grad)
    assert torch.equal(*found)


@cases
def test_the_contract(method, config):
    algorithm = method(config)
    assert isinstance(algorithm, Algorithm)
    assert isinstance(algorithm, Prepares)
    assert isinstance(algorithm, KnownOptimum)
    assert all(type(x) is float for x in algorithm.state.values())
    assert method.needs == type(algorithm).needs, "an instance's unit is its own"


def test_approx_kl_is_per_token_for_whole_responses_too():
    rollout = make_rollout(junk=NAN)
    algorithm = RLOO(RLOOConfig())
    metric = algorithm.loss(algorithm.prepare(rollout), moved(rollout)).metrics["approx_kl"]
    difference = (moved(rollout).logps - rollout.scores.logps)[rollout.batch.response_mask].numpy()
    assert metric.items.item() == LENGTHS.sum()
    assert metric.total.item() == pytest.approx((np.exp(difference) - 1 - difference).sum(), rel=1e-5)


@pytest.mark.parametrize("config", [REINFORCEConfig(), REINFORCEConfig(clip_range=0.1, clip_range_high=0.3)])
def test_ratio_and_clip_fraction_are_of_whole_responses(config):
    rollout = make_rollout(junk=NAN)
    algorithm = REINFORCE(config)
    metrics = algorithm.loss(algorithm.prepare(rollout), moved(rollout)).metrics
    differences = (moved(rollout).logps - rollout.scores.logps).nan_to_num(0.0).sum(-1).flatten()
    ratios = [math.exp(x) for x in differences]
    outside = sum(r < 0.9 or r > 1.3 for r in ratios) if config.clip_range else 0
    assert config.clip_range is None or 0 < outside < len(ratios)
    assert metrics["clip_fraction"].total.item() == outside
    assert metrics["ratio"].total.item() == pytest.approx(sum(ratios), rel=1e-5)
    assert metrics["ratio"].items.item() == metrics["clip_fraction"].items.item() == len(ratios)


def test_explained_variance_of_micro_batches_adds_up():
    rollout = make_rollout()
    algorithm = A2C(A2CConfig())
    batch, scores = algorithm.prepare(rollout), moved(rollout)
    mask = batch.response_mask
    parts = [
        algorithm.loss(
            batch.rows(slice(b, b + 1)), Scores(scores.logps[b : b + 1, :, :n], None, scores.values[b : b + 1, :, :n])
        )
        for b, n in ((0, 6), (1, 5))
    ]
    total, items = (sum(getattr(p.metrics["explained_variance"], f).item() for p in parts) for f in ("total", "items"))
    returns = batch.feedback["returns"][mask]
    expected = 1 - ((scores.values[mask] - returns) ** 2).sum() / ((returns - returns.mean()) ** 2).sum()
    assert total / items == pytest.approx(expected.item(), rel=1e-5)


# ---- directions and their mutations ------------------------------------------------------------------


def assert_prefers_good_actions(algorithm):
    """At ratio 1, a step down the gradient must follow the sign of the advantages, token by token."""
    rollout = make_rollout()
    batch = algorithm.prepare(rollout)
    leaf = rollout.scores.logps.clone().requires_grad_()
    algorithm.loss(batch, Scores(logps=leaf, values=rollout.scores.values)).values.nan_to_num(0.0).sum().backward()
    mask, advantages = batch.response_mask, batch.feedback["advantages"]
    advantages = advantages if advantages.ndim == 3 else advantages.unsqueeze(-1)
    wanted = advantages.expand_as(mask)[mask]
    assert (wanted.abs() > 1e-3).all(), "no advantage to follow"
    assert (leaf.grad[mask].sign() == -wanted.sign()).all()


def assert_a_better_score_gains(algorithm):
    """A higher score for one response must raise its advantages above what they were."""
    rollout = make_rollout()
    better = rollout.scores.rewards.clone()
    better[0, 1] += 2.0
    before, after = (
        algorithm.prepare(given).feedback["advantages"][0, 1].flatten()[:3]
        for given in (rollout, rollout._replace(scores=rollout.scores._replace(rewards=better)))
    )
    assert (after > before).all()


@methods
def test_directions_and_their_mutations(method, config, monkeypatch):
    algorithm = method(config(kl_coefficient=0.0, samples_per_prompt=3))
    loss, prepare = method.loss, method.prepare
    assert_prefers_good_actions(algorithm)
    assert_a_better_score_gains(algorithm)
    for sign in (-1, 0):
        with monkeypatch.context() as patch:

            def mutant_loss(self, batch, scores, sign=sign):
                found = loss(self, batch, scores)
                return found._replace(values=sign * found.values)

            patch.setattr(method, "loss", mutant_loss)
            with pytest.raises(AssertionError):
                assert_prefers_good_actions(algorithm)
        with monkeypatch.context() as patch:

            def mutant_prepare(self, rollout, sign=sign):
                batch = prepare(self, rollout)
                return batch._replace(feedback={"advantages": sign * batch.feedback["advantages"]})

            patch.setattr(method, "prepare", mutant_prepare)
            with pytest.raises(AssertionError):
                assert_a_better_score_gains(algorithm)


# ---- limits that one method shares with another ------------------------------------------------------


def gradients(algorithm, rollout, scores=None):
    """Gradients of the summed loss in the log-probabilities and the values, where the rollout was drawn."""
    batch, scores = algorithm.prepare(rollout), scores or rollout.scores
    logps, values = scores.logps.clone().requires_grad_(), scores.values.clone().requires_grad_()
    losses = algorithm.loss(batch, Scores(logps=logps, values=values)).values
    losses.masked_fill(~unit_mask(batch, algorithm.needs.unit), 0.0).sum().backward()
    return logps.grad, values.grad


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gae_lambda": 0.5, "gamma": 0.9, "whiten_advantages": False, "kl_coefficient": 0.7},
        {"loss_normalisation": "response", "value_coefficient": 2.0},
        IN_LOSS,
    ],
)
def test_ppo_at_ratio_one_is_a2c_exactly(fields):
    ppo, a2c = (gradients(m(c(**fields)), make_rollout()) for m, c in ((PPO, PPOConfig), (A2C, A2CConfig)))
    for ours, theirs in zip(ppo, a2c, strict=True):
        assert theirs.abs().max() > 0.01
        assert torch.equal(ours, theirs)
    moved_on = [gradients(m(c(**fields)), make_rollout(), moved(make_rollout())) for m, c in (METHODS[5], METHODS[4])]
    assert not torch.equal(moved_on[0][0], moved_on[1][0]), "away from ratio 1 the clip tells them apart"


def test_a2c_at_ratio_one_is_the_policy_gradient():
    rollout = make_rollout()
    algorithm = A2C(A2CConfig())
    gradient, _ = gradients(algorithm, rollout)
    mask = rollout.batch.response_mask
    advantages = algorithm.prepare(rollout).feedback["advantages"]
    # ∇(−A log π) = −A.
    torch.testing.assert_close(gradient[mask], -advantages[mask], rtol=0, atol=1e-14)


def test_rloo_of_two_is_its_closed_form():
    """L = −(R_1 − R_2) [log π(y_1) − log π(y_2)] / 2, the mean of two responses: A_1 = R_1 − R_2 = −A_2."""
    rollout = make_rollout(lengths=[[6, 3], [1, 5]])
    algorithm = RLOO(RLOOConfig(samples_per_prompt=2, kl_coefficient=0.3))
    returns = rollout.scores.rewards - 0.3 * (rollout.scores.logps - rollout.scores.reference_logps).sum(-1)
    difference = returns[:, :1] - returns[:, 1:]
    found = algorithm.prepare(rollout).feedback["advantages"]
    torch.testing.assert_close(found, torch.cat([difference, -difference], 1), rtol=1e-12, atol=1e-12)
    gradient, _ = gradients(algorithm, rollout)
    expected = -found.unsqueeze(-1).expand_as(gradient).masked_fill(~rollout.batch.response_mask, 0.0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_dr_grpo_is_rloo_but_for_its_length(k):
    """r_i − mean = (k−1)/k (r_i − mean of others), for the whole response alike."""
    rollout = make_rollout(lengths=LENGTHS[:, :k])
    shared = {"samples_per_prompt": k, "kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.3}
    rloo, _ = gradients(RLOO(RLOOConfig(**shared)), rollout)
    dr_grpo = GRPOConfig(scale_rewards="none", loss_normalisation="constant", loss_constant=4.0, **shared)
    grpo, _ = gradients(GRPO(dr_grpo), rollout)
    assert rloo.abs().max() > 0.01
    torch.testing.assert_close(4 * grpo, rloo * (k - 1) / k, rtol=1e-12, atol=1e-12)


def test_grpo_worked_value():
    # r = (1, 2, 6): mean 3, deviations (−2, −1, 3), unbiased variance 14 / 2 = 7.
    rollout = make_rollout(lengths=[[2, 1, 1]], width=2)
    rollout = rollout._replace(scores=rollout.scores._replace(rewards=torch.tensor([[1.0, 2.0, 6.0]]).double()))
    found = GRPO(GRPOConfig()).prepare(rollout).feedback["advantages"]
    assert found.flatten().tolist() == pytest.approx([x / (math.sqrt(7) + 1e-4) for x in (-2, -1, 3)], rel=1e-12)


@pytest.mark.parametrize("method", [GRPO, RLOO])
def test_equal_rewards_teach_nothing(method):
    rollout = make_rollout()
    rollout = rollout._replace(scores=rollout.scores._replace(rewards=torch.ones(2, 3).double()))
    found = method(method.Config(kl_coefficient=0.0)).prepare(rollout).feedback["advantages"]
    assert found.abs().max() < 1e-12


# ---- whitening and baselines -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "scale", "shift", "tolerance"),
    [
        # Scale-free up to ε: 1e-4 of a deviation of some 1, or 1e-8 of a variance.
        (GRPO(GRPOConfig(kl_in="reward", kl_estimator="k1", kl_coefficient=0.0)), 3.0, 5.0, 1e-3),
        (GRPO(GRPOConfig(scale_rewards="batch")), 3.0, 5.0, 1e-3),
        (GRPO(GRPOConfig(scale_rewards="none")), 1.0, 5.0, 1e-12),
        (RLOO(RLOOConfig(kl_coefficient=0.0)), 1.0, 5.0, 1e-12),
        (RLOO(RLOOConfig(kl_coefficient=0.0, whiten_advantages=True)), 3.0, 5.0, 1e-3),
        (REINFORCE(REINFORCEConfig(kl_coefficient=0.0)), 1.0, 5.0, 1e-12),
        (REINFORCEPP(REINFORCEPPConfig(kl_coefficient=0.0)), 3.0, 5.0, 1e-6),
    ],
    ids=lambda x: name_of((type(x), x.config)) if hasattr(x, "config") else None,
)
def test_scale_and_shift_of_the_scores_change_nothing(algorithm, scale, shift, tolerance):
    rollout = make_rollout()
    other = rollout._replace(scores=rollout.scores._replace(rewards=scale * rollout.scores.rewards + shift))
    found, expected = (algorithm.prepare(x).feedback["advantages"] for x in (other, rollout))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_moments_and_mean_of_others():
    x, mask = randoms((3, 5), 0), torch.tensor(np.random.default_rng(1).random((3, 5)) < 0.6)
    mean, variance = moments(x.masked_fill(~mask, NAN), mask)
    assert mean.item() == pytest.approx(x[mask].mean().item(), rel=1e-12)
    assert variance.item() == pytest.approx(x[mask].var().item(), rel=1e-12)
    white = whiten(x, mask)[mask]
    assert white.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert white.var().item() == pytest.approx(1.0, rel=1e-6)
    assert mean_of_others(torch.tensor([1.0, 2.0, 6.0])).tolist() == [4.0, 3.5, 1.5]


def test_moving_average_is_of_earlier_rollouts_alone():
    rollout = make_rollout()
    algorithm = REINFORCE(REINFORCEConfig(baseline="moving_average", baseline_decay=0.5, kl_coefficient=0.0))
    baselines = []
    for level in (1.0, 2.0, 5.0):
        scores = rollout.scores._replace(rewards=torch.full((2, 3), level).double())
        baselines.append(level - algorithm.prepare(rollout._replace(scores=scores)).feedback["advantages"][0, 0].item())
    # Nothing yet; 1; weights 1/4 and 1/2 of 1 and 2, over their sum: 5/3.
    assert baselines == pytest.approx([0.0, 1.0, 5 / 3], rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.1, 2, 2.2), (1.6, 2, 2.8), (1.6, -2, -3.2), (0.5, 2, 1.0), (0.5, -2, -1.6), (0.9, -2, -1.8)],
)
def test_clip_ends_gain_on_either_side_by_its_own_range(ratio, advantage, expected):
    found = clipped_surrogate(torch.tensor(ratio), torch.tensor(float(advantage)), 0.2, 0.4)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    free = clipped_surrogate(torch.tensor(ratio), torch.tensor(float(advantage)))
    assert free.item() == pytest.approx(ratio * advantage, rel=1e-6)


# ---- KL ----------------------------------------------------------------------------------------------


def two_token_rollout(score=3.0, ended=True):
    """Log-ratios to the reference of 1 and −2 nats; π and π_ref give (−1, −4) and (−2, −2)."""
    logps, reference = (torch.tensor([[row]], dtype=torch.float64) for row in ([-1.0, -4.0], [-2.0, -2.0]))
    rewards, values = torch.tensor([[score]]).double(), torch.tensor([[[0.5, 0.75]]]).double()
    return Rollout(make_batch([[2]], 2), Scores(logps, reference, values, rewards), torch.tensor([[ended]]))


@pytest.mark.parametrize(
    ("estimator", "tokens", "response"),
    [
        ("k1", [1.0, -2.0], -1.0),
        ("k2", [0.5, 2.0], 0.5),
        ("k3", [math.exp(-1), math.exp(2) - 3], math.exp(1) - 2),
    ],
)
def test_kl_of_an_action_worked(estimator, tokens, response):
    rollout = two_token_rollout()
    # In the reward, at β = .1: returns to go of tokens, and the whole response's.
    by_token = A2C(A2CConfig(kl_coefficient=0.1, kl_estimator=estimator, gae_lambda=1.0)).prepare(rollout)
    charged = [3.0 - 0.1 * sum(tokens), 3.0 - 0.1 * tokens[1]]
    assert by_token.feedback["returns"].flatten().tolist() == pytest.approx(charged, rel=1e-12)
    whole = REINFORCE(REINFORCEConfig(baseline="none", kl_coefficient=0.1, kl_estimator=estimator))
    assert whole.prepare(rollout).feedback["advantages"].item() == pytest.approx(3.0 - 0.1 * response, rel=1e-12)
    if estimator == "k1":
        return
    # In the loss, where −ρ A is −3, and 0 for the one response of a group.
    fields = {"kl_coefficient": 0.1, "kl_estimator": estimator, "kl_in": "loss"}
    whole = REINFORCE(REINFORCEConfig(baseline="none", **fields))
    loss = whole.loss(whole.prepare(rollout), rollout.scores).values
    assert loss.item() == pytest.approx(-3.0 + 0.1 * response, rel=1e-12)
    batch = GRPO(GRPOConfig(loss_normalisation="token", scale_rewards="none", **fields)).prepare(rollout)
    loss = GRPO(GRPOConfig(loss_normalisation="token", **fields)).loss(batch, rollout.scores).values
    assert loss.flatten().tolist() == pytest.approx([0.1 * x for x in tokens], rel=1e-12)


def test_kl_in_the_loss_pulls_towards_the_reference():
    """Without a reward the gradient has the sign of log π/π_ref: of each token, or of the response."""
    rollout = make_rollout()
    mask = rollout.batch.response_mask
    difference = rollout.scores.logps - rollout.scores.reference_logps
    rollout = rollout._replace(scores=rollout.scores._replace(rewards=torch.zeros(2, 3).double()))
    for algorithm in (GRPO(GRPOConfig(scale_rewards="none")), REINFORCE(REINFORCEConfig(baseline="none", **IN_LOSS))):
        gradient, _ = gradients(algorithm, rollout)
        pull = difference if algorithm.action == "token" else difference.sum(-1, keepdim=True).expand_as(difference)
        assert (gradient[mask].sign() == pull[mask].sign()).all()


def test_controller_worked_values():
    # Error clipped at ±.2, here by KL 6 and 0 for a target of 2; else KL/target − 1.
    for kl, expected in (
        (6.0, 0.1 * (1 + 0.2 * 64 / 256)),
        (0.0, 0.1 * (1 - 0.2 * 64 / 256)),
        (2.2, 0.1 * (1 + 0.1 / 4)),
    ):
        assert adapted_kl_coefficient(0.1, kl, 2.0, 256, 64) == pytest.approx(expected, rel=1e-12)
    assert adapted_kl_coefficient(0.1, 2.0, 2.0, 256, 64) == 0.1


@pytest.mark.parametrize("fields", [{}, {"kl_in": "loss", "kl_estimator": "k2"}])
def test_coefficient_adapts_after_its_use(fields):
    rollout = make_rollout()
    kl = (rollout.scores.logps - rollout.scores.reference_logps).sum(-1).mean().item()
    target = 3.0
    algorithm = RLOO(RLOOConfig(kl_coefficient=0.3, kl_target=target, kl_horizon=60, **fields))
    fixed = RLOO(RLOOConfig(kl_coefficient=0.3, **fields))
    batch, expected = algorithm.prepare(rollout), fixed.prepare(rollout)
    assert torch.equal(batch.feedback["advantages"], expected.feedback["advantages"])
    assert batch.feedback["kl_coefficient"].tolist() == [0.3, 0.3]
    adapted = 0.3 * (1 + min(max(kl / target - 1, -0.2), 0.2) * 6 / 60)
    assert algorithm.state["kl_coefficient"] == pytest.approx(adapted, rel=1e-12)
    assert adapted != 0.3
    assert fixed.state["kl_coefficient"] == 0.3
    metric = algorithm.loss(batch, moved(rollout)).metrics["kl_coefficient"]
    assert metric.total.item() / metric.items.item() == pytest.approx(0.3)
    assert algorithm.prepare(rollout).feedback["kl_coefficient"][0].item() == pytest.approx(adapted, rel=1e-12)
    # What a checkpoint puts back is what is used.
    algorithm.state = {"kl_coefficient": 7.0}
    assert algorithm.prepare(rollout).feedback["kl_coefficient"].tolist() == [7.0, 7.0]


# ---- missing ends, warm-up, trunk --------------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("fields", "cut"), [({}, 3.0), ({"missing_end_penalty": 1.25}, 1.75), ({"missing_end_score": -4.0}, -4.0)]
)
def test_missing_end(ended, fields, cut):
    algorithm = REINFORCE(REINFORCEConfig(baseline="none", kl_coefficient=0.0, **fields))
    found = algorithm.prepare(two_token_rollout(ended=ended)).feedback["advantages"].item()
    assert found == (3.0 if ended else cut)


def test_truncated_response_is_worth_the_value_of_its_last_state():
    config = A2CConfig(kl_coefficient=0.0, gae_lambda=1.0, bootstrap_truncated=True, whiten_advantages=False)
    found = A2C(config).prepare(two_token_rollout(ended=False)).feedback
    assert found["returns"].flatten().tolist() == [0.75, 0.75]
    assert found["advantages"].flatten().tolist() == [0.25, 0.0]
    assert A2C(config).prepare(two_token_rollout()).feedback["returns"].flatten().tolist() == [3.0, 3.0]


def test_value_warms_up_alone():
    rollout = make_rollout()
    algorithm = PPO(PPOConfig(value_warmup_rollouts=2))
    for number in range(1, 4):
        policy, value = gradients(algorithm, rollout)
        assert algorithm.state["rollouts"] == number
        assert (policy.abs().max() > 0) == (number == 3)
        assert value.abs().max() > 0


@methods
def test_needs_follow_the_config(method, config):
    assert method(config()).needs.joint is False
    if method in (A2C, PPO):
        assert method(config(value_trunk="policy")).needs == dataclasses.replace(method.needs, joint=True)
    if method not in WHOLE:
        units = {how: method(config(loss_normalisation=how)).needs.unit for how in ("token", "response", "constant")}
        assert units == {"token": "token", "response": "response", "constant": "response"}
    assert method.needs.unit == ("response" if method in WHOLE else "token")


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (PolicyGradientConfig, {"kl_in": "loss"}, "set kl_estimator to k2 or k3"),
        (PPOConfig, {"kl_in": "loss"}, "zero on average"),
        (PolicyGradientConfig, {"missing_end_penalty": 1.0, "missing_end_score": 0.0}, "set one of them"),
        (PolicyGradientConfig, {"kl_target": 1.0, "kl_coefficient": 0.0}, "kl_target"),
        (PolicyGradientConfig, {"clip_range_high": 0.3}, "needs a clip_range"),
        (GRPOConfig, {"samples_per_prompt": 1}, "group of 1 every advantage is 0"),
        (GRPOConfig, {"samples_per_prompt": 1, "scale_rewards": "none"}, "group of 1 every advantage is 0"),
        (GRPOConfig, {"kl_estimator": "k1"}, "zero on average"),
        (RLOOConfig, {"samples_per_prompt": 1}, "2 or more"),
        (REINFORCEPPConfig, {"baseline": "group"}, "2 or more"),
        (REINFORCEConfig, {"rollout_prompts": 1}, "2 or more"),
        (A2CConfig, {"bootstrap_truncated": True, "missing_end_score": 0.0}, "set one of them"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_a_method_of_ones_own_is_its_advantages():
    class Mine(PolicyGradient):
        Config = PolicyGradientConfig

        def advantages(self, rewards, rollout):
            return rewards - rewards.mean()

    rollout = make_rollout()
    algorithm = Mine(PolicyGradientConfig(kl_coefficient=0.0))
    found = algorithm.prepare(rollout).feedback["advantages"]
    assert torch.equal(found, rollout.scores.rewards - rollout.scores.rewards.mean())
    assert algorithm.loss(algorithm.prepare(rollout), moved(rollout)).values.shape == (2, 3)


def test_the_controller_never_pushes_the_coefficient_past_zero():
    coefficient = 0.1
    for _ in range(50):
        coefficient = adapted_kl_coefficient(coefficient, 0.0, target=0.5, horizon=5.0, responses=128)
        assert 0 < coefficient <= 0.1


def test_a_ratio_past_float32_stays_finite():
    rloo, mask = RLOO(RLOOConfig(clip_range=0.2)), torch.ones(1, 2, 4, dtype=torch.bool)
    batch = Batch(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.ones(mask.shape), mask)
    old, new = torch.full(mask.shape, -40.0), torch.zeros(mask.shape, requires_grad=True)
    feedback = {"behaviour_logps": old, "advantages": torch.tensor([[0.0, 1.0]])}
    loss = rloo.loss(batch._replace(feedback=feedback), Scores(new)).values.sum()
    loss.backward()
    assert loss.isfinite()
    assert new.grad.isfinite().all()
