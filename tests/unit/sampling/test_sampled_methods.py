"""Online DPO and expert iteration: which samples they learn from, with what label, and to what end."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny_llama import tiny_llama

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.expert_iteration import ExpertIteration, ExpertIterationConfig
from preflab.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from preflab.method.contract import Batch, Labels, Rollout, Scores, unit_mask
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training.rollouts import RolloutSource

NAN = float("nan")


def make_rollout(rewards, lengths=None, width=4):
    """Response k of prompt b is the token 10 b + k, over and over; its reference log-probabilities tell it apart."""
    rewards = torch.tensor(rewards, dtype=torch.float64)
    prompts, size = rewards.shape
    lengths = torch.full((prompts, size), width) if lengths is None else torch.tensor(lengths)
    names = 10 * torch.arange(prompts)[:, None] + torch.arange(size)
    mask = torch.arange(width) < lengths[..., None]
    batch = Batch(
        torch.full((prompts, 2), 5),
        torch.ones(prompts, 2, dtype=torch.bool),
        names[..., None].expand(-1, -1, width).clone(),
        mask,
    )
    logps = torch.where(mask, -1.0 - 0.01 * names[..., None].double(), NAN)
    return Rollout(batch, Scores(logps - 0.5, logps, None, rewards), mask.any(-1))


def names_of(batch):
    return [[int(ids[0]) for ids in row] for row in batch.response_ids]


def online(**fields):
    return OnlineDPO(OnlineDPOConfig(**fields))


def expert(**fields):
    return ExpertIteration(ExpertIterationConfig(**fields))


# ---- online DPO --------------------------------------------------------------------------------------


def test_the_best_and_the_worst_make_the_pair():
    rollout = make_rollout([[0.5, 2.0, -1.0], [3.0, -7.0, 1.0]], [[4, 2, 3], [1, 4, 2]])
    batch = online(samples_per_prompt=3).prepare(rollout)
    assert names_of(batch) == [[1, 2], [10, 11]]
    assert batch.response_mask.sum(-1).tolist() == [[2, 3], [1, 4]]
    said = {name for name, x in vars(batch.feedback).items() if x is not None}
    assert said == {"behaviour_logps", "preference"}
    assert batch.feedback.preference.tolist() == [1.0, 1.0]
    for row, pair in enumerate(((1, 2), (0, 1))):
        for place, k in enumerate(pair):
            for given, found in zip(
                rollout.scores, (batch.feedback.behaviour_logps, batch.reference_logps), strict=False
            ):
                assert torch.equal(found[row, place].nan_to_num(), given[row, k].nan_to_num())


def test_soft_labels_are_bradley_terry():
    batch = online(labels="soft").prepare(make_rollout([[1.0, 3.0], [4.0, 4.0], [-1.0, -1.5]]))
    assert names_of(batch) == [[1, 0], [10, 11], [20, 21]]
    expected = [1 / (1 + math.exp(-2.0)), 0.5, 1 / (1 + math.exp(-0.5))]
    assert batch.feedback.preference.tolist() == pytest.approx(expected, rel=1e-12)
    assert unit_mask(batch, "prompt").all()  # a tie says that the margin is 0


def test_the_loss_is_that_of_dpo():
    rollout = make_rollout([[1.0, 3.0], [2.0, -2.0]])
    batch = online(beta=0.3).prepare(rollout)
    logps = torch.randn(2, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = Scores(logps, batch.reference_logps)
    offline = DPO(DPOConfig(beta=0.3)).loss(batch.replace(feedback=Labels()), scores)
    assert online(beta=0.3).loss(batch, scores).values.tolist() == offline.values.tolist()


def assert_ties_count_for_nothing(algorithm):
    rollout = make_rollout([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    batch = algorithm.prepare(rollout)
    assert unit_mask(batch, "prompt").tolist() == [False, True]
    logps = (batch.reference_logps + torch.tensor([0.3, -0.2])[:, None]).requires_grad_()
    loss = algorithm.loss(batch, Scores(logps, batch.reference_logps))
    loss.values.masked_fill(~unit_mask(batch, "prompt"), 0.0).sum().backward()
    assert (logps.grad[0] == 0).all()
    assert (logps.grad[1, 0] < 0).all()  # descent raises the chosen one
    assert (logps.grad[1, 1] > 0).all()
    assert set(loss.metrics) == set(OnlineDPO.metrics)
    assert all(mean.items == (8 if name == "approx_kl" else 1) for name, mean in loss.metrics.items())


def test_ties_bear_no_hard_label(monkeypatch):
    assert_ties_count_for_nothing(online(samples_per_prompt=3))
    original = OnlineDPO.prepare

    def whole(self, rollout):
        return original(self, rollout).replace(response_mask=rollout.batch.response_mask[:, :2])

    monkeypatch.setattr(OnlineDPO, "prepare", whole)
    with pytest.raises(AssertionError):
        assert_ties_count_for_nothing(online(samples_per_prompt=3))


def test_identical_responses_give_no_gradient():
    rollout = make_rollout([[1.0, 1.0 - 1e-7]])  # one text twice, scored apart by rounding
    same = rollout.batch.replace(response_ids=torch.full((1, 2, 4), 9))
    reference = torch.full((1, 2, 4), -1.0, dtype=torch.float64)
    scores = rollout.scores._replace(logps=reference, reference_logps=reference)
    batch = online().prepare(rollout._replace(batch=same, scores=scores))
    token = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)  # one parameter behind both
    online().loss(batch, Scores(token.expand(1, 2, 4), reference)).values.sum().backward()
    assert token.grad == 0


def assert_reaches_its_optimum(algorithm, k):
    """All pairs or triples of a small world, weighted as the policy draws them, gradient by gradient."""
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    rewards = torch.tensor([0.0, 1.0, -0.5, 2.0], dtype=torch.float64)
    groups = torch.tensor(list(itertools.product(range(4), repeat=k)))
    prompts = torch.ones(len(groups), 1, dtype=torch.bool)
    rollout = Rollout(
        Batch(prompts.long(), prompts, groups[..., None], torch.ones(len(groups), k, 1, dtype=torch.bool)),
        Scores(reference[groups][..., None], reference[groups][..., None], None, rewards[groups]),
        torch.ones(len(groups), k, dtype=torch.bool),
    )
    batch = algorithm.prepare(rollout)
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], lr=0.5, max_iter=40, tolerance_grad=1e-12, tolerance_change=1e-14)
    for _ in range(20):
        weights = logits.detach().log_softmax(-1)[groups].sum(-1).exp()  # on-policy: drawn anew, without gradient

        def closure(weights=weights):
            optimiser.zero_grad()
            logps = logits.log_softmax(-1)[batch.response_ids]
            loss = (weights * algorithm.loss(batch, Scores(logps, batch.reference_logps)).values).sum()
            loss.backward()
            return loss

        optimiser.step(closure)
    every = Batch(prompts[:1].long(), prompts[:1], torch.arange(4).reshape(1, 4, 1), torch.ones(1, 4, 1).bool())
    optimum = algorithm.optimum(every, Scores(reference_logps=reference.reshape(1, 4, 1), rewards=rewards[None]))
    tilted = (reference + rewards / algorithm.config.beta).exp()  # π* ∝ π_ref e^{r/β}
    assert torch.allclose(optimum[0].exp(), tilted / tilted.sum(), atol=1e-12)
    assert torch.allclose(logits.detach().log_softmax(-1).exp(), optimum[0].exp(), atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_soft_labels_end_at_the_kl_regularised_optimum(k):
    assert_reaches_its_optimum(online(beta=0.7, labels="soft", samples_per_prompt=k), k)


def test_the_optimum_would_be_missed_with_other_labels(monkeypatch):
    original = OnlineDPO.prepare

    def sharper(self, rollout):
        return original(self, rollout._replace(scores=rollout.scores._replace(rewards=2 * rollout.scores.rewards)))

    monkeypatch.setattr(OnlineDPO, "prepare", sharper)
    with pytest.raises(AssertionError):
        assert_reaches_its_optimum(online(beta=0.7, labels="soft"), 2)


def test_hard_labels_have_no_known_optimum():
    rollout = make_rollout([[1.0, 2.0]])
    assert online().optimum(rollout.batch, rollout.scores) is None


# ---- expert iteration --------------------------------------------------------------------------------


def kept(batch):
    """Return the names of the responses that are learnt from."""
    present = batch.response_mask.any(-1)
    return [
        [name for name, there in zip(*row, strict=True) if there]
        for row in zip(names_of(batch), present.tolist(), strict=True)
    ]


REWARDS = [[0.0, 3.0, 1.0, 2.0], [-1.0, -4.0, -2.0, -3.0], [1.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [[1], [10], [20]]),
        ({"keep": 2}, [[1, 3], [10, 12], [20, 21]]),
        ({"keep": 4, "threshold": 1.0}, [[1, 3, 2], [], [20, 21, 22, 23]]),
        ({"keep": 3, "above_mean": True}, [[1, 3], [10, 12], []]),
        ({"keep": 1, "threshold": -0.5}, [[1], [], [20]]),
    ],
)
def test_the_best_are_kept(fields, expected):
    batch = expert(samples_per_prompt=4, **fields).prepare(make_rollout(REWARDS))
    assert kept(batch) == expected
    rewards = [[row[name % 10] for name in names] for row, names in zip(REWARDS, names_of(batch), strict=True)]
    assert batch.feedback.reward.tolist() == rewards


def test_expert_iteration_is_likelihood_of_what_is_kept():
    algorithm = expert(samples_per_prompt=4, keep=2, threshold=0.0)
    lengths = [[4, 2, 3, 1], [1, 1, 1, 1], [2, 2, 2, 2]]
    batch = algorithm.prepare(make_rollout(REWARDS, lengths))
    logps = torch.full((3, 2, 4), NAN, dtype=torch.float64)
    logps[batch.response_mask] = torch.arange(1.0, 8.0, dtype=torch.float64) * -1
    loss = algorithm.loss(batch, Scores(logps))
    # Tokens: 2 and 1 of the first prompt, none of the second, 2 and 2 of the third.
    assert loss.values[batch.response_mask].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    found = {name: mean.total.item() / mean.items.item() for name, mean in loss.metrics.items()}
    assert set(found) == set(ExpertIteration.metrics)
    assert found["nll"] == 28 / 7
    assert found["kept_reward"] == (3.0 + 2.0 + 1.0 + 1.0) / 4
    # u = log π_old − log π; π_old of the response named i is −1.5 − 0.01 i throughout.
    old = [-1.51, -1.51, -1.53, -1.7, -1.7, -1.71, -1.71]
    moved = [o + new for o, new in zip(old, range(1, 8), strict=True)]
    assert found["approx_kl"] == pytest.approx(sum(math.exp(-u) - 1 + u for u in moved) / 7, rel=1e-6)


def test_keeping_more_than_is_sampled_is_refused():
    with pytest.raises(ValueError, match=r"keep \(5\) exceeds samples_per_prompt \(4\)"):
        ExpertIterationConfig(keep=5)


# ---- through the source ------------------------------------------------------------------------------


def make_source(algorithm, flat=False):
    """A rollout source on a tiny model; `flat` makes the reward model give every response the same score."""
    torch.manual_seed(0)
    model = tiny_llama(12, positions=32).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=2, lora_alpha=4), ("policy", "reference", "reward"))
    if flat:
        roles.head("reward").linear.weight.data.zero_()
    train = TrainConfig(per_device_train_batch_size=2)
    prompts = [[3, 4, 5], [6], [7, 8], [9, 3]]
    return RolloutSource(algorithm, algorithm.needs, roles, TransformersSampler(2, 0, 5), prompts, train, seed=0)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "algorithm", [online(rollout_prompts=4), expert(rollout_prompts=4, above_mean=True)], ids=["online", "expert"]
)
def test_minibatches_of_the_source_train(algorithm, flat):
    """Where nothing is left to learn from, the loss is finite all the same, and its gradient 0."""
    source = make_source(algorithm, flat)
    parameters = source.roles.learn(("policy",))
    for batch in itertools.islice(source.batches(0), 2):
        scores = source.roles(batch, algorithm.needs.scores)
        loss, mask = algorithm.loss(batch, scores), unit_mask(batch, algorithm.needs.unit)
        loss.values.masked_fill(~mask, 0.0).sum().backward()
    gradient = sum(float(p.grad.abs().sum()) for p in parameters if p.grad is not None)
    assert math.isfinite(gradient)
    assert (gradient == 0) == flat
    assert {"reward", "kl", "zero_variance_groups"} <= set(source.take_metrics())


@pytest.mark.parametrize("algorithm", [online(rollout_prompts=4), expert(rollout_prompts=4)], ids=["online", "expert"])
def test_the_policy_has_not_moved_on_the_first_minibatch(algorithm):
    """What `stop_kl` reads."""
    source = make_source(algorithm)
    batch = next(source.batches(0))
    drift = algorithm.loss(batch, source.roles(batch, algorithm.needs.scores)).metrics["approx_kl"]
    assert drift.items > 0
    assert abs(drift.total / drift.items) < 1e-6


def test_the_reference_of_the_pairs_is_the_rollouts():
    algorithm = online(rollout_prompts=4, samples_per_prompt=3)
    source = make_source(algorithm)
    batch = source.collect(0)
    again = source.roles(batch.replace(reference_logps=None), ("reference",)).reference_logps
    found = batch.reference_logps[batch.response_mask]
    assert torch.allclose(found, again[batch.response_mask], atol=1e-5)
