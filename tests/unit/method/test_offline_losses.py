"""Offline losses: worked values, independent references, gradients, labels, mutations, and the optima they claim."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from algorithms.dpo import DPO, DPOConfig
from algorithms.kto import KTO, KTOConfig
from algorithms.plackett_luce import PlackettLuce, PlackettLuceConfig
from algorithms.robust_dpo import RobustDPO, RobustDPOConfig
from preflab import Pairwise
from preflab.method import registry
from preflab.method.contract import Batch, Rollout, Scores
from preflab.method.maths import log_odds, plackett_luce, win_probability

NAN = float("nan")


def has_own_loss(name):
    algorithm = registry.load(name)
    return algorithm.needs.responses in ("pair", "single", "ranking") and "policy" in algorithm.needs.trains


# Methods that hand the training to another library have a native twin here.
OFFLINE = {name: registry.load(name) for name in registry.registered() if has_own_loss(name)}
OFFLINE = {name: cls for name, cls in OFFLINE.items() if cls.kind == "loss"}
PAIRWISE = {name: cls for name, cls in OFFLINE.items() if issubclass(cls, Pairwise)}


def test_the_registry_is_what_is_tested():
    assert {"dpo", "robust-dpo", "ipo", "slic", "sppo", "exo", "nca", "apo", "discopop"} <= set(PAIRWISE)
    assert {"simpo", "orpo", "cpo", "rpo"} <= set(PAIRWISE)
    assert {"kto", "plackett-luce"} <= set(OFFLINE) - set(PAIRWISE)


def make_batch(lengths, width=6, **feedback):
    """Return a batch of prompts of three tokens and responses of these ``[B][K]`` lengths."""
    lengths = torch.tensor(lengths)
    prompts = len(lengths)
    return Batch(
        torch.full((prompts, 3), 5),
        torch.ones(prompts, 3, dtype=torch.bool),
        torch.full((*lengths.shape, width), 7),
        torch.arange(width) < lengths[..., None],
        {name: torch.tensor(values, dtype=torch.float64) for name, values in feedback.items()},
    )


def randoms(shape, seed, scale=1.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


def near_reference(batch, seed=0, scale=0.3):
    """Return log-probabilities of about −2 a token, and a reference that is not far off."""
    shape = batch.response_mask.shape
    reference = -2 - randoms(shape, seed).abs()
    return Scores((reference + randoms(shape, seed + 1, scale)).clamp(max=-0.1), reference)


def case(cls):
    """Return a ragged batch of the method's kind; in a ranking, one prompt has fewer responses than the other."""
    batch = {
        "pair": lambda: make_batch([[4, 6], [1, 2], [6, 3]]),
        "ranking": lambda: make_batch([[4, 6, 2], [1, 2, 0], [6, 3, 5]]),
        "single": lambda: make_batch([[4], [1], [6]], desirable=[1, 0, 1], kl=[0.3] * 3),
    }[cls.needs.responses]()
    return cls(cls.Config()), batch, near_reference(batch)


# ---- worked values and independent references ------------------------------------------------------------


def softplus(x):
    return math.log1p(math.exp(x))


def sigma(x):
    return 1 / (1 + math.exp(-x))


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
    if "desirable" in batch.feedback:
        assert (gain[:, 0].sign() == batch.feedback["desirable"] * 2 - 1).all()
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
    turned = batch._map(lambda x: x.flip(1))._replace(prompt_ids=batch.prompt_ids, prompt_mask=batch.prompt_mask)
    expected = algorithm.loss(batch._replace(feedback={"preference": preference}), scores).values
    found = algorithm.loss(
        turned._replace(feedback={"preference": 1 - preference}), Scores(*(x.flip(1) for x in scores[:2]))
    ).values
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_soft_label_is_the_mean_over_hard_ones(name):
    algorithm, batch, scores = case(PAIRWISE[name])

    def values(p):
        given = {"preference": torch.full((3,), p, dtype=torch.float64)}
        return algorithm.loss(batch._replace(feedback=given), scores).values

    torch.testing.assert_close(values(0.7), 0.7 * values(1.0) + 0.3 * values(0.0), rtol=1e-12, atol=1e-12)
    assert torch.equal(values(1.0), algorithm.loss(batch, scores).values)
    assert not torch.equal(values(0.7), values(1.0))


def test_label_smoothing_is_a_soft_label():
    _, batch, scores = case(DPO)
    smoothed = DPO(DPOConfig(label_smoothing=0.2)).loss(batch, scores).values
    given = {"preference": torch.full((3,), 0.8, dtype=torch.float64)}
    assert torch.equal(smoothed, DPO(DPOConfig()).loss(batch._replace(feedback=given), scores).values)


def test_robust_dpo_undoes_the_flips_it_knows_of():
    _, batch, scores = case(DPO)
    expected = DPO(DPOConfig()).loss(batch, scores).values
    assert torch.equal(RobustDPO(RobustDPOConfig(flip_rate=0.0)).loss(batch, scores).values, expected)
    given = {"preference": torch.full((3,), 0.8, dtype=torch.float64)}  # labels of 1, one in five flipped
    found = RobustDPO(RobustDPOConfig(flip_rate=0.2)).loss(batch._replace(feedback=given), scores).values
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- Plackett-Luce ------------------------------------------------------------------------------------


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
    batch = batch._replace(feedback={"rank": torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])})
    ratios = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, NAN]], dtype=torch.float64)[..., None]
    metrics = PlackettLuce(PlackettLuceConfig()).loss(batch, Scores(ratios, torch.zeros_like(ratios))).metrics
    assert (metrics["accuracy"].total, metrics["accuracy"].items) == (1, 1)
    assert (metrics["margin"].total, metrics["margin"].items) == (2, 1)


