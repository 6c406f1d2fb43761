"""RLOO and GRPO against TRL's own trainers, on the same responses; and what TRL samples when it is left to."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl_runs import LORA, TOLERANCE, algorithm_of, apart, gradients_of, lines_of, shake, train_config

from preflab import UserError, unit_mask
from preflab.algorithms.trl_backed import TRLGRPO, TRLRLOO
from preflab.method import registry
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.training.rollouts import RolloutSource
from preflab.training.task import Task
from preflab.training.trainer import run_training

METHODS = {"rloo": TRLRLOO, "grpo": TRLGRPO}
ROLES = ("policy", "reference", "reward")
LIMIT = 7
VARIANTS = [
    ("rloo", {}),
    ("rloo", {"whiten_advantages": True, "clip_range": 0.1, "clip_range_high": 0.2, "temperature": 0.7}),
    ("grpo", {}),
    ("grpo", {"scale_rewards": "batch", "loss_normalisation": "token", "kl_coefficient": 0.5, "temperature": 1.3}),
    ("grpo", {"scale_rewards": "none", "loss_normalisation": "constant", "loss_constant": float(LIMIT)}),
    ("grpo", {"kl_coefficient": 0.0, "clip_range": None}),
]
SIZES = {"rollout_prompts": 4, "samples_per_prompt": 3, "rollout_epochs": 2, "kl_coefficient": 0.2}


class Recorded:
    """A sampler that keeps what it drew, for TRL to be given the same."""

    def __init__(self) -> None:
        self.sampler, self.rollouts = TransformersSampler(2, 0, LIMIT), []
        self.other_engine = False

    def __call__(self, *args, **kwargs):
        samples = self.sampler(*args, **kwargs)
        self.rollouts.append((args[2], samples.batch))
        return samples

    def give(self, trainer):
        """Make a TRL trainer draw them, in the order and for the prompts of the native run."""
        rollouts = iter(self.rollouts)

        def draw(prompt_ids, images, fields, *more):
            prompts, batch = next(rollouts)
            ids, mask = batch.response_ids.flatten(0, 1), batch.response_mask.flatten(0, 1)
            assert prompt_ids == [list(prompt) for prompt in prompts for _ in range(batch.response_ids.shape[1])]
            responses = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
            return (responses, None) if more else responses  # GRPO's has a number of samples, and log-probabilities

        trainer._generate_single_turn = draw


@pytest.fixture
def setting(tiny_model_path, tiny_tokenizer, tmp_path):
    """Makes roles and tasks; what differs between tests is an argument."""
    rng = np.random.default_rng(1)
    prompts = [[1, *rng.integers(4, len(tiny_tokenizer), rng.integers(1, 9)).tolist()] for _ in range(10)]

    def make_roles(start="apart", temperature=1.0):
        roles = Roles(load_base(str(tiny_model_path), LORA), LORA, ("policy",), seed=7, temperature=temperature)
        shake(roles.parameters_of("policy"), 1)
        if start != "base":
            roles.clone("policy", "reference")
        if start == "apart":
            shake(roles.parameters_of("policy"), 2)
        roles.add("reward")
        shake(roles.parameters_of("reward"), 3)
        roles.head("reward").std.fill_(0.05)
        roles.learn(())
        return roles

    def make_task(roles, train, folder="trl", seed=4):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Task(roles, [], train, tiny_tokenizer, tmp_path / folder, seed, "test", prompts, LIMIT)

    def make_source(algorithm, roles, train, seed=4):
        sampler = Recorded()
        return RolloutSource(algorithm, algorithm.needs, roles, sampler, prompts, train, seed), sampler

    return SimpleNamespace(roles=make_roles, task=make_task, source=make_source, prompts=prompts, folder=tmp_path)


def _train(**changes):
    return train_config(**{"learning_rate": 3e-3, "adam_epsilon": 1e-5, **changes})


# ---- one batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["sft", "apart", "base"])
@pytest.mark.parametrize(("method", "fields"), VARIANTS)
def test_loss_and_gradients_of_one_batch(setting, method, fields, start):
    """``apart``: the policy has left its reference; ``base``: there is no SFT, and the base is the reference."""
    train, config = _train(max_steps=1), {**SIZES, "rollout_epochs": 1, **fields}
    roles = setting.roles(start, config.get("temperature", 1.0))
    native = algorithm_of(registry.load(method), **config)
    source, sampler = setting.source(native, roles, train)
    batch = next(source.batches(0))
    roles.learn(("policy",))
    losses = native.loss(batch, roles(batch, native.needs.scores)).values
    ours = losses[unit_mask(batch, native.needs.unit)].mean()
    ours.backward()
    expected = gradients_of(roles.peft, "policy")

    trainer, _ = algorithm_of(METHODS[method], **config).build(setting.task(roles, train))
    sampler.give(trainer)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # set by `train`, which is not called here
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    found = gradients_of(trainer.model, "default")

    assert ours.item() == pytest.approx(theirs.item(), abs=TOLERANCE)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 7 * 2
    for name, gradient in expected.items():
        assert (gradient - found[name]).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    assert sum(g.norm() for g in expected.values()) > 1e-2


# ---- trajectories ------------------------------------------------------------------------------------


def _native_run(setting, method, config, train):
    roles, native = (
        setting.roles(temperature=config.get("temperature", 1.0)),
        algorithm_of(registry.load(method), **config),
    )
    source, sampler = setting.source(native, roles, train)
    folder = setting.folder / "native"
    folder.mkdir()
    return run_training(roles, native, source, train, folder, seed=3, title="native"), roles, sampler


def _trl_run(setting, method, config, train, monkeypatch, sampler, roles=None):
    roles = roles or setting.roles(temperature=config.get("temperature", 1.0))
    cls, build = METHODS[method], METHODS[method].build

    def built(self, task):
        trainer, groups = build(self, task)
        sampler.give(trainer)
        return trainer, groups

    with monkeypatch.context() as patch:
        patch.setattr(cls, "build", built)
        return algorithm_of(cls, **config).fit(setting.task(roles, train)), roles


@pytest.mark.parametrize(
    ("method", "fields", "accumulation"),
    [(*variant, n) for variant, n in zip(VARIANTS, [1, 2, 1, 2, 2, 2], strict=True)],
)
def test_twenty_steps_go_the_same_way(setting, monkeypatch, method, fields, accumulation):
    """Ten rollouts, two passes over each: on the second the ratio is no longer 1, and the clip bites."""
    config = {**SIZES, **fields}
    train = _train(per_device_train_batch_size=4 // accumulation, gradient_accumulation_steps=accumulation)
    record, native, sampler = _native_run(setting, method, config, train)
    trl_record, backed = _trl_run(setting, method, config, train, monkeypatch, sampler)
    ours, theirs = lines_of(setting.folder / "native"), lines_of(setting.folder / "trl")

    losses = [line["loss"] for line in ours]
    assert len(losses) == 20
    assert max(losses) - min(losses) > 1000 * TOLERANCE
    # Losses of either sign are judged by the largest of them: one near 0 is a difference of large ones.
    assert losses == pytest.approx([line["loss"] for line in theirs], rel=0, abs=1e-3 * max(map(abs, losses)))
    assert apart(ours, theirs, "grad_norm") < 1e-3
    for a, b in zip(native.parameters_of("policy"), backed.parameters_of("policy"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for name in ("reward", "response_length", "ended", "zero_variance_groups"):
        assert [a[name] for a in ours[::2]] == pytest.approx([b[name] for b in theirs[::2]], rel=1e-4), name
    assert (trl_record.steps, trl_record.tokens, trl_record.sampled_tokens) == (
        record.steps,
        record.tokens,
        record.sampled_tokens,
    )
    assert record.sampled_tokens > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", ["policy", "reference", "reward"])
def test_another_adapter_goes_another_way(setting, monkeypatch, method, what):
    """The trajectory test can fail: it sees another adapter in any of the roles."""
    train, config = _train(max_steps=6), {**SIZES, "kl_coefficient": 1.0}
    _, _, sampler = _native_run(setting, method, config, train)
    roles = setting.roles()
    shake(roles.parameters_of(what), 5)
    _trl_run(setting, method, config, train, monkeypatch, sampler, roles)
    ours, theirs = lines_of(setting.folder / "native"), lines_of(setting.folder / "trl")
    assert apart(ours, theirs, "grad_norm") > 1e-2


# ---- TRL's own sampling ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_trl_samples_from_the_policy_as_it_is(setting, tiny_model_path, method):
    """At a temperature that leaves no choice both samplers must give the same, the model's own settings or not."""
    config = {**SIZES, "temperature": 1e-6}
    roles = setting.roles(temperature=1e-6)
    # Settings that would change every response if they came through.
    roles.model.generation_config.update(min_length=40, repetition_penalty=5.0, eos_token_id=[2, *range(4, 28)])
    trainer, groups = algorithm_of(METHODS[method], **config).build(setting.task(roles, _train()))
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    prompts = [row["prompt"] for row in batch]
    assert prompts == [group.prompt_ids for group in groups[:4] for _ in range(3)]
    found = trainer._generate(prompts)[1]
    samples = TransformersSampler(2, 0, LIMIT)(roles, "policy", prompts, k=1, temperature=1e-6, seed=0)
    expected = [
        ids[mask].tolist()
        for ids, mask in zip(samples.batch.response_ids[:, 0], samples.batch.response_mask[:, 0], strict=True)
    ]
    assert found == expected
    assert len({len(ids) for ids in expected}) > 1 or len({tuple(ids) for ids in expected}) > 1


