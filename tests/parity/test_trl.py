"""The native methods against TRL's own trainers: whole trajectories, and TRL's hooks."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from trl_methods import LACKING, METHODS
from trl_runs import LORA, TOLERANCE, algorithm_of, apart, lines_of, shake, train_config

from preflab import UserError
from preflab.algorithms.trl_backed import TRLDPO
from preflab.method import registry
from preflab.settings.training import LoraSettings
from preflab.training.arguments import training_arguments
from preflab.training.offline import OfflineSource
from preflab.training.trainer import run_training

# ---- trajectories ------------------------------------------------------------------------------------


def _native_run(setting, roles, method, train, seed=3):
    algorithm = algorithm_of(registry.load(method))
    folder = setting.folder / "native"
    folder.mkdir()
    source = OfflineSource(setting.groups[method], train, 0, seed, algorithm=algorithm, roles=roles)
    record = run_training(roles, algorithm, source, train, folder, seed=seed, title="native")
    return record, lines_of(folder)


def _trl_run(setting, roles, method, train, seed=3, folder="trl", **changes):
    task = setting.task(method, roles, train, seed, folder=setting.folder / folder, **changes)
    return algorithm_of(METHODS[method]).fit(task), lines_of(task.folder)


@pytest.mark.parametrize(
    ("method", "accumulation", "start"),
    [("sft", 2, "fresh"), ("dpo", 2, "fresh"), ("dpo", 1, "sft"), ("kto", 1, "sft"), ("reward", 1, "fresh")],
)
def test_twenty_steps_go_the_same_way(setting, method, accumulation, start):
    train = train_config(gradient_accumulation_steps=accumulation)
    native, backed = setting.roles(method, start), setting.roles(method, start)
    record, ours = _native_run(setting, native, method, train)
    trl_record, theirs = _trl_run(setting, backed, method, train)

    losses = [line["loss"] for line in ours]
    assert len(losses) == 20
    # What follows could not hold by standing still.
    assert max(losses) - min(losses) > 1000 * TOLERANCE
    assert apart(ours, theirs) < TOLERANCE
    assert apart(ours, theirs, "grad_norm") < 1e-3
    assert [line["learning_rate"] for line in ours] == [line["learning_rate"] for line in theirs]
    for name in set(registry.load(method).metrics) - LACKING.get(method, set()):
        # A micro-batch without a single desirable response logs nothing of them.
        found, expected = ([line.get(name, math.nan) for line in lines] for lines in (ours, theirs))
        assert not all(map(math.isnan, found)), name
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True), name
    role = METHODS[method].needs.trains[0]
    for a, b in zip(native.parameters_of(role), backed.parameters_of(role), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert (trl_record.steps, trl_record.tokens) == (record.steps, record.tokens)
    assert trl_record.final["loss"] == theirs[-1]["loss"]
    assert trl_record.seconds > 0
    assert trl_record.peak_memory_bytes > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", ["order", "adapter"])
def test_another_order_or_adapter_goes_another_way(setting, method, what):
    """The trajectory test can fail: it sees another order of the data, and another initial adapter."""
    train = train_config(max_steps=8)
    _, ours = _native_run(setting, setting.roles(method, "sft"), method, train)
    roles = setting.roles(method, "sft")
    if what == "adapter":
        shake(roles.parameters_of(METHODS[method].needs.trains[0]), 5)
    _, theirs = _trl_run(setting, roles, method, train, seed=4 if what == "order" else 3)
    assert apart(ours, theirs) > 100 * TOLERANCE


def test_rows_come_in_the_order_of_the_native_source(setting):
    """Over more than five epochs of 30 rows, micro-batch by micro-batch."""
    train = train_config(gradient_accumulation_steps=2)
    trainer, _ = algorithm_of(TRLDPO).build(setting.task("dpo", setting.roles("dpo"), train))
    native = OfflineSource(setting.groups["dpo"], train, 0, 3).batches(0)
    seen = 0
    for batch in trainer.get_train_dataloader():
        ours = next(native)
        expected = [
            ours.prompt_ids[b][ours.prompt_mask[b]].tolist()
            + ours.response_ids[b, k][ours.response_mask[b, k]].tolist()
            for k in range(2)
            for b in range(4)
        ]
        found = [
            ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert found == expected
        seen += 1
    assert seen == 40


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_training_ends_with_the_same_weights(setting, method, monkeypatch):
    train = train_config(max_steps=6, save_steps=2)
    whole, resumed = setting.roles(method, "sft"), setting.roles(method, "sft")
    with monkeypatch.context() as patch:
        patch.setattr("preflab.training.checkpoints.remove_checkpoints", lambda folder: None)
        _, expected = _trl_run(setting, whole, method, train)
    (setting.folder / "again").mkdir()
    shutil.copytree(setting.folder / "trl" / "checkpoint-4", setting.folder / "again" / "checkpoint-4")
    (setting.folder / "again" / "checkpoint-5").mkdir()  # the process died while it wrote this one
    _, lines = _trl_run(setting, resumed, method, train, folder="again")
    assert [line["loss"] for line in lines[-2:]] == [line["loss"] for line in expected[-2:]]
    role = METHODS[method].needs.trains[0]
    for a, b in zip(whole.parameters_of(role), resumed.parameters_of(role), strict=True):
        assert torch.equal(a, b)
    assert not list((setting.folder / "again").glob("checkpoint-*")), "a finished run keeps no pickled state"


# ---- what surrounds the training ---------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_only_the_trained_role_changes(setting, method):
    roles = setting.roles(method, "sft")
    role = METHODS[method].needs.trains[0]
    own = {id(p) for p in roles.parameters_of(role)}
    before = {n: (p, p.detach().clone()) for n, p in roles.named_parameters()}
    forward = roles.model.forward
    _trl_run(setting, roles, method, train_config(max_steps=2))
    assert [n for n, _ in roles.named_parameters()] == list(before)
    for name, (parameter, value) in before.items():
        if id(parameter) in own:
            assert not torch.equal(parameter, value), name
        else:
            assert torch.equal(parameter, value), name
        assert not parameter.requires_grad, name
    assert roles.model.forward == forward, "TRL's fused head must stay on TRL's copy"


def test_padding_with_the_end_token_moves_no_reward(setting, tiny_tokenizer):
    """TRL's classifier would take a padding end token for the response's own and read one token early."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    train = train_config(max_steps=3)
    _, ours = _native_run(setting, setting.roles("reward", "sft"), "reward", train)
    _, theirs = _trl_run(setting, setting.roles("reward", "sft"), "reward", train, tokenizer=tokenizer)
    assert apart(ours, theirs) < TOLERANCE
    assert tokenizer.pad_token == tokenizer.eos_token


