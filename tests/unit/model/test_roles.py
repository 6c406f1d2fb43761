"""One base, four roles: shared weights, the right reference, and folders that PEFT itself opens."""

from __future__ import annotations

import pytest
import torch
from tiny_bases import COMMON, FAMILIES, LORA, VOCABULARY, make_base, make_batch, score, shake, step
from transformers import (
    AutoModelForCausalLM,
    OPTConfig,
)

from preflab.method.contract import Scores
from preflab.model.base import without_dropout
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

# ---- one base ----------------------------------------------------------------------------------------


def test_base_weights_are_held_once():
    base = make_base()
    held = {p.data_ptr() for p in base.parameters()}
    size = sum(p.numel() for p in base.parameters())
    roles = Roles(base, LORA, ("policy", "reference", "reward", "value"))
    assert held <= {p.data_ptr() for p in roles.parameters()}
    own = sum(p.numel() for name in roles.present for p in roles.parameters_of(name))
    assert sum(p.numel() for p in roles.parameters()) == size + own
    assert roles.present == ["policy", "reference", "reward", "value"]


def test_only_the_trained_roles_learn():
    roles = Roles(make_base(), LORA, ("policy", "reward", "value"))
    assert not any(p.requires_grad for p in roles.parameters())
    for names in (("policy",), ("reward",), ("policy", "value")):
        roles.learn(names)
        expected = {id(p) for name in names for p in roles.parameters_of(name)}
        assert {id(p) for p in roles.parameters() if p.requires_grad} == expected
        roles(make_batch(), ("policy", "reference", "reward", "value"))
        assert {id(p) for p in roles.parameters() if p.requires_grad} == expected, "a forward flips nothing"


def test_gradients_reach_trained_roles_alone():
    roles = shake(Roles(make_base(), LORA, ("policy", "reward", "value")), "policy", "reward", "value")
    roles.learn(("policy", "value"))
    scores = roles(make_batch(), ("policy", "reference", "reward", "value"))
    assert scores.logps.requires_grad
    assert scores.values.requires_grad
    assert not scores.rewards.requires_grad
    assert not scores.reference_logps.requires_grad
    (scores.logps.sum() + scores.values.sum()).backward()
    for name in ("policy", "value"):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in roles.parameters_of(name)), name
    others = [p for p in roles.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in others)


def test_parameters_belong_to_one_role_even_if_a_layer_has_a_roles_name():
    base = make_base()
    base.model.layers[0].self_attn.value = torch.nn.Linear(4, 4)  # as BERT's decoders name theirs
    roles = Roles(base, LORA, ("policy", "value"))
    policy, value = ({id(p) for p in roles.parameters_of(name)} for name in ("policy", "value"))
    assert not policy & value
    assert len(policy) == len(value) - 1, "the value role has its head besides"


