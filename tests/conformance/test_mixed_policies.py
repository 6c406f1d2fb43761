"""Policies between two others, summed over every response: what is mixed, and the pipeline's mixture against it."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig

from preflab.eval.conformance.exact import kl
from preflab.eval.harness.policies import MixedPolicy
from preflab.eval.harness.rows import Tokens
from preflab.eval.settings import EvalConfig
from preflab.method.maths import masked_sum
from preflab.model.interpolation import is_product
from preflab.sampling.mixing import MixedSampler

DRAWS = 6000


def shaken(experiment, shape=None):
    """Return roles whose policy is some way from the reference, in float64."""
    roles = experiment.open_roles(("policy", "reference"), sft=None, reward=None)
    if shape is not None:
        roles.add("policy", shape)
    roles.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    return roles


@pytest.fixture(scope="module")
def roles(experiment):
    return shaken(experiment)


@pytest.fixture(scope="module")
def tokens(exact, roles):
    """log π(y_t | x, y_<t) of every response, ``[X, N, T]``."""
    return exact.token_logps(roles, "policy")


@pytest.fixture(scope="module")
def logps(exact, tokens):
    return masked_sum(tokens, exact.batch.response_mask)


def mixture(experiment, roles, share):
    return MixedPolicy(roles, Tokens.of(experiment, EvalConfig()), share=share)


# ---- the enumerated mixtures ---------------------------------------------------------------------------


def by_token_slowly(exact, tokens, share, x):
    """The mixture of one prompt by a walk over the tree, a dictionary of next tokens at every prefix."""
    reference, found = exact.scores.reference_logps[x], []
    responses = [tuple(ids) for ids in exact.groups[x].response_ids]
    following = {}
    for n, ids in enumerate(responses):
        for t, token in enumerate(ids):
            mixed = (1 - share) * reference[n, t].item() + share * tokens[x, n, t].item()
            following.setdefault(ids[:t], {})[token] = mixed
    assert {len(after) for after in following.values()} == {6}, "five symbols and the end"
    for ids in responses:
        total = 0.0
        for t, token in enumerate(ids):
            after = following[ids[:t]]
            total += after[token] - math.log(sum(math.exp(value) for value in after.values()))
        found.append(total)
    return found


@pytest.mark.parametrize("share", [-0.5, 0.25, 1.5])
def test_tokens_are_mixed_over_the_tree(exact, tokens, share):
    found = exact.mixed_by_token(tokens, share)
    for x in range(len(found)):
        assert found[x].tolist() == pytest.approx(by_token_slowly(exact, tokens, share, x), abs=1e-9)
    assert found.exp().sum(1).tolist() == pytest.approx([1.0] * len(found), abs=1e-9)


def test_the_ends_of_both_mixtures_are_the_reference_and_the_policy(exact, tokens, logps):
    # 1e-5: the reference that the world keeps is in float32, and adds up to 1 within that.
    torch.testing.assert_close(exact.mixed_by_token(tokens, 0.0), exact.reference, atol=1e-5, rtol=0)
    for end in (exact.mixed_by_token(tokens, 1.0), exact.mixed_by_response(logps, 1.0)):
        torch.testing.assert_close(end, logps, atol=1e-5, rtol=0)
    near = exact.mixed_by_response(logps, 1e-6)
    torch.testing.assert_close(near, exact.reference, atol=1e-4, rtol=0)


def test_an_optimum_mixed_by_response_is_another_optimum(exact):
    for beta, share in ((1.0, 0.5), (0.5, 0.25), (1.0, 2.0)):
        found = exact.mixed_by_response(exact.kl_optimum(beta), share)
        torch.testing.assert_close(found, exact.kl_optimum(beta / share), atol=1e-9, rtol=0)


def test_the_two_mixtures_are_not_the_same(exact, tokens, logps):
    by_token, by_response = exact.mixed_by_token(tokens, 0.5), exact.mixed_by_response(logps, 0.5)
    assert (by_token - by_response).abs().max() > 0.01


# ---- the pipeline's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.25])
def test_what_the_pipeline_says_of_a_mixture_is_what_is_enumerated(experiment, exact, roles, tokens, share):
    expected = exact.mixed_by_token(tokens, share)
    policy = mixture(experiment, roles, share)
    found = policy.figures(roles, exact.batch, 1.0)
    # float32's, as the enumerated reference is.
    torch.testing.assert_close(found.logp, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.log_ratio, expected - exact.reference, atol=1e-5, rtol=0)
    # By the chain rule, what is summed over tokens is on average the divergence of whole responses.
    torch.testing.assert_close((expected.exp() * found.kl).sum(1), kl(expected, exact.reference), atol=1e-5, rtol=0)
    said = policy.likelihoods(roles, exact.batch)
    assert torch.equal(said["logp"], found.logp)
    assert torch.equal(said["score"], found.log_ratio)


def furthest(drawn, chances):
    """How many standard errors the most deviant of shares ``[X, N]`` lies from its chance, one draw at least."""
    return ((drawn / DRAWS - chances).abs() / (chances * (1 - chances) / DRAWS).sqrt().clamp(min=1 / DRAWS)).max()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_of_a_mixture_come_as_often_as_is_enumerated(experiment, exact, roles, temperature):
    policies = [mixture(experiment, roles, share) for share in (0.0, 0.5, 1.0)]
    start, expected, end = (policy.figures(roles, exact.batch, temperature).logp for policy in policies)
    prompts = [group.prompt_ids for group in exact.groups]
    sampler = policies[1].sampler(experiment, 64)
    samples = sampler(roles, "policy", prompts, k=DRAWS, temperature=temperature, seed=0)
    place = {tuple(ids): n for n, ids in enumerate(exact.groups[0].response_ids)}
    batch = samples.batch
    kept = [
        [place[tuple(ids[mask].tolist())] for ids, mask in zip(*rows, strict=True)]
        for rows in zip(batch.response_ids, batch.response_mask, strict=True)
    ]
    drawn = torch.tensor(kept)
    torch.testing.assert_close(masked_sum(samples.logps, batch.response_mask), expected.gather(1, drawn))
    counts = torch.stack([torch.bincount(row, minlength=expected.shape[1]) for row in drawn])
    assert furthest(counts, expected.exp()) < 5
    assert min(furthest(counts, other.exp()) for other in (start, end)) > 10, "else they would agree with anything"


@pytest.mark.filterwarnings("ignore:.*has no bias")
@pytest.mark.parametrize("kind", ["use_dora", "lora_bias"])
def test_adapters_that_cannot_be_scaled_can_be_mixed(experiment, exact, kind):
    targets = ["q_proj", "v_proj", "up_proj"]
    roles = shaken(experiment, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", **{kind: True}))
    assert not is_product(roles, "policy")
    sampler = MixedSampler(0.5, experiment.ends, experiment.tokenizer.pad_token_id, experiment.max_response_tokens)
    samples = sampler(roles, "policy", [g.prompt_ids for g in exact.groups], k=32, temperature=1.0, seed=1)
    found = mixture(experiment, roles, 0.5).figures(roles, samples.batch, 1.0).logp
    torch.testing.assert_close(masked_sum(samples.logps, samples.batch.response_mask), found)
