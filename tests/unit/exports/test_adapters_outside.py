"""Adapters as other programs load them: vLLM's folders, lm-evaluation-harness's calls."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open

from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

# ---- adapters, as vLLM's LoRA loader takes them ------------------------------------------------------
#
# What its loader reads and refuses (vllm/lora/peft_helper.py, lora_model.py, utils.py): the keys r,
# lora_alpha and target_modules; no modules_to_save, no DoRA, no bias; safetensors under PEFT's own names
# whose last part is a module of the model.

MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def saved_policy(path, folder, targets=("all-linear",), rank=8):
    settings = LoraSettings(lora_rank=rank, lora_alpha=2 * rank, target_modules=targets, dtype="float32")
    roles = Roles(load_base(str(path), settings, device="cpu"), settings, ("policy", "reward"), seed=0)
    roles.save("policy", folder / "policy")
    roles.save("reward", folder / "reward")
    return roles


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
def test_a_policys_folder_is_what_vllm_documents(tiny_model_path, tmp_path, targets):
    saved_policy(tiny_model_path, tmp_path, targets)
    folder = tmp_path / "policy"
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert LoraSettings().lora_rank <= 16, "its own default of --max-lora-rank"
    assert (config["modules_to_save"], config["bias"]) == (None, "none")
    assert not config["use_dora"]
    assert not config["use_rslora"]
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    wanted = MODULES if targets == ("all-linear",) else set(targets)
    assert isinstance(config["target_modules"], list), "all-linear is spelt out: it is no module's name"
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == wanted
    check_weights(folder, wanted, config["r"])


def check_weights(folder, wanted, rank):
    sides: dict[str, set[str]] = {}
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            match = NAME.fullmatch(name)
            assert match, name
            sides.setdefault(match["module"], set()).add(match["side"])
            shape = file.get_slice(name).get_shape()
            assert shape[0 if match["side"] == "A" else 1] == rank, name
    assert {name.rpartition(".")[2] for name in sides} == wanted
    assert all(both == {"A", "B"} for both in sides.values())
    assert {name.split(".")[2] for name in sides} == {"0", "1"}, "every layer"


def test_a_reward_model_is_none_of_vllms(tiny_model_path, tmp_path):
    saved_policy(tiny_model_path, tmp_path)
    config = json.loads((tmp_path / "reward" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["score"], "which its loader refuses, and says so"


def test_an_adapter_on_the_head_is_in_the_folder(tiny_model_path, tmp_path):
    """vLLM takes those on ``lm_head`` for some models only: the documentation warns, the folder tells."""
    saved_policy(tiny_model_path, tmp_path, ("q_proj", "lm_head"))
    with safe_open(tmp_path / "policy" / "adapter_model.safetensors", "pt") as file:
        modules = {NAME.fullmatch(name)["module"].rpartition(".")[2] for name in file.keys()}  # noqa: SIM118
    assert modules == {"q_proj", "lm_head"}


# ---- adapters, as lm-evaluation-harness loads them ---------------------------------------------------


def test_a_policy_loads_as_lm_evaluation_harness_loads_it(tiny_model_path, tmp_path):
    """``--model hf --model_args pretrained=BASE,peft=ADAPTER`` is these two calls, and gives the policy's logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = LoraSettings(lora_rank=8, lora_alpha=16, dtype="float32")
    roles = Roles(load_base(str(tiny_model_path), settings, device="cpu"), settings, seed=0)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.add_(0.1)
    roles.save("policy", tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        bare = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path)
        found = adapted(ids).logits
        with roles.active("policy"):
            expected = roles.model(ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-4)
    assert (found - bare).abs().max() > 0.1
