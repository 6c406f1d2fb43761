"""preflab: PPO, DPO and their kin behind one loss interface, L(x, {y1 … yk}, r), judged alike.

The names below are all that a method of your own needs; see docs/add_an_algorithm.md. `compare`, `train`, `evaluate`,
`score` and `compare_scores` are what Python code and notebooks call; see docs/python.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError
from preflab.method.advantages_and_ratios import (
    KL_TARGET_METRICS,
    POLICY_METRICS,
    STD_EPSILON,
    VALUE_METRICS,
    at_last_token,
    behaviour,
    bootstrapped_scores,
    charged_rewards,
    clipped_surrogate,
    clipped_value_loss,
    discounted_advantages,
    importance_weighted,
    kl_penalty,
    loss_per_unit,
    mean_of_others,
    next_kl_coefficient,
    policy_metrics,
    policy_ratio,
    response_scores,
    value_metrics,
    whiten,
)
from preflab.method.contract import (
    Algorithm,
    Batch,
    DecoderMethod,
    Feedback,
    KnownOptimum,
    Labels,
    Loss,
    LossMethod,
    Mean,
    Needs,
    Prepares,
    Rollout,
    Scores,
    TrainerMethod,
    mean_of,
    unit_mask,
)
from preflab.method.feedback import ActorCriticFeedback, Behaviour, PolicyFeedback
from preflab.method.maths import (
    explained_variance,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_regularised_optimum,
    log_odds,
    log_sigmoid,
    masked_mean,
    masked_sum,
    moments,
    plackett_luce,
    win_probability,
)
from preflab.method.pairwise import Pair, Pairwise
from preflab.method.policy_gradient import PolicyGradient, TokenPolicyGradient
from preflab.sampling.best_of_n import BestOf, best_of_n_kl_bound, best_of_n_log_ratio, best_of_n_logps
from preflab.settings.fields import option
from preflab.settings.policy_gradient import ActorCriticConfig, PolicyGradientConfig, TokenPolicyGradientConfig
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig

if TYPE_CHECKING:
    from preflab.eval.python import compare, compare_scores, evaluate, score, train

__version__ = "0.1.0"

__all__ = [
    "KL_TARGET_METRICS",
    "POLICY_METRICS",
    "STD_EPSILON",
    "VALUE_METRICS",
    "ActorCriticConfig",
    "ActorCriticFeedback",
    "Algorithm",
    "Batch",
    "Behaviour",
    "BestOf",
    "DecoderMethod",
    "Feedback",
    "KnownOptimum",
    "Labels",
    "LoraSettings",
    "Loss",
    "LossMethod",
    "Mean",
    "Needs",
    "Pair",
    "Pairwise",
    "PolicyFeedback",
    "PolicyGradient",
    "PolicyGradientConfig",
    "Prepares",
    "Rollout",
    "RolloutConfig",
    "Scores",
    "TokenPolicyGradient",
    "TokenPolicyGradientConfig",
    "TrainConfig",
    "TrainerMethod",
    "UserError",
    "at_last_token",
    "behaviour",
    "best_of_n_kl_bound",
    "best_of_n_log_ratio",
    "best_of_n_logps",
    "bootstrapped_scores",
    "charged_rewards",
    "clipped_surrogate",
    "clipped_value_loss",
    "compare",
    "compare_scores",
    "discounted_advantages",
    "evaluate",
    "explained_variance",
    "importance_weighted",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalty",
    "kl_regularised_optimum",
    "log_odds",
    "log_sigmoid",
    "loss_per_unit",
    "masked_mean",
    "masked_sum",
    "mean_of",
    "mean_of_others",
    "moments",
    "next_kl_coefficient",
    "option",
    "plackett_luce",
    "policy_metrics",
    "policy_ratio",
    "response_scores",
    "score",
    "train",
    "unit_mask",
    "value_metrics",
    "whiten",
    "win_probability",
]

CALLS = ("compare", "compare_scores", "evaluate", "score", "train")
"""Names that stand on a floor above this one, and are fetched from there when they are first asked for (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name not in CALLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module("preflab.eval.python"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *CALLS})
