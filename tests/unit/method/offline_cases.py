"""Offline methods, and batches near the reference for them."""

from __future__ import annotations

import math

import numpy as np
import torch

from preflab import Pairwise
from preflab.algorithms.kto import KTOFeedback
from preflab.method import registry
from preflab.method.contract import Batch, Labels, Scores

NAN = float("nan")


def has_own_loss(name):
    algorithm = registry.load(name)
    return algorithm.needs.responses in ("pair", "single", "ranking") and "policy" in algorithm.needs.trains


# Methods that hand the training to another library have a native twin here.
OFFLINE = {name: registry.load(name) for name in registry.registered() if has_own_loss(name)}
OFFLINE = {name: cls for name, cls in OFFLINE.items() if cls.kind == "loss"}
PAIRWISE = {name: cls for name, cls in OFFLINE.items() if issubclass(cls, Pairwise)}


def make_batch(lengths, width=6, kind=Labels, **feedback):
    """Return a batch of prompts of three tokens and responses of these ``[B][K]`` lengths."""
    lengths = torch.tensor(lengths)
    prompts = len(lengths)
    return Batch(
        torch.full((prompts, 3), 5),
        torch.ones(prompts, 3, dtype=torch.bool),
        torch.full((*lengths.shape, width), 7),
        torch.arange(width) < lengths[..., None],
        kind(**{name: torch.tensor(values, dtype=torch.float64) for name, values in feedback.items()}),
    )


def randoms(shape, seed, scale=1.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


def near_reference(batch, seed=0, scale=0.3):
    """Return log-probabilities of about −2 a token, and a reference that is not far off."""
    shape = batch.response_mask.shape
    reference = -2 - randoms(shape, seed).abs()
    return Scores((reference + randoms(shape, seed + 1, scale)).clamp(max=-0.1), reference)


def case(cls):
    """Return a ragged batch of the method's kind; in a ranking, one prompt has fewer responses than the other."""
    batch = {
        "pair": lambda: make_batch([[4, 6], [1, 2], [6, 3]]),
        "ranking": lambda: make_batch([[4, 6, 2], [1, 2, 0], [6, 3, 5]]),
        "single": lambda: make_batch([[4], [1], [6]], kind=KTOFeedback, desirable=[1, 0, 1], kl=[0.3] * 3),
    }[cls.needs.responses]()
    return cls(cls.Config()), batch, near_reference(batch)


def softplus(x):
    return math.log1p(math.exp(x))


def sigma(x):
    return 1 / (1 + math.exp(-x))
