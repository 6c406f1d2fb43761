"""Rollouts by vLLM beside our own: how far its log-probabilities are from the trainer's, and how long each takes.

    make test-vllm ARGS=--collect-only      # once: vLLM, in an environment of its own
    .venv-vllm/bin/python -m benchmarks.vllm_rollouts --model FOLDER [--dtypes float32,bfloat16] [--prompts 16] [-k 4]

The gap is what training logs as ``sampler_gap``: the mean of |log π_engine − log π| over the sampled tokens, in nats,
of a policy whose adapter does something, on prompts of random tokens. A float32 base is also drawn from in half
precision, as vLLM does on CUDA. Seconds are those of a rollout, the best of three, after one that opens the engine.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import NamedTuple
from unittest import mock

import torch
from transformers import AutoConfig

from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.sampling import vllm_engine
from preflab.sampling.sampler import Sampler, TransformersSampler
from preflab.sampling.vllm import VllmSampler
from preflab.settings.training import LoraSettings

PUSH = 0.02
"""Standard deviation of the adapter's B: a token's log-ratio is then some tenths of a nat on a model of 0.1B."""


class Measured(NamedTuple):
    """Mean and largest gap, nats per token, and seconds per rollout."""

    mean: float
    most: float
    seconds: float


def opened(model: str, dtype: str) -> Roles:
    """Return a model with an adapter that does something."""
    lora = LoraSettings(dtype=dtype)
    roles = Roles(load_base(model, lora), lora)
    generator = torch.Generator().manual_seed(0)
    for name, weight in roles.peft.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=PUSH, generator=generator)
    return roles


def measure(sampler: Sampler, roles: Roles, prompts: list[list[int]], k: int) -> Measured:
    """Draw four rollouts; hold the last one's log-probabilities against a scoring pass."""
    times = []
    for seed in range(4):
        start = time.perf_counter()
        samples = sampler(roles, "policy", prompts, k=k, temperature=1.0, seed=seed)
        times.append(time.perf_counter() - start)
    with torch.no_grad():
        scored = roles(samples.batch, ("policy",)).logps
    gaps = (samples.logps - scored)[samples.batch.response_mask].abs()
    return Measured(float(gaps.mean()), float(gaps.max()), min(times[1:]))


def show(dtype: str, sampler: str, found: Measured) -> None:
    """Print a row."""
    print(f"| {dtype} | {sampler} | {found.mean:.1e} | {found.most:.1e} | {found.seconds:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtypes", default="float32,bfloat16,float16")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("-k", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--response-tokens", type=int, default=64)
    parser.add_argument("--memory", type=float, default=0.1)
    options = parser.parse_args()
    vocabulary = AutoConfig.from_pretrained(options.model).get_text_config().vocab_size
    draw = random.Random(0)
    prompts = [[draw.randrange(vocabulary) for _ in range(options.prompt_tokens)] for _ in range(options.prompts)]
    none = -1  # no token ends: all responses are as long
    print("| base | sampler | mean gap | largest gap | seconds |\n|---|---|---:|---:|---:|")
    for dtype in options.dtypes.split(","):
        roles = opened(options.model, dtype)
        lengths = options.prompt_tokens, options.response_tokens
        samplers: dict[str, Sampler] = {
            "transformers": TransformersSampler(none, 0, options.response_tokens),
            "vllm": VllmSampler(options.model, (), 0, *lengths, memory=options.memory),
        }
        for name, sampler in samplers.items():
            show(dtype, name, measure(sampler, roles, prompts, options.k))
        for half in ("bfloat16", "float16") if dtype == "float32" else ():
            vllm_engine.close()
            with mock.patch.object(vllm_engine, "engine_dtype", return_value=half):
                show(dtype, f"vllm in {half}", measure(samplers["vllm"], roles, prompts, options.k))
        vllm_engine.close()


if __name__ == "__main__":
    main()
