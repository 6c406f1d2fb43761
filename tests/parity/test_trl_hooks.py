"""TRL's side of the contract: if TRL is upgraded and something we use moved, these tests name it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
from types import SimpleNamespace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from preflab import TrainConfig, UserError
from preflab.method import registry
from preflab.training.trl import TRLBacked, _arguments

trl = pytest.importorskip("trl")

BACKED = "preflab.algorithms.trl_backed:"
NAMES = [name for name, point in registry.registered().items() if point.value.startswith(BACKED)]
SAMPLING = {name for name in NAMES if registry.load(name).needs.responses == "sampled"}
TASK = SimpleNamespace(
    train=TrainConfig(per_device_train_batch_size=8, max_steps=1),
    max_response_tokens=7,
    seed=0,
    roles=SimpleNamespace(device=torch.device("cpu")),
)

HOOKS = {
    "__init__": {"model", "args", "train_dataset", "processing_class"},
    "log": {"logs", "start_time"},
    "compute_loss": {"model", "inputs"},
    "_send_telemetry": set(),
    "create_model_card": set(),
    "get_train_dataloader": set(),
}
GIVEN = {"_prepare_dataset": {"dataset"}}
SAMPLED = {
    "__init__": {"reward_funcs"},
    "_tokenize_prompts": {"prompts"},
    "_calculate_rewards": {"prompts", "completion_ids_list"},
    "_generate": {"prompts"},
    "_log_metric": {"name", "value"},
}


def parameters_of(owner, name):
    assert hasattr(owner, name), f"{owner.__name__}.{name} is gone"
    return set(inspect.signature(getattr(owner, name)).parameters)


def test_the_six_are_registered():
    assert set(NAMES) == {"trl-sft", "trl-dpo", "trl-kto", "trl-reward", "trl-rloo", "trl-grpo"}
    assert {"trl-rloo", "trl-grpo"} == SAMPLING
    assert all(issubclass(registry.load(name), TRLBacked) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_trainers_have_the_methods_and_parameters_we_use(name):
    trainer = getattr(trl, registry.load(name).backing.trainer)
    for hooks in (HOOKS, SAMPLED if name in SAMPLING else GIVEN):
        for method, parameters in hooks.items():
            lost = parameters - parameters_of(trainer, method)
            assert not lost, f"{trainer.__name__}.{method} lost the parameters {sorted(lost)}"


class Given(dict):
    """Fields in place of a config, on a machine of no GPU."""

    n_gpu = 0


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What we pass to TRL's config for a method: taken from the call itself, so that no field is forgotten here."""

    def fields_for(cls, config):
        task = SimpleNamespace(**vars(TASK), folder=tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(trl, cls.backing.config, Given)
            return _arguments(cls.backing, config, task, 1, cls.needs.responses == "sampled")

    return fields_for


@pytest.mark.parametrize("name", NAMES)
def test_configs_have_the_fields_we_set(name, given):
    cls = registry.load(name)
    config, ours = getattr(trl, cls.backing.config), given(cls, cls.Config()).keys()
    assert len(ours) > 20
    lost = ours - {field.name for field in dataclasses.fields(config)}
    assert not lost, f"{config.__name__} lost the fields {sorted(lost)}"


@pytest.mark.parametrize("name", sorted(SAMPLING))
def test_prompts_reach_the_reward_function_as_the_token_ids_they_are(name):
    """No text in between: `_generate` asks `_tokenize_prompts`, whose place we take, and rewards see its argument."""
    module = importlib.import_module(getattr(trl, registry.load(name).backing.trainer).__module__)
    assert not module.is_conversational({"prompt": [1, 2, 3]}), "TRL takes a list of token ids for a conversation"
    sampler = trl.trainer.utils.RepeatSampler
    order = list(sampler(range(4), mini_repeat_count=2, batch_size=2, repeat_count=2, shuffle=False))
    expected = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    assert order == expected, "RepeatSampler orders prompts in another way"


# ---- every field of a method's own config reaches TRL, or is refused --------------------------------

# Fields that mean nothing unless another one is set, which is refused; and those that mean nothing by default.
WITHOUT_EFFECT = {
    "kl_horizon": "kl_target",
    "reference_sync": "reference_mixup",
    "vllm_memory": "sampler",
    "importance_cap": "sampler",
}
BESIDE = {
    "kl_in": {"kl_estimator": "k3"},
    "loss_constant": {"loss_normalisation": "constant", "loss_constant": 7.0},
    "clip_range_high": {"clip_range": 0.2},
}


def _changed(config, name):
    """A valid config that differs in one field."""
    now = getattr(config, name)
    hint = get_type_hints(type(config))[name]
    choices = get_args(hint) if get_origin(hint) is Literal else [not now] if isinstance(now, bool) else [16, 3, 0.25]
    for value in choices:
        with contextlib.suppress(ValueError):
            if value != now:
                return dataclasses.replace(config, **{name: value})
    raise AssertionError(f"no other value found for {name}")


CASES = [(name, f.name) for name in NAMES for f in dataclasses.fields(registry.load(name).Config)]


@pytest.mark.parametrize(("name", "field"), CASES)
def test_a_field_reaches_trl_or_is_refused(name, field, given):
    cls = registry.load(name)
    if field in WITHOUT_EFFECT:
        assert WITHOUT_EFFECT[field] in cls.backing.only
        return
    config = cls.Config(**BESIDE.get(field, {}))
    default, changed = given(cls, config), _changed(config, field)
    assert given(cls, config) == default
    try:
        cls(changed)
        assert given(cls, changed) != default, f"{name} ignores {field}"
    except UserError as error:
        assert field in str(error)  # noqa: PT017
