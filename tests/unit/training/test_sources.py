"""Batch sources: pure functions of seed and step, drawn no earlier than asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_llama import tiny_llama

from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.data.encoding import EncodedGroup
from preflab.method.contract import Batch, Rollout, Scores
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training.offline import OfflineSource
from preflab.training.rollouts import ROLLOUT_METRICS, RolloutSource, rollout_metrics
from preflab.training.sources import Shuffled

VOCABULARY, PAD, END = 31, 0, 2


def same(one: Batch, other: Batch) -> bool:
    left, right = ({**vars(batch), **vars(batch.feedback)} for batch in (one, other))
    tensors = {name for name, x in left.items() if isinstance(x, torch.Tensor)}
    assert left.keys() == right.keys()
    assert tensors == {name for name, x in right.items() if isinstance(x, torch.Tensor)}
    return all(torch.equal(left[name], right[name]) for name in tensors)


# ---- order -------------------------------------------------------------------------------------------


def test_every_epoch_is_another_permutation():
    order = Shuffled(7, seed=0)
    epochs = [order.take(7 * epoch, 7) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != Shuffled(7, seed=1).take(0, 7)


def test_a_stretch_may_cross_epochs_and_start_anywhere():
    whole = Shuffled(5, seed=0).take(0, 23)
    for start, count in ((0, 3), (3, 5), (4, 12), (17, 6)):
        assert Shuffled(5, seed=0).take(start, count) == whole[start : start + count]


# ---- offline -----------------------------------------------------------------------------------------


def make_groups(count=10, seed=0):
    random = np.random.default_rng(seed)

    def ids(low, high):
        return random.integers(3, VOCABULARY, random.integers(low, high)).tolist()

    return [EncodedGroup([3 + i, *ids(1, 6)], [[*ids(1, 5), END] for _ in range(2)], i) for i in range(count)]


def first_tokens(batch):
    """Return the first token of each prompt, which names its row."""
    return [int(ids[mask][0]) - 3 for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]


@pytest.mark.parametrize(("micro", "accumulation"), [(4, 1), (2, 2), (3, 2)])
def test_offline_source_starts_anywhere(micro, accumulation):
    train = TrainConfig(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    source = OfflineSource(make_groups(), train, PAD, seed=0)
    stream = list(itertools.islice(source.batches(0), 6 * accumulation))
    for start in (1, 2, 5):
        again = OfflineSource(make_groups(), train, PAD, seed=0).batches(start)
        for expected in stream[start * accumulation :]:
            assert same(next(again), expected)


def test_offline_source_shows_every_row_once_an_epoch():
    train = TrainConfig(per_device_train_batch_size=2)
    source = OfflineSource(make_groups(), train, PAD, seed=0)
    assert source.steps_per_epoch == 5
    rows = [row for batch in itertools.islice(source.batches(0), 5) for row in first_tokens(batch)]
    assert sorted(rows) == list(range(10))
    assert OfflineSource(make_groups(9), train, PAD, seed=0).steps_per_epoch == 5
    assert source.take_metrics() == {}


def test_accumulation_only_cuts_the_batch():
    whole, parts = (
        OfflineSource(
            make_groups(),
            TrainConfig(per_device_train_batch_size=micro, gradient_accumulation_steps=6 // micro),
            PAD,
            seed=0,
        ).batches(0)
        for micro in (6, 2)
    )
    for _ in range(3):
        joined = [row for batch in itertools.islice(parts, 3) for row in first_tokens(batch)]
        assert first_tokens(next(whole)) == joined


# ---- rollouts ----------------------------------------------------------------------------------------


def make_roles():
    torch.manual_seed(0)
    model = tiny_llama(VOCABULARY, pad=PAD, end=END)
    with torch.no_grad():
        model.lm_head.weight[END] += 0.3
        model.lm_head.weight.mul_(20)
    model.requires_grad_(False)
    return Roles(model, LoraSettings(lora_rank=2, lora_alpha=4), ("policy", "reward", "value"), seed=1)


class CountingSampler(TransformersSampler):
    calls = 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        return super().__call__(*arguments, **options)


def rollout_source(k=2, micro=2, accumulation=1, prompts=4, epochs=3, seed=0):
    train = TrainConfig(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    config = PPOConfig(rollout_prompts=prompts, samples_per_prompt=k, rollout_epochs=epochs)
    config.check(train)
    return RolloutSource(
        PPO(config),
        PPO.needs,
        make_roles(),
        CountingSampler(END, PAD, 6),
        [group.prompt_ids for group in make_groups()],
        train,
        seed,
    )


def test_a_rollout_is_drawn_when_its_first_minibatch_is_asked_for():
    source = rollout_source()
    stream = source.batches(0)
    assert source.sampler.calls == 0
    assert source.steps_per_rollout == 6
    for asked in range(1, 14):
        next(stream)
        assert source.sampler.calls == 1 + (asked - 1) // 6
    assert source.sampled_tokens > 0


def test_rollout_metrics_are_taken_once():
    source = rollout_source()
    next(source.batches(0))
    assert set(source.take_metrics()) == set(ROLLOUT_METRICS)
    assert source.take_metrics() == {}
    single = rollout_source(k=1)
    next(single.batches(0))
    assert set(single.take_metrics()) == set(ROLLOUT_METRICS) - {"zero_variance_groups"}


def test_every_rollout_epoch_holds_every_prompt():
    source = rollout_source()
    batches = list(itertools.islice(source.batches(0), 6))
    epochs = [first_tokens(batches[at]) + first_tokens(batches[at + 1]) for at in (0, 2, 4)]
    assert len(set(epochs[0])) == 4
    assert all(set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1, "shuffled"


def test_minibatches_keep_feedback_beside_its_prompt():
    source = rollout_source()
    whole = source.collect(0)
    rows = {name: i for i, name in enumerate(first_tokens(whole))}
    for batch in itertools.islice(source.batches(0), 6):
        width = batch.response_ids.shape[-1]
        for at, name in enumerate(first_tokens(batch)):
            mask = batch.response_mask[at]
            assert torch.equal(whole.response_mask[rows[name]][:, :width], mask)
            for field, expected in vars(whole.feedback).items():
                found, expected = vars(batch.feedback)[field][at], expected[rows[name]]
                if field != "kl_coefficient":  # the same for all
                    found, expected = found[mask], expected[:, :width][mask]
                assert torch.equal(found, expected), field


def test_rollouts_can_start_from_any_rollout_and_from_nowhere_inside():
    stream = list(itertools.islice(rollout_source().batches(0), 12))
    again = rollout_source().batches(6)
    for expected in stream[6:]:
        assert same(next(again), expected)
    with pytest.raises(ValueError, match="multiples of 6"):
        next(rollout_source().batches(3))


def test_accumulation_only_cuts_the_minibatch():
    whole = rollout_source(micro=4).batches(0)
    parts = rollout_source(micro=1, accumulation=4).batches(0)
    for _ in range(4):
        assert first_tokens(next(whole)) == [first_tokens(batch)[0] for batch in itertools.islice(parts, 4)]


@pytest.mark.parametrize("k", [1, 2])
def test_behaviour_logps_are_those_of_the_first_minibatches_bit_by_bit(k):
    source = rollout_source(k=k)
    source.roles.learn(("policy", "value"))
    for batch in itertools.islice(source.batches(0), 2):
        scores = source.roles(batch, ("policy", "value"))
        assert torch.equal(scores.logps.detach(), batch.feedback.behaviour_logps)
        assert torch.equal(scores.values.detach(), batch.feedback.behaviour_values)


def test_rollout_metrics_by_loop():
    random = np.random.default_rng(0)
    lengths = np.array([[3, 1], [2, 4]])
    mask = torch.tensor(np.arange(4) < lengths[..., None])
    logps, reference = (torch.tensor(random.normal(size=(2, 2, 4))) for _ in range(2))
    rewards = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    ended = torch.tensor([[True, False], [True, True]])
    batch = Batch(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 2, 4), mask)
    junk = [x.masked_fill(~mask, float("nan")) for x in (logps, reference)]
    found = rollout_metrics(Rollout(batch, Scores(*junk, None, rewards), ended))
    u = [[float(logps[b, k, t] - reference[b, k, t]) for t in range(lengths[b, k])] for b, k in np.ndindex(2, 2)]
    expected = {
        "kl": sum(map(sum, u)) / 4,
        "kl_k2": sum(x * x / 2 for row in u for x in row) / 4,
        "kl_k3": sum(np.exp(-x) - 1 + x for row in u for x in row) / 4,
        "entropy": -sum(float(logps[b, k, t]) for b, k in np.ndindex(2, 2) for t in range(lengths[b, k])) / 10,
        "reward": 4.5 / 4,
        "response_length": 10 / 4,
        "ended": 3 / 4,
        "zero_variance_groups": 1 / 2,
    }
    assert set(found) == set(ROLLOUT_METRICS) == set(expected)
    for name, mean in found.items():
        assert float(mean.total / mean.items) == pytest.approx(expected[name], rel=1e-6), name  # float32
