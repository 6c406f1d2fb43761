"""A stand-in for vLLM: the part of its API that preflab uses, by means of preflab's own decode loop.

It keeps what is easily got wrong about the real one: defaults that cut responses short, end tokens of the model's own,
log-probabilities before the temperature, adapters kept by their number and prompts by their adapter's name, what is not
finite kept for whoever draws next, and on a CPU torch's threads taken for itself.
"""

from __future__ import annotations

import copy
import importlib.machinery
import random
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from preflab.data.batches import padded
from preflab.method.contract import Batch
from preflab.sampling import vllm_engine
from preflab.sampling.decoding import decode
from preflab.scoring.logps import single_logps

ENGINE_OPTIONS = {
    "trust_remote_code", "dtype", "max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes", "enable_lora",
    "enable_chunked_prefill", "enable_prefix_caching", "max_loras", "max_lora_rank", "skip_tokenizer_init",
    "generation_config", "logprobs_mode", "use_tqdm_on_load", "seed",
}  # fmt: skip


@dataclass
class SamplingParams:
    """Names and defaults are vLLM's."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        self.temperature = max(self.temperature, 0.01)


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self):
        if self.lora_int_id < 1 or not self.lora_path:
            raise ValueError(self)


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    index: int
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


@dataclass
class Call:
    prompts: list[list[int]]
    params: list[SamplingParams]
    lora_request: LoRARequest | None


class LLM:
    """The engine; ``calls`` keeps what it was asked, ``closed`` that it was given up, ``made`` every one there is."""

    made = []

    def __init__(self, model: str, **options: Any) -> None:
        unknown = set(options) - ENGINE_OPTIONS
        if unknown:
            raise TypeError(f"EngineArgs has no {unknown}")
        self.model_name, self.options, self.calls = model, options, []
        self.base = AutoModelForCausalLM.from_pretrained(model).requires_grad_(False).eval()
        self.by_number: dict[int, Any] = {}
        self.by_name: dict[str, Any] = {}
        self.spoilt = self.closed = False
        self.llm_engine = types.SimpleNamespace(engine_core=types.SimpleNamespace(shutdown=self._close))
        assert all(engine.closed for engine in LLM.made), "they would share, and lose, what is the process's"
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(options.get("seed", 0))
        torch.set_num_threads(1)
        torch.set_num_threads = lambda number: None
        LLM.made.append(self)

    def _close(self) -> None:
        self.closed = True

    def generate(self, prompts, sampling_params, *, use_tqdm=True, lora_request=None):
        assert not self.closed
        assert len(prompts) == len(sampling_params)
        prompts = [prompt["prompt_token_ids"] for prompt in prompts]
        self.calls.append(Call(prompts, sampling_params, lora_request))
        model = self.base if lora_request is None else self._adapted(lora_request)
        return [self._answer(model, prompt, params) for prompt, params in zip(prompts, sampling_params, strict=True)]

    def _adapted(self, request: LoRARequest) -> Any:
        """Return the adapted model, a stale one where the number or the name is not new."""
        assert self.options["enable_lora"]
        model = self.by_number.get(request.lora_int_id) or self.by_name.get(request.lora_name)
        if model is None:
            model = PeftModel.from_pretrained(copy.deepcopy(self.base), request.lora_path)
            assert model.peft_config["default"].r <= self.options["max_lora_rank"]
            model = model.merge_and_unload().requires_grad_(False).eval()
        self.by_number[request.lora_int_id] = self.by_name[request.lora_name] = model
        return model

    def _answer(self, model: Any, prompt: list[int], params: SamplingParams) -> RequestOutput:
        if params.top_p != 1 or params.top_k > 0 or params.min_p or params.repetition_penalty != 1:
            raise NotImplementedError("filters")
        assert len(prompt) < self.options["max_model_len"]
        seeds = [params.seed + index for index in range(params.n)]
        noise = [
            torch.rand(params.max_tokens, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
            for s in seeds
        ]
        ids, mask = padded([prompt], 0, left=True)
        ends = set(params.stop_token_ids or ()) | (set() if params.ignore_eos else {self.base.config.eos_token_id})
        # No end token for the loop: what is behind the first one is cut off below.
        tokens, logps = decode(
            model, ids, mask, torch.stack(noise, 1)[:, None], end_ids=-1, temperature=params.temperature
        )
        self.spoilt = self.spoilt or not logps.isfinite().all()
        if self.spoilt:
            logps = torch.full_like(logps, torch.nan)
        if self.options.get("logprobs_mode", "raw_logprobs") == "raw_logprobs":
            logps = single_logps(model, Batch(ids, mask, tokens, torch.ones_like(tokens, dtype=torch.bool)), 1.0)
        return RequestOutput(
            [
                completion(i, row, found, ends)
                for i, (row, found) in enumerate(zip(tokens[0].tolist(), logps[0].tolist(), strict=True))
            ]
        )


def completion(index: int, tokens: list[int], logps: list[float], ends: set[int]) -> CompletionOutput:
    places = [place for place, token in enumerate(tokens) if token in ends]
    length = places[0] + 1 if places else len(tokens)
    found = [{token: Logprob(logp)} for token, logp in zip(tokens[:length], logps[:length], strict=True)]
    return CompletionOutput(index, tokens[:length], found, "stop" if places else "length")


def install(monkeypatch, *, cpu: bool = True) -> Any:
    """Put the stand-in where vLLM would be, of a machine without CUDA or with it; return it."""
    names = ("vllm", "vllm.lora", "vllm.lora.request", "vllm.platforms")
    vllm, _, request, platforms = modules = [types.ModuleType(name) for name in names]
    vllm.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    vllm.LLM, vllm.SamplingParams, vllm.TokensPrompt = LLM, SamplingParams, dict
    request.LoRARequest = LoRARequest
    platforms.current_platform = types.SimpleNamespace(is_cpu=lambda: cpu, get_device_total_memory=lambda: 2**34)
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(LLM, "made", [])
    monkeypatch.setattr(vllm_engine, "_held", [])
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return vllm
