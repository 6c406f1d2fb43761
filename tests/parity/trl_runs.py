"""What the comparisons with TRL's trainers share."""

from __future__ import annotations

import json

import torch

from preflab import TrainConfig
from preflab.settings.training import LoraSettings

LORA = LoraSettings(lora_rank=4, lora_alpha=8)
# Two exact float32 programs of the same sums differ by about 2e-7 here; see the assertions that losses move far more.
TOLERANCE = 1e-5


def shake(parameters, seed):
    """Move an adapter off its start, where B = 0 hides half of it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def algorithm_of(cls, **config):
    return cls(cls.Config(**config))


def train_config(**changes):
    base = {
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "logging_steps": 1,
        "warmup_steps": 3,
    }
    return TrainConfig(**{**base, **changes})


def gradients_of(model, adapter):
    """Gradients by name, the adapter's name left out."""
    return {n.replace(f".{adapter}.", "."): p.grad for n, p in model.named_parameters() if p.grad is not None}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def apart(ours, theirs, name="loss"):
    """Largest relative difference of a metric over all steps."""
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    return max(abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(ours, theirs, strict=True))
