"""The exact world: what is said to be exact, is; checked against loops, closed forms and the pipeline's own samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from preflab.errors import UserError
from preflab.eval.conformance.data import training_groups
from preflab.eval.conformance.exact import enumerate_responses, explained, kl
from preflab.eval.harness.reference_samples import enumerated_oracle
from preflab.eval.settings import EvalConfig
from preflab.method.maths import masked_sum
from preflab.worlds import WorldConfig, open_world
from preflab.worlds.exact import base as base_module
from preflab.worlds.exact import draw, draw_pairs, reference_logps
from preflab.worlds.exact.language import (
    END,
    MAX_RESPONSE_TOKENS,
    PROMPTS,
    REWARD_SCALE,
    SYMBOLS,
    PlantedTable,
    all_responses,
    reward_table,
    text_of,
    token_scores,
)

COUNT = sum(len(SYMBOLS) ** n for n in range(MAX_RESPONSE_TOKENS + 1))


def random_policy(exact, seed):
    """Return log-probabilities of a policy that has nothing to do with any other."""
    return torch.tensor(np.random.default_rng(seed).normal(size=tuple(exact.rewards.shape))).log_softmax(1)


# ---- responses and their probabilities ---------------------------------------------------------------


def test_every_response_is_there_once():
    responses = all_responses()
    assert len(responses) == len(set(responses)) == COUNT == 156
    for ids in responses:
        assert END not in ids[:-1]
        assert (ids[-1] == END) == (len(ids) < MAX_RESPONSE_TOKENS or ids[-1] not in range(END))
    assert responses[:3] == [(END,), (0, END), (1, END)]
    assert responses[-1] == (END - 1,) * MAX_RESPONSE_TOKENS


def test_the_suite_enumerates_from_the_tokenizer_what_the_world_lists(experiment):
    groups = enumerate_responses(experiment)
    assert [tuple(ids) for ids in groups[0].response_ids] == all_responses()
    assert [experiment.tokenizer.decode(g.prompt_ids, skip_special_tokens=True) for g in groups] == list(PROMPTS)
    assert len({len(group.prompt_ids) for group in groups}) > 1, "prompts of unequal length: padding takes part"


def test_a_world_with_ends_missing_from_its_vocabulary_cannot_be_enumerated(experiment, monkeypatch):
    monkeypatch.setattr(experiment, "max_response_tokens", 12)
    with pytest.raises(UserError, match="cannot be enumerated"):
        enumerate_responses(experiment)


def test_probabilities_add_up_to_one(experiment, exact):
    total = np.exp(reference_logps(experiment.world.model)).sum(1)
    assert total == pytest.approx(np.ones(len(PROMPTS)), abs=1e-12)  # float64
    assert exact.reference.exp().sum(1).numpy() == pytest.approx(total, abs=1e-6)  # the pipeline's float32


def test_a_response_left_out_would_show(exact):
    assert (exact.reference.exp()[:, :-1].sum(1) < 1 - 1e-6).all()


def test_cut_responses_bear_no_end_token_and_others_one(experiment):
    encoder, end = experiment.encoder, experiment.encoder.eos
    for ids in all_responses():
        assert encoder.response("b c", " " + text_of(ids)) == list(ids)
    assert encoder.response("a", " a b") == [0, 1, end]
    assert encoder.response("a", " a b c") == [0, 1, 2]
    encoder.cut = False
    try:
        assert encoder.response("a", " a b c") == [0, 1, 2, end]
    finally:
        encoder.cut = True


def test_the_reference_is_far_from_even(exact):
    entropy = -(exact.reference.exp() * exact.reference).sum(1)
    assert (entropy < math.log(COUNT) - 0.5).all()
    assert (exact.reference.exp().max(1).values < 0.5).all()


def test_samples_follow_the_enumerated_probabilities(experiment, exact):
    roles = experiment.open_roles(("policy",), sft=None, reward=None)
    samples = experiment.sampler()(roles, "policy", experiment.prompts, k=2000, temperature=1.0, seed=3)
    rewards = experiment.gold_reward()(samples.batch).double()
    start = exact.position(exact.reference).reward
    error = rewards.std(1) / math.sqrt(2000)
    assert ((rewards.mean(1) - start).abs() < 4 * error).all()  # a chance of 1 in 4000 for a fair sampler
    ended = torch.tensor([ids[-1] == END for ids in all_responses()])
    assert samples.ended.double().mean(1).numpy() == pytest.approx(
        (exact.reference.exp() * ended).sum(1).numpy(), abs=4 * 0.5 / math.sqrt(2000)
    )


# ---- the reward --------------------------------------------------------------------------------------


def test_reward_is_its_equation():
    u, b = token_scores(0)
    table = reward_table(0)
    raw = np.empty_like(table)
    for x in range(len(PROMPTS)):
        for n, ids in enumerate(all_responses()):
            total = 0.0
            for t in range(len(ids)):
                total += u[x][t][ids[t]]
                if t > 0:
                    total += b[ids[t - 1]][ids[t]]
            raw[x, n] = REWARD_SCALE * total
    assert table == pytest.approx(raw - raw.mean(1, keepdims=True), abs=1e-12)
    # Worked: the empty response has one token, so its difference to "a" is u(a) + u'(end) + b(a, end) − u(end).
    expected = REWARD_SCALE * (u[2, 0, 0] + u[2, 1, END] + b[0, END] - u[2, 0, END])
    assert table[2, 1] - table[2, 0] == pytest.approx(expected, abs=1e-12)


def test_rewards_of_texts_and_of_tokens_are_those_of_the_table(experiment, exact):
    assert exact.rewards.numpy() == pytest.approx(reward_table(0), abs=1e-6)  # float32
    gold, texts = PlantedTable(0), [text_of(ids) for ids in all_responses()]
    assert len(set(texts)) == COUNT, "a text says whether its response was cut"
    assert gold([PROMPTS[1]] * COUNT, [f" {text}" for text in texts]) == pytest.approx(reward_table(0)[1].tolist())
    with pytest.raises(KeyError):
        gold(["a"], ["a b c d"])


# ---- optimum and regret ------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_best_objective_is_a_log_partition_function(exact, beta):
    best = exact.position(exact.kl_optimum(beta))
    objective = best.reward - beta * best.kl
    closed = beta * (exact.reference + exact.rewards / beta).logsumexp(1)
    torch.testing.assert_close(objective, closed, atol=1e-6, rtol=0)  # π_ref adds up to 1 within float32


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_regret_is_the_share_of_the_gain_that_is_missing(exact, beta, seed):
    optimum, policy = exact.kl_optimum(beta), random_policy(exact, seed)

    def objective(logps):
        position = exact.position(logps)
        return (position.reward - beta * position.kl).mean()

    best, start = objective(optimum), objective(exact.reference)
    expected = (best - objective(policy)) / (best - start)
    assert exact.regret(policy, optimum).mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_regret_is_one_at_the_reference_and_nothing_at_the_optimum(exact):
    optimum = exact.kl_optimum(1.0)
    assert exact.regret(exact.reference, optimum).mean().item() == pytest.approx(1.0, abs=1e-12)
    assert exact.regret(optimum, optimum).mean().item() == pytest.approx(0.0, abs=1e-12)


def test_what_a_policy_rules_out_costs_it_nothing():
    certain, even = torch.tensor([[0.0, -math.inf]]), torch.tensor([[math.log(0.5)] * 2])
    assert kl(certain, even).item() == pytest.approx(math.log(2), rel=1e-6)


def test_the_optimum_lies_about_a_nat_away(experiment, exact):
    found = exact.position(exact.kl_optimum(1.0)).kl.mean().item()
    assert 1.0 <= found <= 1.2
    assert found == pytest.approx(experiment.world.facts["optimal_kl"], abs=1e-4)
    start = exact.position(exact.reference).reward.mean().item()
    assert start == pytest.approx(experiment.world.facts["reward_of_reference"], abs=1e-4)


def test_explained_forgives_a_constant_a_prompt_and_nothing_else(exact):
    r, reference = exact.rewards, exact.reference
    constants = torch.arange(len(r)).double()[:, None]
    assert explained(r + constants, r, reference).tolist() == pytest.approx([1.0] * len(r), abs=1e-12)
    assert explained(0.5 * r, r, reference).tolist() == pytest.approx([0.75] * len(r), abs=1e-12)
    assert (explained(-r, r, reference) < 0).all()


# ---- data --------------------------------------------------------------------------------------------


def test_pairs_come_from_the_reference_and_labels_from_bradley_terry(exact):
    reference, rewards, count = exact.reference.numpy(), exact.rewards.numpy(), 40_000
    pairs = draw_pairs(reference, rewards, count, np.random.default_rng(0))
    assert np.bincount(pairs.prompt).tolist() == [count // len(PROMPTS)] * len(PROMPTS)
    for x in range(len(PROMPTS)):
        both = np.concatenate([side[pairs.prompt == x] for side in (pairs.chosen, pairs.rejected)])
        shares = np.bincount(both, minlength=COUNT) / len(both)
        assert np.abs(shares - np.exp(reference[x])).max() < 4 * 0.5 / math.sqrt(len(both))
    gap = rewards[pairs.prompt, pairs.chosen] - rewards[pairs.prompt, pairs.rejected]
    for low, high in itertools.pairwise([0.0, 0.5, 1.0, 2.0, 4.0]):
        near = (np.abs(gap) >= low) & (np.abs(gap) < high)
        near &= gap != 0
        expected = (1 / (1 + np.exp(-np.abs(gap[near])))).mean()
        assert (gap[near] > 0).mean() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(near.sum()))


def test_draw_is_inversion():
    logps = np.log(np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]))
    points = np.array([[0.1, 0.1], [0.3, 0.3], [0.69, 0.94], [0.71, 0.96]])
    assert draw(logps, np.array([0, 1]), points).tolist() == [[0, 0], [1, 0], [1, 1], [2, 2]]


def chances(rewards):
    return 1 / (1 + np.exp(-rewards))


def test_exact_labels_are_the_chances_of_bradley_terry(exact):
    index = {tuple(ids): n for n, ids in enumerate(all_responses())}
    rewards = exact.rewards.numpy()
    for group in training_groups(exact, "pair", 400):
        chosen, rejected = (rewards[group.row, index[tuple(ids)]] for ids in group.response_ids)
        assert group.feedback["preference"] == pytest.approx(chances(chosen - rejected))
        assert group.prompt_ids == exact.groups[group.row].prompt_ids
    assert not training_groups(exact, "pair", 8, labels="sampled")[0].feedback


def test_exact_pairs_fill_the_square_of_the_reference_evenly(exact):
    """Their mean reward is nearer to the reference's than that of independent draws could be."""
    index = {tuple(ids): n for n, ids in enumerate(all_responses())}
    groups, rewards = training_groups(exact, "pair", 4 * 8000), exact.rewards.numpy()
    found = np.zeros(len(PROMPTS))
    for group in groups:
        found[group.row] += sum(rewards[group.row, index[tuple(ids)]] for ids in group.response_ids) / 16_000
    start = exact.position(exact.reference).reward.numpy()
    spread = np.sqrt((np.exp(exact.reference.numpy()) * (rewards - start[:, None]) ** 2).sum(1))
    assert (np.abs(found - start) < 0.3 * spread / math.sqrt(16_000)).all()


