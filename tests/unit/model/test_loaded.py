"""A program's own model as a folder: the weights that it has, keys by what is in them, and the object as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from preflab.errors import UserError
from preflab.experiment.identity import model_fingerprint
from preflab.model.loaded import as_folder, check_loaded, evaluating


@pytest.fixture
def model(tiny_tokenizer):
    torch.manual_seed(0)
    return tiny_llama(len(tiny_tokenizer))


@pytest.fixture
def folder_of(tiny_tokenizer, tmp_path):
    def written(model, **changes):
        given = {"kind": "CausalLM", "name": "model", **changes}
        return as_folder(model, given.pop("tokenizer", tiny_tokenizer), tmp_path / "cache", **given)

    return written


def state_of(model):
    """Return all of a model that a call might change."""
    return {
        "weights": {
            name: (weight.clone(), weight.requires_grad, weight.dtype) for name, weight in model.named_parameters()
        },
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        "config": copy.deepcopy(model.config.to_dict()),
        "generation": copy.deepcopy(model.generation_config.to_dict()),
    }


def same(before, after):
    for name, (weight, learns, dtype) in before["weights"].items():
        other, other_learns, other_dtype = after["weights"][name]
        assert torch.equal(weight, other), name
        assert (learns, dtype) == (other_learns, other_dtype), name
    assert all(before[part] == after[part] for part in ("modes", "hooks", "config", "generation"))
    return True


def test_the_folder_holds_the_model_as_it_is_and_the_object_stays_as_it_was(model, folder_of, caplog):
    model.train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    model.model.register_forward_hook(lambda *_: None)
    before, ids = state_of(model), torch.tensor([[1, 5, 6, 2]])
    folder = folder_of(model)
    assert same(before, state_of(model))
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(again(input_ids=ids).logits, copy.deepcopy(model).eval()(input_ids=ids).logits)
    assert "hooks stay with the object" in caplog.text
    assert f"the loaded LlamaForCausalLM is read from {folder}" in caplog.text


def test_what_is_in_it_decides_the_folder(model, folder_of, tiny_tokenizer):
    first = folder_of(model)
    assert folder_of(copy.deepcopy(model)) == first, "another object of the same weights"
    written = first.stat().st_mtime_ns
    assert folder_of(model).stat().st_mtime_ns == written, "it is not written again"
    model.lm_head.weight.data[0, 0] += 1
    other = folder_of(model)
    model.generation_config.eos_token_id = [2, 3]
    third = folder_of(model)
    words = copy.deepcopy(tiny_tokenizer)
    words.chat_template = "{{ messages }}"
    assert len({first, other, third, folder_of(model, tokenizer=words)}) == 4


def test_a_large_model_that_is_written_again_has_its_key_again(model, folder_of, monkeypatch):
    from preflab.disk.files import remove

    monkeypatch.setattr("preflab.experiment.identity.LARGE_FILE", 0)
    key = model_fingerprint(str(folder_of(model)))
    remove(folder_of(model))
    assert model_fingerprint(str(folder_of(model))) == key
    model.lm_head.weight.data[0, 0] += 1
    assert model_fingerprint(str(folder_of(model))) != key


def test_half_precision_is_kept(model, folder_of):
    folder = folder_of(model.to(torch.bfloat16))
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    assert model.dtype == torch.bfloat16


def adapted(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


def with_labels(model, labels):
    config = copy.deepcopy(model.config)
    config.num_labels = labels
    return LlamaForSequenceClassification(config)


class OwnForCausalLM(torch.nn.Module):
    pass


def of_another_class(model):
    model.__class__ = type("MyLlamaForCausalLM", (type(model),), {"__module__": "mine"})
    return model


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        (adapted, "CausalLM", "with PEFT adapters on it; give its base"),
        (lambda m: adapted(m).base_model.model, "CausalLM", "LlamaForCausalLM with PEFT adapters on it"),
        (lambda m: OwnForCausalLM(), "CausalLM", "model is a OwnForCausalLM; it takes the name or folder"),
        (lambda m: 3, "CausalLM", "model is a int"),
        (of_another_class, "CausalLM", "a class that transformers does not have; save it"),
        (lambda m: with_labels(m, 1), "CausalLM", "with 1 labels; it takes a causal language model"),
        (lambda m: with_labels(m, 2), "SequenceClassification", "with 2 labels; it takes a classifier with one label"),
        (lambda m: m, "SequenceClassification", "it takes a classifier with one label"),
        (lambda m: m.to("meta"), "CausalLM", "not in memory (device meta)"),
    ],
)
def test_what_could_not_be_read_from_a_folder_is_refused(model, tiny_tokenizer, changed, kind, said):
    with pytest.raises(UserError) as raised:
        check_loaded(changed(model), tiny_tokenizer, kind=kind, name="model")
    assert said in str(raised.value)


def test_its_tokenizer_is_asked_for(model):
    with pytest.raises(UserError, match="needs its tokenizer beside it, and none is given"):
        check_loaded(model, None, kind="CausalLM", name="model")
    with pytest.raises(UserError, match="and a str is given"):
        check_loaded(model, "name", kind="CausalLM", name="model")


def test_evaluation_mode_ends_as_it_began(model):
    model.train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert {name: module.training for name, module in model.named_modules()} == before
