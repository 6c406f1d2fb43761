"""preflab: PPO, DPO and their kin behind one loss interface, L(x, {y1 … yk}, r), judged alike.

The names below are all that a method of your own needs; see docs/add_an_algorithm.md.
"""

from preflab.errors import UserError
from preflab.method.contract import (
    Algorithm,
    Batch,
    DecoderMethod,
    KnownOptimum,
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
from preflab.method.maths import (
    STD_EPSILON,
    at_last_token,
    discounted_advantages,
    explained_variance,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_regularised_optimum,
    log_odds,
    log_sigmoid,
    masked_mean,
    masked_sum,
    mean_of_others,
    moments,
    plackett_luce,
    sum_over_ranks,
    whiten,
    win_probability,
)
from preflab.method.pairwise import Pair, Pairwise
from preflab.method.policy_gradient import (
    PolicyGradient,
    PolicyGradientConfig,
    TokenPolicyGradient,
    TokenPolicyGradientConfig,
)
from preflab.sampling.best_of_n import BestOf, best_of_n_kl_bound, best_of_n_log_ratio, best_of_n_logps
from preflab.settings.fields import option
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig

__version__ = "0.1.0"

__all__ = [
    "STD_EPSILON",
    "Algorithm",
    "Batch",
    "BestOf",
    "DecoderMethod",
    "KnownOptimum",
    "LoraSettings",
    "Loss",
    "LossMethod",
    "Mean",
    "Needs",
    "Pair",
    "Pairwise",
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
    "best_of_n_kl_bound",
    "best_of_n_log_ratio",
    "best_of_n_logps",
    "discounted_advantages",
    "explained_variance",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_regularised_optimum",
    "log_odds",
    "log_sigmoid",
    "masked_mean",
    "masked_sum",
    "mean_of",
    "mean_of_others",
    "moments",
    "option",
    "plackett_luce",
    "sum_over_ranks",
    "unit_mask",
    "whiten",
    "win_probability",
]