def test_rankings_are_plackett_luce(exact):
    index = {tuple(ids): n for n, ids in enumerate(all_responses())}
    rewards, best, expected = exact.rewards.numpy(), 0, 0.0
    groups = training_groups(exact, "ranking", 6000)
    for group in groups:
        scores = np.exp([rewards[group.row, index[tuple(ids)]] for ids in group.response_ids])
        best += scores[0] == scores.max()
        expected += (scores == scores.max()).sum() * scores.max() / scores.sum()
    assert best / len(groups) == pytest.approx(expected / len(groups), abs=4 * 0.5 / math.sqrt(len(groups)))


def test_single_responses_and_demonstrations(exact):
    singles = training_groups(exact, "single", 4000)
    index = {tuple(ids): n for n, ids in enumerate(all_responses())}

    def mean_reward(groups):
        return np.mean([exact.rewards[g.row, index[tuple(g.response_ids[0])]].item() for g in groups])

    good = [g for g in singles if g.feedback["desirable"] == 1.0]
    bad = [g for g in singles if g.feedback["desirable"] == 0.0]
    assert len(good) + len(bad) == 4000
    assert abs(len(good) - 2000) < 200
    start = exact.position(exact.reference).reward.mean().item()
    assert mean_reward(bad) < start - 0.2 < start + 0.2 < mean_reward(good)
    best = exact.position(exact.kl_optimum(1.0)).reward.mean().item()
    assert mean_reward(training_groups(exact, "demonstration", 4000)) == pytest.approx(best, abs=0.1)


