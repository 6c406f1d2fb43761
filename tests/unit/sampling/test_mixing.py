"""Log-probabilities of two roles mixed at every token (the exact world holds the sampler to what is enumerated)."""

from __future__ import annotations

import math

import pytest
import torch
from sampled_model import END, LENGTH, PAD, PROMPTS, draw, open_roles, shake

import preflab.sampling.sampler
from preflab.errors import UserError
from preflab.sampling.mixing import MixedSampler, mixed_logps
from preflab.sampling.sampler import TransformersSampler

NONE = -math.inf


def test_a_worked_mixture():
    """(0.5, 0.5) and (0.9, 0.1) half-way: (√.45, √.05) over their sum; the ratio is 3, and 27 at a share of 1.5."""
    start, end = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    for share, ratio in ((0.0, 1.0), (0.5, 3.0), (1.0, 9.0), (1.5, 27.0)):
        found = mixed_logps(start, end, share).exp()
        assert found.tolist() == pytest.approx([ratio / (1 + ratio), 1 / (1 + ratio)], abs=1e-6)
    shifted = mixed_logps(start + 7, end - 3, 0.5).exp()  # logits
    assert shifted.tolist() == pytest.approx([0.75, 0.25], abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0, 1.5])
def test_what_neither_end_gives_the_mixture_does_not(share):
    found = mixed_logps(torch.tensor([0.0, 1.0, NONE]), torch.tensor([1.0, 0.0, NONE]), share)
    assert found[2] == NONE
    assert found[:2].exp().sum().item() == pytest.approx(1.0)


def test_at_an_end_the_other_has_no_say():
    one, other = torch.tensor([0.0, NONE]), torch.tensor([0.0, 0.0])
    assert mixed_logps(one, other, 1.0).exp().tolist() == [0.5, 0.5]
    assert mixed_logps(other, one, 0.0).exp().tolist() == [0.5, 0.5]
    assert mixed_logps(one, other, 0.5).exp().tolist() == [1.0, 0.0]


def test_half_types_are_mixed_in_single_precision():
    found = mixed_logps(torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16), 0.3)
    assert found.dtype == torch.float32
    assert mixed_logps(torch.zeros(3).double(), torch.zeros(3).double(), 0.3).dtype == torch.float64


def reference_and_policy(folder):
    """The policy of a tiny model, and a reference with an adapter of its own."""
    roles = open_roles(folder)
    roles.clone("policy", "reference")
    shake(roles, seed=2)
    return roles


@pytest.mark.parametrize(("share", "role", "other"), [(0.0, "reference", "policy"), (1.0, "policy", "reference")])
def test_the_ends_draw_what_the_roles_draw(folder, share, role, other):
    roles = reference_and_policy(folder)
    mixed = draw(MixedSampler(share, END, PAD, LENGTH), roles, k=16)
    alone = draw(TransformersSampler(END, PAD, LENGTH), roles, k=16, role=role)
    assert torch.equal(mixed.batch.response_ids, alone.batch.response_ids)
    torch.testing.assert_close(mixed.logps, alone.logps, atol=1e-5, rtol=0)  # one folds the adapter in
    other = draw(
        TransformersSampler(END, PAD, LENGTH), roles, k=16, role={"reference": "policy"}.get(role, "reference")
    )
    assert (mixed.logps.sum(-1) - other.logps.sum(-1)).abs().max() > 0.1


def test_the_roles_are_left_as_they_were(folder):
    roles = reference_and_policy(folder)
    before = {name: tensor.clone() for name, tensor in roles.peft.named_parameters()}
    reading = [layer._active_adapter for layer in roles._layers]
    draw(MixedSampler(0.5, END, PAD, LENGTH), roles)
    assert [layer._active_adapter for layer in roles._layers] == reading
    assert all(torch.equal(tensor, before[name]) for name, tensor in roles.peft.named_parameters())


def test_the_work_is_that_of_two(folder):
    def spent(sampler):
        roles = reference_and_policy(folder)
        draw(TransformersSampler(END, PAD, LENGTH), roles, k=1)  # the paths are tried
        before = roles.work.flops
        draw(sampler, roles, k=16)
        return roles.work.flops - before

    one = spent(TransformersSampler(END, PAD, LENGTH))
    assert spent(MixedSampler(1.0, END, PAD, LENGTH)) == 2 * one


def test_without_the_decode_loop_it_is_said_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(preflab.sampling.sampler, "feeder_of", lambda *args: None)
    with pytest.raises(UserError, match="interpolate by weights"):
        draw(MixedSampler(0.5, END, PAD, LENGTH), open_roles(folder), prompts=PROMPTS)
