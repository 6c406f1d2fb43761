"""The scoring primitive against an oracle of our own: one response at a time, no padding, no cache."""

from __future__ import annotations

import pytest
import torch
from scored_texts import (
    ALL,
    EXACT,
    FUSED,
    JUNK,
    PATHS,
    TEXTS,
    by,
    gradients,
    make_batch,
    make_model,
    oracle_logps,
    sequences,
)

from preflab.method.contract import Batch
from preflab.scoring.fused import fused_states
from preflab.scoring.logps import Scorer, plain_states, single_logps
from preflab.scoring.packing import prompt_once_states


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("family", FUSED)
def test_float64_fused_logps_and_gradients_of_the_input(family, texts):
    """The base is frozen there: what flows back to the embeddings stands for what flows back to adapters."""
    model, batch = make_model(family), make_batch(**texts)
    embeddings = model.get_input_embeddings().weight.requires_grad_(True)
    expected = oracle_logps(model, batch)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).view(expected.shape)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), [embeddings])
    model.requires_grad_(False)
    fused_states(model.base_model, batch)
    embeddings.requires_grad_(True)
    found = by(fused_states, model, batch)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    (one,) = torch.autograd.grad((found * weights).sum(), [embeddings])
    # These normalise in float32, and lose 1e-7 on the way back.
    torch.testing.assert_close(one, gradient, atol=1e-6 * max(1.0, gradient.abs().max().item()), rtol=0)


