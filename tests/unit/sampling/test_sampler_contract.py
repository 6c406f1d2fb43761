"""What every sampler promises, held against each of them; vLLM by a stand-in (`fake_vllm`) on preflab's decode loop.

Where vLLM is installed (`make test-vllm`), the real engine is held to the same.
"""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import fake_vllm
import pytest
import torch
from sampled_model import END, LENGTH, OTHER_END, PAD, PROMPTS, VOCABULARY, draw, open_roles, shake
from scipy.stats import chisquare

from preflab.data.batches import padded
from preflab.errors import UserError
from preflab.method.contract import Batch
from preflab.sampling.mixing import MixedSampler
from preflab.sampling.sampler import TransformersSampler
from preflab.sampling.vllm import VllmSampler

SAMPLERS = ["transformers", "mixed", "stand-in for vllm", *(["vllm"] if find_spec("vllm") else [])]


@pytest.fixture(params=SAMPLERS)
def make(request, folder, monkeypatch):
    """Return what makes a sampler of a length limit."""
    if request.param == "mixed":  # all the way from the reference
        return lambda length=LENGTH: MixedSampler(1.0, END, PAD, length)
    if request.param == "transformers":
        return lambda length=LENGTH: TransformersSampler(END, PAD, length)
    if request.param != "vllm":
        fake_vllm.install(monkeypatch)
    # Prompts as long as leave the context the same: one engine for all lengths.
    return lambda length=LENGTH: VllmSampler(str(folder), END, PAD, 8 + LENGTH - length, length, memory=0.02)


def same(one, other):
    return all(torch.equal(x, y) for x, y in zip(one.batch.tokens, other.batch.tokens, strict=True)) and torch.equal(
        one.logps, other.logps
    )


@pytest.mark.parametrize("k", [1, 7])
def test_shapes_and_masks(make, folder, k):
    samples = draw(make(), open_roles(folder), k=k)
    ids, mask = samples.batch.response_ids, samples.batch.response_mask
    assert ids.shape == mask.shape == samples.logps.shape
    assert ids.shape[:2] == samples.ended.shape == (3, k)
    assert ids.dtype == torch.long
    assert mask.dtype == samples.ended.dtype == torch.bool
    assert mask.any(-1).all()
    assert mask.any(0).any(0).all(), "no column is padding alone"
    assert (samples.logps[~mask] == 0).all()
    assert (samples.logps[mask] < 0).all()
    for row, prompt in enumerate(PROMPTS):
        assert samples.batch.prompt_ids[row][samples.batch.prompt_mask[row]].tolist() == prompt
        assert samples.batch.prompt_mask[row].tolist() == [False] * (5 - len(prompt)) + [True] * len(prompt)


def test_the_end_token_alone_ends_and_belongs_to_the_response(make, folder):
    samples = draw(make(), open_roles(folder), k=64)
    ids, mask = samples.batch.response_ids, samples.batch.response_mask
    assert samples.ended.any()
    assert not samples.ended.all()
    assert ((ids[..., :-1] == OTHER_END) & mask[..., 1:]).any(), "the model's own end token is a token like any other"
    for response, real, ended in zip(ids.flatten(0, 1), mask.flatten(0, 1), samples.ended.flatten(), strict=True):
        length = int(real.sum())
        assert real[:length].all(), "a prefix"
        kept = response[:length].tolist()
        assert END not in kept[:-1]
        assert (kept[-1] == END) == bool(ended)
        assert ended or length == LENGTH


def test_any_of_several_end_tokens_ends(make, folder):
    ends = (END, 4)
    sampler = make()
    sampler.end_ids = ends
    samples = draw(sampler, open_roles(folder), k=64)
    kept = [
        ids[real].tolist()
        for ids, real in zip(
            samples.batch.response_ids.flatten(0, 1), samples.batch.response_mask.flatten(0, 1), strict=True
        )
    ]
    assert {row[-1] for row in kept} >= set(ends)
    assert not any(set(ends) & set(row[:-1]) for row in kept)
    assert samples.ended.flatten().tolist() == [row[-1] in ends for row in kept]


@pytest.mark.parametrize("length", [1, 3])
def test_responses_end_at_the_length_limit(make, folder, length):
    samples = draw(make(length), open_roles(folder), k=32)
    assert samples.batch.response_ids.shape[-1] == length
    assert ((samples.batch.response_mask.sum(-1) == length) | samples.ended).all()
    assert not samples.ended.all()


