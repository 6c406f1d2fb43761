"""Sampling: a function of the seed alone, distributed as the policy that is scored, cut at the end token."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chisquare
from tiny_llama import tiny_llama
from transformers import GenerationConfig

from preflab.data.batches import padded
from preflab.errors import UserError
from preflab.method.contract import Batch
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.seeds import derive, seeded
from preflab.settings.training import LoraSettings

VOCABULARY, PAD, END, LENGTH = 6, 0, 2, 5
PROMPTS = [[3, 4, 5, 3, 3], [5], [4, 4]]


def make_roles(temperature=1.0, vocabulary=VOCABULARY):
    torch.manual_seed(0)
    model = tiny_llama(vocabulary, layers=2, positions=32, pad=PAD, end=END).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    roles = Roles(model, LoraSettings(lora_rank=2, lora_alpha=4), temperature=temperature)
    with torch.no_grad():
        for parameter in roles.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return roles


@pytest.fixture(scope="module")
def roles():
    return make_roles()


def sampler(length=LENGTH, pad=PAD, at_once=512):
    return TransformersSampler(END, pad, length, at_once)


def draw(roles, k=8, seed=0, temperature=1.0, prompts=PROMPTS, role="policy", **options):
    return sampler(**options)(roles, role, prompts, k=k, temperature=temperature, seed=seed)


def responses(samples):
    """Return the real tokens of each response."""
    return [
        [ids[mask].tolist() for ids, mask in zip(*rows, strict=True)]
        for rows in zip(samples.batch.response_ids, samples.batch.response_mask, strict=True)
    ]


def same(one, other):
    return responses(one) == responses(other) and torch.equal(one.ended, other.ended)


def test_samples_are_a_function_of_the_seed(roles):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = draw(roles)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    torch.manual_seed(999)
    assert same(draw(roles), first)
    assert not same(draw(roles, seed=1), first)


def test_seeds_are_derived_by_purpose():
    assert derive(0, "rollout", 3) == derive(0, "rollout", 3)
    seeds = {derive(seed, *purpose) for seed in (0, 1) for purpose in (("a",), ("a", 0), ("b",), ("a", "0"))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    with seeded(0, "a"):
        one = torch.rand(3)
    with seeded(0, "a"):
        assert torch.equal(torch.rand(3), one)


def test_the_end_token_ends_and_belongs_to_the_response(roles):
    samples = draw(roles, k=64)
    ids, mask = samples.batch.response_ids, samples.batch.response_mask
    assert ids.shape[:2] == (3, 64)
    assert samples.ended.any()
    assert not samples.ended.all()
    for response, real, ended in zip(ids.flatten(0, 1), mask.flatten(0, 1), samples.ended.flatten(), strict=True):
        length = int(real.sum())
        assert real[:length].all(), "a prefix"
        kept = response[:length].tolist()
        assert END not in kept[:-1]
        assert (kept[-1] == END) == bool(ended)
        assert ended or length == LENGTH


def test_prompts_are_padded(roles):
    batch = draw(roles, k=2).batch
    for row, prompt in enumerate(PROMPTS):
        assert batch.prompt_ids[row][batch.prompt_mask[row]].tolist() == prompt
        assert batch.prompt_mask[row].tolist() == [False] * (5 - len(prompt)) + [True] * len(prompt)
    ids, mask = padded([[7], [8, 9]], 3, left=True)
    assert ids.tolist() == [[3, 7], [8, 9]]
    assert mask.tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_responses_are_distributed_as_they_are_scored(temperature):
    """All responses of up to two tokens, against their exact probabilities, prompts of different lengths."""
    roles, count = make_roles(temperature), 4000
    outcomes = [(END,), *itertools.product([i for i in range(VOCABULARY) if i != END], range(VOCABULARY))]
    samples = draw(roles, k=count, temperature=temperature, length=2, at_once=10**6)
    ids, mask = padded(PROMPTS, PAD, left=True)
    ends = torch.tensor([[*outcome, PAD][:2] for outcome in outcomes])
    real = torch.tensor([[True, len(outcome) > 1] for outcome in outcomes])
    batch = Batch(ids, mask, ends.expand(3, -1, -1), real.expand(3, -1, -1))
    with torch.no_grad():
        probabilities = roles(batch, ("policy",)).logps.sum(-1).double().exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    index = {outcome: i for i, outcome in enumerate(outcomes)}
    for row in range(3):
        seen = [0] * len(outcomes)
        for response, kept in zip(samples.batch.response_ids[row], samples.batch.response_mask[row], strict=True):
            seen[index[tuple(response[kept].tolist())]] += 1
        expected = (probabilities[row] / probabilities[row].sum() * count).numpy()
        # Cells with fewer than five expected are pooled. Seeded: the p-values do not change from run to run.
        small = expected < 5
        cells = [*expected[~small], *([expected[small].sum()] if small.any() else [])]
        counts = [n for n, s in zip(seen, small, strict=True) if not s]
        counts += [sum(n for n, s in zip(seen, small, strict=True) if s)] if small.any() else []
        assert chisquare(counts, cells).pvalue > 1e-3, row
        uniform = [count / len(counts)] * len(counts)
        assert chisquare(counts, uniform).pvalue < 1e-9, "the test has power"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("role", ["policy", "reference"])
def test_log_probabilities_kept_on_the_way_are_the_scorers(role, temperature):
    roles = make_roles(temperature)
    samples = draw(roles, k=32, temperature=temperature, role=role)
    with torch.no_grad():
        scores = roles(samples.batch, (role,))
    expected = scores.logps if role == "policy" else scores.reference_logps
    assert (samples.logps[~samples.batch.response_mask] == 0).all()
    torch.testing.assert_close(samples.logps, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 8, 16, 40])
def test_chunks_do_not_change_the_samples(roles, at_once):
    assert same(draw(roles, at_once=at_once), draw(roles))


def test_a_diverged_policy_is_named():
    roles = make_roles()
    draw(roles)
    with torch.no_grad():
        roles.parameters_of("policy")[0].fill_(float("nan"))
    with pytest.raises(UserError, match="the policy gives no finite probabilities"):
        draw(roles)
    draw(roles, role="reference")


def test_the_models_generation_config_does_not_leak_in(roles):
    free = draw(roles, k=32)
    own = GenerationConfig(
        top_k=1,
        top_p=0.1,
        min_length=30,
        min_new_tokens=LENGTH,
        repetition_penalty=5.0,
        suppress_tokens=[END],
        no_repeat_ngram_size=1,
        typical_p=0.2,
        min_p=0.5,
        max_new_tokens=1,
        eos_token_id=4,
    )
    before = roles.model.generation_config
    try:
        roles.model.generation_config = own
        assert same(draw(roles, k=32), free)
        assert roles.model.generation_config is own
    finally:
        roles.model.generation_config = before


def test_no_token_is_filtered_out():
    # The library's own default keeps the 50 likeliest; of 90 nearly equal ones 2000 draws find far more.
    seen = draw(make_roles(100.0, vocabulary=90), k=2000, temperature=100.0, prompts=[[3]], length=1)
    assert len(set(seen.batch.response_ids.flatten().tolist())) > 80


def test_padding_may_be_the_end_token(roles):
    assert same(draw(roles), draw(roles, pad=END))


def test_chunks_keep_the_order_of_the_prompts(roles):
    # Next to greedy: every chunking must find the same response to each prompt.
    together = draw(roles, k=1, temperature=1e-3)
    assert len({tuple(row[0]) for row in responses(together)}) == 3, "the prompts differ in their responses"
    assert same(together, draw(roles, k=1, temperature=1e-3, at_once=1))
    for row, prompt in zip(responses(together), PROMPTS, strict=True):
        assert responses(draw(roles, k=1, temperature=1e-3, prompts=[prompt])) == [row]


def test_samples_come_from_the_role_that_was_asked(roles):
    bare = make_roles()
    with torch.no_grad():
        for parameter in bare.parameters_of("policy"):
            parameter.zero_()
    assert same(draw(roles, role="reference"), draw(bare))
    assert not same(draw(roles, role="reference"), draw(roles))


def test_sampling_leaves_the_mode_and_the_weights_alone(roles):
    before = [p.clone() for p in roles.parameters()]
    for mode in (True, False):
        roles.train(mode)
        draw(roles)
        assert roles.model.training is mode
    assert all(torch.equal(x, y) for x, y in zip(before, roles.parameters(), strict=True))
