"""Which path scores a batch: the fastest that is exact, and what it falls back to."""

from __future__ import annotations

import logging

import pytest
import torch
from scored_texts import TEXTS, by, gradients, make_batch, make_model, oracle_logps

from preflab.method.contract import Batch
from preflab.scoring import logps as scoring
from preflab.scoring.fused import fused_states
from preflab.scoring.logps import Scorer
from preflab.scoring.packing import Packing, attention, prompt_once_states


@pytest.mark.parametrize(("texts", "run"), [("one response", 9 + 4 + 6 + 0 + 1 + 2), ("even", 3 * 13)])
def test_padding_of_whole_texts_is_run_where_there_is_little(texts, run):
    packing = Packing.of(make_batch(**TEXTS[texts]), end=False)
    assert packing.branches is None
    assert len(packing.ids) == packing.trunks.count == run


def test_packed_texts_do_not_see_each_other():
    model, batch = make_model("llama").requires_grad_(False), make_batch()
    changed = Batch(*(x.clone() for x in batch.tokens))
    changed.prompt_ids[1][changed.prompt_mask[1]] = 7
    changed.response_ids[0, 1][changed.response_mask[0, 1]] = 7
    for path in (fused_states, prompt_once_states):
        with torch.no_grad():
            before, after = (by(path, model, one) for one in (batch, changed))
        assert torch.equal(before[0, 0], after[0, 0])
        assert torch.equal(before[2], after[2])
        assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"dropout": 0.1}, {"position_bias": torch.zeros(1)}])
def test_attention_refuses_what_it_does_not_do(asked):
    states = torch.zeros(1, 4, 3, 8)
    packing = Packing.of(make_batch(prompts=(1, 1), responses=((1,), (1,))), end=False)
    with pytest.raises(NotImplementedError, match=next(iter(asked))):
        attention(torch.nn.Identity(), states, states, states, None, packing=packing, **asked)


def test_a_model_of_another_attention_is_left_alone():
    model = make_model("llama").requires_grad_(False)
    model.set_attn_implementation("eager")
    scorer = Scorer(model)
    with torch.no_grad():
        # The library's eager softmax rounds to float32, and a padded row's sum to other digits than the row's alone.
        torch.testing.assert_close(scorer.logps(make_batch()), oracle_logps(model, make_batch()), atol=2e-6, rtol=0)
    assert scorer.path(make_batch()) == "plain"
    assert model.config._attn_implementation == "eager"


def test_broken_prompt_once_falls_back_and_says_so(monkeypatch, caplog):
    model, batch = make_model("llama"), make_batch()

    def broken_states(backbone, batch, *, end=False):
        return prompt_once_states(backbone, batch, end=end).roll(1, 0)

    monkeypatch.setitem(scoring.PATHS, "prompt_once", broken_states)
    scorer = Scorer(model)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        torch.testing.assert_close(scorer.logps(batch), oracle_logps(model, batch), atol=1e-9, rtol=0)
    assert scorer.path(batch) == "plain"
    assert "not exact" in caplog.text
    assert "LlamaForCausalLM" in caplog.text


def test_both_broken_falls_back_to_single_rows(monkeypatch):
    model, batch = make_model("llama"), make_batch()

    def broken_states(backbone, batch, *, end=False):
        raise TypeError("no such argument")

    for path in ("prompt_once", "plain"):
        monkeypatch.setitem(scoring.PATHS, path, broken_states)
    scorer = Scorer(model)
    with torch.no_grad():
        torch.testing.assert_close(scorer.logps(batch), oracle_logps(model, batch), atol=1e-9, rtol=0)
    assert scorer.path(batch) == "single"


def test_padding_is_tried_even_where_the_first_batch_has_none():
    model, ragged = make_model("gemma2"), make_batch()
    scorer = Scorer(model)
    with torch.no_grad():
        scorer.logps(make_batch(prompts=(6, 6, 6)))
        found = scorer.logps(ragged)
        torch.testing.assert_close(found, oracle_logps(model, ragged), atol=1e-9, rtol=0)


def test_the_check_leaves_the_batch_alone():
    model = make_model("llama", torch.float32)
    for prompts in ((6, 6, 6), (9, 6, 1)):
        batch = make_batch(prompts=prompts)
        before = [x.clone() for x in batch.tokens]
        with torch.no_grad():
            Scorer(model).logps(batch)
        assert all(torch.equal(x, y) for x, y in zip(batch.tokens, before, strict=True))


def test_gradient_checkpointing_changes_no_gradient():
    model, batch = make_model("llama"), make_batch()
    expected = gradients(model, oracle_logps(model, batch).sum())
    model.gradient_checkpointing_enable()
    model.train()
    for one, other in zip(gradients(model, Scorer(model).logps(batch).sum()), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 * max(1.0, other.abs().max().item()), rtol=0)


def spoilt(model, how):
    layer = model.model.layers[0]
    if how == "hook":
        layer.self_attn.register_forward_hook(lambda *args: None)
    elif how == "learns":
        layer.mlp.up_proj.weight.requires_grad_(True)
    elif how == "activation":
        layer.mlp.act_fn = torch.nn.GELU()
    elif how == "quantised":
        layer.mlp.up_proj.__class__ = type("Quantised", (torch.nn.Linear,), {})
    elif how == "sinks":
        layer.self_attn.sinks = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
    return model


@pytest.mark.parametrize("how", ["hook", "learns", "activation", "quantised", "sinks"])
def test_what_is_not_of_the_form_is_not_fused(how):
    model, batch = spoilt(make_model("llama").requires_grad_(False), how), make_batch()
    with pytest.raises(NotImplementedError, match="a decoder with"):
        fused_states(model.base_model, batch)
    with torch.no_grad():
        scorer = Scorer(model)
        scorer.logps(batch)
    assert scorer.path(batch) in ("prompt_once", "plain")


@pytest.mark.parametrize("family", ["gemma3", "phi3", "gpt2", "neox", "opt"])
def test_other_families_are_not_fused(family):
    with pytest.raises(NotImplementedError, match="a decoder with"):
        fused_states(make_model(family).requires_grad_(False).base_model, make_batch())
