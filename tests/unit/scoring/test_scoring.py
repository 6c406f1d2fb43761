"""The scoring primitive against an oracle of our own: one response at a time, no padding, no cache."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from preflab.method.contract import Batch
from preflab.scoring import paths as scoring
from preflab.scoring.fused import fused_states
from preflab.scoring.packing import Packing, attention, prompt_once_states
from preflab.scoring.paths import Scorer, plain_states, single_logps, single_states, token_logps

VOCABULARY, JUNK = 41, 10**6
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {k: v for k, v in COMMON.items() if k not in ("num_key_value_heads", "intermediate_size")}
WINDOW = 4  # shorter than the prompts
FUSED = ("llama", "qwen2", "qwen3", "mistral")
EXACT = {
    "llama": lambda: LlamaConfig(**COMMON),
    "qwen2": lambda: Qwen2Config(**COMMON),
    "qwen3": lambda: Qwen3Config(**COMMON, head_dim=8),
    "mistral": lambda: MistralConfig(**COMMON, sliding_window=WINDOW),
    "gemma3": lambda: Gemma3TextConfig(
        **COMMON, head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi3": lambda: Phi3Config(**COMMON),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "neox": lambda: GPTNeoXConfig(**WIDE, intermediate_size=48),
    "opt": lambda: OPTConfig(**WIDE, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0),
}
ALL = {**EXACT, "gemma2": lambda: Gemma2Config(**COMMON, head_dim=8, sliding_window=WINDOW)}


def make_model(family, dtype=torch.float64):
    """Return a tiny random model whose attention is far from uniform: a wrong position or mask shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ALL[family]()).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    return model


def make_batch(prompts=(9, 6, 1), responses=((5, 2), (1, 5), (3, 4)), seed=0, junk=JUNK):
    """Return ragged left-padded prompts and right-padded responses, junk ids under the masks."""
    generator = torch.Generator().manual_seed(seed)
    width, size, length = max(prompts), len(responses[0]), max(map(max, responses))
    shape = (len(prompts), size, length)
    prompt_mask = torch.arange(width) >= width - torch.tensor(prompts)[:, None]
    mask = torch.arange(length) < torch.tensor(responses)[..., None]
    ids = torch.randint(3, VOCABULARY, (len(prompts), width), generator=generator)
    response_ids = torch.randint(3, VOCABULARY, shape, generator=generator)
    return Batch(ids.masked_fill(~prompt_mask, junk), prompt_mask, response_ids.masked_fill(~mask, junk), mask)


def sequences(batch):
    for b in range(len(batch.prompt_ids)):
        prompt = batch.prompt_ids[b][batch.prompt_mask[b]]
        for k in range(batch.response_ids.shape[1]):
            yield b, k, prompt, batch.response_ids[b, k][batch.response_mask[b, k]]


def oracle_logps(model, batch, temperature=1.0):
    """log softmax(logits / temperature) at each response token, one sequence at a time."""
    found = torch.zeros(batch.response_mask.shape, dtype=model.dtype)
    for b, k, prompt, response in sequences(batch):
        logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0]
        logps = (logits / temperature).log_softmax(-1)
        for t, token in enumerate(response):
            found[b, k, t] = logps[len(prompt) + t - 1, token]
    return found


def gradients(model, total):
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def by(path, model, batch, temperature=1.0):
    return token_logps(model, path(model.base_model, batch), batch, temperature)


TEXTS = {
    "pairs": {},
    "one response": {"responses": ((5,), (1,), (3,))},
    # So little padding that it is run along.
    "even": {"prompts": (9, 9, 8), "responses": ((5,), (5,), (5,))},
}


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


PATHS = {"fused": fused_states, "once": prompt_once_states, "plain": plain_states, "single": single_states}


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


@pytest.mark.parametrize(("texts", "run"), [("one response", 9 + 4 + 6 + 0 + 1 + 2), ("even", 3 * 13)])
def test_padding_of_whole_texts_is_run_where_there_is_little(texts, run):
    packing = Packing.of(make_batch(**TEXTS[texts]), end=False)
    assert packing.branches is None
    assert len(packing.ids) == packing.trunks.count == run


def test_packed_texts_do_not_see_each_other():
    model, batch = make_model("llama").requires_grad_(False), make_batch()
    changed = Batch(*(x.clone() for x in batch[:4]))
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
        before = [x.clone() for x in batch[:4]]
        with torch.no_grad():
            Scorer(model).logps(batch)
        assert all(torch.equal(x, y) for x, y in zip(batch[:4], before, strict=True))


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