def test_fresh_adapters_change_nothing_and_follow_the_seed():
    batch = make_batch()
    bare = score(Roles(make_base(), LORA, seed=0), batch, "reference").reference_logps
    one, same, other = (Roles(make_base(), LORA, ("policy", "reward"), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(score(one, batch, "policy").logps, bare)
    for mine, twin in zip(one.parameters_of("reward"), same.parameters_of("reward"), strict=True):
        assert torch.equal(mine, twin)
    assert not torch.equal(one.head("reward").linear.weight, other.head("reward").linear.weight)


# ---- the reference -----------------------------------------------------------------------------------


def test_fresh_reference_is_the_base_and_stays():
    batch, base = make_batch(), make_base()
    roles = Roles(base, LORA)
    before = score(roles, batch, "reference").reference_logps
    step(roles, batch)
    after = score(roles, batch, "policy", "reference")
    assert torch.equal(after.reference_logps, before)
    assert (after.logps - before).abs().max() > 1e-3
    with roles.peft.disable_adapter():
        assert torch.equal(roles.scorer.logps(batch), before)


def test_reference_after_sft_is_the_frozen_clone():
    batch = make_batch()
    roles = shake(Roles(make_base(), LORA), "policy")  # the SFT adapter
    roles.clone("policy", "reference")
    started = score(roles, batch, "policy", "reference")
    assert torch.equal(started.logps, started.reference_logps)
    step(roles, batch)
    after = score(roles, batch, "policy", "reference")
    assert torch.equal(after.reference_logps, started.reference_logps)
    assert (after.logps - started.logps).abs().max() > 1e-3
    with torch.no_grad(), roles.peft.disable_adapter():
        wrong = roles.scorer.logps(batch)
    assert (wrong - started.reference_logps).abs().max() > 0.1, "switching adapters off is another policy"


def test_clones_share_no_storage():
    roles = shake(Roles(make_base(), LORA, ("policy", "reward")), "policy", "reward")
    roles.clone("reward", "value")
    batch = make_batch()
    assert torch.equal(roles.head("reward").linear.weight, roles.head("value").linear.weight)
    held = {p.data_ptr() for p in roles.parameters_of("reward")}
    assert not held & {p.data_ptr() for p in roles.parameters_of("value")}
    before = score(roles, batch, "reward").rewards
    shake(roles, "value")
    assert torch.equal(score(roles, batch, "reward").rewards, before)


def test_cached_reference_is_used_as_it_is():
    batch = make_batch()
    cached = torch.full(batch.response_mask.shape, -3.0)
    given = batch.replace(reference_logps=cached)
    assert score(Roles(make_base(), LORA), given, "reference") == Scores(reference_logps=cached)


# ---- dropout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"attention_dropout": 0.5}),
        ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("neox", {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
    ],
)
def test_dropout_is_off_in_train_mode(family, options):
    batch, roles = make_batch(), Roles(make_base(family, **options), LORA, ("policy", "reward"))
    roles.train()
    first, second = (score(roles, batch, "policy", "reward") for _ in range(2))
    assert torch.equal(first.logps, second.logps)
    assert torch.equal(first.rewards, second.rewards)
    roles.eval()
    assert torch.equal(score(roles, batch, "policy").logps, first.logps)


def test_dropout_of_opt_is_off_too():
    config = OPTConfig(**{k: v for k, v in COMMON.items() if k != "intermediate_size"}, ffn_dim=48, dropout=0.5)
    config.word_embed_proj_dim = 32
    model = AutoModelForCausalLM.from_config(config).train()
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, model(ids).logits)
        without_dropout(model)
        assert torch.equal(model(ids).logits, model(ids).logits)


# ---- active and merged -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_active_and_leaves_the_base_untouched(family):
    batch, base = make_batch(), make_base(family)
    roles = shake(Roles(base, LORA), "policy")
    before = {name: p.clone() for name, p in roles.named_parameters()}
    addresses = {name: p.data_ptr() for name, p in roles.named_parameters()}
    active = score(roles, batch, "policy").logps
    reference = score(roles, batch, "reference").reference_logps
    with torch.no_grad(), roles.merged("policy"):
        merged = roles.scorer.logps(batch)
    assert (active - reference).abs().max() > 0.1, "the adapter does something"
    torch.testing.assert_close(merged, active, atol=1e-4, rtol=0)  # float32, logits of some 10
    for name, parameter in roles.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.data_ptr() == addresses[name], name
    assert torch.equal(score(roles, batch, "policy").logps, active)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_heads_and_embeddings_learn_and_merge_too(target, tied):
    settings = LoraSettings(lora_rank=3, lora_alpha=6, target_modules=("q_proj", target))
    roles, batch = shake(Roles(make_base(tie_word_embeddings=tied), settings), "policy"), make_batch()
    assert len(roles.parameters_of("policy")) == 6, "A and B of two q_proj and of the target"
    with torch.no_grad(), roles.merged("policy"):
        merged = roles.scorer.logps(batch)
    torch.testing.assert_close(merged, score(roles, batch, "policy").logps, atol=1e-4, rtol=0)


def test_merged_restores_the_base_after_an_error():
    batch, roles = make_batch(), shake(Roles(make_base(), LORA), "policy")
    before = score(roles, batch, "policy", "reference")

    def fail():
        with roles.merged("policy"):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    after = score(roles, batch, "policy", "reference")
    assert torch.equal(after.logps, before.logps)
    assert torch.equal(after.reference_logps, before.reference_logps)


def test_half_precision_is_not_merged():
    roles = shake(Roles(make_base(dtype=torch.bfloat16), LORA), "policy")
    weight = roles.model.model.layers[0].self_attn.q_proj.get_base_layer().weight
    before = weight.clone()
    with roles.merged("policy"):
        assert torch.equal(weight, before)


def test_reward_is_read_at_the_last_response_token():
    roles, batch = shake(Roles(make_base(), LORA, ("reward",)), "reward"), make_batch()
    rewards = score(roles, batch, "reward").rewards
    ids = batch.response_ids.clone()
    ids[~batch.response_mask] = 9
    assert torch.equal(score(roles, batch.replace(response_ids=ids), "reward").rewards, rewards)
    for b in range(2):
        for k in range(2):
            changed, last = batch.response_ids.clone(), int(batch.response_mask[b, k].sum()) - 1
            changed[b, k, last] = (changed[b, k, last] - 2) % (VOCABULARY - 3) + 3
            moved = (score(roles, batch.replace(response_ids=changed), "reward").rewards - rewards).abs() > 1e-4
            assert moved.nonzero().tolist() == [[b, k]]


def test_value_of_a_token_does_not_know_the_token():
    roles, batch = shake(Roles(make_base(), LORA, ("value",)), "value"), make_batch(responses=((4, 4), (4, 4)))
    values = score(roles, batch, "value").values
    changed = batch.response_ids.clone()
    changed[:, :, 2] = (changed[:, :, 2] - 2) % (VOCABULARY - 3) + 3
    moved = (score(roles, batch.replace(response_ids=changed), "value").values - values).abs() > 1e-6
    assert not moved[..., :3].any()
    assert moved[..., 3].all()
