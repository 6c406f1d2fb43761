"""Adapters from elsewhere: read as data, each field checked, each weight in its place, tied heads left alone."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from preflab.errors import UserError
from preflab.eval.subjects.models import merged_policy
from preflab.model import adapter_config
from preflab.model.adapter_config import read_config, read_normalisation
from preflab.model.adapters import read_folder
from preflab.model.base import without_dropout
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

LORA = LoraSettings(lora_rank=2, lora_alpha=4, dtype="float32")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def base(tied=False):
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.config._name_or_path = "here/base"
    without_dropout(model)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for role in ("policy", "reward"):
        roles = Roles(base(), LORA, (role,))
        with torch.no_grad():
            for parameter in roles.parameters_of(role):
                parameter.normal_(std=0.3)
        if role == "reward":
            roles.head(role).mean.fill_(0.5)
            roles.head(role).std.fill_(2.0)
        roles.save(role, folder / role)
    return folder


@pytest.fixture
def copy(adapters, tmp_path):
    return lambda role="policy": shutil.copytree(adapters / role, tmp_path / role)


def configured(folder, **fields):
    given = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**given, **fields}))


def refused(folder, *parts, role="policy"):
    with pytest.raises(UserError) as caught:
        Roles(base(), LORA).start(role, folder)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


FIELDS = {
    "another type": ({"peft_type": "IA3"}, ("IA3", "only LoRA")),
    "a type nobody knows": ({"peft_type": ["LORA"]}, ("only LoRA",)),
    "no type": ({"peft_type": None}, ("only LoRA",)),
    "rank as text": ({"r": "2"}, ("r in its", "'2'", "whole number")),
    "rank true": ({"r": True}, ("r in its",)),
    "rank 0": ({"r": 0}, ("r in its",)),
    "endless rank": ({"r": 10**12}, ("r in its",)),
    "another rank than the weights": ({"r": 7}, ("rank 7", "2 in its weights")),
    "no alpha": ({"lora_alpha": None}, ("lora_alpha",)),
    "alpha NaN": ({"lora_alpha": float("nan")}, ("lora_alpha", "nan")),
    "targets a number": ({"target_modules": 5}, ("target_modules", "5")),
    "a target a number": ({"target_modules": ["q_proj", 5]}, ("target_modules",)),
    "base a list": ({"base_model_name_or_path": ["x"]}, ("base_model_name_or_path",)),
    "patterns a list": ({"rank_pattern": ["q_proj"]}, ("rank_pattern",)),
    "flag as text": ({"use_dora": "no"}, ("use_dora",)),
    "PiSSA": ({"init_lora_weights": "pissa"}, ("pissa", "changed base")),
    "layers replicated": ({"layer_replication": [[0, 1]]}, ("layer_replication",)),
    "activated by tokens": ({"alora_invocation_tokens": [5]}, ("alora_invocation_tokens",)),
    "a module to import": ({"megatron_config": {"a": 1}, "megatron_core": "spy"}, ("megatron_config",)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_wrong_or_asks_for_more_is_refused(copy, name):
    fields, parts = FIELDS[name]
    folder = copy()
    configured(folder, **fields)
    refused(folder, str(folder), *parts)


def test_nothing_that_a_config_names_is_imported(copy, tmp_path, monkeypatch):
    (tmp_path / "spy.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = copy()
    configured(folder, megatron_core="spy", auto_mapping={"base_model_class": "spy", "parent_library": "spy"})
    Roles(base(), LORA).start("policy", folder)
    merged_policy(SimpleNamespace(load_base=base), folder)
    assert "spy" not in sys.modules


def test_fields_nobody_knows_are_said(copy, caplog):
    folder = copy()
    configured(folder, use_quantum=True, quantum_size=0, later=None)
    read_config(folder)
    assert [m for m in caplog.messages if "use_quantum" in m and "quantum_size" not in m]


def test_another_base_is_said_once(copy, caplog):
    adapter_config.say_other_base.cache_clear()
    folder = copy()
    roles = Roles(base(), LORA)
    configured(folder, base_model_name_or_path="elsewhere/Base")
    roles.start("policy", folder)
    assert caplog.messages == [], "moved, but of the same name"
    configured(folder, base_model_name_or_path="elsewhere/other")
    roles.start("policy", folder)
    roles.start("policy", folder)
    assert caplog.messages == [
        f"adapter {folder} says that it was made for elsewhere/other; it is put on here/base",
    ]


def weighed(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights, sorted(weights))
    save_file(weights, folder / WEIGHTS)


def flip_nan(weights, names):
    weights[names[1]][0, 0] = float("nan")


DAMAGES = {
    "a matrix missing": (lambda f: weighed(f, lambda w, n: w.pop(n[0])), ("is missing",)),
    "a matrix too many": (lambda f: weighed(f, lambda w, n: w.update(x=torch.ones(2))), ("x has no place",)),
    "NaN": (lambda f: weighed(f, flip_nan), ("NaN",)),
    "cut": (lambda f: os.truncate(f / WEIGHTS, 500), (WEIGHTS, "cannot be read")),
    "empty": (lambda f: os.truncate(f / WEIGHTS, 0), (WEIGHTS, "cannot be read")),
    "config half": (lambda f: os.truncate(f / CONFIG, 20), (CONFIG, "not valid JSON")),
    "config a list": (lambda f: (f / CONFIG).write_text("[]"), (CONFIG, "list")),
    "config deep": (lambda f: (f / CONFIG).write_text("[" * 10**5), (CONFIG,)),
    "config gone": (lambda f: (f / CONFIG).unlink(), (CONFIG,)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_adapter_is_refused_by_name_and_never_folded(copy, name):
    change, parts = DAMAGES[name]
    folder = copy()
    change(folder)
    refused(folder, *parts)
    with pytest.raises(UserError):
        merged_policy(SimpleNamespace(load_base=base), folder)


@pytest.mark.parametrize(
    "text",
    ['{"mean": 0}', '{"mean": NaN, "std": 1}', '{"mean": 0, "std": 0}', '{"mean": 0, "std": "1"}', "{", "[0, 1]", ""],
)
def test_a_normalisation_that_is_none_is_refused(copy, text):
    folder = copy("reward")
    (folder / "normalisation.json").write_text(text)
    refused(folder, "normalisation.json", role="reward")
    with pytest.raises(UserError, match=r"normalisation\.json"):
        read_normalisation(folder)


def test_without_normalisation_the_score_is_as_it_is(copy):
    """Another model's mean and deviation, read before, must not stay."""
    folder = copy("reward")
    roles = Roles(base(), LORA)
    roles.start("reward", folder)
    assert (float(roles.head("reward").mean), float(roles.head("reward").std)) == (0.5, 2.0)
    (folder / "normalisation.json").unlink()
    roles.start("reward", folder)
    assert (float(roles.head("reward").mean), float(roles.head("reward").std)) == (0.0, 1.0)
    assert read_folder(folder)[2] == {}


# ---- tied heads --------------------------------------------------------------------------------------

TARGETS = {
    "head": {"target_modules": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens"]},
    "both": {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
    "a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "neither": {"target_modules": ["q_proj", "down_proj"]},
}


@pytest.mark.filterwarnings("ignore:Model has")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", TARGETS)
def test_an_adapter_folded_in_says_what_it_said_beside_the_base(tmp_path, name, tied):
    torch.manual_seed(1)
    made = get_peft_model(base(tied), LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **TARGETS[name]))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    made.save_pretrained(tmp_path)
    ids = torch.randint(0, 30, (2, 7))
    beside = PeftModel.from_pretrained(base(tied), tmp_path).eval()
    with torch.no_grad():
        expected, bare = beside(input_ids=ids).logits, base(tied)(input_ids=ids).logits
        found = merged_policy(SimpleNamespace(load_base=lambda: base(tied)), tmp_path)(input_ids=ids).logits
    assert (expected - bare).abs().max() > 0.05, "the adapter says something"
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
