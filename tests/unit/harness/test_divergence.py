"""Figures of a policy over the whole vocabulary, against plain forward passes of the model."""

from __future__ import annotations

import pytest
import torch

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.eval.conformance.workbench import END, PAD, VOCABULARY, make_groups, make_roles
from preflab.eval.harness import divergence
from preflab.eval.harness.divergence import policy_figures


@pytest.fixture(scope="module")
def roles():
    """A policy and a reference that are random and far apart."""
    roles = make_roles(names=("policy", "reference"))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return roles


@pytest.fixture(scope="module")
def batch():
    """Ragged pairs, one response missing."""
    groups = make_groups("pair", count=5)
    return collate([*groups, EncodedGroup([5, 6], [[7, END]], 5)], PAD)


def plain_logps(roles, role, batch, b, k, temperature):
    """One response by the model's own forward, without padding: log π of all tokens, ``[T, V]``."""
    prompt = batch.prompt_ids[b][batch.prompt_mask[b]]
    response = batch.response_ids[b, k][batch.response_mask[b, k]]
    with torch.no_grad(), roles.active(role):
        logits = roles.model(input_ids=torch.cat([prompt, response])[None]).logits[0]
    return response, (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)


@pytest.mark.parametrize("at_once", [1, 3, 256])
@pytest.mark.parametrize("path", ["fused", "prompt_once", "plain", "single"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_figures_are_those_of_plain_forward_passes(roles, batch, monkeypatch, temperature, path, at_once):
    monkeypatch.setattr(divergence, "POSITIONS_AT_ONCE", at_once)
    monkeypatch.setattr(roles.scorer, "path", lambda batch: path)
    found = policy_figures(roles, roles, batch, temperature)
    for b, k in batch.response_mask.any(-1).nonzero().tolist():
        ids, logps = plain_logps(roles, "policy", batch, b, k, temperature)
        _, others = plain_logps(roles, "reference", batch, b, k, temperature)
        taken = logps.gather(1, ids[:, None]).sum()
        expected = {
            "logp": taken,
            "log_ratio": taken - others.gather(1, ids[:, None]).sum(),
            "entropy": -(logps.exp() * logps).sum(-1).mean(),
            "kl": (logps.exp() * (logps - others)).sum(),
        }
        for name, value in expected.items():
            assert getattr(found, name)[b, k].item() == pytest.approx(value.item(), abs=1e-9), name
    assert found.kl[-1].tolist() == [found.kl[-1, 0].item(), 0.0], "an empty response is far from nothing"


def test_the_policy_is_at_no_distance_from_itself(roles, batch):
    same = make_roles(names=("policy", "reference"))
    found = policy_figures(same, same, batch)
    assert found.kl.abs().max() == 0
    assert found.log_ratio.abs().max() == 0
    assert found.entropy[:-1].min() > 0
    assert policy_figures(roles, roles, batch).kl[:-1].min() > 0


def test_without_a_reference_there_is_nothing_to_be_far_from(roles, batch):
    found = policy_figures(roles, None, batch)
    assert found.kl is None
    assert found.log_ratio is None
    assert torch.equal(found.entropy, policy_figures(roles, roles, batch).entropy)


def test_what_has_no_probability_counts_nothing(roles, batch, monkeypatch):
    """Some models rule tokens out: their logits are −inf, under policy and reference alike."""
    banned = next(i for i in range(VOCABULARY) if not (batch.response_ids == i).any())
    plain = divergence.token_logits

    def without(model, states):
        logits = plain(model, states)
        logits[:, banned] = float("-inf")
        return logits

    monkeypatch.setattr(divergence, "token_logits", without)
    found = policy_figures(roles, roles, batch)
    assert torch.isfinite(torch.stack([found.logp, found.entropy, found.log_ratio, found.kl])).all()
    assert found.kl[:-1].min() > 0
