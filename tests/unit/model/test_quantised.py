"""Bases kept in 4 or 8 bits: bitsandbytes' own numbers, on every path, for all roles."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from tiny_bases import LORA, make_base, make_batch, shake
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from preflab.errors import UserError
from preflab.model.base import load_base
from preflab.model.folding import folded_in
from preflab.model.roles import Roles
from preflab.model.work import ModelShape
from preflab.sampling.decoding import FusedFeed, feeder_of
from preflab.scoring.logps import single_logps
from preflab.scoring.quantised import QuantisedLinear, quantisation, quantised_layers, restore_all
from preflab.settings import training as settings_module
from preflab.settings.training import LoraSettings

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install preflab[quantised])")

BITS = ("4bit", "8bit")
LAYERS = 2 * 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    make_base("llama").save_pretrained(path)
    return path


def settings(bits, dtype="float32"):
    return LoraSettings(lora_rank=3, lora_alpha=6, load_in=bits, dtype=dtype)


def load(folder, bits, dtype="float32"):
    return load_base(str(folder), settings(bits, dtype), device="cpu")


def of_library(folder, bits):
    """Return the model as the library loads it; in training its layers restore weights and round nothing else."""
    options = {"quantization_config": quantisation(bits, torch.float32), "device_map": {"": "cpu"}}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).requires_grad_(False).train()


def make_roles(folder, bits, dtype="float32"):
    roles = Roles(load(folder, bits, dtype), settings(bits, dtype), ("policy", "reward", "value"))
    return shake(shake(roles, "policy"), "reward")


@pytest.mark.parametrize("bits", BITS)
def test_every_layer_but_the_head_is_in_bits_and_gives_the_librarys_numbers(folder, bits):
    ours, theirs, batch = load(folder, bits), of_library(folder, bits), make_batch()
    assert len(list(quantised_layers(ours))) == LAYERS
    assert type(ours.lm_head) is nn.Linear
    with torch.no_grad():
        expected = single_logps(theirs, batch, 1.0)
        torch.testing.assert_close(single_logps(ours, batch, 1.0), expected, atol=1e-5, rtol=1e-5)
        assert (single_logps(load(folder, "none"), batch, 1.0) - expected).abs().max() > 1e-3, "bits round"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", BITS)
def test_every_path_and_the_decode_loop_are_exact(folder, bits, dtype):
    roles, batch = make_roles(folder, bits, dtype), make_batch()
    with torch.no_grad():
        roles(batch, ("policy", "reward", "value"))
    assert roles.scorer.exact == ("fused", "prompt_once", "plain")
    with roles.merged("policy"):
        ids, mask = batch.prompt_ids.masked_fill(~batch.prompt_mask, 0), batch.prompt_mask
        assert feeder_of(roles.model, ids, mask, 5, 2) is FusedFeed


@pytest.mark.parametrize("bits", BITS)
def test_gradients_are_those_of_the_restored_numbers(folder, bits):
    roles, batch = make_roles(folder, bits), make_batch()
    learnt = roles.learn(("policy",))
    found = torch.autograd.grad(roles(batch, ("policy",)).logps.sum(), learnt)
    restore_all(roles.model)
    assert not list(quantised_layers(roles.model))
    expected = torch.autograd.grad(roles(batch, ("policy",)).logps.sum(), learnt)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_bare_layer_passes_gradients_on(folder):
    layer = next(layer for _, layer in quantised_layers(load(folder, "4bit")))
    x = torch.randn(3, layer.in_features, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(grad, layer.packed.to(torch.float32).sum(0).expand(3, -1))


@pytest.mark.parametrize("bits", BITS)
def test_nothing_restored_is_kept_for_the_way_back(folder, bits):
    roles, batch = make_roles(folder, bits), make_batch()
    roles.learn(("policy",))
    roles(batch, ("policy",))  # the trial is over
    shapes, kept = {layer.packed.shape for _, layer in quantised_layers(roles.model)}, []

    def keep(tensor):
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        roles(batch, ("policy",))
    assert kept
    assert not shapes & set(kept)


@pytest.mark.parametrize("bits", BITS)
def test_flops_are_those_of_the_numbers_not_of_the_bytes(folder, bits):
    assert ModelShape.of(load(folder, bits)) == ModelShape.of(load(folder, "none"))


@pytest.mark.parametrize("bits", BITS)
def test_a_saved_adapter_opens_in_peft_on_the_librarys_model(folder, bits, tmp_path):
    roles, batch = make_roles(folder, bits), make_batch()
    roles.save("policy", tmp_path)
    theirs = PeftModel.from_pretrained(of_library(folder, bits), tmp_path).train()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        ours = roles(batch, ("policy",)).logps
        torch.testing.assert_close(ours, single_logps(theirs, batch, 1.0), atol=1e-5, rtol=1e-5)


def test_an_adapter_is_folded_into_restored_numbers(folder, tmp_path):
    roles, batch = make_roles(folder, "4bit"), make_batch()
    roles.save("policy", tmp_path)
    with torch.no_grad():
        expected = roles(batch, ("policy",)).logps
        folded = folded_in(load(folder, "4bit"), tmp_path)
        torch.testing.assert_close(single_logps(folded, batch, 1.0), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_a_model_that_lies_there_in_bits_is_used_as_it_is(folder, bits, tmp_path):
    of_library(folder, bits).save_pretrained(tmp_path)
    batch = make_batch()
    with torch.no_grad():
        found, expected = (single_logps(load(*given), batch, 1.0) for given in ((tmp_path, "none"), (folder, bits)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="quantised already: leave load_in out"):
        load(tmp_path, "4bit")


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_that_is_no_number_is_refused(bits, tmp_path):
    base = make_base("llama")
    base.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    base.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj.*not finite"):
        load(tmp_path, bits)


def test_what_is_not_installed_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install preflab\[quantised\]"):
        LoraSettings(load_in="4bit")
    with pytest.raises(ValueError, match="flash-attn is not installed"):
        LoraSettings(attention="flash_attention_2")
    assert LoraSettings(load_in="none", attention="eager").attention == "eager"


def test_settings_of_four_bits_are_the_published_ones():
    config = quantisation("4bit", torch.bfloat16)
    assert isinstance(config, BitsAndBytesConfig)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert quantisation("none", torch.float32) is None


def test_attention_is_the_one_asked_for(folder):
    chosen = LoraSettings(lora_rank=3, lora_alpha=6, attention="eager")
    roles = Roles(load_base(str(folder), chosen, device="cpu"), chosen, ("policy",))
    assert roles.model.config._attn_implementation == "eager"
    with torch.no_grad():
        roles(make_batch(), ("policy",))
    assert roles.scorer.exact == ("plain",)


def test_the_layers_are_fast_under_adapters(folder):
    roles = make_roles(folder, "4bit")
    assert all(isinstance(layer.base_layer, QuantisedLinear) for layer in roles._layers)
    assert LORA.load_in == "none"
