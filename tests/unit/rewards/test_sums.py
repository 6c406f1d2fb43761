"""Weighted sums of rewards: their numbers, keys and what is logged of their parts."""

from __future__ import annotations

import torch

from preflab.experiment.rewards import Rewards, SummedRewards, WeightedReward
from preflab.rewards import RewardOptions, open_reward

TWO = "def f(response): return len(response)\ndef g(response): return 1.0"


def test_a_sum_of_functions(place):
    first = place(TWO)
    second = first.replace(":f", ":g")
    reward = open_reward(RewardOptions(reward=f"{first}=0.5,{second}=-2"))
    assert reward(["p", "p"], ["four", ""]) == [0.0, -2.0]
    assert (reward.name, reward.model) == ("reward f + g", 0.0)
    other = open_reward(RewardOptions(reward=f"{first}=0.5,{second}=2"))
    single = open_reward(RewardOptions(reward=first))
    assert len({reward.key, other.key, single.key, single.parts[0].key + "x"}) == 4
    assert single.key == single.parts[0].key


def test_the_reward_model_is_no_part_that_scores_texts(place):
    reward = open_reward(RewardOptions(reward=f"{place(TWO)}=0.5,model=0.25"))
    assert ([part.name for part in reward.parts], reward.model) == (["f"], 0.25)


def test_summed_rewards_and_their_log():
    summed = SummedRewards([("a", 2.0, lambda batch: batch), ("b", -1.0, lambda batch: batch * batch)])
    assert summed.metrics() == {}
    batch = torch.tensor([[1.0, 3.0]])
    assert summed(batch).tolist() == [[2 * 1 - 1, 2 * 3 - 9]]
    assert {name: (m.total / m.items).item() for name, m in summed.metrics().items()} == {"reward/a": 2, "reward/b": 5}


def test_weights_count_in_keys_and_one_part_of_weight_one_is_itself():
    part = Rewards("x", function=lambda batch: batch)
    assert Rewards.weighted([WeightedReward("a", 1.0, part)]) is part
    keys = {Rewards.weighted([WeightedReward("a", weight, part)]).key for weight in (0.5, 2.0)}
    assert len(keys) == 2
    assert Rewards.weighted([WeightedReward("a", 2.0, part)]).trained is None
