"""The decode loop: the model's own distribution, in any company, and `generate` where it does not hold."""

from __future__ import annotations

import logging

import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from preflab.data.batches import padded
from preflab.method.contract import Batch
from preflab.model import work
from preflab.model.roles import Roles
from preflab.sampling import decoding
from preflab.sampling.decoding import Feed, FusedFeed, decode, draw, feeder_of, until_end
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring.logps import single_logps
from preflab.settings.training import LoraSettings

VOCABULARY, PAD, END, STEPS = 12, 0, 2, 9
PROMPTS = [[3, 4, 5, 3, 3, 9], [5], [4, 4, 11]]
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
IDS = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END, "max_position_embeddings": 32}


def make_model(name, **options):
    torch.manual_seed(0)
    if name == "gpt2":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 32}
        model = GPT2LMHeadModel(GPT2Config(**shape, pad_token_id=PAD, bos_token_id=1, eos_token_id=END))
    elif name == "mamba":
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "vocab_size": VOCABULARY}
        model = MambaForCausalLM(MambaConfig(**shape, pad_token_id=PAD, bos_token_id=1, eos_token_id=END))
    else:
        kinds = {
            "llama": (LlamaConfig, LlamaForCausalLM, 2),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM, 1),
            "mistral": (MistralConfig, MistralForCausalLM, 1),
        }
        config, kind, key_heads = kinds[name]
        own = config(**SHAPE, **IDS, num_attention_heads=2, num_key_value_heads=key_heads, **options)
        model = kind(own)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model.eval().requires_grad_(False)


def noise(size, prompts=3):
    return torch.rand(STEPS, prompts, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(model, given, temperature=1.0, prompts=PROMPTS, feeder=Feed):
    """Return tokens, which are real, and log-probabilities (0 on padding)."""
    ids, mask = padded(prompts, PAD, left=True)
    tokens, logps = decode(model, ids, mask, given, end_ids=END, temperature=temperature, feeder=feeder)
    real = until_end(tokens, END)
    return tokens.masked_fill(~real, PAD), real, logps.masked_fill(~real, 0.0)


def same(one, other):
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    torch.testing.assert_close(one[2], other[2], atol=2e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def llama():
    return make_model("llama")


FED = [("llama", Feed), ("gpt2", Feed), ("qwen2", Feed), ("llama", FusedFeed), ("qwen2", FusedFeed)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "feeder"), FED)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_the_models_own(name, feeder, attention, temperature):
    if feeder is FusedFeed and attention == "eager":
        pytest.skip("runs by sdpa alone")
    model = make_model(name)
    model.set_attn_implementation(attention)
    tokens, real, logps = run(model, noise(16), temperature, feeder=feeder)
    lengths = real.sum(-1)
    assert len(lengths.unique()) > 3, "rows were dropped on the way"
    batch = Batch(*padded(PROMPTS, PAD, left=True), tokens, real)
    torch.testing.assert_close(logps, single_logps(model, batch, temperature), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "feeder"), FED)
def test_nobody_is_changed_by_who_leaves(name, feeder, monkeypatch):
    model = make_model(name)
    found = run(model, noise(16), feeder=feeder)
    monkeypatch.setattr(decoding, "WORTH_DROPPING", 2.0)
    whole = run(model, noise(16), feeder=feeder)
    same(found, whole)
    for every in (1, 3):
        monkeypatch.setattr(decoding, "WORTH_DROPPING", 0.0)
        monkeypatch.setattr(decoding, "LOOK_EVERY", every)
        same(run(model, noise(16), feeder=feeder), whole)


def test_finished_rows_are_dropped(llama, monkeypatch):
    fed, feed = [], Feed.tokens

    def counted(self, ids, *rest):
        fed.append(len(ids))
        return feed(self, ids, *rest)

    monkeypatch.setattr(Feed, "tokens", counted)
    monkeypatch.setattr(decoding, "LOOK_EVERY", 1)
    monkeypatch.setattr(decoding, "WORTH_DROPPING", 0.0)
    tokens, _, _ = run(llama, noise(16))
    going = [int((tokens[..., :step] != END).all(-1).sum()) for step in range(1, STEPS)]
    assert 0 < going[-1] < going[0] < 48
    assert fed == going


def test_company_does_not_matter(llama):
    """The first samples, single prompts and other paddings: a row's noise decides alone."""
    given = noise(16)
    together = run(llama, given)
    same(tuple(x[:, :3] for x in together), run(llama, given[:, :, :3]))
    for row, prompt in enumerate(PROMPTS):
        alone = run(llama, given[:, row : row + 1], prompts=[prompt])
        same(tuple(x[row : row + 1] for x in together), alone)