def test_data_follow_their_seed(exact):
    for kind in ("pair", "ranking", "single", "demonstration"):
        assert training_groups(exact, kind, 40, seed=1) == training_groups(exact, kind, 40, seed=1)
        assert training_groups(exact, kind, 40, seed=1) != training_groups(exact, kind, 40, seed=2)


# ---- the world ---------------------------------------------------------------------------------------


def test_the_world_is_a_function_of_its_seed(experiment, cache, monkeypatch):
    def train(*args):
        raise AssertionError("the base is trained once")

    monkeypatch.setattr(base_module, "train_base", train)
    again = open_world(WorldConfig(world="exact"), cache)
    assert again.pairs.to_dict() == experiment.world.pairs.to_dict()
    assert again.facts == experiment.world.facts
    with pytest.raises(AssertionError, match="trained once"):
        open_world(WorldConfig(world="exact", data_seed=1), cache)
    assert not np.allclose(reward_table(0), reward_table(1))


def test_a_killed_build_leaves_no_model(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(base_module, "make_tokenizer", killed)
    monkeypatch.setattr(base_module.BaseSize, "steps", 1)
    with pytest.raises(KeyboardInterrupt):
        base_module.base_folder(base_module.BaseSize(steps=1), 0, tmp_path)
    assert not list(tmp_path.glob("exact-base-*"))


@pytest.mark.parametrize(
    "fields", [{"model": "some/model"}, {"reward": "a:b"}, {"max_response_tokens": 2}, {"max_prompt_tokens": 3}]
)
def test_options_it_cannot_honour_are_refused(fields, tmp_path):
    with pytest.raises((UserError, ValueError), match="exact world"):
        open_world(WorldConfig(world="exact", **fields), tmp_path)


def test_policy_scores_are_the_models_own(experiment, exact):
    roles = experiment.open_roles(("policy",), sft=None, reward=None)
    torch.testing.assert_close(
        masked_sum(exact.token_logps(roles, "policy"), exact.batch.response_mask), exact.reference, atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_the_oracle_line_is_of_the_reference_at_the_temperature_of_the_evaluation(experiment, exact):
    line = enumerated_oracle(experiment, EvalConfig(eval_prompts=len(PROMPTS), eval_temperature=2.0))
    base, group = experiment.load_base(), exact.groups[0]
    expected = 0.0
    for ids, reward in zip(group.response_ids, exact.rewards[0].tolist(), strict=True):
        logits = base(torch.tensor([[*group.prompt_ids, *ids]])).logits[0, len(group.prompt_ids) - 1 : -1].double()
        logps = (logits / 2.0).log_softmax(-1)
        expected += reward * math.exp(logps[range(len(ids)), list(ids)].sum().item())
    [at] = [
        x for x, asked in enumerate(experiment.eval_prompts[: len(PROMPTS)]) if asked.prompt_ids == group.prompt_ids
    ]
    assert line.reference[at] == pytest.approx(expected, abs=1e-3)
    usual = (exact.reference[0].exp() * exact.rewards[0]).sum().item()
    assert abs(usual - expected) > 0.01
