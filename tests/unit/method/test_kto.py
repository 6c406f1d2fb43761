"""KTO: its estimate of the KL, its values, and what reaches its gradient."""

from __future__ import annotations

import pytest
import torch
from offline_cases import NAN, case, make_batch, near_reference, sigma

from preflab.algorithms.kto import KTO, KTOConfig, KTOFeedback
from preflab.method.contract import Rollout, Scores


def kto_rollout(junk=0.0, seed=0, desirable=(1, 0, 1)):
    batch = make_batch([[4, 1], [1, 6], [6, 4]], desirable=list(desirable))
    scores = near_reference(batch, seed, scale=1.0)
    filled = Scores(*(x.masked_fill(~batch.response_mask, junk) for x in scores[:2]))
    return Rollout(batch, filled, batch.response_mask.any(-1))


def test_kto_worked_values():
    # β = .5, z0 = 1, log-ratio 3. Desirable: 1 − σ(.5 · (3 − 1)) = 1 − σ(1); undesirable: 1 − σ(.5 · (1 − 3)) = σ(1).
    batch = make_batch([[1], [1]], width=1, kind=KTOFeedback, desirable=[1, 0], kl=[1, 1])
    zero = torch.zeros(2, 1, 1, dtype=torch.float64)
    config = KTOConfig(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    loss = KTO(config).loss(batch, Scores(zero - 1, zero - 4))
    assert loss.values.tolist() == pytest.approx([2 * (1 - sigma(1)), 3 * sigma(1)], rel=1e-12)
    found = {name: (mean.total.item(), mean.items.item()) for name, mean in loss.metrics.items()}
    assert found == {"accuracy": (1, 2), "z0": (2, 2), "desirable_logratio": (3, 1), "undesirable_logratio": (3, 1)}


@pytest.mark.parametrize("seed", range(6))
def test_kto_by_loop(seed):
    rollout = kto_rollout(NAN, seed)
    config = KTOConfig(beta=0.3, desirable_weight=1.3, undesirable_weight=0.8)
    batch = KTO(config).prepare(rollout)
    assert batch.response_ids.shape == (3, 1, 6)
    lengths = rollout.batch.response_mask.sum(-1).tolist()
    difference = (rollout.scores.logps - rollout.scores.reference_logps).tolist()
    ratios = [[sum(difference[b][k][: lengths[b][k]]) for k in range(2)] for b in range(3)]
    z0 = max(0.0, sum(row[1] for row in ratios) / 3)
    assert batch.feedback.kl.tolist() == pytest.approx([z0] * 3, rel=1e-12)
    logps = rollout.scores.logps[:, :1] * 1.1
    found = KTO(config).loss(batch, Scores(logps, batch.reference_logps)).values
    for b, sign in enumerate((1, -1, 1)):
        moved = sum(logps[b, 0, : lengths[b][0]].tolist()) - (
            sum(rollout.scores.reference_logps[b, 0, : lengths[b][0]].tolist())
        )
        weight = 1.3 if sign > 0 else 0.8
        assert found[b].item() == pytest.approx(weight * (1 - sigma(0.3 * sign * (moved - z0))), rel=1e-10)


def test_kto_cases_lie_on_both_sides_of_zero():
    estimates = [KTO(KTOConfig()).prepare(kto_rollout(seed=seed)).feedback.kl[0].item() for seed in range(6)]
    assert min(estimates) == 0
    assert max(estimates) > 0


def test_kto_prepare_ignores_junk_and_its_rows_are_those_of_the_whole():
    clean, dirty = KTO(KTOConfig()).prepare(kto_rollout()), KTO(KTOConfig()).prepare(kto_rollout(NAN))
    assert torch.equal(dirty.reference_logps, clean.reference_logps)
    for name in ("desirable", "kl"):
        assert torch.equal(vars(dirty.feedback)[name], vars(clean.feedback)[name]), name
    logps = kto_rollout(seed=3).scores.logps[:, :1]
    whole = KTO(KTOConfig()).loss(clean, Scores(logps, clean.reference_logps)).values
    for row in range(3):
        part = clean.rows(slice(row, row + 1))
        width = part.response_ids.shape[-1]
        given = Scores(logps[row : row + 1, :, :width], part.reference_logps)
        assert KTO(KTOConfig()).loss(part, given).values[0].item() == pytest.approx(whole[row].item(), rel=1e-12)


def test_kto_has_no_gradient_through_z0_and_turns_with_the_label():
    algorithm, batch, scores = case(KTO)
    kl = batch.feedback.kl.clone().requires_grad_()
    gradients = []
    for desirable in (batch.feedback.desirable, 1 - batch.feedback.desirable):
        leaf = scores.logps.clone().requires_grad_()
        given = batch.replace(feedback=KTOFeedback(kl=kl, desirable=desirable))
        algorithm.loss(given, scores._replace(logps=leaf)).values.sum().backward()
        gradients.append(leaf.grad)
    assert kl.grad is None
    # σ' is even: with equal weights the flipped label has the opposite gradient.
    torch.testing.assert_close(gradients[0], -gradients[1], rtol=1e-12, atol=1e-15)
    assert gradients[0].abs().max() > 1e-3
