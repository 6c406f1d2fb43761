"""The FLOPs of a pass, counted by formula, are those that torch counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from preflab.algorithms.a2c import A2C, A2CConfig
from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.eval.conformance.workbench import PAD, VOCABULARY, counts_good
from preflab.model.roles import Roles
from preflab.model.work import ModelShape, Passed, Weights, Work, sampled, scored
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring import lora
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training.budget import trained_on
from preflab.training.offline import OfflineSource
from preflab.training.rollouts import RolloutSource
from preflab.training.trainer import run_training

NEVER = VOCABULARY + 5  # an end token that is never drawn: no response is shorter than another


def even_groups(count=8, size=2, prompt=12, response=8):
    """Rows of one length: nothing is padded, and so the machine's FLOPs are those of real tokens."""
    draw = np.random.default_rng(0)

    def ids(length):
        return draw.integers(3, VOCABULARY, length).tolist()

    return [EncodedGroup(ids(prompt), [ids(response) for _ in range(size)], i) for i in range(count)]


@pytest.fixture(autouse=True)
def _attention_in_the_open(monkeypatch):
    """Make attention plain matrix products, which the counter sees."""

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        weights = query @ key.transpose(2, 3) * (scale or query.shape[-1] ** -0.5)
        if is_causal:
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = weights.new_zeros(attn_mask.shape).masked_fill(~attn_mask, torch.finfo(weights.dtype).min)
        if attn_mask is not None:
            weights = weights + attn_mask
        return weights.softmax(-1) @ value

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    # Adapters are counted as if they ran beside their weights.
    monkeypatch.setattr(lora, "folds", lambda layers, rows: False)


def tiny_roles(names=("policy", "reference", "reward", "value")):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=4, lora_alpha=8), names, seed=1)
    with torch.no_grad():
        roles(collate(even_groups(), PAD), ("policy",))  # the scorer tries its paths on the first batch
        TransformersSampler(NEVER, PAD, 1)(roles, "policy", [[4]], k=1, temperature=1.0, seed=0)  # and so it does
    return roles


# ---- FLOPs against torch's own counter ---------------------------------------------------------------


def measured(work, run):
    """Return what `work` counted and what torch did."""
    before = work.flops
    with FlopCounterMode(display=False) as counter:
        run()
    return work.flops - before, counter.get_total_flops()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("path", ["fused", "prompt_once", "plain", "single"])
def test_scoring_is_counted_exactly(path, size):
    roles, batch = tiny_roles(), collate(even_groups(4, size), PAD)
    roles.scorer.exact = () if path == "single" else (path,)
    with torch.no_grad():
        for role in ("policy", "reference"):
            assert roles.scorer.path(batch) == path
            ours, theirs = measured(roles.work, lambda role=role: roles(batch, (role,)))
            assert ours == theirs, role
        for role in ("reward", "value"):
            ours, theirs = measured(roles.work, lambda role=role: roles(batch, (role,)))
            assert ours == pytest.approx(theirs, rel=2e-3), "scalar heads count as part of the adapter"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_the_way_back_is_counted(size, recompute):
    roles, batch = tiny_roles(), collate(even_groups(4, size), PAD)
    roles.learn(("policy",))
    if recompute:
        roles.checkpoint_activations(True)
    ours, theirs = measured(roles.work, lambda: roles(batch, ("policy",)).logps.sum().backward())
    # The first layer's inputs, embeddings, need no gradient; we count one all the same.
    assert theirs <= ours <= 1.03 * theirs


def test_sampling_is_counted():
    roles = tiny_roles()
    prompts = [group.prompt_ids for group in even_groups(4)]
    sampler = TransformersSampler(NEVER, PAD, 8)
    ours, theirs = measured(roles.work, lambda: sampler(roles, "policy", prompts, k=2, temperature=1.0, seed=0))
    # Folding the adapters in is left out.
    assert 0.95 * theirs <= ours <= theirs


def dpo_source(roles, settings):
    return OfflineSource(even_groups(), settings, PAD, 5, algorithm=DPO(DPOConfig()), roles=roles)


def a2c_source(roles, settings):
    algorithm = A2C(A2CConfig(rollout_prompts=4, samples_per_prompt=2))
    prompts = [group.prompt_ids for group in even_groups()]
    return RolloutSource(algorithm, A2C.needs, roles, TransformersSampler(NEVER, PAD, 4), prompts, settings, 5)


@pytest.mark.parametrize(
    ("algorithm", "open_source"),
    [
        (DPO(DPOConfig()), dpo_source),
        (A2C(A2CConfig(rollout_prompts=4, samples_per_prompt=2)), a2c_source),
    ],
    ids=["dpo", "a2c"],
)
def test_a_whole_step_is_counted(algorithm, open_source, tmp_path):
    roles = tiny_roles()
    settings = TrainConfig(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    source = open_source(roles, settings)
    with FlopCounterMode(display=False) as counter:
        record = run_training(roles, algorithm, source, settings, tmp_path, seed=3, title="test")
    assert record.flops == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen3", "gemma3_text", "mamba"])
def test_shapes_of_other_architectures(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 31}
    if name != "mamba":
        sizes["num_attention_heads"] = 2
    if name in ("qwen3", "gemma3_text"):
        sizes["head_dim"] = 8
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    shape = ModelShape.of(model)
    assert shape.head == 31 * 16
    assert shape.attention == (0 if name == "mamba" else 4 * 2 * 2 * 8)
    lookups = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, torch.nn.Embedding))
    assert 0 < shape.body <= sum(p.numel() for p in model.base_model.parameters()) - lookups