@pytest.mark.parametrize("pad", [2, None, 0])
def test_reward_is_read_where_trl_reads_it_whatever_the_padding(setting, pad):
    """2 is the end token: TRL's classifier, and ours, then read the token before it."""
    train, found = train_config(max_steps=3), []
    for run in (_native_run, _trl_run):
        roles = setting.roles("reward", "sft")
        roles.model.config.pad_token_id = pad
        found.append(run(setting, roles, "reward", train)[1])
    assert apart(*found) < TOLERANCE


def test_half_precision_base_keeps_a_float32_head(setting):
    """Sums of bfloat16 differ by more, 5e-4 here: a head in bfloat16 would not even follow so far."""
    lora = dataclasses.replace(LORA, dtype="bfloat16")
    train = train_config(max_steps=6)
    native, backed = setting.roles("reward", lora=lora), setting.roles("reward", lora=lora)
    _, ours = _native_run(setting, native, "reward", train)
    _, theirs = _trl_run(setting, backed, "reward", train)
    assert apart(ours, theirs) < 5e-3
    assert backed.head("reward").linear.weight.dtype is torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_changes_no_number(setting, method):
    plain, saving = train_config(max_steps=4), train_config(max_steps=4, gradient_checkpointing=True)
    _, ours = _trl_run(setting, setting.roles(method, "sft"), method, plain)
    _, theirs = _trl_run(setting, setting.roles(method, "sft"), method, saving, folder="saving")
    assert apart(ours, theirs) < TOLERANCE
    assert apart(ours, theirs, "grad_norm") < 1e-3


