"""Losses of whole rankings: ties, order, metrics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from offline_cases import NAN, case, make_batch, randoms

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.plackett_luce import PlackettLuce, PlackettLuceConfig
from preflab.method.contract import Labels, Scores
from preflab.method.maths import plackett_luce


def test_listwise_dpo_of_two_is_dpo():
    _, batch, scores = case(DPO)
    found, expected = PlackettLuce(PlackettLuceConfig()).loss(batch, scores), DPO(DPOConfig()).loss(batch, scores)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-14, atol=0)
    names = {"accuracy": "accuracy", "margin": "margin", "best_logps": "chosen_logps", "worst_logps": "rejected_logps"}
    for ours, theirs in names.items():
        assert torch.equal(found.metrics[ours].total, expected.metrics[theirs].total), ours


def test_plackett_luce_by_loop_and_its_probabilities():
    scores, mask = randoms((2, 4), 0, 2.0), torch.tensor([[True] * 4, [True, True, True, False]])
    found = plackett_luce(scores, mask)
    for row, size in enumerate((4, 3)):
        s = scores[row, :size].tolist()
        expected = sum(math.log(sum(math.exp(x) for x in s[k:])) - s[k] for k in range(size))
        assert found[row].item() == pytest.approx(expected, rel=1e-12)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    every = plackett_luce(scores[0][orders], torch.ones_like(orders, dtype=torch.bool))
    assert (-every).exp().sum().item() == pytest.approx(1.0, rel=1e-12)


def test_tied_responses_are_drawn_from_all_that_are_no_better():
    scores = randoms((3, 4), 3, 2.0)
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True, True, False, False]])
    rank = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    found = plackett_luce(scores, mask, rank)
    for row, size in enumerate((4, 3, 2)):
        s, r = scores[row, :size].tolist(), rank[row, :size].tolist()
        no_better = [sum(math.exp(s[j]) for j in range(size) if r[j] >= r[k]) for k in range(size)]
        assert found[row].item() == pytest.approx(sum(map(math.log, no_better)) - sum(s), rel=1e-12)
    a, b = scores[2, :2].tolist()  # two that tie: both orders' Bradley-Terry losses
    assert found[2].item() == pytest.approx(math.log1p(math.exp(b - a)) + math.log1p(math.exp(a - b)), rel=1e-12)
    untied = torch.arange(4.0, dtype=torch.float64).expand(3, 4)
    assert torch.equal(plackett_luce(scores, mask, untied), plackett_luce(scores, mask))


def test_the_order_of_tied_responses_changes_nothing():
    scores = randoms((1, 4), 5, 2.0)
    mask, rank = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0.0, 1.0, 1.0, 2.0]])
    turned = [0, 2, 1, 3]
    assert plackett_luce(scores, mask, rank).item() == pytest.approx(
        plackett_luce(scores[:, turned], mask, rank).item(), rel=1e-12
    )
    level = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(plackett_luce(level, mask, rank).sum(), level)
    assert gradient[0, 1].item() == gradient[0, 2].item()


def test_listwise_metrics_by_hand():
    batch = make_batch([[1, 1, 1], [1, 1, 0]], width=1)
    ratios = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, NAN]], dtype=torch.float64)[..., None]
    reference = torch.full_like(ratios, -9.0)
    metrics = PlackettLuce(PlackettLuceConfig()).loss(batch, Scores(ratios + reference, reference)).metrics
    # Neighbours: 3 − 1, 1 − 2, 0 − 4. Best: −6 and −9; worst: −7 and −5.
    assert (metrics["accuracy"].total, metrics["accuracy"].items) == (1, 3)
    assert (metrics["margin"].total, metrics["margin"].items) == (2 - 1 - 4, 3)
    assert (metrics["best_logps"].total, metrics["worst_logps"].total) == (-15, -12)


def test_tied_neighbours_are_in_no_order():
    batch = make_batch([[1, 1, 1], [1, 1, 0]], width=1)
    batch = batch.replace(feedback=Labels(rank=torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])))
    ratios = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, NAN]], dtype=torch.float64)[..., None]
    metrics = PlackettLuce(PlackettLuceConfig()).loss(batch, Scores(ratios, torch.zeros_like(ratios))).metrics
    assert (metrics["accuracy"].total, metrics["accuracy"].items) == (1, 1)
    assert (metrics["margin"].total, metrics["margin"].items) == (2, 1)
