"""The physical floor of training: FLOPs over the machine's rate of multiplying, bytes over its bandwidth.

What a method needs, and no more: each prompt once however many responses it has, the head and the late part of the
last layer on response tokens alone, of frozen matrices the gradient of their input alone, and no pass for scores that
are at hand. FLOPs are counted by `preflab.model.work`; rates are measured here, at the sizes of the
workload.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.clock import now
from preflab.method.contract import Batch, Role
from preflab.model.work import NO_ADAPTER, Passed, Work, scored

OPTIMISER_TRAFFIC = 7  # AdamW reads weight, gradient and both moments, and writes all but the gradient


class Seen(NamedTuple):
    """What a run was given.

    Attributes:
        rollouts: batches that `prepare` got, as they were sampled or read.
        trained: micro-batches that the loss got.
        steps: optimiser steps.
    """

    rollouts: list[Batch]
    trained: list[Batch]
    steps: int


class Machine:
    """How fast this machine multiplies and copies at a model's own sizes.

    Args:
        model: whose matrices are multiplied, and whose weights are as many bytes as are copied.
        bf16: multiply in bfloat16.
    """

    def __init__(self, model: Any, bf16: bool = False) -> None:
        self.device, self.dtype = model.device, torch.bfloat16 if bf16 else torch.float32
        linear = [m for n, m in model.base_model.named_modules() if isinstance(m, nn.Linear) and "lora_" not in n]
        self.shapes = Counter((m.in_features, m.out_features) for m in linear)
        width = torch.empty((), dtype=self.dtype).element_size()
        config, head = model.config.get_text_config(), model.get_output_embeddings().weight
        self.weights = width * (head.numel() + sum(i * o * count for (i, o), count in self.shapes.items()))
        per_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.cache = width * 2 * config.num_hidden_layers * config.num_key_value_heads * per_head  # of one token
        self._rates: dict[int, float] = {}

    def flops(self, tokens: float) -> float:
        """Return FLOPs per second of the decoder's own matrices on so many tokens at once."""
        rows = max(1, round(tokens))
        if rows not in self._rates:
            seconds = 0.0
            for (wide, high), count in self.shapes.items():
                x = torch.randn(rows, wide, device=self.device, dtype=self.dtype)
                weight = torch.randn(high, wide, device=self.device, dtype=self.dtype)
                seconds += count * best(lambda x=x, weight=weight: nn.functional.linear(x, weight))
            self._rates[rows] = 2 * rows * sum(i * o * n for (i, o), n in self.shapes.items()) / seconds
        return self._rates[rows]

    @cached_property
    def bandwidth(self) -> float:
        """Return bytes read and written per second where as many as the weights are copied."""
        source = torch.zeros(self.weights, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * self.weights / best(lambda: target.copy_(source))


@torch.no_grad()
def best(work: Callable[[], Any], enough: float = 0.05) -> float:
    """Return the seconds of the fastest of repeated calls."""
    work()
    found, began = [], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - began < enough:
        start = now()
        work()
        found.append(now() - start)
    return min(found)


def floor(bench: Any, seen: Seen, machine: Machine) -> dict[str, float]:
    """Return the least seconds of each stage of a run."""
    method, roles, seconds = bench.method, bench.roles, Counter[str]()

    def work(passed: Passed, role: Role | None, learns: bool = False) -> float:
        counted = Work(roles.model)
        counted.add(passed, roles.adapter_size(role) if role else NO_ADAPTER, learns=learns)
        return counted.flops

    def score(batch: Batch, group: Sequence[Role], stage: str, learns: bool = False) -> None:
        passed = scored(batch, "fused", last="reward" in group, head=not {"policy", "reference"}.isdisjoint(group))
        rate, forward = machine.flops(passed.body), work(passed, group[0])
        seconds[stage] += forward / rate
        if learns:
            seconds["backward"] += (work(passed, group[0], learns=True) - forward) / rate

    for batch in seen.rollouts:
        wanted = list(method.needs.rollout)
        if bench.sampled:
            for passed, tokens, traffic in decoding(batch, machine):
                seconds["rollout"] += max(work(passed, None) / machine.flops(tokens), traffic / machine.bandwidth)
            wanted.remove("policy")  # its log-probabilities are what was sampled from
        for part in parts(batch, method.train.per_device_train_batch_size):
            for group in roles.passes(wanted):
                score(part, group, "reward" if group == ("reward",) else "scoring")
    for batch in seen.trained:
        at_hand = () if batch.reference_logps is None else ("reference",)
        for group in roles.passes([role for role in method.needs.scores if role not in at_hand]):
            learns = not set(method.needs.trains).isdisjoint(group)
            score(batch, group, "forward" if learns else "scoring", learns)
    learning = sum(p.numel() for role in method.needs.trains for p in roles.parameters_of(role))
    seconds["optimiser"] = seen.steps * OPTIMISER_TRAFFIC * 4 * learning / machine.bandwidth
    return dict(seconds)


def parts(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch as scoring does."""
    return [batch.rows(slice(at, at + size)) for at in range(0, len(batch.prompt_ids), size)]


def decoding(batch: Batch, machine: Machine) -> list[tuple[Passed, float, float]]:
    """Return what sampling a batch needs: its prompts at once, then a token of every response that goes on at a time.

    Of both: what passes through the model, tokens at a time, and bytes that must be read.
    """
    lengths: Tensor = batch.response_mask.sum(-1).cpu()
    prompts: Tensor = batch.prompt_mask.sum(1, keepdim=True).cpu()
    fed = (lengths - 1).clamp(min=0)
    context = int((fed * prompts + fed * (fed + 1) // 2).sum())
    prefill = Passed(int(prompts.sum()), int((prompts**2).sum()), len(prompts))
    tokens = Passed(int(fed.sum()), context, int(fed.sum()))
    # A finished response costs nothing; the weights are read at every step that any other still takes.
    traffic = int(fed.max()) * machine.weights + context * machine.cache
    return [(prefill, prefill.body, machine.weights), (tokens, lengths.numel(), traffic)]
