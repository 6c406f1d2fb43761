"""Adapters folded in for good: what is stored is what the base and its adapter were, or is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from preflab.errors import UserError
from preflab.model.base import load_base
from preflab.model.merging import BOUND, merge
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

IDS = torch.tensor([[1, 5, 9, 4, 20, 11]])


def adapter(base, folder, role="policy", **shape):
    """Save an adapter that does something."""
    roles = Roles(load_base(str(base), LoraSettings(), device="cpu"), LoraSettings(lora_rank=4, **shape), (role,))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in roles.parameters_of(role):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    roles.save(role, folder)
    return folder


def folded(base, folder, to, tokenizer, **how):
    return merge(str(base), folder, to, tokenizer, **{"scalar": False, "dtype": "float32", **how})


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits.double()


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": ("q_proj", "lm_head")},
        {"target_modules": ("all-linear",), "lora_alpha": 64},
    ],
    ids=["lora", "rslora", "dora", "head", "alpha"],
)
def test_every_kind_of_lora_folds_into_what_it_was(shape, tiny_model_path, tiny_tokenizer, tmp_path):
    folder = adapter(tiny_model_path, tmp_path / "adapter", **shape)
    found = folded(tiny_model_path, folder, tmp_path / "merged", tiny_tokenizer)
    assert found.folded < 1e-4
    assert found.stored < 1e-4
    assert (found.choices, found.dtype) == (1.0, "float32")
    assert found.kl < 1e-8
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    bare = logits(base)
    expected = logits(PeftModel.from_pretrained(base, folder))
    opened = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(opened, expected, atol=1e-4, rtol=1e-4)
    assert (bare - expected).abs().max() > 0.05, "the adapter says something"
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == "</s>"
    assert not list((tmp_path / "merged").glob("*.bin"))


def test_a_half_precision_model_is_stored_in_it_and_says_what_that_costs(tiny_model_path, tiny_tokenizer, tmp_path):
    folder = adapter(tiny_model_path, tmp_path / "adapter")
    found = folded(tiny_model_path, folder, tmp_path / "merged", tiny_tokenizer, dtype="bfloat16")
    assert found.folded < 1e-4 < found.stored < 0.5
    assert 1e-8 < found.kl < found.stored
    assert found.dtype == "bfloat16"
    assert "stored in bfloat16" in found.sentence()
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_auto_is_the_bases_own_type(tiny_model_path, tiny_tokenizer, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    folder = adapter(tmp_path / "half", tmp_path / "adapter")
    assert folded(tmp_path / "half", folder, tmp_path / "merged", tiny_tokenizer, dtype="auto").dtype == "bfloat16"


def test_a_reward_model_gives_its_scores_without_being_told_how_to_pad(tiny_model_path, tiny_tokenizer, tmp_path):
    folder = adapter(tiny_model_path, tmp_path / "adapter", "reward")
    found = folded(tiny_model_path, folder, tmp_path / "merged", tiny_tokenizer, scalar=True)
    assert found.folded < 1e-4
    assert found.choices is found.kl is None
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model_path, num_labels=1, pad_token_id=0)
    expected = logits(PeftModel.from_pretrained(base, folder))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.pad_token_id == tiny_tokenizer.pad_token_id
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    padded = torch.cat([IDS, torch.zeros(1, 3, dtype=torch.long)], 1)
    with torch.no_grad():
        again = merged(input_ids=padded, attention_mask=(padded != 0).long()).logits.double()
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)


def test_a_fold_that_does_not_agree_is_not_kept(tiny_model_path, tiny_tokenizer, tmp_path, monkeypatch):
    folder = adapter(tiny_model_path, tmp_path / "adapter")

    def forgetful(self):
        return self.unload()  # the base, without what the adapter adds

    monkeypatch.setattr(PeftModel, "merge_and_unload", forgetful, raising=False)
    monkeypatch.setattr("peft.tuners.lora.LoraModel.merge_and_unload", lambda self: self.unload())
    with pytest.raises(UserError, match="is not what the two are together: they differ by"):
        folded(tiny_model_path, folder, tmp_path / "merged", tiny_tokenizer)
    assert not (tmp_path / "merged").exists()
    assert 1e-4 < BOUND < 0.05


def test_a_quantised_base_is_refused(tiny_model_path, tiny_tokenizer, tmp_path, monkeypatch):
    folder = adapter(tiny_model_path, tmp_path / "adapter")
    from preflab.model import merging

    def quantised(*given, **how):
        model = load_base(str(tiny_model_path), LoraSettings(), device="cpu")
        model.config.quantization_config = SimpleNamespace(to_dict=dict)
        return model

    monkeypatch.setattr(merging, "open_model", quantised)
    with pytest.raises(UserError, match="is quantised: folded in, an adapter would be rounded"):
        folded(tiny_model_path, folder, tmp_path / "merged", tiny_tokenizer)


def test_an_adapter_with_more_than_lora_folds_too(tiny_model_path, tiny_tokenizer, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    torch.manual_seed(1)
    shape = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    model = get_peft_model(base, shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "adapter")
    found = folded(tiny_model_path, tmp_path / "adapter", tmp_path / "merged", tiny_tokenizer)
    assert found.stored < 1e-4
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), logits(model), atol=1e-4, rtol=1e-4
    )
