"""Offline losses: worked values, independent references, gradients, labels and mutations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from offline_cases import NAN, OFFLINE, PAIRWISE, case, make_batch, near_reference, randoms, sigma, softplus

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.robust_dpo import RobustDPO, RobustDPOConfig
from preflab.method.contract import Labels, Scores
from preflab.method.maths import log_odds, win_probability


def test_the_registry_is_what_is_tested():
    assert {"dpo", "robust-dpo", "ipo", "slic", "sppo", "exo", "nca", "apo", "discopop"} <= set(PAIRWISE)
    assert {"simpo", "orpo", "cpo", "rpo"} <= set(PAIRWISE)
    assert {"kto", "plackett-luce"} <= set(OFFLINE) - set(PAIRWISE)


def exo(z, e):
    q = sigma(z)
    return q * math.log(q / (1 - e)) + (1 - q) * math.log((1 - q) / e)


# One pair: log π = −1, −3; log π_ref = −2, −1; lengths 1 and 2. Log-ratios 1 and −2, margin 3; per token 1 and −1.
# Log-likelihoods per token −1 and −1.5. β = 0.5 and so β · margin = 1.5, unless a line says otherwise.
WORKED = [
    ("dpo", {}, softplus(-1.5)),
    ("dpo", {"label_smoothing": 0.1}, 0.9 * softplus(-1.5) + 0.1 * softplus(1.5)),
    ("dpo", {"length_normalised": True}, softplus(-0.5 * 2)),
    ("robust-dpo", {"flip_rate": 0.1}, (0.9 * softplus(-1.5) - 0.1 * softplus(1.5)) / 0.8),
    ("ipo", {}, (3 - 1) ** 2),
    ("ipo", {"length_normalised": True}, (2 - 1) ** 2),
    ("slic", {}, 0.0),
    ("slic", {"beta": 0.2}, 0.4),
    ("sppo", {}, (1 - 1) ** 2 + (-2 + 1) ** 2),
    ("exo", {"label_smoothing": 0.2}, exo(1.5, 0.2)),
    ("nca", {}, softplus(-0.5) + 0.5 * softplus(0.5) + 0.5 * softplus(-1)),
    ("apo", {"variant": "zero"}, 1 - sigma(0.5) + sigma(-1)),
    ("apo", {"variant": "down"}, sigma(0.5) + 1 - sigma(1.5)),
    ("discopop", {"tau": 0.5}, (1 - sigma(3)) * softplus(-1.5) + sigma(3) * math.exp(-1.5)),
    ("simpo", {"gamma": 0.4}, softplus(-(0.5 * 0.5 - 0.4))),
    # Odds e^{−1}/(1 − e^{−1}) = 1/(e − 1) and 1/(e^{1.5} − 1).
    ("orpo", {"odds_weight": 0.2}, 1 + 0.2 * math.log1p((math.e - 1) / (math.exp(1.5) - 1))),
    ("cpo", {"alpha": 0.3}, softplus(-0.5 * 2) + 0.3 * 1),
    ("rpo", {"alpha": 0.3}, softplus(-1.5) + 0.3 * 1),
]


def configured(name, fields):
    config = PAIRWISE[name].Config
    beta = {"beta": 0.5} if "beta" in config.__dataclass_fields__ else {}
    return PAIRWISE[name](config(**{**beta, **fields}))


@pytest.mark.parametrize(("name", "fields", "expected"), WORKED)
def test_worked_value(name, fields, expected):
    batch = make_batch([[1, 2]], width=2)
    logps, reference = [[[-1.0, NAN], [-1.0, -2.0]]], [[[-2.0, NAN], [-0.5, -0.5]]]
    scores = Scores(torch.tensor(logps, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64))
    if "reference" not in PAIRWISE[name].needs.scores:
        scores = scores._replace(reference_logps=None)
    assert configured(name, fields).loss(batch, scores).values.tolist() == pytest.approx([expected], rel=1e-12)


def dpo(z):
    return float(np.logaddexp(0, -z))


def margin(c, r, f):
    return c[1] / c[2] - r[1] / r[2] if f.length_normalised else c[1] - r[1]


# Loss of one pair from (sum of log π, log-ratio, length) of chosen c and rejected r, and the config.
REFERENCES = {
    "dpo": lambda c, r, f: (
        (1 - f.label_smoothing) * dpo(f.beta * margin(c, r, f)) + f.label_smoothing * dpo(-f.beta * margin(c, r, f))
    ),
    "robust-dpo": lambda c, r, f: (
        ((1 - f.flip_rate) * dpo(f.beta * (c[1] - r[1])) - f.flip_rate * dpo(f.beta * (r[1] - c[1])))
        / (1 - 2 * f.flip_rate)
    ),
    "ipo": lambda c, r, f: (margin(c, r, f) - 0.5 / f.beta) ** 2,
    "slic": lambda c, r, f: max(0.0, 1 - f.beta * (c[1] - r[1])),
    "sppo": lambda c, r, f: (c[1] - 0.5 / f.beta) ** 2 + (r[1] + 0.5 / f.beta) ** 2,
    "exo": lambda c, r, f: exo(f.beta * (c[1] - r[1]), f.label_smoothing),
    "nca": lambda c, r, f: dpo(f.beta * c[1]) + 0.5 * dpo(-f.beta * c[1]) + 0.5 * dpo(-f.beta * r[1]),
    "apo": lambda c, r, f: (
        1 - sigma(f.beta * c[1]) + sigma(f.beta * r[1])
        if f.variant == "zero"
        else sigma(f.beta * c[1]) + 1 - sigma(f.beta * (c[1] - r[1]))
    ),
    "discopop": lambda c, r, f: (
        (1 - sigma(f.beta * (c[1] - r[1]) / f.tau)) * dpo(f.beta * (c[1] - r[1]))
        + sigma(f.beta * (c[1] - r[1]) / f.tau) * math.exp(-f.beta * (c[1] - r[1]))
    ),
    "simpo": lambda c, r, f: dpo(f.beta * (c[0] / c[2] - r[0] / r[2]) - f.gamma),
    "orpo": lambda c, r, f: -c[0] / c[2] - f.odds_weight * math.log(sigma(odds_of(c[0] / c[2]) - odds_of(r[0] / r[2]))),
    "cpo": lambda c, r, f: dpo(f.beta * (c[0] - r[0])) - f.alpha * c[0] / c[2],
    "rpo": lambda c, r, f: dpo(f.beta * (c[1] - r[1])) - f.alpha * c[0] / c[2],
}


def odds_of(logp):
    p = math.exp(logp)
    return math.log(p / (1 - p))


@pytest.mark.parametrize(("name", "fields"), [(name, fields) for name, fields, _ in WORKED])
def test_losses_are_their_equations(name, fields):
    algorithm, rng = configured(name, fields), np.random.default_rng(3)
    batch = make_batch(rng.integers(1, 7, (20, 2)).tolist())
    scores = near_reference(batch, 5, scale=1.0)
    found = algorithm.loss(batch, scores).values.numpy()
    for row, mask in enumerate(batch.response_mask.numpy()):
        sides = []
        for k in range(2):
            logps, reference = scores.logps[row, k].numpy()[mask[k]], scores.reference_logps[row, k].numpy()[mask[k]]
            sides.append((logps.sum(), logps.sum() - reference.sum(), mask[k].sum()))
        expected = REFERENCES[name](*sides, algorithm.config)
        assert found[row] == pytest.approx(expected, rel=1e-10, abs=1e-12)


# ---- what holds for every offline method --------------------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_gradcheck(name):
    algorithm, batch, scores = case(OFFLINE[name])
    leaf = scores.logps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: algorithm.loss(batch, scores._replace(logps=x)).values, leaf)


@pytest.mark.parametrize("junk", [NAN, float("inf"), -1e30])
@pytest.mark.parametrize("name", OFFLINE)
def test_junk_under_the_mask_changes_nothing(name, junk):
    algorithm, batch, scores = case(OFFLINE[name])
    found = []
    for fill in (0.0, junk):
        logps, reference = (x.masked_fill(~batch.response_mask, fill) for x in scores[:2])
        leaf = logps.requires_grad_()
        loss = algorithm.loss(batch, Scores(leaf, reference))
        loss.values.sum().backward()
        found.append((loss, leaf.grad))
    (clean, gradient), (dirty, dirty_gradient) = found
    assert clean.metrics.keys() == dirty.metrics.keys() == OFFLINE[name].metrics.keys()
    assert clean.values.isfinite().all()
    assert torch.equal(dirty.values, clean.values)
    assert torch.equal(dirty_gradient, gradient)
    assert (gradient[~batch.response_mask] == 0).all()
    for metric, mean in clean.metrics.items():
        assert torch.equal(dirty.metrics[metric].total, mean.total), metric
        assert mean.items > 0, metric


def assert_prefers_better(name):
    """Where the order is wrong, a small step down the gradient must mend it, prompt by prompt.

    Wrong by 3.5 nats: closer to the reference DiscoPOP's loss rises with the margin, and from −5 nats on even IPO
    with labels swapped would raise it.
    """
    algorithm, batch, scores = case(OFFLINE[name])
    reference = scores.reference_logps - 2
    leaf = reference.clone()
    leaf[..., 0] += torch.linspace(-1.75, 1.75, leaf.shape[1])
    leaf.requires_grad_()
    algorithm.loss(batch, Scores(leaf, reference)).values.sum().backward()
    gain = -leaf.grad.sum(-1)
    assert (gain != 0).any(1).all()
    if batch.feedback.desirable is not None:
        assert (gain[:, 0].sign() == batch.feedback.desirable * 2 - 1).all()
    else:
        last = batch.response_mask.any(-1).sum(-1, keepdim=True) - 1
        assert (gain[:, 0] > gain.gather(1, last)[:, 0]).all()


@pytest.mark.parametrize("name", OFFLINE)
def test_direction_and_its_mutations(name, monkeypatch):
    assert_prefers_better(name)
    original = OFFLINE[name].loss

    def mutant(change):
        def loss(self, batch, scores):
            result = original(self, batch, scores)
            return result._replace(values=change(result.values))

        return loss

    for change in (lambda v: -v, lambda v: v * 0):
        monkeypatch.setattr(OFFLINE[name], "loss", mutant(change))
        with pytest.raises(AssertionError):
            assert_prefers_better(name)


@pytest.mark.parametrize("name", PAIRWISE)
def test_swapped_labels_are_seen(name, monkeypatch):
    original = PAIRWISE[name].pair_loss
    monkeypatch.setattr(PAIRWISE[name], "pair_loss", lambda self, pair: original(self, pair.swapped()))
    with pytest.raises(AssertionError):
        assert_prefers_better(name)


@pytest.mark.parametrize("name", OFFLINE)
def test_large_log_ratios_stay_finite_in_float32(name):
    algorithm, batch, scores = case(OFFLINE[name])
    for shift in (-300.0, 300.0):
        leaf = (scores.logps.float() - 310).requires_grad_()
        moved = torch.zeros_like(leaf)
        moved[:, 0] = shift
        loss = algorithm.loss(batch, Scores(leaf + moved, scores.reference_logps.float() - 310)).values
        loss.sum().backward()
        assert loss.isfinite().all()
        assert leaf.grad.isfinite().all()


# ---- soft and smoothed labels -------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRWISE)
def test_probability_of_a_label_and_of_its_opposite_mirror_each_other(name):
    algorithm, batch, scores = case(PAIRWISE[name])
    preference = torch.tensor([0.9, 0.4, 1.0], dtype=torch.float64)
    turned = batch.changed(lambda x: x.flip(1)).replace(prompt_ids=batch.prompt_ids, prompt_mask=batch.prompt_mask)
    expected = algorithm.loss(batch.replace(feedback=Labels(preference=preference)), scores).values
    found = algorithm.loss(
        turned.replace(feedback=Labels(preference=1 - preference)), Scores(*(x.flip(1) for x in scores[:2]))
    ).values
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_soft_label_is_the_mean_over_hard_ones(name):
    algorithm, batch, scores = case(PAIRWISE[name])

    def values(p):
        given = Labels(preference=torch.full((3,), p, dtype=torch.float64))
        return algorithm.loss(batch.replace(feedback=given), scores).values

    torch.testing.assert_close(values(0.7), 0.7 * values(1.0) + 0.3 * values(0.0), rtol=1e-12, atol=1e-12)
    assert torch.equal(values(1.0), algorithm.loss(batch, scores).values)
    assert not torch.equal(values(0.7), values(1.0))


def test_label_smoothing_is_a_soft_label():
    _, batch, scores = case(DPO)
    smoothed = DPO(DPOConfig(label_smoothing=0.2)).loss(batch, scores).values
    given = Labels(preference=torch.full((3,), 0.8, dtype=torch.float64))
    assert torch.equal(smoothed, DPO(DPOConfig()).loss(batch.replace(feedback=given), scores).values)


def test_robust_dpo_undoes_the_flips_it_knows_of():
    _, batch, scores = case(DPO)
    expected = DPO(DPOConfig()).loss(batch, scores).values
    assert torch.equal(RobustDPO(RobustDPOConfig(flip_rate=0.0)).loss(batch, scores).values, expected)
    given = Labels(preference=torch.full((3,), 0.8, dtype=torch.float64))  # labels of 1, one in five flipped
    found = RobustDPO(RobustDPOConfig(flip_rate=0.2)).loss(batch.replace(feedback=given), scores).values
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- shared mathematics -----------------------------------------------------------------------------------


def test_log_odds():
    p = torch.tensor([0.5, 0.9, 1e-9], dtype=torch.float64)
    expected = [math.log(x / (1 - x)) for x in p.tolist()]
    assert log_odds(p.log()).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    certain = torch.zeros(1, requires_grad=True)
    log_odds(certain).sum().backward()
    assert certain.grad.isfinite().all()


def test_win_probability_by_loop():
    reference, rewards = randoms((1, 4), 0), randoms((1, 4), 1)
    mask = torch.tensor([[True, True, True, False]])
    p = np.exp(reference[0, :3].numpy())
    p, r = p / p.sum(), rewards[0].tolist()
    found = win_probability(reference, rewards, mask)[0]
    for y in range(3):
        expected = sum(p[other] * sigma(r[y] - r[other]) for other in range(3))
        assert found[y].item() == pytest.approx(expected, rel=1e-12)
