"""vLLM itself, where it is installed (`make test-vllm`); what the stand-in of the other tests only claims."""

from __future__ import annotations

import itertools

import pytest
import torch
from sampled_model import END, OTHER_END, PAD, VOCABULARY, draw, open_roles, shake
from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM

from preflab.errors import UserError
from preflab.model.roles import Roles
from preflab.sampling import vllm as vllm_module
from preflab.sampling.vllm import VllmSampler
from preflab.sampling.vllm_engine import opened
from preflab.settings.training import LoraSettings

pytest.importorskip("vllm")

LONG, LENGTH = 300, 8
"""Tokens of a prompt that fills two of the blocks of 128 in which vLLM keeps prompts for later, and of responses."""

PROMPT = [3 + i % 3 for i in range(LONG)]


def saved(path, **shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny_llama(VOCABULARY, layers=2, positions=512, pad=PAD, end=OTHER_END, **shape)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def long_base(tmp_path_factory):
    """A base with room for long prompts."""
    return saved(tmp_path_factory.mktemp("long"), head=32)


def sampler(folder, memory=0.02):
    return VllmSampler(str(folder), END, PAD, LONG, LENGTH, memory)


def gap(samples, roles, role="policy"):
    """Return the largest difference between the engine's log-probabilities and our own."""
    with torch.no_grad():
        scores = roles(samples.batch, (role,))
    found = scores.logps if role == "policy" else scores.reference_logps
    return float((samples.logps - found).abs().max())


def test_policies_in_turn_through_one_engine_leave_nothing_to_each_other(long_base):
    """Each draws from its own weights, on the same long prompt, whose keys and values the engine keeps."""
    roles, drawing = open_roles(long_base), sampler(long_base)
    roles.clone("policy", "reference")
    drawn = {}
    for turn, (role, seed) in enumerate([("policy", 1), ("reference", 1), ("policy", 2), ("policy", 1)]):
        shake(roles, seed)  # the policy's weights alone
        samples = draw(drawing, roles, k=16, prompts=[PROMPT] * 2, role=role)
        assert gap(samples, roles, role) < 2e-5, turn
        drawn[turn] = samples
    assert torch.equal(drawn[0].logps, drawn[3].logps)
    assert torch.equal(drawn[0].logps, drawn[1].logps), "the reference is a copy of the first policy"
    assert not torch.equal(drawn[0].logps, drawn[2].logps)


def test_the_bare_base_is_drawn_from_between_policies(long_base):
    roles, drawing = open_roles(long_base), sampler(long_base)
    for role in ("reference", "policy", "reference"):
        assert gap(draw(drawing, roles, k=16, prompts=[PROMPT], role=role), roles, role) < 2e-5


def test_a_number_used_twice_would_draw_from_old_weights(long_base, monkeypatch):
    """Why none is: the test before would not see less."""
    roles, drawing = open_roles(long_base), sampler(long_base)
    monkeypatch.setattr(vllm_module, "_numbers", itertools.repeat(10**6))
    assert gap(draw(drawing, roles, k=16, prompts=[PROMPT]), roles) < 2e-5
    shake(roles, 2)
    assert gap(draw(drawing, roles, k=16, prompts=[PROMPT]), roles) > 1e-2


def test_a_policy_that_overflows_spoils_no_other(long_base):
    roles, drawing = open_roles(long_base), sampler(long_base)
    draw(drawing, roles, prompts=[PROMPT])
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.fill_(1e30)
    with pytest.raises(UserError, match="the policy gives no finite probabilities"):
        draw(drawing, roles, k=64, prompts=[PROMPT] * 4)
    shake(roles, 1)
    assert gap(draw(drawing, roles, k=64, prompts=[PROMPT] * 4), roles) < 2e-5


def test_an_engine_leaves_torchs_threads_as_they_were(long_base):
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        draw(sampler(long_base, memory=0.03), open_roles(long_base))
        assert torch.get_num_threads() == 2
        assert torch.set_num_threads is setter
    finally:
        setter(threads)


def test_a_base_that_fails_in_drawing_is_one_line_and_the_next_is_served(long_base, tmp_path):
    narrow = saved(tmp_path, head=16)
    with pytest.raises(UserError, match=r"vLLM failed in drawing from the policy: .*set sampler to transformers"):
        draw(sampler(narrow), open_roles(narrow))
    roles = open_roles(long_base)
    assert gap(draw(sampler(long_base), roles), roles) < 2e-5


def test_more_memory_than_there_is(long_base):
    with pytest.raises(UserError, match=r"with vllm_memory 50: .*[Mm]emory"):
        opened(str(long_base), torch.float32, 50, max_model_len=64, skip_tokenizer_init=True)
    roles = open_roles(long_base)
    assert gap(draw(sampler(long_base), roles), roles) < 2e-5


@pytest.mark.parametrize(("dtype", "most"), [("float32", 2e-5), ("float16", 3e-2), ("bfloat16", 0.3)])
def test_the_engine_rounds_as_its_base_does(long_base, dtype, most):
    model = AutoModelForCausalLM.from_pretrained(long_base, dtype=getattr(torch, dtype)).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=2, lora_alpha=4))
    shake(roles, 1)
    assert gap(draw(sampler(long_base), roles, k=32), roles) < most