def test_a_reward_function_costs_nothing():
    roles, batch = tiny_roles(), collate(even_groups(2), PAD)
    roles.reward_function = counts_good
    before = roles.work.flops
    roles(batch, ("reward",))
    assert roles.work.flops == before


def test_an_ensemble_costs_a_pass_for_each_member():
    roles, batch = tiny_roles(), collate(even_groups(2), PAD)
    roles.add("reward_2")
    with torch.no_grad():
        one, _ = measured(roles.work, lambda: roles(batch, ("reward",)))
        roles._members = ["reward", "reward_2"]
        assert measured(roles.work, lambda: roles(batch, ("reward",)))[0] == 2 * one


def test_a_role_without_adapter_is_the_base_alone():
    roles, batch = tiny_roles(("policy",)), collate(even_groups(2), PAD)
    with torch.no_grad():
        policy, _ = measured(roles.work, lambda: roles(batch, ("policy",)))
        bare, theirs = measured(roles.work, lambda: roles(batch, ("reference",)))
    assert bare == theirs < policy


# ---- what passes see, by loops -----------------------------------------------------------------------


def ragged():
    """Two prompts of 3 and 5 tokens with responses of 2 and 4, and of 1 and none; junk is masked on both sides."""
    batch = collate([EncodedGroup([5] * 3, [[6] * 2, [7] * 4], 0), EncodedGroup([5] * 5, [[6]], 1)], PAD)
    pad = torch.nn.functional.pad
    return batch.replace(
        prompt_ids=pad(batch.prompt_ids, (2, 0), value=9),
        prompt_mask=pad(batch.prompt_mask, (2, 0), value=False),
        response_ids=pad(batch.response_ids, (0, 3), value=9),
        response_mask=pad(batch.response_mask, (0, 3), value=False),
    )


LENGTHS = [(3, 2), (3, 4), (5, 1)]


def test_what_scoring_sees():
    # Prompts once: 3 + 5 tokens; of responses all tokens but the last: 1 + 3 + 0.
    once = Passed(8 + 4, (9 + 25) + 1 * (3 + 1) + 3 * (3 + 3), 2 + 4 + 1)
    assert scored(ragged(), "prompt_once", last=False, head=True) == once
    fed_whole = Passed(8 + 7, (9 + 25) + 2 * (3 + 2) + 4 * (3 + 4) + 1 * (5 + 1), 0)
    assert scored(ragged(), "prompt_once", last=True, head=False) == fed_whole
    # Fused, the last layer is asked for 7 tokens, held against 3 + 1, 3 + 3 and 5 keys; or for the ends of three.
    spared = (12 - 7, once.pairs - 2 * (3 + 1) - 4 * (3 + 3) - 1 * 5)
    assert scored(ragged(), "fused", last=False, head=True) == once._replace(spared=spared[0], spared_pairs=spared[1])
    found = scored(ragged(), "fused", last=True, head=False)
    assert (found.spared, found.spared_pairs) == (15 - 4, fed_whole.pairs - (3 + 2) - (3 + 4) - (5 + 1) - 5)
    rows = [p + t for p, t in LENGTHS]
    assert scored(ragged(), "plain", last=False, head=True) == Passed(sum(rows), sum(n * n for n in rows), 7)
    # The model's own pass gives logits after the last token too, and none of prompts.
    assert scored(ragged(), "single", last=False, head=True).head == sum(t + 1 for _, t in LENGTHS)


def test_what_sampling_sees():
    body = pairs = 0
    for prompt, response in LENGTHS:
        for drawn in range(1, response):  # fed to draw the next one
            body, pairs = body + 1, pairs + prompt + drawn
    # Two of the three responses are to the same prompt, of three tokens.
    assert sampled(ragged()) == Passed(body + 3 + 5, pairs + 9 + 25, 7)
    assert sampled(ragged(), prompt_once=False) == Passed(body + 3 + 3 + 5, pairs + 9 + 9 + 25, 7)
    assert sampled(ragged().emptied()) == Passed(0, 0, 0)


def test_what_a_loss_is_given():
    counts = {"tokens": 8 + 7, "trained_tokens": 7, "prompts": 2, "responses": 3, "pairs": 1}
    assert trained_on(ragged(), "prompt") == counts
    assert trained_on(ragged(), "token") == {**counts, "pairs": 0}
    assert trained_on(ragged().emptied(), "prompt") == {**dict.fromkeys(counts, 0), "tokens": 8}


def test_work_by_hand():
    work = Work(None)
    work._shape = ModelShape(body=100, head=10, attention=7)
    work.add(Passed(body=3, pairs=5, head=2), Weights(4))
    forward = 2 * (100 + 4) * 3 + 7 * 5 + 2 * 10 * 2
    assert work.flops == forward
    work.add(Passed(body=3, pairs=5, head=2), Weights(4), learns=True)
    backward = 2 * 100 * 3 + 4 * 4 * 3 + 2 * 7 * 5 + 2 * 10 * 2
    assert work.flops == forward + forward + backward


def test_work_of_a_fused_pass_by_hand():
    work = Work(None)
    work._shape = ModelShape(body=100, head=10, attention=7, late=30, late_attention=2)
    work.add(Passed(body=3, pairs=5, head=2, spared=1, spared_pairs=4), Weights(4, 1))
    forward = 2 * 104 * 3 - 2 * (30 + 1) * 1 + 7 * 5 - 2 * 4 + 2 * 10 * 2
    assert work.flops == forward
    work.add(Passed(body=3, pairs=5, head=2, spared=1, spared_pairs=4), Weights(4, 1), learns=True)
    backward = 2 * (100 * 3 - 30) + 4 * (4 * 3 - 1) + 2 * (7 * 5 - 2 * 4) + 2 * 10 * 2
    assert work.flops == forward + forward + backward
