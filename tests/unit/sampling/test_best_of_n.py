"""Best-of-n: its policy by enumeration, its KL and estimator, and a sampler that draws from just that policy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_llama import tiny_llama

import preflab.sampling.best_of_n
from preflab import best_of_n_kl_bound, best_of_n_log_ratio, best_of_n_logps
from preflab.algorithms.best_of_n import BestOf, BestOfN, BestOfNConfig
from preflab.method.contract import Batch, DecoderMethod, LossMethod, TrainerMethod
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import LoraSettings

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def make_world(size, seed, levels=None):
    """Return log-probabilities and rewards of `size` responses; with `levels`, many share a reward."""
    random = np.random.default_rng(seed)
    logps = torch.tensor(random.normal(size=size) * 1.5).log_softmax(-1)
    rewards = random.integers(levels, size=size) if levels else random.normal(size=size)
    return logps, torch.tensor(rewards, dtype=torch.float64)


def exact_kl(logps, rewards, n):
    best = best_of_n_logps(logps, rewards, n)
    return float((best.exp() * (best - logps)).sum())


WORLDS = [(1, None), (2, None), (5, None), (40, None), (6, 2), (40, 5), (7, 1)]


# ---- the policy --------------------------------------------------------------------------------------


def assert_best_of_n_is_its_definition():
    """By brute force: every sequence of n draws, the first best one shown."""
    for (size, levels), n in itertools.product([(3, None), (4, 2), (2, 1)], (1, 2, 3)):
        logps, rewards = make_world(size, 3, levels)
        expected = [0.0] * size
        for draws in itertools.product(range(size), repeat=n):
            winner = max(draws, key=lambda y: float(rewards[y]))  # `max` returns the first of equals
            expected[winner] += math.exp(sum(float(logps[y]) for y in draws))
        assert best_of_n_logps(logps, rewards, n).exp().tolist() == pytest.approx(expected, rel=1e-10)


def test_best_of_n_is_its_definition():
    assert_best_of_n_is_its_definition()


def test_worked_value():
    # P = ½, ¼, ¼, the first one best, the others tied; n = 2. The first wins unless it is in neither draw: 1 − ¼.
    logps = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    found = best_of_n_logps(logps, torch.tensor([1.0, 0.0, 0.0]), 2)
    assert found.exp().tolist() == pytest.approx([0.75, 0.125, 0.125], rel=1e-12)


def test_rows_are_apart_and_absent_responses_stay_absent():
    rows = [make_world(5, seed) for seed in (0, 1)]
    logps, rewards = (torch.stack(parts) for parts in zip(*rows, strict=True))
    both = best_of_n_logps(logps, rewards, 3)
    for row, (own, reward) in enumerate(rows):
        assert torch.allclose(both[row], best_of_n_logps(own, reward, 3), **EXACT)
    nowhere, junk = torch.full((2, 2), float("-inf")), torch.tensor([[9.0, float("nan")]] * 2)
    wider = best_of_n_logps(torch.cat([logps, nowhere], 1), torch.cat([rewards, junk], 1), 3)
    assert torch.allclose(wider[:, :5], both, **EXACT)
    assert (wider[:, 5:] == float("-inf")).all()


def test_rare_responses_keep_their_digits():
    """1 − F is lost in float64 for the best two of these; what remains is n times as likely as before."""
    logps = torch.tensor([-50.0, -45.0, 0.0], dtype=torch.float64)
    found = best_of_n_logps(logps, torch.tensor([2.0, 1.0, 0.0]), 8)
    assert (found - logps)[:2].tolist() == pytest.approx([math.log(8)] * 2, rel=1e-12)


def test_best_of_k_of_best_of_m_is_best_of_both():
    logps, rewards = make_world(30, 0)
    again = best_of_n_logps(best_of_n_logps(logps, rewards, 3), rewards, 5)
    assert torch.allclose(again, best_of_n_logps(logps, rewards, 15), **EXACT)


# ---- KL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 64])
def test_the_bound_holds_and_is_reached_without_ties(n):
    for seed, (size, levels) in itertools.product(range(5), WORLDS):
        assert exact_kl(*make_world(size, seed, levels), n) <= best_of_n_kl_bound(n) + 1e-12
    size = 2000
    even = torch.full((size,), -math.log(size), dtype=torch.float64)
    close = exact_kl(even, torch.arange(size).double(), n)
    # A tie has chance 1/size: the value falls by (n − 1)² / (24 size²), see `best_of_n_log_ratio` for small q.
    assert close == pytest.approx(best_of_n_kl_bound(n), abs=(n - 1) ** 2 / size**2 + 1e-12)


def test_the_bound_is_known_for_small_n():
    assert best_of_n_kl_bound(1) == 0
    assert best_of_n_kl_bound(2) == pytest.approx(math.log(2) - 0.5)


def chances(logps, rewards):
    """Return F and p of each response, by a plain sum."""
    share = logps.exp()
    at_most = torch.stack([share[rewards <= own].sum() for own in rewards])
    return at_most, torch.stack([share[rewards == own].sum() for own in rewards])


def assert_the_mean_of_the_estimate_is_the_kl():
    for n, (size, levels) in itertools.product((1, 2, 4, 32), WORLDS):
        logps, rewards = make_world(size, 1, levels)
        winners = best_of_n_logps(logps, rewards, n).exp()
        at_most, tied = chances(logps, rewards)
        found = float((winners * best_of_n_log_ratio(tied / at_most, n)).sum())
        assert found == pytest.approx(exact_kl(logps, rewards, n), abs=1e-10)


def test_the_mean_of_the_estimate_is_the_kl():
    assert_the_mean_of_the_estimate_is_the_kl()


def test_the_estimate_falls_from_the_bound_to_nothing():
    for n in (1, 2, 7, 300):
        values = best_of_n_log_ratio(torch.linspace(0, 1, 1001), n)
        assert values[0].item() == pytest.approx(best_of_n_kl_bound(n), abs=1e-9)
        assert values[-1].item() == pytest.approx(0, abs=1e-9)
        assert (values.diff() <= 1e-12).all()
    assert best_of_n_log_ratio(torch.tensor(-900.0).exp(), 4).item() == pytest.approx(best_of_n_kl_bound(4))


def test_with_the_responses_own_chance_the_estimate_errs_upwards():
    for n, (size, levels) in itertools.product((2, 4, 32), WORLDS):
        logps, rewards = make_world(size, 2, levels)
        winners = best_of_n_logps(logps, rewards, n).exp()
        estimate = float((winners * best_of_n_log_ratio(logps.exp(), n)).sum())
        assert exact_kl(logps, rewards, n) - 1e-10 <= estimate <= best_of_n_kl_bound(n)
    # One likely response above very many rare ones: q is its chance, and the estimate exact.
    logps = torch.cat([torch.tensor([0.3]), torch.full((3000,), 0.7 / 3000)]).double().log()
    rewards = torch.arange(3001, 0, -1).double()
    winners = best_of_n_logps(logps, rewards, 4).exp()
    exact = exact_kl(logps, rewards, 4)
    assert float((winners * best_of_n_log_ratio(logps.exp(), 4)).sum()) == pytest.approx(exact, abs=1e-5)
    assert exact < best_of_n_kl_bound(4) - 0.03


def test_wrong_formulas_are_noticed(monkeypatch):
    original, policy = preflab.sampling.best_of_n.best_of_n_log_ratio, preflab.sampling.best_of_n.best_of_n_logps
    for mutant in (lambda q, n: -original(q, n), lambda q, n: original(q, n + 1), lambda q, n: original(q / 2, n)):
        monkeypatch.setitem(globals(), "best_of_n_log_ratio", mutant)
        with pytest.raises(AssertionError):
            assert_the_mean_of_the_estimate_is_the_kl()
    for mutant in (lambda p, r, n: policy(p, -r, n), lambda p, r, n: policy(p, r, n + 1), lambda p, r, n: p):
        monkeypatch.setitem(globals(), "best_of_n_logps", mutant)
        with pytest.raises(AssertionError):
            assert_best_of_n_is_its_definition()


# ---- the sampler -------------------------------------------------------------------------------------

PAD, END, VOCABULARY, LENGTH = 0, 2, 5, 2
# None of one token alone: two responses to such a one can have equal rewards, which rounding then orders.
PROMPTS = [[3, 4, 3, 1], [4, 3, 1], [1, 3]]


@pytest.fixture(scope="module")
def roles():
    torch.manual_seed(0)
    model = tiny_llama(VOCABULARY, positions=16, pad=PAD, end=END).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=2, lora_alpha=4), ("policy", "reward"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in roles.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    enumeration(roles, PROMPTS[0])  # a model's first batch is scored in every way: let it be a small one
    return roles


def enumeration(roles, prompt):
    """Return every response to a prompt, their log-probabilities and rewards."""
    responses = [[END]]
    responses += [[a, b] for a, b in itertools.product(range(VOCABULARY), repeat=2) if a != END]
    ids = torch.tensor([[row + [PAD] * (LENGTH - len(row)) for row in responses]])
    mask = torch.tensor([[[place < len(row) for place in range(LENGTH)] for row in responses]])
    batch = Batch(torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.bool), ids, mask)
    with torch.no_grad():
        scores = roles(batch, ("policy", "reward"))
    return responses, scores.logps.sum(-1)[0].double(), scores.rewards[0].double()


def draw(roles, n, k=1, seed=0, prompts=PROMPTS, **options):
    sampler = BestOf(TransformersSampler(END, PAD, LENGTH), n, **options)
    return sampler(roles, "policy", prompts, k=k, temperature=1.0, seed=seed)


def responses(samples):
    return [
        [ids[mask].tolist() for ids, mask in zip(*rows, strict=True)]
        for rows in zip(samples.batch.response_ids, samples.batch.response_mask, strict=True)
    ]


def p_value(counts, logps):
    """Return the chance of counts as unlike the probabilities as these; rare responses share a cell."""
    counts, expected = np.array(counts), (logps.softmax(-1) * sum(counts)).numpy()
    rare = expected < 5
    if rare.any():
        counts, expected = ([*x[~rare], x[rare].sum()] for x in (counts, expected))
    return chisquare(counts, expected).pvalue


@pytest.mark.parametrize(("n", "flat"), [(3, False), (3, True)])
def test_samples_follow_the_exact_policy(roles, monkeypatch, n, flat):
    if flat:  # every response ties: the choice must then change nothing
        monkeypatch.setattr(roles.head("reward").linear.weight, "data", torch.zeros(1, 16))
    count = 2000
    drawn = responses(draw(roles, n, k=count))
    for row, prompt in enumerate(PROMPTS):
        every, logps, rewards = enumeration(roles, prompt)
        found = [drawn[row].count(response) for response in every]
        assert sum(found) == count
        assert p_value(found, best_of_n_logps(logps, rewards, n)) > 1e-3
        if not flat:  # the test has power: it refuses the policy that is sampled, and another n
            assert p_value(found, logps) < 1e-6
            assert p_value(found, best_of_n_logps(logps, rewards, n + 1)) < 1e-3


def test_the_log_ratios_average_to_no_less_than_the_kl(roles):
    n, count = 4, 2000
    samples = draw(roles, n, k=count)
    assert samples.log_ratio.shape == (len(PROMPTS), count)
    drawn = responses(samples)
    for row, prompt in enumerate(PROMPTS):
        every, logps, rewards = enumeration(roles, prompt)
        winners = best_of_n_logps(logps, rewards, n).exp()
        expected = float((winners * best_of_n_log_ratio(logps.exp(), n)).sum())
        error = float(samples.log_ratio[row].std()) / math.sqrt(count)
        assert float(samples.log_ratio[row].mean()) == pytest.approx(expected, abs=4 * error)
        assert exact_kl(logps, rewards, n) <= expected <= best_of_n_kl_bound(n)
        names = [every.index(response) for response in drawn[row]]
        assert torch.allclose(samples.log_ratio[row], best_of_n_log_ratio(logps[names].exp(), n), atol=1e-4)


def test_best_of_one_is_the_policy(roles):
    plain = TransformersSampler(END, PAD, LENGTH)(roles, "policy", PROMPTS, k=5, temperature=1.0, seed=3)
    one = draw(roles, 1, k=5, seed=3)
    assert responses(one) == responses(plain)
    assert torch.equal(one.ended, plain.ended)
    assert (one.log_ratio == 0).all()


def test_samples_are_whole_and_do_not_depend_on_the_cut(roles):
    samples, again = draw(roles, 3, k=2), draw(roles, 3, k=2, sequences_at_once=1)
    assert responses(samples) == responses(again)
    assert torch.allclose(samples.log_ratio, again.log_ratio, atol=1e-5)
    for rows, ends in zip(responses(samples), samples.ended.tolist(), strict=True):
        assert [row[-1] == END for row in rows] == ends
    pool = TransformersSampler(END, PAD, LENGTH)(roles, "policy", PROMPTS, k=6, temperature=1.0, seed=0)
    rewards = BestOf(TransformersSampler(END, PAD, LENGTH), 3).implicit_rewards(roles, pool.batch)
    for row, (drawn, scores) in enumerate(zip(responses(pool), rewards.tolist(), strict=True)):
        for at in (0, 1):  # the first three compete for the first place, the others for the second
            best = max(range(3 * at, 3 * at + 3), key=lambda i: scores[i])
            assert responses(samples)[row][at] == drawn[best]


def test_the_method_keeps_the_contract():
    method = BestOfN(BestOfNConfig(n=7))
    assert isinstance(method, DecoderMethod)
    assert not isinstance(method, LossMethod | TrainerMethod)
    assert method.decode(TransformersSampler(END, PAD, LENGTH)).n == 7
