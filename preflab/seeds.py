"""Randomness: every draw is a function of the seed and of what it is for, never of what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *purpose: object) -> int:
    """Return a seed for one purpose, such as ``derive(0, "rollout", 3)``; 0 to 2⁶³ − 1."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Draw from torch's generators, those of the CPU and of this process's own GPU, as seeded for one purpose.

    The caller's states are put back.
    """
    own = derive(seed, *purpose)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which would seed the GPUs of other processes too.
        torch.default_generator.manual_seed(own)
        for _ in devices:
            torch.cuda.manual_seed(own)
        yield


def random_states(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return where torch's generators stand that a model on `device` draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_states(device: torch.device, states: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    """Let them draw again what they drew from there on."""
    host, other = states
    torch.set_rng_state(host)
    if other is not None:
        torch.cuda.set_rng_state(other, device)