def test_samples_are_a_function_of_the_seed(make, folder):
    roles = open_roles(folder)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = draw(make(), roles)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    torch.manual_seed(999)
    sampler = make()
    assert same(draw(sampler, roles), first)
    assert not same(draw(sampler, roles, seed=1), first)
    assert same(draw(sampler, roles), first), "nothing is left of what was drawn before"


def test_samples_of_a_prompt_differ_and_so_do_its_places(make, folder):
    samples = draw(make(), open_roles(folder), k=16, prompts=[[3, 4]] * 2)
    one, other = samples.batch.response_ids
    assert not torch.equal(one, other)
    assert len({tuple(row) for row in one.tolist()}) > 3
    assert not torch.equal(one[1:], other[:-1]), "neighbouring seeds do not overlap"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_responses_are_distributed_as_they_are_scored(make, folder, temperature):
    """All responses of up to two tokens, against their exact probabilities."""
    roles, count = open_roles(folder, temperature), 3000
    outcomes = [(END,), *itertools.product([i for i in range(VOCABULARY) if i != END], range(VOCABULARY))]
    ids, mask = padded(PROMPTS, PAD, left=True)
    ends = torch.tensor([[*outcome, PAD][:2] for outcome in outcomes]).expand(3, -1, -1)
    real = torch.tensor([[True, len(outcome) > 1] for outcome in outcomes]).expand(3, -1, -1)
    with torch.no_grad():
        logps = roles(Batch(ids, mask, ends, real), ("policy",)).logps
    probabilities = logps.sum(-1).double().exp()
    samples = draw(make(2), roles, k=count, temperature=temperature)
    for row in range(3):
        kept = [
            tuple(response[seen].tolist())
            for response, seen in zip(samples.batch.response_ids[row], samples.batch.response_mask[row], strict=True)
        ]
        expected = (probabilities[row] / probabilities[row].sum() * count).numpy()
        # Cells with fewer than five expected are pooled. Seeded: the p-values do not change from run to run.
        large = expected >= 5
        counts = [sum(response == outcome for response in kept) for outcome in outcomes]
        cells = [n for n, whole in zip(counts, large, strict=True) if whole]
        wanted = list(expected[large])
        if not large.all():
            cells, wanted = [*cells, count - sum(cells)], [*wanted, count - sum(wanted)]
        assert chisquare(cells, wanted).pvalue > 1e-3, row
        assert chisquare(cells, [count / len(cells)] * len(cells)).pvalue < 1e-9, "the test has power"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("role", ["policy", "reference"])
def test_log_probabilities_are_those_at_the_temperature(make, folder, role, temperature):
    roles = open_roles(folder, temperature)
    samples = draw(make(), roles, k=32, temperature=temperature, role=role)
    with torch.no_grad():
        scores = roles(samples.batch, (role,))
    expected = scores.logps if role == "policy" else scores.reference_logps
    torch.testing.assert_close(samples.logps, expected, atol=2e-5, rtol=1e-5)


def test_the_adapters_weights_are_those_of_now(make, folder):
    roles, sampler = open_roles(folder), make()
    for seed in (1, 2, 3):
        shake(roles, seed)
        samples = draw(sampler, roles, k=32)
        with torch.no_grad():
            torch.testing.assert_close(samples.logps, roles(samples.batch, ("policy",)).logps, atol=2e-5, rtol=1e-5)


def test_a_reference_of_its_own_is_sampled_and_not_the_base(make, folder):
    roles, sampler = open_roles(folder), make()
    bare = draw(sampler, roles, role="reference")
    roles.clone("policy", "reference")
    assert same(draw(sampler, roles, role="reference"), draw(sampler, roles))
    assert not same(draw(sampler, roles, role="reference"), bare)


def test_a_diverged_policy_is_named(make, folder):
    roles, sampler = open_roles(folder), make()
    draw(sampler, roles)
    with torch.no_grad():
        roles.parameters_of("policy")[0].fill_(float("nan"))
    with pytest.raises(UserError, match="the policy gives no finite probabilities"):
        draw(sampler, roles)
    draw(sampler, roles, role="reference")


def test_sampling_leaves_the_mode_and_the_weights_alone_and_counts_its_work(make, folder):
    roles, sampler = open_roles(folder), make()
    before = [p.clone() for p in roles.parameters()]
    roles.train()
    draw(sampler, roles)
    assert roles.model.training
    assert all(torch.equal(x, y) for x, y in zip(before, roles.parameters(), strict=True))
    assert roles.work.flops > 0
