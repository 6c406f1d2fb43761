"""Models from elsewhere: every weight is accounted for by name, and what is no model is said to be what it is."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from preflab.data.encoding import load_tokenizer
from preflab.errors import UserError
from preflab.model.base import load_base
from preflab.model.model_files import read_model_files
from preflab.model.opening import open_model
from preflab.settings.training import LoraSettings

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "tied qwen": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)),
    "classifier": lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)),
    "encoder": lambda: BertForMaskedLM(BertConfig(**SIZES)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        torch.manual_seed(1)
        make().save_pretrained(folder / name)
    return folder


@pytest.fixture
def copy(models, tmp_path):
    return lambda name: shutil.copytree(models / name, tmp_path / "model")


def configured(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def weighed(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder, *parts):
    with pytest.raises(UserError) as caught:
        load_base(str(folder), LoraSettings(dtype="float32"), device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for part in (str(folder), *parts):
        assert part in message


@pytest.mark.parametrize("name", ["llama", "tied qwen", "gpt2"])
def test_a_whole_model_is_opened_with_its_weights(models, name):
    model = load_base(str(models / name), LoraSettings(dtype="float32"), device="cpu")
    for key, weight in load_file(models / name / "model.safetensors").items():
        assert torch.equal(model.state_dict()[key], weight)


def test_what_old_files_hold_beside_the_weights_does_no_harm(copy):
    folder = copy("gpt2")
    weighed(folder, lambda w: w.update({"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}))
    load_base(str(folder), LoraSettings(), device="cpu")


DOWN = "model.layers.1.mlp.down_proj.weight"
WEIGHTS = {
    "missing": ("llama", lambda w: w.pop(DOWN), (DOWN, "missing", "random")),
    "missing head": ("llama", lambda w: w.pop("lm_head.weight"), ("lm_head.weight", "missing")),
    "missing bias": ("gpt2", lambda w: w.pop("transformer.h.1.ln_2.bias"), ("ln_2.bias", "missing")),
    "left over": ("tied qwen", lambda w: w.update(extra=torch.ones(2)), ("extra", "without a place")),
    "misspelt": ("llama", lambda w: w.update({f"{DOWN}_": w.pop(DOWN)}), (f"{DOWN}_", "missing")),
    "shape": ("llama", lambda w: w.update({DOWN: w[DOWN].T.contiguous()}), (DOWN, "(24, 16)", "(16, 24)")),
    "NaN": ("llama", lambda w: w[DOWN].__setitem__((2, 3), float("nan")), (DOWN, "not finite")),
    "infinity": ("gpt2", lambda w: w["transformer.wte.weight"].__setitem__((2, 3), float("-inf")), ("wte", "infinity")),
    "whole numbers": ("llama", lambda w: w.update({DOWN: (100 * w[DOWN]).to(torch.int8)}), (DOWN, "quantised")),
    "nothing": ("llama", lambda w: w.clear(), ("cannot be loaded",)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_the_models_are_refused_by_name(copy, name):
    kind, change, parts = WEIGHTS[name]
    folder = copy(kind)
    weighed(folder, change)
    refused(folder, *parts)


CONFIGS = {
    "a layer fewer": ({"num_hidden_layers": 1}, ("model.layers.1.", "without a place")),
    "a layer more": ({"num_hidden_layers": 3}, ("model.layers.2.", "missing")),
    "no layer": ({"num_hidden_layers": 0}, ("model.layers.0.", "without a place")),
    "another width": ({"hidden_size": 32}, ("of another shape",)),
    "another vocabulary": ({"vocab_size": 48}, ("embed_tokens.weight", "(40, 16)", "(48, 16)")),
    "an activation nobody knows": ({"hidden_act": "nothing"}, ("nothing",)),
    "text for a number": ({"hidden_size": "wide"}, ("hidden_size", "wide")),
    "null for a number": ({"num_attention_heads": None}, ("num_attention_heads",)),
    "no heads": ({"num_attention_heads": 0}, ("cannot be loaded",)),
    "a family nobody knows": ({"model_type": "lama"}, ("lama",)),
    "another family": ({"model_type": "t5"}, ("T5Config",)),
    "architectures as text": ({"architectures": "LlamaForCausalLM"}, ("architectures",)),
    "endless layers": ({"num_hidden_layers": 10**12}, ("num_hidden_layers", "1000000000000")),
    "absurd width": ({"hidden_size": 10**9}, ("asks for", "weights")),
    "absurd inner width": ({"intermediate_size": 10**10}, ("asks for", "weights")),
    "overflowing": ({"hidden_size": 10**15, "vocab_size": 10**15}, ("cannot be loaded",)),
    "code": ({"model_type": "zed", "auto_map": {"AutoConfig": "x.Y"}}, ("--trust-remote-code", "author")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_not_the_weights_is_refused(copy, name):
    fields, parts = CONFIGS[name]
    folder = copy("llama")
    configured(folder, **fields)
    refused(folder, *parts)


def replaced(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def indexed(shards):
    def change(folder):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))

    return change


def as_folder(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


FILES = {
    "config not JSON": (replaced("config.json", b"{"), ("config.json", "not valid JSON")),
    "config a list": (replaced("config.json", b"[]"), ("config.json", "list")),
    "config empty": (replaced("config.json", b""), ("config.json",)),
    "config deep": (replaced("config.json", b'{"a":' * 50_000), ("config.json",)),
    "config not text": (replaced("config.json", b"\xff\xfe"), ("config.json",)),
    "config gone": (lambda f: (f / "config.json").unlink(), ("no config.json",)),
    "weights empty": (replaced("model.safetensors", b""), ("model.safetensors", "no whole safetensors file")),
    "weights a page": (replaced("model.safetensors", b"<!DOCTYPE html>" * 9), ("no whole safetensors file",)),
    "weights cut": (lambda f: os.truncate(f / "model.safetensors", 3000), ("no whole safetensors file",)),
    "weights a folder": (as_folder, ("no model.safetensors",)),
    "weights gone": (lambda f: (f / "model.safetensors").unlink(), ("no model.safetensors",)),
    "pickled": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), ("pytorch_model.bin", "code")),
    "shard gone": (indexed({"a": "part.safetensors", "b": "part-2.safetensors"}), ("part-2.safetensors", "missing")),
    "shard elsewhere": (indexed({"a": "../model.safetensors"}), ("../model.safetensors", "beside")),
    "index empty": (indexed({}), ("weight_map",)),
    "index of numbers": (indexed({"a": 1}), ("weight_map",)),
    "a run": (lambda f: ((f / "config.json").unlink(), (f / "stages").mkdir()), ("preflab run",)),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_by_name(copy, name):
    change, parts = FILES[name]
    folder = copy("llama")
    change(folder)
    refused(folder, *parts)


def test_a_model_in_shards_is_opened(copy):
    folder = copy("llama")
    names = load_file(folder / "model.safetensors").keys()
    indexed(dict.fromkeys(names, "part.safetensors"))(folder)
    load_base(str(folder), LoraSettings(), device="cpu")


def test_an_adapter_is_said_to_be_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    refused(tmp_path, "PEFT adapter", "--model owner/base", "--sft")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "an adapter beside a model")


def test_other_kinds_of_models_are_said_to_be_what_they_are(copy, models):
    refused(models / "classifier", "LlamaForSequenceClassification", "--reward-model")
    refused(models / "encoder", "BertForMaskedLM")
    unnamed = copy("encoder")
    configured(unnamed, architectures=None)
    refused(unnamed, "encoder")


def test_a_causal_model_is_no_reward_model(models):
    with pytest.raises(UserError, match=r"score\.weight is missing .* random"):
        open_model("SequenceClassification", str(models / "llama"), torch.float32, num_labels=1)
    open_model("SequenceClassification", str(models / "classifier"), torch.float32, num_labels=1)


def test_a_file_and_nothing_are_no_model(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "no folder")
    assert read_model_files("owner/name") is None


# ---- tokenizers --------------------------------------------------------------------------------------

CONTENTS = {"empty": b"", "half": b'{"version": "1.0"', "an empty object": b"{}", "a list": b"[]", "no text": b"\xff"}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_a_users_error(tiny_model_path, tmp_path, file, content):
    folder = shutil.copytree(tiny_model_path, tmp_path / "model")
    (folder / file).write_bytes(CONTENTS[content])
    with pytest.raises(UserError, match="tokenizer of model"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_without_tokenizer_is_a_users_error(models, name):
    with pytest.raises(UserError, match="tokenizer of model"):
        load_tokenizer(str(models / name))


def test_a_tokenizer_of_few_words_is_one(tiny_model_path):
    assert len(load_tokenizer(str(tiny_model_path))) == len(AutoTokenizer.from_pretrained(tiny_model_path))
