"""What `shard_base` saves: bytes of weights that a process holds, and what a training pass takes beside them.

    torchrun --nproc-per-node 2 -m benchmarks.base_in_pieces MODEL

Bytes are those that torch allocates, as its profiler counts them: what a C library keeps for later is not among them.
"""

from __future__ import annotations

import sys

import torch
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from preflab import ranks
from preflab.method.contract import Batch
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

PROMPTS, RESPONSES, PROMPT_TOKENS, RESPONSE_TOKENS = 2, 2, 100, 60
MIB = 2**20


def main(model: str) -> None:
    """Measure a pass with a whole base, then with one in pieces; the first process prints a line for each."""
    torch.set_num_threads(1)
    ranks.start()
    for pieces in (False, True):
        roles = Roles(load_base(model, LoraSettings(), "cpu"), LoraSettings())
        roles.learn(("policy",))
        if pieces:
            roles.shard_base()
        train_once(roles)  # what is made once is no part of a pass
        roles.zero_grad()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            train_once(roles)
        if ranks.first():
            held, how = sum(map(_bytes, roles.parameters())), "in pieces" if pieces else "whole"
            print(f"{how:10} weights {held / MIB:7.0f} MiB   pass {_peak(profiled) / MIB:7.0f} MiB")


def train_once(roles: Roles) -> None:
    """Go forward and back over a batch of pairs."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (PROMPTS, PROMPT_TOKENS), generator=draw)
    answers = torch.randint(5, 1000, (PROMPTS, RESPONSES, RESPONSE_TOKENS), generator=draw)
    scores = roles(Batch(ids, ids > 0, answers, answers > 0), ("policy",))
    scores.logps.sum().backward()


def _bytes(weight: torch.Tensor) -> int:
    own = weight.to_local() if isinstance(weight, DTensor) else weight
    return own.numel() * own.element_size()


def _peak(profiled: profile) -> int:
    """Return how many bytes were allocated at most beside those at the beginning."""
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]
    events = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    now = most = 0
    for _, size in events:
        now += size
        most = max(most, now)
    return most


if __name__ == "__main__":
    main(sys.argv[1])