def test_adapter_on_the_head_is_refused_with_advice(setting):
    roles = setting.roles("dpo", lora=LoraSettings(4, 8, ("q_proj", "lm_head")))
    with pytest.raises(UserError, match="lm_head out of target_modules"):
        algorithm_of(TRLDPO).fit(setting.task("dpo", roles, train_config()))


@pytest.mark.parametrize("extra", [{"no_such_field": 1}, {"max_length": 5}])
def test_extra_fields_trl_does_not_take_are_a_users_error(setting, extra):
    with pytest.raises(UserError, match="DPOConfig"):
        algorithm_of(TRLDPO).build(setting.task("dpo", setting.roles("dpo"), train_config(extra=extra)))


def test_nothing_is_reported_to_the_hub(setting, monkeypatch):
    """Offline mode and CI, which also keep TRL quiet, are taken away; the process's switch starts off."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry, send_telemetry

    class Online:
        is_offline_mode = staticmethod(lambda: False)
        HF_HUB_DISABLE_TELEMETRY = property(lambda self: constants.HF_HUB_DISABLE_TELEMETRY)

    sent = []
    monkeypatch.setattr(_telemetry, "constants", Online())
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: None)
    monkeypatch.setattr(_telemetry, "_TELEMETRY_QUEUE", SimpleNamespace(put=sent.append))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    send_telemetry("the test itself")
    assert len(sent) == 1
    for method, cls in METHODS.items():
        algorithm_of(cls).build(setting.task(method, setting.roles(method), train_config(max_steps=1)))
    assert len(sent) == 1


# ---- TRL's side of the contract ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "start"), [*((method, "fresh") for method in METHODS), ("dpo", "sft"), ("kto", "sft")]
)
def test_trl_trainer_is_built_as_we_expect(setting, method, start):
    cls = METHODS[method]
    task = setting.task(method, setting.roles(method, start), train_config(max_steps=1, per_device_train_batch_size=8))
    algorithm = algorithm_of(cls)
    trainer, _ = algorithm.build(task)
    adapters = {"default", "ref"} if start == "sft" else {"default"}
    assert set(trainer.model.peft_config) == adapters, "TRL keeps its reference elsewhere than in the adapter 'ref'"
    trainer._set_signature_columns_if_needed()
    columns = set(trainer.train_dataset.column_names)
    assert columns <= set(trainer._signature_columns), "TRL's tokenised columns have other names"
    trainer.model.train()
    trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    metrics, renamed = {"loss", *trainer._metrics["train"]}, cls.backing.metrics(algorithm.config)
    assert renamed.keys() <= metrics, f"{cls.backing.trainer} no longer logs {sorted(renamed.keys() - metrics)}"
    ours = {metric.name for metric in renamed.values()}
    assert set(cls.metrics) - (ours | metrics) == LACKING.get(method, set()), "metrics that the method declares"


@pytest.mark.parametrize("method", METHODS)
def test_shared_training_arguments_equal_the_native_ones(setting, method):
    """All fields of `TrainingArguments`: TRL's configs have other defaults, and none may come through."""
    train = train_config(adam_epsilon=1e-6, weight_decay=0.01, lr_scheduler_type="linear", max_grad_norm=0.5)
    task = setting.task(method, setting.roles(method), train)
    theirs = algorithm_of(METHODS[method]).build(task)[0].args
    ours = training_arguments(train, 20, task.folder, 3, task.roles.device)
    differing = {f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)}
    # The native source finds its place and order by itself; pinning memory changes no number.
    assert differing <= {"ignore_data_skip", "train_sampling_strategy", "dataloader_pin_memory"}
    assert not theirs.ignore_data_skip
    assert theirs.train_sampling_strategy == "sequential"
    assert theirs.max_length is None
    assert not theirs.gradient_checkpointing
    assert not theirs.bf16
