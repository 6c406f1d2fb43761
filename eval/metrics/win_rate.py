"""How often a model's response has a higher reward than the baseline's response to the same prompt."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import base


def per_prompt(reward: ArrayLike, baseline_reward: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: 1 for a win over the baseline, 0.5 for a tie, 0 for a loss."""
    return base.share_above(*base.vectors(reward=reward, baseline_reward=baseline_reward))


class WinRate(base.PromptMetric):
    """Share of prompts on which the response's reward is above the baseline's; a tie counts as half.

    Both responses answer the same prompt and are judged by the same reward, which must not be the one
    that the method was trained against: the world's gold reward, or a held-out reward model.
    """

    higher_is_better = True
    version = "1.0.0"
    inputs: ClassVar = {
        "reward": ("float64", "reward of the model's response to each prompt"),
        "baseline_reward": ("float64", "reward of the baseline's response to the same prompt"),
    }
    outputs: ClassVar = {
        "win_rate": "share of wins, ties as half; 0.5 means equal",
        **base.of_mean("prompts"),
    }
    source = """@article{stiennon2020summarize,
  title={Learning to summarize from human feedback},
  author={Stiennon, Nisan and Ouyang, Long and Wu, Jeff and others},
  journal={arXiv:2009.01325}, year={2020}}"""
    values = staticmethod(per_prompt)
    rate = True
