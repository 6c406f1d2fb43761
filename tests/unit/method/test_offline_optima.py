"""Expected losses are stationary at the optima that methods claim, and only there."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from offline_cases import NAN, OFFLINE, PAIRWISE, make_batch, randoms

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.method.contract import Batch, Labels, Scores
from preflab.method.maths import plackett_luce, win_probability


def table(seed=0, size=5):
    """Return every response of two tokens or less to one prompt, as a batch, with the reference and true rewards."""
    lengths = [[1 + k % 2 for k in range(size)]]
    reference = randoms((1, size), seed).log_softmax(-1)
    share = torch.tensor([[[1.0, 0.0], [0.25, 0.75]][n - 1] for n in lengths[0]], dtype=torch.float64)
    spread = (reference[..., None] * share).masked_fill(share == 0, NAN)
    return make_batch(lengths, width=2), Scores(reference_logps=spread, rewards=randoms((1, size), seed + 1))


def expected_loss(algorithm, batch, scores, logps):
    """Return the loss averaged over all the data there can be: pairs, or rankings of three, from the reference."""
    ranking = algorithm.needs.responses == "ranking"
    every = range(logps.shape[-1])
    rows = torch.tensor(list(itertools.permutations(every, 3) if ranking else itertools.product(every, repeat=2)))
    mask = batch.response_mask
    reference, rewards = scores.reference_logps.masked_fill(~mask, 0.0).sum(-1)[0], scores.rewards[0]
    weight = reference[rows].sum(-1).exp()
    labels = Labels()
    if ranking:
        weight = weight * (-plackett_luce(rewards[rows], torch.ones_like(rows, dtype=torch.bool))).exp()
    else:
        preference = (rewards[rows[:, 0]] - rewards[rows[:, 1]]).sigmoid()
        flipped = algorithm.label_noise
        labels = Labels(preference=(1 - flipped) * preference + flipped * (1 - preference))
    share = (scores.reference_logps[0] / reference[:, None]).masked_fill(~mask[0], 0.0)
    data = Batch(
        batch.prompt_ids.expand(len(rows), -1),
        batch.prompt_mask.expand(len(rows), -1),
        batch.response_ids[0][rows],
        mask[0][rows],
        labels,
    )
    given = Scores((logps[:, None] * share)[rows], scores.reference_logps[0][rows])
    return (weight * algorithm.loss(data, given).values).sum()


def gradient_at(algorithm, batch, scores, logits):
    leaf = logits.clone().requires_grad_()
    expected_loss(algorithm, batch, scores, leaf.log_softmax(-1)).backward()
    return leaf.grad.norm().item()


def with_optimum():
    scaled = {name: cls for name, cls in OFFLINE.items() if "beta" in cls.Config.__dataclass_fields__}
    for name, cls in scaled.items():
        for beta in (0.3, 1.0):
            if cls(cls.Config(beta=beta)).optimum(*table()) is not None:
                yield name, beta


@pytest.mark.parametrize(("name", "beta"), with_optimum())
def test_expected_loss_is_stationary_at_the_optimum_and_only_there(name, beta):
    algorithm = OFFLINE[name](OFFLINE[name].Config(beta=beta))
    for seed in range(3):
        batch, scores = table(10 * seed)
        optimum = algorithm.optimum(batch, scores)
        assert optimum.shape == (1, 5)
        assert optimum.exp().sum().item() == pytest.approx(1.0, rel=1e-12)
        assert gradient_at(algorithm, batch, scores, optimum[0]) < 1e-12
        best = expected_loss(algorithm, batch, scores, optimum[0])
        for step in range(5):
            moved = optimum[0] + randoms(5, 100 + step, 0.3)
            assert gradient_at(algorithm, batch, scores, moved) > 1e-4
            assert expected_loss(algorithm, batch, scores, moved.log_softmax(-1)) > best


def test_which_methods_know_their_optimum():
    found = set(with_optimum())
    assert {(name, beta) for name in ("dpo", "robust-dpo", "ipo", "plackett-luce") for beta in (0.3, 1.0)} <= found
    assert ("nca", 1.0) in found
    assert ("nca", 0.3) not in found
    assert DPO(DPOConfig(label_smoothing=0.1)).optimum(*table()) is None


@pytest.mark.parametrize("name", ["dpo", "robust-dpo", "ipo", "plackett-luce", "nca"])
def test_optimum_leaves_absent_responses_out(name):
    algorithm = OFFLINE[name](OFFLINE[name].Config(beta=1.0))
    batch, scores = table()
    short = make_batch([[1, 2, 1, 2, 1, 0, 0]], width=2)

    def wide(x, value):
        return torch.cat([x, x.new_full((1, 2, *x.shape[2:]), value)], 1)

    padded = Scores(reference_logps=wide(scores.reference_logps, NAN), rewards=wide(scores.rewards, NAN))
    found = algorithm.optimum(short, padded)
    torch.testing.assert_close(found[:, :5], algorithm.optimum(batch, scores), rtol=1e-12, atol=1e-12)
    assert (found[:, 5:] == -math.inf).all()


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_length_normalised_optimum_has_the_form_its_docstring_says(name):
    """log π*/π_ref = |y| (r/β + C), or P/β for IPO, with C such that π* sums to 1."""
    algorithm = PAIRWISE[name](PAIRWISE[name].Config(beta=0.7, length_normalised=True))
    batch, scores = table()
    assert algorithm.optimum(batch, scores) is None
    lengths, mask = batch.response_mask.sum(-1)[0], torch.ones(1, 5, dtype=torch.bool)
    reference = scores.reference_logps.nan_to_num(0.0).sum(-1)
    value = scores.rewards if name == "dpo" else win_probability(reference, scores.rewards, mask)
    low, high = -50.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        policy = reference[0] + lengths * (value[0] / 0.7 + middle)
        low, high = (middle, high) if policy.exp().sum() < 1 else (low, middle)
    assert gradient_at(algorithm, batch, scores, policy) < 1e-10
