"""How often a policy finds the chosen response of a held-out pair likelier than the rejected one."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base, preference_accuracy
from preflab.eval.metrics.preference_accuracy import ACCURACY


def per_prompt(
    chosen_logp: ArrayLike, rejected_logp: ArrayLike, undecided: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return ``[N]``: 1 where the chosen response has the higher log π(y|x), 0.5 on ties, 0 otherwise."""
    chosen, rejected = base.vectors(chosen_logp=chosen_logp, rejected_logp=rejected_logp)
    return preference_accuracy.per_prompt(chosen, rejected, undecided)


def per_token(
    chosen_logp: ArrayLike,
    rejected_logp: ArrayLike,
    chosen_length: ArrayLike,
    rejected_length: ArrayLike,
    undecided: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return ``[N]``: the same by log π(y|x) per token; an empty response counts as of one token."""
    chosen, rejected = base.vectors(chosen_logp=chosen_logp, rejected_logp=rejected_logp)
    lengths = base.vectors(chosen_length=chosen_length, rejected_length=rejected_length)
    return per_prompt(chosen / np.maximum(lengths[0], 1.0), rejected / np.maximum(lengths[1], 1.0), undecided)


class LikelihoodAccuracy(base.PromptMetric):
    """Share of preference pairs whose chosen response is likelier under the policy itself, whatever its reference.

    What a policy would rather say, where `preference_accuracy` is of how training moved it. Long responses are
    unlikelier than short ones; per token they are on a par, which is what length-normalised methods are trained for.
    """

    of = "scores"
    order = 32
    version = "1.0.0"
    inputs: ClassVar = {
        "chosen_logp": ("float64", "log π(y|x) of each pair's chosen response, nats"),
        "rejected_logp": ("float64", "log π(y|x) of each pair's rejected response, nats"),
        "chosen_length": ("float64", "tokens of each pair's chosen response"),
        "rejected_length": ("float64", "tokens of each pair's rejected response"),
    }
    measures: ClassVar = (
        replace(
            ACCURACY,
            key="likelihood",
            part="accuracy",
            what="`accuracy` of log π(y|x) as the score",
            values=per_prompt,
            reads=("chosen_logp", "rejected_logp", "undecided"),
            heading="by likelihood",
        ),
        replace(
            ACCURACY,
            key="normalised_likelihood",
            part="accuracy",
            what="`accuracy` of log π(y|x) per token as the score",
            values=per_token,
            reads=("chosen_logp", "rejected_logp", "chosen_length", "rejected_length", "undecided"),
            heading="by likelihood per token",
        ),
    )
    source = """@article{meng2024simpo,
  title={SimPO: Simple Preference Optimization with a Reference-Free Reward},
  author={Meng, Yu and Xia, Mengzhou and Chen, Danqi},
  journal={arXiv:2405.14734}, year={2024}}"""
