"""Adapters of every LoRA shape: read as PEFT reads them, by every path, each role in a shape of its own."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_bases import LORA, make_base, make_batch, same_scores, score, shake, step

from preflab.model.adapters import OtherAdapterError
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring.fused import Steps
from preflab.scoring.logps import PATHS, single_logps, token_logps
from preflab.settings.fields import deciding
from preflab.settings.training import LoraSettings

SHAPES = {
    "another rank": {"r": 5, "lora_alpha": 3},
    "rsLoRA": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "DoRA": {"r": 4, "lora_alpha": 8, "use_dora": True},
    "both": {"r": 4, "lora_alpha": 8, "use_dora": True, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "some layers": {"r": 4, "lora_alpha": 8, "layers_to_transform": [1]},
    "a pattern of names": {"r": 4, "lora_alpha": 8, "target_modules": r".*\.mlp\.(up|down)_proj|lm_head"},
    "biases of its own": {"r": 4, "lora_alpha": 8, "lora_bias": True},
    "dropout once": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.4},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*has no bias")


def made_by_peft(folder, **fields):
    """Save an adapter that says something; return its model."""
    torch.manual_seed(1)
    config = LoraConfig(
        **{"target_modules": ["q_proj", "v_proj", "o_proj", "up_proj"], **fields}, task_type="CAUSAL_LM"
    )
    model = get_peft_model(make_base(), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, save_embedding_layers=False)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_those_of_pefts_own_forward_on_every_path(name, tmp_path):
    model, batch = made_by_peft(tmp_path, **SHAPES[name]), make_batch()
    roles = Roles(make_base(), LORA)
    roles.start("policy", tmp_path)
    with torch.no_grad(), roles.active("policy"):
        expected = single_logps(model, batch, 1.0)
        assert (expected - single_logps(make_base(), batch, 1.0)).abs().max() > 0.05, "it says something"
        for path, states in PATHS.items():
            try:
                found = token_logps(roles.model, states(roles.model.base_model, batch), batch, 1.0)
            except NotImplementedError:
                assert path == "fused"
                assert name in ("DoRA", "both", "biases of its own")
                continue
            same_scores(found, expected)
    same_scores(score(roles, batch, "policy").logps, expected)
    same_scores(score(roles, batch, "reference").reference_logps, single_logps(make_base(), batch, 1.0))


@pytest.mark.parametrize("name", ["rsLoRA", "DoRA", "biases of its own"])
def test_samples_are_those_of_pefts_own_model(name, tmp_path):
    made_by_peft(tmp_path, **SHAPES[name])
    roles = Roles(make_base(), LORA)
    roles.start("policy", tmp_path)
    sampler = TransformersSampler((2,), 0, 6)
    beside = PeftModel.from_pretrained(make_base(), tmp_path)
    samples = sampler(roles, "policy", [[3, 4, 5]], k=4, temperature=1e-3, seed=0)
    ids = samples.batch.response_ids[0, 0][samples.batch.response_mask[0, 0]]
    text = torch.tensor([[3, 4, 5]])
    for token in ids:
        with torch.no_grad():
            assert beside(input_ids=text).logits[0, -1].argmax() == token
        text = torch.cat([text, token.view(1, 1)], 1)


@pytest.mark.parametrize("name", ["both", "patterns", "a pattern of names"])
def test_a_role_goes_on_in_its_shape_and_is_saved_in_it(name, tmp_path):
    made_by_peft(tmp_path / "given", **SHAPES[name])
    roles, batch = Roles(make_base(), LORA), make_batch()
    roles.start("policy", tmp_path / "given")
    roles.clone("policy", "reference")
    roles.clone("policy", "reward")
    before = score(roles, batch, "policy", "reference")
    assert torch.equal(before.logps, before.reference_logps)
    step(roles, batch, rate=1e-3)
    after = score(roles, batch, "policy", "reference")
    assert torch.equal(after.reference_logps, before.reference_logps)
    assert (after.logps - before.logps).abs().max() > 1e-3
    roles.save("policy", tmp_path / "saved")
    again = Roles(make_base(), LORA)
    again.start("policy", tmp_path / "saved")
    assert torch.equal(score(again, batch, "policy").logps, after.logps)
    fields = ("r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
    given, saved = (json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("given", "saved"))
    assert [given[field] for field in fields] == [saved[field] for field in fields]
    assert not any("lm_head" in key for key in roles.state("reward"))


def test_roles_of_several_shapes_stand_beside_each_other(tmp_path):
    batch, expected = make_batch(), {}
    for name in ("DoRA", "another rank"):
        expected[name] = single_logps(made_by_peft(tmp_path / name, **SHAPES[name]), batch, 1.0)
    roles = shake(Roles(make_base(), LORA, ("reward", "reference")), "reward")
    rewards = score(roles, batch, "reward").rewards
    assert roles.scorer.exact[0] == "fused"
    roles.start("policy", tmp_path / "DoRA")
    roles.start("reference", tmp_path / "another rank")
    found = score(roles, batch, "policy", "reference", "reward")
    same_scores(found.logps, expected["DoRA"])
    same_scores(found.reference_logps, expected["another rank"])
    assert torch.equal(found.rewards, rewards)
    with roles.active("policy"), pytest.raises(NotImplementedError):
        Steps(roles.model.base_model)
    roles.start("policy", tmp_path / "another rank")
    assert torch.equal(score(roles, batch, "policy").logps, found.reference_logps), "nothing is left of the other shape"


@pytest.mark.parametrize(
    ("fields", "part"), [({"bias": "lora_only"}, "biases of the base"), ({"modules_to_save": ["lm_head"]}, "lm_head")]
)
def test_what_is_more_than_lora_is_refused(fields, part, tmp_path):
    made_by_peft(tmp_path, r=2, lora_alpha=4, **fields)
    with pytest.raises(OtherAdapterError, match=part):
        Roles(make_base(), LORA).start("policy", tmp_path)


# ---- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"use_rslora": True}, {"use_dora": True}])
def test_settings_make_adapters_that_peft_opens(fields, tmp_path):
    roles = shake(Roles(make_base(), LoraSettings(lora_rank=4, lora_alpha=6, **fields)), "policy", scale=0.05)
    roles.save("policy", tmp_path)
    batch = make_batch()
    beside = single_logps(PeftModel.from_pretrained(make_base(), tmp_path).eval(), batch, 1.0)
    same_scores(score(roles, batch, "policy").logps, beside)
    plain = shake(Roles(make_base(), LoraSettings(lora_rank=4, lora_alpha=6)), "policy", scale=0.05)
    assert (score(plain, batch, "policy").logps - beside).abs().max() > 1e-3


def test_what_is_at_its_default_changes_no_key():
    assert not {"use_rslora", "use_dora", "lora_dropout"} & deciding(LoraSettings()).keys()
    assert deciding(LoraSettings(lora_dropout=0.1))["lora_dropout"] == 0.1


# ---- dropout -----------------------------------------------------------------------------------------


def dropping(**fields):
    roles = Roles(make_base(), LoraSettings(lora_rank=3, lora_alpha=6, lora_dropout=0.5, **fields), ("reward",))
    return shake(roles, "policy", "reward").train()


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}])
def test_dropout_is_on_in_the_passes_that_a_loss_trains_through_and_in_no_other(variant):
    roles, batch = dropping(**variant), make_batch()
    plain = shake(
        Roles(make_base(), LoraSettings(lora_rank=3, lora_alpha=6, **variant), ("reward",)), "policy", "reward"
    )
    expected = score(plain, batch, "policy", "reward")
    roles.learn(("policy",))
    trained = [roles(batch, ("policy", "reward")) for _ in range(2)]
    assert (trained[0].logps - trained[1].logps).abs().max() > 1e-3, "another mask each time"
    for scores in (score(roles, batch, "policy", "reward"), roles(batch, ("reward",))):
        same_scores(scores.rewards, expected.rewards)
    same_scores(score(roles, batch, "policy").logps, expected.logps)
    assert torch.equal(trained[0].rewards, score(roles, batch, "reward").rewards), "a role that does not learn"
    assert roles.scorer.exact == ("fused", "prompt_once", "plain") or variant
    draw = TransformersSampler((2,), 0, 6)
    one, two = (draw(r, "policy", [[3, 4]], k=3, temperature=1.0, seed=1).batch for r in (roles, plain))
    assert torch.equal(one.response_ids, two.response_ids)


def test_recomputed_activations_have_the_same_mask():
    gradients = []
    for recomputes in (False, True):
        roles, batch = dropping(), make_batch()
        roles.checkpoint_activations(recomputes)
        parameters = roles.learn(("policy",))
        torch.manual_seed(3)
        roles._try_paths(batch, "policy")
        roles(batch, ("policy",)).logps.sum().backward()
        gradients.append([parameter.grad for parameter in parameters])
    assert any(grad.abs().max() > 1e-3 for grad in gradients[0])
    for one, two in zip(*gradients, strict=True):
        same_scores(one, two)
