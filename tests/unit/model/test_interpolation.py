"""A policy on its way between two others: every layer's change is the weighted sum of theirs."""

from __future__ import annotations

import pytest
import torch
from test_adapter_shapes import SHAPES, made_by_peft
from tiny_bases import LORA, make_base, make_batch, score, shake

from preflab.model.interpolation import interpolate, is_product
from preflab.model.roles import Roles

PLAIN = [name for name in SHAPES if name not in ("DoRA", "both", "biases of its own")]
SHARES = (-0.25, 0.0, 0.4, 1.0, 1.25)


def changes(roles, role):
    """Every layer's ΔW as PEFT computes it."""
    layers = dict(roles.peft.named_modules())
    return {
        name: layers[name].get_delta_weight(role)
        for name in layers
        if hasattr(layers[name], "get_delta_weight") and role in (*layers[name].lora_A, *layers[name].lora_embedding_A)
    }


def opened(folder, settings=LORA):
    roles = Roles(make_base(), settings)
    roles.start("policy", folder)
    return roles


@pytest.mark.parametrize("name", [*PLAIN, "embeddings"])
@pytest.mark.parametrize("other", ["another rank", "patterns"])
def test_every_layer_changes_by_the_weighted_sum(name, other, tmp_path):
    fields = SHAPES.get(name, {"r": 4, "target_modules": ["embed_tokens", "k_proj"]})
    made_by_peft(tmp_path / "end", **fields)
    made_by_peft(tmp_path / "start", **SHAPES[other])
    for share in SHARES:
        roles = opened(tmp_path / "end")
        roles.start("reference", tmp_path / "start")
        end, start = changes(roles, "policy"), changes(roles, "reference")
        interpolate(roles, "policy", "reference", share)
        found = changes(roles, "policy")
        assert found.keys() == end.keys() | start.keys()
        for layer, change in found.items():
            expected = share * end.get(layer, 0.0) + (1 - share) * start.get(layer, 0.0)
            torch.testing.assert_close(change, expected.expand_as(change), atol=1e-6, rtol=1e-5)
        assert all(torch.equal(changes(roles, "reference")[layer], start[layer]) for layer in start)


def test_the_ends_score_as_what_they_are_and_a_share_between_lies_elsewhere(tmp_path):
    batch = make_batch()

    def scores(share):
        roles = Roles(make_base(), LORA)
        shake(roles, "policy")
        roles.clone("policy", "reference")
        shake(roles, "policy")
        before = score(roles, batch, "policy", "reference")
        interpolate(roles, "policy", "reference", share)
        after = score(roles, batch, "policy", "reference")
        assert torch.equal(before.reference_logps, after.reference_logps)
        return before, after.logps

    before, at_the_end = scores(1.0)
    torch.testing.assert_close(at_the_end, before.logps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores(0.0)[1], before.reference_logps, atol=1e-5, rtol=1e-5)
    half = scores(0.5)[1]
    assert min((half - end).abs().max() for end in (before.logps, before.reference_logps)) > 0.01


def test_without_a_start_the_base_is_where_it_comes_from(tmp_path):
    made_by_peft(tmp_path, r=4)
    roles = opened(tmp_path)
    before = changes(roles, "policy")
    interpolate(roles, "policy", "reference", 0.25)  # a role without an adapter
    for layer, change in changes(roles, "policy").items():
        torch.testing.assert_close(change, 0.25 * before[layer], atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*has no bias", "ignore:.*invalid shape")
@pytest.mark.parametrize("name", ["DoRA", "both", "biases of its own"])
def test_what_is_more_than_a_product_is_refused(name, tmp_path):
    made_by_peft(tmp_path, **SHAPES[name])
    roles = opened(tmp_path)
    assert not is_product(roles, "policy")
    with pytest.raises(ValueError, match="cannot be scaled"):
        interpolate(roles, "policy", None, 0.5)
