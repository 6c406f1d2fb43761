"""Roles as folders: opened by other libraries, read back, refused."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_bases import FAMILIES, LORA, make_base, make_batch, same_scores, score, shake
from transformers import (
    AutoModelForSequenceClassification,
)

from preflab.errors import UserError
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_policy_opens_with_peft(family, tmp_path):
    roles = shake(Roles(make_base(family), LORA), "policy")
    roles.save("policy", tmp_path)
    assert {f.name for f in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    opened = PeftModel.from_pretrained(make_base(family), tmp_path).eval()
    ids = make_batch().prompt_ids
    with torch.no_grad(), roles.active("policy"):
        same_scores(opened(input_ids=ids).logits, roles.model(input_ids=ids).logits, 1e-4)
        bare = make_base(family)(input_ids=ids).logits
    assert (bare - opened(input_ids=ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_reward_opens_as_a_classifier(family, tmp_path):
    base = make_base(family)
    base.save_pretrained(tmp_path / "base")
    roles = shake(Roles(base, LORA, ("reward",)), "reward")
    roles.save("reward", tmp_path / "reward")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    opened = PeftModel.from_pretrained(classifier, tmp_path / "reward").eval()
    batch = make_batch()
    rewards = score(roles, batch, "reward").rewards
    assert rewards.std() > 0.01
    for b in range(2):
        for k in range(2):
            ids = torch.cat(
                [batch.prompt_ids[b][batch.prompt_mask[b]], batch.response_ids[b, k][batch.response_mask[b, k]]]
            )
            with torch.no_grad():
                found = opened(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0, 0]
                # Right padding too: the classifier finds the last real token by itself.
                padded = torch.cat([ids, torch.zeros(3, dtype=ids.dtype)])[None]
                ragged = opened(input_ids=padded, attention_mask=(padded != 0).long()).logits[0, 0]
            same_scores(found, rewards[b, k], 1e-4)
            same_scores(ragged, rewards[b, k], 1e-4)


def test_roles_come_back_from_folders(tmp_path):
    batch, names = make_batch(), ("policy", "reward", "value")
    roles = shake(Roles(make_base(), LORA, names), *names)
    roles.head("reward").mean.fill_(0.5)
    roles.head("reward").std.fill_(2.0)
    before = score(roles, batch, *names)
    fresh = Roles(make_base(), LORA, seed=3)
    for name in names:
        roles.save(name, tmp_path / name)
        fresh.start(name, tmp_path / name)
    after = score(fresh, batch, *names)
    for field in ("logps", "rewards", "values"):
        assert torch.equal(getattr(after, field), getattr(before, field)), field


def test_normalisation_shifts_and_scales():
    roles, batch = Roles(make_base(), LORA, ("reward",)), make_batch()
    raw = score(roles, batch, "reward").rewards
    roles.head("reward").mean.fill_(0.5)
    roles.head("reward").std.fill_(2.0)
    same_scores(score(roles, batch, "reward").rewards, (raw - 0.5) / 2, 1e-6)


@pytest.fixture
def saved(tmp_path):
    shake(Roles(make_base(), LORA), "policy").save("policy", tmp_path)
    return tmp_path


def test_another_rank_than_the_settings_is_read_as_it_is(saved):
    roles = Roles(make_base(), LoraSettings(lora_rank=4, lora_alpha=6))
    roles.start("policy", saved)
    expected = score(shake(Roles(make_base(), LORA), "policy"), make_batch(), "policy").logps
    assert torch.equal(score(roles, make_batch(), "policy").logps, expected)


def test_wrong_base_is_a_users_error(saved):
    with pytest.raises(UserError, match="does not fit"):
        Roles(make_base("gpt2"), LORA).start("policy", saved)
    wider = make_base(head_dim=16)
    with pytest.raises(UserError, match="does not fit"):
        Roles(wider, LORA).start("policy", saved)


def test_incomplete_adapter_is_a_users_error(saved):
    state = load_file(saved / "adapter_model.safetensors")
    state.pop(sorted(state)[0])
    save_file(state, saved / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        Roles(make_base(), LORA).start("policy", saved)


def test_pickled_weights_are_refused(saved):
    weights = saved / "adapter_model.safetensors"
    torch.save(load_file(weights), saved / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="safetensors"):
        Roles(make_base(), LORA).start("policy", saved)


def test_folder_without_config_is_a_users_error(saved):
    (saved / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="adapter_config"):
        Roles(make_base(), LORA).start("policy", saved)


def test_policy_is_no_reward_model(saved):
    with pytest.raises(UserError, match="no score head"):
        Roles(make_base(), LORA).start("reward", saved)


def test_missing_base_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base(str(tmp_path), LORA)


def test_targets_that_do_not_exist_are_a_users_error():
    with pytest.raises(UserError, match="do not fit"):
        Roles(make_base(), LoraSettings(target_modules=("no_such_layer",)))


def test_loaded_base_is_frozen_and_its_config_names_it(tiny_model_path, tmp_path):
    base = load_base(str(tiny_model_path), LORA, device="cpu")
    assert base.dtype is torch.float32
    assert not any(p.requires_grad for p in base.parameters())
    Roles(base, LORA).save("policy", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model_path)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 6, 0.0)