@pytest.mark.parametrize("method", METHODS)
def test_a_run_by_itself(setting, method):
    """Nothing given: TRL samples; only the policy changes; the costs are counted."""
    roles, train = setting.roles(), _train(max_steps=4)
    before = {name: parameter.detach().clone() for name, parameter in roles.named_parameters()}
    record = algorithm_of(METHODS[method], **SIZES).fit(setting.task(roles, train))
    own = {id(parameter) for parameter in roles.parameters_of("policy")}
    for name, parameter in roles.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in own), name
        assert not parameter.requires_grad, name
    lines = lines_of(setting.folder / "trl")
    assert len(lines) == record.steps == 4
    drawn = sum(line["response_length"] * 12 for line in lines[::2])
    assert record.sampled_tokens == pytest.approx(drawn)
    assert {"reward", "response_length", "ended", "entropy", "kl_per_token"} <= lines[0].keys()
    assert "kl" not in lines[0], "TRL's is per token, ours per response"


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_training_ends_with_the_same_weights(setting, method, monkeypatch):
    train = _train(max_steps=6, save_steps=2)
    whole, resumed = setting.roles(), setting.roles()
    with monkeypatch.context() as patch:
        patch.setattr("preflab.training.checkpoints.remove_checkpoints", lambda folder: None)
        expected = algorithm_of(METHODS[method], **SIZES).fit(setting.task(whole, train))
    (setting.folder / "again").mkdir()
    shutil.copytree(setting.folder / "trl" / "checkpoint-4", setting.folder / "again" / "checkpoint-4")
    record = algorithm_of(METHODS[method], **SIZES).fit(setting.task(resumed, train, folder="again"))
    for a, b in zip(whole.parameters_of("policy"), resumed.parameters_of("policy"), strict=True):
        assert torch.equal(a, b)
    assert (record.tokens, record.sampled_tokens) == (expected.tokens, expected.sampled_tokens)
    # Neither pickled optimiser states nor a card for the hub.
    assert [path.name for path in (setting.folder / "again").iterdir()] == ["metrics.jsonl"]


# ---- what TRL cannot do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("rloo", {"kl_in": "loss", "kl_estimator": "k3"}),
        ("rloo", {"stop_kl": 0.1}),
        ("grpo", {"sampler": "vllm"}),
        ("grpo", {"kl_in": "reward"}),
        ("grpo", {"reference_mixup": 0.5}),
    ],
)
def test_what_trl_lacks_is_refused_before_anything_is_loaded(method, fields):
    with pytest.raises(UserError, match=f"has no {next(iter(fields))}; leave it at"):
        algorithm_of(METHODS[method], **fields)


def test_a_constant_that_is_not_trls_is_refused(setting):
    config = {**SIZES, "loss_normalisation": "constant", "loss_constant": 5.0}
    with pytest.raises(UserError, match=f"set loss_constant to {LIMIT}"):
        algorithm_of(TRLGRPO, **config).build(setting.task(setting.roles(), _train()))
