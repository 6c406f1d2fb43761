"""What a model without weights says that passes keep is what they keep on one with weights."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from preflab.algorithms.dpo import DPO
from preflab.algorithms.ppo import PPO
from preflab.model.base import without_dropout
from preflab.model.roles import Roles
from preflab.planning.footprint import STORED, Sketch, _group_left, free_memory, uniform
from preflab.planning.weightless import LiveBytes
from preflab.settings.training import LoraSettings

LORA = LoraSettings(lora_rank=4, lora_alpha=8)


def config(kind=LlamaConfig, layers=5):
    return kind(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=72,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )


def real_roles(given, role):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(given)
    without_dropout(model.requires_grad_(False))
    roles = Roles(model, LORA, (role,))
    roles.learn((role,))
    roles.scorer.exact = ("fused",)
    return roles


def really_kept(roles, batch, role):
    roles(batch, (role,)).of(role).sum().backward()  # gradients are there from now on
    with LiveBytes() as live:
        roles(batch, (role,)).of(role).sum().backward()
    return live.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("role", ["policy", "reward", "value"])
def test_a_pass_is_foretold(role, checkpointing):
    batch = uniform(3, 17, 9, k=2)
    roles = real_roles(config(), role)
    roles.checkpoint_activations(checkpointing)
    told = Sketch(config(), LORA, "cpu").passes(batch, (role,), checkpointing=checkpointing)
    kept = really_kept(roles, batch, role)
    # The handful of scores may be taken apart otherwise; all else agrees to the byte.
    assert told == pytest.approx(kept, abs=4 * batch.response_mask.numel())


def test_so_is_one_with_ragged_rows_and_normalised_heads():
    batch = uniform(4, 11, 7, k=3)
    batch.response_mask[1, 2, 3:] = False
    batch.prompt_mask[2, :5] = False
    told = Sketch(config(Qwen3Config), LORA, "cpu").passes(batch, ("policy",))
    assert told == really_kept(real_roles(config(Qwen3Config), "policy"), batch, "policy")


def test_what_lies_there_all_the_time_is_what_the_model_has():
    roles = real_roles(config(), "policy")
    sketch = Sketch(config(), LORA, "cpu")
    own = roles.parameters_of("policy")
    learnt = {id(p) for p in own}
    base = [x for x in (*roles.model.parameters(), *roles.model.buffers()) if id(x) not in learnt]
    assert sketch.adapter("policy") == sum(p.numel() * 4 for p in own)
    assert sketch.base == sum(x.numel() * x.element_size() for x in base)


def test_half_the_type_is_half_the_base():
    half = LoraSettings(lora_rank=4, lora_alpha=8, dtype="bfloat16")
    whole, told = Sketch(config(), LORA, "cpu").base, Sketch(config(), half, "cpu").base
    assert whole / 2 <= told <= whole / 2 + 256  # angles stay in float32


def test_roles_that_learn_have_gradients_and_moments():
    sketch, batch = Sketch(config(), LORA, "cpu"), uniform(2, 8, 4, k=2)
    dpo = sketch.footprint(batch, DPO(DPO.Config()).needs)
    ppo = sketch.footprint(batch, PPO(PPO.Config()).needs)
    assert (dpo.gradients, dpo.optimiser) == (dpo.adapters, 2 * dpo.adapters)
    assert ppo.adapters == sum(map(sketch.adapter, ("policy", "reward", "value")))
    assert ppo.gradients == sketch.adapter("policy") + sketch.adapter("value")
    assert dpo.total == sum(dpo)
    assert sketch.footprint(batch, DPO(DPO.Config()).needs, optim="adamw_8bit").optimiser == dpo.adapters // 2


def test_an_optimiser_that_keeps_less_is_counted_so():
    sketch, batch, needs = Sketch(config(), LORA, "cpu"), uniform(2, 8, 4, k=2), DPO(DPO.Config()).needs
    usual, less, none = (
        sketch.footprint(batch, needs, optim=name).optimiser for name in ("adamw_torch_fused", "adamw_8bit", "sgd")
    )
    assert (usual, none) == (4 * less, 0)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_base_that_its_own_files_hold_in_bits_is_counted_so(bits):
    plain, given = Sketch(config(), LORA, "cpu"), config()
    given.quantization_config = {"quant_method": "bitsandbytes", f"load_in_{bits}": True}
    linear = sum(4 * weight.numel() for weight in plain._linear)
    assert Sketch(given, LORA, "cpu").base == plain.base - linear + int(STORED[bits] * linear / 4)


def test_attention_that_keeps_its_scores_is_counted_so():
    eager = LoraSettings(lora_rank=4, lora_alpha=8, attention="eager")
    batch = uniform(2, 100, 20)
    few, more = (Sketch(config(), lora, "cpu").passes(batch, ("policy",)) for lora in (LORA, eager))
    # Of five layers and four heads, a score in float32 for each two of 120 tokens at the least.
    assert more - few > 5 * 4 * 2 * 120**2 * 4


def test_what_files_take_of_a_limit_is_free(tmp_path):
    for name, text in {"max": "1000", "current": "900", "stat": "anon 200\ninactive_file 600\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert _group_left(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max")
    assert _group_left(tmp_path) is None


def test_passes_keep_more_of_more_rows_and_less_when_computed_twice():
    sketch = Sketch(config(), LORA, "cpu")
    few, more = (sketch.passes(uniform(n, 16, 8, 2), ("policy",)) for n in (2, 4))
    twice = sketch.passes(uniform(4, 16, 8, 2), ("policy",), checkpointing=True)
    assert 1.8 < more / few < 2.2
    assert twice < more / 2


def test_the_config_is_left_as_it_was():
    given = config()
    Sketch(given, LORA, "cpu").passes(uniform(1, 4, 4), ("policy",))
    assert given.num_hidden_layers == 5


def test_free_memory_is_less_than_there_is():
    free = free_memory("cpu")
    assert free is None or 0 < free < torch.iinfo(torch.int64).max
