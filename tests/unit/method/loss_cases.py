"""Small batches for worked values of losses."""

from __future__ import annotations

import numpy as np
import torch

from preflab.method.contract import Batch, Labels, Scores

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # float64, sums of a few dozen terms
NAN = float("nan")
NOTHING_SAID = Labels()


def make_batch(lengths, width=6, feedback=NOTHING_SAID):
    """Return a batch of prompts of three tokens and responses of these ``[B][K]`` lengths."""
    lengths = torch.tensor(lengths)
    mask = torch.arange(width) < lengths[..., None]
    prompts = len(lengths)
    return Batch(
        torch.full((prompts, 3), 5),
        torch.ones(prompts, 3, dtype=torch.bool),
        torch.full((*lengths.shape, width), 7),
        mask,
        feedback,
    )


def randoms(shape, seed, scale=1.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


def dpo_scores(batch, seed=0):
    shape = batch.response_mask.shape
    return Scores(randoms(shape, seed) - 2, randoms(shape, seed + 1) - 2)


LENGTHS = [[6, 3], [1, 5]]
SHAPE = (2, 2, 6)


def tokens(batch):
    return [tuple(index) for index in batch.response_mask.nonzero().tolist()]