@pytest.mark.parametrize("path", [prompt_once_states, plain_states], ids=["once", "plain"])
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("family", EXACT)
def test_float64_logps_and_gradients(family, texts, path):
    model, batch = make_model(family), make_batch(**texts)
    found, expected = by(path, model, batch), oracle_logps(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    # Weighted, so that tokens cannot be exchanged. Models that normalise in float32 lose 1e-7 on the way back.
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view(found.shape)
    for one, other in zip(
        gradients(model, (found * weights).sum()), gradients(model, (expected * weights).sum()), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6 * max(1.0, other.abs().max().item()), rtol=0)


@pytest.mark.parametrize("family", ALL)
def test_float32_logps_of_the_scorer(family):
    model, batch = make_model(family, torch.float32), make_batch(seed=1)
    with torch.no_grad():
        torch.testing.assert_close(Scorer(model).logps(batch), oracle_logps(model, batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ALL)
def test_float64_scorer_is_exact_whatever_its_path(family):
    model, batch = make_model(family), make_batch(seed=2)
    scorer = Scorer(model)
    with torch.no_grad():
        torch.testing.assert_close(scorer.logps(batch), oracle_logps(model, batch), atol=1e-9, rtol=0)
    # In float64 Gemma 2 gives NaN under padding, on the right too where a window holds nothing else.
    assert scorer.path(batch) == ("prompt_once" if family in EXACT else "single")
    model.requires_grad_(False)
    frozen = Scorer(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen.logps(batch), oracle_logps(model, batch), atol=1e-9, rtol=0)
    assert frozen.path(batch) == ("fused" if family in FUSED else scorer.path(batch))


@pytest.mark.parametrize(
    "responses",
    [((4,), (1,), (2,)), ((3, 1, 4), (1, 1, 1), (2, 5, 3)), ((1, 1), (1, 1), (1, 1)), ((2, 3), (0, 1), (1, 0))],
    ids=["K=1", "K=3", "T=1", "empty"],
)
@pytest.mark.parametrize(
    "path", [fused_states, prompt_once_states, plain_states, None], ids=["fused", "once", "plain", "scorer"]
)
def test_shapes_of_the_group(responses, path):
    model, batch = make_model("llama").requires_grad_(False), make_batch(responses=responses)
    with torch.no_grad():
        found = Scorer(model).logps(batch) if path is None else by(path, model, batch)
        torch.testing.assert_close(found, oracle_logps(model, batch), atol=1e-9, rtol=0)
    assert (found[~batch.response_mask] == 0).all()


@pytest.mark.parametrize("responses", [((5, 2), (1, 5), (3, 4)), ((2, 3), (0, 1), (1, 0))], ids=["ragged", "empty"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("path", PATHS)
def test_states_are_those_before_each_token_and_after_the_last(family, path, responses):
    if path == "fused" and family not in FUSED:
        pytest.skip("not of the form")
    model, batch = make_model(family).requires_grad_(False), make_batch(responses=responses)
    with torch.no_grad():
        states, ends = (PATHS[path](model.base_model, batch, end=end) for end in (False, True))
        assert ends.shape[:2] == (3, 2)
        expected = []
        for b, k, prompt, response in sequences(batch):
            alone = model.base_model(input_ids=torch.cat([prompt, response])[None]).last_hidden_state[0]
            torch.testing.assert_close(ends[b, k], alone[-1], atol=1e-9, rtol=0)
            expected.append(alone[len(prompt) - 1 : -1])
        torch.testing.assert_close(states, torch.cat(expected), atol=1e-9, rtol=0)


def test_single_path_is_the_oracle():
    model, batch = make_model("llama"), make_batch()
    with torch.no_grad():
        torch.testing.assert_close(single_logps(model, batch, 0.7), oracle_logps(model, batch, 0.7), atol=1e-9, rtol=0)


def test_junk_and_extra_padding_change_nothing():
    model = make_model("qwen2").requires_grad_(False)
    clean, dirty = make_batch(junk=0), make_batch(junk=JUNK)
    pad = torch.nn.functional.pad
    wide = Batch(
        pad(dirty.prompt_ids, (3, 0), value=JUNK),
        pad(dirty.prompt_mask, (3, 0), value=False),
        pad(dirty.response_ids, (0, 2), value=-7),
        pad(dirty.response_mask, (0, 2), value=False),
    )
    for path in (fused_states, prompt_once_states, plain_states):
        with torch.no_grad():
            expected = by(path, model, clean)
            assert torch.equal(by(path, model, dirty), expected)
            found = by(path, model, wide)
        torch.testing.assert_close(found[..., :-2], expected, atol=1e-12, rtol=0)
        assert (found[..., -2:] == 0).all()


def test_temperature_divides_the_logits():
    model, batch = make_model("llama"), make_batch()
    with torch.no_grad():
        cold = Scorer(model, temperature=0.5).logps(batch)
        torch.testing.assert_close(cold, oracle_logps(model, batch, 0.5), atol=1e-9, rtol=0)
        assert (cold - oracle_logps(model, batch, 1.0)).abs().max() > 0.1


@pytest.mark.parametrize("responses", [((5, 2), (1, 5), (3, 4)), ((5,), (1,), (3,))])
def test_head_reads_response_tokens_only(responses):
    model, batch = make_model("llama", torch.float32), make_batch(responses=responses)
    scorer = Scorer(model)
    with torch.no_grad():
        scorer.logps(batch)
        rows = []
        hook = model.lm_head.register_forward_hook(lambda _, inputs, output: rows.append(inputs[0].shape[:-1].numel()))
        scorer.logps(batch)
        hook.remove()
    assert sum(rows) == int(batch.response_mask.sum())


@pytest.mark.parametrize("frozen", [True, False])
def test_prompt_runs_once(frozen):
    model, batch = make_model("llama", torch.float32).requires_grad_(not frozen), make_batch()
    scorer = Scorer(model)
    with torch.no_grad():
        scorer.logps(batch)
        assert scorer.path(batch) == ("fused" if frozen else "prompt_once")
        seen = []
        hook = model.model.embed_tokens.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape))
        scorer.logps(batch)
        hook.remove()
    # All real tokens in one row. The last of each response is not fed: nothing reads the state after it.
    fed = (batch.response_mask.sum(-1) - 1).clamp(min=0)
    assert seen == [(1, int(batch.prompt_mask.sum() + fed.sum()))]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_gradients_under_a_frozen_head(family):
    model, batch = make_model(family), make_batch()
    model.requires_grad_(False)
    learnt = [
        p.requires_grad_()
        for p in next(m for m in model.base_model.children() if len(list(m.children())))[0].parameters()
    ]
    scorer = Scorer(model, temperature=0.7)
    found = torch.autograd.grad(scorer.logps(batch).square().sum(), learnt)
    expected = torch.autograd.grad(oracle_logps(model, batch, 0.7).square().sum(), learnt)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 * max(1.0, other.abs().max().item()), rtol=0)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_prompts_run_once_where_activations_are_recomputed(family):
    model, batch = make_model(family), make_batch()
    expected = gradients(model, oracle_logps(model, batch).sum())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    scorer = Scorer(model)
    found = gradients(model, scorer.logps(batch).sum())
    assert scorer.path(batch) == "prompt_once"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 * max(1.0, other.abs().max().item()), rtol=0)