@pytest.mark.parametrize("step", [0, 3, STEPS - 1, None])
def test_all_rows_end_together(step, monkeypatch):
    model, prompts = make_model("llama"), [[3, 4], [5, 6]]
    forward = model.forward

    def ending(input_ids, attention_mask, position_ids, **options):
        output = forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)
        output.logits[:, -1, END] = 1e4 if position_ids[0, -1] + 1 - len(prompts[0]) == step else -1e4
        return output

    monkeypatch.setattr(model, "forward", ending)
    tokens, real, logps = run(model, noise(4, prompts=2), prompts=prompts)
    assert (real.sum(-1) == (STEPS if step is None else step + 1)).all()
    assert ((tokens == END).any(-1) == (step is not None)).all()
    assert logps.isfinite().all()


def test_tokens_are_drawn_by_their_probabilities():
    logits = torch.tensor([3.0, 0.0, float("-inf"), 1.0, 2.0, -1.0, float("-inf")])
    count = 20_000
    given = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for temperature in (0.7, 1.0, 2.0):
        tokens, logps = draw(logits.expand(count, -1), given, temperature)
        expected = (logits.double() / temperature).softmax(-1)
        torch.testing.assert_close(logps.double(), expected[tokens].log(), atol=1e-6, rtol=1e-6)
        seen, possible = tokens.bincount(minlength=len(logits)), expected > 0
        assert seen[~possible].sum() == 0
        assert chisquare(seen[possible], (expected * count)[possible]).pvalue > 1e-3
        if temperature != 1:  # the test has power
            assert chisquare(seen[possible], (logits.double().softmax(-1) * count)[possible]).pvalue < 1e-9


def test_the_ends_of_the_distribution_can_be_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, -1)
    tokens, _ = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), 1.0)
    assert tokens.tolist() == [1, 2]


def broken(name):
    """Return a model that the loop must not be used on, and what is said of it."""
    if name == "mamba":
        return make_model("mamba"), "on MambaForCausalLM does not run"
    if name == "window":
        return make_model("mistral", sliding_window=4), "a cache of DynamicSlidingWindowLayer"
    model = make_model("gpt2")
    forward = model.forward

    def forgetful(input_ids, attention_mask=None, position_ids=None, **options):
        return forward(input_ids, attention_mask=attention_mask, **options)

    model.forward = forgetful
    return model, "on GPT2LMHeadModel is not exact"


@pytest.mark.parametrize("name", ["mamba", "window", "forgetful"])
def test_other_models_are_left_to_the_library(name, caplog):
    model, said = broken(name)
    ids, mask = padded(PROMPTS, PAD, left=True)
    with caplog.at_level(logging.WARNING, "preflab"):
        assert feeder_of(model, ids, mask, STEPS, END) is None
        assert feeder_of(model, ids, mask, STEPS, END) is None
    messages = [record.message for record in caplog.records if record.name == "preflab.sampling.decoding"]
    assert len(messages) == 1, "said once"
    assert said in messages[0]
    assert mask.equal(padded(PROMPTS, PAD, left=True)[1]), "the trial hides tokens in a copy"


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_plain_caches_pass_the_trial(name, caplog):
    with caplog.at_level(logging.WARNING, "preflab"):
        feeder = feeder_of(make_model(name), *padded(PROMPTS, PAD, left=True), STEPS, END)
    assert feeder is (Feed if name == "gpt2" else FusedFeed)
    assert not caplog.records


def test_a_model_that_does_more_than_its_decoder_is_fed_whole(caplog):
    model = make_model("llama")
    forward = model.forward

    def scaled(*args, **options):
        output = forward(*args, **options)
        output.logits = output.logits / 3
        return output

    model.forward = scaled
    with caplog.at_level(logging.WARNING, "preflab"):
        assert feeder_of(model, *padded(PROMPTS, PAD, left=True), STEPS, END) is Feed
    assert not caplog.records


def test_the_library_samples_what_the_loop_cannot():
    roles = Roles(make_model("mistral", sliding_window=4), LoraSettings(lora_rank=2, lora_alpha=4))

    def sampled():
        return TransformersSampler(END, PAD, STEPS)(roles, "policy", PROMPTS, k=3, temperature=1.0, seed=0)

    samples = sampled()
    assert samples.logps is None
    assert samples.batch.response_ids.shape[:2] == (3, 3)
    assert torch.equal(samples.batch.response_ids, sampled().batch.response_ids)
    spent = roles.work.flops
    roles.work.flops = 0
    roles.work.add(work.sampled(samples.batch, prompt_once=False))
    assert spent == 2 * roles.work.flops, "each sample with its own run of the prompt"