# ---- KTO ------------------------------------------------------------------------------------------------


def kto_rollout(junk=0.0, seed=0, desirable=(1, 0, 1)):
    batch = make_batch([[4, 1], [1, 6], [6, 4]], desirable=list(desirable))
    scores = near_reference(batch, seed, scale=1.0)
    filled = Scores(*(x.masked_fill(~batch.response_mask, junk) for x in scores[:2]))
    return Rollout(batch, filled, batch.response_mask.any(-1))


def test_kto_worked_values():
    # β = .5, z0 = 1, log-ratio 3. Desirable: 1 − σ(.5 · (3 − 1)) = 1 − σ(1); undesirable: 1 − σ(.5 · (1 − 3)) = σ(1).
    batch = make_batch([[1], [1]], width=1, desirable=[1, 0], kl=[1, 1])
    zero = torch.zeros(2, 1, 1, dtype=torch.float64)
    config = KTOConfig(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    loss = KTO(config).loss(batch, Scores(zero - 1, zero - 4))
    assert loss.values.tolist() == pytest.approx([2 * (1 - sigma(1)), 3 * sigma(1)], rel=1e-12)
    found = {name: (mean.total.item(), mean.items.item()) for name, mean in loss.metrics.items()}
    assert found == {"accuracy": (1, 2), "kl": (2, 2), "desirable_logratio": (3, 1), "undesirable_logratio": (3, 1)}


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
    assert batch.feedback["kl"].tolist() == pytest.approx([z0] * 3, rel=1e-12)
    logps = rollout.scores.logps[:, :1] * 1.1
    found = KTO(config).loss(batch, Scores(logps, batch.feedback["reference_logps"])).values
    for b, sign in enumerate((1, -1, 1)):
        moved = sum(logps[b, 0, : lengths[b][0]].tolist()) - (
            sum(rollout.scores.reference_logps[b, 0, : lengths[b][0]].tolist())
        )
        weight = 1.3 if sign > 0 else 0.8
        assert found[b].item() == pytest.approx(weight * (1 - sigma(0.3 * sign * (moved - z0))), rel=1e-10)


def test_kto_cases_lie_on_both_sides_of_zero():
    estimates = [KTO(KTOConfig()).prepare(kto_rollout(seed=seed)).feedback["kl"][0].item() for seed in range(6)]
    assert min(estimates) == 0
    assert max(estimates) > 0


def test_kto_prepare_ignores_junk_and_its_rows_are_those_of_the_whole():
    clean, dirty = KTO(KTOConfig()).prepare(kto_rollout()), KTO(KTOConfig()).prepare(kto_rollout(NAN))
    for name, tensor in clean.feedback.items():
        assert torch.equal(dirty.feedback[name], tensor), name
    logps = kto_rollout(seed=3).scores.logps[:, :1]
    whole = KTO(KTOConfig()).loss(clean, Scores(logps, clean.feedback["reference_logps"])).values
    for row in range(3):
        part = clean.rows(slice(row, row + 1))
        width = part.response_ids.shape[-1]
        given = Scores(logps[row : row + 1, :, :width], part.feedback["reference_logps"])
        assert KTO(KTOConfig()).loss(part, given).values[0].item() == pytest.approx(whole[row].item(), rel=1e-12)


def test_kto_has_no_gradient_through_z0_and_turns_with_the_label():
    algorithm, batch, scores = case(KTO)
    kl = batch.feedback["kl"].clone().requires_grad_()
    gradients = []
    for desirable in (batch.feedback["desirable"], 1 - batch.feedback["desirable"]):
        leaf = scores.logps.clone().requires_grad_()
        given = batch._replace(feedback={"kl": kl, "desirable": desirable})
        algorithm.loss(given, scores._replace(logps=leaf)).values.sum().backward()
        gradients.append(leaf.grad)
    assert kl.grad is None
    # σ' is even: with equal weights the flipped label has the opposite gradient.
    torch.testing.assert_close(gradients[0], -gradients[1], rtol=1e-12, atol=1e-15)
    assert gradients[0].abs().max() > 1e-3


# ---- optima -----------------------------------------------------------------------------------------------


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
    feedback = {}
    if ranking:
        weight = weight * (-plackett_luce(rewards[rows], torch.ones_like(rows, dtype=torch.bool))).exp()
    else:
        preference = (rewards[rows[:, 0]] - rewards[rows[:, 1]]).sigmoid()
        flipped = getattr(algorithm.config, "flip_rate", 0.0)
        feedback["preference"] = (1 - flipped) * preference + flipped * (1 - preference)
    share = (scores.reference_logps[0] / reference[:, None]).masked_fill(~mask[0], 0.0)
    data = Batch(
        batch.prompt_ids.expand(len(rows), -1),
        batch.prompt_mask.expand(len(rows), -1),
        batch.response_ids[0][rows],
        mask[0][rows],
        feedback,
    )
    given = Scores((logps[:, None] * share)[rows], scores.reference_logps[0][rows])
    return (weight * algorithm.loss(data, given).values).sum()


def gradient_at(algorithm, batch, scores, logits):
    leaf = logits.clone().requires_grad_()
    expected_loss(algorithm, batch, scores, leaf.log_softmax(-1)).backward()
    return leaf.grad.norm().item()


def with_optimum():
    for name, cls in OFFLINE.items():
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
