"""Micro-batches that are found from the memory there is: nothing but memory depends on them."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny import KilledError, dying_after, make_groups, settings
from tiny import train as train_on
from tiny_llama import tiny_llama
from torch._subclasses import FakeTensor

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.kto import KTO, KTOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.errors import UserError
from preflab.eval.conformance.workbench import END, PAD, VOCABULARY, make_roles
from preflab.method.configured import make_method
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training import foresight
from preflab.training.fitting import Fitting
from preflab.training.offline import OfflineSource

AUTO = {"per_device_train_batch_size": "auto", "train_batch_size": 8}


def ppo():
    return PPO(PPOConfig(rollout_prompts=16, samples_per_prompt=2, rollout_epochs=2, kl_target=1.0))


MAKE = {"dpo": lambda: DPO(DPOConfig()), "kto": lambda: KTO(KTOConfig()), "ppo": ppo}


def train(algorithm, folder, **options):
    groups = [group._replace(feedback={"desirable": float(group.row % 2)}) for group in make_groups()]
    return train_on(algorithm, folder, groups=groups, **options)


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    """Nobody says how much is free, as on an accelerator, unless a test does."""
    monkeypatch.setattr(foresight, "free_memory", lambda device: None)


@pytest.fixture
def memory(monkeypatch):
    """Let memory hold so many prompts in a pass that keeps its graph; return the sizes that were tried."""
    tried: list[int] = []

    def holds(prompts, *, role=None, passes=0, recomputing=False):
        forward, count = Roles.forward, itertools.count()

        def tight(self, batch, roles):
            scores = forward(self, batch, roles)
            weighs = not isinstance(next(self.parameters()), FakeTensor)  # which foresight's are
            if weighs and torch.is_grad_enabled() and role in (None, *roles):
                tried.append(len(batch.prompt_ids))
                full = len(batch.prompt_ids) > prompts or (recomputing and not self._recomputes)
                if next(count) >= passes and full:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return scores

        monkeypatch.setattr(Roles, "forward", tight)
        return tried

    return holds


def assert_alike(one, other, roles=("policy",), *, exact=True):
    for role in roles:
        for a, b in zip(one.parameters_of(role), other.parameters_of(role), strict=True):
            assert torch.equal(a, b) if exact else torch.allclose(a, b, atol=1e-6, rtol=0)


def counted(record):
    return record._replace(seconds=0.0, peak_memory_bytes=0, final={})


# ---- settings ----------------------------------------------------------------------------------------


def test_the_optimiser_batch_and_the_parts_it_is_cut_into():
    assert (TrainConfig().optimiser_batch, TrainConfig().micro_batch) == (32, 32)
    parts = TrainConfig(per_device_train_batch_size=4, gradient_accumulation_steps=3)
    assert (parts.optimiser_batch, parts.micro_batch) == (12, 4)
    named = TrainConfig(per_device_train_batch_size=4, train_batch_size=12)
    assert (named.optimiser_batch, named.micro_batch, Fitting(named).per_step) == (12, 4, 3)
    assert TrainConfig(train_batch_size=12).micro_batch == 12, "a pass is never larger than the step"
    assert (TrainConfig(**AUTO).optimiser_batch, TrainConfig(**AUTO).micro_batch) == (8, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per_device_train_batch_size": "auto"}, "set train_batch_size to the prompts of one"),
        ({**AUTO, "gradient_accumulation_steps": 2}, "follows from what fits"),
        ({"per_device_train_batch_size": 8, "train_batch_size": 20}, "multiple .*set it to 16, or .*auto"),
        (
            {"per_device_train_batch_size": 8, "train_batch_size": 16, "gradient_accumulation_steps": 4},
            "leave gradient_accumulation_steps out",
        ),
    ],
)
def test_batches_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_keys_hold_the_optimiser_batch_and_stay_what_they_were():
    usual, found = make_method("dpo").identity()["train"], make_method("dpo", AUTO).identity()["train"]
    assert "train_batch_size" not in usual
    assert (found["train_batch_size"], found["per_device_train_batch_size"]) == (8, "auto")


def test_rollouts_are_whole_numbers_of_the_named_batch():
    with pytest.raises(UserError, match=r"multiple of train_batch_size \(8\); set rollout_prompts to 16"):
        make_method("ppo", {**AUTO, "rollout_prompts": 18})


def test_sizes_divide_the_optimiser_batch():
    fitting = Fitting(TrainConfig(per_device_train_batch_size="auto", train_batch_size=12))
    sizes = [fitting.size]
    while fitting.tighten():
        sizes.append(fitting.size)
    assert sizes == [12, 6, 3, 1]
    assert Fitting(TrainConfig()).tighten() is None, "what a person says is not changed"


# ---- runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_what_is_found_is_what_could_have_been_said(name, tmp_path, memory, caplog):
    options = {"train_batch_size": 8, "max_steps": 6}
    roles = MAKE[name]().needs.trains
    said, before, lines = train(MAKE[name](), tmp_path / "said", per_device_train_batch_size=2, **options)
    tried = memory(2)
    found, after, again = train(MAKE[name](), tmp_path / "found", per_device_train_batch_size="auto", **options)
    assert tried[:3] == [8, 4, 2]
    assert max(tried[3:]) == 2, "the rest of the run is spared"
    assert_alike(said, found, roles)
    assert counted(before) == counted(after), "attempts that failed cost nothing"
    for one, other in zip(lines, again, strict=True):
        # The reference was asked in parts of another size.
        assert one == pytest.approx(other, abs=1e-6)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "memory ran out at step 1: from here on 4 of 8 prompts go through a pass together",
        "memory ran out at step 1: from here on 2 of 8 prompts go through a pass together",
    ]


def test_a_step_that_begins_again_has_the_same_noise(tmp_path, memory):
    options = {"train_batch_size": 8, "max_steps": 3}

    def run(folder, size):
        torch.manual_seed(0)
        model = tiny_llama(VOCABULARY, pad=PAD, end=END).requires_grad_(False)
        roles = Roles(model, LoraSettings(lora_rank=2, lora_dropout=0.5), ("policy", "reference"), seed=1)
        return train(MAKE["dpo"](), tmp_path / folder, roles=roles, per_device_train_batch_size=size, **options)[0]

    said, other = run("said", 4), run("other", 8)
    memory(4)
    assert_alike(said, run("found", "auto"))
    with pytest.raises(AssertionError):  # there is noise, and it is drawn micro-batch by micro-batch
        assert_alike(said, other, exact=False)


def test_gradients_of_an_attempt_that_failed_half_way_are_dropped(tmp_path, memory):
    options = {"train_batch_size": 8, "max_steps": 4}
    said, *_ = train(ppo(), tmp_path / "said", per_device_train_batch_size=4, **options)
    memory(4, role="value")  # the policy has gone back by then
    found, *_ = train(ppo(), tmp_path / "found", per_device_train_batch_size="auto", **options)
    assert_alike(said, found, ("policy", "value"))


def test_what_a_method_carries_on_is_put_back(tmp_path, memory):
    class Counting(KTO):
        def prepare(self, rollout):
            self.state = {"prepared": self.state.get("prepared", 0.0) + 1}
            return super().prepare(rollout)

    memory(2)
    algorithm = Counting(KTOConfig())
    train(algorithm, tmp_path, **AUTO, max_steps=3)
    assert algorithm.state == {"prepared": 3.0}


def test_the_first_ratio_is_one_however_often_memory_runs_out(tmp_path, memory):
    memory(2)
    _, _, lines = train(ppo(), tmp_path, **AUTO, max_steps=1)
    assert lines[0]["approx_kl"] == 0.0
    assert lines[0]["clip_fraction"] == 0.0


@pytest.mark.parametrize("name", MAKE)
def test_memory_may_run_out_late(name, tmp_path, memory):
    options = {"train_batch_size": 8, "max_steps": 6}
    said, *_ = train(MAKE[name](), tmp_path / "said", per_device_train_batch_size=8, **options)
    tried = memory(4, passes=5)  # inside a rollout, whose behaviour is no longer there to be asked
    found, *_ = train(MAKE[name](), tmp_path / "found", per_device_train_batch_size="auto", **options)
    assert {*tried[:5]} == {8}
    assert 4 in tried
    assert_alike(said, found, exact=False)


@pytest.mark.parametrize(("name", "killed_at"), [("dpo", 22), ("ppo", 18)])
def test_an_interrupted_run_goes_on_with_what_fitted(name, killed_at, tmp_path, memory):
    options = {**AUTO, "max_steps": 8, "save_steps": 4}
    memory(2)
    whole, *_ = train(MAKE[name](), tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        train(MAKE[name](), tmp_path / "broken", wrap=dying_after(killed_at), **options)
    tried = memory(2)
    tried.clear()
    again, record, lines = train(MAKE[name](), tmp_path / "broken", **options)
    assert max(tried) == 2, "nothing is tried again"
    assert_alike(whole, again)
    assert (record.steps, [line["step"] for line in lines]) == (8, list(range(1, 9)))


def test_checkpointing_comes_when_one_prompt_does_not_fit(tmp_path, memory, caplog):
    options = {"train_batch_size": 8, "max_steps": 2}
    said, *_ = train(
        MAKE["dpo"](), tmp_path / "said", per_device_train_batch_size=4, gradient_checkpointing=True, **options
    )
    tried = memory(4, recomputing=True)
    found, *_ = train(
        MAKE["dpo"](), tmp_path / "found", per_device_train_batch_size="auto", gradient_checkpointing="auto", **options
    )
    assert tried[:6] == [8, 4, 2, 1, 8, 4]
    assert_alike(said, found)
    assert "activations are recomputed, 8 of 8 prompts" in caplog.records[3].getMessage()


def test_checkpointing_leaves_the_fast_path(tmp_path):
    roles, *_ = train(MAKE["dpo"](), tmp_path, per_device_train_batch_size=4, gradient_checkpointing=True)
    assert roles.scorer.exact == ("fused", "prompt_once", "plain")


def test_checkpointing_is_off_where_it_is_not_needed(tmp_path, memory):
    memory(8)
    roles, *_ = train(MAKE["dpo"](), tmp_path, **AUTO, gradient_checkpointing="auto")
    assert not roles._recomputes


@pytest.mark.parametrize("options", [{"per_device_train_batch_size": 2, "train_batch_size": 8}, AUTO])
def test_where_nothing_is_left_the_run_ends(options, tmp_path, memory):
    memory(0)
    with pytest.raises(torch.OutOfMemoryError):
        train(MAKE["dpo"](), tmp_path, **options)


# ---- on the CPU, where running out is the end --------------------------------------------------------


def holds(monkeypatch, count):
    """Let free memory hold the heaviest micro-batch of so many prompts, and no more."""
    roles, chosen = make_roles(), settings(**AUTO)
    sketch = foresight.Sketch(roles.model.config, roles.settings, "cpu")
    source = OfflineSource(make_groups(), chosen, PAD, 5)
    found = sketch.footprint(source.heaviest(count), MAKE["dpo"]().needs)
    free = int(foresight.MARGIN * (found.gradients + found.optimiser + found.passes)) + 1
    monkeypatch.setattr(foresight, "free_memory", lambda device: free)


@pytest.mark.parametrize("count", [8, 4, 2, 1])
def test_what_will_not_fit_is_not_tried(count, tmp_path, memory, monkeypatch, caplog):
    holds(monkeypatch, count)
    tried = memory(8)
    train(MAKE["dpo"](), tmp_path, **AUTO, max_steps=1)
    assert set(tried) == {count}
    assert [f"{count} of 8 prompts" in record.getMessage() for record in caplog.records] == [True] * (count < 8)


def test_what_a_person_says_is_tried_and_what_nothing_helps_is_said(tmp_path, memory, monkeypatch, caplog):
    monkeypatch.setattr(foresight, "free_memory", lambda device: 1)
    tried = memory(8)
    train(MAKE["dpo"](), tmp_path / "said", per_device_train_batch_size=8, max_steps=1)
    assert (set(tried), caplog.records) == ({8}, [])
    train(MAKE["ppo"](), tmp_path / "found", **AUTO, max_steps=1)
    assert "beside the weights, and 0.0 GiB are free" in caplog.records[-1].getMessage()


def test_what_cannot_be_foreseen_is_said_and_trained(tmp_path, monkeypatch, caplog):
    def fails(*args, **how):
        raise RuntimeError("Expected inputs of BF16 type\nand more")

    monkeypatch.setattr(foresight, "free_memory", lambda device: 1)
    monkeypatch.setattr(foresight.Sketch, "footprint", fails)
    _, record, _ = train(MAKE["dpo"](), tmp_path, **AUTO, max_steps=1)
    assert record.steps == 1
    assert "cannot be foreseen (Expected inputs of BF16 type);" in caplog.records[-1].getMessage()


def test_the_heaviest_batch_is_as_heavy_as_any(tmp_path):
    source = OfflineSource(make_groups(), settings(**AUTO), PAD, 5)
    tokens = [int(b.prompt_mask.sum() + b.response_mask.sum()) for b in itertools.islice(source.batches(0), 8)]
    heaviest = source.heaviest(8)
    assert int(heaviest.prompt_mask.sum() + heaviest.response_mask.sum()) >= max(tokens)
    assert len(source.heaviest(40).prompt_ids) == 40, "of more than there are"


def test_other_errors_are_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Roles, "forward", lambda *a: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes"):
        train(MAKE["dpo"](), tmp_path, **AUTO)


def test_what_trains_by_itself_is_given_a_number():
    with pytest.raises(UserError, match=r"trl-dpo: .*auto"):
        make_method("trl-dpo", AUTO)
    assert settings(**AUTO).micro_batch == 8
